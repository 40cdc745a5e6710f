"""``make release``: its files are complete, the same from the same sources, and run in clean roots."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agent_tree
import one_file
import one_file_entry
from wesher_common.version import VERSION
from wesher_testing.agents.process import KEY, wait_for_ping, wait_until, wireguard_go
from wesher_testing.cluster.image import builder_environment, builder_flags, small_debian
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.run.toolbox import REPOSITORY, system_program

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

WITHOUT_IMAGE = {
    f"wesher-{VERSION}-linux-x86_64.pyz",
    f"wesher-{VERSION}-py3-none-any.whl",
    f"wesher-{VERSION}.cdx.json",
    f"wesher-{VERSION}.tar.gz",
    f"wesher-{VERSION}.tgz",
    f"wesher-operator-{VERSION}.cdx.json",
    f"wesher_{VERSION}_amd64.deb",
}
IMAGES = {f"wesher-{VERSION}-image.tar", f"wesher-operator-{VERSION}-image.tar"}
ONE_FILE, DEB = f"wesher-{VERSION}-linux-x86_64.pyz", f"wesher_{VERSION}_amd64.deb"
FLAGS = ("agent", "--cluster-key", KEY, "--gossip-profile=LAN", "--bind-iface=eth0", "--log-level=debug")
ROOT = "/run/clean/root"
NOT_RELEASED = f"""
mkdir -p {ROOT} /run/clean/upper /run/clean/work
mount -t overlay none {ROOT} -o lowerdir=$DEBIAN,upperdir=/run/clean/upper,workdir=/run/clean/work
"""
MOUNTS = f"""
mount --rbind /dev {ROOT}/dev
mount -t proc none {ROOT}/proc
mkdir -p {ROOT}/etc
cp /etc/hosts {ROOT}/etc/hosts
"""
OUTSIDE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nowhere"}
"""As root has it, with nothing of these tests."""


def release(
    directory: Path, *more: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run what ``make release`` runs."""
    command = [sys.executable, "tools/release.py", "--directory", directory, *more]
    return subprocess.run(
        command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Make a release without base images; return its folder and what was said."""
    directory = tmp_path_factory.mktemp("refused")
    (directory / "SHA256SUMS").write_text("of an earlier release\n")
    done = release(directory)
    assert done.returncode == 1
    return directory, done.stderr


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make everything, with stand-ins for the base images."""
    directory = tmp_path_factory.mktemp("released")
    # As another machine: another time zone and another mask.
    environment = {**builder_environment(), "TZ": "Asia/Kolkata"}
    mask = os.umask(0o077)
    try:
        done = release(directory, "--stand-in-for-tests", "--", *builder_flags(), env=environment)
    finally:
        os.umask(mask)
    assert done.returncode == 0, done.stderr
    assert "for tests only: not built from the base images of a release" in done.stderr.splitlines()
    return directory


def test_without_base_images_by_digest_there_is_no_release_and_what_is_lacking_is_named(
    refused: tuple[Path, str],
) -> None:
    directory, said = refused
    lines = said.splitlines()
    for base, image in (("GO_IMAGE", "golang"), ("PYTHON_IMAGE", "python")):
        assert [
            line for line in lines if line.startswith(f"a release needs {base} by digest: ") and image in line
        ]
    # What needs no image is there, and the sums of an earlier release are not.
    assert {path.name for path in directory.iterdir()} == WITHOUT_IMAGE


def test_the_checksums_are_those_of_all_that_is_released(released: Path) -> None:
    assert {path.name for path in released.iterdir()} == WITHOUT_IMAGE | IMAGES | {"SHA256SUMS"}
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=released,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.removesuffix(": OK") for line in checked.stdout.splitlines()} == WITHOUT_IMAGE | IMAGES


def test_the_same_sources_give_the_same_files(refused: tuple[Path, str], released: Path) -> None:
    for name in WITHOUT_IMAGE:
        once, again = (hashlib.sha256((path / name).read_bytes()).digest() for path in (refused[0], released))
        assert once == again, name


def test_the_source_archive_builds_the_same_wheel(released: Path, tmp_path: Path) -> None:
    with tarfile.open(released / f"wesher-{VERSION}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path]
    epoch = subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=REPOSITORY, text=True).strip()
    subprocess.run(
        build,
        cwd=tmp_path / f"wesher-{VERSION}",
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
        check=True,
        capture_output=True,
    )
    name = f"wesher-{VERSION}-py3-none-any.whl"
    assert (tmp_path / name).read_bytes() == (released / name).read_bytes()


@pytest.mark.parametrize(("part", "published"), [("agent", "wesher"), ("operator", "wesher-operator")])
def test_the_bill_of_materials_names_each_locked_library(released: Path, part: str, published: str) -> None:
    bill = json.loads((released / f"{published}-{VERSION}.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    about = bill["metadata"]["component"]
    assert (about["name"], about["version"]) == (published, VERSION)
    named = {each["purl"] for each in bill["components"]}
    lock = (REPOSITORY / f"requirements-{part}.lock").read_text()
    pins = re.findall(r"^([\w-]+)==(\S+) (?!.*win32)", lock, re.MULTILINE)
    assert {purl for purl in named if purl.startswith("pkg:pypi/")} == {
        f"pkg:pypi/{name}@{version}" for name, version in pins
    }
    assert any("golang.zx2c4.com/wireguard@v" in purl for purl in named) == (part == "agent")
    without_licence = [each["name"] for each in bill["components"] if not each.get("licenses")]
    assert [name for name in without_licence if "/" not in name] == []


def test_copies_installed_from_each_artefact_form_a_mesh(released: Path, tmp_path: Path) -> None:
    """A package, one file, a wheel and an image, each in a root that has nothing of this machine."""
    with Lab() as lab:
        programs: dict[Host, list[str]] = {}
        for name, install in (("deb", _deb), ("file", _one_file), ("wheel", _wheel), ("image", _image)):
            host = lab.host(name)
            programs[host] = install(host, released, tmp_path)
        seed = next(iter(programs))
        for host, program in programs.items():
            in_root = [*("chroot", ROOT), *program, *FLAGS, "--join", str(seed.ipv4)]
            host.log_of(in_root, tmp_path / f"{host.name}.log", env=OUTSIDE)
        try:
            for host, program in programs.items():
                _wait_for_all(host, program, [other.name for other in programs])
            for host in programs:
                for other in programs:
                    if other is not host:
                        wait_for_ping(host, _addresses(host, programs[host])[other.name])
        except AssertionError as error:
            for host in programs:
                error.add_note(f"── {host.name}\n{(tmp_path / f'{host.name}.log').read_text()[-3000:]}")
            raise
        assert programs[seed] == ["wesher"]
        _inside(seed, "wesher", "leave")


def _deb(host: Host, released: Path, scratch: Path) -> list[str]:
    _clean_root(host)
    shutil.copy(released / DEB, host.root / ROOT.removeprefix("/"))
    _inside(host, "dpkg", "--install", f"/{DEB}")
    return ["wesher"]


def _one_file(host: Host, released: Path, scratch: Path) -> list[str]:
    _clean_root(host)
    shutil.copy(released / ONE_FILE, host.root / ROOT.removeprefix("/") / "usr/local/bin/wesher")
    return ["/usr/local/bin/wesher"]


def _wheel(host: Host, released: Path, scratch: Path) -> list[str]:
    _clean_root(host)
    place = host.root / ROOT.removeprefix("/") / "opt/wheel"
    wheel = released / f"wesher-{VERSION}-py3-none-any.whl"
    uv = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--link-mode=copy"]
    python = _inside(host, "python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')").strip()
    lock = REPOSITORY / "requirements-agent.lock"
    for what in (["--require-hashes", "--requirement", lock], ["--no-deps", wheel]):
        subprocess.run([*uv, "--target", place, "--python-version", python, *what], check=True, timeout=120)
    return ["env", "PYTHONPATH=/opt/wheel", "python3", "-m", "wesher_agent"]


def _image(host: Host, released: Path, scratch: Path) -> list[str]:
    """Unpack the layers, as a container runtime does."""
    for name in ("wesher-operator", "wesher"):
        unpacked = scratch / f"{name}-image"
        with tarfile.open(released / f"{name}-{VERSION}-image.tar") as archive:
            archive.extractall(unpacked, filter="data")
        (manifest,) = json.loads((unpacked / "manifest.json").read_text())
        assert manifest["RepoTags"] == [f"localhost/{name}:{VERSION}"]
        host.run(["rm", "-rf", ROOT])
        host.run(["mkdir", "-p", ROOT])
        for layer in manifest["Layers"]:
            host.run(["tar", "-x", "-f", unpacked / layer, "-C", ROOT])
        assert _inside(host, f"/opt/wesher/bin/{name}", "--version") == f"{name} {VERSION}\n"
    host.run(["sh", "-ec", MOUNTS])
    return ["/opt/wesher/bin/wesher"]


def _clean_root(host: Host) -> None:
    host.run(["sh", "-ec", NOT_RELEASED + MOUNTS], env={**os.environ, "DEBIAN": str(small_debian())})
    shutil.copy(wireguard_go(), host.root / ROOT.removeprefix("/") / "usr/local/bin/wireguard-go")


def _inside(host: Host, *command: str) -> str:
    return host.run(["chroot", ROOT, *command], env=OUTSIDE).stdout


def _addresses(host: Host, program: list[str]) -> dict[str, str]:
    said = host.run(["chroot", ROOT, *program, "members", "-o", "json"], env=OUTSIDE, check=False).stdout
    members: list[dict[str, Any]] = json.loads(said) if said else []
    return {each["name"]: each["overlayIP"] for each in members if each["state"] == "alive"}


def _wait_for_all(host: Host, program: list[str], names: list[str]) -> None:
    wait_until(
        lambda: set(_addresses(host, program)) == {*names}, what=f"{host.name} sees {', '.join(names)}"
    )


@pytest.fixture
def host() -> Iterator[Host]:
    """Lend a host with a clean root."""
    with Lab() as lab:
        made = lab.host("a")
        _clean_root(made)
        yield made


def test_the_package_keeps_edited_settings_and_only_a_purge_takes_settings_and_keys(
    host: Host, released: Path
) -> None:
    root = host.root / ROOT.removeprefix("/")
    shutil.copy(released / DEB, root)
    said = _inside(host, "dpkg", "--install", f"/{DEB}")
    assert "to join a mesh, edit /etc/default/wesher, then: systemctl enable --now wesher" in said
    settings, state = root / "etc/default/wesher", root / "var/lib/wesher/wgoverlay.json"
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert not list((root / "etc/systemd/system").glob("**/wesher.service"))
    assert list((root / "usr/lib/wesher/wesher_agent").glob("__pycache__/*.pyc"))

    settings.write_text("WESHER_JOIN=seed.example\n")
    state.parent.mkdir()
    state.write_text("{}")
    _inside(host, "dpkg", "--install", f"/{DEB}")
    assert settings.read_text() == "WESHER_JOIN=seed.example\n"

    _inside(host, "dpkg", "--remove", "wesher")
    assert (settings.exists(), state.exists(), (root / "usr/lib/wesher").exists()) == (True, True, False)
    _inside(host, "dpkg", "--purge", "wesher")
    assert (settings.exists(), state.parent.exists()) == (False, False)


def test_a_purge_leaves_the_keys_of_an_agent_that_a_pod_runs(host: Host, released: Path) -> None:
    root = host.root / ROOT.removeprefix("/")
    shutil.copy(released / DEB, root)
    _inside(host, "dpkg", "--install", f"/{DEB}")
    for path in (root / "var/lib/wesher/wgoverlay.json", root / "run/wesher/wgoverlay.sock"):
        path.parent.mkdir()
        path.touch()
    _inside(host, "dpkg", "--purge", "wesher")
    assert (root / "var/lib/wesher/wgoverlay.json").exists()


def test_systemd_finds_nothing_wrong_with_the_packages_service(released: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", released / DEB, tmp_path], check=True)
    verify = [system_program("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no"]
    done = subprocess.run(
        [*verify, f"--root={tmp_path}", "wesher.service"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_has_the_manual_and_the_completions(released: Path) -> None:
    listed = subprocess.check_output(["dpkg-deb", "--contents", released / DEB], text=True)
    for place in ("man/man8/wesher.8.gz", "bash-completion/completions/wesher", "vendor-completions/_wesher"):
        assert f"./usr/share/{place}\n" in listed or f"./usr/share/zsh/{place}\n" in listed


def run_file(file: Path, env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the one-file program with the Python of these tests."""
    return subprocess.run(
        [sys.executable, file, *words], env={**OUTSIDE, **env}, capture_output=True, text=True, check=False
    )


def test_the_file_unpacks_once_into_the_directory_that_it_is_given(released: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    for _ in range(2):
        said = run_file(released / ONE_FILE, {"WESHER_UNPACK_DIR": str(own)}, "--version")
        assert (said.returncode, said.stdout, said.stderr) == (0, f"wesher {VERSION}\n", "")
    (unpacked,) = own.iterdir()
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert (unpacked / "wesher_agent").is_dir()


REMEDY = "set WESHER_UNPACK_DIR to a directory that only this user can write"


def _file_in_the_way(directory: Path) -> str:
    (directory / "own").touch()
    return "cannot unpack into {}: File exists: "


def _others_write(directory: Path) -> str:
    (directory / "own").mkdir()
    (directory / "own").chmod(0o777)
    return "other users can write in {}: "


def _of_another_user(directory: Path) -> str:
    (directory / "own").mkdir()
    os.chown(directory / "own", 65534, 65534)
    return "other users can write in {}: "


@pytest.mark.parametrize("spoil", [_file_in_the_way, _others_write, _of_another_user])
def test_where_the_file_cannot_unpack_it_names_the_variable_that_helps(
    released: Path, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    says = spoil(tmp_path).format(tmp_path / "own")
    said = run_file(released / ONE_FILE, {"WESHER_UNPACK_DIR": str(tmp_path / "own")}, "--version")
    assert (said.returncode, said.stdout, said.stderr) == (1, "", f"wesher: error: {says}{REMEDY}\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("ro", "cannot unpack into /var/cache/wesher: Read-only file system: "),
        ("noexec", "/var/cache/wesher is mounted noexec, and libraries are run from there: "),
    ],
)
def test_on_a_hardened_machine_the_file_names_the_variable_that_helps(
    host: Host, released: Path, options: str, says: str
) -> None:
    shutil.copy(released / ONE_FILE, host.root / ROOT.removeprefix("/"))
    host.run(["mount", "-t", "tmpfs", "-o", options, "none", f"{ROOT}/var/cache"])
    done = host.run(["chroot", ROOT, f"/{ONE_FILE}", "--version"], check=False, env=OUTSIDE)
    assert (done.returncode, done.stderr) == (1, f"wesher: error: {says}{REMEDY}\n")


@pytest.mark.parametrize(
    ("changed", "value", "says"),
    [
        ("PYTHONS", ("3.8", "3.9"), "needs CPython 3.8 to 3.9, and this is cpython 3."),
        ("MACHINE", "riscv64", "is for linux riscv64, and this is linux "),
    ],
)
def test_on_another_python_or_machine_the_file_says_for_which_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, value: object, says: str
) -> None:
    monkeypatch.setattr(agent_tree, changed, value)
    tree = tmp_path / "tree"
    tree.mkdir()
    one_file.make(tmp_path / "wesher.pyz", tree, 1767225600)
    said = run_file(tmp_path / "wesher.pyz", {"WESHER_UNPACK_DIR": str(tmp_path / "own")}, "--version")
    assert said.returncode == 1
    assert said.stderr.startswith(f"wesher: error: wesher.pyz {says}")
    assert said.stderr.count("\n") == 1
    assert not (tmp_path / "own").exists()


def test_a_python_that_is_too_old_can_still_read_why() -> None:
    source = Path(one_file_entry.__file__).read_text()
    ast.parse(source, feature_version=(3, 6))
    # Evaluated as the functions are made, which Python before 3.9 cannot do with these.
    assert not re.search(r"(?:->|: )\s*(?:dict|list|tuple)\[", source)
