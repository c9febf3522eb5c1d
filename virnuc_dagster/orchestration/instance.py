"""The Dagster instance of a home folder: opening it, and clearing away runs whose process is dead."""

import hashlib
import importlib.util
import logging
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from sqlalchemy import make_url
from sqlalchemy.exc import DatabaseError

from virnuc_dagster.errors import VirnucError, causes
from virnuc_dagster.files import exclusive, make_folder, write_atomic
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.home.versions import open_home
from virnuc_dagster.home.written_by import process_is_gone, process_tags
from virnuc_dagster.orchestration.database import database_refusal, is_out_of_space
from virnuc_dagster.orchestration.private import NAMES, InstanceRef

CONFIG_NAME = "dagster.yaml"
#: sha256 of every `dagster.yaml` that a version of this package wrote, the newest last. A file with one of these
#: digests was not changed by its user, and is renewed; whoever changes `instance.yaml` appends its new digest.
SHIPPED = (
    "cc9f777a473d4a5dbc52a1a198d80e6f9630f9f50914f65790ea33bff200dd9a",
    "21fbf17a6f92c7c57126556b4ffb4324d065dfeee00ecacdf5d149595e063fd8",
    "d340d9a5cb6834cf5e5f25f7d7f532cb30adda13022480990046dc097892b822",
    "7b96441ada4ec76825bf7c70908577523c51cdd6226b62492d64c21bbf7b2bc7",
    "0ed87cb4da86c38bd3a463349f2abd8ebcb0948ef67977337645f7b307a22350",
)
#: How Dagster's commands begin the name of an instance that they delete at their end.
THROWN_AWAY_PREFIX = ".tmp_dagster_home_"
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def prepare_instance(settings: Settings) -> None:
    """Bring the home up to date and create its instance folder with `dagster.yaml`.

    A `dagster.yaml` that an older version wrote is renewed; one that the user changed or put there is left alone (see
    `missing_settings`).

    Raises:
        HomeError: The home is of a newer version of this program.
        InstanceError: Its databases could not be opened, by their path or for want of Postgres.
    """
    check_path(settings)
    open_home(settings.home)
    make_folder(settings.dagster_home)
    make_folder(settings.inbox)
    config = settings.dagster_home / CONFIG_NAME
    if not config.exists():
        write_atomic(config, shipped_config(settings.instance))
    elif hashlib.sha256(config.read_bytes()).hexdigest() in SHIPPED[:-1]:
        write_atomic(config, shipped_config())
    on_postgres = _is_on_postgres(config)
    if settings.instance == "postgres" and not on_postgres:
        raise InstanceError(
            f"{config} is not of an instance on Postgres, which the setting `instance` asks for",
            hint="choose another --home, or move that file aside: results are in the store, only run history is lost",
        )
    if on_postgres:
        _check_postgres(config)


def check_path(settings: Settings) -> None:
    """Dagster opens its databases by a URL into which it puts the path as it is; that must lead back to it.

    Raises:
        InstanceError: It does not.
    """
    folder = settings.dagster_home
    if settings.instance == "sqlite" and make_url(f"sqlite:///{folder}").database != str(folder):
        raise InstanceError(
            f"Dagster cannot keep its databases in {folder}: it takes `?`, and `%` with two digits, for something else",
            hint="choose another --home, or rename the folder",
        )


def _is_on_postgres(config: Path) -> bool:
    try:
        return "postgres" in yaml.safe_load(config.read_bytes())["storage"]
    except (yaml.YAMLError, KeyError, TypeError):
        return False  # what is wrong with the file Dagster says


def _keeps_prints(settings: Settings) -> bool:
    try:
        return "compute_logs" in yaml.safe_load((settings.dagster_home / CONFIG_NAME).read_bytes())
    except (yaml.YAMLError, TypeError):
        return False


def _check_postgres(config: Path) -> None:
    """Say what is missing before Dagster says it in its own words."""
    if importlib.util.find_spec("dagster_postgres") is None:
        raise InstanceError(f"{config} is of an instance on Postgres", hint="pip install 'virnuc-dagster[postgres]'")
    wanted = sorted(set(re.findall(r"env:\s*(\w+)", config.read_text())))
    if absent := [name for name in wanted if name not in os.environ]:
        raise InstanceError(f"not set: {', '.join(absent)}", hint=f"{config} takes them from the environment")
    logging.getLogger().addFilter(_first_line)


def _first_line(record: logging.LogRecord) -> bool:
    """Dagster logs five lines each time that it tries Postgres again, through the root logger; one is enough."""
    record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return True


def shipped_config(instance: str = "sqlite") -> bytes:
    """The `dagster.yaml` of a new home: `sqlite`, or `postgres`, which needs no class of our own for its storage."""
    shipped = files("virnuc_dagster").joinpath("instance.yaml").read_bytes()
    if instance != "postgres":
        return shipped
    rest = re.sub(rb"(?m)^instance_class:\n(?: .*\n)+", b"", shipped.partition(b"\n")[2])
    return files("virnuc_dagster").joinpath("instance.postgres.yaml").read_bytes() + rest


def missing_settings(settings: Settings) -> list[str]:
    """What this version sets in a home's `dagster.yaml` and a changed file lacks, by dotted name; [] without a file.

    A value that differs is the user's choice and is not named.

    Raises:
        InstanceError: The file is not YAML.
    """
    config = settings.dagster_home / CONFIG_NAME
    if not config.exists() or hashlib.sha256(config.read_bytes()).hexdigest() in SHIPPED:
        return []
    try:
        found = yaml.safe_load(config.read_bytes()) or {}
    except yaml.YAMLError as error:
        raise InstanceError(
            f"{config} is not YAML: {error}", hint="correct it, or move it aside to get a new one"
        ) from error
    wanted = yaml.safe_load(shipped_config(settings.instance))
    if "storage" in found:  # a database of the user's own
        wanted.pop("instance_class", None)
    return list(_absent(wanted, found, ""))


def _absent(wanted: dict[str, object], found: object, above: str) -> Iterator[str]:
    for name, value in wanted.items():
        if not isinstance(found, dict) or name not in found:
            yield above + name
        elif isinstance(value, dict):
            yield from _absent(value, found[name], f"{above}{name}.")


class InstanceError(VirnucError):
    """The Dagster instance of a home folder cannot be used."""


#: What a command's own runs print is seen on its terminal. To capture it as well, Dagster redirects both streams of the
#: process to files and starts four processes a run to copy these back; what comes last may be lost on the way.
_NOT_CAPTURED = {"module": NAMES["NoOpComputeLogManager"][0], "class": "NoOpComputeLogManager"}


@contextmanager
def open_instance(settings: Settings, *, capture: bool = True) -> Iterator[dg.DagsterInstance]:
    """The instance of a home folder, the same one that its web UI shows.

    Args:
        settings: Say where the home is.
        capture: Whether runs of this process keep what they print for the UI; always, if `dagster.yaml` says where to.

    Raises:
        InstanceError: Its databases cannot be opened.
    """
    prepare_instance(settings)
    with ExitStack() as stack:
        # One process at a time creates the databases: two at once meet "database is locked".
        with exclusive(settings.dagster_home):
            try:
                overrides: Any = {} if capture or _keeps_prints(settings) else {"compute_logs": _NOT_CAPTURED}
                reference = InstanceRef.from_dir(str(settings.dagster_home), overrides=overrides)
                instance = stack.enter_context(dg.DagsterInstance.from_ref(reference))
                instance.get_runs(limit=1)
                instance.event_log_storage.get_dynamic_partitions("batches")
            except Exception as error:
                if refused := _refused(settings, error):
                    raise refused from error
                raise
        yield instance


def _refused(settings: Settings, error: Exception) -> InstanceError | None:
    """What a database said, in our words; None for another error, or a full disk, of which the command line tells."""
    if postgres_error(error):
        return InstanceError(
            f"Postgres cannot be used: {postgres_error(error)}",
            hint="start it, and check the DAGSTER_POSTGRES_* variables; results are in the store, nothing is lost",
        )
    if not isinstance(error, DatabaseError) or ((said := database_refusal(error)) and is_out_of_space(said)):
        return None
    return InstanceError(
        f"the Dagster databases in {settings.dagster_home} cannot be opened: {error.orig}",
        hint="move that folder aside and run again: results are in the store, only the run history is lost",
    )


def postgres_error(error: BaseException | None) -> str:
    """What Postgres, or the way to it, said, wherever in the chain of causes it is; empty if nothing."""
    said = [cause for cause in causes(error) if type(cause).__module__.startswith(("psycopg2", "dagster_postgres"))]
    return " ".join(str(said[-1]).split()) if said else ""  # the innermost says most


def begin_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """The first thing that a step does: write down which process computes its run.

    Raises:
        InstanceError: Nobody would ever see the run: Dagster deletes its instance when the command ends.
    """
    if instance.is_persistent and Path(instance.root_directory).name.startswith(THROWN_AWAY_PREFIX):
        settings = Settings.read()
        prepare_instance(settings)  # Dagster takes no folder that is not there
        raise InstanceError(
            "nothing was computed: DAGSTER_HOME is not set, and Dagster would delete its record of this run at the end",
            hint=f"export DAGSTER_HOME={shlex.quote(str(settings.dagster_home))}, then run the command again",
        )
    instance.add_run_tags(run_id, process_tags(run_id))


def clear_dead_runs(instance: dg.DagsterInstance, note: Callable[[str], None]) -> None:
    """Mark runs of dead processes failed and free the pool slots that ended runs still hold.

    A killed in-process run stays STARTED for ever, and a killed run worker is marked failed but keeps its slot; without
    this, the next run would wait for the slot for ever.
    """
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_UNFINISHED)):
        parent = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
        if process_is_gone(run.run_id, run.tags, parent.tags if parent else {}) and _is_unfinished(
            instance, run.run_id
        ):
            instance.report_run_failed(run, "The process of this run is gone (killed?). Its finished shards are kept.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            note(f"run {run.run_id[:8]} was killed; its finished shards are kept")
    for pool in instance.event_log_storage.get_concurrency_keys():
        for run_id in _run_ids_of(instance, pool):
            ended = instance.get_run_by_id(run_id)
            if ended is None or ended.is_finished:
                instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def _is_unfinished(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Asked once its process is gone: it may have finished and ended after its status was read."""
    run = instance.get_run_by_id(run_id)
    return run is not None and not run.is_finished


def _run_ids_of(instance: dg.DagsterInstance, pool: str) -> set[str]:
    """Runs that hold or wait for a slot of a pool."""
    info = instance.event_log_storage.get_concurrency_info(pool)
    return set(info.active_run_ids) | set(info.pending_run_ids)


def slot_holders(instance: dg.DagsterInstance, pool: str) -> list[str]:
    """Ids of the runs that hold every slot of a pool; empty if a slot is free."""
    info = instance.event_log_storage.get_concurrency_info(pool)
    if info.slot_count == 0 or info.active_slot_count < info.slot_count:
        return []
    return sorted(info.active_run_ids)
