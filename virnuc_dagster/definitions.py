"""The code location: one function builds everything, with overrides for tests and the command line.

Importing this module reads settings and builds definitions; it imports no torch and touches no file.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_dagster.backends.ray_pool import Pools
from virnuc_dagster.home.journal import Journal
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.orchestration import assets, checks
from virnuc_dagster.orchestration.assets.report import ReportFolder
from virnuc_dagster.orchestration.automation import build_automation
from virnuc_dagster.orchestration.io_manager import CheckpointIOManager
from virnuc_dagster.orchestration.resources import Backends, Compute
from virnuc_dagster.progress import Progress


def build_definitions(
    *, settings: Settings | None = None, resources: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Build all assets, checks, jobs, sensors, schedules and resources of the platform.

    Args:
        settings: Where things live; from the environment if None.
        resources: Replace or add resources by name (`checkpoints`, `compute`, `backends`, `reports`, `progress`,
            `journal`).
    """
    settings = settings or Settings.read()
    defaults: dict[str, Any] = {
        "checkpoints": CheckpointIOManager(root=str(settings.store)),
        "compute": Compute(bundle=settings.bundle, **settings.compute),
        "backends": Backends(pools=Pools(), ray_address=settings.ray_address),
        "reports": ReportFolder(root=str(settings.reports)),
        "progress": Progress(),
        "journal": Journal(folder=str(settings.logs)),
    }
    automation = build_automation(settings)
    return dg.Definitions(
        assets=[*assets.ALL, *automation.assets],
        asset_checks=checks.ALL,
        jobs=automation.jobs,
        sensors=automation.sensors,
        schedules=automation.schedules,
        resources={**defaults, **(resources or {})},
        # One process a run: the models are loaded once, and pool limits hold.
        executor=dg.in_process_executor,
    )


def foreign_instance(settings: Settings) -> str:
    """Find the folder of the Dagster instance in use; an empty text if it is the one of these settings."""
    home = os.environ.get("DAGSTER_HOME", "")
    return home if home and Path(home).absolute() != settings.dagster_home else ""


def _warn_of_foreign_instance() -> None:
    settings = Settings.read()
    if foreign := foreign_instance(settings):
        logging.getLogger("virnuc").warning(
            "DAGSTER_HOME is %s, but this home's instance is %s: the UI and `virnuc predict` show different runs. "
            "Use `virnuc up`, or set VIRNUC_HOME to the folder above DAGSTER_HOME.",
            foreign,
            settings.dagster_home,
        )


_warn_of_foreign_instance()
defs = build_definitions()
