"""What is made from the tables of commands and flags: help, completions, manual page, reference."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise

import pytest

import cli_reference
import man_page
from wesher_agent.cli.command_table import COMMANDS, SHELLS, usage_of
from wesher_agent.cli.commands import _RUN, run
from wesher_agent.cli.completion import completion
from wesher_agent.cli.help import agent_parser, parser_of
from wesher_agent.flags import FLAGS, GROUPS
from wesher_common.errors import InvalidSpec

SECONDS = 30


@pytest.mark.parametrize("generator", [cli_reference, man_page], ids=lambda module: str(module.__name__))
def test_make_generate_changes_nothing(generator: object) -> None:
    text, file = generator.text, generator.FILE  # type: ignore[attr-defined]
    assert file.read_text() == text(), "run: make generate"


def test_every_command_of_the_table_does_something() -> None:
    assert [*COMMANDS] == [*_RUN]


def test_the_help_has_the_commands_first_then_the_flags_in_their_groups_then_an_example() -> None:
    text = agent_parser().format_help()
    headings = ["commands:", *(f"{group}:" for group in GROUPS), "other:", "example:", "exit codes:"]
    places = [re.search(f"^{heading}$", text, re.MULTILINE) for heading in headings]
    assert all(places), places
    assert all(a.start() < b.start() for a, b in pairwise(place for place in places if place))
    for word, command in COMMANDS.items():
        assert re.search(rf"^  {word} +{re.escape(command.summary)}$", text, re.MULTILINE)


@pytest.mark.parametrize("word", COMMANDS)
def test_the_help_of_a_command_has_its_usage_and_each_of_its_flags(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["help", word], {}) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {usage_of(word).replace('wesher agent', 'wesher [agent]')}\n")
    for option in COMMANDS[word].options:
        assert re.search(rf"^ .*{option.name}\b", text, re.MULTILINE)


def test_the_table_and_the_parser_of_a_command_have_the_same_flags() -> None:
    for word, command in COMMANDS.items():
        parsed = {name for action in parser_of(word)._actions for name in action.option_strings}
        hidden = {flag.name for flag in FLAGS if flag.hidden} if word == "agent" else set()
        listed = {name for option in command.options for name in option.names}
        assert parsed - hidden - {"-h", "--help", "--version"} == listed


@pytest.mark.parametrize("columns", ["20", "80", "500"])
def test_the_help_fits_any_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for word in COMMANDS:
        assert usage_of(word).split()[1] in parser_of(word).format_help()


def test_each_choice_is_one_that_the_flag_takes_and_its_error_spells_them_alike() -> None:
    for flag in FLAGS:
        for choice in flag.choices:
            flag.read(choice, flag.name)
        if flag.choices:
            with pytest.raises(InvalidSpec, match=f"must be one of {', '.join(flag.choices)}$"):
                flag.read("no such choice", flag.name)


def bash(*words: str) -> list[str]:
    """Return what bash offers for a command line; as when typed, it splits words at "="."""
    line = [part for word in words for part in re.split("(=)", word) if part or not word]
    script = f"""
        {completion("bash")}
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        compopt() {{ :; }}
        _wesher
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-euc", script, "bash", *line], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_flags_and_values() -> None:
    assert bash("wesher", "") == [*COMMANDS]
    assert bash("wesher", "me") == ["members"]
    assert bash("wesher", "--wireguard-") == ["--wireguard-port", "--wireguard-mode"]
    assert bash("wesher", "agent", "--join") == ["--join", "--join-file"]
    assert bash("wesher", "--log-level", "w") == ["warn", "warning"]
    assert bash("wesher", "--wireguard-mode=") == ["auto", "kernel", "userspace"]
    assert bash("wesher", "agent", "--wireguard-mode=k") == ["kernel"]
    assert bash("wesher", "members", "--t") == ["--tree"]
    assert bash("wesher", "members", "-o", "") == ["text", "json"]
    assert bash("wesher", "completion", "") == [*SHELLS]
    assert bash("wesher", "help", "pi") == ["ping"]
    assert "/etc/hosts" in bash("wesher", "agent", "--cluster-key-file", "/etc/host")
    assert "/etc/hosts" not in bash("wesher", "cleanup", "--state-dir", "/etc/host")
    assert bash("wesher", "ping", "") == []
    assert bash("wesher", "nonsense", "") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_has_every_command_and_flag_and_asks_no_agent(shell: str) -> None:
    text = completion(shell)
    for word, command in COMMANDS.items():
        assert re.search(rf"\b{word}\b", text)
        for option in command.options:
            assert f"--{option.name.lstrip('-')}" in text or f"-l {option.name.lstrip('-')}" in text
    # A shell expands what it is given as candidates, and other machines choose the names of members.
    assert "$(wesher" not in text
    assert "`wesher" not in text.replace(f"`wesher completion {shell}`", "")


def test_the_reference_has_a_rule_for_each_flag_whose_text_can_be_wrong() -> None:
    free = {flag.name for flag in FLAGS if not cli_reference.rule_of(flag)}
    files = {flag.name for flag in FLAGS if flag.metavar in {"FILE", "DIR"}}
    assert free == files


def test_no_line_of_the_manual_page_is_taken_for_an_unknown_request() -> None:
    requests = {line.split()[0] for line in man_page.text().splitlines() if line.startswith((".", "'"))}
    assert requests <= {'.\\"', ".TH", ".SH", ".SS", ".TP", ".B", ".I", ".br", ".PP", ".BR"}
    assert "\n\n" not in man_page.text()
