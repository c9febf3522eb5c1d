"""VirNucPro on Dagster: find the viral sequences in a batch, with results that survive a crash.

From Python: `predict`, `open_session` and what belongs to them, see docs/python.md. They are imported when they are
first asked for, so that importing this package stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virnuc_dagster.api.prediction import predict
    from virnuc_dagster.api.result import BatchResult, SequenceVerdict
    from virnuc_dagster.api.session import Session, open_session
    from virnuc_dagster.errors import VirnucError
    from virnuc_dagster.home.settings import Settings
    from virnuc_dagster.progress import Progress

__version__ = "0.1.0"

_HOMES = {
    "predict": "api.prediction",
    "open_session": "api.session",
    "Session": "api.session",
    "BatchResult": "api.result",
    "SequenceVerdict": "api.result",
    "Settings": "home.settings",
    "Progress": "progress",
    "VirnucError": "errors",
}
__all__ = [
    "BatchResult",
    "Progress",
    "SequenceVerdict",
    "Session",
    "Settings",
    "VirnucError",
    "__version__",
    "open_session",
    "predict",
]


def __getattr__(name: str) -> object:
    """Import what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """What there is to ask for."""
    return sorted({*globals(), *_HOMES})
