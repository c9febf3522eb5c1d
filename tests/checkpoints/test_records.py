"""Commit records gain fields: what is stored stays valid, in every reader, and its digests still bite."""

import dataclasses
import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from virnuc_dagster.checkpoints import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointKey,
    CommitRecord,
    Level,
    LocalStore,
    Store,
    compat,
    differences,
    open_store,
    versions,
)
from virnuc_dagster.checkpoints import store as store_module
from virnuc_dagster.checkpoints.audit import audit, audit_store, examine
from virnuc_dagster.checkpoints.format import _UNCHECKED, _check_of
from virnuc_dagster.checkpoints.legacy import migrate_file

ARCHIVE = Path(__file__).parent / "archive"
RECORDS = sorted((ARCHIVE / "2.0").rglob("*.done"))
KEYS = [CheckpointKey(path.parts[-3], "b", "b__0001") for path in RECORDS]
EMBEDDED = CheckpointKey("esm2_embeddings", "b", "b__0001")


@dataclasses.dataclass(frozen=True)
class NextRecord(CommitRecord):
    """A record of a version to come, with a field more."""

    medium: str = "folder"
    version: str = "2.1"


@pytest.fixture
def update(monkeypatch) -> Callable[[], None]:
    """Makes the program in hand the one of record version 2.1."""

    def lift(values: dict) -> dict:
        return {**values, "version": "2.1", "medium": "not recorded"}

    def begin() -> None:
        monkeypatch.setitem(versions.RECORD_MIGRATIONS, "2.0", lift)
        monkeypatch.setattr(store_module, "CommitRecord", NextRecord)

    return begin


@pytest.fixture(params=["folder", "memory"])
def stored(request, tmp_path) -> Store:
    """The archive of 2.0, on each medium."""
    if request.param == "folder":
        return LocalStore(Path(shutil.copytree(ARCHIVE / "2.0", tmp_path / "store")))
    store = open_store(f"memory://{uuid.uuid4().hex}/store")
    for path in (ARCHIVE / "2.0").rglob("*.pt*"):
        store.medium.put_whole(store.root / path.relative_to(ARCHIVE / "2.0").as_posix(), path.read_bytes())
    return store


def place(store: Store, key: CheckpointKey = EMBEDDED):
    return store.root / key.stage / key.batch / f"{key.shard}.pt.done"


def text_of(store: Store, key: CheckpointKey = EMBEDDED) -> bytes:
    return store.medium.read(place(store, key))


def rewrite(store: Store, change: Callable[[dict], dict]) -> None:
    """Another record in the place of one, with a check digest that is right."""
    values = change(json.loads(text_of(store)) | {"check": _UNCHECKED.decode()})
    text = json.dumps(values).encode()
    store.medium.put_whole(place(store), text.replace(_UNCHECKED, _check_of(text)))


def payload(number: float) -> dict:
    return {"ids": ["a", "b"], "data": torch.full((2, 3), float(number))}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parts[-3])
def test_records_have_the_bytes_that_they_always_had(path):
    assert CommitRecord.from_json(path.read_bytes()).to_json() == path.read_bytes()


def test_a_new_record_says_what_the_archived_ones_say(tmp_path):
    store = LocalStore(tmp_path)
    store.save(EMBEDDED, payload(1), {})
    new, old = json.loads(text_of(store)), json.loads(RECORDS[0].read_bytes())
    assert list(new) == list(old)
    assert (new["version"], old["version"]) == ("2.0", "2.0")


def test_every_stored_checkpoint_stays_valid(stored, update):
    before = {key: (stored.record(key), text_of(stored, key), stored.load(key)["ids"]) for key in KEYS}
    update()

    for key, (record, text, ids) in before.items():
        lifted = stored.record(key)
        assert (lifted.medium, lifted.version, lifted.newer) == ("not recorded", "2.1", False)
        assert dataclasses.asdict(lifted).items() >= (dataclasses.asdict(record) | {"version": "2.1"}).items()
        assert differences(lifted.provenance, record.provenance) == []
        assert stored.load(key, Level.FULL)["ids"] == ids
        stored.check_bytes(key)
        assert text_of(stored, key) == text
    assert stored.records(KEYS) == [stored.record(key) for key in KEYS]
    assert [finding.status for finding in audit_store(stored, full=True)] == ["ok"] * len(KEYS)
    assert stored.sweep(grace_seconds=0) == []


def test_readers_of_plain_folders_lift_too(tmp_path, update):
    folder = Path(shutil.copytree(ARCHIVE, tmp_path / "archive"))
    older = folder / "0.x" / "output_1_ESM.pt"
    assert not migrate_file(older).done_before
    update()

    found = [f for f in audit(folder, full=True) if f.path.parts[-4] == "2.0"]
    assert [f.status for f in found] == ["ok"] * len(KEYS)
    assert examine(folder / "2.0" / RECORDS[0].relative_to(ARCHIVE / "2.0")).status == "ok"
    assert compat.validate_checkpoint(folder / "2.0/esm2_embeddings/b/b__0001.pt") == (True, "")
    assert compat.has_done_marker(folder / "2.0/esm2_embeddings/b/b__0001.pt")
    assert migrate_file(older).done_before


def test_a_changed_record_is_still_refused(stored, update):
    update()
    good = text_of(stored)
    for position in range(len(good)):
        changed = good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]
        stored.medium.put_whole(place(stored), changed)
        with pytest.raises(CheckpointError):
            stored.record(EMBEDDED)


def test_a_changed_payload_is_still_refused(stored, update):
    update()
    path = place(stored).parent / stored.record(EMBEDDED).file
    good = stored.medium.read(path)
    stored.medium.put_whole(path, good[:600] + bytes([good[600] ^ 1]) + good[601:])

    for look in (stored.load, stored.check_bytes):
        with pytest.raises(CheckpointDamagedError, match="digest differs"):
            look(EMBEDDED)
    assert [f.status for f in audit_store(stored, full=True)].count("damaged") == 1


@pytest.mark.parametrize("name", ["sha256", "previous", "content"])
def test_a_record_that_lacks_a_field_of_its_version_is_damaged(stored, update, name):
    update()
    rewrite(stored, lambda values: {field: value for field, value in values.items() if field != name})
    with pytest.raises(CheckpointDamagedError, match=f"record lacks {name}"):
        stored.record(EMBEDDED)


def test_a_field_of_another_type_is_damage(stored, update):
    update()
    rewrite(stored, lambda values: values | {"version": "2.1", "medium": 1})
    with pytest.raises(CheckpointDamagedError, match="record field medium is not a str"):
        stored.record(EMBEDDED)


def test_a_migration_that_misses_what_it_needs_is_damage(stored, update, monkeypatch):
    update()
    monkeypatch.setitem(versions.RECORD_MIGRATIONS, "2.0", lambda values: values | {"medium": values["place"]})
    with pytest.raises(CheckpointDamagedError, match=r"record of version 2\.0 lacks 'place'"):
        stored.record(EMBEDDED)


def test_a_record_from_which_no_migration_leads_is_incompatible(stored):
    rewrite(stored, lambda values: values | {"version": "1.0"})
    with pytest.raises(CheckpointIncompatibleError, match=r"no migration of commit records from version 1\.0"):
        stored.record(EMBEDDED)


def test_records_are_lifted_step_by_step(monkeypatch):
    monkeypatch.setitem(versions.RECORD_MIGRATIONS, "2.0", lambda values: {"version": "2.1", "a": [*values["a"], 1]})
    monkeypatch.setitem(versions.RECORD_MIGRATIONS, "2.1", lambda values: {"version": "3.0", "a": [*values["a"], 2]})
    old = {"version": "2.0", "a": []}
    assert versions.lift_record(old, "3.0") == {"version": "3.0", "a": [1, 2]}
    assert versions.lift_record(old, "2.1") == {"version": "2.1", "a": [1]}
    assert old == {"version": "2.0", "a": []}


def test_a_sweep_writes_an_older_record_again_as_a_current_one(stored, update):
    stored.save(EMBEDDED, payload(1), {})
    update()

    assert [file.why for file in stored.sweep(grace_seconds=0, superseded=True)] == ["superseded"]

    assert json.loads(text_of(stored))["medium"] == "not recorded"
    assert stored.record(EMBEDDED).previous == ()
    assert stored.load(EMBEDDED, Level.FULL)["data"].unique().tolist() == [1.0]


def test_a_record_of_a_newer_minor_is_read_and_not_written_again(stored, update, monkeypatch):
    update()
    for number in (1.0, 2.0):
        stored.save(EMBEDDED, payload(number), {"number": number})
    monkeypatch.undo()  # the program of 2.0 again
    text = text_of(stored)
    assert json.loads(text)["medium"] == "folder"

    record = stored.record(EMBEDDED)
    removed = stored.sweep(grace_seconds=0, superseded=True)

    assert (record.version, record.newer, record.provenance) == ("2.1", True, {"number": 2.0})
    assert stored.load(EMBEDDED, Level.FULL)["data"].unique().tolist() == [2.0]
    assert text_of(stored) == text
    assert record.previous[0] not in {file.path.rsplit("/", 1)[-1] for file in removed}
    assert stored.medium.facts(place(stored).parent / record.previous[0])
    stored.save(EMBEDDED, payload(3), {})
    assert (stored.record(EMBEDDED).version, stored.record(EMBEDDED).previous) == ("2.0", (record.file,))


def test_a_kind_stands_for_one_thing():
    from virnuc_dagster.checkpoints import Kind, register
    from virnuc_dagster.checkpoints.kinds import KINDS

    before = dict(KINDS)
    register(before)
    with pytest.raises(ValueError, match="frames is registered as another kind"):
        register({"novel": Kind(), "frames": Kind()})
    assert before == KINDS


def test_what_no_one_registered_is_refused(tmp_path):
    with pytest.raises(CheckpointIncompatibleError, match="unknown kind 'novel'"):
        LocalStore(tmp_path).save(CheckpointKey("novel", "b", "b__0001"), payload(1), {})
    assert list(tmp_path.iterdir()) == []
