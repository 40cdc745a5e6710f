"""``make dist`` and ``make install``: what a machine outside Kubernetes gets."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from wesher_agent.cli.completion import completion
from wesher_common.version import VERSION
from wesher_testing.operations_page import commands
from wesher_testing.run.toolbox import REPOSITORY, system_program

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it into a directory."""
    root = tmp_path_factory.mktemp("tree")
    for command in commands("machine-install"):
        subprocess.run(
            ["sh", "-c", command],
            cwd=REPOSITORY,
            env={**os.environ, "DESTDIR": str(root), "MAKEFLAGS": "--silent"},
            check=True,
            timeout=300,
        )
    return root


def test_the_programs_run_from_where_the_tree_will_lie(tree: Path) -> None:
    program = tree / "opt/wesher/bin/wesher"
    assert program.read_text().splitlines()[0] == "#!/opt/wesher/bin/python"
    assert (tree / "usr/local/bin/wesher").readlink() == Path("/opt/wesher/bin/wesher")
    said = subprocess.run(
        [tree / "opt/wesher/bin/python", program, "--version"], capture_output=True, text=True, check=True
    )
    name, version = said.stdout.split()
    assert next((REPOSITORY / "dist").glob("wesher-*.whl")).name.startswith(f"{name}-{version}-")


def test_the_manual_page_and_the_completions_are_where_programs_look_for_them(tree: Path) -> None:
    share = tree / "usr/local/share"
    assert (share / "man/man8/wesher.8").read_text().startswith('.\\" Generated')
    for shell, place in (
        ("bash", "bash-completion/completions/wesher"),
        ("zsh", "zsh/site-functions/_wesher"),
        ("fish", "fish/vendor_completions.d/wesher.fish"),
    ):
        assert (share / place).read_text() == completion(shell) + "\n"
        assert stat.S_IMODE((share / place).stat().st_mode) & 0o444 == 0o444


def test_it_is_the_agent_with_its_libraries_and_nothing_else(tree: Path) -> None:
    """A machine outside Kubernetes needs neither the Kubernetes client nor the operator nor pip."""
    (libraries,) = (tree / "opt/wesher/lib").glob("python3.*/site-packages")
    lock = (REPOSITORY / "requirements-agent.lock").read_text()
    pins = set(re.findall(r"^([\w-]+)==\S+ (?!.*win32)", lock, re.MULTILINE))
    found = {path.name.split("-")[0].replace("_", "-") for path in libraries.glob("*.dist-info")}
    assert found == pins | {"wesher"}
    assert not (libraries / "wesher_operator").exists()
    assert not {"pip", "wesher-operator", "kubectl-wesher"} & {
        path.name for path in (tree / "opt/wesher/bin").iterdir()
    }
    size = sum(path.lstat().st_size for path in (tree / "opt/wesher").rglob("*"))
    assert size < 40e6


@pytest.mark.usefixtures("tree")
def test_pipx_brings_the_commands_that_are_asked_for(tmp_path: Path) -> None:
    """It makes an environment and has pip install into it, as is done here: what the index has as newest."""
    (wheel,) = (REPOSITORY / "dist").glob(f"wesher-{VERSION}-*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True, timeout=60)
    pip = [tmp_path / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{wheel}[agent,kubectl]"], check=True, timeout=300)
    for name in ("wesher", "kubectl-wesher"):
        said = subprocess.run(
            [tmp_path / "bin" / name, "--version"], capture_output=True, text=True, check=True
        )
        assert said.stdout == f"{name.replace('kubectl-', 'kubectl ')} {VERSION}\n"
    subprocess.run([*pip, f"{wheel}[operator]"], check=True, timeout=300)
    for name in ("wesher", "wesher-operator", "kubectl-wesher"):
        said = subprocess.run([tmp_path / "bin" / name, "--help"], capture_output=True, text=True, check=True)
        assert said.stdout.startswith(f"usage: {name.replace('kubectl-', 'kubectl ')}")


def test_systemd_finds_nothing_wrong_with_the_service(tree: Path) -> None:
    verify = [system_program("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no"]
    done = subprocess.run(
        [*verify, f"--root={tree}", "wesher.service"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_scores_the_service_as_little_exposed(tree: Path) -> None:
    """What is left is what it needs: the network, its capabilities, ``/etc`` and ``/dev/net/tun``.

    systemd 252 scores it 2.8; other releases weigh a little differently.
    """
    judge = [system_program("systemd-analyze"), "security", "--offline=yes", "--no-pager", "--threshold=30"]
    done = subprocess.run(
        [*judge, f"--root={tree}", "wesher.service"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_file_for_the_key_is_roots_alone_and_an_edit_of_it_survives_an_upgrade(tree: Path) -> None:
    defaults = tree / "etc/default/wesher"
    assert stat.S_IMODE(defaults.stat().st_mode) == 0o600
    defaults.write_text("WESHER_JOIN=seed.example\n")
    subprocess.run([REPOSITORY / "scripts/install-service", tree], check=True, timeout=30)
    assert defaults.read_text() == "WESHER_JOIN=seed.example\n"
