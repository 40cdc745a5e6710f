"""Whatever stands in a file, foreign hosts lines survive us and a state is read without an error."""

import json
from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from wesher_agent.files.hosts import render_hosts
from wesher_agent.files.state_format import parse_state, render_state
from wesher_agent.mesh.desired import HostEntry

BANNER = b"# ! managed automatically by wesher interface "
entries = st.lists(
    st.builds(HostEntry, st.ip_addresses(), st.text("abc.-", min_size=1, max_size=10)),
    max_size=5,
    unique_by=lambda entry: entry.address,
)
lines = st.lists(
    st.binary(max_size=20)
    | st.sampled_from(
        [b"10.0.0.1\tb\t" + BANNER + b"wg", b"::1 x " + BANNER + b"wg2", BANNER + b"wg", b"\r", b""]
    ),
    max_size=8,
)


def foreign(content: bytes) -> list[bytes]:
    return [line for line in content.split(b"\n") if line and not line.strip().endswith(BANNER + b"wg")]


@settings(max_examples=100, deadline=None)
@given(lines, entries)
def test_foreign_lines_survive_and_ours_are_exactly_the_entries(
    old: list[bytes], wanted: list[HostEntry]
) -> None:
    before = b"\n".join(old)
    after = render_hosts(before, wanted, "wg")
    assert foreign(after) == foreign(before)
    ours = [line.split() for line in after.split(b"\n") if line.endswith(BANNER + b"wg")]
    assert {(ip_address(line[0].decode()), line[1].decode()) for line in ours} == {
        (entry.address, entry.name) for entry in wanted
    }
    assert len(ours) == len(wanted)
    assert render_hosts(after, wanted, "wg") == after


@settings(max_examples=100, deadline=None)
@given(lines)
def test_what_was_added_is_taken_out_again(old: list[bytes]) -> None:
    before = b"".join(line + b"\n" for line in foreign(b"\n".join(old)))
    entry = HostEntry(ip_address("10.9.8.7"), "b")
    assert render_hosts(render_hosts(before, [entry], "wg"), [], "wg") == before


known = st.sampled_from(
    [
        "ClusterKey",
        "Nodes",
        "AcceptedKeys",
        "PrivateKey",
        "Name",
        "GossipAddress",
        "OverlayAddress",
        "AdvertiseAddress",
        "Location",
        "Routes",
        "Incarnation",
        "Tombstones",
        "Mesh",
        "Other",
    ]
)
node_keys = st.sampled_from(["Name", "Addr", "Meta", "Port", "Away", "Age", "Incarnation", "version", "name"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
json_values = st.recursive(
    scalars | st.just("10.0.0.1"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(node_keys | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(known, json_values, max_size=8))
def test_any_json_is_read_as_far_as_it_makes_sense(document: dict[str, Any]) -> None:
    state, problems = parse_state(json.dumps(document).encode(), gossip_port=7946)
    assert all("\n" not in problem for problem in problems)
    again, problems = parse_state(render_state(state).encode(), gossip_port=7946)
    assert problems == []
    assert render_state(again) == render_state(state)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=50))
def test_any_bytes_are_read(content: bytes) -> None:
    _, problems = parse_state(content, gossip_port=7946)
    assert problems or content.strip().startswith(b"{")
