"""`virnuc doctor`: what this machine can do, and what would stop a run."""

import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

import click

from virnuc_dagster import __version__
from virnuc_dagster.cli.options import home_option
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.home.settings import Settings

_PACKAGES = ("dagster", "dagster-webserver", "torch", "transformers", "tokenizers", "zstandard", "numpy")
_LISTED_MAX = 10
_FREE_BYTES_MIN = 1_000_000_000


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `remedy` is set where something is wrong."""

    name: str
    value: str
    ok: bool = True
    remedy: str = ""


@click.command(
    epilog="""\b
Examples:
  virnuc doctor
  virnuc doctor --json | jq '.[] | select(.ok | not)'"""
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@home_option
def doctor(as_json: bool, **flags: Any) -> int:
    """Say what this machine can do: devices, threads, versions, writable store, free space, bundles."""
    settings = Settings.read(**flags)
    findings = [*_software(), *_devices(settings), *_storage(settings), *_bundles(settings)]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{'ok ' if finding.ok else 'BAD'}  {finding.name:<20} {finding.value}")
            if finding.remedy:
                click.echo(f"     -> {finding.remedy}")
    return 0 if all(finding.ok for finding in findings) else 1


def _software() -> Iterator[Finding]:
    yield Finding("virnuc-dagster", __version__)
    yield Finding("python", platform.python_version())
    for package in _PACKAGES:
        try:
            yield Finding(package, version(package))
        except PackageNotFoundError:
            yield Finding(package, "missing", ok=False, remedy=f"pip install {package}")


def _devices(settings: Settings) -> Iterator[Finding]:
    import torch

    from virnuc_dagster.embedding.device import resolve_device, set_threads

    yield Finding("cpu", f"{os.cpu_count()} logical, runs use {set_threads(settings.threads)} threads")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        yield Finding(f"cuda:{index}", f"{facts.name}, {facts.total_memory / 2**30:.1f} GiB")
    if settings.backend == "ray":
        yield _ray(settings)
        return
    try:
        yield Finding("device in use", f"{resolve_device(settings.device)} (setting: {settings.device})")
    except VirnucError as error:
        yield Finding("device in use", error.message, ok=False, remedy=error.hint)


def _ray(settings: Settings) -> Finding:
    """Tell whether Ray is there; the devices are those of its cluster, which is not asked."""
    from virnuc_dagster.backends import require_backend

    try:
        require_backend("ray")
    except VirnucError as error:
        return Finding("backend ray", error.message, ok=False, remedy=error.hint)
    address = settings.ray_address or os.environ.get("RAY_ADDRESS") or "a cluster of its own for each run"
    return Finding("backend ray", f"{version('ray')}, {address}")


def _storage(settings: Settings) -> Iterator[Finding]:
    from virnuc_dagster.checkpoints import open_store, probe_store
    from virnuc_dagster.definitions import foreign_instance
    from virnuc_dagster.files import make_folder, temporary_file
    from virnuc_dagster.home.binding import check_store

    place = settings.store
    try:
        check_store(settings)
        if isinstance(place, str):
            probe_store(open_store(place))
            yield Finding("store", f"{place} is writable; its free space is not known")
            place = settings.home
        make_folder(place)
        with temporary_file(place / "doctor", lambda file: file.write(b"x")):
            yield Finding("store" if place == settings.store else "home", f"{place} is writable")
        free = shutil.disk_usage(place).free
        enough = free >= _FREE_BYTES_MIN
        remedy = "" if enough else "free some space or choose another --home"
        yield Finding("free space", f"{free / 1e9:,.1f} GB", ok=enough, remedy=remedy)
    except VirnucError as error:
        yield Finding("store", error.message, ok=False, remedy=error.hint)
    yield from _losses(settings)
    if foreign := foreign_instance(settings):
        remedy = f"unset DAGSTER_HOME, or set it to {settings.dagster_home}"
        yield Finding("dagster instance", f"DAGSTER_HOME is {foreign}", ok=False, remedy=remedy)
    yield _instance_file(settings)


def _losses(settings: Settings) -> Iterator[Finding]:
    """Find batches of which something is missing that was stored once."""
    from virnuc_dagster.home.binding import StoreGoneError, check_store
    from virnuc_dagster.orchestration.losses import describe, losses_of_home, remedy

    try:
        losses = losses_of_home(settings, check_store(settings))
    except StoreGoneError:
        return  # said above; what to do about single batches is no matter then
    except VirnucError as error:
        yield Finding("stored batches", error.message, ok=False, remedy=error.hint)
        return
    for batch, lost in list(losses.items())[:_LISTED_MAX]:
        yield Finding("stored batches", f"{batch}: missing {describe(lost)}", ok=False, remedy=remedy(batch, lost))
    if len(losses) > _LISTED_MAX:
        more = f"and {len(losses) - _LISTED_MAX:,} more batches"
        yield Finding("stored batches", more, ok=False, remedy="`virnuc batches list` names all")


def _instance_file(settings: Settings) -> Finding:
    """Tell whether a `dagster.yaml` that the user changed lacks what this version sets."""
    from virnuc_dagster.orchestration.instance import CONFIG_NAME, missing_settings

    path = settings.dagster_home / CONFIG_NAME
    try:
        missing = missing_settings(settings)
    except VirnucError as error:
        return Finding(CONFIG_NAME, error.message, ok=False, remedy=error.hint)
    if not missing:
        return Finding(
            CONFIG_NAME, "has every setting of this version" if path.exists() else "written at the first run"
        )
    remedy = f"copy them from {files('virnuc_dagster') / 'instance.yaml'}, or move {path} aside to get a new one"
    return Finding(CONFIG_NAME, f"was changed and lacks {', '.join(missing)}", ok=False, remedy=remedy)


def _bundles(settings: Settings) -> Iterator[Finding]:
    from virnuc_dagster.models.bundle import list_bundles, open_bundle

    for name in dict.fromkeys([*list_bundles(), settings.bundle]):
        try:
            bundle = open_bundle(name)
            bundle.verify()
            yield Finding(f"bundle {name}", f"window length {bundle.spec.window_length}, all digests right")
        except VirnucError as error:
            yield Finding(f"bundle {name}", error.message, ok=False, remedy=error.hint)
