"""A new mesh has only certified members soon, and says so to its users."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wesher_testing.cluster.installation import NAMESPACE, Mesh
from wesher_testing.cluster.kubelets import Cluster
from wesher_testing.run.machine_load import share_of_a_core

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_BOUND_SOON = 60.0


def test_a_new_mesh_has_only_certified_members_a_minute_after_the_chart_was_installed(
    bound_after: float, say: Callable[[str], None]
) -> None:
    """With the images on the nodes: from the command to status.identity.bound."""
    share = share_of_a_core()
    say(f"helm install to a bound mesh: {bound_after:.1f} s, of a core: {share:.0%}")
    assert bound_after < _BOUND_SOON / share


def test_users_see_who_is_certified_and_until_when(running: Cluster, mesh: Mesh) -> None:
    heading, shown = running.api.kubectl("get", "wmesh", mesh.name, "--output=wide").splitlines()
    columns = dict(zip(heading.split(), shown.split(), strict=False))
    assert [columns[name] for name in ("IDENTITY", "CERTIFIED", "BOUND")] == ["Verified", "3/3", "true"]

    nodes = {each["spec"]["nodeName"]: each for each in mesh.weshernodes()}
    assert {node["status"]["certificateSerial"] == node["spec"]["serial"] for node in nodes.values()} == {
        True
    }
    assert {why for _, why in mesh.certificates().values()} == {""}

    pod = mesh.agents()["node-1"]["metadata"]["name"]
    ask = ("exec", f"--namespace={NAMESPACE}", pod, "--", "wesher")
    until = str(mesh.certificates()["node-1", "node-1"][0]).partition("T")[0]
    assert f"Verified, bound, certificate until {until}" in running.api.kubectl(*ask, "status")
    heading, *lines = running.api.kubectl(*ask, "members").splitlines()
    assert "CERT" in heading.split()
    assert len(lines) == len(nodes)
    log = running.api.kubectl("logs", f"--namespace={NAMESPACE}", pod)
    assert "own certificate valid" in log
