"""Which of the machine's programs are taken, and what is said about those that are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from wesher_testing.agents.mounted_files import project
from wesher_testing.run import system_packages, toolbox


def program(directory: Path, name: str, says: str) -> Path:
    """Write a program that says something, whatever it is asked."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def nothing_on_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(
        toolbox, "find", lambda name: str(path) if (path := tmp_path / "bin" / name).exists() else None
    )
    monkeypatch.setenv("WESHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)


def built(tmp_path: Path, name: str) -> Path:
    """Put a program where the toolbox keeps what it built."""
    directory = tmp_path / f"cache/kubernetes-v{toolbox.KUBERNETES_VERSION}"
    directory.mkdir(parents=True)
    return program(directory, name, "built")


def kubernetes(name: str) -> Path:
    """Ask anew, past what an earlier test was told."""
    return toolbox.kubernetes_binary.__wrapped__(name)


def test_kubebuilders_assets_come_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    program(tmp_path / "bin", "kube-apiserver", "Kubernetes v1.33.1")
    offered = program(tmp_path / "assets", "kube-apiserver", "Kubernetes v1.32.0")
    assert kubernetes("kube-apiserver") == offered


@pytest.mark.parametrize("says", ["Kubernetes v1.31.9", "no version at all"])
def test_a_program_too_old_or_silent_about_its_version_is_passed_over(says: str, tmp_path: Path) -> None:
    program(tmp_path / "bin", "kube-apiserver", says)
    kept = built(tmp_path, "kube-apiserver")
    assert kubernetes("kube-apiserver") == kept


def test_kubectl_tells_its_version_in_json(tmp_path: Path) -> None:
    offered = program(tmp_path / "bin", "kubectl", '{"clientVersion": {"gitVersion": "v1.34.1"}}')
    assert kubernetes("kubectl") == offered


def test_a_go_that_is_new_enough_is_taken_from_the_machine(tmp_path: Path) -> None:
    offered = program(tmp_path / "bin", "go", "go version go1.26.8 linux/amd64")
    assert toolbox.go.__wrapped__() == offered


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(toolbox.ToolUnavailable, match="nft is not on this machine: install package nftables"):
        toolbox.system_program("nft")


def test_a_machine_without_debians_tools_is_told_what_is_missing() -> None:
    with pytest.raises(toolbox.ToolUnavailable, match="serf: downloading it needs apt-get and dpkg-deb"):
        toolbox.debian_package_root.__wrapped__("serf")


def test_a_command_for_root_takes_through_sudo_what_sudo_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbox, "become_root", lambda: ["/usr/bin/sudo"])
    monkeypatch.setenv("PATH", "/opt/go/bin:/usr/bin")
    assert toolbox.as_root(["python3", "-m", "pytest"]) == [
        *("/usr/bin/sudo", "-E", "env", "PATH=/opt/go/bin:/usr/bin", f"WESHER_CACHE={toolbox.cache_dir()}"),
        *(f"PYTHONPATH={toolbox.REPOSITORY}/tests/support", "PYTHONDONTWRITEBYTECODE=1"),
        *("python3", "-m", "pytest"),
    ]


def test_a_command_for_root_is_itself_where_we_are_root_and_impossible_without_sudo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(toolbox, "become_root", list)
    assert toolbox.as_root(["true"]) == ["true"]
    monkeypatch.setattr(toolbox, "become_root", lambda: None)
    with pytest.raises(toolbox.ToolUnavailable, match="true needs root or sudo"):
        toolbox.as_root(["true"])


def package_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> Path:
    """Put an apt-get on a machine that has nothing else, and where we are root."""
    apt_get = program(tmp_path / "bin", "apt-get", "")
    apt_get.write_text(f"#!/bin/sh\n{does}\n")
    monkeypatch.setattr(system_packages, "find", {"apt-get": str(apt_get)}.get)
    monkeypatch.setattr(system_packages, "become_root", list)
    monkeypatch.delenv("WESHER_NO_SYSTEM_PACKAGES", raising=False)
    return apt_get


def demo_needs(monkeypatch: pytest.MonkeyPatch, programs: dict[str, str]) -> None:
    """Have `make demo` need these programs of these packages."""
    monkeypatch.setattr(system_packages, "PACKAGES", programs)
    monkeypatch.setitem(system_packages._COMMANDS, "demo", tuple(programs))


def test_missing_system_packages_are_only_listed_when_asked_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo_needs(monkeypatch, {"no-such-program": "its-package", "sh": "dash"})
    monkeypatch.setenv("WESHER_NO_SYSTEM_PACKAGES", "1")
    assert system_packages.main(["demo"]) == 1
    said = capsys.readouterr()
    assert said.out == "system packages missing: its-package\n"
    assert "WESHER_NO_SYSTEM_PACKAGES is set" in said.err


def test_missing_system_packages_are_named_first_and_then_installed_without_removing_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = tmp_path / "asked"
    apt_get = package_manager(tmp_path, monkeypatch, f'echo "$DEBIAN_FRONTEND $*" >> {asked}')
    demo_needs(monkeypatch, {"b": "package-b", "a": "package-a", "c": "package-a"})
    assert system_packages.main(["demo"]) == 0
    install = "install --yes --no-install-recommends --no-remove package-a package-b"
    assert asked.read_text().splitlines() == ["noninteractive update", f"noninteractive {install}"]
    first, *steps = capsys.readouterr().out.splitlines()
    assert first == "system packages missing: package-a package-b"
    assert steps == [f"+ {apt_get} update", f"+ {apt_get} {install}"]


def test_what_the_package_manager_says_is_shown_when_it_cannot_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package_manager(tmp_path, monkeypatch, 'echo "E: no $1"; exit 100')
    demo_needs(monkeypatch, {"a": "package-a"})
    assert system_packages.main(["demo"]) == 1
    assert capsys.readouterr().err == "E: no install\napt-get could not install package-a\n"


def test_where_everything_is_there_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo_needs(monkeypatch, {"sh": "dash"})
    assert system_packages.main(["demo"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_projected_volume_changes_in_one_step_and_keeps_only_the_newest(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    project(volume, {"cluster-key": b"one", "mesh.json": b"{}"})
    with (volume / "cluster-key").open("rb") as before:
        project(volume, {"cluster-key": b"two", "mesh.json": b"{}"})
        assert before.read() == b"one"
    assert (volume / "cluster-key").read_bytes() == b"two"
    assert (volume / "cluster-key").readlink() == Path("..data/cluster-key")
    assert len([entry for entry in volume.iterdir() if entry.name.startswith("..")]) == 2
