"""A variable that looks like ours and is not is found, and what Kubernetes sets is left alone."""

from __future__ import annotations

import pytest

from wesher_agent.flags import FLAGS
from wesher_common.variables import UnknownVariable, unknown_variables

KNOWN = [flag.variable for flag in FLAGS]


def found(*names: str) -> list[UnknownVariable]:
    return list(unknown_variables(dict.fromkeys(names, "a secret"), KNOWN))


def test_the_variables_of_flags_and_of_other_programs_are_not_named() -> None:
    assert found(*KNOWN, "PATH", "WIREGUARD_GO", "WESHERX", "LANG") == []


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("WESHER_CLUSTERKEY", "WESHER_CLUSTER_KEY"),
        ("WESHER_CLUSTER_KEYFILE", "WESHER_CLUSTER_KEY_FILE"),
        ("WESHER_KEY", "WESHER_CLUSTER_KEY"),
        ("WESHER_OVERLAY", "WESHER_OVERLAY_NET"),
        ("WESHER_JION", "WESHER_JOIN"),
        ("wesher_join", "WESHER_JOIN"),
        ("WESHER_USERSPACE_BIN", "WESHER_USERSPACE_BINARY"),
        ("WESHER_CLUSTR_PORT", "WESHER_CLUSTER_PORT"),
        ("WESHER_SEEDS", ""),
        ("WESHER_", ""),
    ],
)
def test_another_is_named_with_the_one_that_is_most_like_it(name: str, nearest: str) -> None:
    assert found(name) == [UnknownVariable(name, nearest)]


@pytest.mark.parametrize("service", ["WESHER", "WESHER_OPERATOR", "WESHER_CLUSTR"])
def test_what_kubernetes_sets_for_a_service_is_not_named(service: str) -> None:
    parts = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GOSSIP", "PORT", "PORT_7946_TCP"]
    parts += ["PORT_7946_TCP_PROTO", "PORT_51820_UDP_PORT", "PORT_51820_UDP_ADDR"]
    names = [f"{service}_{part}" for part in parts]
    assert found(*names) == []
    # Without the Service's own variable, or with another spelling, they are mistyped ones.
    assert [each.name for each in found(*names[1:])] == sorted(names[1:])
    assert [each.name for each in found(*names, f"{service}_PORTS")] == [f"{service}_PORTS"]
