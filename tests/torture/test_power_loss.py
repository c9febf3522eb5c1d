"""T12: the current fails at any moment of an operation; every disk that the model allows is looked at.

What the model is, is in `power_model`. SIGKILL cannot show this: the kernel keeps what a dead process has written.
"""

import shutil
from pathlib import Path

import pytest
from kits.operations import OPERATIONS
from kits.power_model import Call, Disk, disk_of, parse
from kits.torture import CHANGING, FINISHED, FOLDER, KEY, assert_swept_clean, needs, run_victim, save, version_at

from virnuc_dagster.checkpoints import CheckpointError

#: What must be found once the operation has returned.
AFTERWARDS = {
    "first save": (1,), "overwrite": (2,), "third generation": (3,), "equal content again": (2,), "remove": (None,),
    "quarantine": (None,), "sweep": (2,),
}  # fmt: skip


class ViolationError(Exception):
    """A disk on which the store does not keep its promise."""


def recorded(name: str, folder: Path) -> tuple[Path, Disk, list[Call]]:
    """Prepare a store, run the operation on it under strace, and return the disk before with the calls made."""
    root = folder / "store"
    root.mkdir()
    for version in OPERATIONS[name].before:
        save(root, version)
    disk = disk_of(root)
    OPERATIONS[name].operate(folder / "warm", 20) if name != "quarantine" else None
    shutil.rmtree(folder / "warm", ignore_errors=True)
    options = ["-y", "-s", "10000000", "-e", f"trace={','.join(CHANGING)}"]
    end = run_victim(lambda: OPERATIONS[name].operate(root, 20), options, folder)
    assert end.code == FINISHED, end.message
    calls = parse(end.trace, root)
    replayed = disk_of_calls(disk, calls)
    assert replayed == {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}, "a call was missed"
    return root, disk, calls


def disk_of_calls(disk: Disk, calls: list[Call]) -> dict[Path, bytes]:
    """What programs see after the calls, by the model."""
    copy = copied(disk)
    for call in calls:
        copy.apply(call)
    return {Path(path): copy.files[number].seen for path, number in copy.seen.items() if number >= 0}


def copied(disk: Disk) -> Disk:
    import copy

    return copy.deepcopy(disk)


def check_all(name: str, root: Path, disk: Disk, calls: list[Call], place: Path) -> tuple[int, int]:
    """Look at every disk after every call; returns the number of moments and of distinct disks.

    Raises:
        ViolationError: One of them breaks the promise.
    """
    evidence = kept(name, disk)
    disk = copied(disk)
    looked: set[tuple] = set()
    for moment in range(len(calls) + 1):
        allowed = AFTERWARDS[name] if moment == len(calls) else OPERATIONS[name].found
        for state in disk.states():
            key = (allowed, *sorted((path, content) for path, content in state.items() if content is not None))
            if key not in looked:
                looked.add(key)
                if not evidence <= set(state.values()):
                    raise ViolationError("what was to be set aside is gone")
                look(state, root, place, allowed, f"after {calls[moment - 1] if moment else 'nothing'}")
        if moment < len(calls):
            disk.apply(calls[moment])
    return len(calls) + 1, len(looked)


def kept(name: str, disk: Disk) -> set[bytes]:
    """What must be somewhere on every disk: quarantine moves the record and its data file, and deletes nothing."""
    if name != "quarantine":
        return set()
    whole = {path: disk.files[number].seen for path, number in disk.entries.items() if number >= 0}
    record = next(content for path, content in whole.items() if path.endswith(".done"))
    return {
        record,
        *(content for path, content in whole.items() if Path(path).name.encode() in record.split(b"previous")[0]),
    }


def look(state: dict[str, bytes | None], root: Path, place: Path, allowed: tuple, moment: str) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for path, content in sorted(state.items()):
        here = place / Path(path).relative_to(root)
        if content is None:
            here.mkdir(exist_ok=True)
        else:
            here.write_bytes(content)
    try:
        version = version_at(place)
    except CheckpointError as error:
        raise ViolationError(f"{moment}: {error}") from error
    if version not in allowed:
        raise ViolationError(f"{moment}: version {version}, allowed {allowed}")
    assert_swept_clean(place, version)


@pytest.fixture
def place(tmp_path):
    needs("strace")
    return tmp_path / "found"


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_legal_disk(name, tmp_path, place, ledger):
    root, disk, calls = recorded(name, tmp_path)

    moments, disks = check_all(name, root, disk, calls, place)

    assert moments == len(calls) + 1 > 2
    assert disks > moments / 2
    ledger("T12", f"power loss in {name}", events=disks, whole=disks, moments=moments)


def test_folders_whose_maker_was_killed_are_made_durable(tmp_path, place):
    """Another process made the folders and died before it synced them; a save in them must not be lost with them."""
    needs("strace")
    root = tmp_path / "store"
    folders = [root / KEY.stage, root / FOLDER]
    for folder in (root, *folders):
        folder.mkdir()
    disk = Disk(entries={str(root): -1}, seen={str(root): -1}, folders={str(tmp_path)})
    for folder in folders:
        disk.apply(Call("mkdir", str(folder)))
    end = run_victim(lambda: save(root, 1), ["-y", "-s", "10000000", "-e", f"trace={','.join(CHANGING)}"], tmp_path)
    calls = parse(end.trace, root)

    check_all("first save", root, disk, calls, place)

    syncs = [call for call in calls if call.path in (str(root), str(root / KEY.stage))]
    with pytest.raises(ViolationError, match="version None"):
        check_all("first save", root, disk, [call for call in calls if call not in syncs], place)


def without(calls: list[Call], position: int) -> list[Call]:
    return calls[:position] + calls[position + 1 :]


@pytest.mark.parametrize("name", ["first save", "overwrite", "third generation", "remove", "quarantine"])
def test_each_fsync_is_needed(name, tmp_path, place):
    """The model would notice: leave one fsync out, and some disk breaks the promise."""
    root, disk, calls = recorded(name, tmp_path)
    syncs = [position for position, call in enumerate(calls) if call.name == "fsync"]
    assert syncs
    spare = []
    for position in syncs:
        try:
            check_all(name, root, disk, without(calls, position), place)
        except ViolationError:
            continue
        spare.append(calls[position].path.replace(str(root), "store"))
    assert spare == SPARE.get(name, []), "fsyncs without which nothing breaks"


#: In the model a rename between two folders is one step, durable with either; the store syncs both all the same.
SPARE = {"quarantine": ["store/.quarantine", "store/esm2_embeddings/demo-1"] * 2}


@pytest.mark.parametrize("name", ["first save", "overwrite"])
def test_the_order_is_needed(name, tmp_path, place):
    """The record renamed before the data file is named: some disk has a record without its data."""
    root, disk, calls = recorded(name, tmp_path)
    renames = [position for position, call in enumerate(calls) if call.name == "rename"]
    late = calls[renames[0]]
    moved = without(calls, renames[0])
    moved.insert(renames[1], late)
    with pytest.raises(ViolationError, match="missing"):
        check_all(name, root, disk, moved, place)
