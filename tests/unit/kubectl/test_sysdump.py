"""What ``kubectl wesher sysdump`` leaves out of objects."""

from __future__ import annotations

import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kubernetes.client import ApiClient, Configuration

from wesher_operator.kubectl.reach import ApiServer
from wesher_operator.kubectl.sysdump import LEFT_OUT, without_secrets, write_sysdump

LOG = "2030-05-01 started\n\x1b]0;pwned\x07 FAKE\r\u202e done é\n"
POD = {"metadata": {"name": "agent-a"}, "status": {"containerStatuses": [{"name": "main"}]}}
DEPLOYMENT = {"metadata": {"name": "wesher-operator", "namespace": "vpn"}}


class Cluster(BaseHTTPRequestHandler):
    """One pod with one log, and the operator's Deployment."""

    def do_GET(self) -> None:
        """Answer with a log, or with a list."""
        path = self.path.partition("?")[0]
        last = path.rpartition("/")[2]
        items = {"items": {"pods": [POD], "deployments": [DEPLOYMENT]}.get(last, [])}
        body = (LOG if last == "log" else json.dumps(items)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


def test_a_log_with_terminal_escapes_is_kept_escaped_line_by_line(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Cluster) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host = f"http://127.0.0.1:{server.server_port}"
        try:
            with ApiClient(Configuration(host=host)) as client:
                write_sysdump(ApiServer(client), "", tmp_path / "dump.tar.gz")
        finally:
            server.shutdown()
            thread.join()
    with tarfile.open(tmp_path / "dump.tar.gz") as archive:
        kept = archive.extractfile("wesher-sysdump/logs/agent-a.main.txt")
        assert kept is not None
        shown = "2030-05-01 started\n\\u001b]0;pwned\\u0007 FAKE\\r\\u202e done é\n"
        assert kept.read().decode() == shown


def test_values_that_users_gave_to_containers_are_left_out_and_ours_stay() -> None:
    env: list[dict[str, Any]] = [
        {"name": "HTTPS_PROXY", "value": "http://me:secret@proxy"},
        {"name": "WESHER_LOG_LEVEL", "value": "info"},
        {"name": "WESHER_CLUSTER_KEY", "value": "secret"},
        {"name": "WESHER_AGENT_PODS", "value": '{"extraEnv": [{"value": "secret"}]}'},
        {"name": "WESHER_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ]
    (shown,) = without_secrets([{"spec": {"containers": [{"env": env}]}}])
    kept = {entry["name"]: entry.get("value", "") for entry in shown["spec"]["containers"][0]["env"]}
    assert kept == {
        "HTTPS_PROXY": LEFT_OUT,
        "WESHER_LOG_LEVEL": "info",
        "WESHER_CLUSTER_KEY": LEFT_OUT,
        "WESHER_AGENT_PODS": LEFT_OUT,
        "WESHER_NODE_NAME": "",
    }


def test_copies_of_an_object_inside_itself_are_left_out() -> None:
    metadata = {
        "name": "x",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "secret", "a": "b"},
        "managedFields": ["secret"],
    }
    assert without_secrets({"metadata": metadata}) == {"metadata": {"name": "x", "annotations": {"a": "b"}}}
