"""README says what the code says: options and their defaults, ports, versions; its picture can be read.

So does the page that compares wesher with other tools: each has its source.
"""

from __future__ import annotations

import re
import tomllib
from ipaddress import ip_network
from xml.etree import ElementTree as ET

import yaml

from wesher_agent.flags import FLAGS, find_flag
from wesher_common.version import VERSION
from wesher_testing.run.toolbox import KUBERNETES_VERSION, REPOSITORY

README = (REPOSITORY / "README.md").read_text()
PICTURES = sorted((REPOSITORY / "docs/pictures").glob("*.svg"))


def table(heading: str) -> list[list[str]]:
    """Return the rows below a table's first line, each as its cells."""
    lines = README.partition(f"\n{heading}\n")[2].splitlines()[1:]
    rows = lines[: next(number for number, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def options() -> dict[str, str]:
    """Return the default of each option as the table has it, by ``--flag METAVAR``."""
    rows = table("| flag | what it sets | default |")
    return {spelled: default for names, _, default in rows for spelled in re.findall(r"`(--[^`]+)`", names)}


def test_options_are_spelled_as_the_help_spells_them() -> None:
    assert len(options()) > 10
    for spelled in options():
        name, _, metavar = spelled.partition(" ")
        flag = find_flag(name)
        assert metavar == flag.metavar or (flag.switch and not metavar)


def test_defaults_are_those_of_the_flags() -> None:
    defaults = {spelled.partition(" ")[0]: text for spelled, text in options().items()}
    given = {name: text.strip("`") for name, text in defaults.items() if text.startswith("`")}
    assert {"--overlay-net", "--cluster-port", "--wireguard-port", "--interface"} <= given.keys()
    # The level's default is a number here, and settings decide whether an agent leaves.
    otherwise = {"--log-level": "warn", "--leave-on-exit": "true"}
    for name, text in given.items():
        assert text == otherwise.get(name, str(find_flag(name).default).lower()), name


def test_each_option_of_the_go_program_is_in_the_table() -> None:
    go_program = {
        *("--cluster-key", "--join", "--init", "--bind-addr", "--bind-iface", "--cluster-port"),
        *("--wireguard-port", "--overlay-net", "--interface", "--no-etc-hosts", "--log-level"),
    }
    assert go_program <= {spelled.partition(" ")[0] for spelled in options()} <= {flag.name for flag in FLAGS}


def test_ports_are_the_defaults() -> None:
    said = {int(port) for port in re.findall(r"(?:UDP|TCP and UDP) (\d+)", README)}
    assert said == {find_flag("--wireguard-port").default, find_flag("--cluster-port").default}


def test_overlays_that_the_steps_name_are_accepted() -> None:
    for network in re.findall(r"--overlay-net (\d\S+)", README):
        assert ip_network(network).prefixlen % 8 == 0


def test_versions_are_the_projects() -> None:
    needs = dict(table("| wesher needs | details |"))
    tested = {row[0]: row[1] for row in table("| | tested | not tested |")}
    chart = yaml.safe_load((REPOSITORY / "charts/wesher/Chart.yaml").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert chart["kubeVersion"] == f">={needs['on Kubernetes'].split()[0]}.0-0"
    assert project["requires-python"] == f">={needs['on plain machines'].split()[1]}"
    assert tested["Kubernetes"].startswith(KUBERNETES_VERSION.rpartition(".")[0])
    assert f"this is {VERSION}," in README


def test_pictures_have_words_for_who_does_not_see_them_and_colours_for_both_kinds_of_page() -> None:
    assert PICTURES
    for picture in PICTURES:
        root = ET.fromstring(picture.read_text())  # noqa: S314 - our own file
        words = {element.tag.rpartition("}")[2]: element.text or "" for element in root.iter()}
        assert words["title"]
        assert words["desc"]
        light, _, dark = words["style"].partition("@media (prefers-color-scheme: dark)")
        rules = re.findall(r"(\.?\w+)\s*\{([^}]*)\}", light)
        coloured = {name for name, rule in rules if re.search(r"(?:fill|stroke): #", rule)}
        assert coloured == set(re.findall(r"(\.?\w+)\s*\{", dark))
        used = {element.get("class") for element in root.iter()} - {None}
        assert used <= {name.removeprefix(".") for name in re.findall(r"\.\w+", light)}


def test_each_tool_of_the_comparison_has_its_source_and_when_to_take_it() -> None:
    page = (REPOSITORY / "docs/comparison.md").read_text()
    assert re.search(r"stored copies had it on 20\d\d-\d\d-\d\d", page)
    first, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    linked = set(re.findall(r"\]\(#([a-z-]+)\)", first))
    assert linked == {
        section.partition("\n")[0].lower().replace(" ", "-").replace("/", "") for section in sections
    }
    for section in sections:
        assert re.search(r"^\*\*Take (?:it|them|one of them) instead\*\* (?:if|for) ", section, re.MULTILINE)
        assert re.search(r"^Sources?:[^*]*\]\(https://", section, re.MULTILINE)
