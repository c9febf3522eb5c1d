"""Versions of the data file and of the commit record, and the pure functions that bring older ones up to date.

Migrations change dictionaries in memory; a file on disk is never modified. Adding a version means adding one function
to `MIGRATIONS` or to `RECORD_MIGRATIONS`. A minor version only adds what an older program can do without.
"""

import re
from collections.abc import Callable
from typing import Any

from virnuc_dagster.checkpoints.kinds import kind_of_older

#: Of the data file.
CURRENT_VERSION = "2.0"
#: Of the commit record.
RECORD_VERSION = "2.0"
LEGACY_VERSION = "0.x"

Migration = Callable[[dict[str, Any]], dict[str, Any]]


class VersionError(ValueError):
    """A version text that cannot be parsed, or one that is newer than this program."""


def parse_version(text: object) -> tuple[int, int]:
    """Parse a version into integers that compare correctly ("10.0" is newer than "2.0").

    Args:
        text: `"major.minor"`, or `None` / `"0.x"` for files that carry no version.

    Returns:
        (major, minor); (0, 0) for version-less files.

    Raises:
        VersionError: If the text is anything else.
    """
    if text is None or text == LEGACY_VERSION:
        return (0, 0)
    match = re.fullmatch(r"(\d{1,6})\.(\d{1,6})", text, re.ASCII) if isinstance(text, str) else None
    if match is None:
        raise VersionError(f"cannot read version {text!r}")
    return int(match[1]), int(match[2])


def refuse_newer(text: object, newest: str = CURRENT_VERSION) -> None:
    """Raise `VersionError` if a version's major number is newer than this program reads."""
    if parse_version(text)[0] > parse_version(newest)[0]:
        raise VersionError(
            f"written by a newer format: version {text}, newest readable {newest}; upgrade virnuc-dagster"
        )


def migrate(payload: dict[str, Any]) -> dict[str, Any]:
    """Bring a loaded payload to `CURRENT_VERSION`, step by step, without changing the argument.

    A payload that was older says so under `migrated_from`.

    Raises:
        VersionError: If the version is unreadable or newer than this program.
        KeyError, TypeError, ValueError: If an old payload lacks what its version promises.
    """
    refuse_newer(payload.get("version"))
    found = payload.get("version") or LEGACY_VERSION
    while (version := parse_version(payload.get("version"))) < parse_version(CURRENT_VERSION):
        step = MIGRATIONS.get(version[0])
        if step is None:
            raise VersionError(f"no migration from version {payload.get('version')}")
        payload = {**step(payload), "migrated_from": found}
    return payload


def _legacy_to_1_0(payload: dict[str, Any]) -> dict[str, Any]:
    """0.x of the original program carries neither version nor status; 1.0 of its refactoring added both."""
    return {**payload, "version": "1.0", "status": "complete"}


def _1_0_to_2_0(payload: dict[str, Any]) -> dict[str, Any]:
    """One contiguous tensor and the ids beside it, instead of one list a row."""
    import torch

    if payload.get("status") != "complete":
        raise ValueError(f"status is {payload.get('status')!r}, not 'complete'")
    if "nucleotide" in payload:
        rows = payload["data"]
        older, ids = "nucleotide", [row["label"] for row in rows]
        values = [row["mean_representation"] for row in rows]
        data = torch.tensor(values, dtype=torch.float32) if ids else torch.empty(0, 0)
    elif "proteins" in payload:
        older, ids = "proteins", list(payload["proteins"])
        data = torch.stack(list(payload["data"])).to(torch.float32) if ids else torch.empty(0, 0)
    elif "ids" in payload:
        older, ids, data = "ids", list(payload["ids"]), payload["data"].to(torch.float32)
    else:
        raise KeyError("none of 'nucleotide', 'proteins', 'ids' is there")
    kind = kind_of_older(older)
    migrated = {"version": "2.0", "status": "complete", "kind": kind, "ids": ids, "data": data.contiguous()}
    if "labels" in payload:
        migrated["labels"] = torch.as_tensor(payload["labels"], dtype=torch.int64).reshape(-1)
    return migrated


#: Major version -> the function that lifts a payload to the next one.
MIGRATIONS: dict[int, Migration] = {0: _legacy_to_1_0, 1: _1_0_to_2_0}

#: Record version -> the function that lifts a record's fields, `version` among them, to the next one.
RECORD_MIGRATIONS: dict[str, Migration] = {}


def lift_record(values: dict[str, Any], newest: str) -> dict[str, Any]:
    """Bring the fields of a commit record to a version, step by step; one that is newer already stays as it is.

    Raises:
        VersionError: The version is unreadable, or no migration leads from it.
        ValueError: The record lacks what its version promises.
    """
    while parse_version(version := values.get("version")) < parse_version(newest):
        step = RECORD_MIGRATIONS.get(str(version))
        if step is None:
            raise VersionError(f"no migration of commit records from version {version}")
        try:
            values = step(values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"record of version {version} lacks {error}") from error
    return values
