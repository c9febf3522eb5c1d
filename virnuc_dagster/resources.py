"""What a run computes with: bundle, device, precision. Set per run, in the launchpad or by the command line."""

import dagster as dg
from pydantic import Field

from virnuc_dagster.checkpoints import Level
from virnuc_dagster.embedding.device import PRECISIONS
from virnuc_dagster.errors import SettingsError
from virnuc_dagster.models.bundle import Bundle, open_bundle
from virnuc_dagster.stages.shards import ComputeOptions


class Compute(dg.ConfigurableResource):
    """The model bundle and where it runs. Only `bundle` and `precision` change numbers."""

    bundle: str = Field(default="mini", description="A packaged bundle's name or a bundle folder.")
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    precision: str = Field(default="float32", description="`float32`, `bfloat16` or `float16`.")
    token_budget: int = Field(default=8_192, description="Tokens an encoder is fed at once.")
    threads: int = Field(default=0, description="CPU threads; 0 is one a physical core.")

    def open_bundle(self) -> Bundle:
        """The bundle's description; no weights are loaded yet."""
        return open_bundle(self.bundle)

    def options(self, level: Level) -> ComputeOptions:
        """Options for the stages.

        Raises:
            SettingsError: The precision has no such name.
        """
        if self.precision not in PRECISIONS:
            raise SettingsError(f"unknown precision {self.precision!r}", hint=f"use one of {', '.join(PRECISIONS)}")
        return ComputeOptions(self.device, self.precision, self.token_budget, level, self.threads)
