"""The machine's limit on inotify instances, which bounds how many kubelets it can run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
_EACH_NODE = 16
"""A node's programs hold between seven and eight; others of the same user hold some too."""


@contextmanager
def instances_for(nodes: int) -> Iterator[None]:
    """Have the machine allow the instances that this number of nodes needs, until the block ends.

    The usual limit is 128 for each user, which is enough for sixteen nodes.
    """
    before = int(_LIMIT.read_text())
    needed = nodes * _EACH_NODE
    if needed <= before:
        yield
        return
    _LIMIT.write_text(str(needed))
    try:
        yield
    finally:
        _LIMIT.write_text(str(before))
