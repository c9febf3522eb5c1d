"""The journal: one JSON line an event, for programs that watch the platform (`<home>/logs/<day>.jsonl`).

Each line has `at` (UTC) and `event`; what else it has is in docs/operations.md. Lines of several processes do not mix:
each is one write in append mode.
"""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from virnuc_dagster.checkpoints import StorageError
from virnuc_dagster.files import make_folder


@dataclass(frozen=True)
class Journal:
    """A log of events, a file a day; files that are too old are removed.

    Attributes:
        folder: Folder of the files; empty writes nothing.
        keep_days: Older files are removed.
    """

    folder: str
    keep_days: int = 90

    def write(self, event: str, **fields: Any) -> None:
        """Add a line. A journal that cannot be written stops no run: its trouble is the disk's, which others report."""
        if not self.folder:
            return
        now = datetime.now(UTC)
        path = Path(self.folder) / f"{now:%Y-%m-%d}.jsonl"
        line = json.dumps({"at": now.isoformat(timespec="milliseconds"), "event": event, **fields}, default=str)
        try:
            if not path.exists():
                make_folder(path.parent)
                self._remove_old(now)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode() + b"\n")
            finally:
                os.close(descriptor)
        except (OSError, StorageError):
            return

    def _remove_old(self, now: datetime) -> None:
        oldest = f"{now - timedelta(days=self.keep_days):%Y-%m-%d}.jsonl"
        for path in Path(self.folder).glob("????-??-??.jsonl"):
            if path.name < oldest:
                path.unlink(missing_ok=True)
