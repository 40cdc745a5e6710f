"""Certified agents, one of which is revoked while the API server is away.

The long form (``make soak``) has twenty agents, one of which does not run when another is revoked.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from wesher_common.certificate import Authority, Subject, name_hash
from wesher_common.mesh_document import IdentitySettings, MeshDocument
from wesher_common.news import NewsKind, Statement, pack_news, revocation_second, sign_statement
from wesher_testing.agents.mesh import device
from wesher_testing.agents.mounted_files import document, mount, mounted_flags, remember
from wesher_testing.agents.process import (
    WESHER,
    AgentProcess,
    pings,
    wait_for_ping,
    wait_until,
)
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.run.machine_load import stretched
from wesher_testing.run.soak import soaking
from wesher_testing.virtual.members import private_key

Say = Callable[[str], None]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

AUTHORITY, UNKNOWN = Authority(bytes(range(32))), Authority(bytes(32))
KEY = base64.b64encode(bytes(range(32))).decode()
NAMES, AWAY = soaking(("abc", ""), ("abcdefghijklmnopqrst", "t"))
FORMING = 150.0
DROPPED, DROPPED_ON_RETURN = 10.0, 120.0
"""Seconds until no tunnel is left to a revoked member."""


def now_ms() -> int:
    return int(time.time() * 1000)


def mesh_of(seed: Host) -> dict[str, Any]:
    """Return the mesh.json of a mesh that is bound to its authority."""
    mesh = MeshDocument.from_json(json.dumps(document(seed)))
    identity = IdentitySettings(mode="Verified", bound=True, authorities=(AUTHORITY.key,))
    return replace(mesh, identity=identity).to_dict()


def certify(host: Host, number: int, *, serial: int) -> None:
    """Leave what an earlier run of an agent knew: its key, address and certificate, and its mesh."""
    address, key = ip_address(f"10.99.0.{number + 10}"), private_key(host.name)
    subject = Subject(name=host.name, public_key=key.public, address=address)
    certificate = AUTHORITY.issue(subject, serial=serial)
    mesh = MeshDocument.from_json(json.dumps(document()))
    remember(host, address, private_key=key, certificate=certificate, mesh=mesh)


def revoking(*names: str, by: Authority = AUTHORITY, number: int | None = None) -> Statement:
    """Sign now that these names' certificates are void."""
    moment = now_ms() if number is None else number
    revoked = {name_hash(name): revocation_second(moment) for name in names}
    return sign_statement(by, number=moment, revoked=revoked)


def news_add(host: Host, content: bytes) -> tuple[int, str]:
    """Run the command of an administrator; return its exit code and what it says."""
    file = host.root / "run/statement"
    file.write_bytes(content)
    done = host.run([WESHER, "news", "add", "/run/statement"], check=False)
    return done.returncode, done.stdout + done.stderr


def knows(host: Host, name: str) -> bool:
    """Tell whether a host has a tunnel to a member, or its hosts entry."""
    entry = f"{name}.m.wesher.internal" in (host.root / "etc/hosts").read_text()
    return entry or private_key(name).public in device(host).peers


def wait_for_all(hosts: list[Host], is_so: Callable[[Host], bool], *, what: str, deadline: float) -> None:
    """Wait until something is so on every host."""
    for host in hosts:
        wait_until(lambda host=host: is_so(host), what=f"{host.name} {what}", deadline=deadline)  # type: ignore[misc]


def test_a_statement_given_to_one_agent_closes_every_tunnel_to_the_revoked_one(
    lab: Lab, start: Any, say: Say
) -> None:
    hosts = [lab.host(name) for name in NAMES]
    serial = now_ms() - 60_000
    for number, host in enumerate(hosts):
        mount(host, mesh_of(hosts[0]), key=KEY)
        certify(host, number, serial=serial)
    agents: list[AgentProcess] = [start(host, *mounted_flags(host), bare=True) for host in hosts]
    a, b, c, *_ = hosts
    for agent in agents:
        agent.wait_for(*NAMES, deadline=FORMING)
    for one, other in ((a, "10.99.0.12"), (b, "10.99.0.12"), (a, "10.99.0.11")):
        wait_for_ping(one, other)
    others = [host for host in hosts if host is not c]
    wait_for_all(others, lambda host: knows(host, "c"), what="has a tunnel to c", deadline=FORMING)
    away = [agent for agent in agents if agent.host.name in AWAY]
    assert [agent.end() for agent in away] == [0 for _ in AWAY]
    old = revoking("b", number=now_ms() - 10_000)

    statement = revoking("c")
    began = time.monotonic()
    code, said = news_add(a, pack_news([(NewsKind.STATEMENT, statement.packed())]))
    assert (code, said) == (
        0,
        f"the agent accepted statement {statement.number}, which revokes 1 name, and passes it on\n",
    )
    present = [host for host in others if host.name not in AWAY]
    wait_for_all(
        present, lambda host: not knows(host, "c"), what="has no tunnel to c", deadline=stretched(DROPPED)
    )
    took = time.monotonic() - began
    assert took < stretched(DROPPED)
    say(f"{len(NAMES)} agents: no tunnel to the revoked one {took:.1f} s after the command")
    assert not pings(a, "10.99.0.12")
    assert not pings(b, "10.99.0.12")
    assert pings(a, "10.99.0.11")
    assert agents[1].members()["c"]["note"] == "its certificate was revoked"
    assert agents[1].status()["newsNumber"] == statement.number

    refusals = {
        statement.packed()[:-1]: "damaged, or not signed by this mesh's authority",
        b"certainly not": "not a statement of an authority",
        revoking("b", by=UNKNOWN).packed(): "an authority that this mesh does not trust",
        old.packed(): "older than the revocations that this agent has",
        revoking("b", number=now_ms() + 2 * 86_400_000).packed(): "ahead of this host's clock",
    }
    for content, reason in refusals.items():
        code, said = news_add(b, content)
        assert code == 1
        assert said.startswith("wesher: error: FILE '/run/statement': ")
        assert reason in said
        assert said.count("\n") == 1
    code, said = news_add(b, base64.b64encode(statement.packed()) + b"\n")
    assert (code, said) == (0, f"the agent already has statement {statement.number}, which revokes 1 name\n")

    for name in AWAY:
        began = time.monotonic()
        back = start(lab.hosts[name], *mounted_flags(lab.hosts[name]), bare=True)
        back.wait_device()
        wait_until(
            lambda back=back: back.status()["newsNumber"] == statement.number and not knows(back.host, "c"),  # type: ignore[misc]
            what=f"{name} has the statement and no tunnel to c",
            deadline=stretched(DROPPED_ON_RETURN),
        )
        say(f"one that did not run: no tunnel {time.monotonic() - began:.1f} s after its start")

    # Neither a restart nor the old mounted file of the operator brings c back.
    assert agents[1].end() == 0
    mount(b, mesh_of(a), key=KEY, news=pack_news([(NewsKind.STATEMENT, old.packed())]))
    again: AgentProcess = start(b, *mounted_flags(b), bare=True)
    wait_for_ping(b, "10.99.0.10")
    assert again.status()["newsNumber"] == statement.number
    assert not pings(b, "10.99.0.12")

    # The revoked one learns it at a state exchange, says so and runs on.
    wait_until(lambda: agents[2].conditions()["Ready"] == "Revoked", what="c says that it is revoked")
    assert "own certificate does not count" in agents[2].own_log


def test_published_statements_count_from_the_start_and_without_a_restart(lab: Lab, start: Any) -> None:
    hosts = [lab.host(name) for name in "abc"]
    at_first = pack_news([(NewsKind.STATEMENT, revoking("c").packed())])
    for number, host in enumerate(hosts):
        mount(host, mesh_of(hosts[0]), key=KEY, news=at_first if host is hosts[0] else None)
        certify(host, number, serial=now_ms() - 60_000)
    first, *_ = (start(host, *mounted_flags(host), bare=True) for host in hosts)
    first.wait_for("a", "b", "c")
    wait_for_ping(hosts[0], "10.99.0.11")
    assert first.members()["c"]["note"] == "its certificate was revoked"
    mount(hosts[0], mesh_of(hosts[0]), key=KEY, news=b"\1damaged")
    wait_until(lambda: "mounted news rejected" in first.own_log, what="damaged news are named")
    assert pings(hosts[0], "10.99.0.11")
    news = pack_news([(NewsKind.STATEMENT, revoking("b").packed())])
    mount(hosts[0], mesh_of(hosts[0]), key=KEY, news=news)
    wait_until(lambda: not pings(hosts[0], "10.99.0.11"), what="b has no tunnel")
    assert first.members()["c"]["note"] == "its certificate was revoked"
    assert first.own_log.count("mounted news rejected") == 1
