from collections.abc import Callable

import pytest
from kits.pipeline import Call, Home


@pytest.fixture
def make_home(tmp_path) -> Callable[[str], Home]:
    def make(name: str) -> Home:
        (tmp_path / name).mkdir()
        return Home(tmp_path / name)

    return make


@pytest.fixture
def home(make_home) -> Home:
    return make_home("a")


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory) -> Call:
    """The demo's results from one call that nothing disturbed, in a home of its own."""
    home = Home(tmp_path_factory.mktemp("unbroken"))
    call = home.finish(home.spawn())
    assert call.code == 0, call.err
    return call


@pytest.fixture
def done(unbroken, tmp_path) -> Home:
    """A home in which the demo was predicted."""
    return Home(unbroken.output.parent).copy_to(tmp_path / "done")
