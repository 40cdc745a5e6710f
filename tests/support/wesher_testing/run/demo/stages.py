"""The stages of the demo, in the order in which they are shown."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml

from wesher_testing.agents.mesh import device
from wesher_testing.agents.process import pings
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.lab.namespaces import Host
from wesher_testing.lab.pings import Pinging
from wesher_testing.peers import thief
from wesher_testing.run import toolbox
from wesher_testing.run.demo.kept import script
from wesher_testing.run.demo.narrator import ClaimFailed, Narrator
from wesher_testing.run.demo.proof import Markers, leads_to, show_pair, show_wires
from wesher_testing.run.demo.world import MESH, NAMESPACE, World
from wesher_testing.run.machine_load import stretched

OVERLAY = "10.189.0.0/16"
INTERFACE = "wgoverlay"
NODES = ("node-a", "node-b", "node-c")
OUTSIDER = "laptop"
THIEF = "intruder"
SOON = 60.0
"""Seconds for what takes a few where nothing else runs."""
PROBED = 120.0
"""Seconds for what a node's agents find out by asking each other every half a minute."""
JOINED, REVOKED = 20, 10
"""Seconds on a quiet machine: from a command to a machine's first answer, and to its last closed tunnel."""
ATTACK = 5.0
"""Seconds for which a thief speaks in the name of a node."""
MESH_OBJECT = {
    "apiVersion": "wesher.dev/v1alpha1",
    "kind": "WesherMesh",
    "metadata": {"name": MESH},
    "spec": {"overlayCIDR": OVERLAY, "etcHosts": "Names", "gossip": {"profile": "LAN"}},
}


@dataclass(slots=True)
class Demo:
    """The stages, over one world."""

    say: Narrator
    world: World
    markers: Markers = field(default_factory=Markers)

    def run(self) -> None:
        """Show everything; what is claimed and does not hold raises `ClaimFailed`."""
        stages: tuple[Callable[[], None], ...] = (
            self._make_hosts,
            self._start_control_plane,
            self._declare_mesh,
            self._start_agents,
            self._show_mesh,
            self._ping_every_pair,
            self._join_from_outside,
            self._attack,
            self._break_and_heal,
            self._lose_an_agent,
            self._revoke,
            self._show_wires,
        )
        for stage in stages:
            stage()

    def _make_hosts(self) -> None:
        with self.say.stage(
            "Hosts",
            "Network namespaces on one LAN: a control plane, three nodes, and a machine outside Kubernetes. "
            "tcpdump listens on every underlay interface from now on.",
        ):
            for name in ("control-plane", *NODES, OUTSIDER):
                host = self.world.add_host(name)
                self.say.note(f"{name:<14} {host.ipv4}")

    def _start_control_plane(self) -> None:
        control = self._host("control-plane")
        with self.say.stage(
            "API server and operator", "A real kube-apiserver and etcd, with wesher installed."
        ):
            self.world.start_api_server(control)
            deploy = toolbox.REPOSITORY
            for files in ("deploy/namespace.yaml", "charts/wesher/crds", "deploy/wesher.yaml"):
                self._kubectl(
                    "apply", "-f", str(deploy / files), show=f"kubectl apply -f {files}", quiet=True
                )
            self.world.start_operator(control)
            for name in NODES:
                self.world.register(self._host(name))
            self._kubectl("get", "nodes", "-o", "wide", "--no-headers=false", show="kubectl get nodes")

    def _declare_mesh(self) -> None:
        with self.say.stage(
            "A mesh is declared", "The operator answers with a key, a configuration, addresses."
        ):
            self.say.command("kubectl apply -f - <<'MESH'")
            text = yaml.safe_dump(MESH_OBJECT, sort_keys=False)
            self.say.output(text)
            self.world.api.kubectl("apply", "-f", "-", stdin=text)
            self.say.eventually(
                "every node has an overlay address",
                lambda: all(self.world.overlay_address(name) for name in NODES),
                within=SOON,
            )
            # The operator makes it last, so that nothing is missing when its pods start.
            self.say.eventually("there is a DaemonSet for the agents", self.world.daemon_set, within=SOON)
            self._kubectl(
                "get", "secret,configmap,daemonset", "-n", NAMESPACE, "-l", f"wesher.dev/mesh={MESH}"
            )

    def _start_agents(self) -> None:
        with self.say.stage(
            "Agents",
            "There is no kubelet here: the demo mounts the Secret and the ConfigMap as files and starts "
            "on each node what the DaemonSet says, with a token bound to that node.",
        ):
            for node in self.world.nodes.values():
                self.say.claim(f"{node.name}: key and configuration are mounted", self.world.mount(node))
                self.world.start_agent(node)
            self.world.keep_mounts()
            self._wait_ready("the mesh is Ready")
            self.say.eventually(
                "every node has a certificate: from now on, only certified members get a tunnel",
                self.world.is_bound,
                within=SOON,
            )

    def _show_mesh(self) -> None:
        with self.say.stage("What an administrator sees"):
            self._kubectl("get", "wesher")
            self._plugin("status")
            self._on(self._host(NODES[0]), "wesher", "members")

    def _ping_every_pair(self) -> None:
        with self.say.stage(
            "Every pair, by name", "Each ping carries 16 random bytes that no wire may show."
        ):
            for a, b in itertools.permutations((self._host(name) for name in NODES), 2):
                address = self.world.overlay_address(b.name)
                show_pair(self.say, a, b, address, INTERFACE, within=SOON)
                self._ping(a, b)

    def _join_from_outside(self) -> None:
        outsider = self._host(OUTSIDER)
        nodes = [self._host(name) for name in NODES]
        with self.say.stage(
            "A machine outside Kubernetes joins by invite",
            "The invite is one file, which admits one machine under one name.",
        ):
            file = self.world.lab.directory / f"{OUTSIDER}.join"
            self._plugin("invite", OUTSIDER, f"--output={file}")
            began = self.say.elapsed
            self._start_agent(outsider, f"--join-file={file}")
            self._ping(outsider, nodes[0], count=1)
            self._claim_in_time("from that command to the first answer", began, JOINED)
            for node in nodes:
                for source, target in ((outsider, node), (node, outsider)):
                    self._ping(source, target)
            self.say.eventually("the mesh's status lists it", self._outsider_listed, within=SOON)
            self._kubectl("get", "wesherpeer")

    def _attack(self) -> None:
        asked, victim = (self._host(name) for name in NODES[:2])
        thief_host = self.world.add_host(THIEF)
        address = self.world.overlay_address(victim.name)
        with self.say.stage(
            "A thief has the cluster key",
            f"It joins with a state file that claims the overlay address of {victim.name}. Then it announces "
            f"every second that {victim.name} has left, and is back on the thief's host with another key. "
            f"Meanwhile, {asked.name} and {victim.name} ping each other ten times a second.",
        ):
            pairs = [(asked.name, victim.name), (victim.name, asked.name)]
            addresses = {name: self.world.overlay_address(name) for name in NODES}
            before = self._tunnels()
            with Pinging(self.world.nodes, addresses, pairs) as going:
                self._join_as_thief(thief_host, asked, address)
                self.say.note(f"{THIEF} announces that it is {victim.name}, for {ATTACK:.0f} s")
                secret = self.world.cluster_secret()
                victims = (thief_host, "take-name", victim.name)
                with thief.lying(*victims, secret=secret, member=asked, seconds=ATTACK) as liar:
                    self.say.claim("the attack ran to its end", liar.wait(SOON) == 0)
                    self.say.claim("no tunnel of any node has changed", self._tunnels() == before)
                self.say.claim(
                    f"{victim.name} keeps {address}", leads_to(asked, victim.name, address, INTERFACE)
                )
            self.say.claim(
                f"{sum(going.lost.values())} of {sum(going.counted.values())} pings between "
                f"{asked.name} and {victim.name} lost",
                sum(going.counted.values()) and not any(going.lost.values()),
            )

    def _join_as_thief(self, host: Host, asked: Host, address: str) -> None:
        state, flags = self.world.thief_files(host, address)
        self.say.command(f"cat /var/lib/wesher/{state.name}   # on {THIEF}")
        self.say.output(state.read_text())
        agent = self._start_agent(
            host, *flags, f"--join={asked.ipv4}", f"--overlay-net={OVERLAY}", "--gossip-profile=LAN"
        )
        self.say.eventually(
            f"{asked.name} knows {THIEF} as a member without a certificate",
            lambda: self._member(asked, THIEF).get("uncertified") == "Uncertified",
            within=SOON,
        )
        self._on(asked, "wesher", "members")
        target = self.world.overlay_address(asked.name)
        self.say.claim(f"{THIEF} → ping {asked.name}: no answer", not pings(host, target))
        agent.terminate()
        agent.wait(timeout=SOON)

    def _break_and_heal(self) -> None:
        victim = self._host(NODES[2])
        with self.say.stage(
            "WireGuard is blocked on one node",
            "Gossip still passes and every member is alive; only its tunnels are dead.",
        ):
            self.say.command(f"nft add rule … udp dport 51820 drop   # on {victim.name}")
            victim.drop("udp", 51820)
            self._wait_not_ready(victim.name)
            self._kubectl("get", "wesher")
            self.say.command("nft delete table …")
            victim.allow_all()
            self._wait_ready("the mesh is Ready again")
            self._ping(self._host(NODES[0]), victim)

    def _lose_an_agent(self) -> None:
        victim = self.world.nodes[NODES[1]]
        other = self._host(NODES[0])
        with self.say.stage(
            "An agent stops", "A restart is not a departure: device and peers stay, and so does traffic."
        ):
            self.world.end_agent(victim)
            self._ping(other, victim.host, ", whose agent is away")
            self._wait_not_ready(victim.name)
            self._kubectl("get", "wmesh", MESH, "-o", "wide")
            self.world.start_agent(victim)
            self._wait_ready("its agent is back and the mesh is Ready again")

    def _revoke(self) -> None:
        outsider, asked = self._host(OUTSIDER), self._host(NODES[0])
        with self.say.stage(
            f"{OUTSIDER} is revoked",
            "As a stolen machine would, it still has the cluster key, and its agent still runs.",
        ):
            self._kubectl("get", "wesher")
            key = self.world.peer_key(OUTSIDER)
            self.say.claim(f"every node has a tunnel to {OUTSIDER}", self._have_tunnel_to(key) == list(NODES))
            began = self.say.elapsed
            self._plugin("revoke", OUTSIDER)
            self.say.eventually(
                f"no node has a tunnel to {OUTSIDER}", lambda: not self._have_tunnel_to(key), within=SOON
            )
            self._claim_in_time("from that command to the last closed tunnel", began, REVOKED)
            self.say.eventually(
                f"{asked.name} does not list {OUTSIDER} as a member",
                lambda: not self._member(asked, OUTSIDER),
                within=SOON,
            )
            self._on(asked, "wesher", "members")
            address = self.world.overlay_address(asked.name)
            self.say.claim(f"{OUTSIDER} → ping {asked.name}: no answer", not pings(outsider, address))

    def _show_wires(self) -> None:
        a, b = (self._host(name) for name in NODES[:2])
        with self.say.stage("What the wires showed"):
            self.say.claim("one marker is sent in clear on purpose", self.markers.ping_in_clear(a, b))
            for capture in self.world.captures.values():
                capture.stop()
            packets = {name: capture.packets() for name, capture in self.world.captures.items()}
            show_wires(self.say, self.markers, packets, ip_network(OVERLAY))

    def _host(self, name: str) -> Host:
        return self.world.lab.hosts[name]

    def _kubectl(self, *arguments: str, show: str = "", quiet: bool = False) -> None:
        self.say.command(show or f"kubectl {' '.join(arguments)}")
        said = self.world.api.kubectl(*arguments)
        if not quiet:
            self.say.output(said)

    def _plugin(self, *arguments: str) -> None:
        self.say.command(f"kubectl wesher {' '.join(arguments)}")
        kubectl = self.world.lab.directory / "kubectl"
        kubectl_script(kubectl, self.world.api)
        done = subprocess.run(
            [kubectl, "wesher", *arguments], capture_output=True, text=True, check=False, timeout=SOON
        )
        self.say.output(done.stdout + done.stderr)

    def _start_agent(self, host: Host, *flags: str) -> subprocess.Popen[Any]:
        self.say.command(f"wesher {' '.join(flags)}   # on {host.name}")
        argv: list[str | Path] = [_program("wesher"), *flags, "--log-level=info"]
        argv.append(f"--userspace-binary={toolbox.wireguard_go()}")
        return host.log_of(argv, self.world.lab.directory / f"{host.name}.log")

    def _on(self, host: Host, program: str, *arguments: str) -> None:
        self.say.command(f"{program} {' '.join(arguments)}   # on {host.name}")
        self.say.output(host.run([_program(program), *arguments]).stdout)

    def _ping(self, source: Host, target: Host, more: str = "", *, count: int = 3) -> None:
        # A handshake that was lost is tried again after five seconds.
        self.say.eventually(
            f"{source.name} → ping {target.name}{more}",
            partial(self.markers.ping, source, target, count),
            within=SOON,
        )

    def _claim_in_time(self, text: str, began: float, limit: float) -> None:
        seconds, limit = self.say.elapsed - began, stretched(limit)
        self.say.claim(f"{text}: {seconds:.1f} s, with a limit of {limit:.0f} s", seconds <= limit)

    def _wait_ready(self, text: str) -> None:
        def ready() -> bool:
            self._expect_agents()
            return self.world.condition().get("status") == "True"

        self.say.eventually(text, ready, within=PROBED)

    def _wait_not_ready(self, name: str) -> None:
        def blamed() -> bool:
            ready = self.world.condition()
            return ready.get("status") == "False" and name in ready.get("message", "")

        self.say.eventually(f"the mesh is not Ready and names {name}", blamed, within=PROBED)
        self.say.note(f"Ready=False: {self.world.condition().get('message', '')}")

    def _expect_agents(self) -> None:
        for node in self.world.nodes.values():
            if node.agent is not None and node.agent.poll() is not None:
                raise ClaimFailed(f"the agent of {node.name} ended with status {node.agent.returncode}")

    def _member(self, host: Host, name: str) -> dict[str, Any]:
        """Return what an agent says of a member; empty if it does not know it."""
        members = json.loads(host.run([_program("wesher"), "members", "-o", "json"]).stdout)
        return next((member for member in members if member["name"] == name), {})

    def _tunnels(self) -> dict[str, dict[str, list[str]]]:
        """Return the addresses that each node's WireGuard sends to each key."""
        return {
            name: {
                str(key): sorted(map(str, peer.allowed_ips))
                for key, peer in device(self._host(name)).peers.items()
            }
            for name in NODES
        }

    def _have_tunnel_to(self, key: str) -> list[str]:
        return [name for name, peers in self._tunnels().items() if key in peers]

    def _outsider_listed(self) -> bool:
        mesh = self.world.api.get("weshermesh", MESH)
        members = mesh.get("status", {}).get("memberList", [])
        return any(member["name"] == OUTSIDER and member["kind"] == "Outsider" for member in members)


def kubectl_script(path: Path, api: ApiServer) -> None:
    """Write a script that is kubectl for an API server, with wesher's plugin."""
    kubectl = [*api.enter, toolbox.kubernetes_binary("kubectl")]
    script(
        path,
        # By a variable: kubectl takes no flag before a plugin's name.
        f'export KUBECONFIG="{api.kubeconfig}"',
        f'export PATH="{PROGRAMS}:$PATH"',
        f'exec {" ".join(map(str, kubectl))} "$@"',
    )


def _program(name: str) -> Path:
    return PROGRAMS / name


PROGRAMS = Path(sys.executable).parent
