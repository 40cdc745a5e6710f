"""An agent that is asked to end before it has begun."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from wesher_testing.agents.mounted_files import KUBECONFIG
from wesher_testing.agents.process import WESHER, wait_until
from wesher_testing.lab.loopback import free_port

pytestmark = pytest.mark.needs_root

SECONDS = 60


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
