"""What a run asks of Kubernetes: tags for dagster-k8s' run launcher, computed from what the run computes with.

Plain data: dagster-k8s itself is needed only where it launches (deploy/README.md).
"""

import json
from collections.abc import Mapping

from virnuc_dagster.errors import SettingsError

CONFIG_TAG = "dagster-k8s/config"
GPU_RESOURCE = "nvidia.com/gpu"


def run_tags(device: str, *, gpus: int = 1, cpus: float = 2, memory_gib: float = 8) -> dict[str, str]:
    """Tags of a run that `K8sRunLauncher` is to start with a GPU, or without one.

    Args:
        device: What the run computes on: `cpu`, `cuda`, `cuda:N` or `auto`.
        gpus: GPUs of the run's pod where the device is not `cpu`; one unless a backend in it uses more.
        cpus: CPUs asked for.
        memory_gib: Memory asked for, which is the limit too.

    Returns:
        The tag `dagster-k8s/config`, as JSON, to be put on a run, a job or an asset.

    Raises:
        SettingsError: A number that no node can give.
    """
    if gpus < 1 or cpus <= 0 or memory_gib <= 0:
        raise SettingsError(
            f"cannot ask for {gpus} GPUs, {cpus} CPUs and {memory_gib} GiB", hint="ask for positive numbers"
        )
    memory = f"{round(memory_gib * 1024)}Mi"
    requests: dict[str, str] = {"cpu": f"{round(cpus * 1000)}m", "memory": memory}
    limits = {"memory": memory}
    pod: dict[str, object] = {}
    if device != "cpu":
        limits[GPU_RESOURCE] = str(gpus)  # Kubernetes takes a limit of an extended resource for the request
        pod = {"tolerations": [{"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}]}
    config: dict[str, Mapping[str, object]] = {
        "container_config": {"resources": {"requests": requests, "limits": limits}}
    }
    if pod:
        config["pod_spec_config"] = pod
    return {CONFIG_TAG: json.dumps(config, sort_keys=True)}
