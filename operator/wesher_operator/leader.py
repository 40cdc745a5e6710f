"""Leadership by Lease: at most one operator acts.

Built on the election of the Kubernetes client library, which has gaps
that are closed here: a request may hang for five minutes, which keeps the
renewal from noticing its deadline; a transport error ends the candidate; whether
another's lease has run out is asked of the wall clock, which may jump; a leader
whose lease is gone makes another; and a
process that was paused past its lease acts until its next renewal fails. So each
request of the lock is bounded, its errors are failed attempts, it counts the time
of another's lease by the monotonic clock, and `holds`, which `kube.Cluster` asks
before every write, compares that clock with the last renewal.

A lease that is gone, or older than the leader wrote it, shows that the API server's
storage was restored from a backup. Resource versions begin again lower there, so
that the leader would take every change for old news: it ends, and the next process
lists everything.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, V1Lease, V1LeaseSpec, V1ObjectMeta
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from wesher_common.event_logger import EventLogger

LEASE_NAME = "wesher-operator"
LEASE_SECONDS = 10
RENEW_DEADLINE = 6
RETRY_SECONDS = 2
_REQUEST_SECONDS = 1.5
_log = EventLogger("wesher.leader")


class Leadership:
    """One candidate for the lease.

    Args:
        api: a client.
        namespace: where the Lease lives.
        identity: what stands in it while this process leads.

    """

    def __init__(self, api: ApiClient, namespace: str, identity: str) -> None:
        self._lock = _BoundedLock(LEASE_NAME, namespace, identity, api)
        self._leading = asyncio.Event()
        self._election: asyncio.Task[None] | None = None

    def holds(self) -> bool:
        """Tell whether this process may act now; no other can while this is true."""
        renewed = self._lock.renewed_at
        return renewed is not None and time.monotonic() - renewed < RENEW_DEADLINE

    async def acquire(self) -> None:
        """Wait until this process leads; afterwards the lease is renewed in the background."""
        config = Config(
            self._lock,
            lease_duration=LEASE_SECONDS,
            renew_deadline=RENEW_DEADLINE,
            retry_period=RETRY_SECONDS,
            onstarted_leading=self._started,
            onstopped_leading=_nothing,
        )
        self._election = asyncio.create_task(LeaderElection(config).run(), name="leader election")
        started = asyncio.create_task(self._leading.wait())
        await asyncio.wait({self._election, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._election.done():
            await self._election
        _log.info("leadership acquired", identity=self._lock.identity)

    async def lost(self) -> None:
        """Return when the lease could not be renewed in time, or another process had it."""
        if self._election is None:
            return
        taken = asyncio.create_task(self._lock.taken.wait())
        await asyncio.wait({self._election, taken}, return_when=asyncio.FIRST_COMPLETED)
        taken.cancel()
        if self._election.done():
            await self._election

    async def release(self) -> None:
        """Give the lease up, so that another process need not wait for it to run out."""
        if self._election is not None:
            self._election.cancel()
            await asyncio.wait({self._election})
        if self.holds():
            self._lock.renewed_at = None
            await self._lock.give_up()
            _log.info("leadership released", identity=self._lock.identity)

    async def _started(self) -> None:
        self._leading.set()


class _BoundedLock(LeaseLock):
    """The library's lease lock with bounded requests, and a memory of the last renewal, ours or another's."""

    def __init__(self, name: str, namespace: str, identity: str, api: ApiClient) -> None:
        super().__init__(name, namespace, identity, api)
        self.renewed_at: float | None = None
        self.taken = asyncio.Event()
        self._seen: LeaderElectionRecord | None = None
        self._seen_at = 0.0

    async def get(self, name: str, namespace: str) -> tuple[bool, Any]:
        written = self.lease_reference
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                found, record = await super().get(name, namespace)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            _log.warning("lease not read", error=error)
            return False, ApiException(status=0, reason=str(error))
        if isinstance(record, ApiException) and record.status != HTTPStatus.NOT_FOUND:
            _log.warning("lease not read", error=_words_of(record))
        holder = record.holder_identity if isinstance(record, LeaderElectionRecord) else self.identity
        if self.renewed_at is not None and self._is_older(written, record):
            _log.error("lease went back to an earlier state")
            self.renewed_at = None
            self.taken.set()
        elif found and self.renewed_at is not None and holder != self.identity:
            # Whoever led in between changed what we know: never lead on by a second renewal.
            self.renewed_at = None
            self.taken.set()
        if self.taken.is_set():
            return False, ApiException(status=0, reason="another process led in the meantime")
        if isinstance(record, LeaderElectionRecord) and holder not in {self.identity, None}:
            return self._of_another(record)
        return found, record

    def _is_older(self, written: V1Lease | None, record: object) -> bool:
        """Tell whether the lease as just read is older than it was written, or is gone."""
        if isinstance(record, ApiException):
            return bool(record.status == HTTPStatus.NOT_FOUND)
        return _version(self.lease_reference) < _version(written)

    def _of_another(self, record: LeaderElectionRecord) -> tuple[bool, Any]:
        """Return the record of a lease that another holds; once it has run out, one that nobody holds."""
        if self._seen is None or vars(record) != vars(self._seen):
            self._seen, self._seen_at = record, time.monotonic()
        if time.monotonic() - self._seen_at < LEASE_SECONDS:
            return False, ApiException(status=0, reason=f"{record.holder_identity} holds the lease")
        return True, LeaderElectionRecord(None, None, None, None)

    def update_lease(
        self, leader_election_record: Any, current_spec: V1LeaseSpec | None = None
    ) -> V1LeaseSpec:
        renews = current_spec is not None and current_spec.holder_identity == self.identity
        spec: V1LeaseSpec = super().update_lease(leader_election_record, current_spec)
        # The library writes the time of this machine's zone as if it were UTC.
        spec.renew_time = datetime.now(UTC)
        if not renews:
            spec.acquire_time = spec.renew_time
        return spec

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        # The library's own create fails on its own argument (pretty=True is no string).
        lease = V1Lease(metadata=V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        return await self._attempt(self._create(namespace, lease))

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        return await self._attempt(self._replace(name, namespace, updated_record))

    async def give_up(self) -> None:
        """Empty the holder, provided nobody changed the lease since it was last read."""
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                lease = await self.api_instance.read_namespaced_lease(self.name, self.namespace)
                if lease.spec is not None and lease.spec.holder_identity == self.identity:
                    lease.spec.holder_identity = None
                    await self.api_instance.replace_namespaced_lease(self.name, self.namespace, lease)
        except (aiohttp.ClientError, OSError, TimeoutError, ApiException) as error:
            _log.warning("lease not released", error=error)

    async def _replace(self, name: str, namespace: str, record: LeaderElectionRecord) -> bool:
        # The library's own keeps the version that was read, not the one that it wrote.
        lease = self.lease_reference
        if lease is None:
            return False
        lease.spec = self.update_lease(record, lease.spec)
        try:
            self.lease_reference = await self.api_instance.replace_namespaced_lease(name, namespace, lease)
        except ApiException as error:
            _log.warning("lease not renewed", error=_words_of(error))
            return False
        return True

    async def _create(self, namespace: str, lease: V1Lease) -> bool:
        try:
            self.lease_reference = await self.api_instance.create_namespaced_lease(namespace, lease)
        except ApiException as error:
            # Mostly another candidate was faster.
            if error.status == HTTPStatus.FORBIDDEN:
                _log.warning("lease not created", error=_words_of(error))
            else:
                _log.info("lease not created", error=_words_of(error))
            return False
        return True

    async def _attempt(self, write: Any) -> bool:
        # The lease counts from before the request: the API server may have taken it at once.
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                written = bool(await write)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            _log.warning("lease not renewed", error=error)
            return False
        if written:
            self.renewed_at = asked_at
        return written


def _words_of(error: ApiException) -> str:
    """Return what the API server said, which names verb and resource where it forbids something."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def _version(lease: V1Lease | None) -> int:
    metadata = lease.metadata if lease is not None else None
    return int(metadata.resource_version or 0) if metadata is not None else 0


async def _nothing() -> None:
    """Stand in for the library's callback: `Leadership.lost` tells instead."""
