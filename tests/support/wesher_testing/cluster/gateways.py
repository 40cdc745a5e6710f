"""Private networks of clouds, each behind a gateway that does 1:1 NAT, with a public network between them.

A gateway gives hosts external addresses and translates them, both ways and only there: no
private address has a way across, and inside its own network an external address leads nowhere,
unless the gateway answers for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

from wesher_testing.cluster.kubelets import Site
from wesher_testing.lab.namespaces import Host, Lab, Network

_FIRST_EXTERNAL = 10
PODS = {"east": "10.244.0.0/16", "west": "10.245.0.0/16"}
"""Of two clusters, whose pods reach each other."""
_PRIVATE = {"east": "10.1.0.0/24", "west": "10.2.0.0/24"}
_UNPLANNED = "10.1.0.0/24"
"""What both private networks are, as in clusters that were planned apart."""
_EXTERNAL = {"east": IPv4Network("198.51.100.0/24"), "west": IPv4Network("203.0.113.0/24")}
_RULES = """
    table ip translation {
        map inwards { type ipv4_addr : ipv4_addr; }
        map outwards { type ipv4_addr : ipv4_addr; }
        map inside { type ipv4_addr : ipv4_addr; }
        chain inwards {
            type nat hook prerouting priority dstnat;
            iifname "eth1" dnat to ip daddr map @inwards
            iifname "eth0" dnat to ip daddr map @inside
        }
        chain outwards {
            type nat hook postrouting priority srcnat;
            oifname "eth1" snat to ip saddr map @outwards
            oifname "eth1" masquerade
            oifname "eth0" ct original ip saddr 10.0.0.0/8 masquerade
        }
        chain between {
            type filter hook forward priority filter; policy drop;
            ct status dnat accept
            oifname "eth1" accept
            ct state established accept
        }
    }
"""


@dataclass(slots=True)
class Gateway:
    """A cloud's gateway."""

    site: Site
    """The private network behind it."""
    host: Host
    """Its eth0 is in the private network, its eth1 in the public one."""
    addresses: IPv4Network
    """From which it gives external addresses."""
    given: dict[IPv4Address, IPv4Address] = field(default_factory=dict)
    """The external addresses, by private address."""

    def give(self, inner: IPv4Address) -> IPv4Address:
        """Give a host of the private network an external address, and return that."""
        outer = self.addresses[_FIRST_EXTERNAL + len(self.given)]
        self.given[inner] = outer
        translate(self.host, inner, outer)
        return outer

    def answer_inside(self, outer: IPv4Address) -> None:
        """Have one of the external addresses lead to its host from inside the private network too."""
        inner = next(each for each, given in self.given.items() if given == outer)
        _add(self.host, "inside", outer, inner)


def gateways(lab: Lab, *, clusters: bool) -> dict[str, Gateway]:
    """Add the private networks ``east`` and ``west`` to a lab, and gateways that know each other.

    Args:
        lab: where.
        clusters: whether each is of a cluster of its own: then both have the same private network, hosts
            of the same names, and pod networks of their own.

    """
    internet = lab.network("internet")
    made = {name: _gateway(lab, name, internet, of_own_cluster=clusters) for name in _PRIVATE}
    for one, other in ((made["east"], made["west"]), (made["west"], made["east"])):
        way = str(other.host.address_on(internet))
        one.host.run(["ip", "route", "add", str(other.addresses), "via", way])
    return made


def set_up(gateway: Host) -> None:
    """Have a host forward packets of its private network, on eth0, to the public one, on eth1."""
    gateway.run(["nft", "-f", "-"], text_in=_RULES)
    gateway.run(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])


def translate(gateway: Host, inner: IPv4Address, outer: IPv4Address) -> None:
    """Have a gateway that was set up translate an address of its private network."""
    _add(gateway, "inwards", outer, inner)
    _add(gateway, "outwards", inner, outer)


def _gateway(lab: Lab, name: str, internet: Network, *, of_own_cluster: bool) -> Gateway:
    private = lab.network(name, _UNPLANNED if of_own_cluster else _PRIVATE[name])
    host = lab.host(f"{name}-gateway", private, internet)
    set_up(host)
    site = Site(lab, private, gateway=host, in_cloud=True)
    if of_own_cluster:
        site = replace(site, prefix=f"{name}-", pods=PODS[name])
    return Gateway(site, host, _EXTERNAL[name])


def _add(gateway: Host, name: str, key: IPv4Address, value: IPv4Address) -> None:
    element = f"{{ {key} : {value} }}"
    gateway.run(["nft", "add", "element", "ip", "translation", name, element])
