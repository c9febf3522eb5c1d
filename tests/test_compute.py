"""A choice of how to compute is a field of `ComputeChoices`: from wherever it is chosen, it reaches the stages."""

import click
import dagster as dg
import pytest
from kits.automation import Platform
from pydantic import ValidationError

from virnuc_dagster.backends.ray_worker import describe_job
from virnuc_dagster.checkpoints import Level, LocalStore
from virnuc_dagster.cli.app import virnuc
from virnuc_dagster.compute import ComputeChoices, ComputeOptions
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.ledger import Ledger
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.orchestration.automation.backfill import Survey
from virnuc_dagster.orchestration.resources import TAGS, Compute
from virnuc_dagster.stages.shards import EmbeddingStage

DNABERT_S, ESM2 = "dnabert_s_embeddings", "esm2_embeddings"

#: Of each choice another value than its default.
OTHER = {
    "device": "cpu", "precision": "bfloat16", "threads": 3, "backend": "ray", "workers": 5, "token_budget": 77,
}  # fmt: skip


@pytest.fixture
def ray_is_there(monkeypatch):
    monkeypatch.setattr("virnuc_dagster.backends.find_spec", lambda name: object())


def chosen(options: ComputeOptions) -> dict:
    return options.model_dump(exclude={"level"})


def test_every_choice_has_another_value_here():
    assert OTHER.keys() == ComputeChoices.model_fields.keys()
    assert not OTHER.items() & ComputeChoices().model_dump().items()


def test_choices_are_never_positional_and_never_changed():
    with pytest.raises(TypeError):
        ComputeOptions("cpu")
    with pytest.raises(ValidationError, match="frozen"):
        ComputeOptions().threads = 2


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_in_the_environment_reaches_the_stages(name, tmp_path, monkeypatch):
    monkeypatch.setenv(f"VIRNUC_{name.upper()}", str(OTHER[name]))

    assert chosen(Settings.read(home=tmp_path).options()) == ComputeChoices().model_dump() | {name: OTHER[name]}


def test_settings_reach_a_run_through_the_resource(tmp_path, ray_is_there):
    compute = Platform(tmp_path, dict(OTHER)).definitions.resources["compute"]

    assert compute.for_run({}).options(Level.SKIP) == ComputeOptions(**OTHER, level=Level.SKIP)


@pytest.mark.parametrize("how", ["run configuration", "run tags"])
def test_what_a_run_is_given_reaches_the_stages(how, ray_is_there):
    if how == "run tags":
        compute = Compute().for_run({f"virnuc/{name}": str(value) for name, value in OTHER.items()})
    else:
        compute = Compute.from_resource_context(dg.build_init_resource_context(config=OTHER)).for_run({})

    assert compute.options(Level.LOAD) == ComputeOptions(**OTHER)
    assert set(TAGS.values()) == {"bundle", *OTHER}


def test_the_scheduled_backfill_surveys_with_the_settings(tmp_path):
    platform = Platform(tmp_path, dict(OTHER))

    survey = Survey(platform.instance, platform.settings, Ledger(platform.settings.home))
    assert survey.stage.options == ComputeOptions(**OTHER)


def test_a_job_for_workers_holds_every_choice(tmp_path):
    options, store = ComputeOptions(**OTHER), LocalStore(tmp_path)
    stage = EmbeddingStage(ESM2, store, open_bundle("mini"), options)

    assert describe_job(stage, "b-1__0001", store, options, {}).options == options


@pytest.mark.parametrize("command", ["predict", "evaluate", "plan"])
def test_every_choice_is_a_flag_that_tells_its_default(command):
    flags = {parameter.name: parameter for parameter in virnuc.commands[command].params}

    for name, field in ComputeChoices.model_fields.items():
        assert flags[name].opts == [f"--{name.replace('_', '-')}"]
        assert f"[default: {field.default}]" in flags[name].help
    assert isinstance(flags["precision"].type, click.Choice)
