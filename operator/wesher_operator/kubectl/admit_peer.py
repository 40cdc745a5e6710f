"""``kubectl wesher admit`` for machines outside Kubernetes: admits one by its whole WireGuard key."""

from __future__ import annotations

from wesher_common.errors import InvalidSpec
from wesher_common.keys import WireGuardPublicKey
from wesher_operator.kubectl.meshes import ROOT, name_of, nodes_of, status_of
from wesher_operator.kubectl.peers import checked_name, new_peer, peer_path
from wesher_operator.kubectl.reach import ApiServer, Object


def admit_peer(api: ApiServer, mesh: Object, name: str, key: str) -> str:
    """Create the WesherPeer of a machine, or give it another key; return what happens next.

    A former key, or an invite, of the machine is void afterwards.

    Args:
        api: the API server, as the user.
        mesh: the WesherMesh.
        name: of the machine, without the mesh's clusterName.
        key: its whole WireGuard public key, in base64: a short form could be found again by trying keys.

    Raises:
        InvalidSpec: name or key breaks a rule, or a Node has the name.
        NotPermitted: the user may not.
        ClusterUnavailable: the API server does not answer, or refuses the object.

    """
    try:
        public_key = str(WireGuardPublicKey.from_base64(key, field_name="--key"))
    except InvalidSpec as error:
        rule = "must be a whole WireGuard public key: 44 characters, as wg show prints it"
        raise InvalidSpec("--key", rule, value=key) from error
    whole = checked_name(api, mesh, name)
    for node in nodes_of(api, name_of(mesh)):
        if status_of(node).get("publicKey") == public_key:
            rule = f"node {node['spec']['nodeName']} has this key: give the name of that node"
            raise InvalidSpec("NAME", rule, value=name)
    path = peer_path(mesh, name)
    found = api.get(path)
    if found is None:
        api.create(f"{ROOT}/wesherpeers", new_peer(mesh, name, publicKey=public_key))
    elif found["spec"].get("publicKey") == public_key:
        return f"machine {whole}: this key is admitted already"
    else:
        version = found["metadata"]["resourceVersion"]
        uid = mesh["metadata"]["uid"]
        spec = {
            "meshRef": {"name": name_of(mesh), "uid": uid},
            "publicKey": public_key,
            "enrolKey": None,
            "enrolUntil": None,
        }
        api.patch(path, {"metadata": {"resourceVersion": version}, "spec": spec})
    return f"machine {whole}: key admitted; the operator certifies it within seconds"
