"""What SQLite, which keeps Dagster's events, says when a disk refuses: found in a chain of errors, and told apart."""

import resource
import sqlite3

from virnuc_dagster.errors import causes

#: A write, or the making of the shared index of a WAL, was refused. SQLite does not hand on which error it was.
_REFUSED = (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)


def database_refusal(error: BaseException | None) -> sqlite3.OperationalError | None:
    """What a disk answered to a database, wherever in the chain of causes it is; None if that was not the cause."""
    return next((cause for cause in causes(error) if isinstance(cause, sqlite3.OperationalError)), None)


def is_out_of_space(refused: sqlite3.OperationalError) -> bool:
    """Whether the disk is full, or a file has reached this process's limit of file size (`ulimit -f`).

    The second is told from a broken disk by there being such a limit.
    """
    code = getattr(refused, "sqlite_errorcode", None)
    limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    return code == sqlite3.SQLITE_FULL or (code in _REFUSED and limited)
