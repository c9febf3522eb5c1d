"""`failed_checkpoints.txt`: which checkpoints were set aside, why and when; a line each, for people and programs."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from virnuc_dagster.checkpoints.format import FAILED_LIST
from virnuc_dagster.checkpoints.medium import Medium

#: The list keeps its newest lines within this size.
LIST_BYTES_MAX = 1_000_000
_REASON_MAX = 2_000
_PLAIN = " /,:;()=+'\"!?&@#<>[]{}~_-."


@dataclass(frozen=True)
class FailedCheckpoint:
    """One line: the checkpoint, what was wrong, and when it was noticed (UTC, ISO 8601)."""

    path: str
    reason: str
    at: str


def log_failed(medium: Medium, path: Any, reason: str) -> None:
    """Add a line to the list; `|` and line breaks in a path or reason are percent-escaped."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    line = "|".join(quote(text, safe=_PLAIN) for text in (str(path), reason[:_REASON_MAX], at))
    medium.append_line(medium.root / FAILED_LIST, line, LIST_BYTES_MAX)


def read_failed(path: Path) -> list[FailedCheckpoint]:
    """Read a list back, oldest first; a missing list is empty, and lines that are none are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    parts = (line.split("|") for line in lines)
    return [FailedCheckpoint(*map(unquote, fields)) for fields in parts if len(fields) == 3]
