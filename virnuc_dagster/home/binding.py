"""Home and store know each other: a store that is gone, or another in its place, is no new one.

A store says who it is in `<store>/store.json`, a home which stores it has worked with in `<home>/stores.json`. Both are
written at the first contact, so homes and stores without them go on. Several homes may use one store, and one home
several stores. Older versions of the program ignore both files.
"""

import json
import os
import shlex
import uuid
from pathlib import Path
from typing import Any

from virnuc_dagster.checkpoints import Store, open_store
from virnuc_dagster.checkpoints.medium import LocalMedium
from virnuc_dagster.errors import VirnucError, typed_os_errors
from virnuc_dagster.files import exclusive, make_folder, write_atomic
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.home.versions import open_home

STORE_FILE, STORES_FILE = "store.json", "stores.json"
STORE_FORMAT, STORES_FORMAT = "virnuc-store", "virnuc-stores"
_BYTES_MAX = 4_096


class StoreGoneError(VirnucError):
    """The store that a home knows is not where it was, or another lies there (field: `store`)."""


def open_bound_store(settings: Settings) -> Store:
    """Open the store of a home, for whoever writes into it; bind the two if they have not met.

    Raises:
        StoreGoneError: The home knows a store there that is gone, or another one.
        HomeError, StorageError: Home or store cannot be read or written.
        InstanceError: Dagster's databases cannot lie in this home.
    """
    from virnuc_dagster.orchestration.instance import check_path  # imports Dagster, as does whoever writes into a home

    check_path(settings)
    open_home(settings.home)
    store = open_store(settings.store)
    if _is_kept(settings) and _unmet(settings, store):
        with exclusive(settings.home):
            if _unmet(settings, store):
                _remember(settings, _marked(store, _known(settings.home).get(_place(settings))))
    return store


def check_store(settings: Settings) -> Store:
    """Check the store like `open_bound_store`, for whoever writes no new result: nothing is written here.

    Raises:
        StoreGoneError: The home knows a store there that is gone, or another one.
    """
    store = open_store(settings.store)
    if _is_kept(settings):
        _unmet(settings, store)
    return store


def accept_store(settings: Settings) -> str:
    """Take whatever is at the store's place, also nothing, as this home's store from now on; returns its id."""
    open_home(settings.home)
    store = open_store(settings.store)
    with exclusive(settings.home):
        identity = _marked(store, None)
        _remember(settings, identity)
    return identity


def _is_kept(settings: Settings) -> bool:
    """Tell whether a store outlives its process."""
    return not str(settings.store).startswith("memory://")


def _unmet(settings: Settings, store: Store) -> bool:
    """Tell whether home and store are yet to be bound; raise if what they say of each other differs."""
    known, found = _known(settings.home).get(_place(settings)), _identity(store)
    if known is None or known == found:
        return known is None
    command = ["virnuc", "checkpoints", "accept", "--home", str(settings.home), "--yes"]
    accept = f"`{shlex.join(command + (['--store', str(settings.store)] if settings.store_at else []))}`"
    if found is not None:
        raise StoreGoneError(
            f"{settings.store} is another store than the one that {settings.home} worked with",
            hint=f"mount the right one, or choose another --home; if this one shall take its place: {accept}",
            store=str(settings.store),
        )
    if not _holds_anything(store):
        raise StoreGoneError(
            f"the store {settings.store} is gone: {settings.home} worked with it, and nothing is there",
            hint=f"mount it or put it back; if it is lost for good, begin anew with {accept}",
            store=str(settings.store),
        )
    return True  # checkpoints of an older copy, made before stores had a mark


def _holds_anything(store: Store) -> bool:
    return any(store.list(stage) for stage in ("sequences", "sequence_batch", "frames"))


def _place(settings: Settings) -> str:
    """Name the place of a store as its home does: a relative path within the home, so that both may move together."""
    if isinstance(settings.store, str):
        return settings.store
    home, store = Path(os.path.realpath(settings.home)), Path(os.path.realpath(settings.store))
    return str(store.relative_to(home) if store.is_relative_to(home) else store)


def _known(home: Path) -> dict[str, str]:
    path = home / STORES_FILE
    try:
        with typed_os_errors(path):
            values = json.loads(path.read_bytes())
        if values["format"] != STORES_FORMAT:
            raise ValueError("not a list of stores")
        return {str(place): str(identity) for place, identity in values["stores"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreGoneError(
            f"{path} cannot be read: {error}", hint="move it aside if the store is the right one: it is written anew"
        ) from error


def _remember(settings: Settings, identity: str) -> None:
    known = _known(settings.home) | {_place(settings): identity}
    values = {"format": STORES_FORMAT, "stores": known}
    write_atomic(settings.home / STORES_FILE, json.dumps(values, indent=1).encode() + b"\n")


def _identity(store: Store) -> str | None:
    """Read who a store says it is; None for one without a mark."""
    path: Any = store.root / STORE_FILE
    try:
        values = json.loads(store.medium.read(path, _BYTES_MAX))
        if values["format"] != STORE_FORMAT or not isinstance(values["id"], str):
            raise ValueError("not a store's mark")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreGoneError(
            f"{path} cannot be read: {error}", hint="move it aside if the store is the right one: it is written anew"
        ) from error
    return str(values["id"])


def _marked(store: Store, wanted: str | None) -> str:
    """Return the id of a store; one without gets the id by which a home knows it, or a new one."""
    if isinstance(store.medium, LocalMedium):
        make_folder(store.root)
    with store.medium.locked(store.root):  # another home may meet it at the same time
        if (found := _identity(store)) is not None:
            return found
        values = {"format": STORE_FORMAT, "id": wanted or uuid.uuid4().hex}
        store.medium.put_whole(store.root / STORE_FILE, json.dumps(values).encode() + b"\n")
        return _identity(store) or values["id"]
