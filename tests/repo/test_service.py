"""The systemd service's settings and the examples say only what the programs understand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from wesher_agent.cli.commands import agent_settings
from wesher_operator.kube import MESH
from wesher_operator.reconcile.refusal import refusal
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_testing.run.toolbox import REPOSITORY

DEFAULTS = REPOSITORY / "deploy/systemd/wesher.default"
EXAMPLES = REPOSITORY / "deploy/examples"
RULE = "node-readiness-rule.yaml"
"""For another controller; it has no mesh."""


def test_the_agent_takes_the_settings_file_as_it_is_and_each_line_that_may_be_switched_on() -> None:
    lines = [line.removeprefix("#") for line in DEFAULTS.read_text().splitlines()]
    environ = dict(line.split("=", 1) for line in lines if re.match(r"WESHER_[A-Z_]+=", line))
    settings = agent_settings([], environ)
    assert str(settings.overlay_net) == "10.189.0.0/16"
    assert str(settings.advertise_addr) == environ["WESHER_ADVERTISE_ADDR"]
    assert not settings.options.leaves_on_exit


def test_without_an_edit_the_settings_file_gives_the_network_that_the_command_has() -> None:
    """Machines that use the service and machines that do not would otherwise have no tunnel between them."""
    lines = DEFAULTS.read_text().splitlines()
    environ = dict(line.split("=", 1) for line in lines if re.match(r"WESHER_[A-Z_]+=", line))
    assert agent_settings([], environ).overlay_net == agent_settings([], {}).overlay_net


def settings() -> list[list[str]]:
    """Return what the service file sets, as pairs."""
    lines = (REPOSITORY / "deploy/systemd/wesher.service").read_text().splitlines()
    return [line.split("=", 1) for line in lines if re.match(r"[A-Za-z]+=", line)]


def directives() -> dict[str, str]:
    """Return what the service file sets, each only once but for the lists of units that start later."""
    pairs = [pair for pair in settings() if pair[0] != "Before"]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_what_listens_on_the_overlay_address_starts_after_the_service_is_ready() -> None:
    later = {unit for name, units in settings() if name == "Before" for unit in units.split()}
    assert {"etcd.service", "kubelet.service", "k3s.service", "k3s-agent.service"} <= later
    assert directives()["Type"] == "notify"


def test_systemd_leaves_wireguard_go_to_the_agent_so_that_a_restart_can_keep_it() -> None:
    # `mixed` kills at the end whatever is left in the service's control group, systemd.kill(5).
    assert directives()["KillMode"] == "process"


def test_a_copy_of_the_service_has_settings_of_its_own_and_leaves_the_first_ones_socket() -> None:
    service = directives()
    # systemd removes the directory at each stop of a unit that names it, unless told to preserve it.
    assert service["RuntimeDirectory"] == "wesher"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert service["EnvironmentFile"] == "/etc/default/%N"


def test_the_service_may_do_what_the_agent_and_wireguard_go_need_and_no_more() -> None:
    """``tests/lab`` has them scored by systemd, and the service run under them."""
    service = directives()
    assert set(service["CapabilityBoundingSet"].split()) == {
        *("CAP_NET_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER")
    }
    # ProtectClock alone closes all devices but the clock, and with them the one that wireguard-go opens.
    assert (service["DevicePolicy"], service["DeviceAllow"]) == ("closed", "/dev/net/tun rw")
    # The hosts file is replaced by rename, so its whole directory must be writable.
    assert service["ProtectSystem"] == "true"
    assert (service["UMask"], service["LimitCORE"]) == ("0077", "0")
    assert service["SystemCallFilter"] == "@system-service"
    assert service["ProtectProc"] == "invisible"
    for name in (
        *("NoNewPrivileges", "MemoryDenyWriteExecute", "LockPersonality", "PrivateTmp", "RestrictNamespaces"),
        *("RestrictRealtime", "RestrictSUIDSGID", "ProtectClock", "ProtectControlGroups", "ProtectHome"),
        *("ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables"),
    ):
        assert service[name] == "true", name


def meshes(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@pytest.mark.parametrize(
    "path",
    [each for each in sorted(EXAMPLES.glob("*.yaml")) if each.name != RULE],
    ids=lambda path: path.stem,
)
def test_the_meshes_of_an_example_run_beside_each_other(path: Path) -> None:
    world = World()
    for version, mesh in enumerate(meshes(path), start=1):
        metadata = {**mesh["metadata"], "uid": str(version), "resourceVersion": str(version)}
        world.observe(MESH, {**mesh, "metadata": metadata})
    assert world.meshes
    assert [refusal(mesh, world) for mesh in world.meshes.values()] == [None] * len(world.meshes)


def test_the_two_clouds_share_overlay_and_key_and_never_give_the_same_address() -> None:
    east, west = (
        WesherMeshSpec.model_validate(mesh["spec"])
        for cloud in ("east", "west")
        for mesh in meshes(EXAMPLES / f"two-clouds-{cloud}.yaml")
    )
    assert (east.overlay, east.cluster_key_secret_ref) == (west.overlay, west.cluster_key_secret_ref)
    assert not east.allocation.overlaps(west.allocation)
    assert east.cluster_name != west.cluster_name
