"""What is wrong with an input that is not nucleotide FASTA or FASTQ, in the user's words, and what to do about it.

Runs only when reading has failed already, so it may be slow. Every function returns a problem and a remedy; where
and in which file is added by `reader`. A remedy is for the format at hand: a letter of FASTQ has a quality, so that
removing it would break the record, and a command for lines of FASTA would change qualities. It loses no sequence.
"""

import unicodedata
from string import ascii_uppercase

from virnuc_dagster.sequences.formats import foreign_format, unheaded

NUCLEOTIDE_LETTERS = b"ACGTRYSWKMBDHVN"  # IUPAC, after U has become T
REPAIR_FASTQ = "copy or download the file again, and compare its size or checksum with the source's"

_BYTES = {
    0x00: ("a NUL byte", "part of the file was never written, or it is not text: copy, download or make it again"),
    0x1A: ("byte 0x1a (Ctrl-Z), the end-of-file mark of DOS", "remove it: `tr -d '\\032' < FILE > new.fasta`"),
}


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
    if known := unheaded(text):
        return known
    line = text.lstrip().partition(b"\n")[0][:40].decode("utf-8", "replace")
    return f"expected a FASTA header (>) or a FASTQ header (@), found {line!r}", "give a FASTA or FASTQ file"


def describe_line(line: bytes) -> tuple[str, str]:
    """Say what stands where a FASTQ header belongs."""
    found = line[:40].decode("utf-8", "replace")
    problem = f"expected a FASTQ header (@), found {found!r}"
    if line.startswith(b">"):
        return f"{problem}, a header of FASTA", "give FASTA and FASTQ records as two files"
    if line.startswith(b"\xef\xbb\xbf"):
        return f"{problem}, after a byte order mark", _remove_character("\ufeff", "fastq")
    if line.startswith(b"\x1a"):
        what, remedy = _BYTES[0x1A]
        return f"expected a FASTQ header (@), found {what}", remedy.replace("new.fasta", "new.fastq")
    return problem, REPAIR_FASTQ


def describe_letter(line: bytes, at: int, residues: bytes, *, fastq: bool, wrapped: bool = False) -> tuple[str, str]:
    """Say why a letter has no place in a nucleotide sequence.

    Args:
        line: The line that holds it.
        at: Where in it.
        residues: The sequence lines of its record.
        fastq: Whether the record is of FASTQ.
        wrapped: Whether its sequence is of more than one line.

    Returns:
        Problem (without file, line and record) and remedy.
    """
    letter = line[at : at + 1]
    new = "fastq" if fastq else "fasta"
    if known := _BYTES.get(letter[0]):
        return known[0], known[1].replace("new.fasta", f"new.{new}")
    if letter[0] < 32 or letter[0] == 127:
        return f"byte 0x{letter[0]:02x}, a control character", "is the file damaged? copy, download or make it again"
    if letter[0] > 127:
        return _beyond_ascii(line, at, new)
    shown = repr(letter.decode())
    if not fastq and at == 0 and letter == b";":
        return "a comment line (;), as in old FASTA files", "remove these: `grep -v '^;' FILE > new.fasta`"
    if not fastq and at == 0 and letter == b"@" and len(line) > 1:
        return "'@' at the start of a line, as of a FASTQ header", "give FASTA and FASTQ records as two files"
    if letter == b">":
        return f"{shown} inside a line", (
            "a header starts a line: were files joined, one without a last line end? `awk 1 A B > new.fasta` adds it"
        )
    if _looks_like_protein(residues):
        return (
            f"letter {shown}, and most letters are amino acids: this looks like a protein",
            "give the nucleotide sequences (contigs or reads), not proteins",
        )
    if fastq:
        return _of_fastq(letter, shown, residues, wrapped)
    return _of_fasta(letter, shown, residues)


def _of_fasta(letter: bytes, shown: str, residues: bytes) -> tuple[str, str]:
    """Advise on a FASTA file, whose letters can be removed where they stand for none."""
    if letter == b"-":
        return "gap '-'", f"is this an alignment? remove the gaps: {_sed('-', '')}"
    if letter == b".":
        remove, write = _sed("[.]", ""), _sed("[.]", "N")
        remedy = f"if it is a gap of an alignment, remove it: {remove}; if it is a base, write N: {write}"
        return "'.', a gap or an unknown base", remedy
    if letter.isdigit():
        return _digit(shown, residues)
    if letter in b"Xx":
        return f"letter {shown}, which means an amino acid", f"if it masks bases, write N: {_sed('[Xx]', 'N')}"
    if letter == b"*" and b"*" not in residues.rstrip(b"\n *"):
        return "'*' at its end", f"if it only marks the end, remove it: {_sed('[*][[:space:]]*$', '')}"
    if letter == b"*":
        return "'*', which is not a nucleotide", (
            f"if it is a gap of an alignment or assembly, remove it: {_sed('[*]', '')}; if it is a base, write N"
        )
    return f"{shown}, which is not a nucleotide", _allowed()


def _digit(shown: str, residues: bytes) -> tuple[str, str]:
    """Explain digits of FASTA: qualities, colours or positions."""
    if not residues.translate(None, b"0123456789- \t\n"):
        return f"digit {shown} and nothing but numbers: quality values", "give the FASTA file that belongs to them"
    if _colours(residues):
        return f"digit {shown}: these are colours (SOLiD), not bases", "give the reads in bases"
    return f"digit {shown}", f"if these are position numbers, remove them: {_sed('[0-9]', '')}"


def _of_fastq(letter: bytes, shown: str, residues: bytes, wrapped: bool) -> tuple[str, str]:
    """Advise on a FASTQ file, where a letter may be replaced but not removed."""
    if letter.isdigit() and _colours(residues):
        return f"digit {shown}: these are colours (SOLiD), not bases", "give the reads in bases"
    problem = f"gap {shown}" if letter == b"-" else f"{shown}, which is not a nucleotide"
    if letter not in b"-*Xx?":
        return problem, _allowed()
    if wrapped:
        return problem, "if it stands for an unknown base, write N for it in the sequence lines"
    pattern = "[Xx]" if letter in b"Xx" else f"[{letter.decode()}]"
    command = f"awk 'NR%4 == 2 {{gsub(/{pattern}/, \"N\")}} 1' FILE > new.fastq"
    return problem, f"if it stands for an unknown base, write N (records of four lines): `{command}`"


def _allowed() -> str:
    letters = NUCLEOTIDE_LETTERS.decode()
    return f"allowed are {letters} and U, upper or lower case; write N if unknown"


def _sed(pattern: str, by: str) -> str:
    return f"`sed '/^>/!s/{pattern}/{by}/g' FILE > new.fasta`"


def _colours(residues: bytes) -> bool:
    """Tell whether this is a base followed by colours, 0 to 3."""
    text = residues.replace(b"\n", b"").strip()
    return text[:1].isalpha() and len(text) > 1 and not text[1:].translate(None, b"0123.")


def _beyond_ascii(line: bytes, at: int, new: str) -> tuple[str, str]:
    """Name a character of UTF-8; what cannot be seen is removed, what can must be looked at."""
    for size in (2, 3, 4):
        try:
            character = line[at : at + size].decode()
        except UnicodeDecodeError:
            continue
        name = f"{unicodedata.name(character, 'unnamed')} (U+{ord(character):04X})"
        if character == "\ufeff":
            problem = "a byte order mark (UTF-8), which belongs at the start of a file: were files joined?"
            return problem, _remove_character(character, new)
        if unicodedata.category(character) in ("Zs", "Cf"):
            return f"the invisible character {name}", _remove_character(character, new)
        return f"the character {name}, which is not a nucleotide", _allowed()
    return f"byte 0x{line[at]:02x}, which is not a nucleotide", _allowed()


def _remove_character(character: str, new: str) -> str:
    code = "".join(f"\\x{byte:02x}" for byte in character.encode())
    return f"remove it: `LC_ALL=C sed 's/{code}//g' FILE > new.{new}` (GNU sed)"


def _looks_like_protein(residues: bytes) -> bool:
    """Tell whether most letters are none of A C G T U N: 74 % of an average protein, few even of a poor contig."""
    letters = bytes(residue for residue in residues.upper() if chr(residue) in ascii_uppercase)
    return 2 * len(letters.translate(None, b"ACGTUN")) > len(letters)
