"""Versions of the data file and the pure functions that bring an older payload up to the current one.

Migrations change dictionaries in memory; a file on disk is never modified. Adding a version means adding one function
to `MIGRATIONS`.
"""

import re
from collections.abc import Callable
from typing import Any

CURRENT_VERSION = "2.0"
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


def refuse_newer(text: object) -> None:
    """Raise `VersionError` if a version's major number is newer than this program reads."""
    if parse_version(text)[0] > parse_version(CURRENT_VERSION)[0]:
        raise VersionError(
            f"written by a newer format: version {text}, newest readable {CURRENT_VERSION}; upgrade virnuc-dagster"
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
        kind, ids = "dnabert_s_embeddings", [row["label"] for row in rows]
        values = [row["mean_representation"] for row in rows]
        data = torch.tensor(values, dtype=torch.float32) if ids else torch.empty(0, 0)
    elif "proteins" in payload:
        kind, ids = "esm2_embeddings", list(payload["proteins"])
        data = torch.stack(list(payload["data"])).to(torch.float32) if ids else torch.empty(0, 0)
    elif "ids" in payload:
        kind, ids, data = "merged_features", list(payload["ids"]), payload["data"].to(torch.float32)
    else:
        raise KeyError("none of 'nucleotide', 'proteins', 'ids' is there")
    migrated = {"version": "2.0", "status": "complete", "kind": kind, "ids": ids, "data": data.contiguous()}
    if "labels" in payload:
        migrated["labels"] = torch.as_tensor(payload["labels"], dtype=torch.int64).reshape(-1)
    return migrated


#: Major version -> the function that lifts a payload to the next one.
MIGRATIONS: dict[int, Migration] = {0: _legacy_to_1_0, 1: _1_0_to_2_0}
