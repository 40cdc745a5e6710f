"""How much an agent reports: an API server refuses the whole of a longer report.

No agent sends more than its custom resource definition accepts: the operator updates it before it starts
agents of its release, and never downgrades it. If it was not updated
(``crds.manage`` is false), such a report is refused and sent again, and its node shows as stale;
``kubectl wesher doctor`` names custom resource definitions of an older release.
"""

from __future__ import annotations

MAX_UNREACHABLE = 64
"""Names of members that cannot be reached. All agents cut the same list at the same name. Failed members
after it are not reported, and count as ready until their own reports are too old."""
MAX_OUTSIDERS = 64
"""Members outside the cluster."""
MAX_NEWS = 64 * 1024
"""Characters of a statement in base64. Of a longer one an agent reports the number only."""
MAX_MESSAGE = 1024
"""Characters of a condition's message, escapes included."""
SHOWN_NAMES = 8
"""Names in one message or log line, of however many."""
