"""Where the shards of one run are computed: in its own process (`local`), or by a pool of workers (`ray`).

A backend is one function. Which one a run uses is its setting `backend`; what a shard needs, when it is reused and how
it is committed is the same for all of them and is in `stages`. No Dagster here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec

from virnuc_dagster.checkpoints import CheckpointStore
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.ensure import ShardResult, ensure_shards
from virnuc_dagster.stages.shards import ShardStage


class BackendError(VirnucError):
    """The workers cannot be had, or cannot work together with this process."""


Backend = Callable[
    [ShardStage, Sequence[str], CheckpointStore, Progress, Mapping[str, str]],
    Iterator[tuple[str, ShardResult | Exception]],
]
"""Makes the results of shards current: see `ensure_shards`, with the shards in any order."""

local: Backend = ensure_shards


def require_backend(name: str) -> None:
    """Say before any work that a backend is not installed.

    Raises:
        BackendError: Its package is missing.
    """
    if name == "ray" and find_spec("ray") is None:
        raise BackendError("backend `ray`: Ray is not installed", hint="pip install 'virnuc-dagster[ray]'")
