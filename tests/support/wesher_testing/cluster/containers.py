"""containerd on a node of a lab: its configuration, and images in its store.

The programs are Debian's, unpacked. What a pod's network looks like is decided by
`wesher_testing.cluster.kubelets`, which writes the CNI configuration.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from wesher_testing.cluster.image import Image, pause_image
from wesher_testing.run.toolbox import debian_package_root

SOCKET = "/run/containerd/containerd.sock"
TASKS = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
"""Where each running container has a directory of its id."""

CNI_CONFIGURATION = "/etc/cni/net.d"

_CONFIGURATION = """
version = 2
oom_score = 0
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # A machine may not let us lower any score: containers then keep ours.
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "{runc}"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{plugins}"
  conf_dir = "{configuration}"
"""


def prepare() -> None:
    """Unpack the programs and build the image that every node needs."""
    for package in ("containerd", "runc", "containernetworking-plugins"):
        debian_package_root(package)
    pause_image()


def containerd(etc: Path) -> list[str]:
    """Write containerd's configuration below a node's ``/etc`` and return the command that runs it."""
    programs = debian_package_root("containerd") / "usr/bin"
    (etc / "containerd").mkdir(exist_ok=True)
    (etc / "containerd/config.toml").write_text(
        _CONFIGURATION.format(
            pause=pause_image().name,
            runc=debian_package_root("runc") / "usr/bin/runc",
            plugins=debian_package_root("containernetworking-plugins") / "usr/lib/cni",
            configuration=CNI_CONFIGURATION,
        )
    )
    # containerd finds its shim on PATH.
    path = f"{programs}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return ["env", f"PATH={path}", str(programs / "containerd")]


def is_up(command: Callable[[Sequence[str]], Sequence[str]]) -> bool:
    """Tell whether a node's containerd answers; ``command`` is as for `load`."""
    asked = subprocess.run(
        command([*_ctr(), "version"]), stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
    )
    return asked.returncode == 0


def load(
    images: Iterable[Image], command: Callable[[Sequence[str]], Sequence[str]]
) -> list[subprocess.Popen[str]]:
    """Start importing images into a node's store; the caller waits for the processes.

    Args:
        images: what to import.
        command: turns a command line into one that runs it on the node.

    """
    return [
        subprocess.Popen(
            command([*_ctr(), "--namespace", "k8s.io", "images", "import", str(image.archive)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for image in images
    ]


def tagging(image: Image, name: str) -> list[str]:
    """Return the command that gives an image in a node's store another name besides."""
    return [*_ctr(), "--namespace", "k8s.io", "images", "tag", "--force", image.name, name]


def removing(image: Image) -> list[str]:
    """Return the command that takes an image out of a node's store; containers made of it run on."""
    return [*_ctr(), "--namespace", "k8s.io", "images", "remove", "--sync", image.name]


def _ctr() -> list[str]:
    return [str(debian_package_root("containerd") / "usr/bin/ctr"), "--address", SOCKET]
