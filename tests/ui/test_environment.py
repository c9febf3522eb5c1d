"""`virnuc up` where it is started by other people than us: odd folders, and files there that must not be executed."""

import pytest
from kits.ui import running

#: What the processes of `virnuc up` and their runs import, of Dagster's, of torch's and of ours.
MODULES = ("gql", "sqlalchemy", "dagster", "torch", "numpy", "yaml", "click", "grpc", "starlette")
ODD = "a b#c% d é\n'\"&" + "x" * 180


@pytest.fixture
def odd(tmp_path):
    """A working folder with files that tell when they are executed."""
    folder = tmp_path / ODD / "work"
    folder.mkdir(parents=True)
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write('{name} ')")
    return folder


def test_odd_folders_and_files_named_like_modules(odd, tmp_path):
    """A home, a folder for temporary files and a working folder of odd names; a run is executed in the midst of it."""
    home, temporary = odd.parent / "home", odd.parent / "tmp"
    home.mkdir()
    temporary.mkdir()
    with running(home, folder=odd, env={"TMPDIR": str(temporary)}) as web:
        run_id = web.launch(["store_audit"], {})
        status = web.end_of_run(run_id)

    assert status == "SUCCESS", (home / "up.log").read_text()
    assert not (tmp_path / "executed").exists(), (tmp_path / "executed").read_text()
