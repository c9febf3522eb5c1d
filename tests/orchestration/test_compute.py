"""What a run computes with: configuration, run tags, devices that are not there, and devices that are taken."""

import threading
import time

import pytest

from virnuc_dagster.errors import SettingsError
from virnuc_dagster.orchestration import resources
from virnuc_dagster.orchestration.resources import Compute, hold_device
from virnuc_dagster.stages.shards import EmbeddingStage


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)


@pytest.mark.parametrize(
    ("config", "tags", "expected"),
    [
        ({}, {}, {"device": "cpu", "precision": "float32", "token_budget": 8_192}),
        ({"precision": "bfloat16"}, {}, {"precision": "bfloat16"}),
        ({"precision": "bfloat16"}, {"virnuc/precision": "float16"}, {"precision": "float16"}),
        ({}, {"virnuc/token_budget": "512", "virnuc/threads": "2"}, {"token_budget": 512, "threads": 2}),
        ({"device": "cpu"}, {"virnuc/gpu": "1"}, {"device": "cpu"}),
    ],
    ids=["defaults", "configuration", "a tag beats it", "numbers in tags", "on a CPU the tag only orders the queue"],
)
def test_tags_and_configuration(config, tags, expected):
    compute = Compute(**config).for_run(tags)
    assert {name: getattr(compute, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("config", "tags", "device"),
    [
        ({}, {}, "cuda:0"),
        ({"device": "cuda"}, {}, "cuda:0"),
        ({"device": "cuda:1"}, {}, "cuda:1"),
        ({}, {"virnuc/gpu": "1"}, "cuda:1"),
        ({"device": "cpu"}, {"virnuc/device": "cuda:1"}, "cuda:1"),
    ],
)
def test_the_device_of_a_run_where_there_are_two(two_gpus, config, tags, device):
    assert Compute(**config).for_run(tags).facts()["device"] == device


@pytest.mark.parametrize(
    ("config", "tags", "message"),
    [
        ({"device": "cuda:1"}, {}, "this machine shows 0 CUDA device"),
        ({}, {"virnuc/gpu": "0"}, "this machine shows 0 CUDA device"),
        ({}, {"virnuc/gpu": "first"}, "virnuc/gpu is 'first'"),
        ({"device": "cuda:0"}, {"virnuc/gpu": "1"}, "contradict each other"),
        ({"device": "gpu"}, {}, "device 'gpu'"),
        ({"precision": "int8"}, {}, "precision 'int8'"),
        ({}, {"virnuc/token_budget": "lots"}, "token_budget 'lots'"),
        ({"token_budget": 3}, {}, "token_budget 3"),
        ({"threads": -1}, {}, "threads -1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_computed(config, tags, message):
    with pytest.raises(SettingsError, match=message) as caught:
        Compute(**config).for_run(tags)
    assert caught.value.hint


@pytest.fixture
def locks(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_lock_folder", lambda: tmp_path)


def test_two_runs_never_share_a_device(locks):
    at_work: list[str] = []
    most: list[int] = []

    def run(device: str) -> None:
        with hold_device(device, lambda _: None, poll_seconds=0.01):
            at_work.append(device)
            most.append(at_work.count(device))
            time.sleep(0.05)
            at_work.remove(device)

    runs = [threading.Thread(target=run, args=(f"cuda:{number % 2}",)) for number in range(6)]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()
    assert most == [1] * 6


def test_who_waits_says_for_whom_and_a_cpu_is_shared(locks):
    notes: list[str] = []

    def run() -> None:
        with hold_device("cuda:0", notes.append, poll_seconds=0.01):
            notes.append("mine now")

    with hold_device("cuda:0", notes.append):
        waiting = threading.Thread(target=run)
        waiting.start()
        while not notes:
            time.sleep(0.01)
    waiting.join()
    assert "waiting for cuda:0: process" in notes[0]
    assert notes[1:] == ["mine now"]
    with hold_device("cpu", notes.append), hold_device("cpu", notes.append):
        assert len(notes) == 2


def test_a_ranged_run_loads_each_model_once(tmp_path, monkeypatch):
    from kits.automation import Platform, sequences

    from virnuc_dagster.models.bundle import Bundle

    loads: list[str] = []
    encoder, head = Bundle.load_encoder, Bundle.load_head
    monkeypatch.setattr(Bundle, "load_encoder", lambda self, part, *a: (loads.append(part), encoder(self, part, *a))[1])
    monkeypatch.setattr(Bundle, "load_head", lambda self, *a: (loads.append("head"), head(self, *a))[1])
    computed: list[str] = []
    real_compute = EmbeddingStage.compute
    monkeypatch.setattr(
        EmbeddingStage, "compute", lambda self, shard, p: (computed.append(shard), real_compute(self, shard, p))[1]
    )
    platform = Platform(tmp_path)
    platform.drop("one.fa", sequences(1))
    platform.settle()

    assert len(computed) >= 4
    assert sorted(loads) == ["dnabert_s", "esm2", "head"]


def test_the_device_really_used_is_in_the_metadata(tmp_path):
    from kits.automation import Platform, sequences

    platform = Platform(tmp_path)
    platform.drop("one.fa", sequences(1))
    (take_in,) = platform.tick("inbox_arrivals")
    platform.carry_out(take_in)
    (request,) = platform.tick("batch_progress")
    result = platform.carry_out(request)

    events = result.asset_materializations_for_node("esm2_embeddings")
    assert {event.metadata["device"].value for event in events} == {"cpu"}
    assert all(event.metadata["tokens_per_second"].value > 0 for event in events)
    assert {event.metadata["token_budget"].value for event in events} == {8_192}
