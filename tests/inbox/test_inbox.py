"""Files in the inbox: when they are touched, how they are recognised, and what becomes of bad ones."""

import errno
import hashlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from virnuc_dagster.checkpoints import LocalStore, StorageError
from virnuc_dagster.errors import InputError
from virnuc_dagster.files import exclusive
from virnuc_dagster.home.origins import origins
from virnuc_dagster.inbox import arrivals
from virnuc_dagster.inbox.arrivals import REASON_SUFFIX, REJECTED, scan_inbox, take_in
from virnuc_dagster.inbox.ledger import Fingerprint, Ledger
from virnuc_dagster.stages.pipeline import SEQUENCES

FASTA = ">a\nACGTACGTACGT\n>b\nGGGGCCCC\n"


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path)


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def drop(inbox, name, text=FASTA, age=100.0):
    path = inbox / name
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)
    return path


def look(inbox, ledger, after=0.0, limit=100):
    return scan_inbox(inbox, ledger, time.time() + after, settle_seconds=10, limit=limit)


def take(store, inbox, name, ledger):
    look(inbox, ledger)
    return take_in(store, inbox, name, ledger, window_length=500, shard_size=10)


def test_a_file_is_ready_once_it_was_seen_unchanged_for_long_enough(inbox, ledger):
    drop(inbox, "a.fa")
    assert look(inbox, ledger).ready == []  # seen for the first time
    assert look(inbox, ledger, after=9).ready == []
    assert look(inbox, ledger, after=11).ready == ["a.fa"]


def test_a_file_that_grows_waits_again(inbox, ledger):
    drop(inbox, "a.fa")
    look(inbox, ledger)
    drop(inbox, "a.fa", FASTA * 2)
    assert look(inbox, ledger, after=11).ready == []
    assert look(inbox, ledger, after=22).ready == ["a.fa"]


def test_a_time_stamp_in_the_future_does_not_keep_a_file_waiting(inbox, ledger):
    drop(inbox, "a.fa", age=-86_400)
    look(inbox, ledger)
    assert look(inbox, ledger, after=11).ready == ["a.fa"]


@pytest.mark.parametrize("name", [".hidden.fa", "a.fa.part", "a.fa.TMP", "b.fa.crdownload"])
def test_names_of_unfinished_files_are_left_alone(inbox, ledger, name):
    drop(inbox, name)
    assert look(inbox, ledger).known == 0


def test_the_oldest_files_come_first_and_no_more_than_asked_for(inbox, ledger):
    for number in range(5):
        drop(inbox, f"{9 - number}.fa")
        scan_inbox(inbox, ledger, 1000.0 + number, settle_seconds=10, limit=9)
    assert look(inbox, ledger, limit=3).ready == ["9.fa", "8.fa", "7.fa"]


def test_a_good_file_becomes_a_batch_and_stays_where_it_is(inbox, ledger, store):
    path = drop(inbox, "a.fa")

    arrival = take(store, inbox, "a.fa", ledger)

    assert (arrival.state, arrival.sequences) == ("taken", 2)
    assert [key.batch for key in store.list(SEQUENCES)] == [arrival.batch]
    assert path.read_text() == FASTA
    assert look(inbox, ledger, after=1000).ready == []
    assert not list(inbox.glob(".*"))


@pytest.mark.parametrize("text", [FASTA, FASTA.lower()], ids=["same bytes", "same sequences"])
def test_a_copy_under_another_name_is_recognised(inbox, ledger, store, text):
    drop(inbox, "a.fa")
    first = take(store, inbox, "a.fa", ledger)
    drop(inbox, "copy.fa", text)

    copy = take(store, inbox, "copy.fa", ledger)

    assert (copy.state, copy.batch) == ("duplicate", first.batch)
    assert len(store.list(SEQUENCES)) == 1


def test_a_renamed_file_is_recognised_also_after_its_first_name_is_forgotten(inbox, ledger, store):
    first = drop(inbox, "a.fa")
    batch = take(store, inbox, "a.fa", ledger).batch
    first.rename(inbox / "b.fa")
    look(inbox, ledger)

    assert list(ledger.files()) == ["b.fa"]
    assert take(store, inbox, "b.fa", ledger).batch == batch


def test_a_duplicate_of_a_damaged_batch_heals_it(inbox, ledger, store):
    drop(inbox, "a.fa")
    batch = take(store, inbox, "a.fa", ledger).batch
    data = next((store.root / SEQUENCES / batch).glob("*.pt"))
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    drop(inbox, "again.fa")

    assert take(store, inbox, "again.fa", ledger).batch == batch
    store.load(store.list(SEQUENCES)[0])


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "holds no sequences"), (b"%PDF-1.4", "PDF"), (b"\x1f\x8b\x08\x00abc", "gzip"), (b">a\nAC!T\n", "!")],
    ids=["empty", "another format", "truncated archive", "a foreign letter"],
)
def test_a_bad_file_is_set_aside_with_its_reason(inbox, ledger, store, content, reason):
    (inbox / "bad.fa").write_bytes(content)

    arrival = take(store, inbox, "bad.fa", ledger)

    assert arrival.state == "rejected"
    assert (inbox / REJECTED / "bad.fa").read_bytes() == content
    text = (inbox / REJECTED / f"bad.fa{REASON_SUFFIX}").read_text()
    assert reason in text
    assert "What to do" in text
    assert not (inbox / "bad.fa").exists()


def test_the_second_bad_file_of_a_name_does_not_replace_the_first(inbox, ledger, store):
    for content in (b"", b"%PDF"):
        (inbox / "bad.fa").write_bytes(content)
        take(store, inbox, "bad.fa", ledger)
    assert {p.name for p in (inbox / REJECTED).iterdir()} == {
        "bad.fa", f"bad.fa{REASON_SUFFIX}", "1-bad.fa", f"1-bad.fa{REASON_SUFFIX}",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["y" * 252 + ".fa", "\N{DNA DOUBLE HELIX}" * 62 + ".fa"], ids=["letters", "signs"])
def test_a_bad_file_of_a_very_long_name_is_set_aside(inbox, ledger, store, name):
    (inbox / name).write_bytes(b"%PDF")

    assert take(store, inbox, name, ledger).state == "rejected"

    (reason,) = (inbox / REJECTED).glob(f"*{REASON_SUFFIX}")
    assert name in reason.read_text()
    assert reason.with_name(reason.name.removesuffix(REASON_SUFFIX)).read_bytes() == b"%PDF"


def test_a_name_that_is_no_text_is_set_aside_and_stops_no_other(inbox, ledger):
    path = os.fsencode(inbox) + b"/Prob\xe9.fa"
    Path(os.fsdecode(path)).write_text(FASTA)
    drop(inbox, "a.fa")
    assert look(inbox, ledger).rejected == [], "it may still be written to"

    scan = look(inbox, ledger, after=11)

    assert scan.ready == ["a.fa"]
    assert [arrival.path for arrival in scan.rejected] == ["Prob\\xe9.fa"]
    assert not os.path.lexists(path)
    (reason,) = (inbox / REJECTED).glob(f"*{REASON_SUFFIX}")
    assert "not UTF-8" in reason.read_text()
    assert look(inbox, ledger, after=12).rejected == []


def test_a_link_is_called_a_link(inbox, ledger, store):
    (inbox / "odd.fa").symlink_to("/nowhere")
    assert "it is a symbolic link" in take(store, inbox, "odd.fa", ledger).note


@pytest.mark.parametrize("how", ["append", "replace", "truncate", "remove"])
def test_a_file_that_changes_while_it_is_read_is_noticed(inbox, ledger, store, monkeypatch, how):
    path = drop(inbox, "a.fa")
    real = arrivals.hashlib.sha256

    class Meddling:
        def __init__(self):
            self.inner = real()

        def update(self, chunk):
            self.inner.update(chunk)
            if how == "append":
                path.write_text(FASTA + ">c\nACGT\n")
            elif how == "replace":
                (inbox / ".new").write_text(FASTA.replace("G", "C"))
                (inbox / ".new").replace(path)
            elif how == "truncate":
                os.truncate(path, 5)
            else:
                path.unlink()

        def hexdigest(self):
            return self.inner.hexdigest()

    monkeypatch.setattr(arrivals.hashlib, "sha256", Meddling)
    look(inbox, ledger)
    arrival = take_in(store, inbox, "a.fa", ledger, window_length=500, shard_size=10)

    assert arrival.state == "changed"
    assert store.list(SEQUENCES) == []
    assert not (inbox / REJECTED).exists()
    if how != "remove":
        assert ledger.files()["a.fa"].state == "waiting"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_is_rejected_without_being_opened(inbox, ledger, store, tmp_path, kind):
    if kind == "link":
        (tmp_path / "elsewhere.fa").write_text(FASTA)
        (inbox / "odd.fa").symlink_to(tmp_path / "elsewhere.fa")
    else:
        os.mkfifo(inbox / "odd.fa")
    assert take(store, inbox, "odd.fa", ledger).state == "rejected"
    assert store.list(SEQUENCES) == []


def test_a_result_for_a_file_that_has_changed_since_is_not_put_down(inbox, ledger):
    path = drop(inbox, "a.fa")
    look(inbox, ledger)
    before = Fingerprint.of(path)
    drop(inbox, "a.fa", FASTA * 2)
    look(inbox, ledger)

    ledger.set_file("a.fa", before, "taken", batch="a-1")

    assert ledger.files()["a.fa"].state == "waiting"


def test_a_look_at_a_thousand_known_files_asks_the_database_no_more_than_one_at_ten(inbox, ledger, monkeypatch):
    asked: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments, **named):
        connection = connect(*arguments, **named)
        connection.set_trace_callback(asked.append)
        return connection

    def questions(files: int) -> int:
        for number in range(files):
            (inbox / f"{number}.fa").touch()
        look(inbox, ledger)
        with ledger._database() as database:
            database.execute("UPDATE files SET state = 'taken'")
        asked.clear()
        assert look(inbox, ledger).known == files
        return len(asked)

    monkeypatch.setattr("virnuc_dagster.inbox.ledger.sqlite3.connect", traced)
    assert 0 < questions(10) == questions(1_000)


def test_a_batch_remembers_every_file_of_the_inbox_that_holds_it(inbox, ledger, store, tmp_path):
    for name in ("a.fa", "copy.fa"):
        path = drop(inbox, name)
        batch = take(store, inbox, name, ledger).batch
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    found = [(entry["path"], entry["bytes"], entry["sha256"]) for entry in origins(tmp_path, batch)]
    assert found == [(str(inbox / name), len(FASTA), sha256) for name in ("a.fa", "copy.fa")]


def test_a_clock_that_was_set_back_does_not_keep_a_file_waiting(inbox, ledger):
    drop(inbox, "a.fa")
    look(inbox, ledger, after=86_400)
    look(inbox, ledger)
    assert look(inbox, ledger, after=11).ready == ["a.fa"]


def test_a_bad_file_that_is_taken_away_while_it_is_read_stops_no_other(inbox, ledger, store, monkeypatch):
    path = drop(inbox, "a.fa", "no fasta")

    def add_sequences(*args, **more):
        path.unlink()
        raise InputError("not a sequence file")

    monkeypatch.setattr(arrivals, "add_sequences", add_sequences)
    assert take(store, inbox, "a.fa", ledger).state == "rejected"


def test_the_copy_of_a_killed_run_is_removed_and_that_of_a_living_one_is_not(inbox):
    dead, living, young = (inbox / f".{name}.spool" for name in ("dead", "living", "young"))
    for path, age in ((dead, 100), (living, 100), (young, 0)):
        path.write_text(FASTA)
        os.utime(path, (time.time() - age,) * 2)
    with exclusive(living):
        arrivals.sweep_spools(inbox)
    assert sorted(inbox.iterdir()) == [living, young]


def test_an_inbox_that_cannot_be_written_is_said_in_our_words(inbox, ledger, store, monkeypatch):
    drop(inbox, "a.fa")

    def refuse(*args, **more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("touch", "unlink"):  # a read-only file system refuses also to remove what is not there
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(StorageError, match="mounted read-only"):
        take(store, inbox, "a.fa", ledger)
