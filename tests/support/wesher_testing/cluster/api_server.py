"""A real kube-apiserver and etcd for tests and the demo: nothing else of Kubernetes runs.

Without controllers nothing is garbage-collected and no DaemonSet gets pods;
whoever needs a pod or a Node creates it. Every request is in the audit log.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wesher_testing.run import toolbox

SERVICE_NETWORK = "10.96.0.0/16"
_ISSUER = "https://kubernetes.default.svc"
_STARTS = 3
_READY_SECONDS = 120.0
_KUBECTL_SECONDS = 120.0
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A running API server and how to reach it."""

    url: str
    directory: Path
    ca: Path
    kubeconfig: Path
    """Of an administrator (system:masters)."""
    audit_log: Path
    enter: tuple[str, ...] = field(default=())
    """What to prefix commands with so that they run where the server can be reached."""
    storage: _Program | None = None
    """etcd."""
    program: _Program | None = None
    """kube-apiserver."""
    data: Path = Path()
    """etcd's data."""

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True, kubeconfig: Path | None = None
    ) -> str:
        """Run kubectl, as the administrator unless told otherwise, and return what it printed.

        Raises:
            KubectlFailed: it failed and ``check`` is set; the text holds its error.

        """
        done = subprocess.run(
            [
                *self.enter,
                str(toolbox.kubernetes_binary("kubectl")),
                f"--kubeconfig={kubeconfig or self.kubeconfig}",
                f"--cache-dir={self.directory / 'kubectl-cache'}",
                *arguments,
            ],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_KUBECTL_SECONDS,
            check=False,
        )
        if check and done.returncode:
            raise KubectlFailed(done.stderr.strip() or done.stdout.strip())
        return done.stdout + ("" if check else done.stderr)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects as the administrator, server-side."""
        documents = yaml.safe_dump_all(objects)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=documents)

    def get(self, *arguments: str) -> Any:
        """Return what ``kubectl get … -o json`` says, or None when there is no such object."""
        try:
            return json.loads(self.kubectl("get", *arguments, "-o", "json"))
        except KubectlFailed as error:
            if "(NotFound)" in str(error):
                return None
            raise

    def node(self, name: str, address: str, **more: Any) -> None:
        """Create a Node as its kubelet would, with an InternalIP and a Ready condition.

        Args:
            name: of the Node.
            address: its InternalIP.
            more: ``labels``, ``annotations`` or ``podCIDRs``.

        """
        metadata = {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **more.get("labels", {})},
            "annotations": more.get("annotations", {}),
        }
        pods = more.get("podCIDRs", [])
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": metadata,
                "spec": {"podCIDR": pods[0], "podCIDRs": pods} if pods else {},
            }
        )
        status = {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }
        self.kubectl(
            "patch",
            "node",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            json.dumps({"status": status}),
        )

    def agent_pod(self, mesh: str, node: str, namespace: str, *, runs: bool = True) -> None:
        """Make the pod of a node's agent and say of it what a kubelet would.

        Args:
            mesh: whose agent it is.
            node: where.
            namespace: the operator's.
            runs: whether its container runs.

        """
        self._pod(f"agent-{node}", node, namespace, {"wesher.dev/mesh": mesh}, "wesher-agent", runs=runs)

    def operator_pod(self, node: str, namespace: str) -> None:
        """Make the pod of an operator that runs, as the Deployment's controller and a kubelet would."""
        labels = self.get("deployment", "wesher-operator", "-n", namespace)["spec"]["selector"]["matchLabels"]
        self._pod("wesher-operator", node, namespace, labels, "wesher-operator", runs=True)

    def _pod(
        self, name: str, node: str, namespace: str, labels: dict[str, str], account: str, *, runs: bool
    ) -> None:
        metadata = {"name": name, "namespace": namespace, "labels": labels}
        container = {"name": account.removeprefix("wesher-"), "image": "wesher:test"}
        spec = {"nodeName": node, "serviceAccountName": account, "containers": [container]}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        state = {"running": {}} if runs else {"waiting": {"reason": "ContainerCreating"}}
        said = {"ready": runs, "started": runs, "restartCount": 0, "imageID": "", "state": state}
        status = {
            "phase": "Running" if runs else "Pending",
            "conditions": [{"type": "Ready", "status": str(runs)}],
            "containerStatuses": [{**container, **said}],
        }
        self.kubectl(
            *("patch", "pod", name, "-n", namespace, "--subresource=status", "--type=merge"),
            *("-p", json.dumps({"status": status})),
        )

    def token(self, service_account: str, namespace: str, *, node: str | None = None) -> str:
        """Return a token by TokenRequest; bound to a Node it carries that node's claim, as a kubelet's do."""
        bound = ["--bound-object-kind=Node", f"--bound-object-name={node}"] if node else []
        if node:
            bound.append(f"--bound-object-uid={self.get('node', node)['metadata']['uid']}")
        return self.kubectl("create", "token", service_account, "-n", namespace, *bound).strip()

    def patch(self, path: str, body: dict[str, Any], *, token: str) -> tuple[int, str]:
        """Merge-patch what stands at a URL path; return the HTTP status and, of a refusal, its message.

        kubectl reads an object before it patches it, which agents may not do with a status.
        """
        request = urllib.request.Request(  # noqa: S310 - https, to ourselves
            self.url + path,
            data=json.dumps(body).encode(),
            method="PATCH",
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"},
        )
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as reply:  # noqa: S310
                return reply.status, ""
        except urllib.error.HTTPError as error:
            with error:
                return error.code, str(json.load(error)["message"])

    def kubeconfig_for(self, token: str, name: str) -> Path:
        """Write a kubeconfig that uses a token and return its path; mode 0600."""
        return _write_kubeconfig(self.directory / f"{name}.kubeconfig", self.url, self.ca, {"token": token})

    def back_up(self) -> Path:
        """Copy what etcd holds, for `restore`; etcd is away for as long as that takes."""
        if self.storage is None or self.program is None:
            raise ApiServerFailed("this API server was not started here")
        backup = self.directory / f"backup-{os.urandom(4).hex()}"
        self.storage.stop()
        shutil.copytree(self.data, backup)
        self.storage.start()
        _wait_until_ready(self, (self.storage, self.program))
        return backup

    def restore(self, backup: Path) -> None:
        """Have the API server begin again with what etcd held at a `back_up`, as after a disaster."""
        self.stop()
        shutil.rmtree(self.data)
        shutil.copytree(backup, self.data)
        self.start()

    def stop(self) -> None:
        """Stop the API server and etcd, until `start`."""
        if self.storage is None or self.program is None:
            raise ApiServerFailed("this API server was not started here")
        self.program.stop()
        self.storage.stop()

    def start(self) -> None:
        """Start etcd and the API server again, and wait until it is ready."""
        if self.storage is None or self.program is None:
            raise ApiServerFailed("this API server was not started here")
        self.storage.start()
        self.program.start()
        _wait_until_ready(self, (self.storage, self.program))

    def advertise(self, address: str) -> None:
        """Restart the API server so that the Service ``kubernetes`` leads to another of its addresses."""
        if self.storage is None or self.program is None:
            raise ApiServerFailed("this API server was not started here")
        self.program.stop()
        self.program.set_flag("--advertise-address", address)
        self.program.start()
        _wait_until_ready(self, (self.storage, self.program))

    def audit_events(self) -> list[dict[str, Any]]:
        """Return every request answered so far, oldest first."""
        lines = self.audit_log.read_text().splitlines(keepends=True)
        # The last line may be half written.
        return [json.loads(line) for line in lines if line.endswith("\n")]


class KubectlFailed(Exception):  # noqa: N818 - reads as the fact it states
    """kubectl refused; the text is its error."""


class ApiServerFailed(Exception):  # noqa: N818 - reads as the fact it states
    """The API server or etcd did not come up; the text ends with their last words."""


@contextmanager
def api_server(
    *,
    address: str = "127.0.0.1",
    public: str = "",
    storage_address: str = "127.0.0.1",
    enter: Sequence[str] = (),
    parent: Path | None = None,
) -> Iterator[ApiServer]:
    """Run etcd and a kube-apiserver on free ports until the block ends.

    Args:
        address: where the API server listens, and what its certificate names beside loopback.
        public: an address by which clients and the Service ``kubernetes`` reach it, if it is another.
        storage_address: where etcd listens: by default, on the loopback of where it runs.
        enter: a command prefix such as ``nsenter --net=/run/netns/X`` for both processes.
        parent: where to make the directory for keys, logs and etcd's data.

    """
    programs = toolbox.etcd(), toolbox.kubernetes_binary("kube-apiserver")
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="wesher-api-", dir=parent))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        addresses = address, public or address, storage_address
        _write_certificates(directory, addresses)
        (directory / "audit.yaml").write_text(yaml.safe_dump(_AUDIT_POLICY))
        for attempt in range(1, _STARTS + 1):
            with ExitStack() as trial:
                try:
                    server = _start(trial, directory, programs, addresses, tuple(enter))
                except ApiServerFailed:
                    # Between asking for a free port and its use another program may have taken it.
                    if attempt == _STARTS:
                        raise
                    continue
                stack.push(trial.pop_all())
                break
        yield server


def _start(
    stack: ExitStack,
    directory: Path,
    programs: tuple[Path, Path],
    addresses: tuple[str, str, str],
    enter: tuple[str, ...],
) -> ApiServer:
    address, public, storage_address = addresses
    etcd_client, etcd_peer, port = _free_ports(3)
    storage = directory / f"etcd-{etcd_client}"
    etcd = _spawn(
        stack,
        directory / "etcd.log",
        [
            *(*enter, str(programs[0])),
            *("--data-dir", str(storage), "--unsafe-no-fsync"),
            *("--listen-client-urls", f"http://{storage_address}:{etcd_client}"),
            *("--advertise-client-urls", f"http://{storage_address}:{etcd_client}"),
            *("--listen-peer-urls", f"http://{storage_address}:{etcd_peer}"),
            *("--initial-advertise-peer-urls", f"http://{storage_address}:{etcd_peer}"),
            *("--initial-cluster", f"default=http://{storage_address}:{etcd_peer}"),
        ],
    )
    audit_log = directory / "audit.log"
    audit_log.touch()
    server = _spawn(
        stack,
        directory / "kube-apiserver.log",
        [
            *(*enter, str(programs[1])),
            f"--etcd-servers=http://{storage_address}:{etcd_client}",
            f"--bind-address={address}",
            f"--advertise-address={public}" if not ip_address(public).is_loopback else "--v=0",
            f"--secure-port={port}",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-key-file={directory / 'accounts.key'}",
            f"--service-account-signing-key-file={directory / 'accounts.key'}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            f"--tls-cert-file={directory / 'server.crt'}",
            f"--tls-private-key-file={directory / 'server.key'}",
            f"--client-ca-file={directory / 'ca.crt'}",
            f"--audit-policy-file={directory / 'audit.yaml'}",
            f"--audit-log-path={audit_log}",
            # A request stands there before its answer ends.
            "--audit-log-mode=blocking",
        ],
    )
    url = f"https://{public}:{port}" if ":" not in public else f"https://[{public}]:{port}"
    admin = {
        "client-certificate": str(directory / "admin.crt"),
        "client-key": str(directory / "admin.key"),
    }
    kubeconfig = _write_kubeconfig(directory / "admin.kubeconfig", url, directory / "ca.crt", admin)
    running = ApiServer(
        url, directory, directory / "ca.crt", kubeconfig, audit_log, enter, etcd, server, storage
    )
    _wait_until_ready(running, (etcd, server))
    return running


def _wait_until_ready(server: ApiServer, programs: Sequence[_Program]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not _is_ready(server):
        if any(program.has_ended() for program in programs) or time.monotonic() > deadline:
            logs = (server.directory / name for name in ("etcd.log", "kube-apiserver.log"))
            raise ApiServerFailed("\n".join(f"{log.name}: {log.read_text()[-800:]}" for log in logs))
        time.sleep(0.1)


def _is_ready(server: ApiServer) -> bool:
    if server.enter:
        return "ok" in server.kubectl("get", "--raw", "/readyz", check=False).splitlines()
    try:
        context = ssl.create_default_context(cafile=str(server.ca))
        with urllib.request.urlopen(f"{server.url}/readyz", timeout=5, context=context) as reply:  # noqa: S310
            return bool(reply.status == 200)
    except OSError:
        return False


class _Program:
    """A program that can be stopped, and started again as it was."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self._argv = argv
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as output:
            # A session of its own, so that Ctrl-C ends it by our clean-up and not before it.
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "ETCD_UNSUPPORTED_ARCH": os.uname().machine},
            )

    def set_flag(self, name: str, value: str) -> None:
        """Change a flag that it has, from its next start on."""
        given = [each for each in self._argv if each.startswith(f"{name}=")]
        if len(given) != 1:
            raise ApiServerFailed(f"{name} is not there once: {given}")
        self._argv = [f"{name}={value}" if each in given else each for each in self._argv]

    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def stop(self) -> None:
        if self._process is None or self.has_ended():
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _spawn(stack: ExitStack, log: Path, argv: Sequence[str]) -> _Program:
    log.unlink(missing_ok=True)
    program = _Program(argv, log)
    stack.callback(program.stop)
    program.start()
    return program


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _write_kubeconfig(path: Path, url: str, ca: Path, user: dict[str, str]) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content))
    return path


def _write_certificates(directory: Path, listened: Sequence[str]) -> None:
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("wesher test CA")
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    # The last is what pods call it by: its Service's address.
    addresses = {ip_network(SERVICE_NETWORK)[1], *map(ip_address, ("127.0.0.1", *listened))}
    names = [x509.DNSName("localhost"), *(x509.IPAddress(each) for each in sorted(addresses, key=str))]
    for file, subject, usage in (
        ("server", _name("kube-apiserver"), ExtendedKeyUsageOID.SERVER_AUTH),
        ("admin", _name("admin", organization="system:masters"), ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(subject, ca_name, key.public_key(), ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        (directory / f"{file}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(directory / f"{file}.key", key)
    _write_key(directory / "accounts.key", ec.generate_private_key(ec.SECP256R1()))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _name(common_name: str, *, organization: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
