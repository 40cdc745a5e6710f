"""Every flag and its variable with a value that breaks its rule: one line, exit code 1.

`BAD` is keyed by flag, and a test compares it with the parser, so that a new flag
without a bad value fails here.
"""

from __future__ import annotations

import pytest

from wesher_agent.cli.commands import run
from wesher_agent.flags import FLAGS, find_flag

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
SHORT_KEY = "c2hvcnQ="

BAD: dict[str, list[tuple[list[str], str]]] = {
    # flag: the further words it is tried with after its bad value, and what the line must say
    "--cluster-key": [
        (["not base64!"], "--cluster-key: must be standard base64"),
        ([SHORT_KEY], "--cluster-key: must decode to exactly 32 bytes, not 5"),
    ],
    "--cluster-key-file": [
        (["/k", "--cluster-key", KEY], "--cluster-key-file: cannot be combined with --cluster-key"),
    ],
    "--join": [
        (["a b"], "--join 'a b': must be a host name or IP address"),
        (["http://x"], "--join 'http://x': a seed is not a URL: it must be a host name or IP address"),
        (["a,user@b"], "--join 'user@b': must be a host name or IP address"),
        ([" , "], "--join ' , ': names no member"),
        (["a:0"], "--join 'a:0': the port must be a number from 1 to 65535"),
        (["ok,1.2.3.400"], "--join '1.2.3.400': must be a host name or IP address"),
        (["fe80::1]:1"], "--join 'fe80::1]:1': must be a host name or IP address"),
    ],
    "--join-file": [(["/f", "--init"], "--init: cannot be combined with ")],
    "--authority": [
        (["x"], "--authority: must be standard base64 of 32 bytes"),
        ([SHORT_KEY], "--authority: must decode to exactly 32 bytes, not 5"),
    ],
    "--init": [(["maybe"], "--init 'maybe': must be true, 1, yes, false, 0 or no")],
    "--bind-addr": [(["eth0"], "--bind-addr 'eth0': must be an IP address")],
    "--bind-iface": [
        (["a/b"], "--bind-iface 'a/b': must be 1 to 15 bytes without spaces, '/', ':' or '%'"),
        (["eth0", "--bind-addr", "10.0.0.1"], "--bind-iface: cannot be combined with --bind-addr"),
    ],
    "--advertise-addr": [
        (["example"], "--advertise-addr 'example': must be an IP address"),
        (["0.0.0.0"], "--advertise-addr '0.0.0.0': must be an address that other members can dial"),
        (["ff02::1"], "--advertise-addr 'ff02::1': must be an address that other members can dial"),
    ],
    "--cluster-port": [
        (["http"], "--cluster-port 'http': must be a whole number from 1 to 65535"),
        (["9" * 5000], "must be a whole number from 1 to 65535"),
        (["0"], "--cluster-port '0': must be a whole number from 1 to 65535"),
        (["51820"], "--cluster-port '51820': the gossip and WireGuard ports must differ"),
    ],
    "--wireguard-port": [
        (["65536"], "--wireguard-port '65536': must be a whole number from 1 to 65535"),
        (["7946"], "--wireguard-port '7946': the gossip and WireGuard ports must differ"),
    ],
    "--overlay-net": [
        (["10.0.0.0"], "--overlay-net '10.0.0.0': must be a network such as 10.0.0.0/8"),
        (["10.0.0.0/33"], "--overlay-net '10.0.0.0/33': must be a network such as 10.0.0.0/8"),
        (["10.0.0.0/9"], "the prefix length must be a multiple of 8, not 9"),
        (["2001:db8::/33"], "the prefix length must be a multiple of 8, not 33"),
        (["0.0.0.0/0"], "the prefix length must be a multiple of 8, not 0"),
    ],
    "--health-port": [(["x"], "--health-port 'x': must be a whole number from 1 to 65535, or 0 for none")],
    "--interface": [(["a-name-too-long-"], "--interface 'a-name-too-long-': must be 1 to 15 bytes")],
    "--no-etc-hosts": [(["perhaps"], "--no-etc-hosts 'perhaps': must be true, 1, yes, false, 0 or no")],
    "--log-level": [(["loud"], "--log-level 'loud': must be one of panic, fatal, error, warn")],
    "--log-format": [(["xml"], "--log-format 'xml': must be one of text, json")],
    "--ip-as-name": [
        (["2"], "--ip-as-name '2': must be true, 1, yes, false, 0 or no"),
        (["yes", "--bind-addr", "fd00::1"], "--ip-as-name: an IPv6 address cannot be a name"),
    ],
    "--node-name": [(["a b"], "--node-name 'a b': must be DNS labels joined by dots")],
    "--gossip-profile": [(["slow"], "--gossip-profile 'slow': must be one of LAN, WAN")],
    "--label": [(["x" * 256], "must be at most 255 bytes")],
    "--wireguard-mode": [(["none"], "--wireguard-mode 'none': must be one of auto, kernel, userspace")],
    "--mtu": [
        (["1279"], "--mtu '1279': must be a whole number from 1280 to 65535, or 0"),
        (["-1"], "--mtu '-1': must be a whole number from 1280 to 65535, or 0"),
    ],
    "--unreachable-route": [(["maybe"], "--unreachable-route 'maybe': must be one of auto, on, off")],
    "--forget-after": [
        (["1 day"], "--forget-after '1 day': must be a duration above zero such as 24h"),
        (["9" * 5000 + "h"], "must be a duration above zero such as 24h"),
        (["0s"], "--forget-after '0s': must be a duration above zero such as 24h"),
    ],
    "--leave-on-exit": [(["never"], "--leave-on-exit 'never': must be true, 1, yes, false, 0 or no")],
    "--kubernetes": [
        (
            ["/etc/wesher", "--join", "a"],
            "--join: cannot be combined with --kubernetes, where the WesherMesh",
        ),
        (
            ["/etc/wesher", "--overlay-net", "10.0.0.0/8"],
            "--overlay-net: cannot be combined with --kubernetes",
        ),
        (
            ["/etc/wesher", "--cluster-key", KEY],
            "--cluster-key: cannot be combined with --kubernetes, where the key",
        ),
        (["/etc/wesher", "--init"], "--init: cannot be combined with --kubernetes, where the key comes"),
    ],
    "--kubeconfig": [(["/config"], "--kubeconfig: needs --kubernetes")],
}

# Any text is a path or a program's name; what stands there is looked at when it is used.
ANY_TEXT = {"--hosts-file", "--state-dir", "--run-dir", "--userspace-binary"}

CASES = [(flag, words, line) for flag, cases in BAD.items() for words, line in cases]


def test_every_flag_has_a_bad_value_here_or_takes_any_text() -> None:
    assert {flag.name for flag in FLAGS} == BAD.keys() | ANY_TEXT
    assert not BAD.keys() & ANY_TEXT


@pytest.mark.parametrize(("flag", "words", "line"), CASES, ids=lambda value: str(value)[:40])
def test_a_bad_value_of_a_flag_is_one_line_and_exit_code_1(
    flag: str, words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([f"{flag}={words[0]}", *words[1:]], {}) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("wesher: error: ")
    assert shown.err.count("\n") == 1
    assert line in shown.err


@pytest.mark.parametrize(("flag", "words", "line"), CASES, ids=lambda value: str(value)[:40])
def test_a_bad_value_of_a_variable_is_one_line_that_names_the_variable(
    flag: str, words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    variable = find_flag(flag).variable
    assert run(words[1:], {variable: words[0]}) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    named = variable if line.startswith((f"{flag} ", f"{flag}:")) else ""
    assert line.replace(flag, named, 1) in err if named else line in err


@pytest.mark.parametrize("flag", [flag.name for flag in FLAGS if not flag.switch])
def test_a_flag_without_its_value_is_one_line_and_exit_code_1(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([flag], {}) == 1
    assert capsys.readouterr().err == f"wesher: error: {flag}: expected one argument\n"


def test_a_bad_cluster_key_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--cluster-key", SHORT_KEY], {})
    run([], {"WESHER_CLUSTER_KEY": SHORT_KEY})
    run([f"--cluster_key={SHORT_KEY}"], {})
    assert SHORT_KEY not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--no-such-flag"], "wesher: error: --no-such-flag: unknown flag: see wesher --help\n"),
        (
            ["--cluster-por", "1"],
            "wesher: error: --cluster-por: unknown flag: did you mean --cluster-port?\n",
        ),
        (["--verison"], "wesher: error: --verison: unknown flag: did you mean --version?\n"),
        (["staus"], "wesher: error: command 'staus': unknown command: did you mean status?\n"),
        (["xyzzy"], "wesher: error: command 'xyzzy': unknown command: see wesher --help\n"),
        (["help", "member"], "wesher: error: COMMAND 'member': unknown command: did you mean members?\n"),
        (["completion"], "wesher: error: SHELL: is missing: see wesher completion --help\n"),
        (["completion", "csh"], "wesher: error: SHELL 'csh': must be one of bash, zsh, fish\n"),
        (
            ["members", "--state=gone"],
            "wesher: error: --state 'gone': must be one of alive, suspect, failed, left\n",
        ),
        (["status", "--watch"], "wesher: error: --watch: needs a terminal: repeat the command instead\n"),
        (
            ["members", "--watch", "-o", "json"],
            "wesher: error: --watch: cannot be combined with --output json\n",
        ),
        (["agent", "stray"], "wesher: error: stray: unexpected argument\n"),
        (
            ["status", "--overlay-net", "10.0.0.0/8"],
            "wesher: error: --overlay-net: unknown flag: see wesher status --help\n",
        ),
        (["members", "-o", "yaml"], "wesher: error: --output 'yaml': must be one of text, json\n"),
        (["status", "--check=5"], "wesher: error: --check: takes no value\n"),
        (["keygen", "--bits", "5"], "wesher: error: --bits: unknown flag: see wesher keygen --help\n"),
    ],
)
def test_what_is_no_command_line_at_all_is_one_line_and_exit_code_1(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words, {}) == 1
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("command", ["status", "members", "leave"])
def test_a_bad_value_of_a_question_to_the_agent_is_one_line_and_exit_code_1(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "'a/b': must be 1 to 15 bytes without spaces, '/', ':' or '%'"
    for words, environ, line in (
        (["--interface=a/b"], {}, f"--interface {rule}"),
        ([], {"WESHER_INTERFACE": "a/b"}, f"WESHER_INTERFACE {rule}"),
        (["--output=yaml"], {}, "--output 'yaml': must be one of text, json"),
        (["--run-dir=/nonexistent"], {}, "no agent is running: no control socket in /nonexistent"),
        ([], {"WESHER_RUN_DIR": "/nonexistent"}, "no agent is running: no control socket in /nonexistent"),
    ):
        assert run([command, *words], environ) == 1
        assert capsys.readouterr() == ("", f"wesher: error: {line}\n")
