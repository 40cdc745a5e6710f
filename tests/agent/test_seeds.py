"""Seeds given by name, looked up by the host's own resolver while what it answers changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wesher_testing.agents.process import KEY, AgentProcess, wait_until
from wesher_testing.lab.namespaces import Host, Lab

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

SEED = "seed.example"
NOBODY = "192.0.2.250"
PATIENCE = 90.0
"""Seconds: a name is looked up once a minute at most."""


def have_resolved(host: Host, address: str) -> None:
    """Let a host's resolver answer with an address for the seed's name."""
    (host.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{address} {SEED}\n")


@pytest.mark.parametrize("first", [NOBODY, None], ids=["another address", "no such name"])
def test_a_seed_is_found_once_its_name_leads_to_it(lab: Lab, start: Start, first: str | None) -> None:
    a, b = lab.host("a"), lab.host("b")
    if first is not None:
        have_resolved(b, first)
    # Its block in the hosts file would be lost when the test writes the file anew.
    seeking = start(b, "--cluster-key", KEY, f"--join={SEED}", "--no-etc-hosts")
    tried = (
        f"state not exchanged address={first}:7946 "
        if first is not None
        else f"seed not resolved seed={SEED} "
    )
    wait_until(lambda: tried in seeking.own_log, deadline=PATIENCE, what="the name was looked up")
    seed = start(a, "--cluster-key", KEY)

    have_resolved(b, str(a.ipv4))

    seeking.wait_for("a", "b", deadline=PATIENCE)
    seed.wait_for("a", "b", deadline=PATIENCE)
