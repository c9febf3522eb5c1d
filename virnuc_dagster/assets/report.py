"""`batch_report`: the verdict of every input sequence, as tables and one HTML page."""

from pathlib import Path

import dagster as dg

from virnuc_dagster.assets.predictions import predictions
from virnuc_dagster.io_manager import CheckpointIOManager
from virnuc_dagster.partitions import batches
from virnuc_dagster.report import paths
from virnuc_dagster.resources import Compute
from virnuc_dagster.stages.report import build_report
from virnuc_dagster.stages.shards import PredictionStage


class ReportFolder(dg.ConfigurableResource):
    """Where reports go: one folder a batch below this one."""

    root: str


@dg.asset(
    partitions_def=batches,
    # Read through the store: as an input, this mapping would load every shard of every batch.
    deps=[dg.AssetDep(predictions, partition_mapping=dg.AllPartitionMapping())],
    group_name="virnucpro",
    kinds={"html"},
)
def batch_report(
    context: dg.AssetExecutionContext,
    checkpoints: dg.ResourceParam[CheckpointIOManager],
    compute: Compute,
    reports: ReportFolder,
) -> dg.MaterializeResult:
    """Which sequences of a batch are viral: tables, `viral.fasta` and a page to look at.

    Counts only predictions made with the wanted bundle from the wanted frames; while some are missing, the report says
    that it is incomplete and marks the sequences concerned.
    """
    batch = context.partition_key
    stage = PredictionStage(checkpoints.store, compute.open_bundle(), compute.options(checkpoints.level))
    report = build_report(checkpoints.store, batch, stage, Path(reports.root) / batch)
    return dg.MaterializeResult(
        metadata={
            "report": dg.MetadataValue.path(str(report.folder / paths.HTML)),
            "complete": report.summary["complete"],
            **{f"verdict: {name}": count for name, count in report.summary["verdicts"].items()},
            **{name: report.summary[name] for name in ("sequences", "bases", "windows", "scored_windows", "frames")},
            "verdicts": dg.MetadataValue.md(_markdown(report.summary["verdicts"])),
        }
    )


def _markdown(verdicts: dict[str, int]) -> str:
    rows = "\n".join(f"| {name} | {count:,} |" for name, count in verdicts.items())
    return f"| verdict | sequences |\n|---|---:|\n{rows}"
