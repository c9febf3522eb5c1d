"""What must not move with the clock: which process computes a run, and when Dagster and the ledger look again."""

import os
import subprocess
import sys

import dagster as dg
import psutil
import pytest

from virnuc_dagster.instance import clear_dead_runs, open_instance
from virnuc_dagster.settings import Settings
from virnuc_dagster.writer import HOST_TAG, PID_TAG, PROCESS_TAG, STARTED_TAG, process_is_gone, process_tags


@dg.job
def nothing() -> None:
    """For runs that are only recorded."""


@pytest.fixture
def stepped(monkeypatch):
    """The clock is set on by so many seconds: the kernel's time of boot, and with it psutil's times, move along."""
    real = psutil.Process.create_time

    def step(seconds: float) -> None:
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: real(self) + seconds)

    return step


@pytest.mark.parametrize("seconds", [2, -2, 3 * 86_400])
def test_a_live_process_stays_alive_when_the_clock_steps(stepped, seconds):
    tags = process_tags("run")
    stepped(seconds)
    assert not process_is_gone("run", tags, {})


@pytest.mark.parametrize(("seconds", "gone"), [(0, False), (2, False), (-60, False), (3 * 86_400, True)])
def test_tags_of_older_versions_bear_a_step_of_the_clock(stepped, seconds, gone):
    """Beyond an hour, the same number is taken for another process."""
    tags = process_tags("run")
    del tags[PROCESS_TAG]
    tags[STARTED_TAG] = f"{psutil.Process().create_time():.2f}"
    stepped(seconds)
    assert process_is_gone("run", tags, {}) is gone


def other(start: str) -> dict[str, str]:
    return process_tags("run") | {PROCESS_TAG: f"run {start}"}


def test_a_process_with_the_number_of_a_dead_one_is_told_from_it():
    boot, ticks = process_tags("run")[PROCESS_TAG].split()[1:]
    assert not process_is_gone("run", other(f"{boot} {ticks}"), {})
    assert process_is_gone("run", other(f"{boot} {int(ticks) - 1}"), {})
    assert process_is_gone("run", other(f"of-another-boot {ticks}"), {})
    assert not process_is_gone("run", other("of-another-boot 1") | {HOST_TAG: "another"}, {})


def test_an_ended_process_is_gone_also_before_its_parent_has_asked():
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    tags = process_tags("run") | {PID_TAG: str(child.pid)}
    child.stdout.read()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_is_gone("run", tags, {})
    child.wait()
    assert process_is_gone("run", tags, {})


@pytest.mark.parametrize("older", [True, False], ids=["older version", "this version"])
def test_a_retry_is_not_judged_by_the_process_of_its_parent(tmp_path, older):
    """Dagster copies tags into a retry or a re-execution; the process that it names is dead, the retry is starting."""
    with open_instance(Settings(home=tmp_path)) as instance:
        parent = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        tags = process_tags(parent.run_id) | {PID_TAG: "4194305"}  # beyond the largest number of Linux
        if older:
            tags = {HOST_TAG: tags[HOST_TAG], PID_TAG: tags[PID_TAG], STARTED_TAG: "1.00"}
        instance.add_run_tags(parent.run_id, tags)
        retry = instance.create_run_for_job(
            nothing, status=dg.DagsterRunStatus.STARTING, tags=tags, parent_run_id=parent.run_id,
            root_run_id=parent.run_id,
        )  # fmt: skip
        clear_dead_runs(instance, print)
        status = {run.run_id: run.status for run in instance.get_runs()}

    assert status == {parent.run_id: dg.DagsterRunStatus.FAILURE, retry.run_id: dg.DagsterRunStatus.STARTING}
