"""`virnuc predict` as a user meets it: odd inputs, several inputs, standard input, no network. One process for all."""

import csv
import gzip
import io
import json
import socket
from pathlib import Path

import pytest
from pipeline_kit import DEMO

from virnuc_dagster.cli import main
from virnuc_dagster.report import paths


@pytest.fixture
def predict(tmp_path, capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["predict", *map(str, arguments), "--home", str(tmp_path / "home")])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_sequence_appears_with_its_reason(predict, tmp_path):
    source = tmp_path / "odd names & spaces.fa"
    source.write_text(
        ">empty\n>short x\nAC\n>stops\n"
        + "TTAATTAATTAA" * 30
        + "\n>ACC|1\ttab é\n"
        + "GCUGCC" * 90
        + "\n>n\n"
        + "N" * 600
    )

    code, out, _ = predict(source, "--output", tmp_path / "out")

    assert code == 0
    found = {row["sequence_id"]: row for row in rows(tmp_path / "out" / paths.SEQUENCES)}
    assert list(found) == ["empty", "short", "stops", "ACC|1", "n"]
    assert [row["verdict"] for row in found.values()][:2] == ["too short", "too short"]
    assert found["stops"]["scored_windows"] == "0"
    assert found["stops"]["fallback_windows"] == found["stops"]["windows"], "scored by its composition"
    assert found["ACC|1"]["scored_windows"] == found["ACC|1"]["windows"] == "2"
    assert found["n"]["verdict"] == "no open frame"
    assert "5 sequences" in out
    windows = rows(tmp_path / "out" / paths.WINDOWS)
    assert [(w["start"], w["end"]) for w in windows if w["sequence_id"] == "n"] == [("0", "500"), ("299", "600")]
    sources = {w["sequence_id"]: w["source"] for w in windows}
    assert sources == {"stops": "fallback", "ACC|1": "frame", "n": "none"}
    assert all((w["frames"] != "0") == (w["source"] == "frame") for w in windows)


def test_zero_viral_sequences_is_said_plainly(predict, tmp_path):
    (tmp_path / "none.fa").write_text(">only\nTAA\n")

    code, out, _ = predict(tmp_path / "none.fa", "--output", tmp_path / "out")

    assert code == 0
    assert "0 viral" in out
    assert (tmp_path / "out" / paths.VIRAL_FASTA).read_bytes() == b""
    assert len(rows(tmp_path / "out" / paths.WINDOWS)) == 1


def test_several_inputs_and_one_bad_one(predict, tmp_path):
    (tmp_path / "a.fa").write_text(">a\nATGGCC\n")
    (tmp_path / "b.fa").write_text("no sequences here\n")
    (tmp_path / "c.fa.gz").write_bytes(gzip.compress(b">c\nATGGCC\n"))

    code, out, err = predict(*(tmp_path / n for n in ("a.fa", "b.fa", "c.fa.gz")), "--output", tmp_path / "o", "--json")

    assert code == 1
    assert "b.fa" in err
    results = json.loads(out)["batches"]
    assert [Path(result["output"]).parent for result in results] == [tmp_path / "o"] * 2
    assert all((Path(result["output"]) / paths.HTML).is_file() for result in results)


def test_standard_input_gives_the_same_verdicts_as_the_file(predict, tmp_path, monkeypatch):
    text = DEMO.read_bytes()[:12_000].rsplit(b">", 1)[0] or DEMO.read_bytes()[:12_000]
    (tmp_path / "x.fa").write_bytes(text)
    predict(tmp_path / "x.fa", "--output", tmp_path / "file")
    stdin = io.TextIOWrapper(io.BytesIO(gzip.compress(text)))
    monkeypatch.setattr("sys.stdin", stdin)

    code, _, err = predict("-", "--name", "piped", "--output", tmp_path / "pipe")

    assert code == 0, err
    assert "piped" in err
    for name in (paths.SEQUENCES, paths.WINDOWS, paths.FRAMES_ORIGINAL):
        assert (tmp_path / "pipe" / name).read_bytes() == (tmp_path / "file" / name).read_bytes()
    assert list((tmp_path / "home" / "inbox").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{tmp}/missing.fa", "--output", "{tmp}/o"], 1, "missing.fa"),
        (["{tmp}", "--output", "{tmp}/o"], 1, "directory"),
        (["{tmp}/x.fa", "--output", "{tmp}/x.fa"], 2, "is a file"),
        (["{tmp}/x.fa"], 2, "--output"),
        (["{tmp}/x.fa", "--output", "{tmp}/o", "--bundle", "nope"], 1, "mini"),
        (["{tmp}/x.fa", "--output", "{tmp}/o", "--device", "cuda:9"], 2, "cuda:9"),
        (["{tmp}/x.fa", "--output", "{tmp}/o", "--shard-size", "0"], 2, "shard_size"),
    ],
)
def test_what_cannot_work_is_said_with_its_exit_code(predict, tmp_path, arguments, code, said):
    (tmp_path / "x.fa").write_text(">x\nATGGCC\n")

    result, _, err = predict(*(argument.format(tmp=tmp_path) for argument in arguments))

    assert result == code
    assert said in err
    assert "Traceback" not in err


def test_no_network_is_used(predict, tmp_path, monkeypatch):
    def refuse(self, address, *_):
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    (tmp_path / "x.fa").write_text(">x\n" + "GCTGCC" * 60 + "\n")

    code, _, err = predict(tmp_path / "x.fa", "--output", tmp_path / "out")

    assert code == 0, err


def test_the_original_programs_files_keep_their_format(predict, tmp_path):
    (tmp_path / "x.fa").write_text("".join(f">s{i}\n" + "GCTGCC" * 60 + "\n" for i in (2, 10, 1)))
    predict(tmp_path / "x.fa", "--output", tmp_path / "out")

    frames = (tmp_path / "out" / paths.FRAMES_ORIGINAL).read_text().splitlines()
    windows = (tmp_path / "out" / paths.WINDOWS_ORIGINAL).read_text().splitlines()

    assert frames[0] == "Sequence_ID\tPrediction\tscore1\tscore2"
    assert [line.split("\t")[0] for line in frames[1:]][::6] == ["s2_chunk_1F1", "s10_chunk_1F1", "s1_chunk_1F1"]
    assert all(abs(sum(map(float, line.split("\t")[2:])) - 1) < 1e-6 for line in frames[1:])
    assert windows[0] == "Modified_ID\tIs_Virus"
    assert [line.split("\t")[0] for line in windows[1:]] == ["s10_chunk_1", "s1_chunk_1", "s2_chunk_1"]
    assert {line.split("\t")[1] for line in windows[1:]} <= {"True", "False"}


def test_a_damaged_run_history_is_named_and_costs_no_result(predict, tmp_path):
    (tmp_path / "x.fa").write_text(">x\n" + "GCTGCC" * 60 + "\n")
    predict(tmp_path / "x.fa", "--output", tmp_path / "out")
    expected = (tmp_path / "out" / paths.WINDOWS).read_bytes()
    dagster_home = tmp_path / "home" / "dagster"
    for path in dagster_home.rglob("*.db"):
        path.write_bytes(b"junk")

    code, _, err = predict(tmp_path / "x.fa", "--output", tmp_path / "out")
    dagster_home.rename(tmp_path / "aside")
    again, _, _ = predict(tmp_path / "x.fa", "--output", tmp_path / "out")

    assert (code, again) == (1, 0)
    assert "move that folder aside" in err
    assert json.loads((tmp_path / "out" / paths.RUN).read_text())["computed_shards"]["esm2_embeddings"] == 0
    assert (tmp_path / "out" / paths.WINDOWS).read_bytes() == expected
