"""Of several operators one acts, and when it dies another goes on where it stopped."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import pytest

from wesher_operator.crd import KINDS
from wesher_testing.cluster.api_server import ApiServer, api_server
from wesher_testing.cluster.operator_process import (
    NAMESPACE,
    SOON,
    OperatorProcess,
    eventually,
    operator_writes,
    run_operator,
)
from wesher_testing.run.machine_load import stretched

TAKE_OVER_SECONDS = 20.0
NODES = 120


def addresses(api: ApiServer) -> list[str]:
    return [item["spec"]["overlayIP"] for item in api.get("wnode")["items"]]


def lease_requests(api: ApiServer, operator: OperatorProcess) -> list[tuple[str, datetime]]:
    """Return when an operator asked for the lease, or wrote it, each with the verb, oldest first."""
    return [
        (event["verb"], datetime.fromisoformat(event["requestReceivedTimestamp"]))
        for event in api.audit_events()
        if "/leases" in event["requestURI"] and f"-{operator.process.pid}-" in event["userAgent"]
    ]


@contextmanager
def kept_port() -> Iterator[int]:
    """Yield a port that nobody gets meanwhile but a program that is told of it."""
    with socket.socket() as keeper:
        # Two sockets with this option share a port of which one listens; for others it is taken.
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


@pytest.fixture
def fresh(api: ApiServer) -> ApiServer:
    """Lend the API server with no lease held."""
    api.kubectl("delete", "lease", "--all", "-n", NAMESPACE)
    return api


def test_when_the_leader_is_killed_in_mid_write_the_other_finishes_and_their_writes_never_mix(
    fresh: ApiServer, mesh: Callable[..., None]
) -> None:
    # Nodes by one kubectl, since each by itself takes longer than the operator needs for it.
    fresh.apply(
        *(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": f"node-{number:02}", "labels": {"kubernetes.io/os": "linux"}},
            }
            for number in range(NODES)
        )
    )
    before = len(operator_writes(fresh))
    with run_operator(fresh, name="one") as one:
        eventually(one.leads, within=SOON)
        with run_operator(fresh, name="two") as two:
            eventually(lambda: lease_requests(fresh, two), within=SOON)
            mesh(overlayCIDR="10.189.0.0/24")
            # A fresh mesh of this size is written for six seconds, at 20 writes a second.
            eventually(
                lambda: len(operator_writes(fresh)) - before,
                within=SOON,
                until=lambda count: count > NODES // 6,
            )
            one.kill()
            killed_at = datetime.now(UTC)
            assert 0 < len(addresses(fresh)) < NODES  # so it was in mid-write
            eventually(lambda: len(addresses(fresh)) == NODES, within=2 * SOON)
            assert two.leads()

    assert len(set(addresses(fresh))) == NODES
    written = operator_writes(fresh)[before:]
    authors = [event["userAgent"] for event in written]
    assert len(set(authors)) == 2
    assert authors == sorted(authors, key=authors.index)  # all of the one's come before all of the other's
    took_over = next(event for event in written if event["userAgent"] == authors[-1])
    acted_at = datetime.fromisoformat(took_over["requestReceivedTimestamp"])
    assert (acted_at - killed_at).total_seconds() <= stretched(TAKE_OVER_SECONDS)


def test_a_leader_that_was_paused_past_its_lease_writes_nothing_more_and_ends(
    fresh: ApiServer, mesh: Callable[..., None]
) -> None:
    fresh.node("a", "192.168.7.1")
    former = len(operator_writes(fresh))
    with run_operator(fresh, name="one") as one:
        # A request that is on its way when the process is paused cannot be called back, so none may be:
        # a new leader writes the definitions first, and then nothing, since there is no mesh.
        eventually(
            lambda: len(operator_writes(fresh)) - former,
            within=SOON,
            until=lambda count: count >= len(KINDS),
        )
        one.pause()
        with run_operator(fresh, name="two") as two:
            eventually(two.leads, within=SOON)
            before = len(operator_writes(fresh))
            mesh()
            eventually(lambda: len(addresses(fresh)), within=SOON)
            one.resume()
            assert one.process.wait(timeout=SOON) == 3
            assert "leadership lost" in one.log
            fresh.node("b", "192.168.7.2")
            eventually(lambda: len(addresses(fresh)), within=SOON, until=lambda count: count == 2)
            assert len({event["userAgent"] for event in operator_writes(fresh)[before:]}) == 1


def test_a_leader_that_is_told_to_stop_hands_over_at_once(fresh: ApiServer) -> None:
    with run_operator(fresh, name="one") as one:
        eventually(one.leads, within=SOON)
        assert one.stop() == 0
    with run_operator(fresh, name="two") as two:
        eventually(two.leads, within=SOON)
        requests = lease_requests(fresh, two)
    asked_at = next(moment for verb, moment in requests if verb == "get")
    took_at = next(moment for verb, moment in requests if verb == "update")
    assert took_at - asked_at < timedelta(seconds=8)  # a lease that had to run out would take 10 s


def test_an_operator_without_its_crds_says_which_is_missing_and_what_to_do() -> None:
    with api_server() as bare:
        arguments = ["--agent-image=x", "--namespace=default", f"--kubeconfig={bare.kubeconfig}"]
        ended = subprocess.run(
            [sys.executable, "-m", "wesher_operator", "run", "--manage-crds=false", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr == (
        "wesher-operator: CustomResourceDefinition weshermeshes.wesher.dev: "
        "is missing: install the chart, or apply charts/wesher/crds\n"
    )


def test_an_operator_says_that_it_is_alive_while_it_waits_and_while_it_leads(fresh: ApiServer) -> None:
    def answer(port: int) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
                return int(reply.status)
        except OSError:
            return 0

    with kept_port() as port, run_operator(fresh, name="first") as first:
        eventually(first.leads, within=SOON)
        with run_operator(fresh, name="second", more=[f"--health-port={port}"]) as second:
            assert eventually(lambda: answer(port), within=SOON) == HTTPStatus.OK
            assert not second.leads()
            assert first.stop() == 0
            eventually(second.leads, within=SOON)
            assert eventually(lambda: answer(port), within=SOON) == HTTPStatus.OK
