"""The three parts of the labelled data, and a name for exactly this data with exactly these options."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from virnuc_dagster.errors import InputError
from virnuc_dagster.training.records import Record
from virnuc_dagster.training.split import cut_dev


@dataclass(frozen=True)
class Data:
    """Records by what they are for; no group is in two parts.

    Attributes:
        fit: To learn from.
        dev: To choose by: early stopping, calibration, thresholds, roll-up.
        val: Scored once, at the end; empty if the labels have no such split.
    """

    fit: list[Record]
    dev: list[Record]
    val: list[Record]

    @classmethod
    def of(cls, records: Sequence[Record], seed: int, window_length: int) -> Data:
        """Cut the records into parts.

        Raises:
            InputError: A class or a group too few, or no record as long as a window.
        """
        fit, dev = cut_dev([record for record in records if record.split == "train"], seed)
        for part, name in ((fit, "to learn from"), (dev, "to choose by")):
            if max(len(record.sequence) for record in part) < window_length:
                raise InputError(
                    f"no record {name} is as long as a window of {window_length} bases",
                    hint="give longer records: genomes, or pieces of some thousand bases",
                )
        return cls(fit, dev, [record for record in records if record.split == "val"])

    def parts(self) -> dict[str, list[Record]]:
        """Name of each part -> its records."""
        return {"fit": self.fit, "dev": self.dev, "val": self.val}

    def counts(self) -> dict[str, dict[str, Any]]:
        """Count per part: records, bases, groups, and records by kind."""
        return {
            name: {
                "records": len(part),
                "bases": sum(len(record.sequence) for record in part),
                "groups": len({record.group for record in part}),
                "by_kind": {kind: sum(r.kind == kind for r in part) for kind in sorted({r.kind for r in part})},
            }
            for name, part in self.parts().items()
        }


def fingerprint(data: Data, options: Any) -> str:
    """Digest of all records and of a dataclass of options."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(options), sort_keys=True, default=str).encode())
    for name, part in data.parts().items():
        for record in part:
            entry = [name, record.id, record.kind, record.group, hashlib.sha256(record.sequence).hexdigest()]
            digest.update(json.dumps(entry).encode())
    return digest.hexdigest()
