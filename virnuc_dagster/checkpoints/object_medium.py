"""An object store (S3 and whatever else fsspec speaks) as the place of a checkpoint store.

A PUT is atomic: an object is there whole or not at all, so no temporary file and no rename is needed. What else differs
from a local folder:

* there is no fsync: an object is as durable as the service makes it when it answers the PUT;
* there is no lock: superseded objects are therefore never removed by a commit, only by the sweep, after its grace
  period. A writer of equal content renews the object's time, so that a sweep leaves it alone;
* of several writers of one key the last record wins, whole.

Credentials come from the environment or the usual configuration files of the service, never from the URL.

A service that is away is asked again, with pauses that double, for `VIRNUC_STORE_PATIENCE_SECONDS` (120). After that
the error is a `ServiceAwayError`. From then on, until it answers again, it is asked once in `REST_SECONDS`, and every
call in between fails at once: a run of a thousand shards ends in seconds, not after a thousand attempts.
"""

import contextlib
import glob
import hashlib
import io
import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from virnuc_dagster.checkpoints.archive import Buffer
from virnuc_dagster.checkpoints.errors import ServiceAwayError
from virnuc_dagster.checkpoints.medium import Write
from virnuc_dagster.errors import NoSpaceError, SettingsError, StorageError, causes, typed_os_errors

_EXTRAS = {"s3": "s3", "s3a": "s3"}
PATIENCE_VARIABLE, PATIENCE_SECONDS = "VIRNUC_STORE_PATIENCE_SECONDS", 120.0
#: Objects of twice this size and more are uploaded in parts of it, several at once; S3 wants at least 5 MiB.
PART_BYTES = 50 * 2**20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
REST_SECONDS = 10.0
_AWAY_HINT = "start it, or check AWS_ENDPOINT_URL and the network; what is committed is kept: run again"
_REFUSED_HINT = (
    "check AWS_ENDPOINT_URL (a whole URL) and the credentials: are they right, still valid, and may they read and "
    "write there? is the clock right?"
)
#: botocore's own attempts are few, because ours wait longer.
_S3_OPTIONS = {"config_kwargs": {"retries": {"total_max_attempts": 2}, "connect_timeout": 10, "read_timeout": 60}}
_BUSY = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
_BUSY_STATUS, _FULL_STATUS = 429, 507
_log = logging.getLogger("virnuc")
_T = TypeVar("_T")


class ObjectMedium:
    """Objects below one URL.

    Args:
        url: Such as `s3://bucket/prefix` or `memory://name`.
        options: For the file system of fsspec, such as `endpoint_url` of another S3 service.

    Raises:
        StorageError: The URL names no known service, its package is missing, its path begins with an empty name, or it
            holds credentials.
    """

    AT_ONCE = 16

    def __init__(self, url: str, **options: Any) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise StorageError(
                f"{parts.scheme}://...: credentials do not belong in a URL, which ends up in logs",
                hint="set them in the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
            )
        if parts.path.rstrip("/").startswith("//"):
            raise StorageError(f"{url}: no name between two slashes", hint="write s3://bucket/prefix")  # is not listed
        from upath import UPath

        url = parts.scheme + url[len(parts.scheme) :]  # in small letters, as fsspec wants it
        self.s3 = parts.scheme in _EXTRAS
        self.patience = _patience()
        self._away_since: float | None = None  # when patience last ran out
        self._warned_at = -math.inf
        try:
            # Listings must show what other processes wrote since; each store reads the environment anew.
            fresh = {"use_listings_cache": False, "skip_instance_cache": True}
            self.root: Any = UPath(url, **{**fresh, **(_S3_OPTIONS if self.s3 else {}), **options})
            self.files = self.root.fs
            if self.s3:
                self.files.retries = 2
        except (ImportError, ValueError, OSError) as error:
            extra = _EXTRAS.get(parts.scheme)
            if extra is None:  # fsspec would have its package installed, which no one has tried
                raise StorageError(
                    f"{url}: {parts.scheme}:// is no kind of store that is known here",
                    hint="use a folder or s3://bucket/prefix",
                ) from error
            raise StorageError(f"{url}: {error}", hint=f"pip install 'virnuc-dagster[{extra}]'") from error

    def read(self, path: Any, limit: int | None = None) -> bytes:
        """The object's bytes, in one GET."""
        try:
            return bytes(self._call(path, lambda: self.files.cat_file(path.path, end=limit)))
        except ServiceAwayError:
            raise
        except StorageError:
            if limit is not None and self._is_empty(path):  # a range of nothing is an error to S3
                return b""
            raise

    def _is_empty(self, path: Any) -> bool:
        """Whether the object is there and has no bytes; not known counts as no, for the first error says more."""
        with contextlib.suppress(FileNotFoundError, StorageError):
            return self.facts(path)[0] == 0
        return False

    def facts(self, path: Any) -> tuple[int, float]:
        """Size and time of the last PUT."""

        def look() -> tuple[int, float]:
            self.files.invalidate_cache()
            facts = self.files.info(path.path)
            if facts["type"] != "file":
                raise FileNotFoundError(str(path))
            changed = facts.get("LastModified") or self.files.modified(path.path)
            return int(facts["size"]), float(changed.timestamp())

        return self._call(path, look)

    def glob(self, pattern: str) -> Iterator[Any]:
        """Objects whose path below the root matches; there are no folders."""

        def look() -> list[Any]:
            self.files.invalidate_cache()
            return sorted(self.files.glob(f"{glob.escape(self.root.path.rstrip('/'))}/{pattern}"))

        found = self._call(self.root, look)
        base = self.root.path.strip("/")
        for name in found:
            yield self.root / str(name).strip("/").removeprefix(base).strip("/")

    @contextlib.contextmanager
    def put_data(
        self, folder: Any, stem: str, write: Write, seal: Callable[[Buffer, Path | None], str], size: Callable[[], int]
    ) -> Iterator[None]:
        """Seal, PUT, GET and seal again; PUT once more if a sweep of equal content came between and removed it."""
        buffer = io.BytesIO()
        write(buffer)
        data = buffer.getvalue()
        path = folder / seal(data, None)
        self._put(path, data)
        seal(self.read(path), None)
        yield
        try:
            self.facts(path)
        except FileNotFoundError:
            self._put(path, data)

    def _put(self, path: Any, data: bytes) -> None:
        parts = {"chunksize": PART_BYTES} if self.s3 else {}
        try:
            self._call(path, lambda: self.files.pipe_file(path.path, data, **parts), lambda: len(data))
        except FileNotFoundError as error:
            raise StorageError(f"{path}: {error}", hint="create the bucket first", path=str(path)) from error

    def put_whole(self, path: Any, data: bytes) -> None:
        """One PUT; a large one in parts, which appear together."""
        self._put(path, data)

    def retire(self, paths: Sequence[Any]) -> None:
        """Nothing: without a lock, a writer of equal content could be about to commit them."""

    def unlink(self, path: Any) -> None:
        """DELETE."""
        with contextlib.suppress(FileNotFoundError):
            self._call(path, lambda: self.files.rm_file(path.path))

    def settle(self, folder: Any) -> None:
        """Nothing: a DELETE that was answered is done."""

    def move(self, source: Any, target: Any) -> None:
        """Copy, then DELETE: after a crash between the two, both are there."""
        self._call(source, lambda: self.files.cp_file(source.path, target.path))
        self._call(source, lambda: self.files.rm_file(source.path))

    @contextlib.contextmanager
    def locked(self, folder: Any) -> Iterator[None]:
        """No lock."""
        yield

    def append_line(self, path: Any, line: str, limit: int) -> None:
        """One object a line, in a folder of the log's name: objects cannot be appended to. There is no limit."""
        digest = hashlib.sha256(line.encode()).hexdigest()[:16]
        self._put(path.parent / f"{path.name}.d" / f"{digest}.txt", line.encode() + b"\n")

    def free_bytes(self) -> int | None:
        """Not known."""
        return None

    def _call(self, path: Any, action: Callable[[], _T], size: Callable[[], int] = int) -> _T:
        """Do something that may be done twice; wait while the service is away."""
        away_since = self._away_since
        if away_since is not None and time.monotonic() < away_since + REST_SECONDS:
            raise ServiceAwayError(
                f"{path}: the service does not answer and was not asked again", hint=_AWAY_HINT, path=str(path)
            )
        pause, deadline = _FIRST_PAUSE, time.monotonic() + (self.patience if away_since is None else 0.0)
        while True:
            try:
                with self._typed(path, size):
                    result = action()
            except ServiceAwayError as error:
                if time.monotonic() + pause > deadline:
                    self._away_since = time.monotonic()
                    raise
                if pause == _FIRST_PAUSE and time.monotonic() > self._warned_at + REST_SECONDS:
                    self._warned_at = time.monotonic()
                    _log.warning("%s; trying again for up to %.0f s", error.message, self.patience)
                time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that many writers do not come at once
                pause = min(2 * pause, _LONGEST_PAUSE)
            except (FileNotFoundError, StorageError):  # a refusal is an answer too
                self._away_since = None
                raise
            else:
                self._away_since = None
                return result

    @contextlib.contextmanager
    def _typed(self, path: Any, size: Callable[[], int] = int) -> Iterator[None]:
        """Whatever the service answers becomes an error that names the path; a missing object stays what it is."""
        try:
            with typed_os_errors(path, size):
                yield
        except (FileNotFoundError, NoSpaceError):
            raise
        except Exception as error:  # each service has exceptions of its own
            said = error.__cause__ if isinstance(error, StorageError) and error.__cause__ else error
            if _is_away(said):
                raise ServiceAwayError(
                    f"{path}: the service does not answer ({type(said).__name__})", hint=_AWAY_HINT, path=str(path)
                ) from error
            if _status(_answer(said)) == _FULL_STATUS:
                raise NoSpaceError(
                    f"{path}: the service has no space left: {said}",
                    hint="make room there, or choose another --store; everything committed so far is kept",
                    path=str(path),
                    bytes_needed=size(),
                ) from error
            raise StorageError(f"{path}: {type(said).__name__}: {said}", hint=_REFUSED_HINT, path=str(path)) from error


def _patience() -> float:
    """How long a service that is away is asked again.

    Raises:
        SettingsError: The variable holds no such time.
    """
    text = os.environ.get(PATIENCE_VARIABLE) or str(PATIENCE_SECONDS)
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise SettingsError(f"{PATIENCE_VARIABLE} is {text!r}", hint="give a number of seconds, such as 120")


def _answer(error: BaseException) -> Mapping[str, Any]:
    """What the service answered, as botocore gives it, whatever was made of it; empty if it did not."""
    responses = (getattr(cause, "response", None) for cause in causes(error))
    return next((response for response in responses if isinstance(response, dict)), {})


def _status(answer: Mapping[str, Any]) -> int:
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def _is_away(error: BaseException) -> bool:
    """Whether an error means that the service, or the way to it, may work again soon."""
    if answer := _answer(error):
        status, code = _status(answer), answer.get("Error", {}).get("Code")
        return code in _BUSY or status == _BUSY_STATUS or (status >= 500 and status != _FULL_STATUS)
    for cause in causes(error):
        kinds = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(cause).__mro__}
        if isinstance(cause, ConnectionError | TimeoutError) or kinds & _UNANSWERED:
            return True
    return False


_UNANSWERED = {"botocore.HTTPClientError", "botocore.ResponseParserError", "aiohttp.ClientError"}
