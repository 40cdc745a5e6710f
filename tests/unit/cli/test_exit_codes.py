"""Each exit code that `docs/reference/exit-codes.md` documents is one with which its command ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from wesher_agent.cli.command_table import COMMANDS, SHELLS
from wesher_agent.cli.commands import run
from wesher_agent.cli.exit_codes import EXIT_CODES, exit_code_help
from wesher_agent.cli.help import agent_parser
from wesher_agent.control import ControlServer, socket_path
from wesher_common.keys import WireGuardPublicKey
from wesher_operator import __main__ as operator
from wesher_operator.exit_codes import OPERATOR, PLUGIN
from wesher_operator.exit_codes import exit_code_help as operator_exit_code_help
from wesher_operator.kubectl import commands as plugin
from wesher_testing.agents.mounted_files import KUBECONFIG
from wesher_testing.agents.process import agent_without_device

REPOSITORY = Path(__file__).parents[3]
PROGRAMS = {"wesher": EXIT_CODES, "kubectl wesher": PLUGIN, "wesher-operator": OPERATOR}
SECONDS = 60
BY_REAL_CLUSTERS = {
    ("kubectl wesher status", 0): "test_kubectl_plugin.py::test_status_of_a_mesh_that_is_well_ends_with_0",
    (
        "kubectl wesher doctor",
        0,
    ): "test_kubectl_plugin.py::test_the_doctor_finds_nothing_wrong_where_nothing_is",
    (
        "kubectl wesher join-command",
        0,
    ): "test_kubectl_plugin.py::test_the_join_command_is_one_the_agent_takes_and_says_what_the_mesh_says",
    (
        "kubectl wesher sysdump",
        0,
    ): "test_kubectl_plugin.py::test_a_sysdump_holds_objects_and_no_secret_and_reads_none",
    (
        "kubectl wesher admit",
        0,
    ): "test_new_authority.py::test_a_changed_key_is_certified_after_admit_and_no_agent_can_admit_one",
    (
        "kubectl wesher authority",
        0,
    ): "test_new_authority.py::test_one_authority_replaces_another_"
    "though_the_operator_is_killed_in_each_phase",
    ("kubectl wesher new-authority", 0): "test_new_authority.py::test_a_stolen_authority_is_dropped_at_once",
    ("kubectl wesher invite", 0): "test_peers.py::test_an_invite_admits_one_key_and_no_second",
    ("kubectl wesher revoke", 0): "test_peers.py::test_one_command_revokes_a_machine",
    (
        "wesher-operator sign-revocation",
        0,
    ): "test_revocation.py::test_what_is_signed_offline_is_taken_over_and_a_lie_of_an_agent_is_not",
    ("wesher-operator run", 0): "test_leadership.py::test_a_leader_that_is_told_to_stop_hands_over_at_once",
    (
        "wesher-operator run",
        3,
    ): "test_leadership.py::test_a_leader_that_was_paused_past_its_lease_writes_nothing_more_and_ends",
    (
        "wesher-operator check",
        0,
    ): "test_errands.py::test_a_check_says_what_hinders_a_mesh_and_ends_well_once_nothing_does",
}
"""Codes that take an API server, with the tests of ``tests/apiserver`` that see them."""
BY_A_REAL_TUNNEL = "test_first_contact.py::test_a_ping_goes_through_the_tunnel_and_says_why_none_comes_back"
"""What sees 0 and 1 of ``wesher ping``."""
HERE = {
    *(("wesher " + word, code) for word in COMMANDS for code in (0, 1)),
    ("wesher ping", 2),
    *((f"kubectl wesher {word}", code) for word in plugin._COMMANDS for code in (1, 2)),
    *((f"wesher-operator {word}", 2) for word in OPERATOR),
    ("wesher-operator run", 1),
    ("wesher-operator check", 1),
    ("wesher-operator uninstall", 0),
}
"""Codes that the tests below see."""


def rows() -> Iterator[tuple[str, int, str]]:
    """Yield command, code and meaning of everything that is documented."""
    for program, commands in PROGRAMS.items():
        for command, codes in commands.items():
            for code, meaning in codes.items():
                yield f"{program} {command}", code, meaning


def test_each_command_has_its_codes() -> None:
    assert EXIT_CODES.keys() == COMMANDS.keys()
    assert PLUGIN.keys() == plugin._COMMANDS.keys()
    assert agent_parser().format_help().endswith(exit_code_help("agent") + "\n")


def test_each_signal_that_ends_a_process_in_order_is_documented() -> None:
    """`agent/test_signals.py` and `unit/operator_command/test_signals.py` send them."""
    ends = {command: meaning for command, code, meaning in rows() if code == 0}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert number.name in ends["wesher agent"]
        assert number.name in ends["wesher-operator run"]


@pytest.mark.parametrize("command", [word for word in COMMANDS if word != "agent"])
def test_the_help_of_each_command_ends_with_its_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run([command, "--help"], {})
    assert ended.value.code == 0
    assert capsys.readouterr().out.endswith(exit_code_help(command) + "\n")


@pytest.mark.parametrize("command", PLUGIN)
def test_the_help_of_each_command_of_the_plugin_ends_with_its_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        plugin.main([command, "--help"])
    assert capsys.readouterr().out.endswith(operator_exit_code_help(PLUGIN[command]) + "\n")


@pytest.mark.parametrize("command", OPERATOR)
def test_the_help_of_each_command_of_the_operator_ends_with_its_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        operator.main([command, "--help"])
    assert capsys.readouterr().out.endswith(operator_exit_code_help(OPERATOR[command]) + "\n")


def test_every_documented_code_is_seen_by_a_test() -> None:
    assert {(command, code) for command, code, _ in rows()} == HERE | BY_REAL_CLUSTERS.keys()
    for test in BY_REAL_CLUSTERS.values():
        file, _, name = test.partition("::")
        assert f"def {name}(" in (REPOSITORY / "tests/apiserver" / file).read_text()
    file, _, name = BY_A_REAL_TUNNEL.partition("::")
    assert f"def {name}(" in (REPOSITORY / "tests/agent" / file).read_text()


@pytest.fixture
async def run_dir(tmp_path: Path) -> AsyncIterator[Path]:
    """Return the directory of an agent that answers that this host is in the mesh."""

    async def status() -> dict[str, object]:
        return {"conditions": []}

    async def members() -> list[dict[str, object]]:
        return [{"name": "a"}]

    async def add_news(_data: bytes) -> dict[str, object]:
        return {"number": 1, "names": 2, "isNew": True}

    commands = {"status": status, "members": members}
    server = ControlServer(socket_path(tmp_path, "wg0"), commands, {"news-add": add_news})
    await server.start()
    yield tmp_path
    await server.close()


async def test_revocations_that_the_agent_takes_end_with_0(run_dir: Path) -> None:
    (run_dir / "statement").write_bytes(b"")
    words = ["news", "add", str(run_dir / "statement"), f"--run-dir={run_dir}"]
    assert await asyncio.to_thread(run, words, {}) == 0


async def test_a_check_of_a_host_in_the_mesh_ends_with_0(run_dir: Path) -> None:
    assert await asyncio.to_thread(run, ["status", "--check", f"--run-dir={run_dir}"], {}) == 0


@pytest.mark.parametrize(("command", "lacks"), [("status", "wireguard"), ("members", "state")])
async def test_an_agent_that_was_started_before_an_upgrade_is_named(
    run_dir: Path, command: str, lacks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(run, [command, f"--run-dir={run_dir}"], {}) == 1
    assert capsys.readouterr().err == (
        f"wesher: error: the agent runs another release, which does not report '{lacks}': "
        "restart it, or use --output=json\n"
    )
    assert await asyncio.to_thread(run, [command, f"--run-dir={run_dir}", "--output=json"], {}) == 0


def test_an_agent_and_the_commands_that_it_answers_end_with_0(tmp_path: Path) -> None:
    asked = [f"--run-dir={tmp_path}"]
    with agent_without_device(tmp_path, f"wg{os.getpid()}x") as agent:
        assert run(["status", *asked], {}) == 0, "it is not ready"
        assert run(["members", *asked], {}) == 0
        assert run(["join-command", *asked], {}) == 0
        assert run(["key", *asked], {}) == 0
        assert run(["ping", "nobody", *asked], {}) == 2
        assert run(["status", "--check", *asked], {}) == 1, "it has no device"
        assert run(["leave", *asked], {}) == 0
        assert agent.wait(SECONDS) == 0
    with agent_without_device(tmp_path, f"wg{os.getpid()}y") as agent:
        assert run(["rekey", *asked], {}) == 0
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(SECONDS) == 0
    assert run(["keygen"], {}) == 0


@pytest.mark.parametrize("command", [[], *([word] for word in COMMANDS)], ids=str)
def test_a_flag_that_is_invalid_ends_each_command_of_wesher_with_1_and_ping_with_2(
    command: list[str],
) -> None:
    assert run([*command, "--no-such-flag"], {}) == (2 if command == ["ping"] else 1)


@pytest.mark.parametrize("command", ["status", "members", "join-command", "key", "rekey", "leave"])
def test_a_command_that_no_agent_answers_ends_with_1(command: str, tmp_path: Path) -> None:
    assert run([command, f"--run-dir={tmp_path}"], {}) == 1


def test_a_ping_that_no_agent_answers_ends_with_2(tmp_path: Path) -> None:
    assert run(["ping", "b", f"--run-dir={tmp_path}"], {}) == 2


@pytest.mark.parametrize("words", [["help"], ["version"], *(["completion", shell] for shell in SHELLS)])
def test_what_needs_no_agent_ends_with_0(words: list[str]) -> None:
    assert run(words, {}) == 0


@pytest.fixture
def no_cluster(tmp_path: Path) -> str:
    """Return a kubeconfig of an API server that does not answer."""
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(KUBECONFIG))
    return f"--kubeconfig={path}"


NEEDED = {"admit": ["a", f"--key={WireGuardPublicKey(bytes(range(32)))}"], "invite": ["a"], "revoke": ["a"]}
"""The arguments without which a command of the plugin does not begin."""


@pytest.mark.parametrize("command", plugin._COMMANDS)
def test_the_plugin_ends_with_1_without_an_api_server_and_with_2_for_an_invalid_flag(
    command: str, no_cluster: str
) -> None:
    assert plugin.main([command, *NEEDED.get(command, []), no_cluster]) == 1
    assert plugin.main([command, "--no-such-flag"]) == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "--no-such-flag"], 2),
        (["check", "--no-such-flag"], 2),
        (["uninstall", "--no-such-flag"], 2),
        (["sign-revocation", "--no-such-flag"], 2),
        (["check", "--mesh=m", "--timeout=1"], 1),
        (["uninstall", "--release=r", "--timeout=1"], 0),
    ],
    ids=str,
)
def test_the_operator_ends_with_the_code_that_is_documented(
    words: list[str], code: int, no_cluster: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        operator.main([*words, "--namespace=n", no_cluster])
    assert ended.value.code == code


class _Forbids(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(
            {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "forbidden"}
        ).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


def test_an_operator_that_the_api_server_refuses_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "_PATIENCE_SECONDS", 0.0)
    with HTTPServer(("127.0.0.1", 0), _Forbids) as api:
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.server_port}"}}
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(KUBECONFIG | {"clusters": [cluster]}))
        Thread(target=api.serve_forever, daemon=True).start()
        with pytest.raises(SystemExit) as ended:
            operator.main(
                ["run", "--agent-image=x", "--namespace=n", f"--kubeconfig={path}", "--manage-crds=false"]
            )
        api.shutdown()
    assert ended.value.code == 1
