"""How log lines look: as text for people, or as one JSON object a line for what collects them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def formatter(log_format: str) -> logging.Formatter:
    """Return what writes lines in a format: ``text`` or ``json``."""
    return _Json() if log_format == "json" else logging.Formatter(_TEXT)


class _Json(logging.Formatter):
    """Time in UTC, level, logger and message; a traceback is a field, so that lines stay whole."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)
