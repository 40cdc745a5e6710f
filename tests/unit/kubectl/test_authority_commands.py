"""What ``admit``, ``authority`` and ``new-authority`` write, and when they write nothing."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient, Configuration

from wesher_common.errors import ClusterUnavailable, InvalidSpec, WesherError
from wesher_common.names import ADMIT_KEY_ANNOTATION
from wesher_operator.kubectl.admit import admit
from wesher_operator.kubectl.authority import authorities_of, trusted_entry
from wesher_operator.kubectl.new_authority import new_authority
from wesher_operator.kubectl.reach import ApiServer, Object
from wesher_operator.resources.mesh import TrustedAuthority

KEY, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
NODE = "/apis/wesher.dev/v1alpha1/weshernodes/demo.a"
SECRETS = "/api/v1/namespaces/vpn/secrets"
SEED = base64.b64encode(bytes(32)).decode()


class Objects:
    """An API server that has these objects and keeps what is written; reached by `api`."""

    def __init__(self, api: ApiServer, objects: dict[str, Object]) -> None:
        self.api = api
        self.objects = {
            path: {"metadata": {"resourceVersion": "7"}, **body} for path, body in objects.items()
        }
        self.written: list[tuple[str, Object]] = []
        self.changes_meanwhile = False

    def answer(self, method: str, path: str, body: Object) -> tuple[int, Object]:
        """Answer a request."""
        if method != "GET":
            if self.changes_meanwhile:
                return HTTPStatus.CONFLICT, {"message": "the object has been modified"}
            self.written.append((path, body))
            return HTTPStatus.OK, body
        found = self.objects.get(path)
        return (HTTPStatus.OK, found) if found else (HTTPStatus.NOT_FOUND, {"message": "not found"})


Serve = Callable[[dict[str, Object]], Objects]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve objects by HTTP."""
    served: list[Objects] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(text) if text and text != b"null" else {}
            status, answer = served[0].answer(self.command, self.path.partition("?")[0], body)
            said = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_POST = do_PATCH = do_GET  # noqa: N815 - the base's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with ApiClient(Configuration(host=f"http://127.0.0.1:{server.server_port}")) as client:

                def begin(objects: dict[str, Object]) -> Objects:
                    served.insert(0, Objects(ApiServer(client), objects))
                    return served[0]

                yield begin
        finally:
            server.shutdown()
            thread.join()


def a_mesh(reason: str = "AllCertified", **identity: str) -> Object:
    condition = {"type": "Certified", "status": "False", "reason": reason, "message": ""}
    return {"metadata": {"name": "demo"}, "status": {"identity": identity, "conditions": [condition]}}


def a_node(key: str, status: str, reason: str) -> dict[str, Object]:
    condition = {"type": "Certified", "status": status, "reason": reason, "message": "why"}
    return {NODE: {"status": {"publicKey": key, "conditions": [condition]}}}


def test_a_changed_key_is_admitted_if_it_is_the_one_that_the_node_reports(serve: Serve) -> None:
    api = serve(a_node(KEY, "False", "KeyChanged"))
    assert "admitted" in admit(api.api, a_mesh(), "a", KEY)
    metadata = {"resourceVersion": "7", "annotations": {ADMIT_KEY_ANNOTATION: KEY}}
    assert api.written == [(NODE, {"metadata": metadata})]


@pytest.mark.parametrize("key", ["", "AAAA", KEY[:-1], f"{KEY}A", f"{KEY} ", "?" * 44, KEY[:8]])
def test_a_key_that_is_not_whole_is_not_admitted(serve: Serve, key: str) -> None:
    api = serve(a_node(KEY, "False", "KeyChanged"))
    with pytest.raises(InvalidSpec, match=r"--key .*: must be a whole WireGuard public key"):
        admit(api.api, a_mesh(), "a", key)
    assert not api.written


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("a", OTHER, "--key .*: node a has the key .*: run wg show there and compare"),
        ("b", KEY, "NODE 'b': the mesh demo has no such node"),
        ("a/status", KEY, "NODE 'a/status': the mesh demo has no such node"),
    ],
)
def test_another_key_and_another_node_are_refused(serve: Serve, name: str, key: str, said: str) -> None:
    api = serve(a_node(KEY, "False", "KeyChanged"))
    with pytest.raises(InvalidSpec, match=said):
        admit(api.api, a_mesh(), name, key)
    assert not api.written


def test_a_node_without_a_key_is_named(serve: Serve) -> None:
    api = serve({NODE: {"status": {}}})
    with pytest.raises(InvalidSpec, match="has not reported a key yet"):
        admit(api.api, a_mesh(), "a", KEY)


def test_what_waits_for_something_else_is_not_admitted_and_what_is_certified_need_not_be(
    serve: Serve,
) -> None:
    api = serve(a_node(KEY, "False", "KeyInUse"))
    with pytest.raises(WesherError, match="would not help: KeyInUse: why"):
        admit(api.api, a_mesh(), "a", KEY)
    assert not api.written
    api = serve(a_node(KEY, "True", "Issued"))
    assert "certified already" in admit(api.api, a_mesh(), "a", KEY)
    assert not api.written


def test_the_authority_is_that_of_the_status() -> None:
    assert authorities_of(a_mesh(authority=KEY)) == (KEY, "")
    assert authorities_of(a_mesh(authority=KEY, formerAuthority=OTHER)) == (KEY, OTHER)
    with pytest.raises(InvalidSpec, match="--mesh 'demo': this mesh has no authority yet"):
        authorities_of(a_mesh())


def test_the_entry_for_another_cluster_has_key_name_and_networks(serve: Serve) -> None:
    pods = [["10.244.0.0/24", "fd00:244::/64"], ["10.244.3.0/24", "fd00:244:0:1::/64"], []]
    api = serve({"/api/v1/nodes": {"items": [{"spec": {"podCIDRs": each}} for each in pods]}})
    mesh = a_mesh(authority=KEY, formerAuthority=OTHER)
    spec = {"overlayCIDR": "10.189.0.0/16", "allocationCIDR": "10.189.128.0/17", "clusterName": "west"}
    (found,) = yaml.safe_load(trusted_entry(api.api, {**mesh, "spec": spec}))
    assert found == {
        "clusterName": "west",
        "key": KEY,
        "formerKey": OTHER,
        "cidrs": ["10.189.128.0/17", "10.244.0.0/22", "fd00:244::/63"],
    }
    entry = TrustedAuthority.model_validate(found)
    assert entry.cidrs == found["cidrs"]


def test_a_mesh_without_a_cluster_name_has_no_entry_for_others(serve: Serve) -> None:
    mesh = {**a_mesh(authority=KEY), "spec": {"overlayCIDR": "10.189.0.0/16"}}
    with pytest.raises(InvalidSpec, match=r"--entry 'demo': set spec\.clusterName"):
        trusted_entry(serve({}).api, mesh)


def entry(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def requested(api: Objects, mesh: Object, *, at_once: bool = False) -> dict[str, Any]:
    new_authority(api.api, mesh, "vpn", at_once=at_once, entropy=lambda count: bytes([9]) * count)
    ((path, body),) = api.written
    is_change = "resourceVersion" in body["metadata"]
    assert path == (f"{SECRETS}/demo-authority" if is_change else SECRETS)
    data: dict[str, Any] = body["data"]
    return data


def a_secret(**data: str) -> dict[str, Object]:
    return {f"{SECRETS}/demo-authority": {"data": data}}


NEW = entry(base64.b64encode(bytes([9]) * 32).decode())


def test_a_new_authority_names_the_one_that_it_replaces_and_keeps_its_seed(serve: Serve) -> None:
    data = requested(serve(a_secret(seed=entry(SEED))), a_mesh(authority=KEY))
    assert data == {"seed": NEW, "former-seed": entry(SEED), "replaces": entry(KEY), "drops": None}


def test_after_a_theft_the_stolen_seed_is_not_kept(serve: Serve) -> None:
    data = requested(serve(a_secret(seed=entry(SEED))), a_mesh(authority=KEY), at_once=True)
    assert data == {"seed": NEW, "former-seed": None, "replaces": None, "drops": entry(KEY)}


@pytest.mark.parametrize("at_once", [False, True])
def test_a_lost_secret_is_made_again(serve: Serve, at_once: bool) -> None:  # noqa: FBT001
    mesh = a_mesh("AuthorityLost", authority=KEY, formerAuthority=OTHER)
    data = requested(serve({}), mesh, at_once=at_once)
    assert data == {"seed": NEW, "drops" if at_once else "replaces": entry(KEY)}


def test_a_secret_with_another_authority_is_replaced_too(serve: Serve) -> None:
    api = serve(a_secret(seed=entry(SEED), replaces=entry(OTHER)))
    data = requested(api, a_mesh("AuthorityLost", authority=KEY))
    assert (data["seed"], data["replaces"]) == (NEW, entry(KEY))


@pytest.mark.parametrize(
    ("identity", "data"),
    [
        ({"authority": KEY}, {"replaces": entry(KEY)}),  # the operator has not seen it yet
        ({"authority": KEY, "formerAuthority": OTHER}, {"replaces": entry(OTHER)}),
        ({"authority": KEY, "formerAuthority": OTHER}, {}),  # the Secret is from a backup
    ],
)
def test_a_replacement_that_has_not_ended_is_only_made_faster(
    serve: Serve, identity: dict[str, str], data: dict[str, str]
) -> None:
    secret, mesh = a_secret(seed=entry(SEED), **data), a_mesh(**identity)
    api = serve(secret)
    with pytest.raises(WesherError, match=r"is replacing .* already"):
        new_authority(api.api, mesh, "vpn", at_once=False, entropy=bytes)
    assert not api.written
    dropped = identity.get("formerAuthority", KEY)
    wanted = {"replaces": None, "former-seed": None, "drops": entry(dropped)}
    assert requested(serve(secret), mesh, at_once=True) == wanted


def test_a_secret_or_node_that_changed_meanwhile_is_not_written(serve: Serve) -> None:
    api = serve({**a_secret(seed=entry(SEED)), **a_node(KEY, "False", "KeyChanged")})
    api.changes_meanwhile = True
    with pytest.raises(ClusterUnavailable, match="the object changed meanwhile: run the command again"):
        new_authority(api.api, a_mesh(authority=KEY), "vpn", at_once=False, entropy=bytes)
    with pytest.raises(ClusterUnavailable, match="the object changed meanwhile: run the command again"):
        admit(api.api, a_mesh(), "a", KEY)
