"""What the command says about itself being used wrongly: one line, and exit code 2."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from wesher_common.version import VERSION
from wesher_operator.__main__ import main
from wesher_operator.agent_pods import AgentPods
from wesher_operator.options import _COMMANDS, _RUN, RunOptions, parse_options
from wesher_testing.agents.mounted_files import KUBECONFIG

INSTALLED = ["--agent-image=x", "--namespace=n"]
SIGNED = ["--seed-file=s", "--news-file=n"]
BAD_VARIABLES: list[tuple[str, str, str]] = [
    ("WESHER_LOG_LEVEL", "loud", "'loud': must be one of debug, info, warning, error"),
    ("WESHER_LOG_FORMAT", "xml", "'xml': must be one of text, json"),
    ("WESHER_AGENT_LOG_LEVEL", "loud", "'loud': must be one of debug, info, warning, error"),
    ("WESHER_AGENT_IMAGE_PULL_POLICY", "Maybe", "'Maybe': must be one of Always, IfNotPresent, Never"),
    ("WESHER_AGENT_PODS", '{"dnsPolicy": "Sometimes"}', "dnsPolicy: Input should be 'Default', "),
    ("WESHER_MANAGE_CRDS", "perhaps", "'perhaps': must be one of true, false"),
    ("WESHER_HEALTH_PORT", "http", "'http': must be a whole number from 0 to 65535"),
]
BAD: list[tuple[list[str], str]] = [
    ([], "command: is missing: see wesher-operator --help"),
    (["walk"], "command: invalid choice: 'walk'"),
    (["run", "--colour=red"], "unrecognized arguments: --colour=red"),
    (["run", "--agent-im=x"], "unrecognized arguments: --agent-im=x"),
    (["run", "--namespace"], "--namespace: expected one argument"),
    (["run"], "--agent-image: is required, or set WESHER_AGENT_IMAGE"),
    (["run", "--agent-image=x"], "--namespace: is required outside a pod"),
    (["run", *INSTALLED], "--kubeconfig: is required outside a pod"),
    (
        ["run", *INSTALLED, "--kubeconfig=/nonexistent/config"],
        "--kubeconfig '/nonexistent/config': cannot be used: ",
    ),
    (["run", *INSTALLED, "--log-level=quiet"], "--log-level 'quiet': must be one of debug, info, warning, "),
    (["run", *INSTALLED, "--log-format=xml"], "--log-format 'xml': must be one of text, json"),
    (["run", *INSTALLED, "--agent-log-level="], "--agent-log-level '': must be one of debug, info, "),
    (["run", *INSTALLED, "--agent-image-pull-policy=No"], "--agent-image-pull-policy 'No': must be one of "),
    (
        ["run", *INSTALLED, '--agent-pods={"colour": "red"}'],
        "--agent-pods colour: Extra inputs are not permitted",
    ),
    (["run", *INSTALLED, "--manage-crds=perhaps"], "--manage-crds 'perhaps': must be one of true, false"),
    (["run", *INSTALLED, "--health-port=65536"], "--health-port '65536': must be a whole number from 0 to "),
    (["uninstall", "--namespace=n"], "--release: is required, or set WESHER_RELEASE"),
    (["uninstall", "--release=r", "--timeout=soon"], "--timeout 'soon': must be a whole number from 0 to "),
    (["uninstall", "--release=r", "--hook-job=a/b"], "--hook-job 'a/b': must be the name of a Job"),
    (["check", "--namespace=n"], "--mesh: is required, or set WESHER_MESH"),
    (["check", "--mesh=m", "--timeout=-1"], "--timeout '-1': must be a whole number from 0 to "),
    (["sign-revocation"], "--seed-file: is required, or set WESHER_SEED_FILE"),
    (["sign-revocation", "--seed-file=s"], "--news-file: is required, or set WESHER_NEWS_FILE"),
    (["sign-revocation", *SIGNED, "--names=a,,b"], "--names '': must be member names, separated by commas"),
    (["sign-revocation", *SIGNED, "--names=a b"], "--names 'a b': must be member names, separated by commas"),
    (["sign-revocation", *SIGNED, "--names=a"], "--output: is required, or set WESHER_OUTPUT"),
]


@pytest.fixture
def complaint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[str]], str]:
    """Return what runs the command, outside a pod, and returns the line with which it refuses."""
    for variable in [name for name in os.environ if name.startswith(("WESHER_", "KUBE"))]:
        monkeypatch.delenv(variable)

    def run(arguments: list[str]) -> str:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_the_version_and_the_help_exit_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (["--version"], f"wesher-operator {VERSION}\n"),
        (["--help"], "--version"),
        (["run", "-h"], "--agent-image IMAGE"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert says in capsys.readouterr().out


def test_every_flag_has_a_bad_value_above() -> None:
    tried = {says.partition(":")[0].split()[0] for _, says in BAD}
    for flags, _ in _COMMANDS.values():
        assert {flag.name for flag in flags} - tried == set()
    # Of the others, any text is a path or a name.
    checked = {flag.variable for flag in _RUN if flag.choices} | {"WESHER_AGENT_PODS", "WESHER_HEALTH_PORT"}
    assert {variable for variable, _, _ in BAD_VARIABLES} == checked


@pytest.mark.parametrize(("arguments", "says"), BAD)
def test_a_bad_flag_is_told_in_one_line(
    arguments: list[str], says: str, complaint: Callable[[list[str]], str]
) -> None:
    assert complaint(arguments).startswith(f"wesher-operator: {says}")


GOOD = json.dumps(KUBECONFIG)
WITHOUT_CERTIFICATE = GOOD.replace(
    '"server": "http:', '"certificate-authority-data": "bm9uZQ==", "server": "https:'
)


@pytest.mark.parametrize("content", ["", "{", "contexts: 5\n", WITHOUT_CERTIFICATE])
def test_a_broken_kubeconfig_is_told_in_one_line(
    content: str, tmp_path: Path, complaint: Callable[[list[str]], str]
) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    said = complaint(["run", *INSTALLED, f"--kubeconfig={path}"])
    assert said.startswith(f"wesher-operator: --kubeconfig '{path}': cannot be used: ")


def test_a_health_port_that_is_taken_is_told_in_one_line(
    tmp_path: Path, complaint: Callable[[list[str]], str]
) -> None:
    path = tmp_path / "config"
    path.write_text(GOOD)
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        port = holder.getsockname()[1]
        said = complaint(["run", *INSTALLED, f"--kubeconfig={path}", f"--health-port={port}"])
    assert said.startswith(f"wesher-operator: --health-port '{port}': cannot listen on this port: ")


@pytest.mark.parametrize(("variable", "value", "says"), BAD_VARIABLES)
def test_a_bad_variable_is_told_in_one_line_by_its_name(
    variable: str,
    value: str,
    says: str,
    complaint: Callable[[list[str]], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    assert complaint(["run", *INSTALLED]).startswith(f"wesher-operator: {variable} {says}")


def test_a_flag_beats_its_variable_and_an_empty_variable_says_nothing() -> None:
    environ = {"WESHER_AGENT_IMAGE": "variable", "WESHER_NAMESPACE": "", "KUBECONFIG": "/k"}
    options = parse_options(["run", "--agent-image=flag"], environ, "pod")
    assert options == RunOptions(
        kubeconfig=Path("/k"),
        namespace="pod",
        agent_image="flag",
        agent_image_pull_policy="IfNotPresent",
        agent_log_level="info",
        log_level="info",
        log_format="text",
        agent_pods=AgentPods(),
        manage_crds=True,
        health_port=0,
    )


def test_choices_do_not_care_about_capitals() -> None:
    flags = [flag for flag in _RUN if flag.choices]
    assert len(flags) >= 5
    for flag in flags:
        for choice in flag.choices:
            for text in (choice.lower(), choice.upper(), choice.capitalize()):
                written = {flag.variable: text, "WESHER_AGENT_IMAGE": "x"}
                by_variable = parse_options(["run"], written, "pod")
                by_flag = parse_options(["run", "--agent-image=x", f"{flag.name}={text}"], {}, "pod")
                meant = choice == "true" if flag.attribute == "manage_crds" else choice
                assert getattr(by_variable, flag.attribute) == getattr(by_flag, flag.attribute) == meant
