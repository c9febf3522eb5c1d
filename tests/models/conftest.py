import shutil
from pathlib import Path

import pytest

from virnuc_dagster.models.bundle import open_bundle


@pytest.fixture
def copy(tmp_path) -> Path:
    """A writable copy of the packaged bundle."""
    return Path(shutil.copytree(open_bundle("mini").folder, tmp_path / "copy"))
