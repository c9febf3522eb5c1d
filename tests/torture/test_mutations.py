"""The suite watches itself: take one fsync, rename or check out of the way to a commit, and a named test must fail.

The places are found in the source; a new one without a mutant fails the last test here.
"""

import ast
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from kits.torture import needs

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "virnuc_dagster"


class Mutant(NamedTuple):
    """One place taken out: `module:function:call`, the edit, and the test that must fail."""

    place: str
    old: str
    new: str
    killer: str


POWER = "torture/test_power_loss.py::test_every_legal_disk"
STORE = "checkpoints/test_store.py"
RECORDS = "checkpoints/test_records.py"
HOSTILE = "torture/test_hostile.py::test_no_hostile_file_runs_or_is_handed_out"
PAYLOADS = f"{STORE}::test_a_payload_of_wrong_shape_is_refused_before_anything_is_written"
NAN = f"{STORE}::test_invalid_payload_replaces_nothing"
MUTANTS = [
    Mutant("files:fsync_folder:fsync", "            os.fsync(descriptor)\n        finally", "            pass\n        finally",
           f"{POWER}[overwrite]"),
    Mutant("files:temporary_file:fsync", "file.flush()\n                os.fsync(descriptor)", "file.flush()",
           f"{POWER}[overwrite]"),
    Mutant("files:make_folder:fsync_folder", "fsync_folder(folder.parent)", "pass", f"{POWER}[first save]"),
    Mutant("files:rename:replace", "source.replace(target)", "target.write_bytes(source.read_bytes())",
           f"{POWER}[overwrite]"),
    Mutant("files:rename:fsync_folder", "    fsync_folder(target.parent)", "    pass", f"{POWER}[overwrite]"),
    Mutant("files:write_atomic:rename", "rename(path, target)", "target.write_bytes(data)", f"{POWER}[overwrite]"),
    Mutant("files:temporary_file:unlink", "            path.unlink()", "            pass",
           "torture/test_system_calls.py::test_refused_at_every_call[overwrite]"),
    Mutant("medium:put_data:rename", "                rename(temporary, folder / name)\n                yield",
           "                yield\n                rename(temporary, folder / name)", f"{POWER}[overwrite]"),
    Mutant("medium:put_whole:write_atomic", "write_atomic(path, data)\n\n    def retire",
           "path.write_bytes(data)\n\n    def retire", f"{POWER}[overwrite]"),
    Mutant("medium:_refuse_links:is_symlink", "is_link = part.is_symlink()", "is_link = False",
           "torture/test_places.py::test_links_out_of_the_store_are_not_followed[link_batch]"),
    Mutant("store:save_as:check_schema", "check_schema(whole, path, None, values=False)", "pass", PAYLOADS),
    Mutant("store:save_as:read_payload", "read_payload(written, path.parent / name, record, Level.FULL, file=file)", "None", NAN),
    Mutant("store:_commit:put_whole",
           "        self.medium.put_whole(path, record.to_json())\n"
           "        self.medium.retire([path.parent / name for name in history[self.keep_previous :]])",
           "        self.medium.retire([path.parent / name for name in history])\n"
           "        self.medium.put_whole(path, record.to_json())", f"{POWER}[third generation]"),
    Mutant("store:record_at:check_size", "check_size(self.medium.facts(data_path)[0], data_path, record)\n            return record",
           "return record", f"{STORE}::test_truncation_is_found_without_loading"),
    Mutant("store:load_at:check_size", "            check_size(self.medium.facts(data_path)[0], data_path, record)\n            return read",
           "            return read", "torture/test_mutations.py::test_an_oversized_file_is_not_read"),
    Mutant("validate:read_payload:check_size", "    check_size(len(data), path, record)\n    if level", "    if level",
           "checkpoints/test_formats.py::test_the_size_is_looked_at_first"),
    Mutant("validate:read_payload:members", "members = archive.members(data)", "members = []", f"{HOSTILE}[archive]"),
    Mutant("validate:read_payload:check_crcs", "archive.check_crcs(data, members)", "pass",
           "torture/test_archive.py::test_a_flipped_bit_in_an_older_file_is_found"),
    Mutant("validate:read_payload:sha256", "hashlib.sha256(data).hexdigest() != record.sha256", "False",
           "torture/test_damage.py::test_a_flipped_bit_in_the_data"),
    Mutant("validate:read_payload:migrate", "payload = migrate(payload)", "pass",
           "checkpoints/test_formats.py::test_a_file_laid_out_as_the_original_program_does_is_read"),
    Mutant("validate:read_payload:check_schema", "        check_schema(payload, path, record,", "        (lambda *_, **__: None)(payload, path, record,",
           f"{HOSTILE}[content]"),
    Mutant("validate:_tensor_only_load:load", "weights_only=True", "weights_only=False", f"{HOSTILE}[pickle in an archive]"),
    Mutant("validate:_tensor_only_load:_tensor_problem", "if problem := _tensor_problem(payload, len(data)):", "if problem := None:",
           f"{HOSTILE}[tensor gadget]"),
    Mutant("validate:_tensor_only_load:require_torch", "    require_torch(torch.__version__)\n    try", "    try",
           "torture/test_hostile.py::test_an_old_torch_is_refused_at_run_time"),
    Mutant("validate:check_schema:_shape_problem", "problem = _shape_problem(payload, kind, record)", "problem = None", PAYLOADS),
    Mutant("validate:check_schema:_value_problem", "(problem := _value_problem(payload, kind)) is not None", "False", NAN),
    Mutant("format:from_json:_check_of", "check != _check_of(text.replace(check, _UNCHECKED))", "False",
           f"{STORE}::test_any_change_of_a_record_is_found"),
    Mutant("format:from_json:fullmatch", 'if not re.fullmatch(r"\\w', 'if False and not re.fullmatch(r"\\w',
           f"{STORE}::test_a_record_that_points_elsewhere_is_refused"),
    Mutant("format:from_json:lift_record", "lift_record(values, cls.version)", "values",
           f"{RECORDS}::test_every_stored_checkpoint_stays_valid"),
    Mutant("sweep:_drop_previous:newer", "if record.newer:", "if False:",
           f"{RECORDS}::test_a_record_of_a_newer_minor_is_read_and_not_written_again"),
]  # fmt: skip


def source_file(package: Path, module: str) -> Path:
    return package / ("" if module == "files" else "checkpoints") / f"{module}.py"


def run_in_fork(package: Path, killer: str, log: Path) -> int:
    """Run one test on another copy of the package, in a fork that has imported torch already."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            for name, module in list(sys.modules.items()):
                file = str(getattr(module, "__file__", None) or "")
                if name.split(".")[0] == "virnuc_dagster" or file.startswith(str(ROOT / "tests")):
                    del sys.modules[name]
            sys.path.insert(0, str(package.parent))
            for name in ("PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST", "VIRNUC_TORTURE_RESULTS"):
                os.environ.pop(name, None)
            os.environ["VIRNUC_FULL"] = "1"  # a killer may be one of those
            options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler", "--capture=no"]
            options += [
                "-o",
                "addopts=--import-mode=importlib -p no:zarr",
            ]  # not so strict: settings of plugins it lacks
            file, _, test = killer.partition("::")
            code = int(pytest.main([*options, "-c", str(ROOT / "pyproject.toml"), f"{ROOT}/tests/{file}::{test}"]))
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package that may be broken."""
    ignored = shutil.ignore_patterns("__pycache__", "mini")
    return Path(shutil.copytree(PACKAGE, tmp_path / "copy" / "virnuc_dagster", ignore=ignored))


#: One of each kind, for `make test`: an fsync, an order, a leftover, a schema, a digest, what torch may load.
USUAL = {
    "files:fsync_folder:fsync", "medium:put_data:rename", "files:temporary_file:unlink", "store:save_as:check_schema",
    "validate:read_payload:sha256", "validate:_tensor_only_load:_tensor_problem",
}  # fmt: skip


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(m, id=m.place, marks=[] if m.place in USUAL else [pytest.mark.full]) for m in MUTANTS],
)
def test_taking_it_out_is_noticed(mutant, package, tmp_path):
    needs("strace")
    module = source_file(package, mutant.place.split(":")[0])
    source = module.read_text()
    module.write_text(source.replace(mutant.old, mutant.new))

    code = run_in_fork(package, mutant.killer, tmp_path / "log")

    assert code == 1, f"{mutant.killer} ended with {code}:\n{(tmp_path / 'log').read_text()[-2000:]}"


@pytest.mark.parametrize("killer", [f"{POWER}[overwrite]", NAN, f"{HOSTILE}[content]"])
def test_the_same_tests_pass_on_the_whole_package(killer, package, tmp_path):
    needs("strace")
    code = run_in_fork(package, killer, tmp_path / "log")
    assert code == 0, (tmp_path / "log").read_text()[-3000:]


#: Functions on the way to a commit or to a load, and the calls in them that the promise hangs on.
FUNCTIONS = {
    "files": ("fsync_folder", "temporary_file", "make_folder", "rename", "write_atomic"),
    "medium": ("put_data", "put_whole"),
    "store": ("save_as", "_commit", "record_at", "load_at"),
    "validate": ("read_payload", "_tensor_only_load", "check_schema"),
}
CALLS = {
    "fsync", "fsync_folder", "replace", "rename", "write_atomic", "check", "check_size", "members", "check_crcs", "sha256",
    "migrate", "check_schema", "_shape_problem", "_value_problem", "_tensor_problem", "require_torch", "put_whole", "load", "read_payload",
}  # fmt: skip


def places() -> set[str]:
    found = set()
    for module, functions in FUNCTIONS.items():
        for node in ast.walk(ast.parse(source_file(PACKAGE, module).read_text())):
            if isinstance(node, ast.FunctionDef) and node.name in functions:
                if module == "medium" and "Path" not in ast.unparse(node.args):
                    continue  # the protocol, which has no code
                for call in (inner for inner in ast.walk(node) if isinstance(inner, ast.Call)):
                    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
                    if name in CALLS:
                        found.add(f"{module}:{node.name}:{name}")
    return found


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.place)
def test_what_a_mutant_takes_out_is_there(mutant):
    module = source_file(PACKAGE, mutant.place.split(":")[0])
    assert module.read_text().count(mutant.old) == 1


def test_every_place_has_a_mutant():
    without = places() - {mutant.place for mutant in MUTANTS}
    # `dataclasses.replace` changes no file; what `read_payload` checks has mutants of its own.
    assert without == {"store:save_as:replace", "store:_commit:replace", "store:load_at:read_payload"}


def test_an_oversized_file_is_not_read(tmp_path, monkeypatch):
    """The record bounds what is read: a file that grew is refused by its size."""
    from kits.torture import FOLDER, KEY, save

    from virnuc_dagster.checkpoints import CheckpointDamagedError, LocalStore
    from virnuc_dagster.checkpoints.medium import LocalMedium

    save(tmp_path, 1)
    store = LocalStore(tmp_path)
    with (tmp_path / FOLDER / store.record(KEY).file).open("ab") as file:
        file.write(b"x")
    reads = []
    real = LocalMedium.read
    monkeypatch.setattr(
        LocalMedium, "read", lambda self, path, limit=None: (reads.append(path.name), real(self, path, limit))[1]
    )
    with pytest.raises(CheckpointDamagedError, match="size differs"):
        store.load(KEY)
    assert not [name for name in reads if name.endswith(".pt")]
