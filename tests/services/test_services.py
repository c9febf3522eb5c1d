"""Keeping services running, the journal, and alerts."""

import json
import os
import platform
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from unittest import mock

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from kits.automation import Platform, sequences
from kits.ports import free_port
from kits.waiting import HANG_SECONDS

from virnuc_dagster.cli import main, up
from virnuc_dagster.cli.signals import Interrupted, interruptible
from virnuc_dagster.home.journal import Journal
from virnuc_dagster.home.locks import AlreadyRunningError, only_one
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.home.written_by import HOST_TAG, PID_TAG, STARTED_TAG, process_tags
from virnuc_dagster.inbox.ledger import Fingerprint, Ledger
from virnuc_dagster.orchestration.automation.alerts import post
from virnuc_dagster.orchestration.instance import clear_dead_runs, open_instance
from virnuc_dagster.services.supervisor import Service, ServiceError, ending_signals, supervise


@dg.job
def nothing() -> None:
    """For runs that are only recorded."""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_service_hears_signals_also_in_a_background_job(tmp_path):
    """`virnuc up &` in a script ignores SIGINT; Dagster then has its processes ignore SIGTERM as well."""
    seen = tmp_path / "seen"
    code = f"import signal, pathlib; pathlib.Path({str(seen)!r}).write_text(signal.getsignal(signal.SIGINT).__name__)"
    service = Service("one", python(code))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        service.start()
        service.process.wait(HANG_SECONDS)
    finally:
        signal.signal(signal.SIGINT, before)

    assert seen.read_text() == "default_int_handler"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_service_that_ends_is_started_again_and_all_stop_on_a_signal(tmp_path, number):
    starts = tmp_path / "starts"
    short = f"open({str(starts)!r}, 'a').write('x')"
    # The second one has a child, as the code server has runs.
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])"
    long = f"import subprocess, sys, time; {child}; time.sleep(3600)"
    services = [Service("short", python(short)), Service("long", python(long))]
    notes: list[str] = []

    def end() -> None:
        while len(notes) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=end).start()
    supervise(services, notes.append, poll_seconds=0.05, restarts_max=100)

    assert len(starts.read_text()) >= 2
    assert "the short ended with code 0; starting it again" in notes
    with pytest.raises(ProcessLookupError):
        os.killpg(services[1].process.pid, 0)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_nohup_is_heeded(handler):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        assert (signal.SIGHUP in ending_signals()) is (handler == signal.SIG_DFL)
        with pytest.raises(Interrupted, match="SIGTERM"), interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_interrupts_in_order():
    with pytest.raises(Interrupted, match="SIGHUP") as caught, interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
    assert caught.value.exit_code == 129


def test_a_service_that_keeps_ending_is_given_up():
    with pytest.raises(ServiceError, match="ended 3 times within a minute, at last with code 7"):
        supervise([Service("bad", python("raise SystemExit(7)"))], print, poll_seconds=0.02, restarts_max=2)


def test_runs_of_dead_processes_are_looked_for_while_the_services_run(tmp_path, monkeypatch):
    """Dagster's code server tells of a dead run worker, but never again after an error, such as a full disk."""
    with open_instance(Settings(home=tmp_path)) as instance:
        gone = {HOST_TAG: platform.node(), PID_TAG: "4194305", STARTED_TAG: "1.00"}  # beyond the largest pid of Linux
        alive = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        instance.add_run_tags(alive.run_id, process_tags(alive.run_id))
        dead = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED, tags=gone)
        refusals = [sqlite3.OperationalError("database or disk is full")]
        found = type(instance).get_runs

        def get_runs(*arguments: object, **named: object) -> object:
            if refusals:
                raise refusals.pop()
            if instance.get_run_by_id(dead.run_id).is_finished:
                os.kill(os.getpid(), signal.SIGTERM)
            return found(instance, *arguments, **named)

        monkeypatch.setattr(instance, "get_runs", get_runs)
        service = Service("any", python("import time; time.sleep(3600)"))
        supervise(
            [service], print, poll_seconds=0.02, look_seconds=0.1, look_after=lambda: up._clear_dead_runs(instance)
        )

        assert not refusals
        assert instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE
        assert instance.get_run_by_id(alive.run_id).status == dg.DagsterRunStatus.STARTED


def test_a_run_that_finished_and_ended_meanwhile_is_not_marked_failed(tmp_path, monkeypatch):
    with open_instance(Settings(home=tmp_path)) as instance:
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)

        def ends(*_: object) -> bool:  # after its status was read
            succeeded = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job_name="nothing")
            instance.report_dagster_event(succeeded, run.run_id)
            return True

        monkeypatch.setattr("virnuc_dagster.orchestration.instance.process_is_gone", ends)
        clear_dead_runs(instance, print)
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.SUCCESS


def test_services_wait_for_the_one_they_need(tmp_path):
    ready, order = tmp_path / "ready", tmp_path / "order"
    wait = "import time; time.sleep"
    first = f"{wait}(.3); open({str(order)!r}, 'a').write('1'); open({str(ready)!r}, 'w'); {wait}(3600)"
    second = f"open({str(order)!r}, 'a').write('2'); import os, signal; os.kill({os.getpid()}, signal.SIGTERM)"
    supervise(
        [Service("first", python(first), listens_on=ready), Service("second", python(second))], print, poll_seconds=0.02
    )
    assert order.read_text() == "12"


def test_one_home_has_one_supervisor(tmp_path):
    with (
        only_one(tmp_path / "lock", "http://127.0.0.1:3000, process 1", "stop it"),
        pytest.raises(AlreadyRunningError, match=r"127\.0\.0\.1:3000, process 1"),
        only_one(tmp_path / "lock", "another", "stop it"),
    ):
        pass
    with only_one(tmp_path / "lock", "free again", "stop it"):
        pass


@pytest.mark.parametrize(("which", "whose"), [(0, "the UI"), (1, "the reports, which is one above --port")])
def test_a_taken_port_is_said_at_once_and_whose_it_is(tmp_path, capsys, which, whose):
    port = free_port(following=1)
    with socket.create_server(("127.0.0.1", port + which)):
        code = main(["up", "--home", str(tmp_path), "--port", str(port)])
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{port + which}, the port of {whose}: " in capsys.readouterr().err


def test_a_bundle_that_is_not_there_is_said_at_once(tmp_path, capsys):
    (tmp_path / "settings.toml").write_text('bundle = "nope"')
    assert main(["up", "--home", str(tmp_path)]) != 0
    assert "no bundle 'nope'" in capsys.readouterr().err


def test_the_journal_has_a_line_an_event_and_keeps_so_many_days(tmp_path):
    (tmp_path / "2001-01-01.jsonl").write_text("old")
    journal = Journal(folder=str(tmp_path))

    journal.write("shard", shard="a-1__0001", state="done")
    journal.write("step", done=1)

    (path,) = tmp_path.glob("*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["shard", "step"]
    assert lines[0]["shard"] == "a-1__0001"
    assert lines[0]["at"].endswith("+00:00")


def test_a_journal_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").touch()
    Journal(folder=str(tmp_path / "file" / "below")).write("step")
    Journal(folder="").write("step")


@pytest.fixture
def webhook():
    received: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if "refuse" in self.path else 204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret-token", received
    server.shutdown()


FACTS = {"text": "a-1 failed: no space left", "batch": "a-1"}


def test_a_failed_run_reaches_the_webhook(webhook):
    url, received = webhook
    assert post(url, FACTS) == ""
    assert received[0]["batch"] == "a-1"
    assert "no space left" in received[0]["text"]


@pytest.mark.parametrize("url", ["ftp://x/secret-token", "http://127.0.0.1:1/secret-token", "refuse"])
def test_a_webhook_that_does_not_work_is_said_without_its_address(webhook, url):
    problem = post(webhook[0] + "/refuse" if url == "refuse" else url, FACTS)
    assert problem
    assert "secret" not in problem


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"virnuc/batch": "gone-00000000", "virnuc/step": "report"}, {"batch": "gone-00000000", "files": ""}),
        ({"virnuc/files": "a.fa, b.fa"}, {"batch": "", "files": "a.fa, b.fa"}),
    ],
)
def test_the_alert_names_run_what_it_was_of_and_reason(tmp_path, webhook, tags, named):
    url, received = webhook
    platform = Platform(tmp_path, {"webhook": url})
    request = dg.RunRequest(
        job_name="cut_or_report_batch", asset_selection=[dg.AssetKey("batch_report")],
        tags={"dagster/partition": "gone-00000000", **tags},
    )  # fmt: skip
    platform.instance.add_dynamic_partitions("batches", ["gone-00000000"])
    result = platform.carry_out(request)
    context = dg.build_run_status_sensor_context(
        "failure_alert", result.get_run_failure_event(), platform.instance, result.dagster_run
    ).for_run_failure()

    platform.definitions.resolve_sensor_def("failure_alert")(context)

    assert received[0]["run"] == result.run_id
    assert received[0].items() >= named.items()
    assert (named["batch"] or named["files"]) in received[0]["text"]
    assert "no checkpoint was committed here" in received[0]["reason"]
    (journal,) = (tmp_path / "logs").glob("*.jsonl")
    assert "run_failed" in journal.read_text()
    assert "secret-token" not in journal.read_text()


class Late:
    """The sensor late_alert of a platform, its cursor and what it tells."""

    def __init__(self, platform: Platform, received: list[dict]) -> None:
        self.platform, self.received, self.cursor = platform, received, None

    def tick(self, after_hours: float) -> list[str]:
        """The names that one tick tells of, with the time moved on by so many hours."""
        told = len(self.received)
        context = dg.build_sensor_context(instance=self.platform.instance, cursor=self.cursor)
        context._log_key = ["__repository__", "late_alert", "1"]  # of a tick of the daemon
        with mock.patch(
            "virnuc_dagster.orchestration.automation.alerts.time.time", return_value=time.time() + after_hours * 3_600
        ):
            found = self.platform.definitions.resolve_sensor_def("late_alert").evaluate_tick(context)
        assert found.run_requests == []
        self.cursor = found.cursor
        return [facts["name"] for facts in self.received[told:]]


def test_what_waits_too_long_for_its_report_is_told_once(tmp_path, webhook):
    url, received = webhook
    platform = Platform(tmp_path, {"webhook": url, "late_after_hours": 2})
    late = Late(platform, received)
    platform.drop("stuck.fa", sequences(3))
    platform.ledger.note_files({"stuck.fa": Fingerprint.of(platform.settings.inbox / "stuck.fa")}, [], time.time())
    for batch in ("failing-1", "good-1", "slow-1"):
        platform.ledger.begin(batch, "shards")
    platform.ledger.finish("failing-1", "no space left", 3)
    platform.ledger.finish("good-1", "", 3)

    assert late.tick(1.9) == []
    assert sorted(late.tick(2.1)) == ["failing-1", "slow-1", "stuck.fa"]
    assert late.tick(2.2) == []

    since = {item.name: item.since for item in platform.ledger.waiting(time.time())}
    platform.ledger.begin("failing-1", "shards")  # tried again: it still waits since its first round
    assert {item.name: item.since for item in platform.ledger.waiting(time.time())} == since
    platform.ledger.finish("failing-1", "", 3)
    assert late.tick(2.3) == []
    platform.ledger.begin("good-1", "report")  # asked for anew
    assert late.tick(2.4) == ["good-1"]

    facts = next(facts for facts in received if facts["name"] == "failing-1")
    assert facts["text"] == "virnuc: failing-1 has waited 2.1 hours for its report (failed): no space left"
    (journal,) = (tmp_path / "logs").glob("*.jsonl")
    assert [json.loads(line)["event"] for line in journal.read_text().splitlines()] == ["late"] * len(received)
    assert "secret-token" not in journal.read_text()


def test_a_ledger_of_the_first_version_is_brought_up_to_date(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin("old-1", "shards")
    with closing(sqlite3.connect(ledger.path)) as database, database:
        for table, column in (("batches", "waiting_since"), ("files", "failed_at"), ("batches", "shared")):
            database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        database.execute("PRAGMA user_version = 1")
    ledger.retry_failed(time.time(), 3, "cut")

    assert ledger.waiting(time.time() + 1) == []
    ledger.begin("old-1", "shards")
    assert [item.name for item in ledger.waiting(time.time() + 1)] == ["old-1"]


def test_a_batch_on_its_way_in_a_ledger_of_the_version_before_goes_on_with_the_run_it_has(tmp_path):
    platform = Platform(tmp_path)
    platform.ledger.begin("old-1", "report", requested=True)
    with closing(sqlite3.connect(platform.ledger.path)) as database, database:
        database.execute("ALTER TABLE batches DROP COLUMN shared")
        database.execute("PRAGMA user_version = 3")
    tags = {"virnuc/batch": "old-1", "virnuc/step": "report", "virnuc/round": "1"}
    create_run_for_test(platform.instance, "x", tags=tags, status=dg.DagsterRunStatus.SUCCESS)

    assert platform.tick("batch_progress") == []

    assert (platform.ledger.batch("old-1").step, platform.ledger.batch("old-1").shared) == ("done", "")


def test_a_second_up_on_a_home_is_refused(tmp_path):
    """Also on the first one's port: who forgot that it runs must not be told to take another."""
    (tmp_path / "dagster").mkdir()
    port = free_port(following=1)
    with (
        only_one(tmp_path / "dagster" / "up.lock", "http://127.0.0.1:1, process 2", "stop it"),
        socket.create_server(("127.0.0.1", port)),
    ):
        command = [sys.executable, "-m", "virnuc_dagster", "up", "--home", str(tmp_path), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 1
    assert "already running: http://127.0.0.1:1" in done.stderr
