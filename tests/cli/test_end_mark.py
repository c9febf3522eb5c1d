"""A BGZF file that lost its end is refused by whatever reads it, and read where that is allowed."""

import io

import pytest
from kits.sequences import bgzf

from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.cli import main
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.arrivals import REJECTED, take_in
from virnuc_dagster.inbox.ledger import Ledger

ALLOW = "--allow-missing-end-mark"


@pytest.fixture
def cut(tmp_path):
    """A file that lacks only its end mark, and labels of its one record."""
    (tmp_path / "labels.tsv").write_text("id\tlabel\tcategory\tgroup\na\tvirus\tphage\tg\n")
    path = tmp_path / "cut.fa.gz"
    path.write_bytes(bgzf(b">a\n" + b"GCC" * 300 + b"\n")[:-28])
    return path


@pytest.mark.parametrize("command", ["predict", "predict -", "batches add", "plan", "evaluate", "train"])
def test_every_command_refuses_it(cut, tmp_path, command, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(cut.read_bytes())))
    source = [] if command.endswith("-") else [str(cut)]
    labels = [str(tmp_path / "labels.tsv")] if command in ("evaluate", "train") else []
    output = [] if command in ("plan", "batches add") else ["--output", str(tmp_path / "out")]
    call = [*command.split(), *source, *labels, *output, "--home", str(tmp_path / "home")]

    assert main(call) == 1
    assert "probably truncated" in capsys.readouterr().err


def test_the_flag_and_the_setting_allow_it(cut, tmp_path, capsys, monkeypatch):
    call = ["plan", str(cut), "--json", "--home", str(tmp_path / "home")]
    assert main([*call, ALLOW]) == 0
    assert '"exact": true' in capsys.readouterr().out
    monkeypatch.setenv("VIRNUC_ALLOW_MISSING_END_MARK", "true")
    assert main(call) == 0
    assert main(["batches", "add", str(cut), "--home", str(tmp_path / "home")]) == 0
    assert "1 sequences" in capsys.readouterr().out


@pytest.mark.parametrize("allowed", [False, True])
def test_the_inbox_follows_the_setting(cut, tmp_path, allowed):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    cut.rename(inbox / cut.name)
    settings = Settings.read(home=tmp_path, allow_missing_end_mark=allowed)
    arrival = take_in(
        LocalStore(tmp_path / "store"), inbox, cut.name, Ledger(tmp_path), window_length=500, shard_size=10,
        allow_missing_end_mark=settings.allow_missing_end_mark,
    )  # fmt: skip
    assert (arrival.state, arrival.sequences) == (("taken", 1) if allowed else ("rejected", 0))
    assert (inbox / REJECTED / cut.name).exists() != allowed
