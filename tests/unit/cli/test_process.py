"""The installed command as a process: a closed output, a full one, Ctrl-C, an end before it has begun."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import pytest

from wesher_testing.agents.mounted_files import KUBECONFIG
from wesher_testing.agents.process import WESHER, wait_until
from wesher_testing.lab.loopback import free_port

SECONDS = 60


def run_into(output: BinaryIO, *words: str) -> subprocess.CompletedProcess[bytes]:
    # Buffered, as users have it: what cannot be written then shows at the end only.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [WESHER, *words], stdout=output, stderr=subprocess.PIPE, env=buffered, timeout=SECONDS, check=False
    )


@pytest.mark.parametrize("words", [["keygen"], ["--help"], ["--version"]])
def test_a_reader_that_has_seen_enough_is_no_error_to_speak_of(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = run_into(closed, *words)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_answer_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = run_into(full, "keygen")
    assert done.returncode == 1
    assert done.stderr == b"wesher: error: [Errno 28] No space left on device\n"


def test_ctrl_c_while_waiting_for_an_answer_ends_without_a_word(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "wg0.sock"))
        silent.listen()
        silent.settimeout(SECONDS)
        asking = subprocess.Popen([WESHER, "status", f"--run-dir={tmp_path}"], stderr=subprocess.PIPE)
        asked, _ = silent.accept()
        with asked:
            asking.send_signal(signal.SIGINT)
            _, said = asking.communicate(timeout=SECONDS)
    assert (asking.returncode, said) == (-signal.SIGINT, b"")


def test_a_command_without_its_libraries_says_how_to_get_them() -> None:
    """As where only kubectl's plugin was asked for: the same wheel brings this command too."""
    lacking = "import sys; sys.modules['cryptography'] = None; from wesher_agent.__main__ import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{lacking}; sys.exit(main())"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    said = "wesher: error: the library cryptography is missing: install wesher[agent]\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_an_agent_told_to_end_while_it_begins_ends_as_it_should_once_it_has_begun(tmp_path: Path) -> None:
    """Its mesh is gone by then, so it has a device to look for that an earlier run may have left."""
    begun: list[subprocess.Popen[str]] = []

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "weshernodes" in self.path:
                begun[0].send_signal(signal.SIGTERM)
            group, _, kind, name = self.path.split("/")[2:]
            details = {"group": group, "kind": kind, "name": name}
            self.send_response(404)
            self.end_headers()
            self.wfile.write(
                json.dumps({"kind": "Status", "reason": "NotFound", "details": details}).encode()
            )

    with HTTPServer(("127.0.0.1", 0), Asked) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        begun.append(
            subprocess.Popen(
                [WESHER, *_inside(tmp_path, server.server_port)], stderr=subprocess.PIPE, text=True
            )
        )
        _, said = begun[0].communicate(timeout=SECONDS)
        server.shutdown()
    assert begun[0].returncode == 0, said
    assert "agent ended left=true" in said


def test_a_signal_to_end_that_comes_while_modules_load_is_not_lost(tmp_path: Path) -> None:
    """It would be, on the first process of a container, which is asked to end once only."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        agent = subprocess.Popen(
            [WESHER, *_inside(tmp_path, server.server_port)], stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: _holds_back(agent.pid, signal.SIGTERM), deadline=SECONDS, what="it waits to load")
        agent.send_signal(signal.SIGTERM)
        _, said = agent.communicate(timeout=SECONDS)
        server.shutdown()
    assert agent.returncode == 0, said
    assert "agent ended left=false" in said


def _holds_back(pid: int, number: signal.Signals) -> bool:
    """Tell whether a process has blocked a signal (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (blocked,) = (line.split()[1] for line in lines if line.startswith("SigBlk:"))
    return bool(int(blocked, 16) >> (number - 1) & 1)


def _inside(directory: Path, api_port: int) -> list[str]:
    """Return the flags of an agent in Kubernetes, with files and a port of its own."""
    mesh = {
        "version": 1,
        "name": "m",
        "uid": "u-1",
        "overlayCIDR": "10.99.0.0/16",
        "gossip": {"port": free_port("0.0.0.0")},
        "wireguard": {"interface": "wgearly"},
    }
    (directory / "mesh.json").write_text(json.dumps(mesh))
    (directory / "cluster-key").write_text(base64.b64encode(bytes(32)).decode())
    (directory / "hosts").touch()
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{api_port}"}}
    (directory / "kubeconfig").write_text(json.dumps(KUBECONFIG | {"clusters": [cluster]}))
    return [
        "--log-level=info",
        "--node-name=a",
        f"--kubernetes={directory}",
        f"--kubeconfig={directory / 'kubeconfig'}",
        f"--hosts-file={directory / 'hosts'}",
        f"--state-dir={directory}",
        f"--run-dir={directory}",
    ]
