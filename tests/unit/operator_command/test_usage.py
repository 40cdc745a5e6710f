"""What the command says about itself being used wrongly: one line, and exit code 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wesher_operator.__main__ import main
from wesher_operator.agent_pods import AgentPods
from wesher_operator.options import RunOptions, parse_options


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        ([], {}, "--agent-image: must be given"),
        (["--agent-image=x"], {}, "--namespace: must be given outside a pod"),
        (["--agent-image=x", "--namespace=n"], {}, "--kubeconfig: must be given outside a pod"),
        (
            ["--agent-image=x", "--namespace=n", "--kubeconfig=/nonexistent/config"],
            {},
            "--kubeconfig '/nonexistent/config': cannot be used: ",
        ),
        (
            ["--agent-image=x", "--namespace=n", "--log-level=quiet"],
            {"WESHER_LOG_LEVEL": "info"},
            "--log-level 'quiet': must be one of debug, info, warning, error",
        ),
        (
            ["--agent-image=x", "--namespace=n"],
            {"WESHER_LOG_LEVEL": "loud"},
            "WESHER_LOG_LEVEL 'loud': must be one of debug, info, warning, error",
        ),
        (
            ["--agent-image=x", "--namespace=n"],
            {"WESHER_AGENT_LOG_LEVEL": "loud"},
            "WESHER_AGENT_LOG_LEVEL 'loud': must be one of debug, info, warning, error",
        ),
        (
            ["--agent-image=x", "--namespace=n"],
            {"WESHER_AGENT_IMAGE_PULL_POLICY": "Maybe"},
            "WESHER_AGENT_IMAGE_PULL_POLICY 'Maybe': must be one of Always, IfNotPresent, Never",
        ),
        (
            ["--agent-image=x", "--namespace=n"],
            {"WESHER_AGENT_PODS": '{"dnsPolicy": "Sometimes"}'},
            "WESHER_AGENT_PODS dnsPolicy: Input should be 'Default', ",
        ),
        (
            ["--agent-image=x", "--namespace=n", '--agent-pods={"colour": "red"}'],
            {},
            "--agent-pods colour: Extra inputs are not permitted",
        ),
        (
            ["--agent-image=x", "--namespace=n", "--health-port=65536"],
            {},
            "--health-port '65536': must be a whole number from 0 to 65535",
        ),
    ],
)
def test_a_bad_flag_or_variable_is_told_in_one_line(
    arguments: list[str],
    environment: dict[str, str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in [name for name in os.environ if name.startswith(("WESHER_", "KUBE"))]:
        monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"wesher-operator: {says}")


def test_a_flag_beats_its_variable_and_an_empty_variable_says_nothing() -> None:
    environ = {"WESHER_AGENT_IMAGE": "variable", "WESHER_NAMESPACE": "", "KUBECONFIG": "/k"}
    options = parse_options(["run", "--agent-image=flag"], environ, "pod")
    assert options == RunOptions(
        kubeconfig=Path("/k"),
        namespace="pod",
        agent_image="flag",
        agent_image_pull_policy="IfNotPresent",
        agent_log_level="info",
        log_level="info",
        agent_pods=AgentPods(),
        manage_crds=True,
        health_port=0,
    )
