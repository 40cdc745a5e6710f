"""``spec.trustedAuthorities`` on a real API server: what it refuses, what agents read, and what is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from wesher_common.certificate import Authority
from wesher_testing.cluster.api_server import ApiServer, KubectlFailed
from wesher_testing.cluster.certified_agents import identity
from wesher_testing.cluster.operator_process import SOON, OperatorProcess, eventually

WEST, NORTH = (str(Authority(bytes([number]) * 32).key) for number in (1, 2))
EAST = {"clusterName": "east", "allocationCIDR": "10.189.0.0/17"}
ENTRY: dict[str, Any] = {"clusterName": "west", "key": WEST, "cidrs": ["10.189.128.0/18", "10.20.0.0/16"]}
Mesh = Callable[..., None]


def condition(api: ApiServer) -> dict[str, str]:
    entries = api.get("wmesh", "demo").get("status", {}).get("conditions", [])
    return next((entry for entry in entries if entry["type"] == "AuthoritiesTrusted"), {})


def trusted(api: ApiServer) -> list[tuple[str, str]]:
    return [(each.cluster_name, str(each.key)) for each in identity(api).trusted]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{**ENTRY, "cidrs": ["0.0.0.0/0"]}], "the prefix must be /8 to /30 for IPv4"),
        ([{**ENTRY, "cidrs": ["10.20.0.1/16"]}], "without host bits"),
        ([{**ENTRY, "cidrs": []}], "cidrs"),
        ([{**ENTRY, "key": "abc"}], "must be a public key in base64"),
        ([{**ENTRY, "formerKey": "abc"}], "must be a public key in base64"),
        ([{**ENTRY, "clusterName": "West"}], "must be a lower-case DNS name"),
        ([ENTRY, {**ENTRY, "key": NORTH}], "clusterName"),
    ],
)
def test_the_api_server_refuses_what_agents_could_not_read(
    mesh: Mesh, entries: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(KubectlFailed, match=said):
        mesh(**EAST, trustedAuthorities=entries)


def test_an_entry_reaches_the_agents_and_one_that_overlaps_is_told(
    api: ApiServer, operator: OperatorProcess, mesh: Mesh, plugin: Callable[..., Any]
) -> None:
    api.node("a", "172.31.0.4")
    mesh(**EAST, trustedAuthorities=[ENTRY])
    eventually(lambda: trusted(api), within=SOON, until=[("west", WEST)].__eq__)
    eventually(lambda: condition(api).get("status"), within=SOON, until="True".__eq__)

    north = {"clusterName": "north", "key": NORTH, "cidrs": ["172.31.0.0/16"]}
    mesh(**EAST, trustedAuthorities=[ENTRY, north])
    eventually(lambda: condition(api).get("reason"), within=SOON, until="TrustedNetworkOverlap".__eq__)
    assert "172.31.0.0/16 overlaps the InternalIP 172.31.0.4 of Node a" in condition(api)["message"]
    assert trusted(api) == [("west", WEST)]
    events = eventually(
        lambda: [
            event for event in api.get("events", "-A")["items"] if event["reason"] == "TrustedNetworkOverlap"
        ],
        within=SOON,
    )
    assert "Node a" in events[0].get("note", events[0].get("message", ""))

    mesh(**EAST)
    eventually(lambda: trusted(api), within=SOON, until=lambda found: not found)
    eventually(lambda: condition(api), within=SOON, until=lambda found: not found)


def test_each_cluster_prints_what_the_other_one_needs(
    api: ApiServer, operator: OperatorProcess, mesh: Mesh, plugin: Callable[..., Any]
) -> None:
    mesh(**EAST)
    (authority,) = eventually(lambda: identity(api).authorities, within=SOON)
    eventually(lambda: plugin("authority").returncode, within=SOON, until=(0).__eq__)
    printed = plugin("authority", "--entry")
    assert printed.returncode == 0, printed.stderr
    (entry,) = yaml.safe_load(printed.stdout)
    assert entry == {"clusterName": "east", "key": str(authority), "cidrs": ["10.189.0.0/17"]}
    mesh("west", overlayCIDR="10.190.0.0/16", clusterName="west", trustedAuthorities=[entry])
