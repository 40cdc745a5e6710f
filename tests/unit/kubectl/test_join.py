"""What ``kubectl wesher join-command`` prints; that the agent takes it is shown on a real API server."""

from __future__ import annotations

import shlex
from itertools import pairwise
from typing import Any

import pytest

from wesher_common.errors import InvalidSpec
from wesher_operator.kubectl.join import join_text


def a_mesh(overlay: str = "10.189.0.0/16", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "demo"},
        "spec": {
            "overlayCIDR": overlay,
            "wireguard": {"interface": "wgoverlay", "port": 51820, "mtu": 0},
            "gossip": {"port": 7946, "profile": "WAN"},
            **spec,
        },
    }


def a_node(endpoint: str, ready: str = "True") -> dict[str, Any]:
    return {"status": {"endpoint": endpoint, "conditions": [{"type": "Ready", "status": ready}]}}


def words_of(text: str) -> list[str]:
    return shlex.split(next(line for line in text.splitlines() if line.startswith("wesher ")))


def test_a_verified_mesh_gives_a_machine_outside_no_tunnel_which_is_said_first() -> None:
    mesh, node = a_mesh(), a_node("192.0.2.1:51820")
    for mode, first in (("Verified", "# Mesh demo is Verified: "), ("Open", "# To add a machine to ")):
        text = join_text({**mesh, "status": {"identity": {"mode": mode}}}, [node], "wesher")
        assert text.startswith(first)
    status = {"identity": {"mode": "Verified"}}
    verified = join_text({**mesh, "status": status}, [node], "wesher", reach=["--context=my east"])
    assert "# kubectl wesher invite NAME '--context=my east' --mesh demo --output FILE\n" in verified
    assert "# kubectl wesher admit NAME --key KEY '--context=my east' --mesh demo\n" in verified
    assert words_of(verified)[0] == "wesher"


def test_it_joins_a_verified_mesh_with_its_authority_because_admission_needs_it() -> None:
    for mode, given in (("Verified", ["AUTHORITY"]), ("Open", [])):
        mesh = {**a_mesh(), "status": {"identity": {"mode": mode, "authority": "AUTHORITY"}}}
        words = words_of(join_text(mesh, [a_node("192.0.2.1:51820")], "wesher"))
        assert [value for flag, value in pairwise(words) if flag == "--authority"] == given


def test_it_joins_through_three_nodes_at_most_those_ready_first() -> None:
    nodes = [
        a_node("192.0.2.1:51820", "False"),
        a_node("[2001:db8::2]:51820"),
        a_node("", "True"),
        a_node("192.0.2.3:51820"),
        a_node("192.0.2.4:51820"),
    ]
    words = words_of(join_text(a_mesh(), nodes, "wesher"))
    assert words[words.index("--join") + 1] == "2001:db8::2,192.0.2.3,192.0.2.4"


def test_the_key_is_fetched_from_the_secret_that_the_mesh_names_by_the_same_way() -> None:
    mesh = a_mesh(clusterKeySecretRef={"name": "shared"})
    text = join_text(mesh, [a_node("192.0.2.1:51820")], "vpn", reach=["--context=my east"])
    assert "kubectl '--context=my east' -n vpn get secret shared -o jsonpath=" in text
    assert words_of(text)[1:3] == ["--cluster-key-file", "/etc/wesher/key"]
    assert "--cluster-key " not in text


def test_what_is_usual_is_not_spelt_out_and_what_is_not_is() -> None:
    usual = words_of(join_text(a_mesh(), [a_node("192.0.2.1:51820")], "wesher"))
    assert {"--label", "--mtu", "--no-etc-hosts"}.isdisjoint(usual)
    mesh = a_mesh(
        wireguard={"interface": "wg1", "port": 51999, "mtu": 1380},
        gossip={"port": 7947, "profile": "LAN", "label": "it's"},
        etcHosts="Off",
    )
    words = words_of(join_text(mesh, [a_node("192.0.2.1:51999")], "wesher"))
    for flag, value in (("--label", "it's"), ("--mtu", "1380"), ("--wireguard-port", "51999")):
        assert words[words.index(flag) + 1] == value
    assert "--no-etc-hosts" in words


@pytest.mark.parametrize("overlay", ["10.189.0.0/20", "fd00::/60"])
def test_a_network_that_is_no_whole_octets_is_refused_before_anything_else(overlay: str) -> None:
    with pytest.raises(InvalidSpec, match=f"'{overlay}': external machines can join by invite only"):
        join_text(a_mesh(overlay), [], "wesher")


def test_what_a_node_reports_that_is_not_an_address_is_not_joined_through() -> None:
    nodes = [a_node(f"{host}:51820") for host in ("evil.example", "--etc", "a\x1b[2J", "1.2.3.4,5.6.7.8")]
    words = words_of(join_text(a_mesh(), [*nodes, a_node("192.0.2.1:51820")], "wesher"))
    assert words[words.index("--join") + 1] == "192.0.2.1"
    with pytest.raises(InvalidSpec, match="no node has reported"):
        join_text(a_mesh(), nodes, "wesher")


def test_a_mesh_without_a_node_to_join_through_says_so() -> None:
    with pytest.raises(InvalidSpec, match="MESH 'demo': no node has reported an address to join through"):
        join_text(a_mesh(), [a_node("")], "wesher")
