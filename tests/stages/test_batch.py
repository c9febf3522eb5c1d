"""Conservation: every sequence is accounted for, every frame is in exactly one shard, in order, however it is cut."""

import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.errors import InputError
from virnuc_dagster.progress import Progress
from virnuc_dagster.sequences.translation import frame_id, open_frames
from virnuc_dagster.stages import batch as batch_module
from virnuc_dagster.stages import keys
from virnuc_dagster.stages.batch import add_sequences, build_batch, current_manifest
from virnuc_dagster.stages.keys import shard_checkpoint


def build(folder: Path, sequences: list[str], shard_size: int) -> tuple[dict, list[dict]]:
    """A batch of these sequences: its manifest and the frames of its shards, in order."""
    (folder / "x.fa").write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(sequences)))
    store = LocalStore(folder / "store")
    batch, _ = add_sequences(store, folder / "x.fa", "x.fa", window_length=60, shard_size=shard_size)
    manifest = build_batch(store, batch, Progress(), {})
    return manifest, [store.load(shard_checkpoint("frames", shard)) for shard in manifest["shards"]]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(alphabet="ACGTN", max_size=200), min_size=1, max_size=12),
    st.integers(1, 20),
    st.sampled_from([1, 100, 4_000_000]),
)
def test_frames_in_are_rows_out(sequences, shard_size, scan_bases):
    table = open_frames([text.encode() for text in sequences], 60)
    expected = [
        (frame_id(f"s{s}", w, f), nucleotide, protein)
        for s, w, f, nucleotide, protein in zip(
            table.sequence, table.window, table.frame, table.nucleotide, table.protein, strict=True
        )
    ]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_module, "_SCAN_BASES", scan_bases)
        manifest, shards = build(Path(folder), sequences, shard_size)

    rows = [row for s in shards for row in zip(s["ids"], s["nucleotide"], s["protein"], strict=True)]
    assert rows == expected
    assert [len(s["ids"]) for s in shards] == manifest["shard_rows"]
    assert all(len(s["ids"]) == shard_size for s in shards[:-1])
    assert manifest["ids"] == [f"s{i}" for i in range(len(sequences))]
    assert manifest["length"].tolist() == [len(text) for text in sequences]
    assert manifest["windows"].tolist() == table.windows.tolist()
    assert manifest["frames"].sum() == len(expected)
    opened = {(s, w) for s, w in zip(table.sequence.tolist(), table.window.tolist(), strict=True)}
    assert manifest["open_windows"].tolist() == [sum(s == i for s, _ in opened) for i in range(len(sequences))]


def test_a_manifest_is_current_only_while_all_frames_are_there(tmp_path):
    (tmp_path / "x.fa").write_text(">a\n" + "GCTGCC" * 40 + "\n")
    store = LocalStore(tmp_path / "store")
    batch, _ = add_sequences(store, tmp_path / "x.fa", "x", window_length=60, shard_size=5)
    assert current_manifest(store, batch) is None
    manifest = build_batch(store, batch, Progress(), {})
    provenance = batch_module.batch_provenance(store, batch)
    store.save(batch_module.batch_checkpoint("sequence_batch", batch), manifest, provenance)
    assert current_manifest(store, batch)["shards"] == manifest["shards"]

    store.remove(shard_checkpoint("frames", manifest["shards"][1]))

    assert current_manifest(store, batch) is None


def test_a_batch_whose_name_ended_in_bgz_keeps_its_earlier_key(tmp_path, monkeypatch):
    (tmp_path / "x.fa").write_text(">a\n" + "GCTGCC" * 40 + "\n")
    add = partial(add_sequences, source=tmp_path / "x.fa", name="x.fa.bgz", window_length=60, shard_size=5)
    new, _ = add(LocalStore(tmp_path / "new"))
    store = LocalStore(tmp_path / "store")
    monkeypatch.setattr(keys, "_SUFFIXES", keys._EARLIER_SUFFIXES)
    old, stored = add(store)
    monkeypatch.undo()

    assert (new.rsplit("-", 1)[0], old.rsplit("-", 1)[0]) == ("x", "x-fa-bgz")
    assert add(store) == (old, stored)
    assert add(store, name="x.fa.gz")[0] == new  # as before: a name of its own


def test_bad_input_stores_nothing(tmp_path):
    (tmp_path / "x.fa").write_text(">a\nACGT\n>a\nACGT\n")

    with pytest.raises(InputError, match=r"line 1.*line 3|line 3.*line 1"):
        add_sequences(LocalStore(tmp_path / "store"), tmp_path / "x.fa", "x", window_length=500, shard_size=10)

    assert not (tmp_path / "store").exists()
