"""The files under deploy/ are what the programs that read them accept, as far as that can be told without those."""

import json
from pathlib import Path

import pytest
import yaml

from virnuc_dagster.definitions import build_definitions
from virnuc_dagster.errors import SettingsError
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.orchestration.automation.steps import SHARDS_JOB
from virnuc_dagster.orchestration.instance import shipped_config
from virnuc_dagster.orchestration.kubernetes import CONFIG_TAG, GPU_RESOURCE, run_tags

DEPLOY = Path(__file__).parents[2] / "deploy"


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def test_the_postgres_instance_is_the_one_that_virnuc_writes():
    written, sqlite = yaml.safe_load(shipped_config("postgres")), yaml.safe_load(shipped_config())
    assert read(DEPLOY / "dagster.postgres.yaml") == written
    assert written.keys() - {"storage"} == sqlite.keys() - {"instance_class"}


def test_compose_starts_each_part_once_on_loopback_and_holds_no_secret():
    compose = read(DEPLOY / "compose.yaml")
    services = compose["services"]
    assert services.keys() == {"postgres", "code", "web", "reports", "daemon"}
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:3000:3000", "127.0.0.1:3001:3001"]
    for name, service in services.items():
        assert name == "reports" or service["depends_on"] if name != "postgres" else service["healthcheck"]
        used = {volume.split(":")[0] for volume in service["volumes"] if not volume.startswith(".")}
        assert used <= compose["volumes"].keys()
        assert all((DEPLOY / v.split(":")[0]).exists() for v in service["volumes"] if v.startswith("."))
    environment = services["web"]["environment"]
    for variable, value in environment.items():
        if any(word in variable for word in ("PASSWORD", "SECRET", "KEY")):
            assert value is None or value.startswith("${"), variable
    instance = (DEPLOY / "dagster.postgres.yaml").read_text()
    assert all(variable in environment for variable in instance.split() if variable.startswith("DAGSTER_POSTGRES_"))


def test_compose_sets_what_the_settings_know():
    environment = read(DEPLOY / "compose.yaml")["services"]["web"]["environment"]
    ours = {name.removeprefix("VIRNUC_").lower() for name in environment if name.startswith("VIRNUC_")}
    assert ours - {"store", "reports_url"} <= Settings.model_fields.keys()


def test_the_kubernetes_launcher_takes_its_settings():
    """Against the launcher's own schema, where the package is there."""
    launcher = read(DEPLOY / "dagster.kubernetes.yaml")["run_launcher"]
    assert (launcher["module"], launcher["class"]) == ("dagster_k8s", "K8sRunLauncher")
    dagster_k8s = pytest.importorskip("dagster_k8s", reason="dagster-k8s is not installed")
    from dagster._config import process_config, resolve_to_config_type

    checked = process_config(resolve_to_config_type(dagster_k8s.K8sRunLauncher.config_type()), launcher["config"])
    assert checked.success, checked.errors


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("cpu", 1, None), ("cuda", 1, "1"), ("cuda:0", 1, "1"), ("auto", 2, "2")],
    ids=["no GPU", "a GPU", "a numbered one", "two for a backend"],
)
def test_run_tags_ask_for_what_the_run_computes_on(device, gpus, expected):
    config = json.loads(run_tags(device, gpus=gpus, cpus=4, memory_gib=16)[CONFIG_TAG])
    resources = config["container_config"]["resources"]
    assert resources["requests"] == {"cpu": "4000m", "memory": "16384Mi"}
    assert resources["limits"].get(GPU_RESOURCE) == expected
    assert ("pod_spec_config" in config) == (expected is not None)


def test_run_tags_refuse_nonsense():
    with pytest.raises(SettingsError, match="0 GPUs"):
        run_tags("cuda", gpus=0)


def test_run_tags_are_what_dagster_k8s_understands():
    pytest.importorskip("dagster_k8s", reason="dagster-k8s is not installed")
    from dagster_k8s.job import get_user_defined_k8s_config

    config = get_user_defined_k8s_config(run_tags("cuda:1", cpus=0.5, memory_gib=0.5))
    assert config.container_config["resources"]["limits"] == {"memory": "512Mi", GPU_RESOURCE: "1"}
    assert config.pod_spec_config["tolerations"][0]["key"] == GPU_RESOURCE


@pytest.mark.parametrize(
    ("kubernetes", "device", "gpus"), [(True, "cuda", "1"), (True, "cpu", None), (False, "cuda", None)]
)
def test_runs_over_shards_ask_for_their_gpu_where_runs_are_pods(tmp_path, kubernetes, device, gpus):
    settings = Settings(home=tmp_path, kubernetes=kubernetes, device=device)

    tags = build_definitions(settings=settings).resolve_job_def(SHARDS_JOB).tags

    assert (CONFIG_TAG in tags) == kubernetes
    limits = json.loads(tags[CONFIG_TAG])["container_config"]["resources"]["limits"] if kubernetes else {}
    assert limits.get(GPU_RESOURCE) == gpus
