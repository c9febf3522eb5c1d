"""What a survey finds due."""

from types import SimpleNamespace

from virnuc_dagster.stages import survey
from virnuc_dagster.stages.batch import FRAMES
from virnuc_dagster.stages.keys import shard_checkpoint


def test_a_batch_of_more_than_9999_shards_is_not_cut_for_ever(monkeypatch):
    """Stored shards are listed by name, where 10000 comes before 9999; registered ones by number."""
    registered = [f"big-1__{number:04}" for number in (9_998, 9_999, 10_000, 10_001)]
    monkeypatch.setattr(survey, "batch_provenance", lambda *_: {})
    memory = SimpleNamespace(record=lambda _: SimpleNamespace(provenance={}))

    def why(stored: list[str]) -> str:
        keys = sorted((shard_checkpoint(FRAMES, shard) for shard in stored), key=lambda key: key.shard)
        return survey._why_cut(memory, SimpleNamespace(list=lambda *_: keys), "big-1", registered)

    assert why(registered) == ""
    assert "frames of 3 are stored" in why(registered[:-1])
