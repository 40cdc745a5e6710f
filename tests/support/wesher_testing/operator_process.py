"""The real operator as a process beside a real API server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wesher_testing.api_server import ApiServer
from wesher_testing.toolbox import REPOSITORY

NAMESPACE = "wesher-system"
CRDS = REPOSITORY / "charts/wesher/crds"
MANIFESTS = REPOSITORY / "deploy"
_END_SECONDS = 15.0
T = TypeVar("T")


def install(api: ApiServer) -> None:
    """Apply what an administrator applies: CRDs, namespace, permissions and policy."""
    files = (CRDS, MANIFESTS / "namespace.yaml", MANIFESTS / "wesher.yaml")
    api.kubectl("apply", "--server-side", *(f"--filename={file}" for file in files))
    api.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"--filename={CRDS}")


@dataclass(frozen=True, slots=True)
class OperatorProcess:
    """A running operator."""

    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text()

    def leads(self) -> bool:
        """Tell whether it has become the leader."""
        return "leadership acquired" in self.log

    def pause(self) -> None:
        """Stop it where it stands, as a starved or migrated machine does."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a chance to clean up."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as Kubernetes does and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=_END_SECONDS)


@contextmanager
def run_operator(
    api: ApiServer, *, name: str = "operator", enter: Sequence[str] = (), more: Sequence[str] = ()
) -> Iterator[OperatorProcess]:
    """Run the operator with its own ServiceAccount's permissions until the block ends.

    Args:
        api: where `install` was done.
        name: tells the logs of several apart.
        enter: a command prefix, such as one that enters a network namespace.
        more: further arguments.

    """
    kubeconfig = api.kubeconfig_for(api.token("wesher-operator", NAMESPACE), name)
    log_file = api.directory / f"{name}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [
                *(*enter, sys.executable, "-m", "wesher_operator", "run"),
                *("--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE),
                *("--agent-image", "wesher:test", *more),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={key: value for key, value in os.environ.items() if not key.startswith("WESHER_")},
        )
    try:
        yield OperatorProcess(process, log_file)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(timeout=_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def operator_writes(api: ApiServer) -> list[dict[str, Any]]:
    """Return what operators wrote, as audit events, oldest first; leases, renewed all the time, left out."""
    found = [
        event
        for event in api.audit_events()
        if event["userAgent"].startswith("wesher-operator")
        and event["verb"] not in {"get", "list", "watch"}
        and "/leases" not in event["requestURI"]
    ]
    return sorted(found, key=lambda event: event["requestReceivedTimestamp"])


def eventually(probe: Callable[[], T], *, within: float, until: Callable[[T], bool] = bool) -> T:
    """Ask until the answer is right and return it.

    Raises:
        AssertionError: it was not right in time; the text holds the last answer.

    """
    deadline = time.monotonic() + within
    while True:
        answer = probe()
        if until(answer):
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s; the last answer was {answer!r}")
        time.sleep(0.1)
