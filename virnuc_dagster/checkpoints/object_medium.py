"""An object store (S3 and whatever else fsspec speaks) as the place of a checkpoint store.

A PUT is atomic: an object is there whole or not at all, so no temporary file and no rename is needed. What else differs
from a local folder:

* there is no fsync: an object is as durable as the service makes it when it answers the PUT;
* there is no lock: superseded objects are therefore never removed by a commit, only by the sweep, after its grace
  period. A writer of equal content renews the object's time, so that a sweep leaves it alone;
* of several writers of one key the last record wins, whole.

Credentials come from the environment or the usual configuration files of the service, never from the URL.
"""

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from virnuc_dagster.checkpoints.archive import Buffer
from virnuc_dagster.checkpoints.errors import StorageError, typed_os_errors
from virnuc_dagster.checkpoints.medium import Write
from virnuc_dagster.errors import VirnucError

_EXTRAS = {"s3": "s3", "s3a": "s3"}


class ObjectMedium:
    """Objects below one URL.

    Args:
        url: Such as `s3://bucket/prefix` or `memory://name`.
        options: For the file system of fsspec, such as `endpoint_url` of another S3 service.

    Raises:
        StorageError: The URL names no known service, its package is missing, or it holds credentials.
    """

    def __init__(self, url: str, **options: Any) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise StorageError(
                f"{parts.scheme}://...: credentials do not belong in a URL, which ends up in logs",
                hint="set them in the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
            )
        from upath import UPath

        try:
            # Listings must show what other processes wrote since; each store reads the environment anew.
            fresh = {"use_listings_cache": False, "skip_instance_cache": True}
            self.root: Any = UPath(url, **{**fresh, **options})
            self.files = self.root.fs
        except (ImportError, ValueError) as error:
            extra = _EXTRAS.get(parts.scheme)
            raise StorageError(
                f"{url}: {error}",
                hint=f"pip install 'virnuc-dagster[{extra}]'" if extra else "use a folder, s3:// or memory://",
            ) from error

    def read(self, path: Any, limit: int | None = None) -> bytes:
        """The object's bytes, in one GET."""
        try:
            with self._typed(path):
                return bytes(self.files.cat_file(path.path, end=limit))
        except StorageError:
            if limit is not None and self.facts(path)[0] == 0:  # a range of nothing is an error to S3
                return b""
            raise

    def facts(self, path: Any) -> tuple[int, float]:
        """Size and time of the last PUT."""
        with self._typed(path):
            self.files.invalidate_cache()
            facts = self.files.info(path.path)
            if facts["type"] != "file":
                raise FileNotFoundError(str(path))
            changed = facts.get("LastModified") or self.files.modified(path.path)
        return int(facts["size"]), float(changed.timestamp())

    def glob(self, pattern: str) -> Iterator[Any]:
        """Objects whose path below the root matches; there are no folders."""
        with self._typed(self.root):
            self.files.invalidate_cache()
            found = sorted(self.files.glob(f"{self.root.path.rstrip('/')}/{pattern}"))
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
        try:
            with self._typed(path, lambda: len(data)):
                self.files.pipe_file(path.path, data)
        except FileNotFoundError as error:
            raise StorageError(f"{path}: {error}", hint="create the bucket first", path=str(path)) from error

    def put_whole(self, path: Any, data: bytes) -> None:
        """One PUT."""
        self._put(path, data)

    def retire(self, paths: Sequence[Any]) -> None:
        """Nothing: without a lock, a writer of equal content could be about to commit them."""

    def unlink(self, path: Any) -> None:
        """DELETE."""
        with contextlib.suppress(FileNotFoundError), self._typed(path):
            self.files.rm_file(path.path)

    def settle(self, folder: Any) -> None:
        """Nothing: a DELETE that was answered is done."""

    def move(self, source: Any, target: Any) -> None:
        """Copy, then DELETE: after a crash between the two, both are there."""
        with self._typed(source):
            self.files.cp_file(source.path, target.path)
            self.files.rm_file(source.path)

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

    @contextlib.contextmanager
    def _typed(self, path: Any, size: Callable[[], int] = int) -> Iterator[None]:
        """Whatever the service answers becomes an error that names the path; a missing object stays what it is."""
        try:
            with typed_os_errors(path, size):
                yield
        except (FileNotFoundError, VirnucError):
            raise
        except Exception as error:  # each service has exceptions of its own
            raise StorageError(
                f"{path}: {type(error).__name__}: {error}",
                hint="check that the service answers and that the credentials may read and write there",
                path=str(path),
            ) from error
