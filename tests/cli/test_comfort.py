"""What makes the command line pleasant: examples, completion, plain pipes, remedies, tracebacks on request."""

import errno
import os
import sqlite3
import subprocess
import sys

import click
import pytest

from virnuc_dagster.api.result import BatchResult
from virnuc_dagster.cli import main
from virnuc_dagster.cli.app import virnuc
from virnuc_dagster.cli.predict import _print_result
from virnuc_dagster.report.tables import COLUMNS
from virnuc_dagster.sequences.measured import InputFacts


def commands(group: click.Group, path: tuple[str, ...] = ()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(commands(virnuc)), ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(path, capsys):
    assert main([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"virnuc {' '.join(path)}" in shown.split("Example", 1)[1], shown


@pytest.mark.parametrize(
    ("shell", "sign"), [("bash", "complete -o nosort"), ("zsh", "#compdef virnuc"), ("fish", "complete --")]
)
def test_completion_scripts_are_clicks_own(shell, sign, capsys):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert sign in out
    assert "_VIRNUC_COMPLETE" in out


def test_batch_keys_are_completed(tmp_path):
    (tmp_path / "store" / "sequences" / "lambda-3f9a1c07").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "virnuc_dagster"],
        env={**os.environ, "VIRNUC_HOME": str(tmp_path), "_VIRNUC_COMPLETE": "bash_complete",
             "COMP_WORDS": "virnuc batches show la", "COMP_CWORD": "3"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "plain,lambda-3f9a1c07\n"


def test_a_piped_table_is_neither_coloured_nor_cut(tmp_path, capsys):
    name = "a-very-long-name-of-a-sequencing-run-that-would-not-fit-into-eighty-columns-beside-the-rest"
    (tmp_path / f"{name}.fa").write_text(">s\n" + "GCTGCC" * 90 + "\n")
    home = ["--home", str(tmp_path / "home")]
    assert main(["batches", "add", str(tmp_path / f"{name}.fa"), *home]) == 0
    capsys.readouterr()
    for arguments in (["batches", "list"], ["batches", "show", name], ["checkpoints", "validate"]):
        assert main([*arguments, *home]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "…" not in out
        assert all(line == line.rstrip() for line in out.splitlines())
    assert main(["batches", "list", *home]) == 0
    heading, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heading == ["batch", "sequences", "viral", "frames", "shards", "predicted", "report", "file"]
    assert row[0].startswith(name[:60])
    assert row[1:3] == ["1", "-"]


def test_an_error_has_a_remedy_and_a_traceback_only_on_request(tmp_path, capsys):
    arguments = ["predict", str(tmp_path / "none.fa"), "--output", str(tmp_path / "o"), "--home", str(tmp_path)]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "  -> " in err
    assert main(["--traceback", *arguments]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "  -> " in err


def test_an_id_cannot_steer_the_terminal(tmp_path, capsys):
    (tmp_path / "sequences.tsv").write_text(
        "\t".join(COLUMNS["sequences.tsv"]) + "\n\x1b[2Jx\u2028y\t9\t3\t1\t1\t0.5\tviral\t0.0\tNA\n"
    )
    summary = {"sequences": 1, "verdicts": {"viral": 1}, "complete": True}
    _print_result(BatchResult(InputFacts("x.fa"), "x-1", tmp_path, summary))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\N{REPLACEMENT CHARACTER}[2Jx\N{REPLACEMENT CHARACTER}y" in out
    assert "1+1/3" in out


def full_database() -> Exception:
    """What SQLAlchemy makes of it: the database's own error is its cause."""
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    wrapped = RuntimeError("a page of SQL")
    wrapped.__cause__ = full
    return wrapped


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "out/x"),
            5,
            "error: out/x: No space left on device\n  -> free",
        ),
        (OSError(errno.EFBIG, "File too large"), 5, "error: a file: File too large\n  -> free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 1, "error: out: Permission denied\n  -> the oper"),
        (full_database(), 5, "cannot be written: database or disk is full\n  -> is the disk full"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_disk_refuses_is_no_traceback(error, code, message, monkeypatch, capsys):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(virnuc, "main", refuse)

    assert main(["doctor"]) == code
    assert message in capsys.readouterr().err


def test_a_bug_stays_a_traceback(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(virnuc, "main", fail)

    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


@pytest.mark.parametrize(
    "arguments",
    [
        "predict | --output out",
        "predict a.fa --output |",
        "predict a.fa --output out --home |",
        "predict a.fa --output out --store |",
        "batches add |",
        "checkpoints validate |",
        "checkpoints info |",
        "plan |",
        "train a.fa a.fa --output |",
        "models import --dnabert-s | --esm2 x --head a.fa --window-length 500 --output out",
    ],
)
def test_an_empty_name_is_not_the_working_folder(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.fa").write_text(">a\nACGT\n")

    assert main([argument.replace("|", "") for argument in arguments.split(" ")]) == 2

    assert "is a shell variable not set?" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.fa"]
