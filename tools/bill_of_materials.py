"""The bills of materials (CycloneDX) of a release: which libraries agent and operator contain.

They are written from the locks, and name licences and dependencies as the installed libraries declare them:
the developers' environment has the same versions.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
_GO_MODULES = REPOSITORY / "tests/support/go/wireguard/go.mod"
_GO_REQUIREMENT = re.compile(r"^\t(\S+) (v\S+)", re.MULTILINE)
PARTS = {"agent": "wesher", "operator": "wesher-operator"}
"""What has a lock, and the name under which it is published."""


def name(part: str, version: str) -> str:
    """Return what the file of a release is called."""
    return f"{PARTS[part]}-{version}.cdx.json"


def make(target: Path, part: str, version: str, epoch: int) -> None:
    """Write the bill of a part.

    Args:
        target: the file.
        part: one of `PARTS`.
        version: of wesher.
        epoch: seconds since 1970 that it is dated.

    """
    root = Component(
        name=PARTS[part],
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=PARTS[part],
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        purl=PackageURL("pypi", name="wesher", version=version),
    )
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"{PARTS[part]}@{version}@{epoch}"))
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    libraries = {library.name: library for library in _python(part)}
    programs = [*_go()] if part == "agent" else []
    bom.components = [*libraries.values(), *programs]
    direct = _required("wesher", part) & libraries.keys()
    bom.register_dependency(root, [*(libraries[each] for each in direct), *programs])
    for each, library in libraries.items():
        bom.register_dependency(library, [libraries[other] for other in _required(each) & libraries.keys()])
    # Sorted, since the library keeps sets.
    target.write_text(
        json.dumps(json.loads(JsonV1Dot6(bom).output_as_string()), indent=2, sort_keys=True) + "\n"
    )


def _python(part: str) -> Iterator[Component]:
    """Yield the libraries of a lock that this platform installs."""
    lock = (REPOSITORY / f"requirements-{part}.lock").read_text().replace("\\\n", "")
    for line in lock.splitlines():
        text = line.partition("--hash")[0].strip()
        if not text or text.startswith("#"):
            continue
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        (pin,) = requirement.specifier
        declared = importlib.metadata.metadata(requirement.name)
        names = [declared[field] for field in ("License-Expression", "License") if field in declared]
        # Some put the whole text there.
        licence = next((each for each in names if "\n" not in each), None)
        yield Component(
            name=requirement.name,
            version=pin.version,
            bom_ref=f"{requirement.name}@{pin.version}",
            licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
            purl=PackageURL("pypi", name=requirement.name, version=pin.version),
        )


def _required(distribution: str, extra: str = "") -> set[str]:
    """Return the names of what a distribution requires here."""
    requirements = map(Requirement, importlib.metadata.requires(distribution) or [])
    environment = {"extra": extra}
    return {
        re.sub(r"[-_.]+", "-", each.name).lower()
        for each in requirements
        if each.marker is None or each.marker.evaluate(environment)
    }


def _go() -> Iterator[Component]:
    """Yield the Go modules of the agent's image: wireguard-go and what it contains."""
    for module, version in _GO_REQUIREMENT.findall(_GO_MODULES.read_text()):
        # For Windows only.
        if module != "golang.zx2c4.com/wintun":
            namespace, _, short = module.rpartition("/")
            yield Component(
                name=module,
                version=version,
                bom_ref=f"{module}@{version}",
                purl=PackageURL("golang", namespace=namespace, name=short, version=version),
            )
