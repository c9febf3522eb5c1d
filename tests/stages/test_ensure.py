"""Shards are saved behind the computation, in order, and told of only after their commit."""

import itertools
import threading

import pytest
import torch
from kits.waiting import wait_until

from virnuc_dagster.checkpoints import CheckpointMissingError, LocalStore, NoSpaceError, ServiceAwayError
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.ensure import NotTriedError, ShardResult, ensure_shards
from virnuc_dagster.stages.keys import shard_checkpoint

SHARDS = [f"demo-1__{number:04d}" for number in range(1, 6)]


class Stage:
    """A stage whose result of a shard is the shard's number."""

    name, dim, tokens, token_budget = "esm2_embeddings", 4, 0, 0

    def __init__(self, log: list, failing: tuple[str, ...] = ()) -> None:
        self.log, self.failing = log, failing

    def reads(self, shard):
        return []

    def wanted(self, shard, records):
        return {"of": shard}

    def prepare(self, shard):
        return shard

    def compute(self, shard, progress):
        self.log.append(("compute", shard))
        if shard in self.failing:
            raise RuntimeError("no")
        return {"ids": ["a", "b"], "data": torch.full((2, 4), float(shard[-4:]))}


class Store(LocalStore):
    """Notes when a save begins and ends; may refuse, and may wait until the next shard's computation has begun."""

    def __init__(self, root, log: list, refused: dict | None = None, *, meeting: bool = False) -> None:
        super().__init__(root)
        self.log, self.refused, self.meeting = log, refused or {}, meeting

    def save(self, key, payload, provenance, writer=None):
        self.log.append(("save", key.shard))
        assert threading.current_thread() is not threading.main_thread()
        if self.meeting and key.shard != SHARDS[-1]:
            wait_until(lambda: ("compute", SHARDS[SHARDS.index(key.shard) + 1]) in self.log)
        if error := self.refused.get(key.shard):
            raise error
        record = super().save(key, payload, provenance, writer)
        self.log.append(("saved", key.shard))
        return record


class Told(Progress):
    def __init__(self, log: list) -> None:
        self.log = log

    def shard_done(self, stage, shard, rows, *, reused):
        self.log.append(("told", shard))

    def shard_failed(self, stage, shard, error):
        self.log.append(("failed", shard))


def test_the_next_shard_is_computed_while_one_is_saved(tmp_path):
    log: list = []

    outcomes = list(ensure_shards(Stage(log), SHARDS, Store(tmp_path, log, meeting=True), Told(log), {}))

    assert [key for key, _ in outcomes] == SHARDS
    assert all(isinstance(outcome, ShardResult) and not outcome.reused for _, outcome in outcomes)
    for this, following in itertools.pairwise(SHARDS):
        assert log.index(("compute", following)) < log.index(("saved", this)), "saving must not hold up computing"
        assert log.index(("saved", this)) < log.index(("save", following)), "one save at a time, in order"
    for shard in SHARDS:
        assert log.index(("saved", shard)) < log.index(("told", shard)), "told before it was committed"
        assert LocalStore(tmp_path).load(shard_checkpoint(Stage.name, shard))["data"][0, 0] == float(shard[-4:])


def test_at_most_one_finished_shard_waits(tmp_path):
    log: list = []
    for _ in ensure_shards(Stage(log), SHARDS, Store(tmp_path, log), Told(log), {}):
        waiting = sum(word == "compute" for word, _ in log) - sum(word == "saved" for word, _ in log)
        assert waiting <= 1


def test_a_failed_save_and_a_failed_computation_leave_the_others(tmp_path):
    log: list = []
    store = Store(tmp_path, log, refused={SHARDS[1]: OSError("worn out")})

    outcomes = dict(ensure_shards(Stage(log, failing=(SHARDS[3],)), SHARDS, store, Told(log), {}))

    assert list(outcomes) == SHARDS
    assert isinstance(outcomes[SHARDS[1]], OSError)
    assert isinstance(outcomes[SHARDS[3]], RuntimeError)
    assert [key.shard for key in store.list(Stage.name)] == [SHARDS[0], SHARDS[2], SHARDS[4]]
    assert ("told", SHARDS[1]) not in log
    assert ("failed", SHARDS[1]) in log


def test_nothing_more_is_computed_once_the_disk_is_full(tmp_path):
    log: list = []
    LocalStore(tmp_path).save(
        shard_checkpoint(Stage.name, SHARDS[4]), Stage([]).compute("x0005", None), {"of": SHARDS[4]}
    )
    store = Store(tmp_path, log, refused={SHARDS[0]: NoSpaceError("full")})

    outcomes = dict(ensure_shards(Stage(log), SHARDS, store, Told(log), {}))

    assert isinstance(outcomes[SHARDS[0]], NoSpaceError)
    assert [type(outcomes[shard]) for shard in SHARDS[2:4]] == [NotTriedError] * 2
    assert outcomes[SHARDS[4]].reused, "what is stored already needs no space"
    assert sum(word == "compute" for word, _ in log) == 2  # the second had begun before the refusal was known


def test_stopping_midway_keeps_what_was_finished(tmp_path):
    log: list = []
    steps = ensure_shards(Stage(log), SHARDS, Store(tmp_path, log), Told(log), {})
    next(steps)

    steps.close()

    stored = [key.shard for key in LocalStore(tmp_path).list(Stage.name)]
    assert stored == SHARDS[: len(stored)]
    assert len(stored) >= 1


@pytest.mark.parametrize("reused", [0, 3])
def test_a_second_pass_computes_only_what_is_missing(tmp_path, reused):
    list(ensure_shards(Stage([]), SHARDS[:reused], Store(tmp_path, []), Progress(), {}))
    log: list = []

    outcomes = dict(ensure_shards(Stage(log), SHARDS, Store(tmp_path, log), Progress(), {}))

    assert [shard for word, shard in log if word == "compute"] == SHARDS[reused:]
    assert [outcome.reused for outcome in outcomes.values()] == [True] * reused + [False] * (5 - reused)


def test_what_another_process_committed_meanwhile_is_not_computed_again(tmp_path):
    """Records are read ahead, but only to pass over what is there; what was missing is looked at again at its turn."""
    log: list = []
    steps = ensure_shards(Stage(log), SHARDS, Store(tmp_path, log), Told(log), {})
    next(steps)

    list(ensure_shards(Stage([]), SHARDS[4:], LocalStore(tmp_path), Progress(), {}))
    rest = dict(steps)

    assert rest[SHARDS[4]].reused
    assert ("compute", SHARDS[4]) not in log


def test_a_shard_that_is_reused_is_looked_at_once(tmp_path):
    class Counting(LocalStore):
        def record(self, key):
            looked.append(key.shard)
            return super().record(key)

    looked: list[str] = []
    store = Counting(tmp_path)
    list(ensure_shards(Stage([]), SHARDS, store, Progress(), {}))
    looked.clear()

    list(ensure_shards(Stage([]), SHARDS, store, Progress(), {}))

    assert looked == SHARDS


def test_an_embedding_that_disappears_is_said_at_the_turn_of_its_shard(tmp_path):
    """Nothing that is raised while records are read ahead ends the stage."""

    class Failing(Stage):
        def wanted(self, shard, records):
            if shard == SHARDS[1]:
                raise CheckpointMissingError(shard)
            return super().wanted(shard, records)

    outcomes = dict(ensure_shards(Failing([]), SHARDS, Store(tmp_path, []), Progress(), {}))

    assert list(outcomes) == SHARDS
    assert isinstance(outcomes.pop(SHARDS[1]), CheckpointMissingError)
    assert all(isinstance(outcome, ShardResult) for outcome in outcomes.values())


def test_where_records_cannot_be_read_ahead_each_shard_has_its_turn(tmp_path):
    class Away(LocalStore):
        def records(self, keys):
            raise ServiceAwayError("s3://x", hint="")

    outcomes = dict(ensure_shards(Stage([]), SHARDS, Away(tmp_path), Progress(), {}))

    assert list(outcomes) == SHARDS
    assert all(isinstance(outcome, ShardResult) for outcome in outcomes.values())
