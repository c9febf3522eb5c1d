"""`virnuc plan`: says what `virnuc predict` then does, stores nothing of the input, and measures only when told to."""

import json
from pathlib import Path

import pytest

from virnuc_dagster.cli import main
from virnuc_dagster.planning import calibration

DEMO = Path(__file__).parents[2] / "demo" / "demo.fasta"


def plan(capsys, *arguments: str) -> dict:
    assert main(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_plan_is_what_predict_does(tmp_path, capsys):
    home = ["--home", str(tmp_path / "home"), "--threads", "1", "--shard-size", "50"]
    said = plan(capsys, str(DEMO), *home)
    assert not (tmp_path / "home").exists()
    assert said["time"]["seconds"] is None

    assert main(["predict", str(DEMO), "--output", str(tmp_path / "out"), "--quiet", *home]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    capsys.readouterr()
    again = plan(capsys, str(DEMO), *home)

    assert {name: said["input"][name] for name in ("sequences", "bases", "windows", "frames")} == {
        name: summary[name] for name in ("sequences", "bases", "windows", "frames")
    }
    assert (said["shards"], said["dagster"]["shards_registered"]) == (3, 0)
    assert (again["shards"], again["dagster"]["shards_registered"]) == (3, 3)
    store = sum(path.stat().st_size for path in (tmp_path / "home" / "store").rglob("*") if path.is_file())
    assert said["bytes"]["total"] - said["bytes"]["reports"] == pytest.approx(store, rel=0.05)


def test_time_comes_from_a_measurement_that_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibration, "_SECONDS", 0.2)
    monkeypatch.setattr(calibration.measure, "__defaults__", (0.2,))
    home = ["--home", str(tmp_path), "--threads", "1"]

    measured = plan(capsys, str(DEMO), *home, "--calibrate")["time"]
    kept = plan(capsys, str(DEMO), *home)["time"]
    other = plan(capsys, str(DEMO), *home[:2], "--threads", "2")["time"]

    assert kept == measured
    assert other["calibration"] is None
    rates = kept["calibration"]["tokens_per_second"]
    assert rates["dnabert_s"] > 100
    assert rates["esm2"] > 100
    assert kept["seconds"] == pytest.approx(sum(kept["encoder_seconds"].values()) + kept["overhead_seconds"], abs=0.2)
    assert kept["calibration"]["measured_at"].endswith("+00:00")


def test_in_words(tmp_path, capsys):
    assert main(["plan", str(DEMO), "--home", str(tmp_path), "--shard-size", "10"]) == 0
    said = capsys.readouterr().out
    for words in ("all of it was read", "15 of 10 frames", "until measured: add --calibrate", "at most 100,000",
                  "advice: --shard-size 10000 (1 shards)"):  # fmt: skip
        assert words in said, said


def test_a_damaged_measurement_counts_as_none(tmp_path, capsys):
    (tmp_path / calibration.FILE).write_text("{")
    assert plan(capsys, str(DEMO), "--home", str(tmp_path))["time"]["calibration"] is None


def test_with_ray_a_gpu_need_not_be_here(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = [str(DEMO), "--home", str(tmp_path), "--device", "cuda"]
    time = plan(capsys, *arguments, "--backend", "ray")["time"]
    assert (time["device"], time["seconds"]) == ("cuda", None)
    assert main(["plan", *arguments]) == main(["plan", *arguments, "--backend", "ray", "--calibrate"]) == 2


def test_of_a_large_file_a_sample_is_read(tmp_path, capsys):
    path = tmp_path / "large.fasta"
    record = DEMO.read_text()
    with path.open("w") as file:
        for number in range(600):
            file.write(record.replace(">", f">{number}_"))

    found = plan(capsys, str(path), "--home", str(tmp_path / "home"))["input"]

    assert not found["exact"]
    assert found["read_bytes"] < 33_000_000 < found["text_bytes"]
    assert found["frames"] == pytest.approx(600 * 142, rel=0.05)
    assert found["windows"] == pytest.approx(600 * 344, rel=0.05)
    assert found["sequences"] == pytest.approx(600 * 11, rel=0.1)


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["plan", str(tmp_path / "none.fa"), "--home", str(tmp_path)]) == 1
