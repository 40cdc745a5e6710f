"""What Helm's hooks run: ``wesher-operator uninstall`` and ``check``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, eventually

Mesh = Callable[..., None]
Report = Callable[..., None]


@pytest.fixture
def run(api: ApiServer) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one command of the operator's as the administrator."""

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        reach = (f"--kubeconfig={api.kubeconfig}", f"--namespace={NAMESPACE}")
        return subprocess.run(
            [sys.executable, "-m", "wesher_operator", *words, *reach],
            capture_output=True,
            text=True,
            timeout=2 * SOON,
            check=False,
        )

    return command


def agent_pod(api: ApiServer, mesh: str) -> None:
    """Make a pod such as the DaemonSet controller would; here nobody ends it."""
    metadata = {"name": f"{mesh}-agent-1", "namespace": NAMESPACE, "labels": {"wesher.dev/mesh": mesh}}
    containers = [{"name": "agent", "image": "wesher:test"}]
    spec = {"nodeName": "a", "serviceAccountName": "wesher-agent", "containers": containers}
    api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def belongs_to_release(api: ApiServer, mesh: str, namespace: str = NAMESPACE) -> None:
    api.kubectl(
        *("annotate", "wmesh", mesh, "meta.helm.sh/release-name=wesher"),
        f"meta.helm.sh/release-namespace={namespace}",
    )


def hindrance(api: ApiServer) -> str:
    """Return why a mesh is not Ready; the operator says it once it has made everything."""
    conditions = api.get("wmesh", "demo").get("status", {}).get("conditions", [])
    return next((str(each["message"]) for each in conditions if each["type"] == "Ready"), "")


def test_uninstall_deletes_the_releases_meshes_and_names_those_it_leaves(
    api: ApiServer, mesh: Mesh, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for name in ("mine", "users", "elsewhere"):
        mesh(name)
    belongs_to_release(api, "mine")
    belongs_to_release(api, "elsewhere", namespace="other")
    done = run("uninstall", "--release=wesher")
    assert done.returncode == 0
    assert {item["metadata"]["name"] for item in api.get("wmesh")["items"]} == {"users", "elsewhere"}
    assert "mesh left running: another release created it mesh=users" in done.stderr
    assert "all agents have left meshes=mine" in done.stderr


def test_uninstall_waits_for_agents_only_so_long_names_their_nodes_and_never_fails(
    api: ApiServer, mesh: Mesh, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    mesh("mine")
    belongs_to_release(api, "mine")
    agent_pod(api, "mine")
    done = run("uninstall", "--release=wesher", "--timeout=5")
    assert done.returncode == 0
    assert "waiting for agents to leave nodes=a" in done.stderr
    assert "some agents have not left" in done.stderr


@pytest.mark.usefixtures("operator")
def test_a_check_says_what_hinders_a_mesh_and_ends_well_once_nothing_does(
    api: ApiServer, mesh: Mesh, report: Report, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    absent = run("check", "--mesh=demo", "--timeout=5")
    assert (absent.returncode, absent.stderr) == (
        1,
        "wesher-operator: mesh demo: no such WesherMesh\n",
    )
    names = "abc"
    for number, name in enumerate(names, start=1):
        api.node(name, f"192.168.7.{number}")
    mesh(clusterName="home")
    for name in names:
        eventually(lambda name=name: api.get("wnode", f"demo.{name}"), within=SOON)
    report("a")
    report("b")
    eventually(lambda: hindrance(api), within=SOON, until="no report yet from: c.home".__eq__)
    waiting = run("check", "--mesh=demo", "--timeout=5")
    assert waiting.returncode == 1
    assert "Ready is Unknown: no report yet from: c.home" in waiting.stderr

    # One pair of three makes no node unready, and a laptop may be closed.
    report("c", peers={"unreachable": ["b.home", "laptop"]})
    eventually(lambda: hindrance(api), within=SOON, until="all 3 nodes are ready".__eq__)
    cut = run("check", "--mesh=demo", "--timeout=5")
    assert (cut.returncode, cut.stderr) == (
        1,
        "wesher-operator: mesh demo: c.home cannot reach b.home through the tunnel\n",
    )
    report("c", peers={"unreachable": ["laptop"]})
    ready = run("check", "--mesh=demo", f"--timeout={SOON:.0f}")
    assert (ready.returncode, ready.stdout) == (
        0,
        "mesh demo is ready and all its nodes reach each other\n",
    )
