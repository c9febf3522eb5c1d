"""The platform without a daemon: sensors and schedules are evaluated, and what they request is run, in this process."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from virnuc_dagster.checkpoints import open_store
from virnuc_dagster.definitions import build_definitions
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.ledger import Ledger
from virnuc_dagster.orchestration.automation.backfill import Survey
from virnuc_dagster.orchestration.instance import prepare_instance
from virnuc_dagster.report import paths

SHARD_SIZE = 2
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def sequences(seed: int, number: int = 1) -> str:
    """FASTA of coding sequences without stop codons on the forward strand, different for each seed."""
    draw = random.Random(seed)
    codons = ("GCT", "GCC", "GAC", "GAA", "CTG", "ATC", "GTC", "CGC", "GGC", "ACC")
    return "".join(f">s{i}\n{''.join(draw.choice(codons) for _ in range(170 + i))}\n" for i in range(number))


@dataclass
class Platform:
    """A home, its definitions, and an instance in memory."""

    home: Path
    values: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = Settings(
            home=self.home, **{"shard_size": SHARD_SIZE, "threads": 1, "inbox_settle_seconds": 0, **self.values}
        )
        prepare_instance(self.settings)
        self.instance = dg.DagsterInstance.ephemeral()
        self.definitions = build_definitions(settings=self.settings)
        self.store = open_store(str(self.settings.store))
        self.ledger = Ledger(self.home)

    def with_settings(self, **values: object) -> "Platform":
        """The same home and instance with other settings."""
        other = Platform(self.home, {**self.values, **values})
        other.instance = self.instance
        return other

    def drop(self, name: str, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        (self.settings.inbox / name).write_bytes(data)

    def tick(self, sensor: str) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(instance=self.instance, definitions=self.definitions)
        context._log_key = ["__repository__", sensor, "1"]  # of a tick of the daemon
        found = self.definitions.resolve_sensor_def(sensor).evaluate_tick(context)
        return list(found.run_requests or [])

    def scheduled(self) -> list[dg.RunRequest]:
        """What the schedule scheduled_backfill requests; its own context wants an instance on disk."""
        return Survey(self.instance, self.settings, self.ledger).requests(print)

    def carry_out(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """Run what was requested, as the daemon would."""
        job = self.definitions.resolve_job_def(request.job_name or "embed_and_score_shards")
        if request.asset_selection:
            job = job.get_subset(asset_selection=set(request.asset_selection))
        return job.execute_in_process(
            instance=self.instance, tags=request.tags, run_config={**_QUIET, **request.run_config}, raise_on_error=False
        )

    def audit(self) -> dg.ExecuteInProcessResult:
        return self.carry_out(dg.RunRequest(job_name="audit_store"))

    def settle(self, ticks: int = 30) -> list[dg.RunRequest]:
        """Tick both sensors and run what they request until nothing is on its way; returns all requests."""
        done: list[dg.RunRequest] = []
        for _ in range(ticks):
            wanted = self.tick("inbox_arrivals") + self.tick("batch_progress")
            for request in wanted:
                self.carry_out(request)
            done += wanted
            at_rest = (
                not self.ledger.active(10) and not self.ledger.files("waiting") and not self.ledger.files("requested")
            )
            if not wanted and at_rest:
                return done
            time.sleep(0.01)
        raise AssertionError(f"still at work: {self.ledger.active(10)}, {self.ledger.files()}")

    def report(self, batch: str) -> dict[str, bytes]:
        return {name: (self.settings.reports / batch / name).read_bytes() for name in paths.REPRODUCIBLE}

    def records(self) -> dict[str, str]:
        """Every commit record as text; equal text means that nothing was written again."""
        root = self.settings.store
        return {str(p.relative_to(root)): p.read_text() for p in root.glob("[a-z]*/*/*.done")}

    def statuses(self, asset: str, check: str) -> dict[str, str]:
        """Partition -> status of a check, as the UI resolves it."""
        key = dg.AssetCheckKey(dg.AssetKey(asset), check)
        infos = self.instance.event_log_storage.get_asset_check_partition_info([key])
        return {
            info.partition_key: info.latest_execution_status.value if info.is_current else "outdated"
            for info in infos
            if info.partition_key
        }
