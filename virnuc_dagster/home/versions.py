"""The home folder's own version: what lies where, and how an older home is brought up to date.

`<home>/home.json` says which layout the folder has. A home without it is of the first layout. A newer one is refused:
an older program must not write into a layout it does not know.
"""

import json
from collections.abc import Callable
from pathlib import Path

from virnuc_dagster.errors import VirnucError
from virnuc_dagster.files import make_folder, write_atomic

HOME_FILE = "home.json"
HOME_FORMAT = "virnuc-home"


class HomeError(VirnucError):
    """The home folder is of a layout that this program cannot work with (fields: `home`, `version`)."""


def _mark_only(home: Path) -> None:
    """Move nothing: 1 has a mark; in 2, `dagster.yaml` may name classes that older versions do not have."""


#: Version -> the step that leads to the next one. A step may be repeated after a crash.
UPGRADES: dict[int, Callable[[Path], None]] = {0: _mark_only, 1: _mark_only}
HOME_VERSION = len(UPGRADES)


def open_home(home: Path) -> int:
    """Make sure that a home can be worked in: create it, or bring it up to date.

    Args:
        home: The folder (`VIRNUC_HOME`).

    Returns:
        The version it had; `HOME_VERSION` if nothing was to be done.

    Raises:
        HomeError: It is of a newer version, or its version cannot be read.
        StorageError, NoSpaceError: It cannot be written.
    """
    found = read_version(home)
    if found > HOME_VERSION:
        raise HomeError(
            f"{home} is a home of version {found}; this program works with up to {HOME_VERSION}",
            hint="upgrade virnuc-dagster, or choose another --home",
            home=str(home),
            version=found,
        )
    for version in range(found, HOME_VERSION):
        UPGRADES[version](home)
        make_folder(home)
        write_atomic(home / HOME_FILE, _text(version + 1))
    return found


def read_version(home: Path) -> int:
    """Read the version of a home; 0 for a folder without a mark.

    Raises:
        HomeError: The mark cannot be read.
    """
    path = home / HOME_FILE
    try:
        values = json.loads(path.read_bytes())
        if values["format"] != HOME_FORMAT or type(values["version"]) is not int or values["version"] < 0:
            raise ValueError("not a home's mark")
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError) as error:
        raise HomeError(
            f"{path} cannot be read: {error}",
            hint=f"if the folder is a home of this version, write {_text(HOME_VERSION).decode().strip()} into it",
            home=str(home),
        ) from error
    return int(values["version"])


def _text(version: int) -> bytes:
    return (json.dumps({"format": HOME_FORMAT, "version": version}) + "\n").encode()
