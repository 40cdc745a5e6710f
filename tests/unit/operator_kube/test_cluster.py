"""What the operator makes of an API server's answers, those too that a healthy one does not give."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from kubernetes.aio.client import ApiClient, Configuration

from wesher_common.errors import ClusterUnavailable, InvalidSpec
from wesher_operator import kube, leader
from wesher_operator.kube import (
    CONFIG_MAP,
    DAEMON_SET,
    MESH,
    NODE,
    POD,
    SECRET,
    WESHER_NODE,
    Cluster,
    NotLeading,
    connect,
    read_answer,
    watch_credentials,
)
from wesher_testing.agents.mounted_files import KUBECONFIG
from wesher_testing.cluster.fake_api_server import Request, answering, serving
from wesher_testing.virtual.loop_clock import LoopClock

MESHES = "/apis/wesher.dev/v1alpha1/weshermeshes"


def refusal(code: int, message: str, **details: Any) -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "code": code, "message": message, "details": details}


def read(status: int, content: object, method: str = "PATCH") -> object:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_answer(status, text, method, f"{MESHES}/demo")


def test_a_write_that_is_refused_is_the_users_to_mend_with_the_field_where_one_is_named() -> None:
    cause = {"field": "spec.overlayIP", "message": "must be an IP address"}
    with pytest.raises(InvalidSpec, match=r"^spec\.overlayIP: must be an IP address$"):
        read(*refusal(422, "long", causes=[cause]))
    with pytest.raises(InvalidSpec, match="exceeded quota"):
        read(*refusal(403, 'pods "x" is forbidden: exceeded quota'))


def test_a_question_that_is_not_allowed_is_asked_again_later() -> None:
    """Permissions that are applied after the operator started heal it."""
    with pytest.raises(ClusterUnavailable, match="nodes is forbidden"):
        read(*refusal(403, "nodes is forbidden"), method="GET")


@pytest.mark.parametrize("status", [401, 408, 410, 413, 429, 500, 503, 504])
def test_any_other_trouble_is_nobodys_to_mend_and_passes(status: int) -> None:
    with pytest.raises(ClusterUnavailable, match=str(status)):
        read(*refusal(status, "no"))
    with pytest.raises(ClusterUnavailable, match="without an object"):
        read(status, b"<html>bad gateway</html>")


@pytest.mark.parametrize("status", [200, 409, 502])
@pytest.mark.parametrize(
    "content", [b'"upstream connect error"', b"[]", b"null", pytest.param(b"[" * 100_000, id="deep")]
)
def test_json_that_is_no_object_is_a_proxys_and_no_answer(status: int, content: bytes) -> None:
    with pytest.raises(ClusterUnavailable, match=f"answered {status} without an object"):
        read(status, content)


@pytest.mark.parametrize(
    "answer",
    [{}, {"items": None, "metadata": {"resourceVersion": "1"}}, {"items": [], "metadata": {}}, {"items": 7}],
)
async def test_what_is_no_list_is_no_answer_to_who_asked_for_one(answer: dict[str, Any]) -> None:
    async with answering((200, answer)) as (cluster, _):
        with pytest.raises(ClusterUnavailable, match="nodes: the API server sent no list"):
            await cluster.list(NODE)


def test_what_is_not_there_is_none() -> None:
    assert read(*refusal(404, "not found")) is None
    assert read(404, b"404 page not found") is None


@pytest.mark.parametrize(
    "write",
    [
        lambda cluster: cluster.apply(
            MESH, {"metadata": {"name": "demo", "uid": "old"}}, subresource="status"
        ),
        lambda cluster: cluster.annotate(POD, "p", {"a": "b"}),
    ],
)
async def test_a_write_that_met_another_object_or_writer_is_tried_again_later(
    write: Callable[[Cluster], Awaitable[object]],
) -> None:
    async with answering(refusal(409, "the UID in the precondition (old) does not match")) as (cluster, _):
        with pytest.raises(ClusterUnavailable, match="changed during the write: the UID"):
            await write(cluster)


async def test_creating_what_is_there_and_deleting_what_is_another_by_now_changes_nothing() -> None:
    async with answering(refusal(409, "exists")) as (cluster, asked):
        assert await cluster.create(WESHER_NODE, {"metadata": {"name": "demo.a"}}) is None
        await cluster.delete(WESHER_NODE, "demo.a", uid="old")
    assert [request.method for request in asked] == ["POST", "DELETE"]


async def test_a_list_comes_in_pages_of_one_moment() -> None:
    first = {"items": [{"n": 1}, {"n": 2}], "metadata": {"resourceVersion": "7", "continue": "more"}}
    last = {"items": [{"n": 3}], "metadata": {"resourceVersion": "7"}}
    async with answering((200, first), (200, last)) as (cluster, asked):
        pages = [page async for page in cluster.pages(NODE)]
    assert [(len(page.items), page.version) for page in pages] == [(2, 7), (1, 7)]
    assert asked[1].query.endswith("&continue=more")


async def test_of_pods_and_other_peoples_config_maps_only_ours_are_listed() -> None:
    """In a crowded namespace the others are many, and some are large."""
    empty = {"items": [], "metadata": {"resourceVersion": "7"}}
    async with answering((200, empty)) as (cluster, asked):
        for kind in (POD, CONFIG_MAP, DAEMON_SET, NODE, SECRET):
            await cluster.list(kind)
    selected = [parse_qs(request.query).get("labelselector") for request in asked]
    assert selected == [["wesher.dev/mesh"]] * 3 + [None] * 2


async def test_a_list_whose_moment_was_forgotten_is_asked_for_anew_later() -> None:
    first = {"items": [], "metadata": {"resourceVersion": "7", "continue": "more"}}
    async with answering((200, first), refusal(410, "too old")) as (cluster, _):
        with pytest.raises(ClusterUnavailable, match="410 too old"):
            await cluster.list(NODE)


def test_a_write_that_began_under_our_lease_ends_before_another_process_may_lead() -> None:
    assert leader.RENEW_DEADLINE + kube.WRITE_SECONDS < leader.LEASE_SECONDS


async def test_a_write_that_hangs_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "WRITE_SECONDS", 3600.0)
    clock, arrivals = LoopClock(), list[Request]()

    def answer(request: Request) -> None:
        arrivals.append(request)
        clock.advance(kube.WRITE_SECONDS)

    async with serving(answer) as cluster:
        with pytest.raises(ClusterUnavailable, match="does not answer"):
            await cluster.create(WESHER_NODE, {"metadata": {"name": "demo.a"}})
    assert len(arrivals) == 1  # and is not repeated: whether we still lead is asked before each


async def test_writes_are_spread_to_fewer_than_twenty_a_second() -> None:
    loop = asyncio.get_running_loop()
    async with answering((200, {})) as (cluster, asked):
        began = loop.time()
        for _ in range(11):
            await cluster.annotate(POD, "p", {"a": "b"})
        assert loop.time() - began > 0.5
    assert len(asked) == 11


async def test_whoever_does_not_lead_asks_but_writes_nothing() -> None:
    async with answering((200, {})) as (cluster, asked):
        idle = Cluster(cluster._api, "wesher-system", may_write=lambda: False)
        assert await idle.get(MESH, "demo") == {}
        with pytest.raises(NotLeading):
            await idle.delete(MESH, "demo", uid="u")
    assert [request.method for request in asked] == ["GET"]


async def test_watches_go_the_same_way_as_requests() -> None:
    """Else an operator whose kubeconfig names a proxy, or checks no certificate, would list and not watch."""
    settings = Configuration(host="https://192.0.2.1:6443")
    settings.verify_ssl, settings.proxy = False, "http://192.0.2.9:3128"
    async with ApiClient(settings) as api:
        way = await watch_credentials(api)
        assert (way.server, way.insecure, way.proxy_url) == (settings.host, True, settings.proxy)
        assert way.trust_env


async def test_certificates_are_judged_as_kubectl_judges_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Python since 3.13 refuses those that do not name their issuer's key, unless told otherwise."""
    usual = ssl.create_default_context

    def strict(*args: Any, **options: Any) -> ssl.SSLContext:
        context = usual(*args, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    (tmp_path / "config").write_text(json.dumps(KUBECONFIG))
    async with await connect(tmp_path / "config", "test") as api:
        ways = [api.rest_client.ssl_context, (await watch_credentials(api)).as_ssl_context()]
    assert [bool(context.verify_flags & ssl.VERIFY_X509_STRICT) for context in ways] == [False, False]
