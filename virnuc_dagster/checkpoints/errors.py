"""What can be wrong with a checkpoint or with the place it is kept."""

from typing import ClassVar

from virnuc_dagster.errors import StorageError, VirnucError

FORCE_RESUME_HINT = "run again with --force-resume to set it aside and compute it again"


class CheckpointError(VirnucError):
    """A stored checkpoint cannot be used (fields: `path`, `reason`)."""

    exit_code: ClassVar[int] = 3
    error_type: ClassVar[str] = "corrupted"

    def __init__(self, path: object, reason: str, *, hint: str = FORCE_RESUME_HINT) -> None:
        super().__init__(f"{path}: {reason}", hint=hint, path=str(path), reason=reason)
        self.reason = reason


class CheckpointDamagedError(CheckpointError):
    """The bytes on disk are not the bytes that were committed."""


class CheckpointIncompatibleError(CheckpointError):
    """The bytes are whole, but they are not a checkpoint that this version can read."""

    error_type: ClassVar[str] = "incompatible"


class CheckpointMissingError(CheckpointError):
    """Nothing was committed under this key."""

    exit_code: ClassVar[int] = 1
    error_type: ClassVar[str] = "missing"

    def __init__(
        self,
        path: object,
        reason: str = "no checkpoint was committed here",
        *,
        hint: str = "materialize it first: `virnuc predict` computes whatever is missing",
    ) -> None:
        super().__init__(path, reason, hint=hint)


class ServiceAwayError(StorageError):
    """An object store did not answer for as long as was waited (field: `path`). Nothing half-written counts."""
