"""A JSON document from a file, read field by field: each error names the field by its path.

`mesh_document` and `join_file` are read with it. Unknown keys are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wesher_common.errors import InvalidSpec
from wesher_common.seeds import SeedAddress, parse_seed


class JsonSection:
    """One JSON object of a document.

    Args:
        content: what JSON gave for it.
        path: what stands before its keys in an error, such as ``mesh.json wireguard.``.

    Raises:
        InvalidSpec: from every method, for a field that has another type or form.

    """

    def __init__(self, content: Any, path: str) -> None:
        if not isinstance(content, Mapping):
            raise InvalidSpec(path.rstrip(". "), "must be a JSON object")
        self._content = content
        self._path = path

    @classmethod
    def of_text(cls, text: str, file_name: str) -> JsonSection:
        """Read a whole document.

        Args:
            text: the document.
            file_name: what errors call it.

        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidSpec(file_name, f"is not JSON: {error}") from error
        return cls(content, f"{file_name} ")

    def field(self, key: str) -> str:
        """Return what an error calls a key."""
        return self._path + key

    def section(self, key: str) -> JsonSection:
        """Return the object under a key, an empty one if there is none."""
        return JsonSection(self._content.get(key, {}), f"{self._path}{key}.")

    def text(self, key: str, default: str | None = None, *, secret: bool = False) -> str:
        """Return a string; without a default it must be there. An error does not repeat a secret."""
        value = self._content.get(key, default)
        if not _is_text(value):
            raise InvalidSpec(self.field(key), "must be a string", value=None if secret else value)
        return str(value)

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """Return a whole number within limits."""
        value = self._content.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidSpec(self.field(key), f"must be a whole number from {low} to {high}", value=value)
        return value

    def truth(self, key: str) -> bool:
        """Return true or false; false if there is nothing."""
        value = self._content.get(key, False)
        if not isinstance(value, bool):
            raise InvalidSpec(self.field(key), "must be true or false", value=value)
        return value

    def has(self, key: str) -> bool:
        """Tell whether there is something under a key."""
        return key in self._content

    def sections(self, key: str, most: int) -> list[JsonSection]:
        """Return the objects of a list, at most ``most``."""
        value = self._content.get(key, [])
        if not isinstance(value, list) or len(value) > most:
            raise InvalidSpec(self.field(key), f"must be a list of at most {most} objects")
        return [JsonSection(entry, f"{self._path}{key}[{index}].") for index, entry in enumerate(value)]

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> Any:
        """Return one of some strings."""
        value = self._content.get(key, default)
        if value not in choices:
            raise InvalidSpec(self.field(key), f"must be one of {', '.join(choices)}", value=value)
        return value

    def texts(self, key: str, *, secret: bool = False) -> list[str]:
        """Return the strings of a list. An error does not repeat secrets."""
        value = self._content.get(key, [])
        if not isinstance(value, list) or not all(map(_is_text, value)):
            shown = None if secret else value
            raise InvalidSpec(self.field(key), "must be a list of strings", value=shown)
        return value

    def seeds(self, key: str) -> tuple[SeedAddress, ...]:
        """Return the addresses of a list."""
        return tuple(
            parse_seed(text, field=f"{self.field(key)}[{index}]")
            for index, text in enumerate(self.texts(key))
        )


def _is_text(value: Any) -> bool:
    # JSON can name half of a surrogate pair, which no file, name or hash can hold.
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)
