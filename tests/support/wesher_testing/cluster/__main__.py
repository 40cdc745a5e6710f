"""The commands behind ``make cluster`` and ``make cluster-down``: a cluster that stays up between them.

A process in the background holds the cluster as a test would, and takes it away when it
is told to end; ``up`` and ``down`` find it by the file in which it wrote its pid.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from wesher_testing.cluster.api_server import ApiServer, ApiServerFailed, KubectlFailed
from wesher_testing.cluster.helm import HelmFailed, helm
from wesher_testing.cluster.image import wesher_image
from wesher_testing.cluster.installation import NAMESPACE, Mesh, install
from wesher_testing.cluster.kubelets import ClusterFailed, cluster
from wesher_testing.lab import port_forward
from wesher_testing.lab.namespaces import CommandFailed, Host
from wesher_testing.run import toolbox
from wesher_testing.run.cache import cache_dir, hand_back, report

_FAILURES = (
    ApiServerFailed,
    ClusterFailed,
    CommandFailed,
    HelmFailed,
    KubectlFailed,
    toolbox.ToolUnavailable,
)
_MOST_NODES = 9
_PATIENCE = 60.0
"""Seconds in which a cluster must be gone once told; it takes about three."""


def main(arguments: list[str]) -> int:
    """Carry out one command; return the exit status."""
    commands = {"up": _up, "down": _down, "hold": _hold}
    if len(arguments) != 1 or arguments[0] not in commands:
        print("usage: cluster up|down", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        passed = [f"NODES={os.environ['NODES']}"] if os.environ.get("NODES") else []
        command = toolbox.as_root(
            ["env", *passed, sys.executable, "-m", "wesher_testing.cluster", *arguments]
        )
        os.execv(command[0], command)  # noqa: S606 - the words are ours
    _place().mkdir(parents=True, exist_ok=True)
    return commands[arguments[0]]()


def _up() -> int:
    if _holder() is not None:
        print(f"a cluster is up already; {_how_to_go_on()}")
        return 0
    log, began = _place() / "log", time.monotonic()
    with log.open("wb") as words:
        holder = subprocess.Popen(
            [sys.executable, "-m", "wesher_testing.cluster", "hold"],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
    try:
        is_up = _follow(holder, log)
    except BaseException:
        holder.terminate()
        holder.wait(timeout=_PATIENCE)
        raise
    if is_up:
        print(f"the cluster is up after {time.monotonic() - began:.0f} s\n{_how_to_go_on()}")
    return 0 if is_up else 1


def _follow(holder: subprocess.Popen[bytes], log: Path) -> bool:
    """Show what the holder says until the cluster is up or the holder has ended; tell which."""
    with log.open() as words:
        while True:
            ended, is_up = holder.poll() is not None, _holder() is not None
            sys.stderr.write(words.read())
            if ended or is_up:
                return is_up
            time.sleep(0.2)


def _hold() -> int:
    """Hold a cluster until SIGTERM; its pid is in the file once it is there."""
    # So that the end unwinds like an end by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    number = os.environ.get("NODES") or "3"
    if not (number.isdecimal() and 1 <= int(number) <= _MOST_NODES):
        print(f"NODES {number!r}: must be a number from 1 to {_MOST_NODES}", file=sys.stderr)
        return 2
    pid, kubeconfig = _place() / "pid", _place() / "kubeconfig"
    try:
        image = wesher_image()
        names = [f"node-{index}" for index in range(1, int(number) + 1)]
        helm(3)
        with cluster(*names, images=[image]) as made, _door(made.control_plane, made.api) as url:
            _write_kubeconfig(kubeconfig, made.api, url)
            print(made.api.kubectl("get", "nodes", "-o", "wide"))
            print(f"every node holds image {image.name}", flush=True)
            report("installing the chart: helm install wesher charts/wesher")
            install(made, image)
            Mesh(made).wait_until_ready()
            print(made.api.kubectl("get", "wesher,pods", "--all-namespaces", "-o", "wide"), flush=True)
            pid.write_text(f"{os.getpid()}\n")
            hand_back(_place())
            signal.pause()
    except _FAILURES as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        pid.unlink(missing_ok=True)
        kubeconfig.unlink(missing_ok=True)
    return 0


def _down() -> int:
    holder = _holder()
    if holder is None:
        print("no cluster is up")
        return 0
    report("removing the cluster")
    os.kill(holder, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE
    while Path("/proc", str(holder)).exists():
        if time.monotonic() > deadline:
            print(f"process {holder} still holds the cluster: see {_place() / 'log'}", file=sys.stderr)
            return 1
        time.sleep(0.1)
    return 0


def _holder() -> int | None:
    """Return the pid of the process that holds the cluster, if there is one."""
    try:
        pid = int((_place() / "pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ValueError):
        return None
    # After a reboot the number may be anybody's.
    return pid if command.endswith(b"wesher_testing.cluster\0hold\0") else None


@contextmanager
def _door(host: Host, api: ApiServer) -> Iterator[str]:
    """Let the machine's loopback reach the API server inside the lab; yield the URL there."""
    inside = urlsplit(api.url)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        program = [sys.executable, "-I", port_forward.__file__, str(listening.fileno())]
        forwarder = host.popen(
            [*program, str(inside.hostname), str(inside.port)],
            stdin=subprocess.DEVNULL,
            pass_fds=(listening.fileno(),),
            start_new_session=True,
        )
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        forwarder.kill()
        forwarder.wait()


def _write_kubeconfig(path: Path, api: ApiServer, url: str) -> None:
    content = yaml.safe_load(api.kubectl("config", "view", "--raw", "--flatten"))
    content["clusters"][0]["cluster"]["server"] = url
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content))


def _place() -> Path:
    return cache_dir() / "cluster"


def _how_to_go_on() -> str:
    return (
        "to use it:\n"
        f"  export KUBECONFIG={_place() / 'kubeconfig'}\n"
        f"  {toolbox.kubernetes_binary('kubectl')} get wesher -o wide\n"
        f"  {helm(3)} --namespace {NAMESPACE} list\n"
        "to end it:\n"
        "  make cluster-down"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
