"""A machine that starts with a join file, starts again without it, or with one that it cannot use."""

from __future__ import annotations

import base64
import json
import os
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from wesher_agent.cli.commands import agent_settings, run
from wesher_agent.files.state_format import parse_state, render_state
from wesher_agent.mesh.nodemeta import Flag
from wesher_agent.mesh.roster import SavedMember
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.runtime.startup import Startup, start_up
from wesher_agent.swim.address import Address
from wesher_common.certificate import Authority, Certificate, Kind, Subject
from wesher_common.enrolment import is_enrolled
from wesher_common.errors import InvalidSpec
from wesher_common.join_file import JoinFile
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import IdentitySettings
from wesher_common.seeds import SeedAddress

AUTHORITY = Authority(bytes([1]) * 32)
SEED = bytes([9]) * 32
FIRST, SECOND, LATER = (ClusterKey(bytes([number]) * 32) for number in (1, 2, 3))
JOIN = JoinFile(
    mesh_name="prod",
    mesh_uid="u-1",
    ring=KeyRing(FIRST, (SECOND,)),
    seeds=(SeedAddress("192.0.2.1"), SeedAddress("seed.example", 7000)),
    label="blue",
    profile="LAN",
    overlay=ip_network("10.99.0.0/20"),
    name="laptop",
    cluster_name="east",
    authority=AUTHORITY.key,
    enrol_seed=SEED,
    gossip_port=7947,
    wireguard_port=51821,
    interface=f"wg{os.getpid()}j",
    mtu=1380,
)
GIVEN = ip_address("10.99.0.77")


def written(directory: Path, join: JoinFile = JOIN, **changes: Any) -> Path:
    """Write a join file that only this user can read."""
    path = directory / "join.json"
    path.write_text(json.dumps(json.loads(join.to_json()) | changes))
    path.chmod(0o600)
    return path


def flags_in(directory: Path) -> list[str]:
    return [f"--state-dir={directory}", f"--run-dir={directory}", f"--hosts-file={directory / 'hosts'}"]


async def begun(
    directory: Path, *flags: str, join: JoinFile | None = JOIN, saved: SavedState | None = None
) -> Startup:
    """Start with a join file and what an earlier run left."""
    if saved is not None:
        (directory / f"{JOIN.interface}.json").write_text(render_state(saved))
    given = [f"--join-file={written(directory, join)}"] if join is not None else []
    async with AsyncExitStack() as held:
        return await start_up(agent_settings([*flags_in(directory), *given, *flags], {}), held)


def certificate_of(key: WireGuardPrivateKey, *, by: Authority = AUTHORITY) -> Certificate:
    about = Subject(name="laptop.east", public_key=key.public, address=GIVEN)
    return by.issue(about, serial=1_790_000_000_000, kind=Kind.PEER)


def left_by(begin: Startup, **changes: Any) -> SavedState:
    """Return the state that such a run saves, once it has a certificate."""
    local = begin.local
    state = SavedState(
        key_ring=local.ring,
        private_key=local.private_key,
        name=local.name,
        nodes=(SavedMember(name="n0.east", address=Address("192.0.2.1", 7947), raw_meta=b""),),
        overlay_address=GIVEN,
        certificate=certificate_of(local.private_key),
        joined=local.joined,
    )
    state = replace(state, **changes)
    read, problems = parse_state(render_state(state).encode(), gossip_port=7947)
    assert problems == []
    return read


async def test_a_join_file_decides_all_that_a_machine_needs(tmp_path: Path) -> None:
    begin = await begun(tmp_path)
    local, document = begin.local, begin.local.document
    assert local.name == "laptop.east"
    assert (local.ring, local.ring.number, begin.key_is_new) == (JOIN.ring, 0, False)
    assert (document.name, document.uid, document.cluster_name) == ("prod", "u-1", "")
    assert (document.overlay, document.seed_nodes) == (JOIN.overlay, JOIN.seeds)
    assert (document.gossip.port, document.gossip.profile, document.gossip.label) == (7947, "LAN", "blue")
    wireguard = document.wireguard
    assert (wireguard.port, wireguard.interface, wireguard.mtu) == (51821, JOIN.interface, 1380)
    assert document.etc_hosts == "Qualified"
    assert document.identity == IdentitySettings(mode="Verified", bound=True, authorities=(AUTHORITY.key,))
    assert begin.state_file.present_path() is None

    meta = local.with_first_address(begin.saved).node_meta
    proof = {"mesh_uid": "u-1", "name": "laptop.east", "key": local.private_key.public}
    assert is_enrolled(Authority(SEED).key, meta.enrolment, **proof)  # type: ignore[arg-type]
    assert meta.flags == Flag.MOVABLE, "its address is not settled yet"
    peer = local.with_first_address(begin.saved).peer(only_certified=True)
    assert peer is not None
    assert peer.mesh == "prod", "hosts entries are as in the cluster"


async def test_the_next_start_needs_no_join_file(tmp_path: Path) -> None:
    first = await begun(tmp_path)
    saved = left_by(first)
    again = await begun(tmp_path, f"--interface={JOIN.interface}", join=None, saved=saved)
    local = again.local.with_first_address(again.saved)
    assert local.document == first.local.document
    assert (local.name, local.ring, local.private_key) == ("laptop.east", JOIN.ring, first.local.private_key)
    assert (local.overlay_address, local.is_movable) == (GIVEN, False)
    assert local.node_meta.certificate == saved.certificate
    assert local.node_meta.enrolment == b""
    assert again.saved.nodes == saved.nodes


@pytest.mark.parametrize("join", [JOIN, None], ids=["with the join file", "without it"])
async def test_a_saved_key_ring_is_newer_than_the_invite_that_was_used(
    tmp_path: Path, join: JoinFile | None
) -> None:
    """A service may name the join file at each start."""
    newer = KeyRing(LATER, (), 1_790_000_000_001)
    saved = left_by(await begun(tmp_path), key_ring=newer)
    again = await begun(tmp_path, f"--interface={JOIN.interface}", join=join, saved=saved)
    assert (again.local.ring, again.local.ring.number) == (newer, newer.number)


async def test_another_invite_brings_its_own_key_ring(tmp_path: Path) -> None:
    saved = left_by(await begun(tmp_path), key_ring=KeyRing(FIRST, (), 5))
    another = replace(JOIN, ring=KeyRing(LATER), enrol_seed=bytes([8]) * 32)
    again = await begun(tmp_path, join=another, saved=saved)
    assert (again.local.ring, again.local.ring.number) == (KeyRing(LATER), 0)
    assert again.saved.nodes == saved.nodes, "of the same mesh"


@pytest.mark.parametrize(
    "state",
    [
        SavedState(key_ring=KeyRing(SECOND), private_key=WireGuardPrivateKey(b"p" * 32), name="laptop.east"),
        SavedState(
            joined=replace(JOIN, mesh_uid="u-0"), certificate=certificate_of(WireGuardPrivateKey(b"p" * 32))
        ),
    ],
    ids=["not invited", "invited to another mesh"],
)
async def test_of_another_mesh_only_the_wireguard_key_is_kept(tmp_path: Path, state: SavedState) -> None:
    nodes = (SavedMember(name="x", address=Address("192.0.2.9", 7946), raw_meta=b""),)
    state = replace(state, private_key=WireGuardPrivateKey(b"p" * 32), name="laptop.east", nodes=nodes)
    begin = await begun(tmp_path, saved=state)
    assert begin.saved == SavedState(private_key=state.private_key)
    assert (begin.local.ring, begin.local.place) == (JOIN.ring, None)
    assert begin.local.private_key == state.private_key


async def test_a_machine_that_is_invited_under_another_name_gets_another_key(tmp_path: Path) -> None:
    saved = left_by(await begun(tmp_path))
    again = await begun(tmp_path, join=replace(JOIN, name="tablet"), saved=saved)
    assert again.local.private_key != saved.private_key
    assert again.local.place is None, "the certificate is for the former name"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--cluster-port=7946"],
            "--cluster-port '7946': contradicts --join-file, which says 7947: leave it out",
        ),
        (
            ["--wireguard-port=1"],
            "--wireguard-port '1': contradicts --join-file, which says 51821: leave it out",
        ),
        (
            ["--overlay-net=10.0.0.0/8"],
            "--overlay-net '10.0.0.0/8': contradicts --join-file, which says 10.99.0.0/20",
        ),
        (["--node-name=x"], "--node-name 'x': contradicts --join-file, which says laptop.east: leave it out"),
        (
            ["--gossip-profile=WAN"],
            "--gossip-profile 'WAN': contradicts --join-file, which says LAN: leave it out",
        ),
        (["--label=red"], "--label 'red': contradicts --join-file, which says blue: leave it out"),
        (["--ip-as-name"], "--ip-as-name 'True': contradicts --join-file, which says False: leave it out"),
        ([f"--authority={base64.b64encode(bytes(32)).decode()}"], "--authority 'AAAA"),
        (
            [f"--cluster-key={LATER.reveal_base64()}"],
            "--cluster-key: contradicts --join-file, which has another",
        ),
        (["--init"], "--init: cannot be combined with --join-file: the file is for a mesh that exists"),
        (["--kubernetes=/run/mesh"], "--join-file: cannot be combined with --kubernetes"),
    ],
)
async def test_a_flag_that_contradicts_the_join_file_is_refused(
    tmp_path: Path, flags: list[str], line: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        await begun(tmp_path, *flags)
    assert str(refused.value).startswith(line)
    assert LATER.reveal_base64() not in str(refused.value)


async def test_flags_that_agree_or_are_this_machines_own_affair_are_taken(tmp_path: Path) -> None:
    begin = await begun(
        tmp_path,
        "--label=blue",
        "--node-name=laptop.east",
        f"--cluster-key={SECOND.reveal_base64()}",
        "--join=192.0.2.200",
        f"--interface=wg{os.getpid()}k",
        "--mtu=1300",
        "--no-etc-hosts",
    )
    document = begin.local.document
    assert document.seed_nodes == (SeedAddress("192.0.2.200"), *JOIN.seeds)
    assert (document.wireguard.interface, document.wireguard.mtu) == (f"wg{os.getpid()}k", 1300)
    assert document.etc_hosts == "Off"
    assert begin.local.ring == JOIN.ring


async def test_a_flag_that_contradicts_the_saved_invite_is_refused_too(tmp_path: Path) -> None:
    saved = left_by(await begun(tmp_path))
    flags = [f"--interface={JOIN.interface}", "--overlay-net=10.0.0.0/8"]
    with pytest.raises(InvalidSpec, match="contradicts the invite that this machine joined with, which says"):
        await begun(tmp_path, *flags, join=None, saved=saved)
    fresh = await begun(tmp_path, *flags, "--init", join=None, saved=saved)
    assert fresh.local.document.uid == "", "--init leaves the mesh of the invite"
    assert fresh.key_is_new


async def test_a_machine_whose_saved_invite_is_damaged_does_not_become_open(tmp_path: Path) -> None:
    """Otherwise every holder of the cluster key would get a tunnel."""
    saved = left_by(await begun(tmp_path))
    state = tmp_path / f"{JOIN.interface}.json"
    content = json.loads(render_state(saved))
    content["Joined"]["authority"] = "AAAA"
    state.write_text(json.dumps(content))
    with pytest.raises(InvalidSpec) as refused:
        await begun(tmp_path, f"--interface={JOIN.interface}", join=None)
    assert "Joined: join file authority: must decode to exactly 32 bytes, not 3, so this" in str(
        refused.value
    )
    again = await begun(tmp_path)
    assert again.local.document.identity is not None, "with the join file it starts"


async def test_a_stale_key_file_does_not_beat_the_ring_of_an_invited_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a key rotation, a service may still name the file with the former key."""
    saved = left_by(await begun(tmp_path), key_ring=KeyRing(LATER, (), 7))
    flags = [f"--interface={JOIN.interface}", f"--cluster-key={FIRST.reveal_base64()}"]
    again = await begun(tmp_path, *flags, join=None, saved=saved)
    assert again.local.ring == KeyRing(LATER)
    assert (
        f"cluster key not used: this machine was invited and has a newer key ring key={FIRST.id}"
        in caplog.text
    )


async def test_a_machine_with_an_authority_keeps_its_certificate_and_a_newer_ring(tmp_path: Path) -> None:
    """It was admitted by its key, without a join file."""
    key = WireGuardPrivateKey.from_random(b"p" * 32)
    saved = SavedState(
        key_ring=KeyRing(LATER, (FIRST,), 7),
        private_key=key,
        name="laptop.east",
        overlay_address=GIVEN,
        certificate=certificate_of(key),
    )
    flags = [
        f"--interface={JOIN.interface}",
        "--node-name=laptop.east",
        f"--cluster-key={FIRST.reveal_base64()}",
    ]
    flags += ["--overlay-net=10.0.0.0/8", f"--authority={AUTHORITY.key}"]
    begin = await begun(tmp_path, *flags, join=None, saved=saved)
    assert begin.local.document.identity is not None
    assert begin.local.place is not None
    assert begin.local.place.certificate == saved.certificate
    assert (begin.local.ring, begin.local.ring.number) == (saved.key_ring, 7)
    # Another mesh's authority cannot have signed it.
    foreign = [*flags[:-1], f"--authority={Authority(bytes([2]) * 32).key}"]
    assert (await begun(tmp_path, *foreign, join=None, saved=saved)).local.place is None


# At the command line.


def error_of(directory: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["agent", *flags_in(directory), f"--join-file={path}"], {}) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for secret in (FIRST.reveal_base64(), base64.b64encode(SEED).decode()):
        assert secret not in captured.err
    assert not list(directory.glob("*.sock"))
    return captured.err.removeprefix(f"wesher: error: --join-file {str(path)!r}: ").rstrip("\n")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"version": 2}, "join file version '2': this agent supports version 1"),
        ({"mesh": 7}, "join file mesh: must be a JSON object"),
        ({"mesh": {"name": "A B", "uid": "u"}}, "join file mesh.name 'A B': "),
        ({"mesh": {"name": "prod", "uid": ""}}, "join file mesh.uid '': must be the UID"),
        ({"name": ""}, "join file name '': must be a DNS name"),
        ({"name": "localhost", "clusterName": ""}, "join file name 'localhost': must be a DNS name"),
        ({"clusterName": "a b"}, "join file clusterName 'a b': must be at most"),
        ({"seeds": []}, "join file seeds: must be 1 to 16 addresses, not 0"),
        ({"seeds": ["a b"]}, "join file seeds[0] 'a b': must be a host name or IP address"),
        ({"overlay": "10.0.0.1/8"}, "join file overlay '10.0.0.1/8': must be a network"),
        ({"label": "x" * 256}, "join file label"),
        ({"profile": "slow"}, "join file profile 'slow': must be one of LAN, WAN"),
        ({"ports": {"gossip": 0}}, "join file ports.gossip '0': must be a whole number"),
        ({"ports": {"wireguard": "x"}}, "join file ports.wireguard 'x': must be a whole number"),
        ({"ports": {"gossip": 7, "wireguard": 7}}, "join file ports.gossip '7': must differ"),
        ({"interface": "a b"}, "join file interface 'a b': must be 1 to 15 bytes"),
        ({"mtu": 5}, "join file mtu '5': must be 0 or at least 1280"),
        ({"etcHosts": "Yes"}, "join file etcHosts 'Yes': must be one of"),
        ({"authority": "AAAA"}, "join file authority: must decode to exactly 32 bytes, not 3"),
        ({"clusterKeys": []}, "join file clusterKeys: must be 1 to 16 keys, not 0"),
        ({"clusterKeys": ["AAAA"]}, "join file clusterKeys[0]: must decode to exactly 32 bytes, not 3"),
        ({"enrolSeed": "AAAA"}, "join file enrolSeed: must be standard base64 of 32 bytes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_bad_field_is_one_line(
    tmp_path: Path, changes: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(tmp_path, written(tmp_path, **changes), capsys).startswith(line)


def test_every_field_of_the_file_has_a_bad_value_above() -> None:
    (cases,) = (mark for mark in test_each_bad_field_is_one_line.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]
    tried = {key for changes, _ in cases.args[1] for key in changes}
    assert tried == set(json.loads(JOIN.to_json()))


def test_a_join_file_that_others_can_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ssh does with a private key."""
    path = written(tmp_path)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        line = error_of(tmp_path, path, capsys)
        assert line == f"must be closed to other users: run chmod 600 {path}"


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"\xff", "is not text"), (b"{", "join file is not JSON"), (b"[]", "join file: must be a JSON object")],
)
def test_a_file_that_is_no_join_file_is_refused(
    tmp_path: Path, content: bytes, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    path.write_bytes(content)
    assert error_of(tmp_path, path, capsys).replace("join file: is", "join file is").startswith(line)


def test_a_join_file_that_is_missing_or_a_directory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(tmp_path, tmp_path / "none", capsys).startswith("cannot be read: No such file")
    assert error_of(tmp_path, tmp_path, capsys).startswith("is a directory, not a regular file")
