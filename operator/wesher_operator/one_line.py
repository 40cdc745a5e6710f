"""How the commands of this package say that they were called wrongly: in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from wesher_common.errors import InvalidSpec


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose complaints are raised, each in one line without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong.

        Raises:
            InvalidSpec: always.

        """
        about, colon, rule = message.removeprefix("argument ").partition(": ")
        if about == "the following arguments are required":
            raise InvalidSpec(rule, f"is missing: see {self.prog} --help")
        raise InvalidSpec(about, rule) if colon else InvalidSpec("command line", message)
