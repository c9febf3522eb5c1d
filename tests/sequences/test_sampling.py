"""A file's counts: exact where it is read whole, and an estimate that the truth lies near where it is not."""

import bz2
import gzip
import itertools
import os
import random
from pathlib import Path

import pytest
from kits.sequences import bgzf

from virnuc_dagster.errors import InputError
from virnuc_dagster.sequences.reader import read_sequences
from virnuc_dagster.sequences.sampling import Counts, estimate_file
from virnuc_dagster.sequences.streams import BGZF_END
from virnuc_dagster.sequences.translation import open_frames

DEMO = Path(__file__).parents[2] / "demo" / "demo.fasta"


def quick_gzip(text: bytes) -> bytes:
    return gzip.compress(text, 1)


def truth(path: Path) -> dict[str, int]:
    """Counted the plain way."""
    records = list(read_sequences(path, name="x"))
    table = open_frames([record.sequence for record in records], 500)
    return {
        "sequences": len(records),
        "bases": sum(len(record.sequence) for record in records),
        "windows": int(table.windows.sum()),
        "frames": len(table),
        "residues": sum(map(len, table.protein)),
    }


def known(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in ("sequences", "bases", "windows", "frames", "residues")}


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Real records cut into contigs of all lengths, 7 MB."""
    draw = random.Random(1)
    records = list(read_sequences(DEMO, name="demo"))
    path = tmp_path_factory.mktemp("many") / "many.fasta"
    with path.open("w") as file:
        for number in itertools.takewhile(lambda _: file.tell() < 7_000_000, itertools.count()):
            sequence = draw.choice(records).sequence.decode()
            start, length = draw.randrange(len(sequence)), int(draw.lognormvariate(7, 1)) + 1
            piece = sequence[start : start + length]
            lines = (piece[i : i + 70] for i in range(0, len(piece), 70))
            file.write(f">contig_{number} length={len(piece)}\n" + "\n".join(lines) + "\n")
    return path


def test_a_small_file_is_counted():
    found = estimate_file(DEMO, 500)
    assert found.exact
    assert known(found.counts) == truth(DEMO)
    assert (found.counts.id_letters, found.error, found.text_bytes) == (208, 0.0, DEMO.stat().st_size)


def test_pieces_of_a_large_file_come_near_the_truth(many):
    found = estimate_file(many, 500, exact_bytes=1_000_000, pieces=64, piece_bytes=20_000)

    expected = truth(many)
    assert not found.exact
    assert found.read_bytes < 1_300_000
    assert 0 < found.error < 0.2
    assert abs(found.counts.frames - expected["frames"]) < expected["frames"] * found.error * 1.5
    for name in ("sequences", "bases", "windows", "residues"):
        assert getattr(found.counts, name) == pytest.approx(expected[name], rel=0.1), name


@pytest.mark.parametrize("width", [60, 10**9], ids=["lines", "one line"])
def test_one_long_sequence(tmp_path, width):
    sequence = "".join(random.Random(2).choices("ACGT", k=4_000_000))
    path = tmp_path / "genome.fa"
    path.write_text(">chr1 one\n" + "\n".join(sequence[i : i + width] for i in range(0, len(sequence), width)) + "\n")

    found = estimate_file(path, 500, exact_bytes=1_000_000, pieces=20, piece_bytes=50_000)

    assert found.counts.sequences == pytest.approx(1, abs=4)
    assert found.counts.bases == pytest.approx(4_000_000, rel=0.001)
    assert found.counts.windows == pytest.approx(8_000, rel=0.02)


@pytest.mark.parametrize(("ending", "compress"), [("gz", quick_gzip), ("bz2", bz2.compress), ("bgz", bgzf)])
def test_of_a_compressed_file_pieces_lie_in_all_of_it(many, tmp_path, ending, compress):
    path = tmp_path / f"many.fa.{ending}"
    path.write_bytes(compress(many.read_bytes()))

    whole, part = estimate_file(path, 500), estimate_file(path, 500, exact_bytes=600_000, pieces=16)

    assert whole.exact
    assert known(whole.counts) == truth(many)
    assert not part.exact
    assert ("stand for about" in part.how) == (ending == "bgz")  # whose blocks are found without reading all
    assert 200_000 < part.read_bytes < (5_000_000 if ending == "bgz" else 1_000_000)  # a block of BGZF has 64 kB
    assert part.text_bytes == pytest.approx(many.stat().st_size, rel=0.03)
    assert part.counts.frames == pytest.approx(whole.counts.frames, rel=1.5 * part.error)


@pytest.mark.parametrize("compress", [bytes, quick_gzip, bgzf], ids=["plain", "gz", "bgzf"])
@pytest.mark.parametrize("order", ["longest first", "coding first"])
def test_the_interval_holds_the_truth_of_a_file_that_is_in_order(many, tmp_path, compress, order):
    """An assembly by length: the first of its contigs have a tenth of the frames of the last."""
    draw, path = random.Random(4), tmp_path / "assembly.fa"
    found = [record.sequence.decode() for record in read_sequences(many, name="many") if len(record.sequence) > 300]
    if order == "longest first":
        found = sorted(found + ["".join(draw.choices("ACGT", k=20_000)) for _ in range(150)], key=len, reverse=True)
    else:
        found += ["".join(draw.choices("ACGT", k=2_000)) for _ in range(2_000)]
    path.write_bytes(compress("".join(f">n_{i}\n{text}\n" for i, text in enumerate(found)).encode()))

    estimate = estimate_file(path, 500, exact_bytes=1_920_000, piece_bytes=30_000)

    frames = truth(path)["frames"]
    assert not estimate.exact
    assert 0.01 < estimate.error < 0.5
    assert abs(estimate.counts.frames - frames) <= estimate.error * frames


@pytest.mark.parametrize("piece_bytes", range(1_000, 1_009))
def test_a_header_at_a_border_is_none(tmp_path, piece_bytes):
    """A piece may end within a header; what is left of it has no id, or that of another record."""
    path = tmp_path / "short.fa"
    path.write_text("".join(f">r{i}\nACGTT\n" for i in range(5_000)))
    found = estimate_file(path, 500, exact_bytes=10_000, pieces=20, piece_bytes=piece_bytes)
    assert found.counts.sequences == pytest.approx(5_000, rel=0.03)


def test_without_a_look_at_all_of_the_file_no_interval_is_stated(many, tmp_path):
    path = tmp_path / "many.fa.gz"
    path.write_bytes(quick_gzip(many.read_bytes()))
    found = estimate_file(path, 500, exact_bytes=500_000, whole_bytes=3_000_000)
    assert (found.exact, found.error) == (False, None)
    assert found.how.startswith("the first 3 MB of text stand for about ")
    assert found.text_bytes == pytest.approx(many.stat().st_size, rel=0.15)


def test_where_frames_are_rare_no_interval_is_stated(tmp_path):
    path = tmp_path / "stops.fa"
    path.write_text(">a\n" + "TAACTAACTAAC" * 200_000 + "\n")
    found = estimate_file(path, 500, exact_bytes=1_000_000, piece_bytes=20_000)
    assert (found.counts.sequences, found.counts.frames, found.error) == (1, 0, None)


def test_a_cut_file_is_not_planned(many, tmp_path):
    path, blocks = tmp_path / "cut.fa.gz", bgzf(many.read_bytes())[: -len(BGZF_END)]
    path.write_bytes(blocks)
    for exact_bytes in (50_000_000, 1_000_000):
        with pytest.raises(InputError, match="probably truncated"):
            estimate_file(path, 500, exact_bytes=exact_bytes)
    assert estimate_file(path, 500, allow_missing_end_mark=True).exact


def test_fastq_records_are_found_in_the_middle(tmp_path):
    draw = random.Random(3)
    path = tmp_path / "reads.fq"
    reads = ["".join(draw.choices("ACGT", k=150)) for _ in range(20_000)]
    quality = [("@" + "".join(draw.choices("@+>I", k=149))) for _ in reads]  # a quality line may look like a header
    path.write_text("".join(f"@read_{i}\n{r}\n+\n{q}\n" for i, (r, q) in enumerate(zip(reads, quality, strict=True))))

    found = estimate_file(path, 500, exact_bytes=1_000_000, pieces=30, piece_bytes=20_000)

    expected = truth(path)
    assert found.counts.sequences == pytest.approx(20_000, rel=0.01)
    assert found.counts.bases == pytest.approx(3_000_000, rel=0.01)
    assert found.counts.frames == pytest.approx(expected["frames"], rel=0.1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + b"x" * 3_000_000, "zip"),
        (b">a\nACGT\n" + b"ACGT!" * 600_000, "file.fa, line 3"),
        (None, "no such file"),
    ],
    ids=["another format", "a foreign letter", "absent"],
)
def test_what_is_no_sequence_file_is_refused(tmp_path, content, message):
    path = tmp_path / "file.fa"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        estimate_file(path, 500, exact_bytes=1_000_000)


@pytest.mark.parametrize(("compress", "ratio"), [(quick_gzip, 200), (bz2.compress, 100_000)], ids=["gz", "bz2"])
def test_a_file_of_almost_nothing_is_not_taken_for_half_of_it(tmp_path, compress, ratio):
    path = tmp_path / "a.fa"
    path.write_bytes(compress(b">a\n" + b"A" * 200_000_000))
    assert 200_000_000 / path.stat().st_size > ratio

    found = estimate_file(path, 500, exact_bytes=1_000_000, pieces=4)

    assert 500_000 <= found.read_bytes <= 2_000_000
    assert found.text_bytes == pytest.approx(200_000_000, rel=0.1)
    assert found.counts.bases == pytest.approx(200_000_000, rel=0.1)


def test_what_is_no_plain_file_is_named(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path, "is a directory"), (tmp_path / "pipe", "no plain file"), (Path("-"), "no plain")):
        with pytest.raises(InputError, match=message):
            estimate_file(path, 500)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    monkeypatch.setattr(Path, "open", denied)  # root may read everything
    with pytest.raises(InputError, match="not allowed to read it"):
        estimate_file(tmp_path / "a.fa", 500)


def test_line_ends_of_two_bytes_change_nothing(many, tmp_path):
    path = tmp_path / "many.fasta"
    path.write_bytes(many.read_bytes().replace(b"\n", b"\r\n"))
    found = estimate_file(path, 500, exact_bytes=1_000_000, pieces=64, piece_bytes=50_000)
    assert found.counts.bases == pytest.approx(truth(many)["bases"], rel=0.005)


def long_reads(path: Path, reads: int, length: int, width: int = 10**9) -> Path:
    """FASTQ of random reads, their sequences in lines of `width`."""
    draw = random.Random(3)
    with path.open("w") as file:
        for number in range(reads):
            sequence = "".join(draw.choices("ACGT", k=length))
            lines = "\n".join(sequence[i : i + width] for i in range(0, length, width))
            file.write(f"@read_{number}\n{lines}\n+\n{'I' * length}\n")
    return path


def test_reads_longer_than_a_piece(tmp_path):
    path = long_reads(tmp_path / "long.fastq", 60, 30_000)
    found = estimate_file(path, 500, exact_bytes=1_000_000, pieces=32, piece_bytes=50_000)
    assert not found.exact
    assert found.counts.bases == pytest.approx(60 * 30_000, rel=0.01)
    assert found.counts.sequences == pytest.approx(60, abs=1)


def test_reads_too_long_for_any_piece_are_counted(tmp_path):
    path = long_reads(tmp_path / "long.fastq", 3, 500_000)
    found = estimate_file(path, 500, exact_bytes=1_000_000, pieces=16, piece_bytes=10_000)
    assert (found.exact, found.counts.bases) == (True, 1_500_000)


def test_a_large_fastq_in_lines_is_counted(tmp_path):
    path = long_reads(tmp_path / "lines.fastq", 300, 3_000, width=70)
    found = estimate_file(path, 500, exact_bytes=1_000_000)
    assert (found.exact, found.counts.sequences, found.counts.bases) == (True, 300, 900_000)
