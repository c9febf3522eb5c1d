"""The platform from Python: what `virnuc predict` does, as a function that prints nothing and leaves no trace."""

import asyncio
import doctest
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from virnuc_dagster import BatchResult, Progress, Settings, VirnucError, open_session, predict
from virnuc_dagster.api import prediction
from virnuc_dagster.cli import main
from virnuc_dagster.errors import InputError, SettingsError
from virnuc_dagster.report import paths

ROOT = Path(__file__).parents[2]
SEQUENCE = "GCAGCCACGGCGCACGGC" * 40  # without a T there is no stop codon: every frame is open
SMALL = {"threads": 1, "shard_size": 4}
EXAMPLES = re.compile(r"^```pycon\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """A folder with a sequence file and the home in which it was predicted."""
    root = tmp_path_factory.mktemp("before")
    (root / "tiny.fa").write_text(f">a\n{SEQUENCE}\n")
    predict(root / "tiny.fa", home=root / "home", **SMALL)
    return root


@pytest.fixture
def folder(before, tmp_path, monkeypatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(before, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def again(inputs: object = "tiny.fa", **arguments: object) -> list[BatchResult]:
    return predict(inputs, **{"home": "home", **SMALL, **arguments})


def shards(result: BatchResult) -> tuple[int, int]:
    return result.run["computed_shards"]["predictions"], result.run["reused_shards"]["predictions"]


def test_the_package_is_imported_at_no_cost():
    code = (
        "import sys, virnuc_dagster as v; dir(v); print({'torch', 'dagster', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("where", ["docs/python.md", "the docstring"])
def test_examples_are_true(where, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "demo", tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIRNUC_THREADS", "1")
    text = prediction.predict.__doc__ or ""
    if where == "docs/python.md":
        text = "\n".join(EXAMPLES.findall((ROOT / where).read_text()))
    examples = doctest.DocTestParser().get_doctest(text, {}, where, where, 0)
    told: list[str] = []

    found = doctest.DocTestRunner().run(examples, out=told.append)

    assert (found.failed, found.attempted > 2) == (0, True), "".join(told)


def test_nothing_is_printed_and_handlers_stay_as_they_were(folder, capfd):
    (folder / "new.fa").write_text(f">new\n{SEQUENCE}\n")

    def mine(number, frame): ...

    handlers = {number: signal.signal(number, mine) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        (result,) = again("new.fa")
        kept = {signal.getsignal(number) for number in handlers}
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    assert (shards(result), kept) == ((3, 0), {mine})
    assert capfd.readouterr() == ("", "")


def test_the_files_are_those_of_the_command_line(folder):
    (result,) = again(output=folder / "ours")
    arguments = ["--home", str(folder / "home"), "--threads", "1", "--shard-size", "4", "--quiet"]

    assert main(["predict", "tiny.fa", "--output", str(folder / "theirs"), *arguments]) == 0

    assert (result.folder, shards(result), result.state) == (folder / "ours", (0, 3), "complete")
    for name in (*paths.REPRODUCIBLE, paths.PROVENANCE):
        assert (folder / "ours" / name).read_bytes() == (folder / "theirs" / name).read_bytes()
    assert (folder / "ours" / paths.RUN).exists()


def test_without_an_output_the_report_of_the_home_is_read(folder):
    (result,) = again()

    assert result.folder == folder / "home" / "reports" / str(result.batch)
    assert [(s.id, s.length, s.windows) for s in result.sequences()] == [("a", 720, 2)]
    assert result.verdicts[next(result.sequences()).verdict] == 1
    assert [row["sequence_id"] for row in result.rows(paths.WINDOWS)] == ["a", "a"]


def test_one_bad_input_keeps_no_other_from_its_report(folder):
    (folder / "bad.fa").write_text("no sequence file\n")
    (folder / "more.fa").write_text(f">more\n{SEQUENCE}\n")

    bad, good = again(["bad.fa", "more.fa"], output="out", check=False)

    assert (bad.state, bad.batch, bad.folder, list(bad.sequences())) == ("failed", None, None, [])
    assert isinstance(bad.error, InputError)
    assert good.folder == Path("out") / str(good.batch)
    with pytest.raises(InputError, match=re.escape("bad.fa")):
        again(["bad.fa", "more.fa"], output="out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"colour": "red"}, "colour: no such setting"),
        ({"precision": "int4"}, "precision"),
        ({"output": "home/reports"}, "keeps for itself"),
        ({"output": ""}, "an empty name"),
        ({"inputs": ["tiny.fa", ""]}, "an empty name"),
        ({"output": "tiny.fa"}, "no folder that can be written"),
    ],
)
def test_what_is_wrong_with_the_call_is_raised_before_anything_is_done(folder, arguments, message):
    with pytest.raises(SettingsError, match=message):
        again(check=False, **arguments)


def test_an_input_is_never_replaced(folder):
    (folder / "out").mkdir()
    (folder / "tiny.fa").rename(folder / "out" / paths.VIRAL_FASTA)

    with pytest.raises(SettingsError, match="is the input"):
        again(folder / "out" / paths.VIRAL_FASTA, output="out", overwrite=True)


def test_in_a_thread_and_in_a_notebook_s_event_loop(folder):
    found: list[BatchResult] = []
    thread = threading.Thread(target=lambda: found.extend(again()))
    thread.start()
    thread.join()

    async def cell() -> list[BatchResult]:
        (folder / "cell.fa").write_text(f">cell\n{SEQUENCE}\n")
        return again("cell.fa")

    with warnings.catch_warnings(record=True) as told:
        found += asyncio.run(cell())

    assert [shards(result) for result in found] == [(0, 3), (3, 0)]
    assert not [warning for warning in told if "never awaited" in str(warning.message)]


class Interrupting(Progress):
    def shard_done(self, stage, shard, rows, *, reused):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_a_keyboard_interrupt_and_the_next_call_goes_on(folder):
    (folder / "new.fa").write_text(f">new\n{SEQUENCE}\n")

    with pytest.raises(KeyboardInterrupt):
        again("new.fa", progress=Interrupting())
    (result,) = again("new.fa")

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert result.state == "complete"
    assert result.run["reused_shards"]["dnabert_s_embeddings"] >= 1


def test_a_session_opens_a_home_once_for_many_inputs(folder, monkeypatch):
    from virnuc_dagster.orchestration import instance

    opened = []
    real = instance.open_instance
    monkeypatch.setattr(instance, "open_instance", lambda *a, **k: (opened.append(a), real(*a, **k))[1])

    with open_session(Settings.read(home="home", **SMALL)) as session:
        first, second = session.predict("tiny.fa"), session.predict(folder / "tiny.fa")
        embeddings = session.embed("tiny.fa")

    assert (first.batch, len(opened)) == (second.batch, 1)
    assert [entry["path"] for entry in first.run["inputs"]] == ["tiny.fa", str(folder / "tiny.fa")]
    assert len(embeddings.ids) == 12
    assert {name: len(rows) for name, rows in embeddings.vectors.items()} == {"dnabert_s": 12, "esm2": 12}


def test_every_error_of_a_call_is_of_the_package(folder):
    with pytest.raises(VirnucError, match="no bundle"):
        again(bundle="no-such-bundle")
