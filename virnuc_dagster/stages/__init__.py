"""The stages between a sequence file and a verdict: what each computes, from what, and when a stored result will do.

A stage joins the science (`sequences`, `embedding`, `classify`) to the checkpoint store. It knows nothing of Dagster:
`assets` runs stages as partitioned assets. What their checkpoints hold is registered on import (`pipeline`).
"""

from virnuc_dagster.stages import pipeline as _pipeline  # noqa: F401
