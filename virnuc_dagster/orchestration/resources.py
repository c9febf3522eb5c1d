"""What a run computes with: bundle, device, precision; set in the launchpad, by run tags or by the command line."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, PrivateAttr, ValidationError, create_model

from virnuc_dagster.backends import Backend, local, require_backend
from virnuc_dagster.backends.ray_pool import Pools, RayPool
from virnuc_dagster.checkpoints import Level
from virnuc_dagster.compute import ComputeChoices, ComputeOptions
from virnuc_dagster.errors import SettingsError
from virnuc_dagster.home.places import temporary_base
from virnuc_dagster.home.settings import Settings, problems
from virnuc_dagster.models.bundle import Bundle, open_bundle

_FIELDS = {"bundle": Settings.model_fields["bundle"], **ComputeChoices.model_fields}
#: Run tags that set a field for one run, so that a backfill from the UI can choose its device too.
TAGS = {f"virnuc/{name}": name for name in _FIELDS}
#: `virnuc/gpu=1` means device `cuda:1`, and the queue starts no second run with the same number.
GPU_TAG = "virnuc/gpu"


if TYPE_CHECKING:

    class _RunConfig(ComputeChoices, dg.ConfigurableResource):
        bundle: str = ""
else:
    # Numbers and plain texts: what cannot work is refused by `for_run`, which says what to do about it.
    _RunConfig = create_model(
        "_RunConfig",
        __base__=dg.ConfigurableResource,
        **{
            name: (int if field.annotation is int else str, Field(field.default, description=f"{field.description}."))
            for name, field in _FIELDS.items()
        },
    )


class Compute(_RunConfig):
    """The model bundle and how shards are computed with it. Only `bundle` and `precision` change numbers."""

    def open_bundle(self) -> Bundle:
        """The bundle's description; no weights are loaded yet."""
        return open_bundle(self.bundle)

    def for_run(self, tags: Mapping[str, str]) -> "Compute":
        """What this run computes with: its tags beat its configuration; the device is one that exists.

        Args:
            tags: Of the run: `virnuc/device`, `virnuc/precision`, `virnuc/token_budget`, `virnuc/threads`,
                `virnuc/bundle`, `virnuc/backend`, `virnuc/workers`, `virnuc/gpu`.

        Raises:
            SettingsError: A value cannot work, two contradict each other, or this machine has no such device. Nothing
                was computed.
        """
        from virnuc_dagster.embedding.device import resolve_device

        values: dict[str, Any] = {name: getattr(self, name) for name in TAGS.values()}
        values |= {name: tags[tag] for tag, name in TAGS.items() if tag in tags}
        if gpu := tags.get(GPU_TAG, ""):
            values["device"] = _device_of_tag(gpu, values["device"])
        checked = _checked(values)
        if checked.backend == "local":
            device = str(resolve_device(checked.device))
        else:
            require_backend(checked.backend)
            device = _device_of_workers(checked.device, tags)
        return Compute(**checked.model_dump(exclude={"level", "device"}), bundle=values["bundle"], device=device)

    def options(self, level: Level) -> ComputeOptions:
        """Return what the stages take.

        Raises:
            SettingsError: A value cannot work.
        """
        return _checked({name: getattr(self, name) for name in ComputeChoices.model_fields} | {"level": level})

    @property
    def held_device(self) -> str:
        """The device that the run's own process computes on; empty if workers compute, whose devices Ray gives out."""
        return self.device if self.backend == "local" else ""

    def facts(self) -> dict[str, Any]:
        """Metadata of a shard: what it was computed with."""
        return {"bundle": self.open_bundle().name, "precision": self.precision, "device": self.device}


def _checked(values: Mapping[str, Any]) -> ComputeOptions:
    try:
        return ComputeOptions.model_validate({name: value for name, value in values.items() if name != "bundle"})
    except ValidationError as error:
        raise SettingsError(
            f"this run cannot compute with {problems(error, with_values=True)}",
            hint="correct the resource `compute` in the launchpad, or the run tag of that name (virnuc/...)",
        ) from error


def _device_of_workers(device: str, tags: Mapping[str, str]) -> str:
    """`auto`, `cpu` or `cuda`: which GPU a worker gets is Ray's to say; `virnuc/gpu` then only orders the queue."""
    if ":" not in device or GPU_TAG in tags:
        return device.partition(":")[0]
    raise SettingsError(
        f"device {device!r} and backend `ray` contradict each other: Ray gives each worker a GPU",
        hint="use device `cuda`; to keep a GPU out of the cluster, set CUDA_VISIBLE_DEVICES before `ray start`",
    )


class Backends(dg.ConfigurableResource):
    """Computes the shards of a run where its `compute.backend` says; a pool of workers is that of `pools`."""

    pools: dg.ResourceDependency[Pools]
    ray_address: str = Field(
        default="", description="Of a running Ray cluster; empty: RAY_ADDRESS, or a cluster started for the run."
    )
    _pool: RayPool | None = PrivateAttr(None)

    def choose(self, options: ComputeOptions) -> Backend:
        """Return the backend of this run; a pool of workers is kept for all of its steps."""
        if options.backend == "local":
            return local
        if self._pool is None:
            self._pool = self.pools.take(self.ray_address, options)
        return self._pool

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """The run is over."""
        if self._pool is not None:
            self.pools.give_back(self._pool)
            self._pool = None


def _device_of_tag(gpu: str, device: str) -> str:
    """The device that `virnuc/gpu` asks for, unless the run says `cpu`: there the tag only orders the queue."""
    if not gpu.isdigit():
        raise SettingsError(f"run tag {GPU_TAG} is {gpu!r}", hint="use the number of a GPU, such as 0")
    if device == "cpu":
        return device
    if device not in ("auto", "cuda", f"cuda:{gpu}"):
        raise SettingsError(f"run tag {GPU_TAG}={gpu} and device {device!r} contradict each other", hint="drop one")
    return f"cuda:{gpu}"


@contextlib.contextmanager
def hold_device(device: str, note: Callable[[str], object], poll_seconds: float = 1.0) -> Iterator[None]:
    """Keep a GPU for this process, whatever started it: the UI, a schedule or `virnuc predict`; other homes included.

    The kernel gives the lock back when the process dies. A CPU is shared, so it is not held.

    Args:
        device: Device name with its index.
        note: Told once if another process has the device and this one waits.
        poll_seconds: How often to look again.
    """
    if not device.startswith("cuda"):
        yield
        return
    path = _lock_folder() / f"{_physical_name(device)}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        told = False
        while not _locked(descriptor):
            if not told:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                note(f"waiting for {device}: process {holder or '?'} is computing on it")
                told = True
            time.sleep(poll_seconds)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_folder() -> Path:
    """A folder of this user's own; another user's folder under that name is refused."""
    folder = temporary_base() / f"virnuc-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise SettingsError(f"{folder} belongs to another user", hint="set TMPDIR to a folder of your own")
    return folder


def _physical_name(device: str) -> str:
    """The GPU's own id, so that CUDA_VISIBLE_DEVICES cannot make one card look like two."""
    import torch

    index = int(device.partition(":")[2] or 0)
    if torch.cuda.is_available() and index < torch.cuda.device_count():
        return f"gpu-{getattr(torch.cuda.get_device_properties(index), 'uuid', index)}"
    return device.replace(":", "-")
