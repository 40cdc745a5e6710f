"""What a machine that has the cluster key and nothing else can do to real agents, with pings at 10/s.

Each attack is made on members without certificates (today) and on those of a mesh that is Verified and bound.
The long form (``make soak``) takes longer, and also attacks certified members of an Open mesh.
All scenes that were selected run a few at a time; each test judges those of its attack.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import pytest

from wesher_agent.files.state_format import parse_state
from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.mesh.saved_state import SavedState
from wesher_testing.agents.mesh import PORT, STATE, RealMesh, device, reaches
from wesher_testing.agents.process import KEY, SECRET, AgentProcess, wait_until
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.lab.pings import Pinging
from wesher_testing.peers import thief
from wesher_testing.run.machine_load import stretched
from wesher_testing.run.soak import soaking

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

SECONDS = soaking(8.0, 60.0)
NEWCOMER_WITHIN = 10.0
"""Seconds from the start of a new member's agent until it has all tunnels."""
BACK_WITHIN = 15.0
"""Seconds until two members that were both restarted have a tunnel: those of a few handshakes."""
NO_ANSWER_SECONDS = soaking(10.0, 60.0)
"""For how long nothing must come where nothing can come."""
AT_ONCE = 3
"""Scenes that run at the same time."""
TODAY, CERTIFIED, VERIFIED = "today", "certified, Open", "verified"
FORMS = soaking((TODAY, VERIFIED), (TODAY, CERTIFIED, VERIFIED))

Outcomes = dict[tuple[str, str], "Future[Outcome]"]
Device = dict[str, list[str]]
"""The allowed IPs of each peer, by key."""


@dataclass
class Outcome:
    """What an attack did in one form."""

    lost: int = 0
    counted: int = 0
    """Pings between a and b, in both directions."""
    was_changed: bool = False
    """Whether any member's device differs from before in the peers that it had."""
    is_redirected: bool = False
    """Whether a sends what is for b's address to the thief."""
    seconds: float | None = None
    """Until the tunnels that were waited for."""
    note: str = ""

    def __str__(self) -> str:
        parts = [f"{self.lost} of {self.counted} pings lost"] if self.counted else []
        parts += ["b's traffic goes to the thief"] * self.is_redirected
        parts += ["devices changed" if self.was_changed else "devices unchanged"]
        parts += [f"tunnels after {self.seconds:.1f} s"] if self.seconds is not None else []
        return ", ".join([*parts, *([self.note] if self.note else [])])


class Scene:
    """A mesh of a few agents, a thief's host, and what was before the attack."""

    def __init__(self, form: str, stack: ExitStack, *names: str) -> None:
        self.form = form
        self.lab = stack.enter_context(Lab())
        hosts = [self.lab.host(name) for name in names]
        self.thief = self.lab.host(thief.NAME)
        match form:
            case "today":
                self.mesh = RealMesh.plain(*hosts)
            case "verified":
                self.mesh = RealMesh.certified(*hosts, mode="Verified", bound=True)
            case _:
                self.mesh = RealMesh.certified(*hosts, mode="Open")
        self.mesh.wait_whole()
        self.addresses = self.mesh.addresses
        self.outcome = Outcome()
        self._before = self.devices()

    def devices(self) -> dict[str, Device]:
        """Return what each member's WireGuard sends to which peer."""
        return {name: tunnels(host) for name, host in self.mesh.hosts.items()}

    def attack(self, kind: str, *victims: str, seconds: float = SECONDS) -> None:
        """Make an attack to its end while a and b ping each other, and judge what it did."""
        pairs = [("a", "b"), ("b", "a")]
        with Pinging(self.mesh.agents, self.addresses, pairs, patience=3.0) as going:
            self.lie(kind, *victims, seconds=seconds)
            self.judge()
        self.outcome.lost += sum(going.lost.values())
        self.outcome.counted += sum(going.counted.values())

    def lie(self, kind: str, *victims: str, seconds: float) -> None:
        """Have the thief speak, and wait for its end."""
        with thief.lying(
            self.thief, kind, *victims, secret=SECRET, member=self.mesh.hosts["a"], seconds=seconds
        ) as liar:
            assert liar.wait(seconds + 60.0) == 0

    def judge(self) -> None:
        """Compare the devices with those before."""
        for name, before in self._before.items():
            now = tunnels(self.mesh.hosts[name])
            self.outcome.was_changed |= any(now.get(key) != networks for key, networks in before.items())
            # Without certificates, a machine that has the key is a member, and may have a tunnel.
            self.outcome.was_changed |= self.form == VERIFIED and now.keys() != before.keys()
        of_b = [f"{self.addresses['b']}/32"]
        key_of_b = next(key for key, networks in self._before["a"].items() if networks == of_b)
        holders = [key for key, networks in tunnels(self.mesh.hosts["a"]).items() if networks == of_b]
        self.outcome.is_redirected |= bool(holders) and holders != [key_of_b]


def tunnels(host: Host) -> Device:
    """Return the allowed IPs of each peer of a host's WireGuard."""
    return {str(key): sorted(map(str, peer.allowed_ips)) for key, peer in device(host).peers.items()}


# The attacks.


def take_address(scene: Scene) -> None:
    """Start the stock program with a state file of two fields: a smaller name, and b's overlay address."""
    state = scene.thief.root / STATE
    state.parent.mkdir()
    state.write_text(json.dumps({"Name": thief.NAME, "OverlayAddress": scene.addresses["b"]}))
    flags = [f"--join={scene.mesh.hosts['a'].ipv4}", f"--overlay-net={scene.mesh.overlay}"]
    with Pinging(scene.mesh.agents, scene.addresses, [("a", "b"), ("b", "a")], patience=3.0) as going:
        stock = AgentProcess(scene.thief, "--cluster-key", KEY, *flags)
        wait_until(lambda: thief.NAME in scene.mesh.agents["a"].members(), what="a knows the thief")
        deadline = time.monotonic() + SECONDS
        # Its own device must be there too: with it, it answers in b's place.
        stock.wait_device()
        wait_until(lambda: time.monotonic() > deadline, what="the attack has lasted", deadline=2 * SECONDS)
        scene.judge()
    scene.outcome.lost, scene.outcome.counted = sum(going.lost.values()), sum(going.counted.values())


def take_name(scene: Scene) -> None:
    """Say that b has left, and is back at the thief's address with the thief's key."""
    scene.attack("take-name", "b")


def take_key(scene: Scene) -> None:
    """Announce b's public key under a smaller name."""
    scene.attack("take-key", "b")


def leave(scene: Scene) -> None:
    """Say five times a second in b's name that it leaves."""
    scene.attack("leave", "b")


def move(scene: Scene) -> None:
    """Move both members' endpoints, repeat their own words from elsewhere, and have both restarted then."""
    mesh = scene.mesh
    for name in ("a", "b"):
        wait_until(lambda name=name: saved(mesh, name).endpoints, what=f"{name} has saved an endpoint")
    scene.attack("move", "a", "b")
    scene.outcome.seconds = restart_while_hijacked(scene)
    if scene.form == TODAY:
        for name in ("a", "b"):
            mesh.power_off(name)
            state = mesh.hosts[name].root / STATE
            state.write_text(json.dumps(json.loads(state.read_text()) | {"Endpoints": []}))
        without = back_after(scene, seconds=NO_ANSWER_SECONDS)
        said = "none" if without is None else f"tunnels after {without:.1f} s"
        scene.outcome.note = f"without the saved endpoints {said} in {NO_ANSWER_SECONDS:.0f} s"


def restart_while_hijacked(scene: Scene) -> float | None:
    """Restart both members once each has saved a false address of the other; return when they meet again."""
    mesh, first = scene.mesh, scene.mesh.hosts["a"]
    with thief.lying(scene.thief, "move", "a", "b", secret=SECRET, member=first, seconds=3600.0):
        wait_until(
            lambda: is_misled(mesh, "a", "b") and is_misled(mesh, "b", "a"), what="both have saved a lie"
        )
        # At once: the next save may be of the truth.
        for agent in mesh.agents.values():
            agent.process.kill()
        for name in ("a", "b"):
            mesh.power_off(name)
        assert is_misled(mesh, "a", "b")
        assert is_misled(mesh, "b", "a")
        return back_after(scene, seconds=stretched(3 * BACK_WITHIN))


def back_after(scene: Scene, *, seconds: float) -> float | None:
    """Start both members; return how long after their devices each reaches the other, None if not in time."""
    mesh = scene.mesh
    for name in ("a", "b"):
        mesh.start(name)
    for agent in mesh.agents.values():
        agent.wait_device()
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        if all(reaches(host, scene.addresses.values()) for host in mesh.hosts.values()):
            return time.monotonic() - began
    return None


def saved(mesh: RealMesh, name: str) -> SavedState:
    """Return what a member has saved."""
    return parse_state((mesh.hosts[name].root / STATE).read_bytes(), gossip_port=PORT)[0]


def is_misled(mesh: RealMesh, name: str, other: str) -> bool:
    """Tell whether a member has saved that the other is where it is not."""
    (node,) = (node for node in saved(mesh, name).nodes if node.name == other)
    is_elsewhere = node.address.ip != str(mesh.hosts[other].ipv4)
    return is_elsewhere or NodeMeta.decode(node.raw_meta).wireguard_endpoint is not None


def flood(scene: Scene) -> None:
    """Invent 12,000 members in two seconds; then a new machine joins."""
    scene.attack("flood", "b")
    known = max(len(agent.members()) for agent in scene.mesh.agents.values())
    scene.outcome.note = f"{known} members known at most"
    host = scene.lab.host("new")
    # The start of Python on a busy machine is not part of what is measured.
    scene.mesh.add(host).status()
    began = time.monotonic()
    within = stretched(NEWCOMER_WITHIN) if scene.form == VERIFIED else NO_ANSWER_SECONDS
    while time.monotonic() < began + within:
        if reaches(host, scene.addresses.values()):
            scene.outcome.seconds = time.monotonic() - began
            break


def judged(outcomes: Outcomes, say: Callable[[str], None], test: Callable[..., None]) -> list[Outcome]:
    """Return what an attack did in each form, the Verified mesh last, and show them side by side."""
    found = {form: outcomes[test.__name__, form].result() for form in FORMS}
    say("; ".join(f"{form}: {outcome}" for form, outcome in found.items()))
    return [*found.values()]


def unharmed(outcome: Outcome) -> bool:
    """Tell whether an attack changed nothing and lost nothing."""
    return outcome.counted > 0 and not (outcome.lost or outcome.was_changed or outcome.is_redirected)


def test_a_thief_takes_no_certified_members_overlay_address(
    outcomes: Outcomes, say: Callable[[str], None]
) -> None:
    today, *certified = judged(outcomes, say, test_a_thief_takes_no_certified_members_overlay_address)
    assert today.is_redirected
    assert all(map(unharmed, certified))


def test_a_thief_takes_no_certified_members_name(outcomes: Outcomes, say: Callable[[str], None]) -> None:
    today, *certified = judged(outcomes, say, test_a_thief_takes_no_certified_members_name)
    assert today.lost > today.counted / 2
    assert all(map(unharmed, certified))


def test_a_thief_cuts_no_certified_member_off_by_its_public_key(
    outcomes: Outcomes, say: Callable[[str], None]
) -> None:
    today, *certified = judged(outcomes, say, test_a_thief_cuts_no_certified_member_off_by_its_public_key)
    assert today.lost > today.counted / 2
    assert all(map(unharmed, certified))


def test_forged_leaves_cost_a_certified_member_nothing(
    outcomes: Outcomes, say: Callable[[str], None]
) -> None:
    """Nor one without, at this rate: its tunnel stays for longer than it takes to refute the leave."""
    _, *certified = judged(outcomes, say, test_forged_leaves_cost_a_certified_member_nothing)
    assert all(map(unharmed, certified))


def test_two_members_that_restart_while_both_are_said_to_be_elsewhere_find_each_other(
    outcomes: Outcomes, say: Callable[[str], None]
) -> None:
    """With or without certificates: each begins where a handshake proved the other to be."""
    found = judged(
        outcomes, say, test_two_members_that_restart_while_both_are_said_to_be_elsewhere_find_each_other
    )
    assert all(map(unharmed, found))
    assert all(one.seconds is not None and one.seconds <= stretched(BACK_WITHIN) for one in found)


def test_a_flood_of_invented_members_keeps_no_certified_newcomer_out(
    outcomes: Outcomes, say: Callable[[str], None]
) -> None:
    _, *certified = judged(outcomes, say, test_a_flood_of_invented_members_keeps_no_certified_newcomer_out)
    assert all(map(unharmed, certified))
    assert certified[-1].seconds is not None, "the newcomer has all tunnels"


ATTACKS: Final = {
    test_a_thief_takes_no_certified_members_overlay_address: (take_address, ("a", "b", "c")),
    test_a_thief_takes_no_certified_members_name: (take_name, ("a", "b", "c")),
    test_a_thief_cuts_no_certified_member_off_by_its_public_key: (take_key, ("a", "b", "c")),
    test_forged_leaves_cost_a_certified_member_nothing: (leave, ("a", "b", "c")),
    test_two_members_that_restart_while_both_are_said_to_be_elsewhere_find_each_other: (move, ("a", "b")),
    test_a_flood_of_invented_members_keeps_no_certified_newcomer_out: (flood, ("a", "b", "c")),
}
"""The attack that each test judges, and the members."""


def play(attack: Callable[[Scene], None], form: str, names: tuple[str, ...]) -> Outcome:
    """Make an attack on a mesh of its own."""
    with ExitStack() as stack:
        scene = Scene(form, stack, *names)
        try:
            attack(scene)
        except Exception as error:
            error.add_note(scene.mesh.last_words())
            raise
        return scene.outcome


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[Outcomes]:
    """Begin the attacks of all tests that were selected, and return what comes of each, by test and form."""
    selected = {item.name for item in request.session.items}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            (test.__name__, form): pool.submit(play, attack, form, names)
            for test, (attack, names) in ATTACKS.items()
            for form in FORMS
            if test.__name__ in selected
        }
        pool.shutdown(cancel_futures=True)
