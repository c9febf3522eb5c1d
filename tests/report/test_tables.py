import json

import pytest
from kits.report import content, many, scored

from virnuc_dagster.checkpoints import NoSpaceError
from virnuc_dagster.classify.consensus import FrameScore, score_sequence, score_windows
from virnuc_dagster.report import multiqc, paths
from virnuc_dagster.report.outputs import write_together
from virnuc_dagster.report.tables import COLUMNS, OriginalWindows, Tables, frame_rows
from virnuc_dagster.sequences.translation import frame_id, known_shares, open_frames
from virnuc_dagster.sequences.windows import window_spans


def written(folder, sequences) -> dict[str, list[list[str]]]:
    def fill(outputs):
        tables = Tables(outputs)
        for sequence in sequences:
            tables.add_sequence(sequence, f"{sequence.id} whole header", "ACGT" * (sequence.length // 4))

    write_together({name: folder / name for name in paths.TABLES}, fill)
    return {name: [line.split("\t") for line in (folder / name).read_text().splitlines()] for name in paths.TABLES}


def test_headers_are_there_without_a_single_row(tmp_path):
    files = written(tmp_path, [])
    assert {name: rows for name, rows in files.items() if rows} == {
        name: [list(COLUMNS[name])] for name in paths.TABLES if name in COLUMNS
    }
    assert files[paths.VIRAL_FASTA] == []
    assert OriginalWindows().text() == "Modified_ID\tIs_Virus\n"


def test_a_row_a_sequence_and_a_row_a_window(tmp_path):
    files = written(tmp_path, [scored("a", 1200, [("frame", 0.9), None, ("fallback", 0.8)]), scored("b", 2, [])])
    assert files[paths.SEQUENCES][1:] == [
        ["a", "1200", "3", "1", "1", "0.850000", "viral", "0.0", "NA"],
        ["b", "2", "0", "0", "0", "NA", "too short", "0.0", "NA"],
    ]
    assert [row[7:] for row in files[paths.WINDOWS][1:]] == [
        ["True", "frame", "1.0000", "True"],
        ["NA", "none", "1.0000", "False"],
        ["True", "fallback", "1.0000", "True"],
    ]
    assert files[paths.VIRAL_FASTA][0] == [">a whole header"]


def test_what_does_not_count_keeps_its_rows_and_is_said_not_to(tmp_path):
    frames = [FrameScore("a_chunk_1F1", 0.1, 0.9)]
    known = known_shares(b"GCTNNNNNN" * 50, window_spans(450, 500))
    windows = list(score_windows("a", [(0, 450)], frames, known))
    sequence = score_sequence("a", 450, windows, viral=0.7, non_viral=0.3, unknown_bases=300)

    files = written(tmp_path, [sequence])
    original = OriginalWindows()
    original.add(sequence)

    assert files[paths.SEQUENCES][1][3:] == ["0", "0", "NA", "uncertain", "0.6666667", "too_little_known"]
    assert files[paths.WINDOWS][1][4:] == ["1", "0.1", "0.9", "True", "frame", "0.3333", "False"]
    assert next(frame_rows("a", [(0, 450)], frames, known))[-1] == "0.3333"
    assert original.text().splitlines()[1:] == ["a_chunk_1\tTrue"]


def test_a_fallback_score_never_reaches_the_originals_file():
    table = OriginalWindows()
    table.add(scored("b", 1200, [("frame", 0.9), None, ("fallback", 0.8)]))
    table.add(scored("a", 500, [("frame", 0.1)]))
    assert table.text().splitlines()[1:] == ["a_chunk_1\tFalse", "b_chunk_1\tTrue"]


def test_frames_lie_where_their_codons_are():
    text = ("GCTGCCACC" * 90 + "TTGACC" * 60)[:1111]
    table = open_frames([text.encode()], 500)
    spans = window_spans(len(text), 500).tolist()
    places = list(zip(table.sequence.tolist(), table.window.tolist(), table.frame.tolist(), strict=True))
    frames = [FrameScore(frame_id("s", window, frame), 0.5, 0.5) for _, window, frame in places]
    opposite = str.maketrans("ACGT", "TGCA")

    rows = list(frame_rows("s", spans, frames))

    assert {row[3] for row in rows} == {"+", "-"}
    for row, nucleotide, protein in zip(rows, table.nucleotide, table.protein, strict=True):
        codons = text[row[4] : row[5]]
        codons = codons if row[3] == "+" else codons[::-1].translate(opposite)
        assert len(codons) == 3 * len(protein)
        assert nucleotide.startswith(codons)


def test_nothing_is_replaced_if_one_file_cannot_be_finished(tmp_path):
    for name in paths.TABLES:
        (tmp_path / name).write_text("earlier")

    def fill(outputs):
        outputs[paths.SEQUENCES].write("new")
        raise NoSpaceError("full")

    with pytest.raises(NoSpaceError):
        write_together({name: tmp_path / name for name in paths.TABLES}, fill)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(paths.TABLES, "earlier")


def test_a_full_disk_is_named_with_the_file(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")

    def fill(outputs):
        outputs["a"].file.close()
        object.__setattr__(outputs["a"], "file", open("/dev/full", "wb", buffering=0))  # noqa: PTH123, SIM115
        outputs["a"].write("text")

    with pytest.raises(NoSpaceError, match=r"a\.tsv: no space left for 4 bytes"):
        write_together({"a": tmp_path / "a.tsv"}, fill)
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_multiqc_content_holds_the_counts():
    summary = content(many(200)).summary
    bars, columns = multiqc.verdicts(summary), multiqc.columns(summary)
    assert sum(bars["data"][summary["batch"]].values()) == 200
    assert set(bars["data"][summary["batch"]]) == set(bars["categories"])
    assert set(columns["data"][summary["batch"]]) == set(columns["headers"])
    assert json.loads(json.dumps(bars)) == bars
