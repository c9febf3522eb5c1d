"""The functions of the earlier code, with their promises kept this time."""

import subprocess
import sys

import pytest
import torch

from virnuc_dagster.checkpoints import CheckpointError, CheckpointMissingError, LocalStore, compat
from virnuc_dagster.checkpoints.failed import LIST_BYTES_MAX, read_failed

PAYLOAD = {"ids": ["a", "b"], "data": torch.ones(2, 3)}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "output_1_ESM.pt"
    compat.atomic_save(PAYLOAD, path, "esm2_embeddings")
    return path


def data_file(path):
    return next(path.parent.glob("output_1_ESM.*.pt"))


def test_saved_is_marked_and_loads(path):
    assert compat.has_done_marker(path)
    assert torch.equal(compat.load_with_compatibility(path)["data"], PAYLOAD["data"])
    assert compat.validate_checkpoint(path) == (True, "")
    assert compat.checkpoint_info(data_file(path)).rows == 2


def test_a_marker_does_not_vouch_for_other_bytes(path):
    good = data_file(path).read_bytes()
    data_file(path).write_bytes(good[:-1])
    assert not compat.has_done_marker(path)
    data_file(path).write_bytes(good[:-30] + b"\1" + good[-29:])

    ok, reason = compat.validate_checkpoint(path)
    with pytest.raises(CheckpointError) as caught:
        compat.load_with_compatibility(path)

    assert not ok
    assert "digest differs" in reason or "ZIP" in reason
    assert caught.value.error_type == "corrupted"
    assert caught.value.exit_code == compat.EXIT_CODE == 3


def test_removing_the_marker_makes_it_incomplete(path):
    compat.remove_done_marker(path)
    assert not compat.has_done_marker(path)
    with pytest.raises(CheckpointMissingError):
        compat.load_with_compatibility(path)


def test_a_finished_file_of_the_original_can_be_marked(shared, tmp_path):
    old = tmp_path / "output_1_ESM.pt"
    old.write_bytes((shared / "vanilla" / "output_1_ESM.pt").read_bytes())
    assert not compat.has_done_marker(old)

    record = compat.create_done_marker(old)

    assert compat.has_done_marker(old)
    assert (record.rows, record.dim) == (4, 2560)


def test_many_are_validated_although_one_is_damaged(path, tmp_path):
    bad, absent = tmp_path / "bad.pt", tmp_path / "absent.pt"
    bad.write_bytes(b"")
    found = compat.validate_checkpoints([bad, absent, path])
    assert [ok for ok, _ in found.values()] == [False, False, True]
    assert found[bad][1] == "corrupted: file is 0 bytes"


def test_incompatible_is_told_from_corrupted(tmp_path):
    torch.save({"version": "10.0", "ids": []}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="upgrade") as caught:
        compat.load_with_compatibility(tmp_path / "new.pt")
    assert caught.value.error_type == "incompatible"


@pytest.mark.parametrize("name", ["plain.pt", "a|b\nc\r\u2028.pt", "ä ö/%7C.pt", "x" * 500])
def test_the_list_of_failed_checkpoints_reads_back(tmp_path, name):
    compat.log_failed_checkpoint(tmp_path, tmp_path / name, "bad | disk\nworse")
    compat.log_failed_checkpoint(tmp_path, tmp_path / "other", "x")

    first, second = compat.load_failed_checkpoints(tmp_path)

    assert first.path == str(tmp_path / name)
    assert (first.reason, second.reason) == ("bad | disk\nworse", "x")
    assert first.at.endswith("+00:00")


def test_the_list_is_bounded_and_keeps_the_newest(tmp_path):
    for number in range(LIST_BYTES_MAX // 1_500):
        compat.log_failed_checkpoint(tmp_path, tmp_path / str(number), "y" * 1_990)
    size = (tmp_path / "failed_checkpoints.txt").stat().st_size
    assert size <= LIST_BYTES_MAX + 5_000
    assert compat.load_failed_checkpoints(tmp_path)[-1].path == str(tmp_path / str(number))


def test_the_store_writes_the_list(tmp_path):
    from kits.torture import KEY, save

    save(tmp_path, 1)
    LocalStore(tmp_path).quarantine(KEY, "digest differs")
    (line,) = read_failed(tmp_path / "failed_checkpoints.txt")
    assert line.reason == "digest differs"
    assert KEY.shard in line.path


def test_it_works_in_a_program_that_imports_nothing_else(tmp_path):
    code = (
        "import pathlib, torch; from virnuc_dagster.checkpoints import compat;"
        f"path = pathlib.Path({str(tmp_path / 'output_1_ESM.pt')!r});"
        "compat.atomic_save({'ids': ['a'], 'data': torch.ones(1, 8)}, path, 'esm2_embeddings');"
        "print(compat.load_with_compatibility(path)['ids'], compat.validate_checkpoint(path)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "['a'] True\n", done.stderr
