from pathlib import Path

import pytest

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data that lies beside a developer's checkout; users do not have it."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data is not at {SHARED}")
    return SHARED
