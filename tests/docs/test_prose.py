"""Pages can be read: sentences and lines have an end, tables hold no paragraphs, words lead to the glossary."""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = sorted(ROOT.glob("docs/decisions/[0-9]*.md"))
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
PROSE = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "deploy/README.md"))]
#: Made by `training/card.py`: a paragraph of it is one line.
GENERATED = ROOT / "docs" / "model-card.md"

WORDS_MAX, WORDS_MEAN = 40, 20
LINE_MAX, TABLE_LINE_MAX, CODE_LINE_MAX, CELL_MAX = 120, 250, 145, 160

BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"^([*-]|\d+\.)\s+")


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs and items of lists, each in one line; without code, tables, headings and pictures."""
    held: list[str] = []
    for line in [*BLOCK.sub("", text).splitlines(), ""]:
        line = line.strip()
        if not line or line.startswith(("|", "#", "!", "<")) or ITEM.match(line):
            if held:
                yield " ".join(held)
            held = [ITEM.sub("", line)] if ITEM.match(line) else []
        else:
            held.append(line)


def sentences(text: str) -> Iterator[str]:
    """Sentences of the prose; what is marked as code counts as one word, a link as its text.

    A sentence ends at `.`, `!` or `?` before a capital, a bracket, a quote, a digit or code.
    """
    for paragraph in paragraphs(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "`code`", paragraph)).replace("*", "")
        yield from re.split(r"(?<=[.!?])[)\"]*\s+(?=[A-Z(\"`0-9])", plain)


def words(sentence: str) -> int:
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_sentences_are_told_apart():
    text = "# Not this\n\nOne two. `a b. C` three!\n* four (five). Six\n  seven\n\n| no | no |\n"
    assert [words(sentence) for sentence in sentences(text)] == [2, 2, 2, 2]


@pytest.mark.parametrize("page", PROSE, ids=name)
def test_no_sentence_is_too_long(page):
    counts = {sentence: words(sentence) for sentence in sentences(page.read_text())}
    assert not {sentence: count for sentence, count in counts.items() if count > WORDS_MAX}
    assert mean(counts.values()) <= WORDS_MEAN


@pytest.mark.parametrize("page", PROSE, ids=name)
def test_no_line_is_too_long(page):
    text = page.read_text()
    code = {line for block in BLOCK.findall(text) for line in block.splitlines()}
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(line) <= TABLE_LINE_MAX, line
            assert max(len(cell.strip()) for cell in re.split(r"(?<!\\)\|", line)) <= CELL_MAX, line
        elif page != GENERATED and not line.startswith("!["):
            assert len(line) <= (CODE_LINE_MAX if line in code else LINE_MAX), line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_page_leads_to_the_glossary(page):
    assert page.name == "glossary.md" or "glossary.md" in page.read_text()


def test_every_word_of_the_glossary_is_in_use():
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    said = " ".join(page.read_text() for page in PAGES if page.name != "glossary.md").lower()
    terms = {term.strip("` ") for row in rows for term in row.split(",") if term not in ("word", "---")}
    assert len(terms) > 40
    assert not {term for term in terms if term.lower() not in said}


def test_decisions_are_listed_and_whole():
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    listed = re.findall(r"^(\d+)\. \[(.+)\]\((.+)\)$", index, re.MULTILINE)
    assert [path for _, _, path in listed] == [path.name for path in DECISIONS]
    for (number, title, _), path in zip(listed, DECISIONS, strict=True):
        text = path.read_text()
        assert text.startswith(f"# {number}. {title}\n"), path.name
        assert path.name.startswith(f"{int(number):02d}-")
        assert re.findall(r"^\*\*(.+?)\*\*", text, re.MULTILINE) == [
            "Context.", "Decision.", "Consequence.", "It would end",
        ], path.name  # fmt: skip
