"""Making a bundle: what a killed call leaves, the next one removes."""

import os
import time

import pytest

from virnuc_dagster.errors import BundleError
from virnuc_dagster.files import exclusive
from virnuc_dagster.models.making import make_bundle


def test_what_a_killed_call_left_is_removed_and_nothing_else(tmp_path):
    names = (".mine-abcdefgh.partial", ".mine-atwork00.partial", ".mine-abcdefgh", ".other-abcdefgh.partial")
    dead, at_work, *others = (tmp_path / name for name in names)
    for folder in (dead, at_work, *others):
        folder.mkdir()
        (folder / "part.safetensors").write_bytes(b"x")
        os.utime(folder, (time.time() - 100,) * 2)

    def fail(folder):
        assert folder.name.endswith(".partial")
        raise BundleError("cannot be made")

    with exclusive(at_work), pytest.raises(BundleError):
        make_bundle(tmp_path / "mine", fail)

    assert sorted(tmp_path.iterdir()) == sorted([at_work, *others])
