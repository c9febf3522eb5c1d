"""`virnuc predict` as a user meets it: odd inputs, several inputs, standard input, no network. One process for all."""

import csv
import gzip
import hashlib
import io
import json
import socket
from pathlib import Path

import pytest
from kits.pipeline import DEMO

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
        + "\n>codon\nACGT\n>masked\n"
        + "N" * 400
        + "GCC" * 33
    )

    code, out, _ = predict(source, "--output", tmp_path / "out")

    assert code == 0
    found = {row["sequence_id"]: row for row in rows(tmp_path / "out" / paths.SEQUENCES)}
    assert list(found) == ["empty", "short", "stops", "ACC|1", "n", "codon", "masked"]
    assert [row["verdict"] for row in found.values()][:2] == ["too short", "too short"]
    assert found["stops"]["scored_windows"] == "0"
    assert found["stops"]["fallback_windows"] == found["stops"]["windows"], "scored by its composition"
    assert found["ACC|1"]["scored_windows"] == found["ACC|1"]["windows"] == "2"
    assert (found["n"]["verdict"], found["n"]["reason"]) == ("no open frame", "too_little_known")
    for name in ("codon", "masked"):
        assert (found[name]["verdict"], found[name]["reason"]) == ("uncertain", "too_little_known")
    assert (found["codon"]["scored_windows"], found["codon"]["windows"]) == ("1", "1"), "one codon fills its window"
    summary = json.loads((tmp_path / "out" / paths.SUMMARY).read_text())
    assert summary["uncertain_reasons"]["too_little_known"] == 2, "of the uncertain ones"
    assert "7 sequences" in out
    windows = rows(tmp_path / "out" / paths.WINDOWS)
    assert [(w["start"], w["end"]) for w in windows if w["sequence_id"] == "n"] == [("0", "500"), ("299", "600")]
    sources = {w["sequence_id"]: w["source"] for w in windows}
    assert sources == {"stops": "fallback", "ACC|1": "frame", "n": "none", "codon": "frame", "masked": "frame"}
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
    first, bad, last = json.loads(out)["batches"]
    assert [Path(entry["input"]["path"]).name for entry in (first, bad, last)] == ["a.fa", "b.fa", "c.fa.gz"]
    assert (bad["batch"], bad["summary"], bad["error"]["exit_code"]) == (None, None, 1)
    assert bad["input"]["sha256"] == hashlib.sha256(b"no sequences here\n").hexdigest()
    assert [Path(entry["output"]).parent for entry in (first, last)] == [tmp_path / "o"] * 2
    assert all((Path(entry["output"]) / paths.HTML).is_file() and not entry["error"] for entry in (first, last))
    assert last["input"]["bytes"] == (tmp_path / "c.fa.gz").stat().st_size
    assert last["run"]["inputs"] == [last["input"]]


def test_equal_names_and_equal_contents_are_told_apart_everywhere(predict, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder, text in (("s1", ">a\nATGGCC\n"), ("s2", ">b\nATGGCCA\n"), ("s3", ">a\nATGGCC\n")):
        Path(folder).mkdir()
        Path(folder, "contigs.fasta").write_text(text)
    given = [f"{folder}/contigs.fasta" for folder in ("s1", "s2", "s3")]

    _, out, err = predict(*given, "--output", "o", "--json")
    _, table, _ = predict(*given, "--output", "o")
    assert main(["batches", "list", "--home", "home", "--json"]) == 0
    home = {row["batch"]: row["files"] for row in json.loads(capsys.readouterr().out)["batches"]}

    first, second, third = json.loads(out)["batches"]
    assert [entry["input"]["path"] for entry in (first, second, third)] == given
    assert first["batch"] == third["batch"] != second["batch"]
    assert "s3/contigs.fasta holds the sequences of s1/contigs.fasta" in err
    run = json.loads((Path(first["output"]) / paths.RUN).read_text())
    assert [entry["path"] for entry in run["inputs"]] == [given[0], given[2]]
    assert [entry["path"] for entry in home[first["batch"]]] == [given[0], given[2]]
    assert [entry["absolute"] for entry in home[second["batch"]]] == [str(tmp_path / given[1])]
    assert table.count(f"{given[1]} (11 bytes, sha256 {second['input']['sha256'][:12]}...): {second['batch']}") == 1


def test_errors_name_the_file_as_it_was_given(predict, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s2").mkdir()
    Path("s2", "contigs.fasta").write_text(">a\nAC-GT\n")

    code, out, err = predict("s2/contigs.fasta", "--output", "o", "--json")

    assert code == 1
    assert "s2/contigs.fasta, line 2" in err
    assert [entry["input"]["bytes"] for entry in json.loads(out)["batches"]] == [9]
    assert json.loads(out)["error"] == json.loads(out)["batches"][0]["error"]


@pytest.mark.parametrize("spelling", [".", "../{name}", "{folder}", "{link}"])
def test_results_never_replace_the_input(predict, tmp_path, monkeypatch, spelling):
    folder = tmp_path / "mine"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    Path(paths.VIRAL_FASTA).write_text(">a\nATGGCC\n")
    output = spelling.format(name=folder.name, folder=folder, link=tmp_path / "link")

    for more in ((), ("--overwrite",)):
        code, _, err = predict(paths.VIRAL_FASTA, "--output", output, *more)
        assert code == 2
        assert "it is the input viral.fasta" in err
        assert "->" in err
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(paths.VIRAL_FASTA, ">a\nATGGCC\n")]
    assert not (tmp_path / "home").exists(), "said before any work"


def test_only_earlier_results_of_the_same_batch_are_replaced_unasked(predict, tmp_path):
    for name, text in (("a", ">a\nATGGCC\n"), ("b", ">b\nATGGCCA\n")):
        (tmp_path / f"{name}.fa").write_text(text)
    out = tmp_path / "out"
    assert predict(tmp_path / "a.fa", "--output", out)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / paths.RUN).unlink()  # as if killed while the files took their places

    assert predict(tmp_path / "a.fa", "--output", out)[0] == 0
    code, _, err = predict(tmp_path / "b.fa", "--output", out)

    assert code == 2
    assert "holds the results of batch a-" in err
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != paths.RUN} == {
        name: data for name, data in before.items() if name != paths.RUN
    }
    assert predict(tmp_path / "b.fa", "--output", out, "--overwrite")[0] == 0
    assert json.loads((out / paths.SUMMARY).read_text())["batch"].startswith("b-")


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
