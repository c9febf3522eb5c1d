"""The commands of compose.yaml as processes of this machine: what runs in the containers, without the containers."""

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

pytest.importorskip("dagster_postgres", reason="needs the extra [postgres]")
from kits.ports import free_port
from kits.postgres import PASSWORD, server
from kits.waiting import HANG_SECONDS, wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
FASTA = ">a\n" + "GCTGCC" * 85 + "\n"


def read_compose(**here: str) -> dict[str, dict]:
    """The services that run our image, with what is only so in a container replaced by what is here."""
    text = (DEPLOY / "compose.yaml").read_text()
    for there, value in {"0.0.0.0": "127.0.0.1", "--grpc-host, code": "--grpc-host, 127.0.0.1", **here}.items():
        assert there in text
        text = text.replace(there, value)
    services = yaml.safe_load(text)["services"]
    return {name: service for name, service in services.items() if service["image"] == "virnuc"}


@contextmanager
def running(services: dict[str, dict], home: Path, database: dict[str, str]) -> Iterator[dict[str, subprocess.Popen]]:
    """All of them at once, until the context ends: compose waits for none to be ready but the database."""
    processes = {}
    try:
        for name, service in services.items():
            environment = {k: v for k, v in service["environment"].items() if v is not None} | database
            environment |= {"VIRNUC_INBOX_SETTLE_SECONDS": "1", "VIRNUC_INBOX_POLL_SECONDS": "1"}
            program, *arguments = service["entrypoint"]
            with (home / f"{name}.log").open("wb") as log:
                processes[name] = subprocess.Popen(
                    [Path(sys.executable).with_name(program), *arguments], stdout=log, stderr=log, cwd=home,
                    env={**os.environ, **environment}, start_new_session=True,
                )  # fmt: skip
        yield processes
    finally:
        for process in processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_dropped_file_becomes_a_report(tmp_path):
    home, ports = tmp_path / "home", {port: str(free_port()) for port in ("3000", "3001", "4000")}
    for folder in ("dagster", "inbox"):  # as the image does
        (home / folder).mkdir(parents=True)
    shutil.copy(DEPLOY / "dagster.postgres.yaml", home / "dagster" / "dagster.yaml")  # as the volume does
    services = read_compose(**{"/data/home": str(home), **ports})
    (home / "inbox" / "a.fasta").write_text(FASTA)
    with server() as postgres, running(services, home, postgres.new_database("composed")) as processes:

        def made() -> list[Path]:
            ended = {name: process.poll() for name, process in processes.items() if process.poll() is not None}
            assert not ended, (ended, [(home / f"{name}.log").read_text()[-2000:] for name in ended])
            return list((home / "reports").glob("*/report.html"))

        reports = wait_until(made, poll_seconds=0.3)
        address = f"http://localhost:{ports['3001']}/{reports[0].parent.name}/report.html"
        assert services["web"]["environment"]["VIRNUC_REPORTS_URL"] in address
        assert urllib.request.urlopen(address, timeout=HANG_SECONDS).read() == reports[0].read_bytes()
        ui = urllib.request.urlopen(f"http://127.0.0.1:{ports['3000']}/server_info", timeout=HANG_SECONDS)
        assert ui.status == 200
    assert not [path for path in home.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
