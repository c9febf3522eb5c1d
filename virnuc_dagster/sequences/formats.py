"""Files that are not FASTA or FASTQ: what they are, told by how they begin, and how to get sequences out of them.

A remedy must work when taken literally and lose no sequence. The words for letters within sequences are in `diagnosis`.
"""

import re
from collections.abc import Callable

_UNALIGNED = "give the unaligned sequences as FASTA"
_UNPACK = "unpack it and give the sequence files themselves"
_TWICE = "compressed twice"
_ONCE = "undo the outer compression and give the result: `gzip -dc`, `bzip2 -dc`, `xz -dc` or `zstd -dc`"
#: -N: mates of a pair have one name, and get /1 and /2.
_READS = "extract the reads: `samtools fasta -N FILE > reads.fasta`"
_SAM_READS = (
    "extract the reads: `awk -F'\\t' '!/^@/ && $10 != \"*\" && int($2/256)%2 == 0 && int($2/2048)%2 == 0 "
    '{print ">" $1 (int($2/64)%2 ? "/1" : int($2/128)%2 ? "/2" : "") "\\n" $10}\' FILE > reads.fasta`'
)
_SEGMENTS = (
    "write the segments as FASTA: "
    """`awk -F'\\t' '$1 == "S" && $3 != "*" {print ">" $2 "\\n" $3}' FILE > new.fasta`"""
)
_RAW = "convert it to FASTQ first (raw nanopore signals need a basecaller)"


def _biopython(kind: str) -> str:
    return f"""convert it: `python -c "from Bio import SeqIO; SeqIO.convert('FILE', '{kind}', 'new.fasta', 'fasta')"`"""


_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"BAM\1", "a BAM file", _READS),
    (b"CRAM", "a CRAM file", _READS + " (with --reference REF.fasta if its reference is not found)"),
    (b"NCBI.sra", "an SRA archive", "extract the reads: `fasterq-dump --fasta FILE`"),
    (b"PK\3\4", "a zip archive (or an office document)", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\xd0\xcf\x11\xe0", "an office document", "save its sequences as plain text"),
    (b"{\\rtf", "a word processor's document (RTF)", "save it as plain text"),
    (b"\x1f\x8b", _TWICE, _ONCE),
    (b"BZh", _TWICE, _ONCE),
    (b"\x28\xb5\x2f\xfd", _TWICE, _ONCE),
    (b"\xfd7zXZ", _TWICE, _ONCE),
    (b"\x1f\x9d", "compressed with `compress` (.Z)", "decompress it first: `gzip -dc FILE > new.fasta`"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "decompress it first: `lz4 -dc FILE > new.fasta`"),
    (b"\x89PNG", "a PNG image", "give the file that holds the sequences"),
    (b"%PDF", "a PDF document", "give the file that holds the sequences"),
    (b"\x89HDF", "an HDF5 file", _RAW),
    (b"\x8bPOD", "a POD5 file", _RAW),
    (b"\x43\x27\x41\x1a", "a 2bit file", "convert it: `twoBitToFa FILE new.fasta`"),
    (b"ABIF", "a sequencer's trace (ABI)", _biopython("abi")),
    (b".sff", "an SFF file (454)", _biopython("sff")),
    (b"\xff\xfe\0\0", "text in UTF-32", "save it as UTF-8: `iconv -f UTF-32 -t UTF-8 FILE > new.fasta`"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 FILE > new.fasta`"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8 FILE > new.fasta`"),
    (b">\0", "text in UTF-16", "save it as UTF-8: `iconv -f UTF-16LE -t UTF-8 FILE > new.fasta`"),
    (b"@\0", "text in UTF-16", "save it as UTF-8: `iconv -f UTF-16LE -t UTF-8 FILE > new.fastq`"),
    (b"\0>", "text in UTF-16", "save it as UTF-8: `iconv -f UTF-16BE -t UTF-8 FILE > new.fasta`"),
    (b"\0@", "text in UTF-16", "save it as UTF-8: `iconv -f UTF-16BE -t UTF-8 FILE > new.fastq`"),
    (b"LOCUS ", "a GenBank file", _biopython("genbank")),
    (b"ID   ", "an EMBL file", _biopython("embl")),
    (b"CLUSTAL", "an alignment (Clustal)", _UNALIGNED),
    (b"# STOCKHOLM", "an alignment (Stockholm)", _UNALIGNED),
    (b"#NEXUS", "an alignment (NEXUS)", _UNALIGNED),
    (b"##maf", "an alignment (MAF)", _UNALIGNED),
    (b"!!NA_MULTIPLE", "an alignment (MSF)", _UNALIGNED),
    (
        b"##gff",
        "an annotation table (GFF)",
        "give the FASTA file of the same genome, or what follows its line ##FASTA, if it has one: "
        "`sed '1,/^##FASTA/d' FILE > new.fasta`",
    ),
    (
        b"##fileformat=VCF",
        "a table of variants (VCF)",
        "give the genome's FASTA file, or a consensus: `bcftools consensus -f REF.fasta FILE.vcf.gz > new.fasta`",
    ),
    (b"<", "a web page or XML", "the download may have failed: open it in an editor, then download the FASTA again"),
    (b'{"', "JSON", "the download may have failed: open it in an editor, then download the FASTA again"),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: `git lfs pull`"),
)
_TAR_MAGIC, _TAR_OFFSET = b"ustar", 257

_CIGAR = rb"(\*|([0-9]+[MIDNSHPX=])+)"
_INT, _NAME = rb"-?[0-9]+", rb"[^\t\n]+"


def _row(*columns: bytes) -> Callable[[bytes], object]:
    """Make a test of whether a line begins with such tab-separated columns."""
    return re.compile(rb"\t".join(columns) + rb"(\t|$)").match


#: Tables, told by the columns of their first line.
_TABLES: tuple[tuple[Callable[[bytes], object], str, str], ...] = (
    (_row(rb"@(HD|SQ|RG|PG)", rb"[A-Za-z][A-Za-z0-9]:.*"), "a SAM file", _READS),
    (_row(rb"@CO", rb".*"), "a SAM file", _READS),
    (
        _row(
            _NAME,
            rb"[0-9]+",
            _NAME,
            rb"[0-9]+",
            rb"[0-9]+",
            rb"(\*|([0-9]+[MIDNSHPX=])+)",
            _NAME,
            _INT,
            _INT,
            _NAME,
            _NAME,
        ),
        "a SAM file without its header",
        _SAM_READS,
    ),
    (_row(rb"H", rb"VN:Z:.*"), "an assembly graph (GFA)", _SEGMENTS),
    (_row(rb"S", _NAME, rb"(\*|[A-Za-z=.]+)"), "an assembly graph (GFA)", _SEGMENTS),
    (
        _row(_NAME, _INT, _INT, _INT, rb"[+-]", _NAME, _INT, _INT, _INT, _INT, _INT, _INT),
        "a table of alignments (PAF)",
        "give the FASTA or FASTQ file that was aligned",
    ),
    (
        _row(_NAME, rb"[0-9]+", rb"[0-9]+", rb"[0-9]+", rb"[0-9]+"),
        "an index of a sequence file (.fai)",
        "give the sequence file itself: it has the same name without .fai",
    ),
    (
        _row(_NAME, _NAME, rb"[0-9.]+", _INT, _INT, _INT, _INT, _INT, _INT, _INT, rb"[0-9.eE+-]+", rb"[ 0-9.eE+-]+"),
        "a table of BLAST hits",
        "give the FASTA file that was searched with",
    ),
    (
        _row(_NAME, rb"[0-9]+", rb"[0-9]+"),
        "a table of places (BED)",
        "cut them out of their genome: `bedtools getfasta -fi GENOME.fasta -bed FILE > new.fasta`",
    ),
    (
        _row(_NAME, _NAME, _NAME, _INT, _INT, _NAME, rb"[+.?-]", _NAME),
        "an annotation table (GFF)",
        "give the FASTA file of the same genome",
    ),
    (
        re.compile(rb"[^\t]+\t[ACGTUNacgtun]{10,}$").match,
        "a table of ids and sequences",
        "write it as FASTA: `awk -F'\\t' '{print \">\" $1 \"\\n\" $2}' FILE > new.fasta`",
    ),
    (re.compile(rb" *[0-9]+ +[0-9]+ *$").match, "an alignment (PHYLIP)", _UNALIGNED),
    (_row(_NAME, _NAME, _NAME), "a tab-separated table", "give a FASTA or FASTQ file"),
)
_COMMENTS = "remove the comments: `grep -v '^{0}' FILE > new.fasta`"
_PEARSON = (
    "make the first ; line of each record its header: "
    "`awk '/^;/ {if (!c) print \">\" substr($0, 2); c = 1; next} {c = 0; print}' FILE > new.fasta`"
)


def foreign_format(text: bytes) -> tuple[str, str] | None:
    """Recognise a file format by how the text begins: what it is and the remedy, or None.

    Args:
        text: Its beginning, of some lines if it has so many, without white space before it.
    """
    if text.startswith(_TAR_MAGIC, _TAR_OFFSET):
        return "a tar archive", _UNPACK
    for magic, what, remedy in _MAGIC:
        if text.startswith(magic):
            return what, remedy
    lines = text[:10_000].split(b"\n", 3)
    if text.startswith(b">") or (text.startswith(b"@") and len(lines) > 2 and lines[2].startswith(b"+")):
        return None  # a header may look like a table's row
    return next(((what, remedy) for fits, what, remedy in _TABLES if fits(lines[0])), None)


def unheaded(text: bytes) -> tuple[str, str] | None:
    """Say what sequences lack whose file begins with no header: problem and remedy, or None."""
    first = text.partition(b"\n")[0].strip()
    mark = first[:1].decode("latin-1")
    if mark in (";", "#"):
        if b"\n>" in text:
            return f"the file begins with a comment ({mark}), not with a header (>)", _COMMENTS.format(mark)
        if mark == ";":
            return "headers begin with ;, as in old FASTA files, not with >", _PEARSON
    if len(first) >= 10 and not first.translate(None, b"ACGTUNacgtun"):
        return "a sequence without a header line", "name it: `(echo '>NAME'; cat FILE) > new.fasta`"
    return None
