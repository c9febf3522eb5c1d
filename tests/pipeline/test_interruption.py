"""Kill it, stop it, run it twice: the results are those of an unbroken run, and nothing finished is computed again."""

import signal

import pytest
from kits.pipeline import SHARDS


@pytest.mark.parametrize(
    ("stage", "count"),
    [("frames", 5), ("dnabert_s_embeddings", 2), ("esm2_embeddings", 5), ("predictions", 4)],
)
def test_sigkill_then_the_same_command(home, unbroken, stage, count):
    victim = home.start(hold=(stage, count))
    home.wait_for_records(stage, count, victim)
    victim.send_signal(signal.SIGKILL)
    home.finish(victim)
    before = {s: home.records(s) for s in ("frames", "dnabert_s_embeddings", "esm2_embeddings", "predictions")}

    call = home.predict()

    assert call.code == 0, call.err
    assert "was killed; its finished shards are kept" in call.err
    for name, records in before.items():
        after = home.records(name)
        assert len(after) == SHARDS
        assert records.items() <= after.items(), f"{name}: a finished shard was written again"
    shard_stages = ("dnabert_s_embeddings", "esm2_embeddings", "predictions")
    assert call.run["reused_shards"] == {name: len(before[name]) for name in shard_stages}
    assert call.run["computed_shards"] == {name: SHARDS - len(before[name]) for name in shard_stages}
    assert call.files() == unbroken.files()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_polite_stop_keeps_what_is_committed(home, unbroken, number, code):
    victim = home.start(hold=("esm2_embeddings", 2))
    home.wait_for_records("esm2_embeddings", 2, victim)
    victim.send_signal(number)
    stopped = home.finish(victim)

    assert stopped.code == code, stopped.err
    assert "what is finished is kept" in stopped.err
    assert "Traceback" not in stopped.err
    assert not list(home.store.rglob("*.tmp"))
    kept = home.records("dnabert_s_embeddings")
    assert len(kept) == SHARDS

    call = home.predict()

    assert call.code == 0, call.err
    assert home.records("dnabert_s_embeddings") == kept
    assert call.files() == unbroken.files()


def test_two_calls_at_once_both_end_right(home, unbroken, tmp_path):
    first = home.start()
    second = home.start("--output", str(tmp_path / "second"))
    calls = [home.finish(first), home.finish(second)]
    calls[1].output = tmp_path / "second"

    for call in calls:
        assert call.code == 0, call.err
        assert call.files() == unbroken.files()
    computed = [call.run["computed_shards"]["esm2_embeddings"] for call in calls]
    assert SHARDS <= sum(computed) <= 2 * SHARDS


def test_the_second_call_recomputes_nothing_and_says_so(done, unbroken):
    stages = ("frames", "sequence_batch", "dnabert_s_embeddings", "esm2_embeddings", "predictions")
    before = [done.records(stage) for stage in stages]

    again = done.predict()

    assert again.code == 0
    assert [done.records(stage) for stage in stages] == before
    assert set(again.run["computed_shards"].values()) == {0}
    assert set(again.run["reused_shards"].values()) == {SHARDS}
    assert f"0 computed, {SHARDS} reused" in again.err
    assert again.files() == unbroken.files()
