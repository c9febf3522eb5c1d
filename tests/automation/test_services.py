"""Keeping services running, the journal, and alerts."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import pytest
from automation_kit import Platform

from virnuc_dagster.automation.alerts import post
from virnuc_dagster.cli import main
from virnuc_dagster.journal import Journal
from virnuc_dagster.locks import AlreadyRunningError, only_one
from virnuc_dagster.supervisor import Service, ServiceError, supervise


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_service_that_ends_is_started_again_and_all_stop_on_a_signal(tmp_path):
    starts = tmp_path / "starts"
    short = f"open({str(starts)!r}, 'a').write('x')"
    # The second one has a child, as the code server has runs.
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    long = f"import subprocess, sys, time; {child}; time.sleep(60)"
    services = [Service("short", python(short)), Service("long", python(long))]
    notes: list[str] = []

    def end() -> None:
        while len(notes) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    supervise(services, notes.append, poll_seconds=0.05, restarts_max=100)

    assert len(starts.read_text()) >= 2
    assert "the short ended with code 0; starting it again" in notes
    with pytest.raises(ProcessLookupError):
        os.killpg(services[1].process.pid, 0)


def test_a_service_that_keeps_ending_is_given_up():
    with pytest.raises(ServiceError, match="ended 3 times within a minute, at last with code 7"):
        supervise([Service("bad", python("raise SystemExit(7)"))], print, poll_seconds=0.02, restarts_max=2)


def test_services_wait_for_the_one_they_need(tmp_path):
    ready, order = tmp_path / "ready", tmp_path / "order"
    first = (
        f"import time; time.sleep(.3); open({str(order)!r}, 'a').write('1'); open({str(ready)!r}, 'w'); time.sleep(60)"
    )
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


def test_a_taken_port_is_said_at_once(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code = main(["up", "--home", str(tmp_path), "--port", str(taken.getsockname()[1])])
    assert code == 2
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err


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


FACTS = {"job": "embed_and_score_shards", "batch": "a-1", "reason": "no space left"}


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


def test_the_alert_names_run_batch_and_reason(tmp_path, webhook):
    url, received = webhook
    platform = Platform(tmp_path, {"webhook": url})
    request = dg.RunRequest(
        job_name="cut_or_report_batch", asset_selection=[dg.AssetKey("batch_report")],
        tags={"dagster/partition": "gone-00000000", "virnuc/batch": "gone-00000000", "virnuc/step": "report"},
    )  # fmt: skip
    platform.instance.add_dynamic_partitions("batches", ["gone-00000000"])
    result = platform.carry_out(request)
    context = dg.build_run_status_sensor_context(
        "failure_alert", result.get_run_failure_event(), platform.instance, result.dagster_run
    ).for_run_failure()

    platform.definitions.resolve_sensor_def("failure_alert")(context)

    assert received[0]["run"] == result.run_id
    assert received[0]["batch"] == "gone-00000000"
    assert "no checkpoint was committed here" in received[0]["reason"]
    (journal,) = (tmp_path / "logs").glob("*.jsonl")
    assert "run_failed" in journal.read_text()
    assert "secret-token" not in journal.read_text()


def test_a_second_up_on_a_home_is_refused(tmp_path):
    (tmp_path / "dagster").mkdir()
    with only_one(tmp_path / "dagster" / "up.lock", "http://127.0.0.1:1, process 2", "stop it"):
        done = subprocess.run(
            [sys.executable, "-m", "virnuc_dagster", "up", "--home", str(tmp_path), "--port", "39117"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 1
    assert "already running: http://127.0.0.1:1" in done.stderr
