"""The lease as it is written, where a real API server would be content with less."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wesher_operator import leader
from wesher_operator.leader import LEASE_SECONDS, Leadership
from wesher_testing.cluster.fake_api_server import Answer, Request, serving

RELEASED = {
    "metadata": {"name": "wesher-operator", "namespace": "wesher-system", "resourceVersion": "7"},
    "spec": {"leaseDurationSeconds": LEASE_SECONDS, "acquireTime": "2020-01-01T00:00:00.000001Z"},
}


@pytest.fixture(autouse=True)
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("lease", [None, RELEASED])
async def test_the_lease_says_in_utc_since_when_and_until_when_it_is_held(
    lease: dict[str, Any] | None,
) -> None:
    """Whoever reads it, as `kubectl wesher doctor` does, knows nothing of this machine's zone."""
    written: list[dict[str, Any]] = []

    def answer(request: Request) -> Answer:
        if request.method == "GET":
            return (200, lease) if lease else (404, {"kind": "Status", "code": 404})
        written.append(request.body)
        return 200, request.body

    async with serving(answer) as cluster:
        leadership = Leadership(cluster._api, "wesher-system", "me")
        await leadership.acquire()
        assert leadership.holds()
        await leadership.release()
    spec = written[0]["spec"]
    assert spec["holderIdentity"] == "me"
    for moment in ("renewTime", "acquireTime"):
        assert abs(datetime.fromisoformat(spec[moment]) - datetime.now(UTC)) < timedelta(minutes=1)


HELD = {
    "metadata": RELEASED["metadata"],
    "spec": {
        "holderIdentity": "other",
        "leaseDurationSeconds": 3,
        "acquireTime": "2020-01-01T00:00:00.000001Z",
        "renewTime": "2020-01-01T00:00:00.000001Z",
    },
}


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_held_lease_runs_out_after_its_time_and_not_when_the_wall_clock_jumps(
    monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Sooner there would be two leaders, and later none."""
    for name, seconds in (("LEASE_SECONDS", 3), ("RENEW_DEADLINE", 2), ("RETRY_SECONDS", 1)):
        monkeypatch.setattr(leader, name, seconds)
    looked: list[float] = []
    taken: list[float] = []
    true_time = time.time

    def answer(request: Request) -> Answer:
        if request.method == "GET":
            looked.append(time.monotonic())
            if len(looked) == 2:
                monkeypatch.setattr(time, "time", lambda: true_time() + jump)
            return 200, HELD
        taken.append(time.monotonic())
        return 200, request.body

    async with serving(answer) as cluster, asyncio.timeout(60):
        leadership = Leadership(cluster._api, "wesher-system", "me")
        await leadership.acquire()
        await leadership.release()
    assert taken[0] - looked[0] >= 3.0


@pytest.mark.parametrize("restored", ["without-a-lease", "with-an-older-lease"])
async def test_a_leader_whose_lease_is_gone_or_older_than_it_wrote_it_stops_leading(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, restored: str
) -> None:
    """As after a restore of etcd: what it remembers is newer than all that it will be told."""
    monkeypatch.setattr(leader, "RETRY_SECONDS", 1)
    versions = [7, 8, 9]
    """Of the lease after each write."""
    stored: list[dict[str, Any]] = [RELEASED]

    def answer(request: Request) -> Answer:
        if request.method != "GET":
            metadata = {**request.body["metadata"], "resourceVersion": str(versions[len(stored)])}
            stored.append({**request.body, "metadata": metadata})
            return 200, stored[-1]
        if len(stored) < len(versions):
            return 200, stored[-1]
        return (404, {"kind": "Status", "code": 404}) if restored == "without-a-lease" else (200, stored[1])

    async with serving(answer) as cluster, asyncio.timeout(60):
        leadership = Leadership(cluster._api, "wesher-system", "me")
        await leadership.acquire()
        await leadership.lost()
        assert not leadership.holds()
    assert "lease went back to an earlier state" in caplog.text
    assert len(stored) == len(versions)  # nothing is written over what was restored
