"""What an agent needs, keeps and says on its host, and what stands in its way."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wesher_agent.control import LOOK_SECONDS
from wesher_agent.tunnel.tunnel import REPAIR_SECONDS
from wesher_common.keys import ClusterKey
from wesher_testing.agents.process import (
    KEY,
    PATIENCE,
    SECRET,
    WESHER,
    AgentProcess,
    run_to_end,
    wait_for_ping,
    wait_until,
    wireguard_go,
)
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.run.toolbox import REPOSITORY

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

BEFORE_THE_NEXT_LOOK = REPAIR_SECONDS - 5.0
"""Seconds after a device was made in which only who watches its program can have missed it."""


def test_a_new_key_is_shown_on_a_terminal(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    ours, theirs = pty.openpty()
    agent = start(host, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    agent.wait_for("a")
    shown = _read_line(ours)
    os.close(ours)
    found = re.search(r"new cluster key generated: (\S+)", shown)
    assert found
    assert [ClusterKey.from_base64(found[1]).id] == agent.status()["keyIDs"]


def _read_line(terminal: int) -> str:
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([terminal], [], [], PATIENCE)[0], line
        line += os.read(terminal, 1000)
    return line.decode()


def test_elsewhere_the_log_says_how_to_read_a_new_key_and_not_what_it_is(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    agent = start(host)
    agent.wait_for("a")
    hint = re.search(r"read it as root command=\"(.*)\"", agent.own_log)
    assert hint
    state = (host.root / "var/lib/wesher/wgoverlay.json").read_text()
    key = re.search(r'"ClusterKey": "([^"]+)"', state)
    assert key
    assert key[1] not in agent.own_log
    assert hint[1] == "wesher key"
    assert host.run([WESHER, "key"]).stdout.strip() == key[1]
    assert key[1] not in agent.own_log


def test_a_new_key_that_could_not_be_saved_is_not_said_to_stand_in_the_state_file(
    lab: Lab, start: Start
) -> None:
    host = lab.host("a")
    (host.root / "var/lib/wesher").mkdir()
    host.run(["mount", "-t", "tmpfs", "-o", "ro", "none", "/var/lib/wesher"])
    agent = start(host)
    agent.wait_for("a")
    assert "read it as root" not in agent.own_log
    assert "new cluster key not saved, no other member can join: give --cluster-key-file" in agent.own_log


def test_secrets_are_in_no_log_status_or_argument_list(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    for host in (a, b):
        (host.root / "etc/cluster-key").write_text(KEY + "\n")
    flags = ("--cluster-key-file=/etc/cluster-key", f"--join={a.ipv4}")
    first, second = start(a, *flags), start(b, *flags)
    second.wait_for("a", "b")
    wait_for_ping(b, "a")
    state = (b.root / "var/lib/wesher/wgoverlay.json").read_text()
    secrets = [KEY, SECRET.hex(), repr(SECRET), *re.findall(r'"[^"]*Private[^"]*": "([^"]+)"', state)]
    assert len(secrets) == 4
    shown = [
        first.own_log,
        second.own_log,
        Path(f"/proc/{second.process.pid}/cmdline").read_text(),
        *(b.run([WESHER, command, "-o", "json"]).stdout for command in ("status", "members")),
    ]
    for text in shown:
        assert text
        assert not [secret for secret in secrets if secret in text]


def test_the_commands_show_tables_and_say_when_nobody_runs(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    nobody = host.run([WESHER, "status"], check=False)
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert nobody.stderr == "wesher: error: no agent is running: no control socket in /run/wesher\n"
    agent = start(host, "--cluster-key", KEY)
    agent.wait_for("a")
    assert host.run([WESHER, "members"]).stdout.split()[:3] == ["NAME", "STATE", "SINCE"]
    assert "overlay:     10." in host.run([WESHER, "status"]).stdout
    (member,) = json.loads(host.run([WESHER, "members", "-o", "json"]).stdout)
    assert (member["name"], member["state"]) == ("a", "alive")


def test_a_gossip_port_that_is_taken_is_one_line_with_port_holder_and_field(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    start(host, "--cluster-key", KEY).wait_for("a")
    second = run_to_end(host, "--cluster-key", KEY, "--interface=wg7", "--wireguard-port=51821")
    assert second.returncode == 1
    line = second.stderr.splitlines()[-1]
    assert re.match(
        r"wesher: error: --cluster-port '7946': UDP port 7946 is taken by wesher \(pid \d+\): set ",
        line,
    )
    assert "wg7" not in host.run(["ip", "-o", "link"]).stdout


def test_a_wireguard_port_that_is_taken_is_said_and_gossip_goes_on(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    start(host, "--cluster-key", KEY).wait_device()
    second = start(host, "--cluster-key", KEY, "--cluster-port=7947", interface="wg7")
    second.wait_for("a")
    wait_until(lambda: second.conditions()["WireGuardReady"] == "PortTaken", what="the port is taken")
    taken = r"UDP port 51820 is taken by wireguard \(pid \d+\): set --wireguard-port, or "
    assert len(re.findall(taken, second.own_log)) == 1


def test_a_state_file_in_use_is_one_line(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    start(host, "--cluster-key", KEY).wait_for("a")
    second = run_to_end(host, "--cluster-key", KEY, "--cluster-port=7947", "--wireguard-port=51821")
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1] == (
        "wesher: error: state file '/var/lib/wesher/wgoverlay.json': "
        "is used by another agent: start one of them with another --interface"
    )


def test_an_interface_of_another_agent_is_left_to_it_whatever_its_files(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    first = start(host, "--cluster-key", KEY)
    first.wait_device()
    other = ("--cluster-port=7947", "--wireguard-port=51821", "--state-dir=/run/else", "--run-dir=/run/else")
    second = run_to_end(host, "--cluster-key", KEY, *other)
    assert second.returncode == 1
    assert re.fullmatch(
        r"wesher: error: interface 'wgoverlay': is used by another agent on this host \(pid \d+\): "
        "choose another --interface",
        second.stderr.splitlines()[-1],
    )
    first.wait_for("a")
    assert "wgoverlay" in host.run(["ip", "-o", "link"]).stdout


def test_a_vpn_of_that_name_is_refused_in_one_line_and_outlives_the_agent(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    (host.root / "run/wireguard").mkdir()
    host.run([wireguard_go(), "wg0"])
    host.run(["sh", "-ec", "wg genkey | wg set wg0 private-key /dev/stdin listen-port 51999"])
    host.run(["ip", "address", "add", "172.31.7.1/24", "dev", "wg0"])
    # IPv6 link-local addresses come a while later.
    look = "wg show wg0 dump; ip -o -4 address; ip -4 route"
    before = host.run(["sh", "-ec", look]).stdout
    agent = start(host, "--cluster-key", KEY, interface="wg0")
    agent.wait_for("a")
    wait_until(lambda: agent.conditions()["WireGuardReady"] == "InvalidSetting", what="it is refused")
    assert agent.end() == 0
    (line,) = [line for line in agent.own_log.splitlines() if " ERROR " in line or " WARNING " in line]
    assert "interface 'wg0': belongs to another program: its address 172.31.7.1/24 is not " in line
    assert host.run(["sh", "-ec", look]).stdout == before


def test_an_agent_whose_interface_is_renamed_keeps_its_overlay_address(lab: Lab, start: Start) -> None:
    """The address of the renamed link looked like a rival's, and the agent gave it up."""
    host = lab.host("a")
    agent = start(host, "--cluster-key", KEY)
    agent.wait_device()
    before = agent.status()["overlayIP"]
    for _ in range(2):
        seen = agent.own_log.count("device renamed back")
        host.run(["sh", "-ec", "ip link set wgoverlay down; ip link set wgoverlay name wgx up"])
        wait_until(
            lambda seen=seen: agent.own_log.count("device renamed back") > seen,  # type: ignore[misc]
            what="the name is back",
        )
    assert "overlay address changed" not in agent.own_log
    assert agent.status()["overlayIP"] == before


def test_a_run_directory_that_cannot_be_is_one_warning_and_gossip_goes_on(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    first = start(a, "--cluster-key", KEY)
    second = start(b, "--cluster-key", KEY, "--join", str(a.ipv4), "--run-dir=/etc/hosts/run")
    first.wait_for("a", "b")
    assert second.own_log.count("no control socket: commands cannot reach this agent error=") == 1


def test_directories_removed_from_a_running_agent_are_back_and_its_keys_with_them(
    lab: Lab, start: Start
) -> None:
    """A cleaner of old files removes them, or systemd at the end of another unit that names them."""
    host = lab.host("a")
    agent = start(host, "--init")
    agent.wait_device()
    state = host.root / "var/lib/wesher/wgoverlay.json"
    wait_until(state.exists, what="the state is saved")
    before, key = agent.status(), json.loads(state.read_text())["ClusterKey"]

    host.run(["rm", "-rf", "/run/wesher"])
    shown = host.run([WESHER, "status"], check=False)
    assert "no agent is running" in shown.stderr
    wait_until(lambda: agent.ask("status"), what="the control socket is back", deadline=3 * LOOK_SECONDS)
    assert host.run([WESHER, "status", "--check"], check=False).stderr == ""
    assert agent.own_log.count("control socket restored") == 1

    host.run(["rm", "-rf", "/run/wireguard", "/var/lib/wesher"])
    wait_until(
        lambda: (host.root / "run/wireguard/wgoverlay.sock").exists() and state.exists(),
        what="the device's socket and the state are back",
    )
    wait_until(
        lambda: agent.own_log.count("wireguard-go started") == 2 and agent.status()["interface"],
        what="the device works again",
    )
    assert json.loads(state.read_text())["ClusterKey"] == key
    assert agent.status()["publicKey"] == before["publicKey"]
    assert agent.end() == 0
    assert not (host.root / "run/wesher/wgoverlay.sock").exists()


def test_a_second_ctrl_c_kills_an_agent_that_hangs_at_its_end_without_a_traceback(
    lab: Lab, start: Start
) -> None:
    host = lab.host("a")
    agent = start(host, "--cluster-key", KEY)
    agent.wait_device()
    carrier = _carrier(agent)
    os.kill(carrier, signal.SIGSTOP)
    try:
        agent.process.send_signal(signal.SIGINT)
        wait_until(lambda: not _catches(agent.process.pid, signal.SIGINT), what="the first is heard")
        assert agent.end(signal.SIGINT) == -signal.SIGINT
    finally:
        os.kill(carrier, signal.SIGCONT)
    assert "Traceback" not in agent.own_log


@pytest.mark.parametrize("way", ["SIGTERM", "SIGTERM for a restart", "wesher leave"])
def test_an_orderly_stop_logs_nothing_above_info(lab: Lab, start: Start, way: str) -> None:
    a, b = lab.host("a"), lab.host("b")
    # The default network cannot be covered as a whole, of which a start warns after the device is up.
    flags = ("--cluster-key", KEY, "--overlay-net", "10.189.0.0/16", "--join", str(a.ipv4))
    start(a, *flags[:4], "--init").wait_device()
    agent = start(b, *flags, f"--leave-on-exit={'false' if 'restart' in way else 'true'}")
    agent.wait_for("a", "b")
    agent.wait_device()
    before = len(agent.own_log)
    if way == "wesher leave":
        b.run([WESHER, "leave"])
        assert agent.process.wait(PATIENCE) == 0
    else:
        assert agent.end() == 0
    said = agent.own_log[before:]
    assert "agent ended" in said
    assert not re.findall(r".*(?:WARNING|ERROR|CRITICAL|Traceback|Task was destroyed).*", said)


def test_a_wireguard_go_that_dies_young_is_started_again_at_once(lab: Lab, start: Start) -> None:
    agent = start(lab.host("a"), "--cluster-key", KEY)
    agent.wait_device()
    os.kill(_carrier(agent), signal.SIGKILL)
    wait_until(
        lambda: agent.own_log.count("wireguard-go started") == 2,
        deadline=BEFORE_THE_NEXT_LOOK,
        what="another was started",
    )


def test_a_wireguard_go_that_hangs_does_not_outlive_an_agent_that_leaves(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    agent = start(host, "--cluster-key", KEY)
    agent.wait_device()
    carrier = _carrier(agent)
    os.kill(carrier, signal.SIGSTOP)
    assert agent.end() == 0
    wait_until(lambda: not _lives(carrier), what="the hanging program is gone")
    assert "wgoverlay" not in host.run(["ip", "-o", "link"]).stdout


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    # Whoever is to take a dead orphan off the kernel's list may take its time.
    return state != "Z"


def _carrier(agent: AgentProcess) -> int:
    """Return the pid of the wireguard-go that an agent started last."""
    return int(re.findall(r"wireguard-go started .* pid=(\d+)", agent.own_log)[-1])


def _catches(pid: int, number: signal.Signals) -> bool:
    found = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return bool(int(found[1], 16) >> (number - 1) & 1)


def test_a_corrupt_state_file_is_set_aside_and_the_agent_begins_anew(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    directory = host.root / "var/lib/wesher"
    directory.mkdir()
    (directory / "wgoverlay.json").write_text("{ no json")
    agent = start(host, "--cluster-key", KEY)
    agent.wait_for("a")
    (kept,) = re.findall(r'a copy of [^ ]+ is in ([^\s"]+)', agent.own_log)
    assert (host.root / kept.removeprefix("/")).read_text() == "{ no json"
    assert [path.name for path in directory.glob("wgoverlay.json.corrupt-*")] == [Path(kept).name]


def test_an_unprivileged_agent_with_cap_net_admin_does_all_but_the_hosts_file(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    start(a, "--cluster-key", KEY)
    for directory in ("run/wesher", "run/wireguard", "var/lib/wesher"):
        (b.root / directory).mkdir()
        os.chown(b.root / directory, 65534, 65534)
    wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    wrapper += [
        "--inh-caps=-all,+net_admin",
        "--ambient-caps=-all,+net_admin",
        "--bounding-set=-all,+net_admin",
    ]
    _open_tun_to_all(b)
    _open_our_code_to_all(b)
    binary = b.root / "run/wireguard-go"
    shutil.copy(wireguard_go(), binary)
    flags = ("--cluster-key", KEY, "--join", str(a.ipv4), "--userspace-binary=/run/wireguard-go")
    agent = start(b, *flags, wrapper=wrapper)
    agent.wait_for("a", "b")
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    assert "Uid:\t65534" in status
    wait_for_ping(b, agent.members()["a"]["overlayIP"])
    wait_until(lambda: agent.status()["hosts"].startswith("skipped"), what="the hosts file was tried")
    assert agent.own_log.count("hosts file not written") == 1


def _open_our_code_to_all(host: Host) -> None:
    """Let other users of a host read the code, though this checkout may lie in somebody's closed home."""
    needed = [
        *(REPOSITORY / part for part in (".venv", "agent", "common", "operator")),
        Path(sys.base_prefix),
    ]
    closed = {
        next((parent for parent in reversed(path.parents) if not parent.stat().st_mode & stat.S_IXOTH), None)
        for path in needed
    } - {None}
    kept = [path for path in needed if closed & {*path.parents}]
    for number, path in enumerate(kept):
        host.run(["mkdir", "-p", f"/run/code/{number}"])
        host.run(["mount", "--rbind", path, f"/run/code/{number}"])
    for directory in closed:
        host.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(directory)])
    for number, path in enumerate(kept):
        host.run(["mkdir", "-p", path])
        host.run(["mount", "--rbind", f"/run/code/{number}", path])


def _open_tun_to_all(host: Host) -> None:
    """Give a host a TUN device that needs no root, as most distributions do, and this machine need not."""
    host.run(["sh", "-ec", "mknod /run/tun c 10 200; chmod 666 /run/tun; mount --bind /run/tun /dev/net/tun"])


@pytest.mark.parametrize("mounted", ["read-only /etc", "read-only hosts file"])
def test_a_hosts_file_that_cannot_be_written_is_one_warning_and_no_more(
    lab: Lab, start: Start, mounted: str
) -> None:
    a, b = lab.host("a"), lab.host("b")
    start(a, "--cluster-key", KEY)
    place = "/etc" if mounted == "read-only /etc" else "/etc/hosts"
    b.run(["mount", "--bind", place, place])
    b.run(["mount", "-o", "remount,ro,bind", place])
    agent = start(b, "--cluster-key", KEY, "--join", str(a.ipv4))
    agent.wait_for("a", "b")
    wait_for_ping(b, agent.members()["a"]["overlayIP"])
    # Once its peers have been asked through the tunnel.
    wait_until(lambda: agent.conditions()["Ready"] == "Ready", what="the node is ready")
    wait_until(lambda: agent.status()["hosts"].startswith("skipped"), what="the hosts file was tried")
    assert agent.own_log.count("hosts file not written") == 1


def test_a_hosts_file_that_is_a_mount_of_its_own_is_written_in_place(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    start(a, "--cluster-key", KEY)
    b.run(["mount", "--bind", "/etc/hosts", "/etc/hosts"])
    start(b, "--cluster-key", KEY, "--join", str(a.ipv4)).wait_for("a", "b")
    wait_for_ping(b, "a")


def test_without_any_wireguard_gossip_goes_on_and_the_status_says_what_to_install(
    lab: Lab, start: Start
) -> None:
    a, b = lab.host("a"), lab.host("b")
    start(a, "--cluster-key", KEY)
    agent = start(b, "--cluster-key", KEY, "--join", str(a.ipv4), "--userspace-binary=/nowhere/wireguard-go")
    agent.wait_for("a", "b")

    def problem() -> dict[str, str]:
        conditions: list[dict[str, str]] = agent.status()["conditions"]
        return next(entry for entry in conditions if entry["type"] == "WireGuardReady")

    wait_until(lambda: problem()["status"] == "False", what="the device failed")
    assert "/nowhere/wireguard-go" in problem()["message"]


def test_junk_from_the_network_is_counted_and_harms_nobody(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    agent = start(a, "--cluster-key", KEY)
    agent.wait_for("a")
    _send_junk(b, str(a.ipv4))
    wait_until(lambda: sum(agent.status()["gossip"]["rejected"].values()) >= 18, what="the junk was counted")
    start(b, "--cluster-key", KEY, "--join", str(a.ipv4)).wait_for("a", "b")


def _send_junk(host: Host, target: str) -> None:
    """Send ten datagrams of noise, and as many frames that claim to be too long, two of them cut short."""
    program = f"""
import os, socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for size in (0, 1, 2, 13, 29, 100, 1400, 9000, 60000, 7):
    udp.sendto(os.urandom(size), ({target!r}, 7946))
for size in (1, 5, 100, 70000, 3) * 2:
    with socket.create_connection(({target!r}, 7946), timeout={PATIENCE}) as tcp:
        try:
            tcp.sendall(b"\\x0a\\xff" + os.urandom(size))
            tcp.shutdown(socket.SHUT_WR)
            tcp.recv(1)
        except OSError:
            pass
"""
    host.run([sys.executable, "-I", "-c", program], timeout=2 * PATIENCE)


def test_a_key_of_another_mesh_keeps_members_apart(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    agent = start(a, "--cluster-key", KEY)
    agent.wait_for("a")
    other = start(b, "--join", str(a.ipv4))
    wait_until(lambda: agent.status()["gossip"]["rejected"], what="a wrong key was counted")
    agent.wait_for("a")
    other.wait_for("b")


def test_a_mistyped_variable_is_named_without_its_value(lab: Lab, start: Start) -> None:
    wrapper = [
        "env",
        "WESHER_CLUSTERKEY=the secret",
        "WESHER_SERVICE_HOST=10.0.0.1",
        "WESHER_PORT=tcp://10.0.0.1",
    ]
    agent = start(lab.host("a"), "--cluster-key", KEY, wrapper=wrapper)
    agent.wait_for("a")
    named = re.findall(r"WARNING wesher.agent: unknown environment variable ignored (.*)", agent.own_log)
    assert "variable=WESHER_CLUSTERKEY nearest=WESHER_CLUSTER_KEY" in named
    assert not [line for line in named if "WESHER_SERVICE" in line or "WESHER_PORT" in line]
    assert "the secret" not in agent.own_log
