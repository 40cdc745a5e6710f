"""Flags and environment become one value, with the Go program's names and defaults."""

from __future__ import annotations

import base64
import logging
import re
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_agent.flags import FLAGS, LOG_LEVELS, find_flag
from wesher_common.keys import ClusterKey
from wesher_common.seeds import SeedAddress

SECRET = bytes(range(32))
KEY = base64.b64encode(SECRET).decode()


def test_nothing_given_means_the_go_programs_defaults() -> None:
    settings = agent_settings([], {})
    assert settings.cluster_key is None
    assert settings.join == ()
    assert not settings.init
    assert settings.bind_addr is None
    assert settings.bind_iface == ""
    assert settings.cluster_port == 7946
    assert settings.wireguard_port == 51820
    assert settings.overlay_net == ip_network("10.0.0.0/8")
    assert settings.interface == "wgoverlay"
    assert not settings.no_etc_hosts
    assert settings.log_level == logging.WARNING
    assert not settings.ip_as_name
    assert settings.state_dir == Path("/var/lib/wesher")
    assert settings.hosts_file == Path("/etc/hosts")


def test_the_help_names_each_default_that_is_a_value() -> None:
    shown = {flag.name: re.search(r"\(default: (\S+)\)$", flag.help) for flag in FLAGS}
    read = {flag.name: flag.read(found[1], flag.name) for flag in FLAGS if (found := shown[flag.name])}
    with_value = [flag for flag in FLAGS if flag.default not in (None, "", ()) and not flag.switch]
    assert read == {flag.name: flag.default for flag in with_value}


def test_the_go_programs_variables_have_their_names() -> None:
    by_name = {flag.name: flag.variable for flag in FLAGS}
    assert by_name["--cluster-key"] == "WESHER_CLUSTER_KEY"
    assert by_name["--join"] == "WESHER_JOIN"
    assert by_name["--init"] == "WESHER_INIT"
    assert by_name["--bind-addr"] == "WESHER_BIND_ADDR"
    assert by_name["--bind-iface"] == "WESHER_BIND_IFACE"
    assert by_name["--cluster-port"] == "WESHER_CLUSTER_PORT"
    assert by_name["--wireguard-port"] == "WESHER_WIREGUARD_PORT"
    assert by_name["--overlay-net"] == "WESHER_OVERLAY_NET"
    assert by_name["--interface"] == "WESHER_INTERFACE"
    assert by_name["--no-etc-hosts"] == "WESHER_NO_ETC_HOSTS"
    assert by_name["--log-level"] == "WESHER_LOG_LEVEL"


def test_a_flag_beats_its_variable_and_a_variable_the_default() -> None:
    environ = {"WESHER_CLUSTER_PORT": "7000", "WESHER_INTERFACE": "wg7"}
    settings = agent_settings(["--cluster-port", "7001"], environ)
    assert settings.cluster_port == 7001
    assert settings.interface == "wg7"


def test_a_flag_set_to_nothing_still_beats_its_variable() -> None:
    settings = agent_settings(["--cluster-key="], {"WESHER_CLUSTER_KEY": KEY})
    assert settings.cluster_key is None


def test_an_empty_variable_says_nothing() -> None:
    assert agent_settings([], {"WESHER_CLUSTER_PORT": "", "WESHER_CLUSTER_KEY": ""}) == agent_settings([], {})


def test_the_cluster_key_is_read_and_never_shown() -> None:
    settings = agent_settings(["--cluster-key", KEY], {})
    assert settings.cluster_key == ClusterKey(SECRET)
    assert KEY not in repr(settings)
    assert repr(SECRET) not in repr(settings)


def test_seeds_may_be_given_as_a_list_several_times_and_with_ports() -> None:
    settings = agent_settings(["--join", "a,10.0.0.1:7000", "--join=[fd00::1]:8000, fd00::2"], {})
    assert settings.join == (
        SeedAddress("a"),
        SeedAddress("10.0.0.1", 7000),
        SeedAddress("fd00::1", 8000),
        SeedAddress("fd00::2"),
    )


def test_an_empty_item_in_a_list_of_seeds_is_skipped() -> None:
    assert agent_settings(["--join=a,,b,"], {}).join == (SeedAddress("a"), SeedAddress("b"))
    assert agent_settings(["--join="], {"WESHER_JOIN": "a"}).join == ()


@pytest.mark.parametrize("text", ["true", "1", "YES"])
def test_a_switch_takes_gos_words_for_yes(text: str) -> None:
    assert agent_settings([f"--init={text}"], {}).init is True
    assert agent_settings([], {"WESHER_INIT": text}).init is True


@pytest.mark.parametrize("text", ["false", "0", "no"])
def test_a_switch_takes_gos_words_for_no(text: str) -> None:
    assert agent_settings([f"--init={text}"], {"WESHER_INIT": "true"}).init is False


def test_a_switch_alone_means_yes() -> None:
    assert agent_settings(["--init", "--no-etc-hosts"], {}).init


def test_host_bits_of_the_overlay_network_are_cleared() -> None:
    settings = agent_settings(["--overlay-net", "10.1.2.3/16"], {})
    assert settings.overlay_net == ip_network("10.1.0.0/16")


@pytest.mark.parametrize("network", ["10.0.0.7/32", "fd00::/8", "2001:db8::7/128"])
def test_octet_prefixes_of_any_length_are_overlay_networks(network: str) -> None:
    assert agent_settings(["--overlay-net", network], {}).overlay_net == ip_network(network)


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86400), ("90m", 5400), ("1h30m", 5400), ("1h0m5s", 3605), ("7s", 7)]
)
def test_durations_are_written_as_in_go(text: str, seconds: int) -> None:
    assert agent_settings(["--forget-after", text], {}).forget_after == seconds


def test_choices_do_not_care_about_capitals() -> None:
    written = {
        "--gossip-profile": ("LAN", "WAN"),
        "--wireguard-mode": ("Auto", "Kernel", "Userspace"),
        "--log-format": ("text", "json"),
        "--log-level": tuple(LOG_LEVELS),
        "--unreachable-route": ("auto", "on", "off"),
    }
    for name, values in written.items():
        flag = find_flag(name)
        for value in values:
            meant = getattr(agent_settings([name, value], {}), flag.attribute)
            for text in (value.lower(), value.upper(), value.capitalize()):
                assert getattr(agent_settings([name, text], {}), flag.attribute) == meant
                assert getattr(agent_settings([], {flag.variable: text}), flag.attribute) == meant


def test_leaving_on_exit_is_the_default_outside_kubernetes_only() -> None:
    assert agent_settings([], {}).options.leaves_on_exit
    assert not agent_settings(["--kubernetes", "/etc/wesher"], {}).options.leaves_on_exit
    assert agent_settings(["--kubernetes", "/etc/wesher", "--leave-on-exit"], {}).options.leaves_on_exit
    assert not agent_settings(["--leave-on-exit=false"], {}).options.leaves_on_exit


def test_flags_describe_a_mesh_as_mesh_json_does() -> None:
    words = ["--overlay-net", "10.9.0.0/16", "--interface", "wg7", "--join", "a", "--label", "x"]
    document = agent_settings([*words, "--mtu", "1400", "--gossip-profile", "LAN"], {}).mesh_document()
    assert document.overlay == document.allocation == ip_network("10.9.0.0/16")
    assert (document.wireguard.interface, document.wireguard.port, document.wireguard.mtu) == (
        "wg7",
        51820,
        1400,
    )
    assert (document.gossip.port, document.gossip.profile, document.gossip.label) == (7946, "LAN", "x")
    assert document.etc_hosts == "Names"
    assert document.seed_nodes == (SeedAddress("a"),)
    assert agent_settings(["--no-etc-hosts"], {}).mesh_document().etc_hosts == "Off"


def test_addresses_of_both_families_can_be_bound() -> None:
    assert agent_settings(["--bind-addr", "::1"], {}).bind_addr == ip_address("::1")
    assert agent_settings(["--bind-addr", "0.0.0.0"], {}).bind_addr == ip_address("0.0.0.0")
