"""The systemd service as systemd runs it, in namespaces of its own on a copy of this machine's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

import pytest

from wesher_agent.files.state_format import render_state
from wesher_agent.mesh.roster import SavedMember
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.swim.address import Address
from wesher_common.keys import ClusterKey, KeyRing
from wesher_testing.agents.process import KEY
from wesher_testing.run.toolbox import REPOSITORY, system_program, wireguard_go
from wesher_testing.virtual.members import meta

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

SECONDS = 120
"""For systemd, two agents and their ends, on a busy machine."""

# A separate control group: otherwise the systemd of another test would share the groups of the services.
BOOT = """
mount -t tmpfs none "$WORK"
mkdir "$WORK/groups"
mount -t cgroup2 none "$WORK/groups"
mkdir "$WORK/groups/$GROUP"
echo $$ > "$WORK/groups/$GROUP/cgroup.procs"
exec unshare --ipc --pid --cgroup --fork --kill-child sh -ex "$SHOWN/world"
"""

REMOVE_GROUP = """
mount -t cgroup2 none "$1"
until find "$1/$0" -depth -type d -exec rmdir {} + ; do sleep 0.05; done 2>/dev/null
"""

# Homes are hidden from the service, so what it runs is mounted outside them.
WORLD = """
mkdir "$WORK/upper" "$WORK/work" "$WORK/root"
mount -t overlay none "$WORK/root" -o "lowerdir=/,upperdir=$WORK/upper,workdir=$WORK/work"
cd "$WORK/root"
mount -t proc none proc
mount -t sysfs none sys
mount -t tmpfs none sys/fs/cgroup
mount -t cgroup2 none sys/fs/cgroup
for directory in run tmp dev; do mount -t tmpfs none "$directory"; done
mkdir -p dev/net run/shown opt/python opt/site opt/code/agent opt/code/common opt/wesher/bin
for device in null zero full random urandom net/tun; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mount --bind "$SHOWN" run/shown
mount --bind "$PYTHON" opt/python
mount --bind "$SITE" opt/site
for part in agent common; do mount --bind "$REPOSITORY/$part" "opt/code/$part"; done
install -m 0755 "$WIREGUARD_GO" opt/wesher/bin/wireguard-go
install -m 0755 "$SHOWN/wesher" opt/wesher/bin/wesher
rm -rf etc/systemd/system
mkdir -p etc/systemd/system/service.d etc/default var/lib/wesher
install -m 0600 "$SHOWN/wgoverlay.json" var/lib/wesher/wgoverlay.json
for unit in wesher wesher-lab; do
    cp "$REPOSITORY/deploy/systemd/wesher.service" "etc/systemd/system/$unit.service"
    cp "$SHOWN/$unit.default" "etc/default/$unit"
done
cp "$SHOWN/story.service" "$SHOWN/kubelet.service" "$SHOWN/boot.target" etc/systemd/system/
cp "$SHOWN/output.conf" etc/systemd/system/service.d/
ip link set lo up
ip link add eth0 type veth peer name eth1
ip link set eth0 up
ip link set eth1 up
ip address add 192.0.2.1/24 dev eth0
exec chroot . "$SYSTEMD" --system --unit=story.service --log-target=null --show-status=0
"""
STORY_UNIT = """
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
ExecStart=/bin/sh -ex /run/shown/story
"""
OUTPUT = """
[Service]
StandardOutput=append:/run/shown/said
StandardError=append:/run/shown/said
"""
KUBELET_UNIT = """
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh -ex /run/shown/kubelet
"""
KUBELET = """
for device in wgoverlay wglab; do ip -4 -o address show dev $device; done > /run/shown/addresses
"""
"""What a kubelet finds when it starts, at a boot."""
BOOT_TARGET = """
[Unit]
DefaultDependencies=no
Wants=kubelet.service wesher.service wesher-lab.service
After=kubelet.service wesher.service wesher-lab.service
"""
STORY = """
systemctl start boot.target
systemctl is-active wesher wesher-lab
until grep managed /etc/hosts > /run/shown/hosts; do sleep 0.1; done
systemctl stop wesher-lab
/opt/wesher/bin/wesher status -o json > /run/shown/status.json
systemctl restart wesher
/opt/wesher/bin/wesher status -o json > /run/shown/restarted.json
ls /run/wesher > /run/shown/sockets
systemctl show --property=ActiveState,NRestarts wesher > /run/shown/unit
"""
PROGRAM = """#!/bin/sh
export PYTHONHOME=/opt/python LD_LIBRARY_PATH=/opt/python/lib
export PYTHONPATH=/opt/code/common:/opt/code/agent:/opt/site PYTHONDONTWRITEBYTECODE=1
exec /opt/python/bin/python3 -m wesher_agent "$@"
"""
FAILED = SavedMember(
    name="elsewhere", address=Address("192.0.2.77", 7946), raw_meta=meta("elsewhere").encode()
)
SETTINGS = {
    "wesher": {},
    "wesher-lab": {
        "JOIN": "192.0.2.1:7946",
        "NODE_NAME": "lab",
        "INTERFACE": "wglab",
        "CLUSTER_PORT": "7947",
        "WIREGUARD_PORT": "51821",
    },
}


def test_two_copies_of_the_service_run_and_the_end_of_one_leaves_the_socket_of_the_other(
    tmp_path: Path,
) -> None:
    """Under every restriction of the unit: wireguard-go, the hosts file, the state and a restart."""
    shown = tmp_path / "shown"
    shown.mkdir()
    files = {
        "boot": BOOT,
        "world": WORLD,
        "story": STORY,
        "story.service": STORY_UNIT,
        "kubelet.service": KUBELET_UNIT,
        "kubelet": KUBELET,
        "boot.target": BOOT_TARGET,
        "output.conf": OUTPUT,
        "wesher": PROGRAM,
        # A failed member has a hosts entry too. The other agent would have none: its address is this host's.
        "wgoverlay.json": render_state(
            SavedState(key_ring=KeyRing(ClusterKey.from_base64(KEY)), nodes=(FAILED,))
        ),
    }
    for unit, settings in SETTINGS.items():
        both = {"CLUSTER_KEY": KEY, "USERSPACE_BINARY": "/opt/wesher/bin/wireguard-go", **settings}
        files[f"{unit}.default"] = "".join(f"WESHER_{name}={value}\n" for name, value in both.items())
    for name, text in files.items():
        (shown / name).write_text(text)
    work = tmp_path / "work"
    work.mkdir()
    group = f"wesher-service-{os.getpid()}"
    own = [system_program("unshare"), "--mount", "--net", "--uts"]
    ran = subprocess.Popen(
        [*own, "sh", "-ex", shown / "boot"],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "container": "lab",
            "WORK": str(work),
            "GROUP": group,
            "SHOWN": str(shown),
            "PYTHON": sys.base_prefix,
            "SITE": sysconfig.get_path("purelib"),
            "REPOSITORY": str(REPOSITORY),
            "WIREGUARD_GO": str(wireguard_go()),
            "SYSTEMD": "/lib/systemd/systemd",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        # Without its last step the assertions below show what was said until then.
        with suppress(subprocess.TimeoutExpired):
            ran.wait(SECONDS)
    finally:
        ran.kill()
        ran.wait()
        subprocess.run([*own, "sh", "-e", "-c", REMOVE_GROUP, group, work], check=True, timeout=SECONDS)
    said = (shown / "said").read_text() if (shown / "said").exists() else "systemd did not come up"
    assert (shown / "unit").exists(), said
    addresses = (shown / "addresses").read_text()
    assert [line.split()[1] for line in addresses.splitlines()] == ["wgoverlay", "wglab"], addresses
    assert (shown / "unit").read_text().split() == ["NRestarts=0", "ActiveState=active"], said
    assert (shown / "sockets").read_text().split() == ["wgoverlay.sock"]
    assert "\telsewhere\t" in (shown / "hosts").read_text()
    before, after = (json.loads((shown / f"{name}.json").read_text()) for name in ("status", "restarted"))
    assert f" {before['overlayIP']}/" in addresses
    assert before["wireguard"]["mode"] == "Userspace"
    assert before["state"] == "saved"
    assert after["publicKey"] == before["publicKey"]
