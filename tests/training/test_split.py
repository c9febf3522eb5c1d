from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from kits.training import records

from virnuc_dagster.errors import InputError
from virnuc_dagster.training.records import Record
from virnuc_dagster.training.split import LARGEST, cut_dev

ROWS = st.lists(
    st.tuples(st.booleans(), st.sampled_from("ab"), st.sampled_from("pqrstuv"), st.integers(1, 50)), min_size=1
)


@given(ROWS, st.integers(0, 5))
def test_no_group_is_in_both_parts_and_no_record_is_lost(rows, seed):
    made = [Record(str(i), v, c, g, "train", b"A" * n) for i, (v, c, g, n) in enumerate(rows)]
    try:
        fit, dev = cut_dev(made, seed)
    except InputError:
        return

    assert not {r.group for r in fit} & {r.group for r in dev}
    assert sorted(r.id for r in (*fit, *dev)) == sorted(r.id for r in made)
    assert {r.kind for r in fit} == {r.kind for r in made}, "no category is lost to learning"
    assert {r.is_virus for r in dev} == {True, False}


def test_every_category_with_enough_groups_gives_some_and_none_gives_most():
    made = records(groups=8, val=False)
    _, dev = cut_dev(made, 1)
    bases: dict[str, int] = defaultdict(int)
    for record in dev:
        bases[record.kind] += len(record.sequence)

    assert set(bases) == {record.kind for record in made}
    for kind, size in bases.items():
        assert size <= LARGEST * sum(len(r.sequence) for r in made if r.kind == kind)


def test_another_seed_keeps_other_groups_aside():
    made = records(groups=8, val=False)

    assert cut_dev(made, 1) == cut_dev(made, 1)
    assert len({tuple(r.id for r in cut_dev(made, seed)[1]) for seed in range(5)}) > 1
