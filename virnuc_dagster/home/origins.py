"""Which files a batch came from: `<home>/origins/<batch>.json`, for people to tell batches of equal names apart.

No result depends on it: a batch is its content, wherever that was read from. Older versions ignore the folder.
"""

import json
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from virnuc_dagster.files import exclusive, make_folder, write_atomic
from virnuc_dagster.sequences.measured import InputFacts

FOLDER = "origins"
#: Files that are remembered of a batch, the last ones.
_KEPT = 100


def note_origin(home: Path, batch: str, facts: InputFacts) -> None:
    """Remember that a batch was read from a file; the same file with the same content is remembered once.

    Args:
        home: The home folder.
        batch: Key of the batch.
        facts: Of the file, with the path as the user gave it.

    Raises:
        NoSpaceError, StorageError: The home cannot be written.
    """
    at = datetime.now(UTC).isoformat(timespec="seconds")
    absolute = None if facts.path == "-" else str(Path(facts.path).absolute())
    entry = {**asdict(facts), "absolute": absolute, "read_at": at}
    if any(_identity(known) == _identity(entry) for known in origins(home, batch)[-1:]):
        return
    folder = home / FOLDER
    make_folder(folder)
    with exclusive(folder):
        others = [known for known in origins(home, batch) if _identity(known) != _identity(entry)]
        text = json.dumps([*others, entry][-_KEPT:], indent=1, ensure_ascii=True)
        write_atomic(folder / f"{batch}.json", text.encode() + b"\n")


def origins(home: Path, batch: str) -> list[dict[str, Any]]:
    """List the files that a batch was read from, the last one last; none for a batch of an older version.

    Returns:
        Of each `path` (as given), `absolute` (None for standard input), `bytes`, `sha256`, `read_at`.
    """
    try:
        found = json.loads((home / FOLDER / f"{batch}.json").read_bytes())
        return [entry for entry in found if isinstance(entry["path"], str)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def forget_origins(home: Path, batch: str) -> None:
    """Remove what is remembered of a batch."""
    with suppress(FileNotFoundError):
        (home / FOLDER / f"{batch}.json").unlink()


def _identity(entry: dict[str, Any]) -> tuple[Any, ...]:
    return entry.get("absolute"), entry["path"], entry.get("sha256")
