"""The third part: whole groups cut from `train` for early stopping, calibration and thresholds."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from virnuc_dagster.errors import InputError
from virnuc_dagster.training.records import Record

SHARE = 0.12
"""Share of each category's bases that `dev` aims at."""
LARGEST = 0.5
"""No group with more than this share of its category's bases is taken away from training."""


class TooFewGroupsError(InputError):
    """A class has too few groups to keep any aside (fields: `label`, `groups`)."""


def cut_dev(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """Cut the training records into those to learn from and those to choose by; no group is in both.

    In every category, groups are taken in a random but fixed order until `SHARE` of its bases is reached; a group
    larger than `LARGEST` of its category stays in training, so that a category of one group is never lost.

    Args:
        records: Records of split `train`.
        seed: Decides the order of groups.

    Returns:
        Records of `fit` and of `dev`.

    Raises:
        TooFewGroupsError: A class is missing, or has no group that can be kept aside.
    """
    bases: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        bases[record.kind][record.group] += len(record.sequence)
    dev: set[str] = set()
    for groups in bases.values():
        total = sum(groups.values())
        taken = sum(size for group, size in groups.items() if group in dev)
        for group in sorted(groups, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()):
            if taken >= SHARE * total:
                break
            if group not in dev and groups[group] <= LARGEST * total and _stays(group, dev, bases):
                dev.add(group)
                taken += groups[group]
    parts = [r for r in records if r.group not in dev], [r for r in records if r.group in dev]
    _check(records, parts[1])
    return parts


def _stays(group: str, dev: set[str], bases: dict[str, dict[str, int]]) -> bool:
    """Tell whether every category of the group keeps another group in training."""
    return all(set(groups) - dev - {group} for groups in bases.values() if group in groups)


def _check(records: Sequence[Record], dev: Sequence[Record]) -> None:
    for is_virus, label in ((True, "virus"), (False, "other")):
        groups = {record.group for record in records if record.is_virus == is_virus}
        if not any(record.is_virus == is_virus for record in dev):
            raise TooFewGroupsError(
                f"label {label}: {len(groups)} group{'s' * (len(groups) != 1)}, none of which can be kept aside"
                if groups
                else f"no training record is labelled {label}",
                hint="give records of both labels, each of at least two groups of a category of similar size",
                label=label,
                groups=sorted(groups),
            )
