"""A running `virnuc up`, and the GraphQL end of it."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kits.ports import free_port
from kits.waiting import HANG_SECONDS, wait_until

LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""
STATUS = "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
ASSETS = "{ assetNodes { assetKey { path } assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions } } } }"  # noqa: E501


REPOSITORIES = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
LAUNCH_RUN = """
mutation ($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
CHECK_RUNS = "{ runsOrError(limit: 20) { ... on Runs { results { status assetSelection { path } assetCheckSelection { name } } } } }"  # noqa: E501
RUN_STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def _selected(assets: list[str]) -> dict:
    return {"assetSelection": [{"path": [name]} for name in assets]}


class Web:
    """The GraphQL end of a running `virnuc up`."""

    def __init__(self, port: int) -> None:
        self.port = port

    def query(self, text: str, **variables: object) -> dict:
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=HANG_SECONDS) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def is_ready(self) -> bool:
        """Whether it answers and has loaded the definitions."""
        try:
            return bool(self.query(REPOSITORIES)["repositoriesOrError"].get("nodes"))
        except OSError:
            return False

    def backfill(self, assets: list[str], partitions: list[str]) -> str:
        """Ask for partitions of assets as a click on "Materialize" does; returns the backfill's id."""
        return self.backfill_of({"partitionNames": partitions, **_selected(assets)})

    def backfill_of(self, params: dict) -> str:
        """Ask for a backfill in Dagster's own terms; returns its id."""
        launched = self.query(LAUNCH, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return launched["backfillId"]

    def backfill_everything(self, assets: list[str]) -> str:
        """Ask for all partitions of assets, as "Materialize all" does, whatever their partitions are."""
        return self.backfill_of({"allPartitions": True, **_selected(assets)})

    def launch(self, assets: list[str], tags: dict[str, str]) -> str:
        """Launch one run of assets, as the launchpad does; returns its id."""
        repository = self.query(REPOSITORIES)["repositoriesOrError"]["nodes"][0]
        params = {
            "selector": {
                "repositoryName": repository["name"],
                "repositoryLocationName": repository["location"]["name"],
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": [name]} for name in assets],
            },
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
            "runConfigData": {},
            "mode": "default",
        }
        launched = self.query(LAUNCH_RUN, params=params)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def runs_of_checks(self) -> list[dict]:
        """Runs of asset checks alone, the newest first."""
        found = self.query(CHECK_RUNS)["runsOrError"]["results"]
        return [run for run in found if run["assetCheckSelection"] and not run["assetSelection"]]

    def run_status(self, run_id: str) -> str:
        """The run's status."""
        return self.query(RUN_STATUS, id=run_id)["runOrError"]["status"]

    def end_of_run(self, run_id: str) -> str:
        """The run's status once it has ended."""

        def ended() -> str:
            status = self.run_status(run_id)
            return status if status in ("SUCCESS", "FAILURE", "CANCELED") else ""

        return wait_until(ended, poll_seconds=0.3)

    def outcome(self, backfill: str) -> str:
        """The backfill's status once it has ended."""

        def ended() -> str:
            status = self.query(STATUS, id=backfill)["partitionBackfillOrError"]["status"]
            return status if status.startswith("COMPLETED") or status == "FAILED" else ""

        return wait_until(ended, poll_seconds=0.3)


@contextmanager
def running(
    home: Path, *, folder: Path | None = None, env: Mapping[str, str] | None = None, **settings: str
) -> Iterator[Web]:
    """`virnuc up` on a home, until the context ends.

    Args:
        home: The home.
        folder: The working folder.
        env: Further environment variables.
        settings: VIRNUC_* variables without their prefix.
    """
    port = free_port(following=1)  # where reports are served
    variables = {f"VIRNUC_{name.upper()}": value for name, value in settings.items()}
    log = (home / "up.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "virnuc_dagster", "up", "--port", str(port), "--home", str(home)],
        stdout=log, stderr=log, start_new_session=True, cwd=folder,
        env={**os.environ, "DAGSTER_HOME": "", **variables, **(env or {})},
    )  # fmt: skip
    try:
        try:
            wait_until(Web(port).is_ready, process, poll_seconds=0.3)
        except AssertionError as error:
            raise AssertionError((home / "up.log").read_text()) from error
        yield Web(port)
    finally:
        process.terminate()  # to `virnuc up` alone: it must stop what it has started
        try:
            process.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        log.close()
