"""A store on S3: parts, killed writers, writers at once, and a service that goes away."""

import http.server
import random
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("s3fs", reason="needs the extra [s3]")
import torch
from kits.s3 import SECRET, Way, client_environment, new_bucket
from kits.waiting import wait_until

from virnuc_dagster.checkpoints import (
    CheckpointKey,
    Level,
    NoSpaceError,
    ServiceAwayError,
    StorageError,
    object_medium,
    open_store,
)
from virnuc_dagster.errors import SettingsError

KEY = CheckpointKey("esm2_embeddings", "demo-1", "demo-1__0001")
#: Saves version after version of one key, as fast as it can; each version's rows all hold its number.
WRITER = """
import sys, torch
from virnuc_dagster.checkpoints import CheckpointKey, open_store
store, key = open_store(sys.argv[1]), CheckpointKey("esm2_embeddings", "demo-1", "demo-1__0001")
for number in range(int(sys.argv[2]), 10**6):
    data = torch.full((200, 64), float(number))
    store.save(key, {"ids": [f"f{i}" for i in range(200)], "data": data}, {"number": number})
    print(number, flush=True)
"""


def payload(number: float, rows: int = 200, dim: int = 64) -> dict:
    return {"ids": [f"f{i}" for i in range(rows)], "data": torch.full((rows, dim), float(number))}


def writer(way: Way, url: str, first: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(first)], stdout=subprocess.PIPE, text=True, env=client_environment(way)
    )


def numbers(process: subprocess.Popen) -> list[int]:
    assert process.stdout is not None
    return [int(line) for line in process.stdout.read().split()]


def test_killed_writers_leave_the_old_version_or_the_new_one(way):
    """SIGKILL at random times: a fresh reader finds a whole version, at least as new as the last one announced."""
    draw, url, seen = random.Random(5), new_bucket(way.target), 0
    for _ in range(6):
        process = writer(way, url, seen + 1)
        assert process.stdout.readline().strip() == str(seen + 1)
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        announced = max([seen + 1, *numbers(process)])
        process.wait()

        store = open_store(url)
        found = store.load(KEY, Level.FULL)["data"]
        seen = store.record(KEY).provenance["number"]
        assert found.unique().tolist() == [seen]
        assert seen in (announced, announced + 1)
    store.sweep(grace_seconds=0)
    kept = sorted(path.name for path in store.medium.glob("*/*/*"))
    record = store.record(KEY)
    assert kept == sorted([record.file, *record.previous, "demo-1__0001.pt.done"])


def test_writers_at_once_leave_one_whole_version(way):
    url = new_bucket(way.target)
    processes = [writer(way, url, first) for first in (1_000, 2_000, 3_000)]
    for process in processes:
        process.stdout.readline()
    store, versions = open_store(url), set()

    def look() -> bool:
        (value,) = store.load(KEY, Level.FULL)["data"].unique().tolist()
        versions.add(value)
        return len(versions) == 20

    wait_until(look)
    for process in processes:
        process.kill()
        process.wait()

    assert open_store(url).load(KEY, Level.FULL)["data"].unique().numel() == 1


def test_a_large_shard_goes_up_in_parts(way, monkeypatch):
    monkeypatch.setattr(object_medium, "PART_BYTES", 5 * 2**20)
    store = open_store(new_bucket(way.target))

    record = store.save(KEY, payload(1.0, rows=50_000), {})

    assert record.bytes > 12_000_000
    path = store.root / KEY.stage / KEY.batch / record.file
    etag = store.medium.files.info(path.path)["ETag"].strip('"')
    assert etag.endswith("-3"), etag
    assert torch.equal(store.load(KEY, Level.FULL)["data"], payload(1.0, rows=50_000)["data"])


@pytest.mark.parametrize("name", ["run[1]", "run*", "run?"])
def test_letters_of_a_pattern_in_a_prefix_stand_for_themselves(way, name):
    parent = new_bucket(way.target)
    open_store(f"{parent}/run1").save(KEY, payload(1.0), {})
    store = open_store(f"{parent}/{name}")
    assert not store.list(KEY.stage)
    record = store.save(KEY, payload(2.0), {})
    assert store.list(KEY.stage) == [KEY]
    assert sorted(path.name for path in store.medium.glob("*/*/*")) == sorted([record.file, "demo-1__0001.pt.done"])


def test_a_prefix_that_begins_with_a_slash_is_refused():
    with pytest.raises(StorageError, match="no name between two slashes"):
        open_store("s3://bucket//prefix")


def test_a_scheme_in_capitals_is_the_same(way):
    url = new_bucket(way.target)
    open_store(url.replace("s3:", "S3:")).save(KEY, payload(1.0), {})
    assert open_store(url).list(KEY.stage) == [KEY]


def test_a_short_outage_is_waited_for(way, monkeypatch, caplog):
    store = open_store(new_bucket(way.target))
    store.save(KEY, payload(1.0), {})
    way.cut()

    def come_back() -> None:
        wait_until(lambda: "trying again" in caplog.text)
        way.open()

    back = threading.Thread(target=come_back)
    back.start()
    store.save(KEY, payload(2.0), {})

    back.join()
    assert store.load(KEY)["data"].unique().tolist() == [2.0]


@pytest.mark.parametrize("text", ["2m", "-1", "nan", "inf"])
def test_a_patience_that_is_no_time_is_a_usage_error(monkeypatch, text):
    monkeypatch.setenv(object_medium.PATIENCE_VARIABLE, text)
    with pytest.raises(SettingsError, match=f"{object_medium.PATIENCE_VARIABLE} is '{text}'"):
        open_store("s3://bucket/x")


def test_an_endpoint_that_is_no_url_is_told_of(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(StorageError) as told:
        open_store("s3://bucket/x").list(KEY.stage)
    assert "AWS_ENDPOINT_URL" in told.value.hint


def test_a_long_outage_is_a_named_error_and_what_was_there_stays(way, monkeypatch):
    monkeypatch.setenv("VIRNUC_STORE_PATIENCE_SECONDS", "1")
    monkeypatch.setattr(object_medium, "REST_SECONDS", 1e6)
    url = new_bucket(way.target)
    store = open_store(url)
    store.save(KEY, payload(1.0), {})
    way.cut()

    with pytest.raises(ServiceAwayError, match="does not answer") as caught:
        store.save(KEY, payload(2.0), {})
    for _ in range(100):  # the next calls neither wait anew nor ask
        with pytest.raises(ServiceAwayError, match="was not asked again"):
            store.record(KEY)
    monkeypatch.setattr(object_medium, "REST_SECONDS", 0.0)
    with pytest.raises(ServiceAwayError, match=r"does not answer \("):  # after a rest it is asked, once
        store.record(KEY)

    assert "AWS_ENDPOINT_URL" in caught.value.hint
    assert SECRET not in str(caught.value)
    way.open()
    assert open_store(url).load(KEY, Level.FULL)["data"].unique().tolist() == [1.0]
    store.save(KEY, payload(3.0), {})
    assert store.load(KEY)["data"].unique().tolist() == [3.0]


class _Refusing(http.server.BaseHTTPRequestHandler):
    """Answers everything with one status."""

    protocol_version = "HTTP/1.1"
    status, code = 403, "AccessDenied"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = f"<Error><Code>{self.code}</Code><Message>the service says so</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "code", "error", "waits"),
    [
        (403, "AccessDenied", StorageError, False),
        (403, "RequestTimeTooSkewed", StorageError, False),
        (400, "ExpiredToken", StorageError, False),
        (507, "XMinioStorageFull", NoSpaceError, False),
        (503, "SlowDown", ServiceAwayError, True),
        (429, "TooManyRequests", ServiceAwayError, True),
    ],
)
def test_answers_of_a_service(monkeypatch, caplog, status, code, error, waits):
    now = [0.0]  # a clock that only waiting moves: what an answer takes says nothing
    clock = {"monotonic": lambda: now[0], "sleep": lambda seconds: now.__setitem__(0, now[0] + seconds)}
    monkeypatch.setattr(object_medium, "time", SimpleNamespace(**vars(time) | clock))
    handler = type("Handler", (_Refusing,), {"status": status, "code": code})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        way = Way(server.server_address[1], 0)
        for name, value in (way.environment | {"VIRNUC_STORE_PATIENCE_SECONDS": "2"}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(error) as caught:
            open_store("s3://lab/x").save(KEY, payload(1.0), {})
        with pytest.raises(error) as at_a_look:
            open_store("s3://lab/x").record(KEY)
        server.shutdown()

    assert type(caught.value) is type(at_a_look.value) is error
    for found in (caught.value, at_a_look.value):
        assert waits or "the service says so" in str(found), "its own words, also at a look"
        assert "was not asked again" not in str(found)
        assert not {"operating system", "device", "disk"} & set(found.hint.split())
    assert SECRET not in repr(caught.value) + str(caught.value.__cause__)
    assert ("trying again" in caplog.text) == waits


def test_a_writer_that_is_terminated_ends(way):
    process = writer(way, new_bucket(way.target), 1)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM


def test_a_kind_of_store_that_is_not_known_is_told_with_what_is():
    with pytest.raises(StorageError, match="gs:// is no kind of store that is known here") as caught:
        open_store("gs://bucket/prefix")
    assert caught.value.hint == "use a folder or s3://bucket/prefix"
