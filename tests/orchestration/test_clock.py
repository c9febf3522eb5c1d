"""What must not move with the clock: which process computes a run, and when Dagster and the ledger look again."""

import os
import subprocess
import sys
import time
from unittest import mock

import dagster as dg
import psutil
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from kits.waiting import HANG_SECONDS

from virnuc_dagster.cli import up
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.home.written_by import HOST_TAG, PID_TAG, PROCESS_TAG, STARTED_TAG, process_is_gone, process_tags
from virnuc_dagster.inbox.ledger import Ledger
from virnuc_dagster.orchestration.clock import Clock, set_right
from virnuc_dagster.orchestration.instance import clear_dead_runs, open_instance


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


ORIGIN = RemoteInstigatorOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("virnuc_dagster.definitions"), "__repository__"), "one"
)


def remember(instance: dg.DagsterInstance, kind: InstigatorType, data: object) -> InstigatorState:
    state = InstigatorState(ORIGIN, kind, InstigatorStatus.RUNNING, data)
    return instance.add_instigator_state(state)


@pytest.mark.parametrize(("ahead", "times_stay"), [(3_600.0, False), (20.0, True), (-3_600.0, True)])
def test_a_sensor_whose_last_look_is_still_to_come_looks_at_once(tmp_path, ahead, times_stay):
    with open_instance(Settings(home=tmp_path)) as instance:
        last = time.time() + ahead
        data = SensorInstigatorData(last, "key", 5, "cursor", last, last_tick_success_timestamp=last)
        before = remember(instance, InstigatorType.SENSOR, data)
        found = set_right(instance, tmp_path)
        (after,) = instance.all_instigator_state()

    assert (after == before) is times_stay
    assert found == (0 if times_stay else pytest.approx(ahead, abs=HANG_SECONDS))
    assert after.instigator_data.cursor == "cursor"  # what was told of stays told
    assert after.instigator_data.last_tick_start_timestamp <= max(time.time(), before.instigator_data[0])


def test_a_schedule_that_ran_in_the_future_runs_when_it_is_due(tmp_path):
    with open_instance(Settings(home=tmp_path)) as instance:
        later = time.time() + 90 * 86_400
        state = remember(instance, InstigatorType.SCHEDULE, ScheduleInstigatorData("0 2 * * *", 1.0, later))
        names = state.instigator_origin_id, state.selector_id
        tick = TickData(names[0], "one", InstigatorType.SCHEDULE, TickStatus.SKIPPED, later, selector_id=names[1])
        instance.create_tick(tick)
        assert set_right(instance, tmp_path) == pytest.approx(90 * 86_400, abs=HANG_SECONDS)
        (after,) = instance.all_instigator_state()
        (tick,) = instance.get_ticks(*names)

    assert after.instigator_data.start_timestamp == 1.0
    assert after.instigator_data.last_iteration_timestamp <= time.time()
    assert tick.timestamp <= time.time()
    assert tick.status == TickStatus.SKIPPED


def test_files_and_batches_of_the_ledger_do_not_wait_for_the_clock(tmp_path, monkeypatch):
    ledger, now = Ledger(tmp_path), time.time()
    with monkeypatch.context() as ahead:
        ahead.setattr("virnuc_dagster.inbox.ledger.time.time", lambda: now + 86_400)
        ledger.begin("failed-1", "report", requested=True)
        ledger.finish("failed-1", "no space left", 3)
    assert ledger.set_right(now, 60) == pytest.approx(now + 86_400)
    ledger.retry_failed(now + 1, 3, "cut")

    assert ledger.batch("failed-1").step == "cut"
    assert [item.since for item in ledger.waiting(now + 1)] == [now]


def test_a_step_back_is_noticed_and_the_daemon_is_stopped_while_times_are_changed(tmp_path, monkeypatch, capsys):
    order: list[str] = []
    daemon = mock.Mock(stop=lambda _: order.append("stop"), start=lambda: order.append("start"))
    monkeypatch.setattr("virnuc_dagster.orchestration.clock.set_right", lambda *_: order.append("set right") or 3_600.0)
    with open_instance(Settings(home=tmp_path)) as instance:
        watch = up.Watch(instance, Settings(home=tmp_path), daemon)
        real = time.time
        watch.look()
        assert order == ["set right"]  # at the start, for what happened before
        monkeypatch.setattr("virnuc_dagster.orchestration.clock.time.time", lambda: real() - 3_600)
        watch.look()
        watch.look()

    assert order == ["set right", "stop", "set right", "start"]
    assert "the clock was set back" in capsys.readouterr().err
    assert '"set_back_seconds": 3600' in next((tmp_path / "logs").iterdir()).read_text()


def test_a_daemon_that_is_yet_to_start_is_not_started_twice(tmp_path, monkeypatch):
    daemon = mock.Mock(process=None)
    with open_instance(Settings(home=tmp_path)) as instance:
        watch = up.Watch(instance, Settings(home=tmp_path), daemon)
        real = time.time
        monkeypatch.setattr("virnuc_dagster.orchestration.clock.time.time", lambda: real() - 3_600)
        watch.look()
    daemon.start.assert_not_called()


@pytest.mark.parametrize(("steps", "said"), [([-20, -20, -30], [0, 0, 70]), ([86_400, -120], [0, 120])])
def test_small_steps_add_up_and_steps_forward_do_not_count(monkeypatch, steps, said):
    monkeypatch.setattr("virnuc_dagster.orchestration.clock.time.monotonic", lambda: 0.0)
    now = [1e9]
    monkeypatch.setattr("virnuc_dagster.orchestration.clock.time.time", lambda: now[0])
    clock, found = Clock(), []
    for step in steps:
        now[0] += step
        found.append(clock.set_back())
    assert found == said
