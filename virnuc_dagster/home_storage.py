"""The name by which the `dagster.yaml` of every home finds its storage. It is on disk, so it stays."""

from virnuc_dagster.orchestration.home_storage import HomeEventLog, HomeInstance, HomeStorage

__all__ = ["HomeEventLog", "HomeInstance", "HomeStorage"]
