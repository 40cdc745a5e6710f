"""A Linux of its own in QEMU, for what the machine's kernel may lack: WireGuard in the kernel.

Debian's cloud kernel, and a first file system made of this machine's own Python,
the packages the agent needs and three programs, all at the paths they have here,
so that nothing must be found, fetched or built for the guest. No disk, no network.
`vm_guest` is what runs inside.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import select
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wesher_testing.device import vm_guest
from wesher_testing.device.cpio import write_archive
from wesher_testing.run.cache import ToolUnavailable, kept, report
from wesher_testing.run.toolbox import REPOSITORY, debian_package_root, system_program

_KERNELS = ("linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual")
"""Debian's smallest first, then Ubuntu's."""
_MODULES = ("wireguard", "veth", "dummy", "bridge", "af_packet")
_PACKAGES = ("cryptography", "cffi", "_cffi_backend", "h11", "msgpack", "pyroute2")
_PROGRAMS = ("ip", "ping", "wg")
_OUR_CODE = ("common/wesher_common", "agent/wesher_agent", "tests/support/wesher_testing")
_UNNEEDED = {
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data"),
    *("site-packages", "dist-packages"),
}
_COMMAND_LINE = (
    "console=ttyS0 panic=-1 reboot=t rdinit=/init "
    # Emulation makes these dear, and no story is about them. Removing a peer waits for RCU.
    "mitigations=off no5lvl nowatchdog audit=0 rcupdate.rcu_expedited=1"
)


@dataclass(frozen=True, slots=True)
class _Accelerator:
    name: str
    processor: str
    patience: float
    """Seconds until the guest must have said its first word."""


_ACCELERATORS = (_Accelerator("kvm", "host", 15.0), _Accelerator("tcg,thread=multi", "max", 180.0))
"""Some machines show a ``/dev/kvm`` on which nothing boots, so emulation always follows."""
_MEMORY = "1024"


class GuestFailed(RuntimeError):  # noqa: N818 - reads as the fact it states
    """The VM did not come up, or did not get to the end; the text holds its console."""


@dataclass(slots=True)
class Told:
    """What came out of a VM."""

    kernel: str = ""
    accelerator: str = ""
    seconds: float = 0.0
    stories: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name: ``seconds``, and ``figures`` or ``failure``."""


def prepare() -> None:
    """Put the kernel and the guest's file system into the cache.

    Raises:
        ToolUnavailable: there is no kernel to be had.

    """
    _image()


def tell_in_vm(stories: Sequence[str], *, timeout: float) -> Told:
    """Boot a VM, run stories of `device.cases` and `device.mesh_cases` in it, and return how they went.

    Raises:
        ToolUnavailable: there is no QEMU or no kernel to be had.
        GuestFailed: the VM broke down before any story was told; one that
            failed is returned with its reason, one not reached is absent.

    """
    kernel, base = _image()
    with tempfile.TemporaryDirectory(prefix="wesher-vm-") as directory:
        initrd = Path(directory, "initrd")
        with initrd.open("wb") as target:
            target.write(base.read_bytes())
            write_archive(target, _our_files(stories), executable={"/init"})
        for accelerator in _ACCELERATORS:
            if accelerator.name == "kvm" and not _may_use_kvm():
                continue
            told = _boot(kernel, initrd, accelerator, timeout)
            if told is not None:
                return told
            report(f"the VM does not come up with -accel {accelerator.name}")
    raise GuestFailed("no accelerator brought the VM up")


def _boot(kernel: Path, initrd: Path, accelerator: _Accelerator, timeout: float) -> Told | None:
    """Return what was told, or None when the guest never said a word."""
    console = initrd.with_name("console")
    command = [
        str(system_program("qemu-system-x86_64")),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
        *("-accel", accelerator.name, "-cpu", accelerator.processor, "-smp", "2", "-m", _MEMORY),
        *("-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", _COMMAND_LINE),
        *("-chardev", "stdio,id=results,signal=off"),
        *("-serial", f"file:{console}", "-serial", "chardev:results"),
    ]
    start = time.monotonic()
    told = Told(accelerator=accelerator.name)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=initrd.parent,
    ) as machine:
        try:
            for line in _lines(machine, first=start + accelerator.patience, last=start + timeout):
                if "kernel" in line:
                    told.kernel = line["kernel"]
                elif "story" in line:
                    told.stories[line.pop("story")] = line
                elif "broken" in line:
                    raise GuestFailed(line["broken"])
                elif "done" in line:
                    told.seconds = time.monotonic() - start
                    return told
        finally:
            machine.kill()
    if not told.kernel:
        return None
    if told.stories:
        return told
    raise GuestFailed(
        f"the VM ended too soon or too late; its console:\n{console.read_text(errors='replace')[-4000:]}"
    )


def _lines(machine: subprocess.Popen[bytes], *, first: float, last: float) -> Iterator[dict[str, Any]]:
    """Yield what the guest says until it ends, or a time is up: one for the first word, one for all."""
    if machine.stdout is None:
        raise RuntimeError("QEMU was started without a pipe")
    descriptor = machine.stdout.fileno()
    pending, until = b"", first
    while select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
        more = os.read(descriptor, 1 << 16)
        if not more:
            return
        *lines, pending = (pending + more).split(b"\n")
        for line in lines:
            until = last
            yield json.loads(line)


def _image() -> tuple[Path, Path]:
    """Return the kernel, and the first file system but for our own code; the latter is kept in the cache."""
    roots = _kernel_roots()
    (kernel,) = roots[0].glob("boot/vmlinuz-*")
    files = _base_files(roots)
    digest = hashlib.sha256()
    for path, source in sorted(files.items()):
        status = source.stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())

    def make(target: Path) -> None:
        report(f"making the VM's file system of {len(files)} files")
        with target.open("wb") as archive:
            write_archive(archive, {path: _plain(source) for path, source in files.items()})

    return kernel, kept(f"vm/{digest.hexdigest()[:16]}/initrd", make)


def _base_files(kernel_roots: Sequence[Path]) -> dict[str, Path]:
    """Return Python, packages, programs and modules: path in the guest to file here."""
    python = Path(sys.executable).resolve()
    packages = Path(sysconfig.get_path("purelib"))
    programs = [system_program(name) for name in _PROGRAMS]
    sources = [python, *programs, *_standard_library()]
    for package in _PACKAGES:
        sources += _below(packages / package) or packages.glob(f"{package}.*")
    binaries = [path for path in sources if path in {python, *programs} or ".so" in path.suffixes]
    files = {str(path): path for path in (*sources, *_shared_libraries(binaries))}
    for number, module in enumerate(_modules(kernel_roots)):
        files[f"{vm_guest.MODULES}/{number:02}-{module.name.partition('.')[0]}.ko"] = module
    return files


def _our_files(stories: Sequence[str]) -> dict[str, Path | bytes]:
    """Return what changes from run to run: our code, what to tell, and the first process."""
    files: dict[str, Path | bytes] = {
        str(path): path for folder in _OUR_CODE for path in _below(REPOSITORY / folder)
    }
    search = [
        sysconfig.get_path("purelib"),
        *(str(REPOSITORY / code.rpartition("/")[0]) for code in _OUR_CODE),
    ]
    files[str(vm_guest.REQUEST)] = json.dumps({"path": search, "stories": list(stories)}).encode()
    program = Path(vm_guest.__file__).read_bytes()
    files["/init"] = b"#!%s -B\n" % bytes(Path(sys.executable).resolve()) + program
    return files


def _standard_library() -> list[Path]:
    roots = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return [path for root in roots for path in _below(Path(root))]


def _below(folder: Path) -> list[Path]:
    """Return a folder's files, those that no test of a device needs left out."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and _UNNEEDED.isdisjoint(path.relative_to(folder).parts) and _is_code(path)
    ]


def _is_code(path: Path) -> bool:
    return path.suffix in {".py", ".so"} or path.name.endswith(f"{sys.implementation.cache_tag}.pyc")


def _shared_libraries(binaries: Iterable[Path]) -> set[Path]:
    """Return what the dynamic linker would load for them, itself included."""
    listed = subprocess.run(
        [system_program("ldd"), *binaries], capture_output=True, text=True, check=False, timeout=60.0
    )
    return {Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed.stdout, re.MULTILINE)}


def _kernel_roots() -> list[Path]:
    """Return where a distribution's kernel, in the first, and its modules are unpacked."""
    for name in _KERNELS:
        if images := _needed_by(name, "linux-image-"):
            # In Ubuntu, modules come in a package of their own.
            return [
                debian_package_root(package)
                for package in (images[0], *_needed_by(images[0], "linux-modules-"))
            ]
    raise ToolUnavailable("no kernel for the VM: apt-cache knows none of " + ", ".join(_KERNELS))


def _needed_by(package: str, beginning: str) -> list[str]:
    """Return the packages of a kernel's version that a package depends on."""
    listed = subprocess.run(
        ["apt-cache", "depends", package], capture_output=True, text=True, check=False, timeout=300.0
    )
    return re.findall(rf"Depends: ({beginning}\d\S+)", listed.stdout)


def _modules(roots: Sequence[Path]) -> list[Path]:
    """Return the modules wanted and those they need, in the order to load them."""
    known = {
        path.name.partition(".")[0].replace("-", "_"): path
        for root in roots
        for folder in (root / "lib/modules", root / "usr/lib/modules")
        for path in folder.rglob("*.ko*")
    }
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        path = known.get(name.replace("-", "_"))
        # What has no file is built into the kernel.
        if path is None or path.name in ordered:
            return
        for needed in re.findall(rb"\0depends=([^\0]*)\0", b"\0" + _plain_bytes(path)):
            for dependency in needed.decode().split(","):
                add(dependency)
        ordered[path.name] = path

    for name in _MODULES:
        add(name)
    return list(ordered.values())


def _plain(path: Path) -> Path | bytes:
    return _plain_bytes(path) if path.suffix in {".xz", ".zst"} and ".ko" in path.suffixes else path


def _plain_bytes(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        unpacked = subprocess.run(
            [system_program("zstd"), "-dc", path], capture_output=True, check=True, timeout=60.0
        )
        return unpacked.stdout
    return path.read_bytes()


def _may_use_kvm() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)
