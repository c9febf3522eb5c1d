"""Label tables: what is read, and that every fault is named with its remedy."""

import pytest

from virnuc_dagster.errors import InputError
from virnuc_dagster.sequences.labels import Label, check_labels, read_labels

HEADER = "id\tlabel\tcategory\tgroup\tsplit\tnote\n"
ROWS = "a\tvirus\tphage\tg1\ttrain\tx\nb\tother\thuman\tg2\tval\t\n"


@pytest.fixture
def table(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "labels.tsv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_columns_in_any_order_blank_lines_and_windows_line_ends(table):
    path = table("\ufeffgroup\tid\tcategory\tlabel\r\ng1\ta\tphage\tvirus\r\n\r\ng2\tb\thuman\tother\r\n")

    assert read_labels(path) == [Label("a", True, "phage", "g1"), Label("b", False, "human", "g2")]


def test_a_split_keeps_its_rows(table):
    assert [label.id for label in read_labels(table(HEADER + ROWS), "val")] == ["b"]


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("", None, "no column id, label, category, group; it has none"),
        ("id,label,category,group\n", None, "no column id"),
        ("id\tlabel\tcategory\tgroup\na\tvirus\tphage\tg\n", "val", "no column split"),
        (HEADER, None, "has no rows\n  -> below the names"),
        (HEADER + ROWS, "test", "no rows of split 'test'\n  -> splits in it: train, val"),
        (HEADER + ROWS + ROWS, None, "2 ids have more than one row: a, b\n  -> keep one"),
        (
            HEADER + "a\tViral\tphage\tg1\n",
            None,
            "line 2, id 'a': the label is 'Viral'\n  -> a label is virus or other",
        ),
        (HEADER + "a\tvirus\t \t\n", None, "line 2, id 'a': no category and no group"),
        (b"id\tlabel\tcategory\tgroup\n\xff\n", None, "no UTF-8"),
        (HEADER + "x" * 200_000, None, "is no table: field larger than field limit"),
        ("id\tlabel\tcategory\tgroup\tgroup\na\tvirus\tphage\tg\tval\n", None, "more than one column group"),
    ],
)
def test_faults_are_named_with_the_remedy(table, text, split, message):
    with pytest.raises(InputError) as caught:
        read_labels(table(text), split)

    assert message in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot read the labels"):
        read_labels(tmp_path / "none.tsv")


def test_records_that_the_sequences_lack_are_named(table):
    path = table(HEADER + ROWS)

    check_labels(path, read_labels(path), {"a", "b", "c"})
    with pytest.raises(InputError, match="1 ids are not in the sequence file: b") as caught:
        check_labels(path, read_labels(path), ["a"])

    assert caught.value.fields["ids"] == ["b"]
