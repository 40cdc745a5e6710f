"""Environment variables that are named as ours are and that no flag reads, most often mistyped; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

PREFIX = "WESHER_"
_SERVICE_HOST = "_SERVICE_HOST"


@dataclass(frozen=True, slots=True)
class UnknownVariable:
    """One that no flag reads."""

    name: str
    nearest: str
    """The variable of a flag that is most like it; empty if none is."""


def unknown_variables(environ: Mapping[str, str], known: Collection[str]) -> Iterator[UnknownVariable]:
    """Find the variables that begin with `PREFIX`, in upper or lower case, and that no flag reads.

    Those that Kubernetes sets in pods for a Service named ``wesher`` or ``wesher-…`` are left out.

    Args:
        environ: the environment; only names are looked at, since a value may be a key.
        known: the variables of flags.

    """
    services = [name.removesuffix(_SERVICE_HOST) for name in environ if name.endswith(_SERVICE_HOST)]
    for name in sorted(environ):
        if (
            name.upper().startswith(PREFIX)
            and name not in known
            and not any(_is_of_service(name, service) for service in services)
        ):
            yield UnknownVariable(name, _nearest(name.upper(), known))


def _is_of_service(name: str, service: str) -> bool:
    """Tell whether Kubernetes sets a variable for a Service (kubernetes.io, "Discovering services")."""
    return name == f"{service}_PORT" or name.startswith((f"{service}_SERVICE_", f"{service}_PORT_"))


def _nearest(name: str, known: Collection[str]) -> str:
    # Without the prefix, which would make all of them alike.
    own = name.removeprefix(PREFIX)
    others = sorted((each.removeprefix(PREFIX) for each in known if each.startswith(PREFIX)), key=len)
    words = {*own.split("_")}
    found = get_close_matches(own, others, n=1) or [each for each in others if words <= {*each.split("_")}]
    return f"{PREFIX}{found[0]}" if found else ""
