"""What runs without a click: taking in files, bringing batches to their reports, repairs, audits, alerts.

Sensors and schedules decide from small records and request ordinary runs; nothing is computed in them, and none of
them imports torch.
"""

from virnuc_dagster.orchestration.automation.build import Automation, build_automation

__all__ = ["Automation", "build_automation"]
