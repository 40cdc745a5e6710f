"""What ``kubectl wesher sysdump`` leaves out of objects."""

from __future__ import annotations

from typing import Any

from wesher_operator.kubectl.sysdump import LEFT_OUT, without_secrets


def test_values_that_users_gave_to_containers_are_left_out_and_ours_stay() -> None:
    env: list[dict[str, Any]] = [
        {"name": "HTTPS_PROXY", "value": "http://me:secret@proxy"},
        {"name": "WESHER_LOG_LEVEL", "value": "info"},
        {"name": "WESHER_CLUSTER_KEY", "value": "secret"},
        {"name": "WESHER_AGENT_PODS", "value": '{"extraEnv": [{"value": "secret"}]}'},
        {"name": "WESHER_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ]
    (shown,) = without_secrets([{"spec": {"containers": [{"env": env}]}}])
    kept = {entry["name"]: entry.get("value", "") for entry in shown["spec"]["containers"][0]["env"]}
    assert kept == {
        "HTTPS_PROXY": LEFT_OUT,
        "WESHER_LOG_LEVEL": "info",
        "WESHER_CLUSTER_KEY": LEFT_OUT,
        "WESHER_AGENT_PODS": LEFT_OUT,
        "WESHER_NODE_NAME": "",
    }


def test_copies_of_an_object_inside_itself_are_left_out() -> None:
    metadata = {
        "name": "x",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "secret", "a": "b"},
        "managedFields": ["secret"],
    }
    assert without_secrets({"metadata": metadata}) == {"metadata": {"name": "x", "annotations": {"a": "b"}}}
