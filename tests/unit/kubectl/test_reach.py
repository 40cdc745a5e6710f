"""How the plugin finds the API server, and what it says where it cannot."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from wesher_operator.kubectl import reach
from wesher_operator.kubectl.commands import main
from wesher_testing.agents.mounted_files import KUBECONFIG


@pytest.mark.parametrize("content", [None, "", "{", "contexts: 5\n"])
@pytest.mark.parametrize("by_variable", [True, False])
def test_a_kubeconfig_that_cannot_be_used_is_told_in_one_line(
    content: str | None,
    *,
    by_variable: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    # The library reads the variable when it is loaded.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    assert main(["status"] if by_variable else ["status", f"--kubeconfig={path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kubectl wesher: error: --kubeconfig '{path}': cannot be used: ")


def test_a_context_is_blamed_only_where_the_kubeconfig_lacks_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config"
    for content, blamed in ((json.dumps(KUBECONFIG), "--context 'foo'"), ("", f"--kubeconfig '{path}'")):
        path.write_text(content)
        assert main(["status", f"--kubeconfig={path}", "--context=foo"]) == 2
        assert f"error: {blamed}: cannot be used: " in capsys.readouterr().err


def test_certificates_are_judged_as_kubectl_judges_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python since 3.13 refuses those that do not name their issuer's key, unless told otherwise."""
    strict = ssl.create_default_context()
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    monkeypatch.setattr(reach, "create_urllib3_context", lambda: strict)
    path = tmp_path / "config"
    path.write_text(json.dumps(KUBECONFIG))
    reach.connect(str(path), "")
    assert not strict.verify_flags & ssl.VERIFY_X509_STRICT
