"""The kinds of payload that stores check. None is known here: whoever computes payloads registers theirs."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    """What a data file of one kind must hold besides `version`, `status`, `kind` and `ids`.

    Attributes:
        text: Names of the columns that are list[str] of length N.
        tensors: Column name -> (allowed dtypes, number of dimensions); the first dimension is N.
        free: Keys with a type of their own whose length is not N.
        optional: Names of int64 columns of length N that may be there.
        probabilities: The rows of `data` sum to 1.
        older_ids: The key under which files of this kind by older programs name their rows; empty if there are none.
    """

    text: tuple[str, ...] = ()
    tensors: Mapping[str, tuple[tuple[str, ...], int]] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    probabilities: bool = False
    older_ids: str = ""

    @property
    def required(self) -> tuple[str, ...]:
        """Every key a file of this kind holds, in the order in which it is written."""
        return ("version", "status", "kind", "ids", *self.text, *self.tensors, *self.free)


#: Stage -> what its data file holds, as registered. The stage of a checkpoint is its kind.
KINDS: dict[str, Kind] = {}
#: Registers this package's kinds. It is imported when a kind is asked for that nobody has registered, so that
#: checkpoints can be read and written by who imports nothing else.
_REGISTERS = "virnuc_dagster.stages"


def register(kinds: Mapping[str, Kind]) -> None:
    """Make kinds known to every store of this process. Doing it again changes nothing.

    Raises:
        ValueError: A name stands for another kind already; nothing was registered.
    """
    for name, kind in kinds.items():
        if KINDS.get(name, kind) != kind:
            raise ValueError(f"{name} is registered as another kind already")
    KINDS.update(kinds)


def find_kind(name: str) -> Kind | None:
    """Return what a data file of this kind must hold, None if the kind is unknown."""
    if name not in KINDS:
        importlib.import_module(_REGISTERS)
    return KINDS.get(name)


def kind_of_older(ids: str) -> str:
    """Return the name of the kind whose older files name their rows under this key.

    Raises:
        ValueError: No registered kind does.
    """
    importlib.import_module(_REGISTERS)
    for name, kind in KINDS.items():
        if kind.older_ids == ids:
            return name
    raise ValueError(f"no kind is registered whose older files hold {ids!r}")
