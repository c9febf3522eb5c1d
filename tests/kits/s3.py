"""An S3 service of our own on loopback, and a way to it that can be cut: what a client sees of a service that dies.

The service (moto) keeps its objects in memory, so it is not itself killed: every byte goes through a process that
forwards it, and killing that one resets each connection in the middle of whatever it was doing.
"""

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kits.ports import free_port
from kits.waiting import wait_until

FORWARD = str(Path(__file__).with_name("forward.py"))
SECRET = "hush-" + "x" * 20


def environment(port: int) -> dict[str, str]:
    """What a client needs to be told of a service."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def wait_for(port: int, process: subprocess.Popen) -> None:
    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, process, poll_seconds=0.05)


@contextmanager
def service() -> Iterator[int]:
    """The port of an S3 service."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, server)
        yield port
    finally:
        server.kill()
        server.wait()


@dataclass
class Way:
    """The way to a service.

    Attributes:
        port: Where clients connect.
        target: Port of the service.
        process: Forwards, while the way is open.
    """

    port: int
    target: int
    process: subprocess.Popen | None = None

    def open(self) -> None:
        self.process = subprocess.Popen([sys.executable, FORWARD, str(self.port), str(self.target)])
        wait_for(self.port, self.process)

    def cut(self) -> None:
        """Kill it: connections are reset, new ones refused."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to be told."""
        return environment(self.port)


def new_bucket(port: int) -> str:
    """Make a bucket; returns the URL of a store in it."""
    import s3fs

    endpoint = f"http://127.0.0.1:{port}"
    files = s3fs.S3FileSystem(endpoint_url=endpoint, key="key", secret=SECRET, skip_instance_cache=True)
    bucket = f"lab-{uuid.uuid4().hex[:8]}"
    files.mkdir(bucket)
    return f"s3://{bucket}/prefix/store"


def client_environment(way: Way, **more: str) -> dict[str, str]:
    """The environment of a process that works on the service."""
    return {**os.environ, "DAGSTER_HOME": "", **way.environment, **more}
