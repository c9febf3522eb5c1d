"""The model card shows what the labels say, and is not formed by it."""

import dataclasses

from kits.training import records, tiny_options

from virnuc_dagster.progress import Progress
from virnuc_dagster.training.run import Wanted, train_all


def test_a_category_with_markup_stays_one_cell(tmp_path):
    odd = [
        dataclasses.replace(r, category="a|b <script>") if (r.is_virus, r.category) == (False, "c1") else r
        for r in records()
    ]

    bundle = train_all(odd, tiny_options(steps=3), Wanted(tmp_path / "bundle", ""), Progress())

    card = (bundle.folder / "model-card.md").read_text()
    assert r"a\|b &lt;script&gt;" in card
    assert "<script>" not in card
