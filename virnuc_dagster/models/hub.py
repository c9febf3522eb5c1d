"""From a hub id to a folder on this machine; a folder stays what it is. Nothing is read or executed here."""

from __future__ import annotations

from pathlib import Path

from virnuc_dagster.errors import BundleError

_WANTED = ["config.json", "*.safetensors", "pytorch_model*.bin", "tokenizer*.json"]


def fetch(source: str, revision: str | None = None) -> tuple[Path, str]:
    """Find a model's folder or file, downloading it (with progress) if `source` is a hub id.

    Args:
        source: A folder, a file, or a hub id such as `facebook/esm2_t33_650M_UR50D`.
        revision: Commit, branch or tag on the hub; `main` if None.

    Returns:
        The path, and the revision to record: the commit that was downloaded, or `local`.

    Raises:
        BundleError: Neither on this machine nor to be had.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path, revision or "local"
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=_WANTED))
    except Exception as error:  # httpx, requests and the hub each have their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(
            f"{source} is no path on this machine and could not be downloaded: {type(error).__name__}: {reason}",
            hint="offline? On a connected machine run `hf download "
            f"{source} --local-dir FOLDER`, copy FOLDER here and give its path",
            source=source,
        ) from error
    return folder, folder.name
