"""What a survey finds due."""

import json
from types import SimpleNamespace

from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.report import paths
from virnuc_dagster.stages import survey
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.pipeline import FRAMES


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


def test_a_report_made_before_unknown_bases_counted_is_made_again(tmp_path):
    stage = SimpleNamespace(bundle=open_bundle("mini"))
    made = stage.bundle.verdict_provenance() | {"checkpoints": {}}
    (tmp_path / "b-1").mkdir()
    for name in paths.REPRODUCIBLE:
        (tmp_path / "b-1" / name).touch()

    def why() -> str:
        (tmp_path / "b-1" / paths.PROVENANCE).write_text(json.dumps(made))
        return survey._why_report(SimpleNamespace(), stage, "b-1", [], tmp_path)

    assert why() == ""
    made["thresholds"].pop("known_share")
    assert why().startswith("made with thresholds")
