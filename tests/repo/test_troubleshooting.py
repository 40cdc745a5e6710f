"""Whatever reason a user is shown, the troubleshooting page says what to do about it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from wesher_testing.run.log_events import is_logged

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs/troubleshooting.md"
SOURCES = [
    *(REPOSITORY / "agent/wesher_agent").rglob("*.py"),
    *(REPOSITORY / "operator/wesher_operator").rglob("*.py"),
    # Why a certificate does not count.
    REPOSITORY / "common/wesher_common/certificate.py",
]


def text(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def reasons(tree: ast.AST) -> Iterator[str]:
    """Yield each reason that stands in the code as a literal, where it is bad news."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("Condition"), args=[_, status, reason, *_]):
                # What is True is as it should be.
                if text(status) != "True":
                    yield text(reason)
            case ast.Call(func=ast.Name("Problem"), args=[_, reason, *_]):
                yield text(reason)
            case ast.Call(func=ast.Name("Refusal" | "PodTrouble" | "PeerProblem"), args=[reason, *_]):
                yield text(reason)
            case ast.keyword("reason", value) | ast.Assign(targets=[ast.Name("reason")], value=value):
                yield from (
                    (text(value),)
                    if not isinstance(value, ast.IfExp)
                    else (
                        text(value.body),
                        text(value.orelse),
                    )
                )


def test_every_reason_has_its_line_on_the_page() -> None:
    page = PAGE.read_text()
    found = {
        reason
        for source in SOURCES
        for reason in reasons(ast.parse(source.read_text()))
        # Other reasons are words of logs and metrics, or of the state that is as it should be.
        if reason[:1].isupper() and reason != "AsExpected"
    }
    assert len(found) > 25
    assert sorted(reason for reason in found if f"| `{reason}` |" not in page) == []


def test_the_page_names_no_reason_that_is_never_given() -> None:
    sources = "\n".join(source.read_text() for source in SOURCES)
    named = {line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    assert sorted(reason for reason in named if f'"{reason}"' not in sources) == []


def test_every_counter_has_a_line_that_is_logged() -> None:
    table = PAGE.read_text().partition("\n| counter |")[2].partition("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    lines = [re.findall(r"`([^`]+)`", row[2])[0] for row in rows]
    assert len(lines) > 6
    assert [line for line in lines if not is_logged(line)] == []


def test_no_text_has_a_user_delete_the_meshes_of_other_installations() -> None:
    texts = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    texts += [path for path in (REPOSITORY / "charts").rglob("*") if path.is_file()]
    texts += [path for path in (REPOSITORY / "deploy").rglob("*") if path.is_file()]
    found = [path for path in texts if re.search(r"delete (wmesh|weshermesh(es)?) --all", path.read_text())]
    assert found == []
