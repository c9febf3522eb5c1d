import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from kits.sequences import bgzf, with_another_subfield

from virnuc_dagster.errors import InputError
from virnuc_dagster.sequences import streams
from virnuc_dagster.sequences.reader import SequenceRecord, read_sequences
from virnuc_dagster.sequences.streams import BGZF_END

COMPRESSORS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress}
PZSTD_START = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
FASTA = b"".join(b">s%d about\n%s\n" % (i, b"ACGTTGCA" * (i % 50)) for i in range(3000))


def read(content: bytes) -> list[SequenceRecord]:
    return list(read_sequences(io.BytesIO(content), name="in.fa"))


def tar_of(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("s.fa")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "expected", "why"),
    [
        (b">s1 d e\nACGT\n", [("s1", "s1 d e", b"ACGT")], "id up to the first blank, description the whole line"),
        (b">s1\td\te \nAC\n", [("s1", "s1\td\te ", b"AC")], "a tab ends the id; the header is kept as it is"),
        (b"> s1\nAC\n", [("s1", " s1", b"AC")], "a blank before the id, as the original reads it"),
        (">sé1 µ\nAC\n".encode(), [("sé1", "sé1 µ", b"AC")], "UTF-8 headers"),
        (">sé1\nAC\n".encode("latin-1"), [("sé1", "sé1", b"AC")], "Latin-1 headers of old files"),
        (b"\xef\xbb\xbf>s1\nAC\n", [("s1", "s1", b"AC")], "UTF-8 BOM"),
        (b">s1 d\r\nAC\r\nGT\r\n>s2\r\nA\r\n", [("s1", "s1 d", b"ACGT"), ("s2", "s2", b"A")], "CRLF"),
        (b">s1 d\rAC\rGT\r>s2\rA\r", [("s1", "s1 d", b"ACGT"), ("s2", "s2", b"A")], "CR of old Macs"),
        (b">s1\nAC\nGT", [("s1", "s1", b"ACGT")], "several lines, no last line end"),
        (b"\n \n>s1\n\nAC\n\nGT\n\n", [("s1", "s1", b"ACGT")], "blank lines anywhere"),
        (b">s1\n AC G\tT \n", [("s1", "s1", b"ACGT")], "white space in FASTA lines carries no meaning"),
        (b">s1\nacgtun\n", [("s1", "s1", b"ACGTTN")], "upper case; U is T"),
        (b">s1\nRYSWKMBDHVN\n", [("s1", "s1", b"RYSWKMBDHVN")], "IUPAC letters are kept"),
        (b">s1\n>s2\nA\n>s3", [("s1", "s1", b""), ("s2", "s2", b"A"), ("s3", "s3", b"")], "empty sequences"),
        (b">s1 >x\nA\n", [("s1", "s1 >x", b"A")], "> within a header"),
        (b"@s1 d\nACGT\n+\n>III\n@s2\nu\n+s2\n@", [("s1", "s1 d", b"ACGT"), ("s2", "s2", b"T")], "FASTQ"),
        (b"@s1\r\nAC\r\n+\r\nII\r\n", [("s1", "s1", b"AC")], "FASTQ with CRLF"),
        (b"@s1\nAC\nGT\n+\nII\nI@\n", [("s1", "s1", b"ACGT")], "FASTQ in lines"),
        (b"@s1\nACGT\n+s1\nIII\n@\n@s2\nA\n+\n@\n", [("s1", "s1", b"ACGT"), ("s2", "s2", b"A")], "quality in lines"),
        (b"@s1\nAC\nG\n+\n@+I\n", [("s1", "s1", b"ACG")], "only the sequence in lines"),
        (b"@s1\nA.n\n+\nI.I\n", [("s1", "s1", b"ANN")], "a dot of FASTQ is N"),
        (b"\n@s1\n\n+\n\n\n@s2\nA\n+\nI\n\n", [("s1", "s1", b""), ("s2", "s2", b"A")], "empty read, blank lines"),
    ],
)
def test_what_is_read(content, expected, why):
    assert [(record.id, record.description, record.sequence) for record in read(content)] == expected, why


@pytest.mark.parametrize(
    ("content", "line", "problem", "remedy"),
    [
        (b"", None, "holds no sequences", "right file"),
        (b"\n\r\n \n", None, "holds no sequences", "right file"),
        (gzip.compress(b"", mtime=0), None, "holds no sequences", "right file"),
        (b"\n\nhello\n", 3, "found 'hello'", "give a FASTA or FASTQ file"),
        (b"\0\1\2", 1, "a binary file", "file that holds the sequences"),
        (b"\x89PNG\r\n\x1a\n", 1, "a PNG image", "file that holds the sequences"),
        (gzip.compress(b"BAM\1\0\0", mtime=0), 1, "a BAM file", "samtools fasta"),
        (b"@SQ\tSN:x\n", 1, "a SAM file", "samtools fasta"),
        (b"PK\3\4rest", 1, "a zip archive", "unpack it"),
        (gzip.compress(tar_of(FASTA), mtime=0), 1, "a tar archive", "unpack it"),
        (gzip.compress(gzip.compress(FASTA), mtime=0), 1, "compressed twice", "gzip -d"),
        (">s1\nAC\n".encode("utf-16"), 1, "UTF-16", "iconv"),
        (b"LOCUS  NC_1\n", 1, "a GenBank file", "SeqIO.convert"),
        (b"<!DOCTYPE html>", 1, "a web page", "download"),
        (b">s1\nA\n>\nAC\n", 3, "the header has no id", "awk"),
        (b">s1\nA\n> \nAC\n", 3, "the header has no id", "awk"),
        (b">s\x00\nA\n", 1, r"the id 's\x00' holds a character that cannot be printed", "rename"),
        (b">a\nA\n>b\n\n>a c\nT\n", 5, "record 3 has the id 'a' of record 1 (line 1)", "seqkit rename"),
        (b"@a 1\nA\n+\nI\n@a 2\nA\n+\nI\n", 5, "record 2 has the id 'a' of record 1 (line 1)", "mates of a pair"),
        (b">a\r\nAC\r\nA-C\r\n", 3, "record 'a' holds gap '-'", "s/-//g"),
        (b">a\nAC\n>b x\n\nNN..\n", 5, "record 'b' holds '.', a gap or an unknown base", "s/[.]/N/g"),
        (b">p\nACMKV\nLLEFIPSQ*\n", 3, "letter 'L', and most letters are amino acids", "not proteins"),
        (b">p\nMKRW*\n", 2, "letter '*', and most letters are amino acids", "not proteins"),
        (b">a\nACGT*\n", 2, "record 'a' holds '*' at its end", "only marks the end"),
        (b">a\nAC*GT\n", 2, "record 'a' holds '*', which is not a nucleotide", "write N"),
        (b">a\nACGTXX\n", 2, "letter 'X', which means an amino acid", "s/[Xx]/N/g"),
        (b">a\n 1 ACGT\n", 2, "digit '1'", "position numbers"),
        (b">a\nACGT>b\nAC\n", 2, "'>' inside a line", "joined"),
        (b">a\nAC\xffGT\n", 2, "byte 0xff, which is not a nucleotide", "write N"),
        (b"@a\nACGT\n+\nIII\n", 4, "record 'a' has 4 bases but 3 quality values", "again"),
        (b"@a\nAC\n+\nII\n@b\nAC\n", 5, "record 'b' is incomplete: truncated", "again"),
        (b"@a\nAC\nIIII\n", 3, "expected the + line of record 'a'", "again"),
        (b"@a\nACGT\n+\nII\n@b\nAC\n+\nII\n", 6, "found 'AC'", "again"),
        (b"@a\nACGTACGT\n+\nII\n@bb\nA\n+\nI\n", 4, "8 bases but 2 quality values", "again"),
        (b"@a\nAC\n+\nII\n>b\nAC\n", 5, "a header of FASTA", "two files"),
        (b">a\nAC\n@b\nAC\n+\nII\n", 3, "as of a FASTQ header", "two files"),
        (b">a\nAC\n;GT\n", 3, "a comment line (;)", "grep -v"),
        (b">a\nA\xc2\xa0C\n", 2, "NO-BREAK SPACE (U+00A0)", "sed"),
        (b">a\nA\xe2\x80\x93C\n", 2, "EN DASH (U+2013), which is not a nucleotide", "allowed are"),
        (b">a\nA\0C\n", 2, "a NUL byte", "never written"),
        (b">a\nA\x0cC\n", 2, "byte 0x0c, a control character", "damaged"),
        (b">a\n40 40 2\n", 2, "quality values", "FASTA file that belongs"),
        (b">a\nT0120.3\n", 2, "colours (SOLiD)", "reads in bases"),
        (b"@a\nT0120.3\n+\nIIIIIII\n", 2, "colours (SOLiD)", "reads in bases"),
        (b">\0a\0\n\0A\0", 1, "text in UTF-16", "UTF-16LE"),
        (b'{"error": 1}', 1, "JSON", "download"),
        (b"@a\nAC\n+\nII\nb\nAC\n+\nII\n", 5, "expected a FASTQ header (@), found 'b'", "again"),
        (b"@a\nA C\n+\nIII\n", 2, "' ', which is not a nucleotide", "write N"),
    ],
)
def test_what_is_refused_and_how(content, line, problem, remedy):
    with pytest.raises(InputError) as caught:
        read(content)
    error = caught.value
    assert error.message.startswith("in.fa: " if line is None else f"in.fa, line {line}: ")
    assert problem in error.message
    assert remedy in error.hint
    assert error.fields == {"path": "in.fa", "line": line}


SAM_ROW = b"r1\t4\t*\t0\t0\t*\t*\t0\t0\tATGGCC\tIIIIII\n"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"@HD\tVN:1.6\n" + SAM_ROW, "a SAM file"),
        (b"@RG\tID:1\n@PG\tID:bwa\n" + SAM_ROW, "a SAM file"),
        (b"@PG\tID:bwa\n" + SAM_ROW, "a SAM file"),
        (b"@CO\tfree words\n" + SAM_ROW, "a SAM file"),
        (SAM_ROW, "a SAM file without its header"),
        (b"r1\t99\tchr1\t7\t60\t3M1I2M\t=\t37\t39\tATGGCC\t*\tNM:i:1\n", "a SAM file without its header"),
        (b"H\tVN:Z:1.0\nS\t1\tACGT\n", "an assembly graph (GFA)"),
        (b"S\t1\tACGT\tLN:i:4\n", "an assembly graph (GFA)"),
        (b"##fileformat=VCFv4.2\n", "a table of variants (VCF)"),
        (b"##gff-version 3\n", "an annotation table (GFF)"),
        (b"chr1\tx\tgene\t1\t9\t.\t+\t.\tID=g\n", "an annotation table (GFF)"),
        (b"chr1\t5000\t6\t70\t71\n", "an index of a sequence file (.fai)"),
        (b"r1\t150\t4\t150\t151\t158\n", "an index of a sequence file (.fai)"),
        (b"chr1\t100\t200\tname\t0\t+\n", "a table of places (BED)"),
        (b"q\t10\t0\t9\t+\tt\t20\t1\t10\t9\t9\t60\n", "a table of alignments (PAF)"),
        (b"q\ts\t98.5\t100\t1\t0\t1\t100\t5\t104\t1e-50\t 190\n", "a table of BLAST hits"),
        (b"a\tACGTACGTACGT\n", "a table of ids and sequences"),
        (b"id\tname\tx\n", "a tab-separated table"),
        (b"3 60\nA ACGT\n", "an alignment (PHYLIP)"),
    ],
)
def test_formats_are_named(content, what):
    with pytest.raises(InputError) as caught:
        read(content)
    assert caught.value.message == f"in.fa, line 1: this is {what}, not FASTA or FASTQ"


def test_a_fastq_record_may_be_called_like_a_line_of_sam():
    assert read(b"@CO\tx\nACGT\n+\nIIII\n")[0].id == "CO"


@pytest.mark.parametrize(
    ("content", "records"),
    [
        (SAM_ROW + b"r2\t77\t*\t0\t0\t*\t*\t0\t0\tAC\tII\nr2\t141\t*\t0\t0\t*\t*\t0\t0\tGG\tII\n"
         b"r2\t2064\tc\t1\t0\t1M\t*\t0\t0\tG\tI\n", [("r1", b"ATGGCC"), ("r2/1", b"AC"), ("r2/2", b"GG")]),
        (b"H\tVN:Z:1.0\nS\t1\tACGT\nS\t2\t*\nL\t1\t+\t1\t+\t0M\n", [("1", b"ACGT")]),
        (b"a\tACGTACGTACGT\n", [("a", b"ACGTACGTACGT")]),
        (b"##gff-version 3\nc\tx\tgene\t1\t2\n##FASTA\n>c\nACGT\n", [("c", b"ACGT")]),
        (b";made by hand\n>a\nAC\n", [("a", b"AC")]),
        (b";a first\n;more\nAC\nGT\n;b\nA\n", [("a", b"ACGT"), ("b", b"A")]),
        (b"ACGTACGTACGT\n", [("NAME", b"ACGTACGTACGT")]),
        (b">a\nAC\n;GT\nGG\n", [("a", b"ACGG")]),
        (b"\xef\xbb\xbf>a\nAC\n\xef\xbb\xbf>b\nGT\n", [("a", b"AC"), ("b", b"GT")]),
        (b"@a\nAC\n+\nII\n\xef\xbb\xbf@b\nGT\n+\nII\n", [("a", b"AC"), ("b", b"GT")]),
        (b">a\r\nAC\r\n\x1a", [("a", b"AC")]),
        (b"@a\nAC\n+\nII\n\x1a", [("a", b"AC")]),
        (b">a-b\nA-C\n-GT\n", [("a-b", b"ACGT")]),
        (b"@a-b\nA-C\n+\nI-I\n", [("a-b", b"ANC")]),
        (b"@aX\nAXC\n+X\nXXX\n", [("aX", b"ANC")]),
        (b">aX\nAXC\n", [("aX", b"ANC")]),
        (b">a\nAC\nGT*\n", [("a", b"ACGT")]),
        (b">a\n  1 acgt 5\n", [("a", b"ACGT")]),
        (b">a\nAC\n>\nGT\n", [("a", b"AC"), ("unnamed_3", b"GT")]),
        (b"@a\nAC\n+\nII\n@\nGT\n+\n@@\n", [("a", b"AC"), ("unnamed_5", b"GT")]),
    ],
)  # fmt: skip
def test_a_remedy_taken_literally_repairs_and_loses_nothing(tmp_path, content, records):
    with pytest.raises(InputError) as caught:
        read(content)
    (tmp_path / "FILE").write_bytes(content)
    command = caught.value.hint.split("`")[1]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    new = next(path for path in tmp_path.iterdir() if path.name != "FILE")
    assert [(record.id, record.sequence) for record in read(new.read_bytes())] == records


def test_of_a_compressed_file_the_remedy_says_what_it_is_for():
    with pytest.raises(InputError) as caught:
        list(read_sequences(io.BytesIO(gzip.compress(b">a\nA-C\n")), name="x.fa.gz"))
    assert caught.value.hint.endswith("FILE is the decompressed file")


@pytest.mark.parametrize("letter", "EFILPQJOZX*")
def test_every_protein_letter_is_refused(letter):
    with pytest.raises(InputError, match="looks like a protein"):
        read(f">p\nMKVR{letter}\n".encode())


@pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS)
@pytest.mark.parametrize("name", ["in.fa", "misleading.gz"])
def test_compression_is_told_by_content(tmp_path, compress, name):
    path = tmp_path / name
    path.write_bytes(compress(FASTA))
    assert list(read_sequences(path, name=name)) == read(FASTA)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        *(
            (compress(FASTA[:7001]) + compress(FASTA[7001:]), f"joined {name}")
            for name, compress in COMPRESSORS.items()
        ),
        (gzip.compress(FASTA, mtime=0) + b"\0" * 70_000, "padded with NUL"),
        (lzma.compress(FASTA) + b"\0" * 8, "padding of xz"),
        (PZSTD_START + zstandard.compress(FASTA), "pzstd starts with a frame to skip"),
        (gzip.compress(b"", mtime=0) + gzip.compress(FASTA) + gzip.compress(b""), "empty members, as bgzip's last"),
    ],
)
def test_members_are_read_to_the_last(content, why):
    assert read(content) == read(FASTA), why


@pytest.mark.parametrize(("name", "compress"), COMPRESSORS.items(), ids=COMPRESSORS)
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.999])
def test_truncated_archives_are_refused(name, compress, kept):
    content = compress(os.urandom(5000).hex().translate(str.maketrans("0123456789abcdef", "ACGT" * 4)).encode())
    with pytest.raises(InputError, match=rf"in.fa: the {name} data end too early") as caught:
        read(compress(b">a\n") + content[: int(len(content) * kept)])
    assert f"`{name} -t`" in caught.value.hint


@pytest.mark.parametrize(("name", "compress"), COMPRESSORS.items(), ids=COMPRESSORS)
def test_damaged_archives_are_refused(name, compress):
    content = bytearray(compress(FASTA))
    content[len(content) // 2] ^= 0xFF
    content[-6] ^= 0xFF  # the check sum of formats that have one
    with pytest.raises(InputError, match=rf"in.fa: damaged {name} data") as caught:
        read(bytes(content))
    assert f"`{name} -t`" in caught.value.hint


@pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS)
def test_a_kilobyte_that_stands_for_much_is_read_in_pieces(compress):
    size = 200_000_000
    small = compress(bytes(size))
    assert len(small) < size / 900

    pieces = [len(piece) for piece in streams.text_blocks(io.BytesIO(small), name="in.fa")]

    assert sum(pieces) == size
    assert max(pieces) <= 70_000_000
    with pytest.raises(InputError, match=r"in\.fa"):
        read(small)


@pytest.mark.parametrize("cut", ["end mark", "one block", "most"])
def test_bgzf_cut_between_two_blocks_is_refused_unless_allowed(cut):
    content = bgzf(FASTA)
    blocks = [start for start in range(len(content)) if content.startswith(BGZF_END[:16], start)]
    end = {"end mark": blocks[-1], "one block": blocks[-2], "most": blocks[1]}[cut]
    with pytest.raises(InputError, match=r"in\.fa: the gzip data are probably truncated") as caught:
        read(content[:end])
    assert "--allow-missing-end-mark" in caught.value.hint
    allowed = read_sequences(io.BytesIO(content[:end]), name="in.fa", allow_missing_end_mark=True)
    assert (list(allowed) == read(content)) == (cut == "end mark")


def test_bgzf_with_other_subfields_is_bgzf():
    content = with_another_subfield(bgzf(FASTA))
    assert list(read_sequences(io.BytesIO(content), name="x")) == list(read_sequences(io.BytesIO(FASTA), name="x"))
    end = with_another_subfield(bgzf(b""))
    assert content.endswith(end)
    with pytest.raises(InputError, match="probably truncated"):
        list(read_sequences(io.BytesIO(content.removesuffix(end)), name="x"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (bgzf(FASTA[:90_000]) + bgzf(FASTA[90_000:]), "an end mark within is that of a joined file"),
        (bgzf(FASTA[:90_000])[:-28] + gzip.compress(FASTA[90_000:]), "what is last is no BGZF"),
        (bgzf(FASTA) + b"\0" * 70_000, "padded with NUL"),
        (bgzf(FASTA[:90_000]) + b"\0" * 65_000 + bgzf(FASTA[90_000:]), "padded within"),
    ],
)
def test_bgzf_is_read_to_its_end_mark(content, why):
    assert read(content) == read(FASTA), why


def test_pzstd_cut_before_an_announced_frame_is_refused():
    with pytest.raises(InputError, match="the zstd data are probably truncated"):
        read(PZSTD_START + zstandard.compress(FASTA) + PZSTD_START)


def test_garbage_after_an_archive_is_refused():
    with pytest.raises(InputError, match="damaged gzip data"):
        read(gzip.compress(FASTA, mtime=0) + b"and more")


def test_a_pipe_is_read_however_little_it_gives():
    reading, writing = os.pipe()
    content = gzip.compress(FASTA, mtime=0)

    def feed():
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for i in range(0, len(content), 100):
                pipe.write(content[i : i + 100])

    feeder = threading.Thread(target=feed)
    feeder.start()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        assert list(read_sequences(pipe, name="stdin")) == read(FASTA)
    feeder.join()


@pytest.mark.parametrize(
    ("fault", "problem", "remedy"),
    [
        (FileNotFoundError(), "no such file", "path"),
        (IsADirectoryError(), "is a directory", "DIR/"),
        (PermissionError(), "not allowed to read", "chmod"),
        (OSError(5, "Input/output error"), "Input/output error", "disk"),
    ],
)
def test_files_that_cannot_be_opened(monkeypatch, fault, problem, remedy):
    def fail(*_):
        raise fault

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(InputError, match=f"^x.fa: .*{problem}") as caught:
        list(read_sequences(Path("x.fa"), name="x.fa"))
    assert remedy in caught.value.hint
    assert caught.value.fields["path"] == "x.fa"


def test_a_missing_file_and_a_directory_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(read_sequences(tmp_path / "none.fa", name="none.fa"))
    with pytest.raises(InputError, match="is a directory"):
        list(read_sequences(tmp_path, name="dir"))


def test_a_disk_that_fails_while_reading():
    class Failing(io.RawIOBase):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    with pytest.raises(InputError, match=r"x.fa: reading failed \(Input/output error\)"):
        list(read_sequences(Failing(), name="x.fa"))


words = st.text("abcXYZ019|_.:é", min_size=1, max_size=8)
entries = st.lists(st.tuples(words, st.text("ACGTNRY", max_size=40)), min_size=1, max_size=8, unique_by=lambda e: e[0])


@given(entries, st.integers(1, 12), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.integers(1, 30))
def test_layout_and_block_borders_change_nothing(entries, width, line_end, fastq, block_size):
    lines = []
    for name, sequence in entries:
        cut = [sequence[i : i + width] for i in range(0, len(sequence), width)]
        lines += [f"@{name} x", sequence, "+", "@" * len(sequence)] if fastq else [f">{name} x", *cut]
    content = (line_end.join(lines) + line_end).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_SIZE", block_size)
        found = [(record.id, record.description, record.sequence.decode()) for record in read(content)]
    assert found == [(name, f"{name} x", sequence) for name, sequence in entries]


@given(entries, st.integers(0, 7), st.integers(1, 30), st.sampled_from(["\n", "\r\n", "\r"]))
def test_line_numbers_are_right_across_blocks(entries, at, block_size, line_end):
    lines = [text for name, sequence in entries for text in (f">{name}", sequence)]
    bad = 2 * (at % len(entries)) + 1
    lines[bad] += "ACGT?"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_SIZE", block_size)
        with pytest.raises(InputError) as caught:
            read(line_end.join(lines).encode())
    assert caught.value.fields["line"] == bad + 1
