import json

from virnuc_dagster.cli import main
from virnuc_dagster.cli.app import virnuc


def test_doctor_tells_what_the_machine_can_do(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)

    code = main(["doctor", "--home", str(tmp_path), "--json"])

    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert code == 0
    assert {"python", "torch", "cpu", "device in use", "store", "free space", "bundle mini"} <= found.keys()
    assert all(finding["ok"] for finding in found.values())


def test_doctor_names_what_is_wrong_with_a_remedy(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("VIRNUC_DEVICE", "cuda:7")

    code = main(["doctor", "--home", str(tmp_path), "--json"])

    bad = {f["name"]: f["remedy"] for f in json.loads(capsys.readouterr().out) if not f["ok"]}
    assert code == 1
    assert bad.keys() == {"device in use", "dagster instance"}
    assert all(bad.values())


def test_doctor_says_whether_ray_is_there(tmp_path, capsys, monkeypatch):
    from virnuc_dagster import backends

    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("VIRNUC_BACKEND", "ray")
    monkeypatch.setenv("VIRNUC_DEVICE", "cuda")  # of the workers: there need not be one here
    monkeypatch.setattr(backends, "find_spec", lambda name: None)

    code = main(["doctor", "--home", str(tmp_path), "--json"])

    bad = {f["name"]: f["remedy"] for f in json.loads(capsys.readouterr().out) if not f["ok"]}
    assert (code, bad) == (1, {"backend ray": "pip install 'virnuc-dagster[ray]'"})


def test_only_what_is_built_is_a_command():
    built = {
        "batches", "checkpoints", "completion", "doctor", "evaluate", "export", "models", "plan", "predict", "train",
        "up",
    }  # fmt: skip
    assert set(virnuc.commands) == built
