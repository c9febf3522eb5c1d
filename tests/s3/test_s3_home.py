"""`virnuc` on a home whose store is on S3: the same results, an outage in the middle, and no secret anywhere."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("s3fs", reason="needs the extra [s3]")
from kits.pipeline import SHARDS, Call, Home
from kits.programs import Program
from kits.s3 import SECRET, Way, new_bucket
from kits.waiting import wait_until

from virnuc_dagster.checkpoints import Level, open_store
from virnuc_dagster.cli import main
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.stages.pipeline import COMPUTED


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Call:
    call = Home(tmp_path_factory.mktemp("local")).predict()
    assert call.code == 0, call.err
    return call


def start(way: Way, home: Home, url: str, hold: tuple[str, int] | None = None, **more: str) -> Program:
    return home.start(hold=hold, **way.environment, VIRNUC_STORE=url, **more)


def wait_for_shards(url: str, stage: str, count: int, process: Program) -> None:
    store = open_store(url)
    wait_until(lambda: len(store.list(stage)) >= count, process, poll_seconds=0.05)


def everything_whole(url: str) -> int:
    """Reads every byte that is committed; the number of checkpoints."""
    store = open_store(url)
    keys = [key for stage in ("sequences", *COMPUTED) for key in store.list(stage)]
    for key in keys:
        store.load(key, Level.FULL)
    return len(keys)


def test_results_are_those_of_a_local_store_and_no_secret_is_kept(way, tmp_path, local, capsys):
    home, url = Home(tmp_path), new_bucket(way.target)

    first = home.finish(start(way, home, url))
    second = home.finish(start(way, home, url))

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert first.files() == local.files()
    assert not home.store.exists()
    assert second.run["computed_shards"] == dict.fromkeys(second.run["computed_shards"], 0)
    assert second.run["reused_shards"]["predictions"] == SHARDS
    assert everything_whole(url) == 2 + 4 * SHARDS
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) > 20
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]
    assert SECRET not in first.out + first.err
    at = ["--home", str(tmp_path / "home"), "--store", url]
    assert main(["checkpoints", "validate", *at]) == 0
    assert f"{2 + 4 * SHARDS} ok" in capsys.readouterr().out
    assert main(["checkpoints", "sweep", "--grace-minutes", "0", *at]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert main(["doctor", *at]) == 0
    assert main(["batches", "remove", first.run["batch"], "--yes", *at]) == 0
    assert list(open_store(url).list("sequences")) == []


def test_a_service_that_dies_for_a_while_is_waited_for(way, tmp_path, local):
    home, url = Home(tmp_path), new_bucket(way.target)
    process = start(way, home, url, ("dnabert_s_embeddings", 5))
    wait_for_shards(url, "dnabert_s_embeddings", 5, process)

    way.cut()
    home.release()
    wait_until(lambda: "trying again" in process.said, process)
    way.open()
    call = home.finish(process)

    assert call.code == 0, call.err
    assert "trying again" in call.err
    assert call.files() == local.files()
    assert everything_whole(url) == 2 + 4 * SHARDS


def test_a_service_that_stays_away_is_a_named_error_and_the_next_call_goes_on(way, tmp_path, local):
    home, url = Home(tmp_path), new_bucket(way.target)
    process = start(way, home, url, ("dnabert_s_embeddings", 5), VIRNUC_STORE_PATIENCE_SECONDS="1")
    wait_for_shards(url, "dnabert_s_embeddings", 5, process)

    way.cut()
    home.release()
    call = home.finish(process)
    way.open()

    assert call.code == 1, call.err
    assert "the service does not answer" in call.err
    assert "  -> start it, or check AWS_ENDPOINT_URL" in call.err
    assert SECRET not in call.err
    done = len(open_store(url).list("dnabert_s_embeddings"))
    assert 5 <= done < SHARDS
    everything_whole(url)

    again = home.finish(start(way, home, url))
    assert again.code == 0, again.err
    assert again.run["reused_shards"]["dnabert_s_embeddings"] == done
    assert again.files() == local.files()
    assert everything_whole(url) == 2 + 4 * SHARDS


def test_a_killed_run_goes_on(way, tmp_path, local):
    home, url = Home(tmp_path), new_bucket(way.target)
    process = start(way, home, url, ("esm2_embeddings", 3))
    wait_for_shards(url, "esm2_embeddings", 3, process)
    process.kill()
    process.communicate()
    done = everything_whole(url)

    call = home.finish(start(way, home, url))

    assert call.code == 0, call.err
    assert call.files() == local.files()
    assert sum(call.run["reused_shards"].values()) >= done - 2 - SHARDS > 0
    assert everything_whole(url) == 2 + 4 * SHARDS


@pytest.mark.parametrize("store", ["s3://key:hush@bucket/x", "s3://bucket/x?secret=hush", "s3:///x", "s3:/bucket/x"])
def test_a_store_that_cannot_be_is_a_usage_error_without_its_secret(tmp_path, store):
    command = [sys.executable, "-m", "virnuc_dagster", "--traceback", "batches", "list", "--home", str(tmp_path)]
    done = subprocess.run([*command, "--store", store], capture_output=True, text=True)
    assert done.returncode == 2
    assert "hush" not in done.stdout + done.stderr


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path, monkeypatch):
    assert Settings.read(home=tmp_path).store == tmp_path / "store"
    (tmp_path / "settings.toml").write_text('store = "s3://of-the-file/x/"\n')
    assert Settings.read(home=tmp_path).store == "s3://of-the-file/x"
    monkeypatch.setenv("VIRNUC_STORE", "s3://of-the-environment/x")
    assert Settings.read(home=tmp_path).store == "s3://of-the-environment/x"
    assert Settings.read(home=tmp_path, store=str(tmp_path / "disk")).store == Path(tmp_path / "disk")
