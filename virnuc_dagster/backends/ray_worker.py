"""What runs in a Ray actor: it builds a stage from a small description, computes shards and commits them itself.

Nothing large travels: a job is a few names and digests, a result is a commit record. Ray itself is not imported here.
"""

import hashlib
import os
import platform
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from virnuc_dagster import __version__
from virnuc_dagster.backends import BackendError
from virnuc_dagster.checkpoints import CheckpointStore, Store, open_store
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.models.bundle import SPEC_FILE, Bundle, list_bundles, open_bundle
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.ensure import ShardResult, ShardWorker
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.pipeline import FRAMES
from virnuc_dagster.stages.shards import ShardStage, shard_stage


@dataclass(frozen=True)
class Job:
    """What the workers of a run are to do, and how they can tell that they see what the driver sees.

    Attributes:
        stage: Name of the stage.
        bundle: A packaged bundle's name, or a folder that every node must see.
        bundle_sha256: Of its `bundle.json`, which holds the digests of everything else.
        options: How to compute.
        store: Folder or URL of the checkpoint store, which every node must see.
        probe: A shard whose frames are in the store.
        probe_sha256: Digest of their data file; empty if the driver has not found them either.
        package: Version of this package at the driver.
        writer: Who writes, for the records.
    """

    stage: str
    bundle: str
    bundle_sha256: str
    options: ComputeOptions
    store: str
    probe: str
    probe_sha256: str
    package: str
    writer: Mapping[str, str]


def describe_job(
    stage: ShardStage, shard: str, store: CheckpointStore, options: ComputeOptions, writer: Mapping[str, str]
) -> Job:
    """Describe the job of a stage whose first shard is known."""
    assert isinstance(store, Store)
    bundle = stage.bundle
    name = bundle.folder.name
    packaged = name in list_bundles() and open_bundle(name).folder == bundle.folder
    return Job(
        stage=stage.name,
        bundle=name if packaged else str(bundle.folder),
        bundle_sha256=_bundle_digest(bundle),
        options=options,
        store=str(store.root.absolute()),
        probe=shard,
        probe_sha256=_probe_digest(store, shard),
        package=__version__,
        writer=dict(writer),
    )


def _bundle_digest(bundle: Bundle) -> str:
    return hashlib.sha256((bundle.folder / SPEC_FILE).read_bytes()).hexdigest()


def _probe_digest(store: CheckpointStore, shard: str) -> str:
    try:
        record = store.record(shard_checkpoint(FRAMES, shard))
    except VirnucError:
        return ""  # said when the shard's turn comes
    return record.sha256 if record else ""


class _Notes(Progress):
    """A keeper of what is worth knowing, until a result carries it to the driver."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)

    def taken(self) -> tuple[str, ...]:
        """Return the notes so far, and forget them."""
        texts, self.texts = self.texts, []
        return tuple(texts)


class Worker:
    """One actor. It holds the models of one stage at a time, loaded once."""

    def __init__(self) -> None:
        self.label = f"{platform.node()} pid {os.getpid()}"
        self._opening = threading.Lock()
        self._job: Job | None = None
        self._worker: ShardWorker | None = None
        self._notes = _Notes()
        self._facts: dict[str, Any] = {}

    def begin(self, job: Job) -> Exception | None:
        """Get ready for a job; returns why that is not possible."""
        try:
            self._at(job)
        except Exception as error:
            return _portable(error)
        return None

    def ensure(self, job: Job, shard: str) -> tuple[ShardResult | Exception, tuple[str, ...]]:
        """Make one shard's result current; what failed is returned, not raised, as the error it is.

        Returns:
            The outcome, and notes for the user.
        """
        try:
            result = self._at(job).ensure(shard)
            outcome: ShardResult | Exception = replace(result, facts={**result.facts, **self._facts})
        except Exception as error:
            outcome = _portable(error)
        return outcome, self._notes.taken()

    def stop(self) -> None:
        """Finish the save at work and begin nothing more."""
        if self._worker is not None:
            self._worker.stop()

    def _at(self, job: Job) -> ShardWorker:
        """Return the worker of this job; models of another job are let go."""
        with self._opening:
            if self._worker is None or self._job != job:
                self._worker = None
                store, bundle = open_store(job.store), open_bundle(job.bundle)
                self._compare(job, store, bundle)
                stage = shard_stage(job.stage, store, bundle, job.options)
                self._facts = {"device": str(job.options.make_ready()), "worker": self.label}
                writer = {**job.writer, "host": platform.node()}
                self._worker, self._job = ShardWorker(stage, store, self._notes, writer), job
            return self._worker

    def _compare(self, job: Job, store: CheckpointStore, bundle: Bundle) -> None:
        """Refuse a node that would compute something else than the driver asked for.

        Raises:
            BackendError: Another version of the package, another bundle, or another store.
        """
        if job.package != __version__:
            raise BackendError(
                f"worker {self.label} has virnuc-dagster {__version__}, this process {job.package}",
                hint="install the same version on every node",
            )
        if _bundle_digest(bundle) != job.bundle_sha256:
            raise BackendError(
                f"worker {self.label} sees another bundle at {job.bundle} than this process",
                hint="put the bundle where every node sees the same files, such as a network mount",
            )
        if _probe_digest(store, job.probe) != job.probe_sha256:
            raise BackendError(
                f"worker {self.label} does not see the frames of {job.probe} in {job.store}",
                hint="the store must be a folder that every node mounts under the same path, or an object store",
            )


def _portable(error: Exception) -> Exception:
    """Make an error that any process can unpickle, with its traceback as text if nobody expected it."""
    if isinstance(error, VirnucError):
        return error
    if type(error).__module__ != "builtins":
        error = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    error.add_note("in a worker:\n" + "".join(traceback.format_tb(error.__traceback__)))
    return error
