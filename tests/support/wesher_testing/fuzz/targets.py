"""Every decoder that reads bytes of others, in the one form in which they are fuzzed.

A target reads bytes and raises nothing but its refusals. Where an agent reads in slices, so that
others get their turn between them, it says `lap` there: what may not take long is one slice.
Which inputs there are is left to `wesher_testing.fuzz.fuzzer` and the kept corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wesher_agent.control import read_answer, read_request
from wesher_agent.files.hosts import render_hosts
from wesher_agent.files.state_format import parse_state, render_state
from wesher_agent.flags import FLAGS
from wesher_agent.kube.exchange import Exchange
from wesher_agent.kube.node_spec import NodeSpec
from wesher_agent.mesh.desired import HostEntry, desired
from wesher_agent.mesh.gob import Field, Marshalled, decode_struct, encode_struct
from wesher_agent.mesh.news import MARK, read_numbers
from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.mesh.roster import Roster
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.host import parse_address
from wesher_agent.netlink.messages import NLMSG_DONE, NLMSG_ERROR, parse_messages
from wesher_agent.netlink.route_messages import parse_route
from wesher_agent.settings import parse_settings
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.members import MAX_INCARNATION, LocalNode
from wesher_agent.swim.profile import LAN
from wesher_agent.swim.streams import OpenStream, StreamId
from wesher_agent.wire.keyring import NONCE_SIZE, PADDED, UNPADDED, Keyring
from wesher_agent.wire.limits import DATAGRAM
from wesher_agent.wire.lzw import decompress
from wesher_agent.wire.messages import MessageType, State, decode
from wesher_agent.wire.packet import UDP_PAYLOAD, PacketFormat, label_header, open_packet
from wesher_agent.wire.stream import StreamReader
from wesher_agent.wireguard.uapi import parse_get, parse_sessions, parse_set
from wesher_agent.wireguard.wireguard_messages import parse_device
from wesher_agent.wireguard.wireguard_messages import parse_sessions as parse_kernel_sessions
from wesher_common.byte_reader import ByteReader
from wesher_common.certificate import Authority, Certificate, Refusal, Subject, Trust, refusal
from wesher_common.errors import InvalidSpec, PeerMisbehaved, WesherError
from wesher_common.join_file import JoinFile
from wesher_common.keys import KeyRing
from wesher_common.mesh_document import MeshDocument
from wesher_common.news import Statement, pack_news, statement_in, unpack_news
from wesher_common.seeds import parse_seed
from wesher_testing.virtual.members import OVERLAY, PORT, local_peer, meta, nobody_certified, private_key

KEY, OTHER_KEY = bytes(range(32)), bytes(16)
LABEL = b"label"
PLAIN = PacketFormat(None, compress=False)
ENCRYPTED = PacketFormat(Keyring(OTHER_KEY, [KEY]), LABEL)
"""What opens a packet sealed under the second key of a ring."""

COMPACT = b"\0"
"""How metadata in compact form begins."""
TWO_FIELDS = [
    Field("OverlayAddr", Marshalled(ip_address("10.189.0.7").packed), "Addr"),
    Field("PubKey", str(private_key("go").public)),
]
"""The metadata of a Go member."""
AUTHORITY = Authority(bytes(32))
SUBJECT = Subject(name="a", public_key=private_key("a").public, address=ip_address("10.189.0.8"))

Lap = Callable[[], None]
"""Says that the reader gives others their turn here."""


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder."""

    read: Callable[[bytes, Lap], None]
    """Raises a refusal, or AssertionError where what it read breaks a rule; anything else is a fault."""
    refusals: tuple[type[Exception], ...] = (PeerMisbehaved,)
    most: int = 1500
    """Bytes of an input: enough for every shape, few enough to try many."""
    json: bool = False
    """Whether inputs are JSON, which changes of single bytes rarely leave intact."""

    def take(self, data: bytes, lap: Lap) -> None:
        """Read, and let a refusal pass.

        Raises:
            Exception: the decoder has a fault.

        """
        with suppress(*self.refusals):
            self.read(data, lap)


def sealed(plain: bytes, *, version: int, associated: bytes) -> bytes:
    """Return an encrypted payload of exactly these bytes, which `Keyring.seal` would pad."""
    nonce = bytes(NONCE_SIZE)
    return bytes((version,)) + nonce + AESGCM(KEY).encrypt(nonce, plain, associated)


def _datagram(data: bytes, _lap: Lap) -> None:
    open_packet(data, ENCRYPTED)


def _opened_datagram(data: bytes, _lap: Lap) -> None:
    """Read what somebody who has the key can send; the first byte chooses the encryption version."""
    version = PADDED if data[:1] == b"\0" else UNPADDED
    open_packet(label_header(LABEL) + sealed(data[1:], version=version, associated=LABEL), ENCRYPTED)


def _stream(fmt: PacketFormat) -> Callable[[bytes, Lap], None]:
    def read(data: bytes, lap: Lap) -> None:
        """Read a connection's bytes; the first says in which pieces they come."""
        size = 1 + data[0] if data else 1
        _read_stream((data[place : place + size] for place in range(1, len(data), size)), fmt, lap)

    return read


def _opened_stream(data: bytes, lap: Lap) -> None:
    """Read what somebody who has the key can send; the first byte chooses the encryption version."""
    version = PADDED if data[:1] == b"\0" else UNPADDED
    size = len(sealed(data[1:], version=version, associated=b""))
    header = struct.pack(">BI", MessageType.ENCRYPT, size)
    body = header + sealed(data[1:], version=version, associated=header + LABEL)
    _read_stream(iter([label_header(LABEL) + body]), ENCRYPTED, lap)


def _read_stream(pieces: Iterator[bytes], fmt: PacketFormat, lap: Lap) -> None:
    reader = StreamReader(fmt)
    for piece in pieces:
        reader.feed(piece)
        lap()
        while reader.step() is None and not reader.hungry:
            lap()


def _message(data: bytes, _lap: Lap) -> None:
    decode(data)


def _lzw(data: bytes, _lap: Lap) -> None:
    assert len(decompress(data, DATAGRAM)) <= DATAGRAM.most


def _gob(data: bytes, _lap: Lap) -> None:
    decode_struct(data)


def _metadata(data: bytes, _lap: Lap) -> None:
    NodeMeta.decode(data)


def _compact(data: bytes, _lap: Lap) -> None:
    """Read metadata in compact form, which has one form for one content."""
    read = NodeMeta.decode(COMPACT + data)
    written = read.encode(compact=True)
    assert (len(written), NodeMeta.decode(written)) == (len(COMPACT + data), read)


def _block(data: bytes, _lap: Lap) -> None:
    """Read a block beside the two fields of a Go member."""
    read = NodeMeta.decode(encode_struct("nodeMeta", [*TWO_FIELDS, Field("W", data)]))
    if data:
        assert NodeMeta.decode(read.encode(compact=True)) == read


def _certificate(data: bytes, _lap: Lap) -> None:
    """Read a certificate, and judge it: no bytes but the authority's own are a signature."""
    reader = ByteReader(data, "certificate")
    certificate = Certificate.read(reader)
    reader.end()
    assert certificate.packed() == data
    assert Certificate.from_base64(certificate.to_base64()) == certificate
    trusted = {certificate.authority: Trust(key=AUTHORITY.key)}
    assert refusal(certificate, SUBJECT, trusted, clock=certificate.serial) is Refusal.BAD_SIGNATURE


def _statement(data: bytes, _lap: Lap) -> None:
    """Read a statement, alone and in a file: no bytes but the authority's own are a signature."""
    read = Statement.unpacked(data)
    assert (read.packed(), statement_in(data)) == (data, data)
    assert not read.is_signed_by(AUTHORITY.key)


def _news_file(data: bytes, _lap: Lap) -> None:
    """Read the mounted news; what is read and written again is read the same."""
    items = unpack_news(data)
    assert unpack_news(pack_news(items)) == items


def _news_numbers(data: bytes, _lap: Lap) -> None:
    numbers = read_numbers(MARK + data)
    assert len(data) >= 1 + 10 * len(numbers)


ME = Address("10.0.0.1", PORT)
MY_META = meta("me").encode()
MY_NODE = local_peer("me")
_SENDERS = tuple(Address(f"10.0.0.{number}", PORT) for number in range(2, 6))
_TICK = 0.1
_MOST_TICKS = 100
_STREAMS_KEPT = 8


def _engine(data: bytes, lap: Lap) -> None:
    """Tell a member's engine a story of datagrams, connections and time, and see that its rules hold.

    Each step begins with a byte: its last two bits say what happens, the next two who does it.
    """
    story = _Story(lap)
    place = 0
    while place < len(data):
        what, sender = data[place] & 3, _SENDERS[data[place] >> 2 & 3]
        if what == 0:
            story.wait(data[place + 1 : place + 2])
            place += 2
            continue
        size = int.from_bytes(data[place + 1 : place + 3])
        body = data[place + 3 : place + 3 + size]
        place += 3 + size
        if what == 1:
            story.datagram(body, sender)
        elif what == 2:
            story.request(body, sender)
        else:
            story.answer(body)
    story.tell_the_mesh()


class _Story:
    """One engine, its roster, and what has happened to them."""

    def __init__(self, lap: Lap) -> None:
        self._lap = lap
        self._now = 0.0
        self._ticks = 0
        self._dialled: list[StreamId] = []
        self._engine = Engine(
            LocalNode("me", ME, MY_META),
            LAN,
            packet_format=PLAIN,
            incarnation=1,
            rng=Random(1),
            nonce=bytes,
        )
        self._roster = Roster(
            "me",
            gossip_port=PORT,
            overlay=OVERLAY,
            overlay_is_apart=False,
            forget_after=3600.0,
            identity=nobody_certified(),
            rng=Random(1),
        )
        self._incarnation = self._engine.me.incarnation
        self._engine.start(now=0.0)
        self._look()

    def wait(self, ticks: bytes) -> None:
        """Let time pass, but no more than `_MOST_TICKS` in a story."""
        count = min(int.from_bytes(ticks), _MOST_TICKS - self._ticks)
        self._ticks += count
        self._now += count * _TICK
        while (at := self._engine.next_timer()) is not None and at <= self._now:
            self._engine.handle_timer(now=self._now)
            self._look()

    def datagram(self, body: bytes, sender: Address) -> None:
        """Receive one."""
        self._engine.receive_datagram(body, sender, now=self._now)
        self._look()

    def request(self, body: bytes, sender: Address) -> None:
        """Accept a connection with a request on it, which then ends."""
        stream = self._engine.stream_accepted(sender, now=self._now)
        if stream is not None:
            self._receive(stream, body)

    def answer(self, body: bytes) -> None:
        """Receive an answer on the connection we opened last."""
        if self._dialled:
            self._receive(self._dialled.pop(), body)

    def tell_the_mesh(self) -> None:
        """Make the whole network of it, as an agent does."""
        wish = desired(MY_NODE, self._roster.members.values())
        addresses = [network for peer in wish.device.peers for network in peer.allowed_ips]
        assert len(addresses) == len(set(addresses)), "two owners of one address"

    def _receive(self, stream: StreamId, body: bytes) -> None:
        self._engine.stream_received(stream, body, now=self._now)
        self._look()
        self.wait(b"\0")
        self._engine.stream_closed(stream, now=self._now)
        self._look()

    def _look(self) -> None:
        engine = self._engine
        for action in engine.stream_actions():
            if isinstance(action, OpenStream):
                self._dialled = [*self._dialled[1 - _STREAMS_KEPT :], action.id]
        assert all(len(datagram) <= UDP_PAYLOAD for datagram, _ in engine.datagrams_to_send())
        while (event := engine.next_event()) is not None:
            self._roster.observe(event, now=self._now)
        me = engine.me
        assert self._incarnation <= me.incarnation <= MAX_INCARNATION
        # Gone from the last incarnation only, and for a moment, to return with any other.
        assert me.state is State.ALIVE or me.incarnation == MAX_INCARNATION
        self._incarnation = me.incarnation if me.state is State.ALIVE else 0
        self._lap()


def _state_file(data: bytes, _lap: Lap) -> None:
    state, _ = parse_state(data, gossip_port=PORT)
    written = render_state(state).encode()
    assert parse_state(written, gossip_port=PORT)[1] == [], "a state that was read cannot be read again"


def _mesh_document(data: bytes, _lap: Lap) -> None:
    document = MeshDocument.from_json(data.decode())
    assert len(document.config_hash) > 0
    assert MeshDocument.from_json(document.to_json()) == document


def _join_file(data: bytes, _lap: Lap) -> None:
    file = JoinFile.from_json(data.decode())
    assert JoinFile.from_json(file.to_json()) == file


def _key_files(data: bytes, _lap: Lap) -> None:
    primary, _, accepted = data.decode().partition("\0")
    assert len([*KeyRing.from_files(primary, accepted)]) > 0


def _seed(data: bytes, _lap: Lap) -> None:
    seed = parse_seed(data.decode(), field="seed")
    assert parse_seed(str(seed), field="seed") == seed


_NOT_GIVEN = argparse.Namespace(**{flag.attribute: None for flag in FLAGS})


def _environment(data: bytes, _lap: Lap) -> None:
    """Read settings out of an environment; each line of the input is a variable."""
    # As Python gives an environment: what is no UTF-8 comes as halves of surrogate pairs.
    lines = [os.fsdecode(line).partition("=") for line in data.replace(b"\0", b"").split(b"\n")]
    parse_settings(_NOT_GIVEN, {name: value for name, _, value in lines}).mesh_document()


def _uapi_get(data: bytes, _lap: Lap) -> None:
    assert parse_sessions(data).keys() == parse_get(data).peers.keys()


def _uapi_set(data: bytes, _lap: Lap) -> None:
    assert parse_set(data) >= 0


def _netlink(data: bytes, _lap: Lap) -> None:
    """Read a netlink answer as a whole: errors, WireGuard devices and routes alike."""
    bodies = []
    for message in parse_messages(data):
        if message.kind in {NLMSG_ERROR, NLMSG_DONE}:
            assert isinstance(message.errno, int)
        else:
            bodies.append(message.body)
    assert parse_kernel_sessions(bodies).keys() == parse_device(bodies).peers.keys()


def _route(data: bytes, _lap: Lap) -> None:
    parse_route(memoryview(data))


def _host_address(data: bytes, _lap: Lap) -> None:
    parse_address(memoryview(data))


_BANNER = b"# ! managed automatically by wesher interface wgoverlay"
_HOSTS = (HostEntry(ip_address("10.0.0.7"), "b"), HostEntry(ip_address("2001:db8::7"), "b"))


def _hosts_file(data: bytes, _lap: Lap) -> None:
    def foreign(content: bytes) -> list[bytes]:
        return [line for line in content.split(b"\n") if line and not line.strip().endswith(_BANNER)]

    written = render_hosts(data, _HOSTS, "wgoverlay")
    assert foreign(written) == foreign(data)
    assert render_hosts(written, _HOSTS, "wgoverlay") == written
    assert foreign(render_hosts(written, (), "wgoverlay")) == foreign(data)


def _control_request(data: bytes, _lap: Lap) -> None:
    read_request(data, ("leave", "members", "status"), ("news-add",))


def _control_answer(data: bytes, _lap: Lap) -> None:
    read_answer(data)


def _http_answer(data: bytes, _lap: Lap) -> None:
    """Read a connection's bytes to its end; the first says in which pieces they come."""
    exchange = Exchange("GET", "/", {"Host": "h"})
    size = 1 + data[0] if data else 1
    for piece in [*(data[place : place + size] for place in range(1, len(data), size)), b""]:
        if exchange.receive(piece) is not None:
            return
    raise AssertionError("neither an answer nor a refusal at the end of a connection")


def _wesher_node(data: bytes, _lap: Lap) -> None:
    """Read a WesherNode; that it is a JSON object, the client has seen."""
    content: Any = json.loads(data)
    if isinstance(content, dict):
        NodeSpec.from_object(content)


def mutate_json(data: bytes, rng: Random) -> bytes | None:
    """Return a document with one value somewhere in it replaced, None where it is no JSON."""
    try:
        document = json.loads(data)
    except _NOT_JSON:
        return None
    places: list[tuple[Any, Any]] = []
    unseen = [document]
    while unseen:
        value = unseen.pop()
        if isinstance(value, dict | list):
            found = list(value.items() if isinstance(value, dict) else enumerate(value))
            places += [(value, key) for key, _ in found]
            unseen += [inner for _, inner in found]
    other = rng.choice(_OTHER_JSON)
    if not places:
        document = other
    else:
        holder, key = rng.choice(places)
        if rng.random() < _SHARE_OF_REMOVALS:
            del holder[key]
        elif rng.random() < _SHARE_OF_COPIES:
            # A copy, lest the document come to hold itself.
            source, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(source[place]))
        else:
            holder[key] = other
    return json.dumps(document).encode()


_SHARE_OF_REMOVALS, _SHARE_OF_COPIES = 0.1, 0.3
_OTHER_JSON: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**16, 2**32 - 1, 2**32, 2**70, 1.5, 1e300, float("inf"), float("nan")),
    *(
        "",
        " ",
        "a",
        "\n",
        "\0",
        "\ud800",
        "\u0661",
        "%",
        "0.0.0.0",
        "224.0.0.1",
        "::",
        "fe80::1%eth0",
        "AA==",
    ),
    *([], {}, [None], [[]], [{}], {"": None}, {"a": "b"}, ["a"], [0], "a" * 300),
)

_NOT_JSON = (ValueError, RecursionError)

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "datagram": Target(_datagram),
        "datagram-opened": Target(_opened_datagram),
        "stream": Target(_stream(ENCRYPTED)),
        "stream-clear": Target(_stream(PLAIN)),
        "stream-opened": Target(_opened_stream),
        "message": Target(_message),
        "lzw": Target(_lzw),
        "gob": Target(_gob, most=512),
        "metadata": Target(_metadata, most=520),
        "metadata-compact": Target(_compact, most=520),
        "metadata-block": Target(_block, most=400),
        "certificate": Target(_certificate, most=100),
        "statement": Target(_statement, most=2000),
        "news-file": Target(_news_file, most=3000),
        "news-numbers": Target(_news_numbers, most=300),
        "engine": Target(_engine, refusals=(), most=3000),
        "state-file": Target(_state_file, refusals=(), most=3000, json=True),
        "join-file": Target(_join_file, refusals=(InvalidSpec, UnicodeDecodeError), json=True),
        "mesh-json": Target(_mesh_document, refusals=(InvalidSpec, UnicodeDecodeError), json=True),
        "key-files": Target(_key_files, refusals=(InvalidSpec, UnicodeDecodeError), most=300),
        "seed": Target(_seed, refusals=(InvalidSpec, UnicodeDecodeError), most=300),
        "environment": Target(_environment, refusals=(InvalidSpec,), most=500),
        "uapi-get": Target(_uapi_get, refusals=(MalformedReply,)),
        "uapi-set": Target(_uapi_set, refusals=(MalformedReply,), most=60),
        "netlink": Target(_netlink, refusals=(MalformedReply,)),
        "host-address": Target(_host_address, refusals=(MalformedReply,), most=300),
        "route": Target(_route, refusals=(MalformedReply,), most=300),
        "hosts-file": Target(_hosts_file, refusals=()),
        "control-request": Target(_control_request, refusals=(WesherError,), most=4096, json=True),
        "control-answer": Target(_control_answer, refusals=(WesherError, ValueError), json=True),
        "http-answer": Target(_http_answer, refusals=(ValueError,)),
        "wesher-node": Target(_wesher_node, refusals=(InvalidSpec, *_NOT_JSON), json=True),
    }
)
"""Every decoder by the name of its folder in the corpus."""
