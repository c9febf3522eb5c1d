"""From a hub id to a folder on this machine; a folder stays what it is. Nothing is read or executed here.

The hub's own library goes on where a connection broke only within one process: it gives every download a file of a new
name and removes it at the end. Gigabytes of weights are therefore fetched into its cache here, into a file whose name
does not change, and get their place there once they have the digest that the hub states. The library then finds them.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from virnuc_dagster.errors import BundleError
from virnuc_dagster.files import exclusive

_DESCRIPTION = ["config.json", "tokenizer*.json"]
_SAFETENSORS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]
_PICKLED = ["pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"]


def fetch(source: str, revision: str | None = None) -> tuple[Path, str]:
    """Find a model's folder or file, downloading it (with progress) if `source` is a hub id.

    A download that was interrupted, or whose process was killed, goes on where it was. Weights are fetched in one kind
    of file: safetensors where there are any.

    Args:
        source: A folder, a file, or a hub id, `owner/name`.
        revision: Commit, branch or tag on the hub; `main` if None.

    Returns:
        The path, and the revision to record: the commit that was downloaded, or `local`.

    Raises:
        BundleError: Neither on this machine nor to be had.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path, revision or "local"
    try:
        folder = _download(source, revision)
    except Exception as error:  # httpx, requests and the hub each have their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(
            f"{source} is no path on this machine and could not be downloaded: {type(error).__name__}: {reason}",
            hint="run the same command again: what was downloaded is kept. Offline? On a connected machine run"
            f" `hf download {source} --local-dir FOLDER`, copy FOLDER here and give its path",
            source=source,
        ) from error
    return folder, folder.name


def _download(source: str, revision: str | None) -> Path:
    """The folder of a model in the library's cache, with everything that is wanted of it."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        facts = HfApi().model_info(source, revision=revision, files_metadata=True)
    except Exception:  # offline: what the cache holds will do, or the library says what is wrong
        return Path(snapshot_download(source, revision=revision, allow_patterns=_DESCRIPTION + _SAFETENSORS + _PICKLED))
    files = {entry.rfilename: entry for entry in facts.siblings or []}
    whole = any(fnmatch(name, pattern) for name in files for pattern in _SAFETENSORS)
    wanted = _DESCRIPTION + (_SAFETENSORS if whole else _PICKLED)
    for name, entry in files.items():
        if entry.lfs is not None and any(fnmatch(name, pattern) for pattern in wanted):
            _fetch_weights(source, str(facts.sha), name, entry.lfs)
    return Path(snapshot_download(source, revision=facts.sha, allow_patterns=wanted))


def _fetch_weights(source: str, commit: str, name: str, stated: Any) -> None:
    """Bring one large file into the cache (its blobs are named by their SHA-256), from where an earlier call stopped.

    Raises:
        OSError: What came is not what the hub states; it is removed.
    """
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, not listed as such

    if isinstance(try_to_load_from_cache(source, name, revision=commit), str):
        return
    blob = Path(constants.HF_HUB_CACHE) / f"models--{source.replace('/', '--')}" / "blobs" / stated.sha256
    partial = blob.with_name(f"{blob.name}.virnuc-partial")
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial.touch()
    with exclusive(partial):
        if blob.exists():  # another process was first
            partial.unlink(missing_ok=True)
            return
        with partial.open("ab") as file:
            headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
            url = hf_hub_url(source, name, revision=commit)
            http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=stated.size)
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != stated.sha256:
            partial.unlink()
            raise OSError(f"{name} came with SHA-256 {found}, the hub states {stated.sha256}")
        partial.rename(blob)
