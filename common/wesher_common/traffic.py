"""``spec.traffic`` as agents read it: which packets of the cluster itself the mesh carries, and how.

What a member may carry is in its certificate (`certificate.Subject.networks`). These settings say
which of that each agent routes into its tunnels, and by which mark, table and rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Literal, get_args

from wesher_common.errors import InvalidSpec
from wesher_common.json_section import JsonSection
from wesher_common.overlay import IPNetwork
from wesher_common.seeds import MAX_PORT, SeedAddress

NodeTraffic = Literal["None", "OtherLocations", "All"]
PodTraffic = Literal["None", "OtherClusters", "OtherLocations", "All"]
ApiServerWay = Literal["Direct", "Mesh"]
Transport = Literal["tcp", "udp"]

DEFAULT_MARK = 0x80
"""One bit that the marks of kube-proxy (0x4000, 0x8000), Calico (0xffff0000), Cilium (0x0f00 and above),
KubeSpan (0x20, 0x40), Tailscale (0xff0000), Istio (0x539) and wg-quick (0xca6c) do not have."""
DEFAULT_TABLE = 1870
DEFAULT_RULE_PRIORITY = 1870
"""After Cilium's rules (9 to 111), before the main table's (32766). Rules take it and the next six."""
LAST_RULE = 6
"""The offset of the last rule from the first."""
MAX_NODE_CIDRS = 16
MAX_DIRECT = 16
MAX_API_SERVERS = 16
_MAX_TABLE = 2**31 - 1
_FIRST_FREE_TABLE = 256
"""Tables up to 255 are the kernel's and those that rt_tables names."""
MAX_RULE_PRIORITY = 32766 - LAST_RULE - 1
"""The last rule still comes before that of the main table (32766)."""
_MAX_MARK = 2**31


@dataclass(frozen=True, slots=True, order=True)
class DirectPort:
    """A port whose packets between nodes never go through the mesh."""

    transport: Transport
    port: int

    def __str__(self) -> str:
        """Return the form `parse_direct_port` reads, such as ``tcp/2379``."""
        return f"{self.transport}/{self.port}"


def parse_direct_port(text: str, *, field: str) -> DirectPort:
    """Read ``tcp/2379``.

    Raises:
        InvalidSpec: it is something else.

    """
    transport, _, port = text.partition("/")
    if transport in get_args(Transport) and port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT:
        return DirectPort("tcp" if transport == "tcp" else "udp", int(port))
    raise InvalidSpec(field, "must be tcp/PORT or udp/PORT, such as tcp/2379", value=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSettings:
    """``spec.traffic`` of a WesherMesh, with its defaults filled in."""

    nodes: NodeTraffic = "None"
    """To which nodes' InternalIPs packets go through the tunnels."""
    pods: PodTraffic = "None"
    """To which pods packets go through the tunnels."""
    node_cidrs: tuple[IPNetwork, ...] = ()
    """Only InternalIPs inside these are certified."""
    direct: tuple[DirectPort, ...] = ()
    """Packets between nodes, from or to these ports, go through no tunnel."""
    api_servers: tuple[SeedAddress, ...] = ()
    """Where the API server listens, as ``address:port``; packets from and to it go through no tunnel. Empty
    with ``apiServer: Mesh``."""
    mark: int = DEFAULT_MARK
    """The bit that WireGuard's and gossip's own packets have set in their mark."""
    table: int = DEFAULT_TABLE
    """The routing table with the routes into the tunnels."""
    rule_priority: int = DEFAULT_RULE_PRIORITY
    """The priority of the first routing rule."""

    @property
    def is_on(self) -> bool:
        """Whether anything beside the overlay's own packets is to be carried."""
        return self.nodes != "None" or self.pods != "None"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape."""
        return {
            "nodes": self.nodes,
            "pods": self.pods,
            "nodeCIDRs": [str(network) for network in self.node_cidrs],
            "direct": [str(port) for port in self.direct],
            "apiServers": [str(address) for address in self.api_servers],
            "mark": self.mark,
            "table": self.table,
            "rulePriority": self.rule_priority,
        }

    @classmethod
    def from_section(cls, section: JsonSection) -> TrafficSettings:
        """Read the JSON shape.

        Raises:
            InvalidSpec: naming the key and its rule.

        """
        api_servers = section.seeds("apiServers")
        for index, each in enumerate(api_servers):
            if each.address is None or each.port is None:
                raise InvalidSpec(
                    f"{section.field('apiServers')}[{index}]", "must be an IP address and a port", value=each
                )
        mark = section.number("mark", DEFAULT_MARK, 1, _MAX_MARK)
        if mark.bit_count() != 1:
            raise InvalidSpec(section.field("mark"), "must have exactly one bit set", value=mark)
        return cls(
            nodes=section.choice("nodes", "None", get_args(NodeTraffic)),
            pods=section.choice("pods", "None", get_args(PodTraffic)),
            node_cidrs=tuple(_networks(section, "nodeCIDRs", MAX_NODE_CIDRS)),
            direct=tuple(
                parse_direct_port(text, field=f"{section.field('direct')}[{index}]")
                for index, text in enumerate(_bounded(section, "direct", MAX_DIRECT))
            ),
            api_servers=api_servers[:MAX_API_SERVERS],
            mark=mark,
            table=section.number("table", DEFAULT_TABLE, _FIRST_FREE_TABLE, _MAX_TABLE),
            rule_priority=section.number("rulePriority", DEFAULT_RULE_PRIORITY, 1, MAX_RULE_PRIORITY),
        )


NO_TRAFFIC = TrafficSettings()


def _bounded(section: JsonSection, key: str, most: int) -> list[str]:
    texts = section.texts(key)
    if len(texts) > most:
        raise InvalidSpec(section.field(key), f"must have at most {most} entries")
    return texts


def _networks(section: JsonSection, key: str, most: int) -> list[IPNetwork]:
    networks = []
    for index, text in enumerate(_bounded(section, key, most)):
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            rule = "must be a network such as 10.1.0.0/16, without host bits"
            raise InvalidSpec(f"{section.field(key)}[{index}]", rule, value=text) from error
    return networks
