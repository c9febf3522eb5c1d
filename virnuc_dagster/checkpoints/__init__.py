"""Checkpoints: one shard's result of one stage, on disk, either whole and right or named as damaged.

The on-disk contract is `docs/checkpoint-format.md`. Nothing here knows Dagster, sequences, stages or models: what a
payload holds is registered from outside (`register`).
"""

from virnuc_dagster.checkpoints.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointMissingError,
    ServiceAwayError,
)
from virnuc_dagster.checkpoints.format import CheckpointKey, CommitRecord, Payload, content_digests
from virnuc_dagster.checkpoints.kinds import Kind, register
from virnuc_dagster.checkpoints.protocol import CheckpointStore, Swept
from virnuc_dagster.checkpoints.provenance import Difference, differences
from virnuc_dagster.checkpoints.store import LocalStore, Store, open_store, probe_store
from virnuc_dagster.checkpoints.validate import Level
from virnuc_dagster.errors import NoSpaceError, StorageError

__all__ = [
    "CheckpointDamagedError",
    "CheckpointError",
    "CheckpointIncompatibleError",
    "CheckpointKey",
    "CheckpointMissingError",
    "CheckpointStore",
    "CommitRecord",
    "Difference",
    "Kind",
    "Level",
    "LocalStore",
    "NoSpaceError",
    "Payload",
    "ServiceAwayError",
    "StorageError",
    "Store",
    "Swept",
    "content_digests",
    "differences",
    "open_store",
    "probe_store",
    "register",
]
