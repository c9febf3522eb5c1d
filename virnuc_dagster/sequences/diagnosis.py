"""What is wrong with an input that is not nucleotide FASTA or FASTQ, in the user's words, and what to do about it.

Runs only when reading has failed already, so it may be slow. Every function returns a problem and a remedy; where
and in which file is added by `reader`.
"""

from string import ascii_uppercase

NUCLEOTIDE_LETTERS = b"ACGTRYSWKMBDHVN"  # IUPAC, after U has become T

_CONVERT = "convert it first: `any2fasta FILE > out.fasta`"
_UNALIGNED = "give the unaligned sequences as FASTA"
_UNPACK = "unpack it and give the sequence files themselves"
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"BAM\1", "a BAM file", "extract the reads: `samtools fasta FILE > reads.fasta`"),
    (b"CRAM", "a CRAM file", "extract the reads: `samtools fasta FILE > reads.fasta`"),
    (b"@HD\t", "a SAM file", "extract the reads: `samtools fasta FILE > reads.fasta`"),
    (b"@SQ\t", "a SAM file", "extract the reads: `samtools fasta FILE > reads.fasta`"),
    (b"NCBI.sra", "an SRA archive", "extract the reads: `fasterq-dump --fasta FILE`"),
    (b"PK\3\4", "a zip archive (or an office document)", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x1f\x8b", "compressed twice", "decompress it once: `gzip -d`"),
    (b"BZh", "compressed twice", "decompress it once: `bzip2 -d`"),
    (b"\x28\xb5\x2f\xfd", "compressed twice", "decompress it once: `zstd -d`"),
    (b"\xfd7zXZ", "compressed twice", "decompress it once: `xz -d`"),
    (b"\x1f\x9d", "compressed with `compress` (.Z)", "decompress it first: `gzip -d`"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "decompress it first: `lz4 -d`"),
    (b"\x89PNG", "a PNG image", "give the file that holds the sequences"),
    (b"%PDF", "a PDF document", "give the file that holds the sequences"),
    (b"\x89HDF", "an HDF5 file", "convert it to FASTQ first (raw nanopore signals need a basecaller)"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 FILE > new.fasta`"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 FILE > new.fasta`"),
    (b"LOCUS ", "a GenBank file", _CONVERT),
    (b"ID   ", "an EMBL file", _CONVERT),
    (b"CLUSTAL", "an alignment (Clustal)", _UNALIGNED),
    (b"# STOCKHOLM", "an alignment (Stockholm)", _UNALIGNED),
    (b"#NEXUS", "an alignment (NEXUS)", _UNALIGNED),
    (b"##gff", "an annotation table (GFF)", "give the FASTA file of the same genome"),
    (b"<", "a web page or XML", "the download may have failed: open it in an editor, then download the FASTA again"),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: `git lfs pull`"),
)
_TAR_MAGIC, _TAR_OFFSET = b"ustar", 257


def describe_foreign(text: bytes) -> tuple[str, str]:
    """Say what a file is whose first record starts with neither `>` nor `@` (or that says it is something else).

    Args:
        text: Its beginning, decompressed.

    Returns:
        Problem and remedy.
    """
    known = foreign_format(text)
    if known:
        return f"this is {known[0]}, not FASTA or FASTQ", known[1]
    if b"\0" in text:
        return "this is a binary file, not FASTA or FASTQ", "give the file that holds the sequences"
    line = text.lstrip().partition(b"\n")[0][:40].decode("utf-8", "replace")
    return f"expected a FASTA header (>) or a FASTQ header (@), found {line!r}", "give a FASTA or FASTQ file"


def foreign_format(text: bytes) -> tuple[str, str] | None:
    """Recognise a file format by its first bytes: what it is and the remedy, or None."""
    if text.startswith(_TAR_MAGIC, _TAR_OFFSET):
        return "a tar archive", _UNPACK
    return next(((what, remedy) for magic, what, remedy in _FOREIGN if text.startswith(magic)), None)


def describe_letter(letter: int, residues: bytes) -> tuple[str, str]:
    """Say why a letter has no place in a nucleotide sequence.

    Args:
        letter: The byte that is not allowed.
        residues: The sequence lines of its record.

    Returns:
        Problem (without file, line and record) and remedy.
    """
    shown = repr(chr(letter)) if 32 <= letter < 127 else f"byte 0x{letter:02x}"
    if letter in b"-.":
        return f"gap {shown}", "is this an alignment? remove the gaps: `seqkit seq -g FILE`"
    if _looks_like_protein(residues):
        return (
            f"letter {shown}, and most letters are amino acids: this looks like a protein",
            "give the nucleotide sequences (contigs or reads), not proteins",
        )
    if letter in b"0123456789":
        return f"digit {shown}", "remove position numbers, or convert a GenBank file to FASTA"
    if letter == ord(">"):
        return f"{shown} inside a line", "a header starts a line: were files joined, one without a last line end?"
    if letter in b"Xx":
        return f"letter {shown}, which means an amino acid", "if it masks bases: `seqkit replace -s -i -p X -r N FILE`"
    allowed = NUCLEOTIDE_LETTERS.decode()
    return (
        f"{shown}, which is not a nucleotide",
        f"allowed are {allowed} and U, upper or lower case; write N if unknown",
    )


def _looks_like_protein(residues: bytes) -> bool:
    """Tell whether most letters are none of A C G T U N: 74 % of an average protein, few even of a poor contig."""
    letters = bytes(residue for residue in residues.upper() if chr(residue) in ascii_uppercase)
    return 2 * len(letters.translate(None, b"ACGTUN")) > len(letters)
