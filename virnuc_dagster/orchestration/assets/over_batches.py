"""One run over many small batches: each is announced once it is done, and one that fails does not stop the others."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from virnuc_dagster.errors import VirnucError
from virnuc_dagster.orchestration.assets.ranged import shards_failed, show_at_end, still_wanted
from virnuc_dagster.orchestration.instance import begin_run
from virnuc_dagster.orchestration.partitions import batches

#: Batches that a backfill from the UI puts into one run.
BATCHES_PER_RUN = 100


def run_batches(
    context: dg.AssetExecutionContext, make: Callable[[str], dict[str, Any]]
) -> Iterator[dg.AssetMaterialization | dg.Output]:
    """Bring every batch of the run to its wanted state.

    Args:
        context: The step; its partition keys are the batches.
        make: Does it for one, and returns metadata.

    Yields:
        An `AssetMaterialization` for each batch once it is done, if there are several, and at the end one `Output`.

    Raises:
        ShardsFailedError: Some of several failed; all others are done.
    """
    begin_run(context.instance, context.run.run_id)
    asked = list(context.partition_keys)
    failed: dict[str, Exception] = {}
    shown: dict[str, dict[str, Any]] = {}
    for batch in asked:
        try:
            shown[batch] = make(batch)
        except Exception as error:
            if len(asked) == 1:
                raise
            failed[batch] = error
            context.log.error(f"{batch} failed: {error}", exc_info=None if isinstance(error, VirnucError) else error)
            continue
        if len(asked) > 1:
            yield dg.AssetMaterialization(context.asset_key, partition=batch, metadata=shown[batch])
    if failed := still_wanted(context, batches, failed):
        raise shards_failed(context.asset_key.path[-1], len(asked), failed, "batches")
    show_at_end(context, shown)
    yield dg.Output(None)
