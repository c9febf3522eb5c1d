"""Getting a Ray cluster: connect to one or start one on this machine, and decide how many workers of what size.

A cluster that is started here has no dashboard, reports no usage, asks for a token that only this process and its
children know, and ends with this process, whatever ends it.
"""

import contextlib
import logging
import math
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnuc_dagster.backends import BackendError, require_backend
from virnuc_dagster.files import exclusive, remove_abandoned
from virnuc_dagster.signals import handlers_kept

ADDRESS_VARIABLE = "RAY_ADDRESS"
#: Results are records of a few kilobytes, so this is plenty; Ray would reserve a third of the memory.
_OBJECT_STORE_BYTES = 100_000_000
#: A socket's path may have 107 bytes, of which Ray takes 64 (`/session_<time>_<pid>/sockets/plasma_store`) and ours 22.
_BASE_LENGTH_MAX = 21
_HTTP2_SETTINGS = b"\x04"
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _HTTP2_SETTINGS + b"\0" * 5
_PREFIX, _INNER = "virnuc-ray-", "r"


@dataclass(frozen=True)
class Crew:
    """Workers of a run.

    Attributes:
        workers: How many are asked for.
        threads: CPUs (and CPU threads) of each.
        gpus: GPUs of each: 0 or 1.
    """

    workers: int
    threads: int
    gpus: int

    @property
    def device(self) -> str:
        """The device that a worker computes on; Ray shows it only the GPU it was given."""
        return "cuda" if self.gpus else "cpu"


def plan_crew(nodes: Sequence[Mapping[str, float]], device: str, threads: int, workers: int) -> Crew:
    """Decide how many workers of what size a cluster is asked for.

    Args:
        nodes: Resources of each node: `CPU`, `GPU`.
        device: `auto` (GPUs if any node has one), `cpu` or `cuda`.
        threads: CPUs of a worker; 0 for one a GPU, or as many as the smallest node has for each worker on it.
        workers: How many; 0 for as many as fit at once. More than fit join when there is room.

    Raises:
        BackendError: No worker fits on any node.
    """
    nodes = [node for node in nodes if node.get("CPU", 0) >= 1]
    gpus = int(device == "cuda" or (device == "auto" and any(node.get("GPU", 0) >= 1 for node in nodes)))
    if not threads:
        smallest = int(min((node["CPU"] for node in nodes), default=1))
        on_one_node = math.ceil(max(workers, 1) / max(len(nodes), 1))
        threads = 1 if gpus else max(1, smallest // on_one_node)
    room = sum(
        int(min(node["CPU"] // threads, node.get("GPU", 0)) if gpus else node["CPU"] // threads) for node in nodes
    )
    if not room and not workers:
        raise BackendError(
            f"no node of the Ray cluster has room for a worker of {threads} CPUs{' and a GPU' if gpus else ''}",
            hint="use fewer --threads or another --device; or set --workers to wait for nodes that are still to come",
        )
    return Crew(workers or room, threads, gpus)


@contextlib.contextmanager
def connected(address: str, device: str, threads: int, workers: int) -> Iterator[Crew]:
    """Connect to a cluster, and disconnect (or end it, if it was started here) afterwards.

    Args:
        address: Of a running cluster; empty for `RAY_ADDRESS`, or else one of our own on this machine.
        device: See `plan_crew`.
        threads: See `plan_crew`.
        workers: See `plan_crew`.

    Raises:
        BackendError: Ray is missing, does not answer, or has no room.
    """
    require_backend("ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    address = address or os.environ.get(ADDRESS_VARIABLE, "")
    if ray.is_initialized():  # by whoever runs us
        yield _crew(device, threads, workers)
        return
    with contextlib.ExitStack() as stack:
        options = {"address": address} if address else stack.enter_context(_own_cluster(device, threads, workers))
        stack.callback(ray.shutdown)
        with handlers_kept():
            try:
                _check_answers(address)
                ray.init(
                    namespace="virnuc",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    job_config=_importing_nothing_here(),
                    **options,
                )
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
                raise BackendError(
                    f"cannot use {where}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                    hint="start it (`ray start`, docs/ray.md), also on this machine, with the same Python, Ray and "
                    "token; or unset VIRNUC_RAY_ADDRESS and RAY_ADDRESS to start one here",
                ) from error
        yield _crew(device, threads, workers)


def _importing_nothing_here() -> Any:
    """Configure a job whose workers import nothing from this process's working folder, which Ray else puts first.

    Ray leaves it out of a job with a working folder of its own; sending the workers one would cost an upload.
    """
    from ray.job_config import JobConfig

    class Job(JobConfig):  # type: ignore[misc, unused-ignore]
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return Job()


def _check_answers(address: str) -> None:
    """Raise OSError if no Ray listens at `host:port`: Ray itself would try for many minutes.

    Its server speaks HTTP/2, where each side begins with its settings; with TLS a listener must do.
    """
    if not (found := re.fullmatch(r"([^/:\s]+):(\d{1,5})", address)):
        return
    with socket.create_connection((found[1], int(found[2])), timeout=10) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
            connection.sendall(_HTTP2_GREETING)
            if connection.recv(9)[3:4] != _HTTP2_SETTINGS:
                raise ConnectionError("what listens there is no Ray; is it the port of `ray start --port`?")


def _crew(device: str, threads: int, workers: int) -> Crew:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return plan_crew(nodes, device, threads, workers)


@contextlib.contextmanager
def _own_cluster(device: str, threads: int, workers: int) -> Iterator[dict[str, Any]]:
    """Collect what `ray.init` needs to start a cluster of one node, whose files go away with it."""
    from virnuc_dagster.embedding.device import usable_cores

    if "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray would write one to the user's home
    with _folder() as folder:
        yield {
            "address": "local",
            "num_cpus": max(usable_cores(), workers * max(threads, 1)),
            "num_gpus": 0 if device == "cpu" else None,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(folder),
        }


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder for Ray inside one of ours, for Ray opens it to everyone; remove those of killed processes."""
    base = tempfile.gettempdir()
    base = base if len(os.fsencode(base)) <= _BASE_LENGTH_MAX else "/tmp"  # noqa: S108
    remove_abandoned(inner.parent for inner in Path(base).glob(f"{_PREFIX}*/{_INNER}"))
    outer = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    try:
        with exclusive(outer):
            (outer / _INNER).mkdir()
            yield outer / _INNER
    finally:
        shutil.rmtree(outer, ignore_errors=True)
