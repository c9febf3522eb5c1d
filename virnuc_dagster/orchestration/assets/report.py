"""`batch_report`: the verdict of every input sequence, as tables and one HTML page."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_dagster.files import exclusive, make_folder
from virnuc_dagster.home.journal import Journal
from virnuc_dagster.orchestration.assets.batch import OWNERS
from virnuc_dagster.orchestration.assets.over_batches import BATCHES_PER_RUN, run_batches
from virnuc_dagster.orchestration.assets.plots import bars, binned
from virnuc_dagster.orchestration.assets.predictions import predictions
from virnuc_dagster.orchestration.io_manager import CheckpointIOManager
from virnuc_dagster.orchestration.partitions import batches
from virnuc_dagster.orchestration.resources import Compute
from virnuc_dagster.report import paths
from virnuc_dagster.services.report_server import ADDRESS_VARIABLE
from virnuc_dagster.stages.report import Report, build_report
from virnuc_dagster.stages.shards import PredictionStage


def _links(folder: Path, batch: str) -> dict[str, dg.MetadataValue]:
    """Where the page is: its file, and under `virnuc up` an address that a browser follows."""
    links: dict[str, dg.MetadataValue] = {"report": dg.MetadataValue.path(str(folder / paths.HTML))}
    if address := os.environ.get(ADDRESS_VARIABLE):
        links = {"open report": dg.MetadataValue.url(f"{address.rstrip('/')}/{batch}/{paths.HTML}"), **links}
    return links


@dataclass(frozen=True)
class ReportFolder:
    """Where reports go: one folder a batch below this one."""

    root: str

    @property
    def home(self) -> Path:
        """The home folder that they are in."""
        return Path(self.root).parent


@dg.asset(  # type: ignore[call-overload]  # Nothing is a type to Dagster, also where it says DagsterType
    partitions_def=batches,
    backfill_policy=dg.BackfillPolicy.multi_run(BATCHES_PER_RUN),
    dagster_type=dg.Nothing,  # its files are its own matter
    # Read through the store: as an input, this mapping would load every shard of every batch.
    deps=[dg.AssetDep(predictions, partition_mapping=dg.AllPartitionMapping())],
    group_name="verdicts",
    kinds={"html"},
    owners=OWNERS,
    tags={"virnuc/dataflow": "4-report"},
)
def batch_report(
    context: dg.AssetExecutionContext,
    checkpoints: dg.ResourceParam[CheckpointIOManager],
    compute: Compute,
    reports: dg.ResourceParam[ReportFolder],
    journal: dg.ResourceParam[Journal],
) -> Iterator[dg.AssetMaterialization | dg.Output]:
    """Which sequences of a batch are viral: tables, `viral.fasta` and a page to look at.

    A **partition is a batch**, that is one input file. Its page is one click away: **open report**.
    Counts only predictions made with the wanted bundle from the wanted frames; while some are missing, the report says
    that it is incomplete and marks the sequences concerned.

    In the metadata, `complete` means that every frame has a score, and `open_frame_coverage` is the share of windows
    that could be scored from a reading frame. `Unsynced` appears at every report when another batch is computed,
    because Dagster cannot know to which batch a shard belongs. Whether a report is out of date, the scheduled backfill
    finds out.
    """
    stage = PredictionStage(checkpoints.store, compute.open_bundle(), compute.options(checkpoints.level))

    def make(batch: str) -> dict[str, Any]:
        folder = Path(reports.root) / batch
        make_folder(folder)
        with exclusive(folder):  # two at once, with other settings, would mix their files
            report = build_report(checkpoints.store, batch, stage, folder)
        told = {name: report.summary[name] for name in ("complete", "verdicts")}
        journal.write("report", batch=batch, run=context.run.run_id, **told)
        return _facts(report, batch)

    yield from run_batches(context, make)


def _facts(report: Report, batch: str) -> dict[str, Any]:
    summary = report.summary
    return {
        **_links(report.folder, batch),
        "complete": summary["complete"],
        **{f"verdict: {name}": count for name, count in summary["verdicts"].items()},
        **{name: summary[name] for name in ("sequences", "bases", "windows", "scored_windows", "frames")},
        "open_frame_coverage": round(summary["scored_windows"] / max(summary["windows"], 1), 4),
        "verdicts": bars(summary["verdicts"], "verdict", "sequences"),
        "score histogram": binned(report.score_bins, "sequence score", "sequences"),
    }
