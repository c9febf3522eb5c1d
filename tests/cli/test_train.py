"""`virnuc train` as a user calls it: a head on a bundle's encoders, in the same store as `predict`."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from kits.programs import Program
from kits.training import records, write
from kits.waiting import HANG_SECONDS, wait_until

from virnuc_dagster.api.inputs import readable_twice
from virnuc_dagster.cli import main
from virnuc_dagster.home.locks import only_one
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.report import paths
from virnuc_dagster.training.encoders import forget_states


def commits(home: Path) -> dict[str, str]:
    """Commit records of all embeddings; equal text means that nothing was computed again."""
    return {str(path): path.read_text() for path in (home / "store").glob("*_embeddings/*/*.done")}


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    program = Program(list(map(str, arguments)), os.environ)
    out, err = program.communicate(timeout=HANG_SECONDS)
    return subprocess.CompletedProcess(arguments, program.returncode, out, err)


def test_a_head_is_trained_on_stored_embeddings_and_nothing_is_embedded_twice(tmp_path):
    fasta, labels = write(tmp_path, records())
    home = tmp_path / "home"
    common = ("--encoders", "mini", "--home", home, "--steps", "20")

    first = run("train", fasta, labels, "--output", tmp_path / "one", "--json", *common)
    assert first.returncode == 0, first.stderr
    embedded = commits(home)
    again = run("train", fasta, labels, "--output", tmp_path / "two", "--quiet", *common)
    assert again.returncode == 0, again.stderr
    predicted = run("predict", fasta, "--output", tmp_path / "out", "--bundle", tmp_path / "one", "--home", home)
    assert predicted.returncode == 0, predicted.stderr

    assert len(embedded) == 2
    assert commits(home) == embedded
    assert json.loads((tmp_path / "out" / paths.RUN).read_text())["computed_shards"]["esm2_embeddings"] == 0
    one, two, mini = (open_bundle(str(name)) for name in (tmp_path / "one", tmp_path / "two", "mini"))
    assert one.spec.head.weights == two.spec.head.weights
    assert one.spec.encoders == mini.spec.encoders
    assert one.spec.head.weights != mini.spec.head.weights
    facts = json.loads(first.stdout)
    assert facts["val"]["open_windows"]["accuracy"] > 0.7
    assert (again.stdout, facts["encoders"]) == ("", "mini")


def test_small_encoders_and_their_head_become_a_bundle_that_predicts(tmp_path):
    fasta, labels = write(tmp_path, records(groups=3))

    done = run("train", fasta, labels, "--output", tmp_path / "bundle", "--steps", "3", "--description", "A test.")
    assert done.returncode == 0, done.stderr

    bundle = open_bundle(str(tmp_path / "bundle"))
    bundle.verify()
    assert (bundle.name, bundle.spec.description) == ("bundle", "A test.")
    assert "val all windows" in done.stdout
    assert "step 3" in done.stderr
    assert (tmp_path / "bundle" / "curves.svg").read_text().startswith("<svg")
    assert "# Model card: `bundle`" in (tmp_path / "bundle" / "model-card.md").read_text()
    parts = {line.split("\t")[4] for line in (tmp_path / "bundle" / "records.tsv").read_text().splitlines()[1:]}
    assert parts == {"fit", "dev", "val"}


def test_an_interrupted_training_keeps_its_state_and_says_how_to_go_on(tmp_path):
    fasta, labels = write(tmp_path, records())
    output = tmp_path / "bundle"
    process = Program(["train", str(fasta), str(labels), "--output", str(output)], os.environ)
    states = tmp_path / ".bundle.training"
    wait_until(lambda: len(list(states.glob("*.pt"))) == 2, process)

    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=HANG_SECONDS)

    assert process.returncode == 143, err
    assert "run the same command to go on" in err
    assert sorted(path.name for path in states.glob("*.pt")) == ["dnabert_s.pt", "esm2.pt"]
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "{tmp}"], "exists\n  -> name another folder with --output"),
        (["--output", "{tmp}/new", "--encoders", "nope"], "no bundle 'nope'"),
        (["--output", "{tmp}/labels.tsv/new"], "labels.tsv is no folder that can be written"),
        (["--output", "{tmp}/labels.tsv/new", "--encoders", "mini"], "labels.tsv is no folder that can be written"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(tmp_path, arguments, message, capsys):
    fasta, labels = write(tmp_path, records())

    code = main(["train", str(fasta), str(labels), *(a.format(tmp=tmp_path) for a in arguments)])

    assert code == (2 if "can be written" in message else 1)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_records_without_any_frame_are_an_error_that_says_so(tmp_path, capsys):
    stops = [f"e{i}" for i in range(4)]
    (tmp_path / "none.fa").write_text("".join(f">{name}\n{'TTAA' * (200 + i)}\n" for i, name in enumerate(stops)))
    rows = [f"{name}\t{('other', 'virus')[i % 2]}\tc\tg{i}\n" for i, name in enumerate(stops)]
    (tmp_path / "labels.tsv").write_text("id\tlabel\tcategory\tgroup\n" + "".join(rows))
    files = [str(tmp_path / name) for name in ("none.fa", "labels.tsv")]
    options = ["--output", str(tmp_path / "new"), "--encoders", "mini", "--home", str(tmp_path / "home"), "--quiet"]

    assert main(["train", *files, *options]) == 1

    assert "no record of label virus to learn from has an open frame" in capsys.readouterr().err


def test_what_does_not_go_together_is_refused_before_anything_is_read(tmp_path):
    fasta, labels = write(tmp_path, records())

    done = run("train", fasta, labels, "--output", tmp_path / "bundle", "--device", "cuda")

    assert done.returncode == 2
    assert "--device is for --encoders" in done.stderr


def test_a_second_training_of_the_same_bundle_is_told_of_the_first(tmp_path):
    fasta, labels = write(tmp_path, records())
    states = tmp_path / ".bundle.training"
    states.mkdir()

    with only_one(states / "lock", "process 7 trains this bundle", "wait"):
        done = run("train", fasta, labels, "--output", tmp_path / "bundle", "--steps", "3")

    assert done.returncode == 1
    assert "already running: process 7 trains this bundle" in done.stderr
    assert [path.name for path in states.iterdir()] == ["lock"]


def test_the_states_of_a_finished_training_go_and_nothing_else(tmp_path):
    for name in ("lock", "dnabert_s.pt", "esm2.pt", ".esm2.pt.0123.tmp", "mine.txt"):
        (tmp_path / name).touch()

    forget_states(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "mine.txt").unlink()
    forget_states(tmp_path)
    assert not tmp_path.exists()


def test_records_from_a_pipe_are_kept_for_a_second_reading(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=(tmp_path / "pipe").write_text, args=(">a\nACGT\n",), daemon=True).start()
    with readable_twice(tmp_path / "pipe") as copy:
        assert [copy.read_text(), copy.read_text()] == [">a\nACGT\n"] * 2
    assert not copy.exists()
