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

from wesher_testing.cluster.api_server import ApiServer, KubectlFailed
from wesher_testing.run.toolbox import REPOSITORY

SOON = 60.0
"""Seconds in which an operator has done what it had cause for, on a busy machine too; else it takes two."""
NAMESPACE = "wesher-system"
CRDS = REPOSITORY / "charts/wesher/crds"
MANIFESTS = REPOSITORY / "deploy"
_KINDS = ("weshermeshes.wesher.dev", "weshernodes.wesher.dev", "wesherpeers.wesher.dev")
_END_SECONDS = 60.0
"""An operator that is killed instead keeps its lease, for which the next one has to wait."""
T = TypeVar("T")


def install(api: ApiServer) -> None:
    """Apply what an administrator applies, CRDs, namespace, permissions and policy; wait until it holds.

    The policy alone may take effect a moment later.
    """
    files = (CRDS, MANIFESTS / "namespace.yaml", MANIFESTS / "wesher.yaml")
    api.kubectl("apply", "--server-side", *(f"--filename={file}" for file in files))
    api.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"--filename={CRDS}")
    # An established kind is not served yet, and one that is served is not yet told of to kubectl.
    eventually(lambda: _serves_kinds(api), within=SOON)
    agent = f"--as=system:serviceaccount:{NAMESPACE}:wesher-agent"
    question = ("auth", "can-i", "get", "weshermeshes.wesher.dev", agent)
    eventually(lambda: api.kubectl(*question, check=False).startswith("yes\n"), within=SOON)


def _serves_kinds(api: ApiServer) -> bool:
    # Unlike others this question is put to the API server each time, and kubectl keeps the answer.
    told = api.kubectl("api-resources", "--api-group=wesher.dev", "--output=name", check=False)
    try:
        api.kubectl("get", ",".join(_KINDS))
    except KubectlFailed:
        return False
    return set(_KINDS) <= set(told.split())


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
    api: ApiServer,
    *,
    name: str = "operator",
    namespace: str = NAMESPACE,
    account: str = "wesher-operator",
    enter: Sequence[str] = (),
    more: Sequence[str] = (),
) -> Iterator[OperatorProcess]:
    """Run the operator with its own ServiceAccount's permissions until the block ends.

    Args:
        api: where `install` was done.
        name: tells the logs of several apart.
        namespace: of its installation.
        account: its ServiceAccount there.
        enter: a command prefix, such as one that enters a network namespace.
        more: further arguments.

    """
    kubeconfig = api.kubeconfig_for(api.token(account, namespace), name)
    log_file = api.directory / f"{name}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [
                *(*enter, sys.executable, "-m", "wesher_operator", "run"),
                *("--kubeconfig", str(kubeconfig), "--namespace", namespace),
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

    It is asked once more after the time is over, since the machine may have stood still.

    Raises:
        AssertionError: it was not right in time; the text holds the last answer.

    """
    deadline = time.monotonic() + within
    while True:
        is_last = time.monotonic() > deadline
        answer = probe()
        if until(answer):
            return answer
        if is_last:
            raise AssertionError(f"timed out after {within} s; the last answer was {answer!r}")
        time.sleep(0.1)
