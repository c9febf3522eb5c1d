"""Files that arrive in the inbox: noticing them, waiting until they are whole, taking them in, setting bad ones aside.

A file is not touched before its size and time of change have stood still. It is then copied into the home, and only the
copy is parsed: a file that changes meanwhile is noticed, and no half-written sequence becomes a result.
"""

import contextlib
import errno
import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from virnuc_dagster.checkpoints import CheckpointError, CheckpointStore, Level
from virnuc_dagster.errors import InputError, VirnucError, typed_os_errors
from virnuc_dagster.files import exclusive, make_folder, remove_abandoned, write_atomic
from virnuc_dagster.home.origins import note_origin
from virnuc_dagster.inbox.ledger import Fingerprint, Ledger
from virnuc_dagster.sequences.measured import InputFacts
from virnuc_dagster.stages.batch import add_sequences
from virnuc_dagster.stages.keys import batch_checkpoint
from virnuc_dagster.stages.pipeline import SEQUENCES

REJECTED = "rejected"
REASON_SUFFIX = ".reason.txt"
#: Of the private, hidden copy of a file while it is read.
_SPOOL_SUFFIX = ".spool"
#: Names that transfer programs give to files they have not finished.
UNFINISHED = (".part", ".partial", ".tmp", ".filepart", ".crdownload", ".download")
_CHUNK = 1 << 20
#: Bytes of a name in `rejected/`: file systems take 255, and a number, the suffix and a temporary name are added.
_NAME_BYTES = 200


class ChangedError(InputError):
    """The file was written to or replaced while it was being read."""


@dataclass(frozen=True)
class Arrival:
    """What became of one file: `taken`, `duplicate`, `rejected`, or `changed` (it is tried again once it is still)."""

    path: str
    state: str
    batch: str = ""
    note: str = ""
    sequences: int = 0


@dataclass
class Scan:
    """What a look at the inbox found.

    Attributes:
        known: Files in the inbox.
        ready: Names of files that are whole, those seen first coming first.
        waiting: Number of files that are still being written or too young.
        rejected: Files whose names no database and no run can hold; they are set aside already.
    """

    known: int = 0
    ready: list[str] = field(default_factory=list)
    waiting: int = 0
    rejected: list[Arrival] = field(default_factory=list)


def scan_inbox(
    inbox: Path, ledger: Ledger, now: float, *, settle_seconds: float, limit: int, set_aside: bool = True
) -> Scan:
    """Look at the inbox and say which files are ready to be taken in.

    Costs one stat a file; no file is opened.

    Args:
        inbox: The folder; only files directly in it count, hidden and unfinished ones do not.
        ledger: Known files; new and changed ones are put down.
        now: Seconds since the epoch.
        settle_seconds: A file is ready when it was seen this long with the same size and time of change, and was not
            written to for as long.
        limit: How many ready files to name.
        set_aside: Whether files whose names are no text are set aside; else they wait.
    """
    seen = dict(_fingerprints(inbox))
    unspeakable = {path: seen.pop(path) for path in list(seen) if not _is_text(path)}
    known = ledger.fingerprints()
    if seen != known:
        changed = {path: fingerprint for path, fingerprint in seen.items() if known.get(path) != fingerprint}
        ledger.note_files(changed, known.keys() - seen.keys(), now)
    scan = Scan(known=len(seen) + len(unspeakable))
    for path, fingerprint in unspeakable.items():
        young = 0 <= now - fingerprint.mtime_ns / 1e9 < settle_seconds
        if young or not set_aside or not _reject_name(inbox, path, fingerprint, scan):
            scan.waiting += 1
    waiting = ledger.files("waiting").values()
    if seen_too_early := {file.path: file.fingerprint for file in waiting if file.seen_at > now}:
        ledger.note_files(seen_too_early, [], now)  # the clock was set back: their waiting begins now
    for file in waiting:
        written_at = file.fingerprint.mtime_ns / 1e9
        still_since = max(file.seen_at, written_at if written_at <= now else 0)  # a time in the future means nothing
        if now - still_since >= settle_seconds and len(scan.ready) < limit:
            scan.ready.append(file.path)
        else:
            scan.waiting += 1
    return scan


def _is_text(name: str) -> bool:
    """Whether a file's name is UTF-8; old archives and other systems leave names that are not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    """A name for messages: bytes that are no text are spelled out."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _reject_name(inbox: Path, name: str, fingerprint: Fingerprint, scan: Scan) -> bool:
    """Set a file aside whose name is not text; False if the home refuses, and the next look tries again."""
    error = InputError(f"the file's name is not UTF-8: {_shown(name)}", hint="give it a name of ordinary letters")
    try:
        reject(inbox, name, fingerprint, error)
    except (VirnucError, FileNotFoundError):
        return False
    scan.rejected.append(Arrival(_shown(name), "rejected", note=error.message))
    return True


def _fingerprints(inbox: Path) -> Iterator[tuple[str, Fingerprint]]:
    """Name and fingerprint of every file that may be an input."""
    try:
        with typed_os_errors(inbox), os.scandir(inbox) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower().endswith(UNFINISHED):
                    continue
                try:
                    facts = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # moved away since
                if not stat.S_ISDIR(facts.st_mode):
                    yield entry.name, Fingerprint(facts.st_size, facts.st_mtime_ns, facts.st_ino)
    except FileNotFoundError:
        return


def take_in(
    store: CheckpointStore,
    inbox: Path,
    name: str,
    ledger: Ledger,
    *,
    window_length: int,
    shard_size: int,
    allow_missing_end_mark: bool = False,
) -> Arrival:
    """Make a batch of one inbox file, or say why not; the ledger is told.

    The file stays where it is, unless it is rejected: then it lies in `inbox/rejected/` with a reason file beside it.

    Args:
        store: Where the sequences go.
        inbox: The folder.
        name: The file's name in it.
        ledger: Is told what became of the file.
        window_length: Bases a window.
        shard_size: Frames a shard.
        allow_missing_end_mark: Take BGZF files without their end mark, which are probably truncated.

    Raises:
        NoSpaceError, StorageError: The home cannot be written; the file is not at fault and stays as it is.
    """
    path = inbox / name
    try:
        fingerprint = Fingerprint.of(path)
    except FileNotFoundError:
        return Arrival(name, "changed", note="it is gone")
    try:
        with _copy(path, inbox, fingerprint) as (copy, sha256):
            batch = ledger.batch_with_content(sha256)
            if batch and _is_stored(store, batch):
                ledger.set_file(name, fingerprint, "duplicate", sha256=sha256, batch=batch)
                note_origin(ledger.path.parent, batch, InputFacts(str(path), fingerprint.size, sha256))
                return Arrival(name, "duplicate", batch, "the same content is a batch already")
            known = {key.batch for key in store.list(SEQUENCES)}
            batch, record = add_sequences(
                store, copy, name, window_length=window_length, shard_size=shard_size, replace_damaged=True,
                reuse_content=True, known_as=batch, allow_missing_end_mark=allow_missing_end_mark,
            )  # fmt: skip
    except ChangedError as error:
        ledger.note_files({name: Fingerprint.of(path)} if path.exists() else {}, [], datetime.now(UTC).timestamp())
        return Arrival(name, "changed", note=error.message)
    except InputError as error:
        reject(inbox, name, fingerprint, error)
        ledger.set_file(name, fingerprint, "rejected", note=error.message)
        return Arrival(name, "rejected", note=error.message)
    note_origin(ledger.path.parent, batch, InputFacts(str(path), fingerprint.size, sha256))
    state = "duplicate" if batch in known else "taken"
    ledger.set_file(name, fingerprint, state, sha256=sha256, batch=batch)
    return Arrival(name, state, batch, sequences=record.rows)


def _is_stored(store: CheckpointStore, batch: str) -> bool:
    """Whether the sequences of a batch are there and whole."""
    try:
        return len(store.load(batch_checkpoint(SEQUENCES, batch), Level.FULL)["ids"]) >= 0
    except CheckpointError:
        return False


@contextlib.contextmanager
def _copy(path: Path, inbox: Path, before: Fingerprint) -> Iterator[tuple[Path, str]]:
    """A private copy of a file that stood still while it was read, and its sha256.

    Raises:
        ChangedError: It did not stand still.
        InputError: It cannot be read, or is no regular file.
    """
    digest = hashlib.sha256()
    with spool(inbox) as copy:
        with _opened(path) as source, typed_os_errors(copy, lambda: before.size), copy.open("wb") as target:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
        if not path.exists() or Fingerprint.of(path) != before or copy.stat().st_size != before.size:
            raise ChangedError(f"{path.name} changed while it was read", path=path.name)
        yield copy, digest.hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file of the inbox, open for reading; no link is followed and no pipe waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        hint = "put the file itself here, readable for the user who runs virnuc"
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise InputError(f"{path.name} cannot be opened: {why}", hint=hint, path=path.name) from error
    with open(descriptor, "rb") as source:  # noqa: PTH123 - from a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"{path.name} is not a regular file", hint="put a file here", path=path.name)
        yield source


@contextlib.contextmanager
def spool(inbox: Path) -> Iterator[Path]:
    """A private, hidden file in the inbox, removed in the end; `sweep_spools` removes that of a killed process."""
    path = inbox / f".{uuid.uuid4().hex}{_SPOOL_SUFFIX}"
    try:
        with typed_os_errors(path):
            path.touch()
        with exclusive(path):
            yield path
    finally:
        with contextlib.suppress(OSError):  # not there, or in an inbox that cannot be written
            path.unlink()


def sweep_spools(inbox: Path) -> None:
    """Remove private copies of files whose run was killed."""
    remove_abandoned(inbox.glob(f".*{_SPOOL_SUFFIX}"))


def reject(inbox: Path, name: str, fingerprint: Fingerprint, error: InputError) -> Path:
    """Move a file to `inbox/rejected/` and write beside it why, and what to do.

    Args:
        inbox: The folder.
        name: The file's name in it.
        fingerprint: Of the file that was read; one that has taken its place since is left alone.
        error: What is wrong with it.

    Returns:
        Where it lies now.
    """
    folder = inbox / REJECTED
    make_folder(folder)
    short = name
    while len(os.fsencode(short)) > _NAME_BYTES:
        short = short[:-1]
    target = folder / short
    number = 1
    while os.path.lexists(target) or target.with_name(target.name + REASON_SUFFIX).exists():
        target = folder / f"{number}-{short}"
        number += 1
    at = datetime.now(UTC).isoformat(timespec="seconds")
    text = f"{_shown(name)} was rejected at {at}.\n\n{error.message}\n"
    text += f"What to do: {error.hint}\n" if error.hint else ""
    text += "Put the corrected file into the inbox again, under any name.\n"
    write_atomic(target.with_name(target.name + REASON_SUFFIX), text.encode())
    with contextlib.suppress(FileNotFoundError):  # someone has taken it away
        if Fingerprint.of(inbox / name) == fingerprint:
            with typed_os_errors(target):
                (inbox / name).rename(target)
    return target
