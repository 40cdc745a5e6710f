"""Which packages hold the kernel of the VM and its modules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wesher_testing.device import vm

DEBIAN = {
    "linux-image-cloud-amd64": ["linux-image-6.1.0-56-cloud-amd64"],
    "linux-image-6.1.0-56-cloud-amd64": ["kmod", "linux-base"],
}
UBUNTU = {
    "linux-image-virtual": ["linux-image-6.8.0-31-generic"],
    "linux-image-6.8.0-31-generic": ["kmod", "linux-base", "linux-modules-6.8.0-31-generic"],
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where each package that is unpacked would lie, on a machine whose archive holds nothing."""
    program = tmp_path / "bin/apt-cache"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec cat "{tmp_path}/archive/$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(vm, "debian_package_root", tmp_path.joinpath)
    (tmp_path / "archive").mkdir()
    return tmp_path


def fill(machine: Path, packages: dict[str, list[str]]) -> None:
    """Have the archive hold packages, each with those that it depends on."""
    for package, needed in packages.items():
        lines = [package, *(f"  Depends: {name}" for name in needed)]
        (machine / "archive" / package).write_text("\n".join(lines) + "\n")


def test_debians_kernel_brings_its_modules(machine: Path) -> None:
    fill(machine, DEBIAN)
    assert vm._kernel_roots() == [machine / "linux-image-6.1.0-56-cloud-amd64"]


def test_ubuntus_modules_come_in_a_package_of_their_own(machine: Path) -> None:
    fill(machine, UBUNTU)
    image, modules = vm._kernel_roots()
    assert (image.name, modules.name) == ("linux-image-6.8.0-31-generic", "linux-modules-6.8.0-31-generic")
    for root, file in ((image, "boot/vmlinuz-6.8.0-31-generic"), (modules, "lib/modules/x/wireguard.ko")):
        (root / file).parent.mkdir(parents=True)
        (root / file).write_bytes(b"")
    assert [module.name for module in vm._modules([image, modules])] == ["wireguard.ko"]


def test_a_machine_without_any_kernel_to_be_had_says_so(machine: Path) -> None:
    with pytest.raises(vm.ToolUnavailable, match="no kernel for the VM: apt-cache knows none of"):
        vm._kernel_roots()
