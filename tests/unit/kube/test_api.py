"""How an agent finds its API server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wesher_agent.kube.api import from_kubeconfig, in_cluster
from wesher_common.errors import InvalidSpec

INSIDE = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


async def test_a_pod_asks_by_its_service_account_whose_token_may_be_renewed_at_any_time(
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("first\n")
    api = in_cluster(INSIDE, tmp_path)
    assert api.url == "https://10.96.0.1:443"
    assert await api.authorization() == "Bearer first"
    (tmp_path / "token").write_text("second\n")
    assert await api.authorization() == "Bearer second"
    six = in_cluster(INSIDE | {"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path)
    assert six.url == "https://[fd00::1]:443"


def test_outside_a_pod_a_kubeconfig_is_asked_for(tmp_path: Path) -> None:
    for environ in ({}, INSIDE):
        with pytest.raises(InvalidSpec, match="--kubeconfig: is required outside a pod"):
            in_cluster(environ, tmp_path)


async def test_without_the_client_library_a_kubeconfig_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes.aio", None)
    with pytest.raises(InvalidSpec) as refusal:
        await from_kubeconfig(tmp_path / "config")
    assert str(refusal.value) == (
        "--kubeconfig: needs the Python package kubernetes: "
        "install wesher with pip or pipx and the extra kubeconfig, as wesher[agent,kubeconfig]"
    )


BROKEN = [None, "", "{", "[]", "apiVersion: v1\nkind: Config\n", "contexts: 5\n", "a: b: c", "\0"]


@pytest.mark.parametrize("content", BROKEN)
async def test_a_kubeconfig_that_cannot_be_used_is_named_in_one_line(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidSpec) as refusal:
        await from_kubeconfig(path)
    assert str(refusal.value).startswith(f"--kubeconfig '{path}': cannot be used: ")
    assert "\n" not in str(refusal.value)
