"""The release that every part of wesher belongs to.

Here as well as in ``pyproject.toml``, since asking the installation's metadata
for it costs each start 1.6 MiB and some 50 ms.
"""

from typing import Final

VERSION: Final = "0.1.0"
