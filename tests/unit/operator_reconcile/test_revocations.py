"""Whose certificates are revoked, from what there is and what is remembered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from wesher_common.certificate import name_hash
from wesher_operator.reconcile.facts import ObjectFacts
from wesher_operator.reconcile.revocations import (
    KEPT_SECONDS,
    MAX_BARRED,
    REVOKED_FILE,
    Bar,
    Present,
    Revocations,
    Revoked,
    added,
    without_old,
)

NOW = 1_790_000_000
A, B = name_hash("a"), name_hash("b")
NOBODY = Revocations()


def present(nodes_there: str = "ab", **more: Any) -> Present:
    """Return a mesh whose ledger has the names a and b, each with a Node."""
    nodes = {name: (f"uid-{name}", False) for name in nodes_there}
    issued = {"a": "incarnation-a", "b": "incarnation-b"}
    incarnations = {issued[name] for name in nodes_there if name in issued}
    given: dict[str, Any] = {"names": set(nodes_there), "incarnations": incarnations}
    return Present(**{**given, "issued": issued, "nodes": nodes, **more})


def look(before: Revocations, there: Present, second: int = NOW, **more: Any) -> Revocations:
    return before.after(there, more.get("published", {}), second=second, taken=more.get("taken", {}))


def items(memory: Revocations) -> dict[bytes, int]:
    return memory.items(lambda node: node)


def labelled(name: str, uid: str = "") -> Present:
    """Return the mesh while one Node has the label: it does not belong to the mesh."""
    others = "ab".replace(name, "")
    nodes = {**present().nodes, name: (uid or f"uid-{name}", True)}
    return replace(present(others), nodes=nodes)


def test_a_name_of_the_ledger_whose_node_is_gone_is_revoked_once() -> None:
    """Also where it went while the operator was away: the ledger has the names before their certificates."""
    assert look(NOBODY, present()) == NOBODY
    gone = look(NOBODY, present("a"))
    assert items(gone) == {B: NOW}
    assert look(gone, present("a"), NOW + 60) == gone
    assert added(NOBODY, gone) == (["b"], [])


def test_a_name_that_returns_and_goes_again_is_revoked_up_to_the_later_second() -> None:
    gone = look(NOBODY, present("a"))
    back = look(gone, present(), NOW + 60)
    assert items(back) == {B: NOW}
    assert items(look(back, present("a"), NOW + 120)) == {B: NOW + 120}


def test_the_former_name_of_a_node_is_in_use_while_the_node_has_its_key() -> None:
    """After an edit of clusterName the agents change their names one after the other."""
    renamed = present("ab", names={"a.west", "b.west"})
    assert look(NOBODY, renamed) == NOBODY
    without_b = replace(renamed, names={"a.west"}, incarnations={"incarnation-a"})
    assert items(look(NOBODY, without_b)) == {B: NOW}


def test_a_node_with_the_label_stays_out_until_the_label_is_removed() -> None:
    out = look(NOBODY, labelled("b"))
    assert items(out) == {B: NOW}
    assert out.barred == {"b": Bar(NOW, "uid-b")}
    assert look(out, labelled("b"), NOW + 60) == out
    back = look(out, present(), NOW + 120)
    assert back.barred == {}
    assert back.void({}, "b", "b") == NOW
    assert look(back, labelled("b"), NOW + 180).void({}, "b", "b") == NOW + 180


def test_a_node_with_the_label_is_in_the_statement_though_it_never_had_a_certificate() -> None:
    assert items(look(NOBODY, replace(labelled("b"), issued={}))) == {B: NOW}


def test_a_revoked_node_that_was_deleted_and_registers_again_stays_out_until_it_is_readmitted() -> None:
    """Its kubelet still has its credentials, and no kubelet can remove the label, but a new Node has none."""
    out = look(NOBODY, labelled("b"))
    deleted = look(out, present("a"), NOW + 60)
    again = present("ab", nodes={"a": ("uid-a", False), "b": ("another", False)})
    assert look(deleted, again, NOW + 120).barred == {"b": Bar(NOW, "uid-b")}
    assert look(deleted, replace(again, admitted={"b"}), NOW + 120).barred == {}


def test_a_readmitted_node_that_still_has_the_label_stays_out() -> None:
    out = look(NOBODY, labelled("b"))
    assert look(out, replace(labelled("b"), admitted={"b"}), NOW + 60).barred == {"b": Bar(NOW + 60, "uid-b")}


def test_a_node_that_a_statement_of_others_names_stays_out_until_it_is_readmitted() -> None:
    """As after a restore from a backup: the Node is there, and without its label."""
    taken = look(NOBODY, present(), taken={"b": NOW - 5})
    assert taken.barred == {"b": Bar(NOW - 5)}
    assert items(taken) == {B: NOW - 5}
    assert look(taken, present(), NOW + 60) == taken
    assert look(taken, present(admitted={"b"}), NOW + 60).barred == {}
    # The label, once removed, readmits it as well.
    relabelled = look(taken, labelled("b"), NOW + 60)
    assert look(relabelled, present(), NOW + 120).barred == {}


def test_a_name_is_remembered_as_long_as_the_ledger_has_it_and_no_longer_than_the_statement_needs() -> None:
    gone = look(NOBODY, present("a"))
    forgotten = present("a", issued={"a": "incarnation-a"})
    assert look(gone, forgotten, NOW + 1) == gone, "it is not published yet"
    assert look(gone, forgotten, NOW + 1, published={B: NOW}) == NOBODY
    late = NOW + KEPT_SECONDS + 1
    assert look(gone, present("a"), late) == gone, "or it would be revoked again in each run"
    assert without_old(items(gone), late) == {}
    assert without_old(items(gone), NOW + KEPT_SECONDS - 1) == {B: NOW}


def test_the_memory_is_read_as_it_was_written_and_nonsense_is_nobody() -> None:
    memory = look(look(NOBODY, labelled("b")), labelled("b"), taken={"a": 7})
    assert set(memory.barred) == {"a", "b"}
    data = {REVOKED_FILE: memory.to_json()}
    assert Revocations.of(ObjectFacts("demo-revoked", {"data": data})) == memory
    assert Revocations.of(None) == NOBODY
    for text in ("", "{", "[]", '{"names":[]}', '{"names":{"a":{}}}', '{"barred":{"a":{"second":"x"}}}'):
        assert Revocations.of(ObjectFacts("demo-revoked", {"data": {REVOKED_FILE: text}})) == NOBODY


def test_of_too_many_nodes_that_stay_out_the_oldest_go_first() -> None:
    taken = {f"n{number}": number for number in range(1, MAX_BARRED + 11)}
    bars = look(NOBODY, present(), taken=taken).barred
    assert set(bars) == {f"n{number}" for number in range(11, MAX_BARRED + 11)}


def test_more_labelled_nodes_than_are_remembered_change_nothing_at_each_look() -> None:
    nodes = {f"n{number:03}": (f"uid-{number}", True) for number in range(MAX_BARRED + 10)}
    first = look(NOBODY, present(nodes=nodes))
    assert len(first.barred) == MAX_BARRED
    assert look(first, present(nodes=nodes), NOW + 60) == first
    named = look(first, present(nodes=nodes), NOW + 60, taken={"n": NOW + 60})
    assert "n" in named.barred
    assert look(named, present(nodes=nodes), NOW + 120) == named


@pytest.mark.parametrize(
    ("published", "name", "bar", "second"),
    [(5, 0, 0, 5), (0, 5, 0, 5), (0, 0, 5, 5), (3, 4, 5, 5), (0, 0, 0, 0)],
)
def test_certificates_are_void_up_to_the_latest_second_that_is_known(
    published: int, name: int, bar: int, second: int
) -> None:
    memory = Revocations({"a": Revoked(name, gone=True)}, {"a": Bar(bar)})
    assert memory.void({A: published}, "a", "a") == second
