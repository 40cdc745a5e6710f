"""``charts/wesher/crds``: one file a CustomResourceDefinition, as the operator's models say.

``make generate`` writes them.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from wesher_common.names import GROUP
from wesher_operator.crd import KINDS, CustomResource, definition

FOLDER = Path(__file__).resolve().parents[1] / "charts/wesher/crds"
_NOTE = "# Generated from operator/wesher_operator/resources/ by `make generate`.\n"


def file_of(kind: CustomResource) -> Path:
    """Return the kind's file."""
    return FOLDER / f"{GROUP}_{kind.plural}.yaml"


def text(kind: CustomResource) -> str:
    """Return what the file should say."""
    return _NOTE + yaml.safe_dump(definition(kind), sort_keys=False, width=110)


if __name__ == "__main__":
    for each in KINDS:
        file_of(each).write_text(text(each))
