"""How shards are computed: each choice with its name, default, bounds and description, written once.

Everything that offers these choices reads them from here: the settings (`VIRNUC_*`, `settings.toml`), the flags of the
command line, the run configuration and the run tags of Dagster, and the job that goes to Ray workers. A new choice is a
field here and the line that uses it. Importing this module does not import torch.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from virnuc_dagster.checkpoints import Level
from virnuc_dagster.embedding.device import Precision, resolve_device, set_threads

if TYPE_CHECKING:
    import torch


class ComputeChoices(BaseModel):
    """What a user may choose; frozen, and by keyword only. Only `precision` changes numbers and is provenance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto (first GPU, else CPU), cpu, cuda or cuda:N"
    )
    precision: Precision = Field(
        "float32", description="Number format of weights and products: float32, bfloat16 or float16"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads (of each worker); 0 is one a physical core")
    backend: Literal["local", "ray"] = Field(
        "local", description="Where shards are computed: local (this process) or ray (workers on a Ray cluster)"
    )
    workers: int = Field(
        0, ge=0, le=100_000, description="Workers of backend ray; 0 is as many as the cluster has room for"
    )
    token_budget: int = Field(8_192, ge=16, description="Tokens an encoder is fed at once; less needs less memory")


class ComputeOptions(ComputeChoices):
    """What a stage is handed: the choices, and how much of an input checkpoint is checked at load (`level`)."""

    level: Level = Level.LOAD

    def make_ready(self) -> "torch.device":
        """Return the device to compute on; sets the threads of the calling thread, which OpenMP counts by thread."""
        set_threads(self.threads)
        return resolve_device(self.device)
