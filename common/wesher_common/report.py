"""How much an agent reports: an API server refuses the whole of a longer report.

No agent sends more than its definition takes: the operator brings the definitions up to its release
before it has agents of that release run, and never takes them down. Where they were left behind
(``crds.manage`` is false) such a report is refused and sent again, and its node shows as stale;
``kubectl wesher doctor`` names definitions of an older release.
"""

from __future__ import annotations

MAX_UNREACHABLE = 64
"""Names of members that cannot be reached. All agents cut the same list at the same name: of the dead
behind it nobody tells, and they count as ready until their own reports are too old."""
MAX_OUTSIDERS = 64
"""Members outside the cluster."""
MAX_MESSAGE = 1024
"""Characters of a condition's message, escapes included."""
SHOWN_NAMES = 8
"""Names in one message or log line, of however many."""
