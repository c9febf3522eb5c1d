"""Where results may go: inputs, foreign files, folders and links are found before any work."""

import hashlib
import json
import os

import pytest

from virnuc_dagster.api.destination import Destination, Inputs, refuse_existing_file, refuse_own_folders, write_results
from virnuc_dagster.errors import SettingsError
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.report import paths

BATCH = "contigs-0123abcd"


@pytest.fixture
def report(tmp_path):
    """A report in the home, as small as it can be."""
    folder = tmp_path / "report"
    folder.mkdir()
    for name in (*paths.REPRODUCIBLE, paths.PROVENANCE):
        (folder / name).write_text(json.dumps({"batch": BATCH}))
    return folder


def destination(tmp_path, *inputs, **more):
    return Destination(tmp_path / "out", Inputs.of(inputs), **more)


def stand(tmp_path, **files):
    (tmp_path / "out").mkdir()
    for name, batch in files.items():
        (tmp_path / "out" / f"{name}.json").write_text(json.dumps({"batch": batch}))
    (tmp_path / "out" / paths.SEQUENCES).write_text("mine")


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_found_through_links(tmp_path, link, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / paths.HTML).write_text("x")
    link(tmp_path / "out" / paths.HTML, tmp_path / "in.fa")

    with pytest.raises(SettingsError, match="it is the input"):
        destination(tmp_path, tmp_path / "in.fa", overwrite=overwrite).check(["in.fa"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.symlink_to("elsewhere"), "symbolic link"),
        (os.mkfifo, "device or pipe"),
    ],
    ids=["folder", "link", "pipe"],
)
def test_what_is_no_file_is_found_before_the_work(tmp_path, make, said):
    (tmp_path / "out").mkdir()
    make(tmp_path / "out" / paths.WINDOWS)

    with pytest.raises(SettingsError, match=said) as caught:
        destination(tmp_path, overwrite=True).check(["contigs.fasta"])
    assert "move it away" in caught.value.hint


def test_an_output_folder_that_is_a_link_to_nowhere_is_refused(tmp_path):
    (tmp_path / "out").symlink_to("nowhere")
    with pytest.raises(SettingsError, match="no folder"):
        destination(tmp_path).check(["contigs.fasta"])


@pytest.mark.parametrize(
    ("marks", "ours"),
    [
        ({}, False),
        ({"summary": BATCH}, True),
        ({"summary": BATCH, "run": BATCH, "provenance": BATCH}, True),
        ({"summary": BATCH, "run": "contigs-ffffffff"}, False),
        ({"summary": "other-0123abcd"}, False),
        ({"summary": None}, False),
    ],
    ids=["none", "half copied", "all", "two batches", "another batch", "another program"],
)
def test_files_are_ours_if_what_names_a_batch_names_this_one(tmp_path, marks, ours):
    stand(tmp_path, **marks)
    if ours:
        destination(tmp_path).check(["contigs.fasta"])
        assert destination(tmp_path).folder_of(BATCH) == tmp_path / "out"
        return
    with pytest.raises(SettingsError) as caught:
        destination(tmp_path).folder_of(BATCH)
    assert "--overwrite" in caught.value.hint
    destination(tmp_path, overwrite=True).folder_of(BATCH)


def test_foreign_files_are_found_before_the_input_is_read(tmp_path):
    stand(tmp_path, summary="other-0123abcd")
    with pytest.raises(SettingsError, match="results of batch other-0123abcd"):
        destination(tmp_path).check(["contigs.fasta"])


def test_with_several_inputs_none_may_lie_where_results_of_another_go(tmp_path):
    stand(tmp_path)
    inside = tmp_path / "out" / BATCH / paths.VIRAL_FASTA
    inside.parent.mkdir()
    inside.write_text(">a\nACGT\n")
    several = destination(tmp_path, inside, nested=True, overwrite=True)

    several.check(["viral.fasta", "others.fasta"])
    with pytest.raises(SettingsError, match=r"replace its input .*viral\.fasta"):
        several.check(["viral.fasta", "s1/contigs.fasta"])
    with pytest.raises(SettingsError, match="it is the input"):
        several.folder_of(BATCH)


def test_results_are_copied_whole_or_not_at_all(tmp_path, report):
    (report / paths.HTML).unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError):
        write_results(report, tmp_path / "out", {"batch": BATCH})
    assert list((tmp_path / "out").iterdir()) == []


def test_a_copy_begins_with_the_file_that_names_the_batch_and_ends_with_run(tmp_path, report, monkeypatch):
    placed = []
    monkeypatch.setattr("virnuc_dagster.report.outputs.rename", lambda _, target: placed.append(target.name))
    write_results(report, tmp_path / "out", {"batch": BATCH})
    assert (placed[0], placed[-1]) == (paths.SUMMARY, paths.RUN)
    assert sorted(placed) == sorted((*paths.REPRODUCIBLE, paths.PROVENANCE, paths.RUN))


def edit(tmp_path, name=paths.SEQUENCES):
    (tmp_path / "out" / name).write_text("with a remark of mine")


def digests(report):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in report.iterdir()}


def test_what_its_user_changed_is_not_replaced_unasked(tmp_path, report):
    write_results(report, tmp_path / "out", {"batch": BATCH})
    destination(tmp_path).folder_of(BATCH)
    edit(tmp_path)

    with pytest.raises(SettingsError, match=r"sequences\.tsv in .*out was changed since") as caught:
        destination(tmp_path).folder_of(BATCH)
    assert "--overwrite" in caught.value.hint
    destination(tmp_path, overwrite=True).folder_of(BATCH)
    edit(tmp_path, paths.VIRAL_FASTA)
    with pytest.raises(SettingsError, match=r"sequences\.tsv, viral\.fasta in .*out were changed"):
        destination(tmp_path).folder_of(BATCH)
    for name in (paths.SEQUENCES, paths.VIRAL_FASTA):
        (tmp_path / "out" / name).unlink()
    destination(tmp_path).folder_of(BATCH)


def test_what_a_killed_call_put_into_place_counts_as_written(tmp_path, report):
    write_results(report, tmp_path / "out", {"batch": BATCH})
    (report / paths.HTML).write_text("of a newer version")
    (tmp_path / "out" / paths.HTML).write_text("of a newer version")

    destination(tmp_path).folder_of(BATCH, [digests(report)])
    with pytest.raises(SettingsError, match="was changed"):
        destination(tmp_path).folder_of(BATCH)


def test_without_digests_of_a_call_the_report_that_it_copied_is_asked(tmp_path, report):
    write_results(report, tmp_path / "out", {"batch": BATCH})
    (tmp_path / "out" / paths.RUN).write_text(json.dumps({"batch": BATCH}))  # as older versions wrote it
    destination(tmp_path).folder_of(BATCH, [digests(report)])
    edit(tmp_path)

    with pytest.raises(SettingsError, match="was changed"):
        destination(tmp_path).folder_of(BATCH, [digests(report)])
    (report / paths.PROVENANCE).write_text(json.dumps({"batch": BATCH, "bundle": "another"}))
    destination(tmp_path).folder_of(BATCH, [digests(report)])  # of another report nothing can be told


def test_a_single_file_is_replaced_only_if_asked_for_and_an_input_never(tmp_path):
    (tmp_path / "in.fa").write_text(">a\n")
    (tmp_path / "old.tsv").write_text("old")
    inputs = Inputs.of([tmp_path / "in.fa"])

    refuse_existing_file(tmp_path / "new.tsv", inputs, overwrite=False)
    refuse_existing_file(tmp_path / "old.tsv", inputs, overwrite=True)
    with pytest.raises(SettingsError, match="there is such a file"):
        refuse_existing_file(tmp_path / "old.tsv", inputs, overwrite=False)
    with pytest.raises(SettingsError, match="it is the input"):
        refuse_existing_file(tmp_path / "in.fa", inputs, overwrite=True)


def test_standard_input_from_a_file_is_an_input_too(tmp_path, monkeypatch):
    stand(tmp_path, summary=BATCH)
    with (tmp_path / "out" / paths.SEQUENCES).open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(SettingsError, match="it is the input -"):
            destination(tmp_path, "-").check(["contigs"])


def test_what_the_program_keeps_for_itself_is_no_place_for_results(tmp_path):
    settings = Settings(home=tmp_path / "home", store=str(tmp_path / "disk"))
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for place in ("home/reports/a-0123abcd", "home/origins/a.json", "disk/sequences", "link/x", "home/x/../inbox"):
        with pytest.raises(SettingsError, match="keeps for itself"):
            refuse_own_folders(tmp_path / place, settings)
    for place in ("home", "home/out", "disk2", "out"):
        refuse_own_folders(tmp_path / place, settings)
