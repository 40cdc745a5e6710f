"""Whatever happens to members and seeds, the roster asks for the right ones, for ever and not too often."""

from dataclasses import dataclass
from ipaddress import ip_address
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from wesher_agent.mesh.dialling import LONGEST_WAIT, TRIES_A_SECOND
from wesher_agent.mesh.roster import MemberState, Roster
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import MemberFailed, MemberJoined, MemberLeft, PushPullDone
from wesher_agent.wire.messages import State
from wesher_common.seeds import SeedAddress
from wesher_testing.virtual.members import OVERLAY, gossiped, nobody_certified

ADDRESSES = [f"192.0.2.{number}" for number in range(1, 7)]
OWN = Address(ADDRESSES[0], 7946)
NAMES = ["a", "b", "c", "d"]
FOREVER = 1e9


@dataclass(frozen=True)
class Step:
    """One thing that happens, and how long it is quiet afterwards."""

    what: str
    name: str
    ip: str
    quiet: float


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["joined", "failed", "left", "seed", "answered", "removed", "returned"]),
        st.sampled_from(NAMES),
        st.sampled_from(ADDRESSES),
        st.sampled_from([0.0, 0.3, 5.0, 70.0, 3600.0]),
    ),
    max_size=15,
)


class Model:
    """What the roster is told, kept in the plainest form."""

    def __init__(self, dice: int) -> None:
        self.roster = Roster(
            "a",
            gossip_port=7946,
            overlay=OVERLAY,
            overlay_is_apart=False,
            forget_after=FOREVER,
            identity=nobody_certified(),
            rng=Random(dice),
        )
        self.roster.set_own_addresses([ip_address(OWN.ip)], overlay_address=None, now=0.0)
        self.alive: dict[str, Address] = {}
        self.failed: dict[str, Address] = {}
        self.returned: set[Address] = set()
        """Where a failed member came back: it is asked once for those still missing."""
        self.seeds: set[Address] = set()
        self.removed: set[str] = set()

    @property
    def expected(self) -> set[Address]:
        """Every address that somebody should be alive at and is not."""
        return (self.seeds | set(self.failed.values())) - set(self.alive.values()) - {OWN}

    def apply(self, step: Step, now: float) -> None:
        """Tell the roster and the model alike."""
        address = Address(step.ip, 7946)
        match step.what:
            case "joined":
                if step.name in self.failed and address != OWN:
                    self.returned.add(address)
                self._move(step.name, self.alive, address)
                self.roster.observe(MemberJoined(gossiped(step.name, step.ip, raw_meta=b"")), now=now)
            case "failed":
                self._move(step.name, self.failed, address)
                gone = gossiped(step.name, step.ip, state=State.DEAD, raw_meta=b"")
                self.roster.observe(MemberFailed(gone, from_node="x", confirmations=0), now=now)
            case "left":
                self._move(step.name, {}, address)
                gone = gossiped(step.name, step.ip, state=State.LEFT, raw_meta=b"")
                self.roster.observe(MemberLeft(gone), now=now)
            case "seed":
                self.seeds ^= {address}
                self.roster.set_seeds([SeedAddress(seed.ip) for seed in sorted(self.seeds)], now=now)
            case "answered":
                self.roster.observe(PushPullDone(address, join=True, members=1), now=now)
            case "removed":
                self.removed.add(step.name)
                self.failed.pop(step.name, None)
                self.roster.set_removed(self.removed, now=now)
            case "returned":
                self.removed.discard(step.name)
                self.roster.set_removed(self.removed, now=now)

    def _move(self, name: str, table: dict[str, Address], address: Address) -> None:
        self.alive.pop(name, None)
        self.failed.pop(name, None)
        if name != "a" and (table is self.alive or name not in self.removed):
            table[name] = address


@settings(max_examples=100, deadline=None)
@given(steps, st.integers(0, 2**32))
def test_the_expected_are_dialled_for_ever_and_nobody_else(story: list[Step], dice: int) -> None:
    model = Model(dice)
    roster = model.roster
    now = 0.0
    tries: list[tuple[float, Address]] = []
    for step in [*story, Step("answered", "b", "198.51.100.1", 3 * LONGEST_WAIT)]:
        model.apply(step, now)
        end = now + step.quiet
        while (now := max(now, roster.next_timer())) <= end:
            for target in roster.due(now=now):
                assert isinstance(target, Address)
                looks_again = target in model.returned and model.failed
                assert target in model.expected or looks_again, "dialled itself, or somebody alive"
                tries.append((now, target))
            assert roster.next_timer() > now, "a timer that does not advance"
        now = end
        assert set(roster.members) == (model.alive.keys() | model.failed.keys()) - model.removed | {
            name for name, member in roster.members.items() if member.state is MemberState.LEFT
        }

    last = {target for time, target in tries if time > now - 2 * LONGEST_WAIT}
    assert last == model.expected, "somebody expected was given up"
    times = [time for time, _ in tries]
    for index, time in enumerate(times):
        assert sum(time <= other < time + 1.0 for other in times[index:]) <= TRIES_A_SECOND


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_one_address_is_never_tried_in_a_burst(dice: int, alive: int) -> None:
    """After the first tries a small mesh waits tens of seconds, and a large one longer."""
    who = Roster(
        "a",
        gossip_port=7946,
        overlay=OVERLAY,
        overlay_is_apart=False,
        forget_after=FOREVER,
        identity=nobody_certified(),
        rng=Random(dice),
    )
    for number in range(alive):
        who.observe(MemberJoined(gossiped(f"n{number}", f"198.51.100.{number + 1}", raw_meta=b"")), now=0.0)
    who.set_seeds([SeedAddress("192.0.2.9")], now=0.0)
    now, tries = 0.0, 0
    while now <= 3600.0:
        tries += len(who.due(now=now))
        now = who.next_timer()
    assert 3600.0 / LONGEST_WAIT <= tries <= 3600.0 / 10.0 + 5
