"""Whatever another host writes, what a person reads keeps its lines and holds no control character."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesher_agent.cli.ping_text import answer_line, failure_line, why_no_answer, why_no_tunnel
from wesher_agent.cli.tables import (
    hindrances,
    left_text,
    member_table,
    member_tree,
    status_text,
)
from wesher_agent.cli.tables import join_text as agents_join_text
from wesher_agent.cli.watch import frame
from wesher_agent.kube.node_status import node_status
from wesher_agent.status.answers import join_answer, members_answer, status_answer
from wesher_agent.status.greeting import greeting
from wesher_common.errors import ClusterUnavailable
from wesher_common.event_logger import LogEvent, formatter
from wesher_common.mesh_document import GossipSettings
from wesher_common.printable import as_lines, is_printable
from wesher_common.report import MAX_MESSAGE
from wesher_operator.kubectl import checks
from wesher_operator.kubectl.commands import findings_text
from wesher_operator.kubectl.join import join_text
from wesher_operator.kubectl.status import overview, overview_text
from wesher_operator.reconcile.facts import MESH, WESHER_NODE, MemberFacts, MeshFacts, NodeFacts, read_facts
from wesher_operator.reconcile.status import Findings, mesh_status
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.virtual.members import document, local_node, remembered

NOW = datetime(2030, 5, 1, 12, 0, 0, tzinfo=UTC)
REPORTED = "2030-05-01T11:59:50Z"

hostile = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("\x1b\n\r\t\x07\x9b\u2028\u202e\u2066\u200b\u3164\ufe0f"),
    ),
    max_size=60,
).map(lambda text: f"¤{text}")
"""Marked, so that it is never a word to which the code gives a meaning, such as ContainerCreating."""


def conditions(text: str) -> list[dict[str, str]]:
    return [
        {"type": "Ready", "status": "False", "reason": text, "message": text, "lastTransitionTime": REPORTED},
        {
            "type": text,
            "status": "False",
            "reason": "Failed",
            "message": text,
            "lastTransitionTime": REPORTED,
        },
    ]


def mesh(text: str) -> dict[str, Any]:
    entry = {"name": text, "kind": "Node", "address": text, "state": text, "reason": text}
    return {
        "metadata": {"name": "demo", "uid": "u", "generation": 1},
        "spec": {
            "overlayCIDR": "10.189.0.0/16",
            "wireguard": {"interface": "wgoverlay", "port": 51820},
            "gossip": {"port": 7946, "profile": "WAN", "label": text},
        },
        "status": {
            "observedGeneration": 1,
            "conditions": conditions(text),
            "members": {"summary": text, "outside": text},
            "memberList": [entry, {**entry, "kind": "Outsider"}],
            "key": {"id": text, "acceptedIDs": [text]},
        },
    }


def node(text: str) -> dict[str, Any]:
    """Return a WesherNode as a definition of an older release would let an agent's token write it."""
    return {
        "metadata": {"name": "demo.a", "uid": "u"},
        "spec": {"meshRef": {"name": "demo", "uid": "u"}, "nodeName": "a", "overlayIP": "10.189.0.1"},
        "status": {
            "conditions": conditions(text),
            "endpoint": f"{text}:51820",
            "peers": {"summary": text, "unreachable": [text]},
            "viewHash": text,
            "outsiders": [{"name": text, "address": text[:39], "endpoint": text, "kind": text}],
            "lastReportTime": REPORTED,
        },
    }


def kubectl_status(text: str) -> str:
    return overview_text(overview(mesh(text), [node(text)]), now=NOW)


def kubectl_doctor(text: str) -> str:
    waiting = {"state": {"waiting": {"reason": text, "message": text}}}
    pod = {"metadata": {"name": "p"}, "spec": {"nodeName": "a"}, "status": {"containerStatuses": [waiting]}}
    daemon_set = {"metadata": {"name": "demo-agent", "namespace": "n", "uid": "u"}, "status": {}}
    return findings_text(
        [
            checks.mesh_conditions(mesh(text)),
            checks.reports(mesh(text), [node(text)], NOW),
            checks.agents(mesh(text), daemon_set, [pod], []),
            checks.unseen("roles", str(ClusterUnavailable(text))),
        ]
    )


def kubectl_join(text: str) -> str:
    nodes = [node(text), {"status": {"endpoint": "192.0.2.1:51820"}}]
    return join_text(mesh(text), nodes, "n", reach=[f"--context={text}"])


def agent(text: str) -> Any:
    """Return a moment of an agent that quotes what a library, a file or a member said."""
    return snapshot(
        remembered("b"), device_ready=False, device_reason="Failed", device_problem=text, hosts=text
    )


def wesher_status(text: str) -> str:
    answer = json.loads(json.dumps(status_answer(agent(text))))
    return status_text(
        {**answer, "state": text, "version": text, "gossip": {**answer["gossip"], "address": text}}
    )


def wesher_status_check(text: str) -> str:
    return as_lines(hindrances(status_answer(agent(text))))


def members(text: str) -> list[dict[str, Any]]:
    answer = json.loads(json.dumps(members_answer(agent(text))))
    return [{**member, "name": text, "endpoint": text, "location": text, "note": text} for member in answer]


def wesher_members(text: str) -> str:
    return member_table(members(text))


def wesher_members_tree(text: str) -> str:
    return member_tree(members(text))


def wesher_members_watch(text: str) -> str:
    screen = frame(f"a\n{as_lines([text])}", "title", columns=0, lines=0)
    return re.sub(r"^\x1b\[K|\x1b\[J\Z", "", screen.removeprefix("\x1b[H"), flags=re.MULTILINE)


def wesher_ping(text: str) -> str:
    member = members(text)[0]
    why = [failure_line(member, reason(member)) for reason in (why_no_tunnel, why_no_answer)]
    return "\n".join([answer_line(1, member, 0.1), *why])


def wesher_join_command(text: str) -> str:
    mesh = document(gossip=GossipSettings(label=text))
    answer = join_answer(snapshot(local=local_node("a", mesh=mesh)))
    return agents_join_text(answer, reach=[f"--run-dir={text}"])


def agents_greeting(text: str) -> str:
    mesh = document(gossip=GossipSettings(label=text))
    return greeting(snapshot(local=local_node(text, mesh=mesh)), reach=[f"--run-dir={text}"])


def wesher_leave(text: str) -> str:
    left = {"node": text, "interface": text, "kept": text}
    return left_text(left, forgot=False)


def log_text(text: str) -> str:
    event = LogEvent("member failed", {"node": text, "error": ClusterUnavailable(text)})
    record = logging.LogRecord("wesher.x", logging.INFO, "", 0, event, (), None)
    return formatter("text").format(record)


def log_json(text: str) -> str:
    event = LogEvent("member failed", {"node": text})
    return formatter("json").format(logging.LogRecord("wesher.x", logging.INFO, "", 0, event, (), None))


RENDERERS: Mapping[str, Callable[[str], str]] = {
    each.__name__: each
    for each in (
        kubectl_status,
        kubectl_doctor,
        kubectl_join,
        wesher_status,
        wesher_status_check,
        wesher_members,
        wesher_members_tree,
        wesher_members_watch,
        wesher_ping,
        wesher_join_command,
        agents_greeting,
        wesher_leave,
        log_text,
        log_json,
    )
}


@pytest.mark.parametrize("renderer", RENDERERS)
@given(text=hostile)
def test_no_text_adds_a_line_or_a_control_character(renderer: str, text: str) -> None:
    shown = RENDERERS[renderer](text).split("\n")
    assert len(shown) == len(RENDERERS[renderer]("¤x").split("\n"))
    for line in shown:
        assert is_printable(line)


@given(text=hostile)
def test_what_is_printable_is_shown_as_it_is(text: str) -> None:
    word = "".join(letter for letter in text if is_printable(letter))
    assert word in kubectl_status(word)
    assert word in wesher_status(word)


def texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [value] if isinstance(value, str) else []


@given(text=hostile)
def test_what_agent_and_operator_write_is_what_the_definitions_take(text: str) -> None:
    """So an honest report is never refused, and the operator passes on nothing that a node made up."""
    body = mesh(text)
    del body["spec"]["gossip"]["label"], body["status"]
    facts, member = read_facts(MESH, body), read_facts(WESHER_NODE, node(text))
    assert isinstance(facts, MeshFacts)
    assert isinstance(member, MemberFacts)
    findings = Findings(
        desired=[NodeFacts("a", {}, (), (), (), problems=(text,))], members=[member], key_problem=text
    )
    reports = (mesh_status(facts, findings, now=NOW), node_status(agent(text * 40), (), time=NOW))
    for report in reports:
        assert all(map(is_printable, texts(report)))
        assert all(len(each["message"]) <= MAX_MESSAGE for each in report["conditions"])
