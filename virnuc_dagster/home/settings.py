"""Where things live and what the defaults are: one frozen object, filled from the environment and a settings file.

A flag beats the environment (`VIRNUC_*`), which beats `settings.toml` in the home folder. The window length is not a
setting: it belongs to the model bundle, whose head was trained for it.
"""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from virnuc_dagster.checkpoints import Level
from virnuc_dagster.compute import ComputeChoices, ComputeOptions
from virnuc_dagster.errors import SettingsError

HOME_VARIABLE = "VIRNUC_HOME"
STORE_VARIABLE = "VIRNUC_STORE"
DEFAULT_HOME = Path(".virnuc")


def problems(error: ValidationError, *, with_values: bool = False) -> str:
    """Say what is wrong with settings, by name; with their values only where none can be secret."""
    found = []
    for fault in error.errors():
        name = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            found.append(f"{name}: no such setting{_nearest(name)}")
            continue
        shown = f"{name} {fault['input']!r}" if with_values else name
        found.append(f"{shown}: {fault['msg'].removeprefix('Value error, ')}")
    return "; ".join(found)


def _nearest(name: str) -> str:
    known = ["store" if field == "store_at" else field for field in Settings.model_fields]
    near = get_close_matches(name.lower().removeprefix("virnuc_"), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


class Settings(ComputeChoices, BaseSettings):
    """The platform's settings; impossible values are refused with a reason. How shards are computed: `ComputeChoices`.

    Attributes:
        home: Folder that holds everything below.
        store_at: Where the checkpoint store is, if not in the home: a folder or `s3://bucket/prefix`. As a setting it
            is called `store`.
        instance: Where a new home's Dagster instance keeps runs and events: `sqlite` (files in the home) or `postgres`
            (`DAGSTER_POSTGRES_*` say which). A home's own `dagster/dagster.yaml` stays as it is.
        bundle: Model bundle: a packaged name or a folder.
        shard_size: Frames a shard, 1 to 1,000,000.
        ray_address: Of a running Ray cluster; if empty, `RAY_ADDRESS` or else a cluster started for the run.
        kubernetes: Whether runs are pods: those over shards then ask for a GPU, unless `device` is `cpu`.
        allow_missing_end_mark: Whether a BGZF file without its end mark is read, instead of refused as truncated.
        shards_per_run: Shards that one run takes, with the models loaded once.
        batches_per_run: Small batches that share a run at most; 1 gives each its own.
        shared_frames: Frames that the batches of a shared run have at most, all together; a batch with more has runs of
            its own.
        automation: Whether the sensors and schedules are on until someone turns them off in the UI.
        inbox_settle_seconds: A file in the inbox is taken in once it has not changed for this long.
        inbox_poll_seconds: How often the sensors look.
        files_per_tick: Files that one run takes in.
        runs_per_tick: Runs that a sensor or schedule requests at once; the rest wait for the next tick.
        attempts_max: Failures in a row after which a batch or file is parked.
        retry_minutes: A file or batch that failed is tried again after this long; its last attempt is left to the
            scheduled backfill.
        backfill_cron: When missing, failed, damaged and stale shards are computed (UTC).
        audit_cron: When the whole store is read and checked (UTC).
        late_after_hours: A file or batch that has waited this long for its report is told of.
        webhook: Address that a message of each failed run and each late batch is posted to; empty for none.
    """

    model_config = SettingsConfigDict(
        env_prefix="VIRNUC_", env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    home: Path = DEFAULT_HOME
    instance: Literal["sqlite", "postgres"] = "sqlite"
    store_at: str = Field("", validation_alias=AliasChoices("store", STORE_VARIABLE))
    bundle: str = Field("mini", description="Model bundle: a packaged name or a folder")
    shard_size: int = Field(10_000, ge=1, le=1_000_000)
    ray_address: str = ""
    kubernetes: bool = False
    allow_missing_end_mark: bool = False
    shards_per_run: int = Field(1_000, ge=1)
    batches_per_run: int = Field(100, ge=1, le=1_000)
    shared_frames: int = Field(10_000, ge=1)
    automation: bool = True
    inbox_settle_seconds: float = Field(10, ge=0, le=86_400)
    inbox_poll_seconds: int = Field(5, ge=1, le=86_400)
    files_per_tick: int = Field(100, ge=1, le=1_000)
    runs_per_tick: int = Field(20, ge=1, le=1_000)
    attempts_max: int = Field(3, ge=1, le=100)
    retry_minutes: float = Field(30, gt=0, le=60 * 24 * 365)
    backfill_cron: str = "0 2 * * *"
    audit_cron: str = "0 4 * * 0"
    late_after_hours: float = Field(24, gt=0, le=24 * 365)
    webhook: SecretStr = SecretStr("")

    @field_validator("backfill_cron", "audit_cron")
    @classmethod
    def _cron(cls, cron: str) -> str:
        from virnuc_dagster.orchestration.private import is_valid_cron_string  # not needed for the defaults

        if len(cron.split()) != 5 or not is_valid_cron_string(cron):
            raise ValueError("not a cron expression of five fields, such as 0 2 * * *")
        return cron

    @field_validator("webhook")
    @classmethod
    def _address(cls, webhook: SecretStr) -> SecretStr:
        if webhook.get_secret_value() and not webhook.get_secret_value().startswith(("https://", "http://")):
            raise ValueError("not an http or https address")
        return webhook

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("store_at")
    @classmethod
    def _folder_or_plain_url(cls, store: str) -> str:
        if re.match(r"\w\w+:/(?!/)", store):
            raise ValueError("neither a folder nor a URL; write s3://bucket/prefix")
        if "://" not in store:
            return store
        parts = urlsplit(store)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "credentials and options do not belong in a URL, which ends up in logs; set AWS_* variables"
            )
        if not parts.netloc:
            raise ValueError("names no bucket; write s3://bucket/prefix")
        return store

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: flags, then the environment, then `<home>/settings.toml`."""
        home = Path(init_settings().get("home") or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()
        of_home = TomlConfigSettingsSource(settings_cls, home / "settings.toml")
        if "home" in of_home():
            raise SettingsError(
                f"{home / 'settings.toml'} names a home, but lies in one",
                hint="remove that line; the home is chosen by --home or VIRNUC_HOME",
            )
        return init_settings, env_settings, of_home

    @classmethod
    def read(cls, **flags: Any) -> "Settings":
        """Read settings from flags (those that are not None), environment and file.

        Raises:
            SettingsError: A value cannot work; the message names the setting and the reason.
        """
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except TOMLDecodeError as error:
            raise SettingsError(
                f"settings.toml in the home folder is not TOML: {error}",
                hint='write one `name = value` a line, with texts in quotes: device = "cpu"',
            ) from error
        except ValidationError as error:
            raise SettingsError(
                f"settings cannot be used: {problems(error)}",
                hint="check the flags, the VIRNUC_* environment variables and settings.toml in the home folder",
            ) from error

    @property
    def compute(self) -> dict[str, Any]:
        """How shards are computed, by the names of `ComputeChoices`."""
        return {name: getattr(self, name) for name in ComputeChoices.model_fields}

    def options(self, level: Level = Level.LOAD) -> ComputeOptions:
        """Return how shards are computed, as the stages take it; `level` is how much of their inputs is checked."""
        return ComputeOptions(**self.compute, level=level)

    @property
    def store(self) -> Path | str:
        """The checkpoint store: a folder, or the URL of an object store."""
        if "://" in self.store_at:
            return self.store_at.rstrip("/")
        return Path(self.store_at).expanduser().absolute() if self.store_at else self.home / "store"

    @property
    def inbox(self) -> Path:
        """Folder that new sequence files are dropped into."""
        return self.home / "inbox"

    @property
    def reports(self) -> Path:
        """Folder with one report folder a batch."""
        return self.home / "reports"

    @property
    def logs(self) -> Path:
        """Folder of the journal, see `journal`."""
        return self.home / "logs"

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance: runs, events, logs."""
        return self.home / "dagster"
