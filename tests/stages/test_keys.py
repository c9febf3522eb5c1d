import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_dagster.stages.keys import batch_checkpoint, batch_key, batch_of, shard_checkpoint, shard_key


@given(st.text())
def test_any_name_becomes_a_safe_key(name):
    batch = batch_key(name, "content", 500, 10)

    assert re.fullmatch(r"[a-z0-9-]{1,80}", batch)
    assert batch_of(shard_key(batch, 12_345)) == batch
    assert shard_checkpoint("frames", shard_key(batch, 1)).batch == batch_checkpoint("frames", batch).batch == batch


@pytest.mark.parametrize("changed", [("d", 500, 10), ("c", 300, 10), ("c", 500, 11)])
def test_content_and_cutting_decide_the_key(changed):
    assert batch_key("x.fa", *changed) != batch_key("x.fa", "c", 500, 10)


@pytest.mark.parametrize(
    "name", ["Lambda phage.fa.gz", "lambda_phage.FASTA", "/a/b/lambda  phage.fq.zst", "lambda-phage.bgz"]
)
def test_suffixes_and_spelling_do_not(name):
    assert batch_key(name, "c", 500, 10).startswith("lambda-phage-")
