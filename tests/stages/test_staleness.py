"""What a stored result is said to be, and that all who ask are told the same."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from kits.damage import flip_a_bit
from kits.pipeline import DEMO

from virnuc_dagster.checkpoints import CheckpointError, CheckpointMissingError, LocalStore
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.orchestration.runs import set_aside_damaged
from virnuc_dagster.progress import Progress
from virnuc_dagster.report import paths
from virnuc_dagster.stages.batch import add_sequences, batch_provenance, build_batch
from virnuc_dagster.stages.ensure import ShardResult, ensure_shards
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH, FRAMES, PREDICTIONS
from virnuc_dagster.stages.report import build_report
from virnuc_dagster.stages.shards import EmbeddingStage, PredictionStage
from virnuc_dagster.stages.space import bytes_needed
from virnuc_dagster.stages.staleness import IMPORTED, StaleError, State, state_of
from virnuc_dagster.stages.survey import survey_batch
from virnuc_dagster.upkeep.export import read_for_export
from virnuc_dagster.upkeep.imported_embeddings import StageImport, import_embeddings

DNABERT_S, ESM2 = "dnabert_s_embeddings", "esm2_embeddings"

MISSING, DAMAGED, STALE, UNKNOWN, CURRENT = (
    State.MISSING, State.DAMAGED, State.STALE, State.UNKNOWN, State.CURRENT
)  # fmt: skip
BUNDLE = open_bundle("mini")


class Embedding(EmbeddingStage):
    """An encoder's stage that computes without the encoder."""

    def prepare(self, shard):
        return self.store.load(shard_checkpoint(FRAMES, shard))["ids"]

    def compute(self, ids, progress):
        return {"ids": ids, "data": torch.full((len(ids), self.dim), 0.5)}


class Predictions(PredictionStage):
    """The head's stage without the head."""

    def __init__(self, store, bundle, options):
        super().__init__(store, bundle, options)
        self.inputs = [Embedding(stage.name, store, bundle, options) for stage in self.inputs]

    def compute(self, inputs, progress):
        return {"ids": inputs[0], "data": torch.full((len(inputs[0]), 2), 0.5)}


@dataclass
class Home:
    """A store with one batch, and what is wanted of it."""

    root: Path
    batch: str
    options: ComputeOptions = field(default_factory=lambda: ComputeOptions(device="cpu"))

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.root / "store")

    @property
    def shards(self) -> list[str]:
        return self.store.load(batch_checkpoint(BATCH, self.batch))["shards"]

    @property
    def stages(self) -> dict[str, EmbeddingStage | PredictionStage]:
        last = Predictions(self.store, BUNDLE, self.options)
        return {stage.name: stage for stage in (*last.inputs, last)}

    def states(self, stage: str) -> dict[str, State]:
        return {shard: state_of(self.stages[stage], shard, self.store).state for shard in self.shards}

    def ensure(self, stage: str) -> dict[str, ShardResult | Exception]:
        return dict(ensure_shards(self.stages[stage], self.shards, self.store, Progress(), {}))

    def resave(self, stage: str, add: float = 0.0, text: str = "", **provenance) -> None:
        """Store the second shard of a stage again, made in another way."""
        key = shard_checkpoint(stage, self.shards[1])
        payload, made = self.store.load(key), {**self.store.record(key).provenance, **provenance}
        if add:
            payload["data"] = payload["data"] + add
        if text:
            payload["protein"] = [text, *payload["protein"][1:]]
        self.store.save(key, payload, {name: value for name, value in made.items() if value is not None})

    def imported(self, stage: str, **changes) -> None:
        """Make the second shard of a stage one whose embeddings another program computed."""
        key = shard_checkpoint(stage, self.shards[1])
        made = self.store.record(key).provenance
        known = {"inputs": made["inputs"], "model_id": made["model_id"], IMPORTED: {"files": 1}}
        self.store.save(key, self.store.load(key), {**known, **changes})

    def record(self, stage: str) -> Path:
        return self.root / "store" / stage / self.batch / f"{self.shards[1]}.pt.done"

    def data(self, stage: str) -> Path:
        return self.record(stage).parent / json.loads(self.record(stage).read_text())["file"]

    def rewrite(self, stage: str, **changes) -> None:
        path = self.record(stage)
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def remove(self, stage: str) -> None:
        self.store.remove(shard_checkpoint(stage, self.shards[1]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Home:
    root = tmp_path_factory.mktemp("whole")
    store = LocalStore(root / "store")
    batch, _ = add_sequences(store, DEMO, "demo.fasta", window_length=500, shard_size=50)
    manifest = build_batch(store, batch, Progress(), {})
    store.save(batch_checkpoint(BATCH, batch), manifest, batch_provenance(store, batch))
    home = Home(root, batch)
    for stage in home.stages:
        assert all(isinstance(outcome, ShardResult) for outcome in home.ensure(stage).values())
    assert len(home.shards) == 3
    return home


@pytest.fixture
def home(whole, tmp_path) -> Home:
    shutil.copytree(whole.root, tmp_path / "home")
    return Home(tmp_path / "home", whole.batch)


def cut_off(home: Home, stage: str) -> None:
    path = home.data(stage)
    path.write_bytes(path.read_bytes()[:-9])


OTHER = "0" * 64
#: Name -> what is done to the second shard; the state that ESM-2's result of it has then, the fields that differ, the
#: error; the state of its predictions.
CASES: dict[str, tuple[Callable[[Home], object], State, list[str], str, State]] = {
    "nothing": (lambda h: None, CURRENT, [], "", CURRENT),
    "removed": (lambda h: h.remove(ESM2), MISSING, [], "", UNKNOWN),
    "cut off": (lambda h: cut_off(h, ESM2), DAMAGED, [], "size differs", UNKNOWN),
    "no data file": (lambda h: h.data(ESM2).unlink(), DAMAGED, [], "", UNKNOWN),
    "empty record": (lambda h: h.record(ESM2).write_bytes(b""), DAMAGED, [], "commit record is empty", UNKNOWN),
    "newer format": (lambda h: h.rewrite(ESM2, version="9.0"), DAMAGED, [], "incompatible: ", UNKNOWN),
    "flipped bit": (lambda h: flip_a_bit(h.data(ESM2)), CURRENT, [], "", CURRENT),  # seen by who reads the bytes
    "other weights": (lambda h: h.resave(ESM2, weights_sha256=OTHER), STALE, ["weights_sha256"], "", STALE),
    "other model": (lambda h: h.resave(ESM2, model_id="x", config_sha256=OTHER), STALE, ["config_sha256", "model_id"],
                    "", STALE),
    "other precision": (lambda h: h.resave(ESM2, precision="bfloat16"), STALE, ["precision"], "", STALE),
    "older method": (lambda h: h.resave(ESM2, method_version=1), STALE, ["method_version"], "", STALE),
    "less known": (lambda h: h.resave(ESM2, revision=None), STALE, ["revision"], "", STALE),
    "other frames": (lambda h: h.resave(FRAMES, text="MKV"), STALE, ["inputs.protein"], "", STALE),
    "other numbers": (lambda h: h.resave(ESM2, add=1), CURRENT, [], "", STALE),
    "imported": (lambda h: h.imported(ESM2), CURRENT, [], "", CURRENT),
    "imported of another model": (lambda h: h.imported(ESM2, model_id="x"), STALE, ["model_id"], "", STALE),
    "imported for other frames": (lambda h: h.imported(ESM2, inputs={"protein": OTHER}), STALE, ["inputs.protein"], "",
                                  STALE),
    "no frames": (lambda h: h.remove(FRAMES), UNKNOWN, [], "no checkpoint was committed", UNKNOWN),
    "frames cut off": (lambda h: cut_off(h, FRAMES), UNKNOWN, [], "size differs", UNKNOWN),
    "other DNABERT-S": (lambda h: h.resave(DNABERT_S, precision="bfloat16"), CURRENT, [], "", STALE),
    "no predictions": (lambda h: h.remove(PREDICTIONS), CURRENT, [], "", MISSING),
    "predictions cut off": (lambda h: cut_off(h, PREDICTIONS), CURRENT, [], "", DAMAGED),
    "other head": (lambda h: h.resave(PREDICTIONS, head_sha256=OTHER), CURRENT, [], "", STALE),
}  # fmt: skip
cases = pytest.mark.parametrize("case", CASES)


@cases
def test_each_state_has_its_reasons(home, case):
    wreck, state, fields, error, of_predictions = CASES[case]
    wreck(home)

    found = state_of(home.stages[ESM2], home.shards[1], home.store)

    assert (found.state, [reason.field for reason in found.reasons]) == (state, fields)
    assert isinstance(found.error, CheckpointError) == (state in (DAMAGED, UNKNOWN))
    assert error in str(found.error)
    assert bool(found.record) == (state in (STALE, UNKNOWN, CURRENT))
    assert bool(found.current) == (state is CURRENT)
    assert bool(found.wanted) == (state is not UNKNOWN)
    assert home.states(PREDICTIONS)[home.shards[1]] is of_predictions
    assert {home.states(stage)[home.shards[0]] for stage in home.stages} == {CURRENT}, "the shard beside it"


def test_a_flipped_bit_is_damage_where_bytes_are_read_and_then_the_result_is_missing(home):
    flip_a_bit(home.data(ESM2))
    with pytest.raises(CheckpointError, match="digest differs"):
        home.store.load(shard_checkpoint(ESM2, home.shards[1]))

    assert len(set_aside_damaged(home.store, home.batch)) == 1

    assert home.states(ESM2)[home.shards[1]] is MISSING


def test_what_is_wanted_decides_too(home):
    home.imported(ESM2)
    home.options = ComputeOptions(device="cpu", precision="bfloat16")

    assert list(home.states(ESM2).values()) == [STALE, CURRENT, STALE]  # an imported one claims no precision
    assert set(home.states(DNABERT_S).values()) == {STALE}
    found = state_of(home.stages[PREDICTIONS], home.shards[0], home.store)
    assert (found.state, found.reasons, type(found.error)) == (STALE, (), StaleError)
    assert str(found.error.message).endswith("is stale: precision: stored float32, wanted bfloat16")


def test_a_missing_result_says_what_is_wrong_with_its_input(home):
    home.remove(ESM2)
    home.remove(PREDICTIONS)
    found = state_of(home.stages[PREDICTIONS], home.shards[1], home.store)

    assert (found.state, type(found.error)) == (MISSING, CheckpointMissingError)
    with pytest.raises(CheckpointMissingError, match=rf"esm2_embeddings of {home.shards[1]}: there is none"):
        found.or_raise()


@cases
def test_all_who_ask_are_told_the_same(home, case):
    CASES[case][0](home)
    states = {stage: home.states(stage) for stage in home.stages}
    rows = dict(zip(home.shards, home.store.load(batch_checkpoint(BATCH, home.batch))["shard_rows"], strict=True))

    due = survey_batch(home.store, home.stages[PREDICTIONS], home.batch, home.shards, home.root)

    assert bool(due.cut) == (case in ("no frames", "frames cut off"))
    for name, stage in home.stages.items() if not due.cut else ():
        lacking = {shard: state for shard, state in states[name].items() if state is not CURRENT}
        assert due.states[name] == {shard: state for shard, state in lacking.items() if state is not UNKNOWN}
        assert bytes_needed(home.store, [stage], home.shards) == sum(map(rows.get, lacking)) * (4 * stage.dim + 100)
        assert _is_exported(home, name) == _is_alike(home, name, case), name
    if due.cut:
        assert not any(_is_exported(home, stage) for stage in home.stages)
    else:
        done = import_nothing(home)
        assert done.present == [shard for shard, state in states[ESM2].items() if state is CURRENT]
        assert list(done.missing) == [shard for shard, state in states[ESM2].items() if state is not CURRENT]


def import_nothing(home: Home) -> StageImport:
    """Import a file that holds no shard's embeddings whole."""
    path, frames = home.root / "output_1_ESM.pt", home.store.load(shard_checkpoint(FRAMES, home.shards[0]))["ids"]
    torch.save({"proteins": frames[:1], "data": [torch.ones(home.stages[ESM2].dim)]}, path)
    (done,) = import_embeddings(home.store, home.batch, path, [home.stages[ESM2]], {}).stages
    return done


def _is_exported(home: Home, stage: str) -> bool:
    try:
        read_for_export(home.store, home.batch, stage, "mini")
    except VirnucError:
        return False
    return True


def _is_alike(home: Home, stage: str, case: str) -> bool:
    """Whether an export takes it: all current, as far as can be told without a bundle to compare with."""
    if stage == ESM2 and case == "imported":
        return False  # current, but not made like the shards beside it
    found = state_of(home.stages[stage], home.shards[1], home.store)
    return found.state is CURRENT or isinstance(
        found.error, StaleError
    )  # its inputs are stale, but they are its inputs


@cases
def test_exactly_what_is_due_is_computed_and_then_nothing_is(home, case):
    CASES[case][0](home)
    for name, stage in home.stages.items():
        before = {shard: state_of(stage, shard, home.store) for shard in home.shards}

        for shard, outcome in home.ensure(name).items():
            found = before[shard]
            if found.error:
                assert (type(outcome), str(outcome)) == (type(found.error), str(found.error)), (name, shard)
            else:
                assert (outcome.reused, outcome.reasons) == (found.state is CURRENT, found.reasons), (name, shard)
        assert home.states(name) == {shard: found.state if found.error else CURRENT for shard, found in before.items()}

    set_aside_damaged(home.store, home.batch)
    build_batch(home.store, home.batch, Progress(), {})
    for stage in home.stages:
        home.ensure(stage)

    due = survey_batch(home.store, home.stages[PREDICTIONS], home.batch, home.shards, home.root)
    assert due.describe() == "report: there is none"
    assert {state for stage in home.stages for state in home.states(stage).values()} == {CURRENT}


@pytest.mark.parametrize("case", ["nothing", "removed", "other precision", "predictions cut off", "other head"])
def test_a_report_counts_current_predictions_alone(home, case):
    CASES[case][0](home)

    build_report(home.store, home.batch, home.stages[PREDICTIONS], home.root / "report")

    made = json.loads((home.root / "report" / paths.PROVENANCE).read_text())
    states = home.states(PREDICTIONS)
    assert made["missing_shards"] == [shard for shard, state in states.items() if state is not CURRENT]
    assert made["missing_shards"] == ([] if case == "nothing" else home.shards[1:2])
