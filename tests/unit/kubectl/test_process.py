"""The plugin as a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wesher_common.version import VERSION
from wesher_operator.kubectl.commands import main


def test_without_its_libraries_it_says_how_to_get_them() -> None:
    """As where the wheel was installed for another of its commands."""
    lacking = "import sys; sys.modules['urllib3'] = None; from wesher_operator.kubectl.__main__ import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{lacking}; sys.exit(main())"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = "kubectl wesher: error: the library urllib3 is missing: install wesher[kubectl]\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_the_version_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"kubectl wesher {VERSION}\n"
