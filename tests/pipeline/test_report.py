"""The report of a real run: page and tables tell the same, and damage beside it is named."""

import csv

import numpy as np
import pytest
from kits.report import data_of

from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.cli import main
from virnuc_dagster.report import paths
from virnuc_dagster.report.rows import NO_PROBABILITY


def read(folder, name) -> list[dict[str, str]]:
    with (folder / name).open() as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_page_holds_what_the_tables_hold(unbroken):
    html = (unbroken.output / paths.HTML).read_bytes()
    page, windows = data_of(html, "sequences-data"), data_of(html, "windows-data")
    rows = read(unbroken.output, paths.SEQUENCES)

    assert page["ids"] == [row["sequence_id"] for row in rows]
    assert [page["verdicts"][code] for code in page["verdict"]] == [row["verdict"] for row in rows]
    for column, name in {"length": "length", "windows": "windows", "scored": "scored_windows"}.items():
        assert page[column].tolist() == [int(row[name]) for row in rows]
    shown = ["NA" if code == 0xFFFFFFFF else f"{code / 1e6:.6f}" for code in page["score"].tolist()]
    assert shown == [row["score"] for row in rows]

    table = read(unbroken.output, paths.WINDOWS)
    starts = np.concatenate([np.cumsum(steps) for steps in np.split(windows["step"], page["trace"][1:])])
    assert starts.tolist() == [int(row["start"]) for row in table]
    assert (starts + windows["span"]).tolist() == [int(row["end"]) for row in table]
    for column, name in {"virus": "score_virus", "others": "score_others"}.items():
        expected = [NO_PROBABILITY if r[name] == "NA" else round(float(r[name]) * 10_000) for r in table]
        assert np.abs(windows[column].astype(int) - expected).max() <= 1
    assert [page["sources"][code] for code in windows["source"]] == [row["source"] for row in table]


def test_frames_are_those_of_the_originals_table(unbroken):
    frames, original = (read(unbroken.output, name) for name in (paths.FRAMES, paths.FRAMES_ORIGINAL))
    assert [row["window_id"] + row["frame"] for row in frames] == [row["Sequence_ID"] for row in original]
    assert [row["score_virus"] for row in frames] == [row["score2"] for row in original]
    page = data_of((unbroken.output / paths.HTML).read_bytes(), "sequences-data")
    assert len(page["mapX"]) == len(frames)
    owners = [page["ids"][number] for number in page["mapSequence"]]
    assert owners == [row["sequence_id"] for row in frames]


@pytest.mark.parametrize("stage", ["dnabert_s_embeddings"])
def test_embeddings_that_cannot_be_read_are_named_and_do_not_stop_the_report(tmp_path, stage):
    (tmp_path / "x.fa").write_text("".join(f">s{i}\n" + "GCTGCC" * (60 + i) + "\n" for i in range(4)))
    arguments = ["predict", str(tmp_path / "x.fa"), "--output", str(tmp_path / "out"), "--home", str(tmp_path / "home")]
    arguments += ["--shard-size", "10", "--quiet"]
    assert main(arguments) == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in paths.REPRODUCIBLE}
    store = LocalStore(tmp_path / "home" / "store")
    key = store.list(stage)[0]
    path = tmp_path / "home" / "store" / stage / key.batch / store.record(key).file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))

    assert main(arguments) == 0  # the report that was made before shows the right map
    assert before == {name: (tmp_path / "out" / name).read_bytes() for name in paths.REPRODUCIBLE}
    (tmp_path / "home" / "reports" / key.batch / paths.SEAL).unlink()
    assert main(arguments) == 0

    after = {name: (tmp_path / "out" / name).read_bytes() for name in paths.REPRODUCIBLE}
    assert [name for name in before if after[name] != before[name]] == [paths.HTML]
    assert f"leaves out shard {key.shard}".encode() in after[paths.HTML]
