"""The same call again: nothing is run, nothing wrong is handed out, and what it reports of itself is as before."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from kits.damage import flip_a_bit
from kits.pipeline import Call, Home

from virnuc_dagster import definitions
from virnuc_dagster.cli.app import main
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.orchestration import instance
from virnuc_dagster.orchestration.runs import Runner
from virnuc_dagster.report import paths

STAGES = ("dnabert_s_embeddings", "esm2_embeddings", "predictions")
SEQUENCE = "GCAGCCACGGCGCACGGC" * 40  # without a T there is no stop codon: every frame is open


def call(home: Home, *arguments: str) -> Call:
    """`predict` in this process."""
    sources = [str(path) for path in sorted(home.root.glob("*.fa"))]
    places = ["--home", str(home.root / "home"), "--output", str(home.root / "out"), "--threads", "1"]
    code = main(["predict", *sources, *places, "--shard-size", "4", "--quiet", *arguments])
    return Call(code, "", "", home.root / "out")


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> tuple[Home, dict[str, bytes]]:
    home = Home(tmp_path_factory.mktemp("before"))
    (home.root / "tiny.fa").write_text(f">a\n{SEQUENCE}\n")
    done = call(home)
    assert (done.code, done.run["computed_shards"]) == (0, dict.fromkeys(STAGES, 3))
    return home, done.files()


@pytest.fixture
def again(before, tmp_path) -> tuple[Home, dict[str, bytes]]:
    """A copy of a home that was predicted in, without the results it gave, and these."""
    home = Home(tmp_path / "again")
    shutil.copytree(before[0].root, home.root)
    shutil.rmtree(home.root / "out")
    return home, before[1]


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The batches that were run."""
    batches, run_batch = [], Runner.run_batch
    monkeypatch.setattr(Runner, "run_batch", lambda self, batch: (batches.append(batch), run_batch(self, batch))[1])
    return batches


def report(home: Home) -> Path:
    (folder,) = (home.root / "home" / "reports").iterdir()
    return folder


def test_nothing_is_run_and_the_shards_count_as_reused(again, ran):
    home, files = again

    done = call(home)

    assert (done.code, ran, done.files()) == (0, [], files)
    assert done.run["computed_shards"] == dict.fromkeys(STAGES, 0)
    assert done.run["reused_shards"] == dict.fromkeys(STAGES, 3)
    assert (done.run["run_ids"], done.run["failed_shards"]) == ({}, {})


def test_nothing_that_computes_is_imported(again):
    home, _ = again
    code = (
        "import sys; from virnuc_dagster.cli.app import main; main(sys.argv[1:]);"
        "heavy = ('torch', 'sklearn', 'scipy', 'transformers', 'virnuc_dagster.orchestration.runs');"
        "print([m for m in heavy if m in sys.modules])"
    )
    command = home.arguments("--quiet", "--shard-size", "4", source=home.root / "tiny.fa")

    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)

    assert done.stdout.strip() == "[]", done.stderr


def cut_a_table(folder: Path) -> None:
    (folder / paths.SEQUENCES).write_bytes((folder / paths.SEQUENCES).read_bytes()[:-9])


def of_another_program(folder: Path) -> None:
    seal = json.loads((folder / paths.SEAL).read_bytes())
    (folder / paths.SEAL).write_text(json.dumps(seal | {"virnuc_dagster": "0.0.1"}))


def of_other_checkpoints(folder: Path) -> None:
    made = (folder / paths.PROVENANCE).read_bytes()
    (folder / paths.PROVENANCE).write_bytes(made.replace(b'"created_at": "2', b'"created_at": "1', 1))


@pytest.mark.parametrize(
    "spoil",
    [
        cut_a_table,
        lambda folder: flip_a_bit(folder / paths.HTML),
        lambda folder: (folder / paths.WINDOWS).unlink(),
        lambda folder: (folder / paths.SEAL).unlink(),
        of_another_program,
        of_other_checkpoints,
    ],
    ids=["cut", "flipped", "missing", "not sealed", "other program", "other checkpoints"],
)
def test_a_report_that_is_not_as_it_was_written_is_made_again(spoil, again, ran):
    home, files = again
    spoil(report(home))

    done = call(home)

    assert (done.code, ran, done.files()) == (0, [report(home).name], files)
    assert done.run["computed_shards"] == dict.fromkeys(STAGES, 0)


@pytest.mark.parametrize("stage", ["sequences", "sequence_batch", "predictions"])
def test_damage_behind_a_sealed_report_is_found(stage, again, capsys):
    home, _ = again
    flip_a_bit(next((home.store / stage).glob("*/*.pt")))

    assert call(home).code == 3
    assert "digest differs" in capsys.readouterr().err


def test_what_dagster_does_not_know_is_announced_again(again, ran):
    home, _ = again
    settings = Settings.read(home=home.root / "home")
    with instance.open_instance(settings) as opened:
        opened.wipe_assets([dg.AssetKey("predictions")])

    assert (call(home).code, len(ran)) == (0, 1)
    with instance.open_instance(settings) as opened:
        assert len(opened.get_materialized_partitions(dg.AssetKey("predictions"))) == 3
    shutil.rmtree(home.root / "home" / "dagster")
    assert (call(home).code, len(ran)) == (0, 2)
    assert call(home).run["run_ids"] == {}


def test_partitions_that_someone_put_out_of_order_are_put_right(again, ran):
    home, before = again
    with instance.open_instance(Settings.read(home=home.root / "home")) as opened:
        right = list(opened.get_dynamic_partitions("shards"))
        batch = right[0].rpartition("__")[0]
        opened.delete_dynamic_partition("shards", right[0])
        opened.add_dynamic_partitions("shards", [right[0], f"{batch}__odd key"])

    done = call(home)

    assert (done.code, len(ran), done.files()) == (0, 1, before)
    with instance.open_instance(Settings.read(home=home.root / "home")) as opened:
        assert list(opened.get_dynamic_partitions("shards")) == right


def test_another_bundle_description_is_another_report(again, ran):
    """The page shows it, so a report in a fresh home would differ."""
    from virnuc_dagster.models.bundle import SPEC_FILE, open_bundle

    home, files = again
    folder = home.root / "bundle"
    shutil.copytree(open_bundle("mini").folder, folder)
    spec = json.loads((folder / SPEC_FILE).read_bytes())
    (folder / SPEC_FILE).write_text(json.dumps(spec | {"description": "said otherwise"}))

    done = call(home, "--bundle", str(folder))

    assert (done.code, len(ran), set(done.run["computed_shards"].values())) == (0, 1, {0})
    assert b"said otherwise" in done.files()[paths.HTML] != files[paths.HTML]


def test_what_all_inputs_share_is_opened_once(again, ran, monkeypatch):
    home, _ = again
    for name in ("more", "most"):
        (home.root / f"{name}.fa").write_text(f">{name}\n{SEQUENCE}\n")
    opened = []
    for module, name in ((instance, "open_instance"), (definitions, "build_definitions")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, n=name, f=real, **k: (opened.append(n), f(*a, **k))[1])

    done = call(home)

    assert (done.code, len(ran), sorted(opened)) == (0, 2, ["build_definitions", "open_instance"])
    runs = [json.loads(path.read_bytes()) for path in sorted(done.output.glob("*/run.json"))]
    assert [run["computed_shards"]["predictions"] for run in runs] == [3, 3, 0]
    assert [run["reused_shards"]["predictions"] for run in runs] == [0, 0, 3]


def test_a_result_that_its_user_changed_is_kept(again, ran, capsys):
    home, files = again
    assert call(home).code == 0
    table = home.root / "out" / paths.SEQUENCES
    table.write_text("a remark\n")

    assert call(home).code == 2

    assert "sequences.tsv in" in capsys.readouterr().err
    assert table.read_text() == "a remark\n"
    done = call(home, "--overwrite")
    assert (done.code, ran, done.files()) == (0, [], files)
