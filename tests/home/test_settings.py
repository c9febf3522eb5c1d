import pytest

from virnuc_dagster.errors import SettingsError
from virnuc_dagster.home.settings import Settings


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path, monkeypatch):
    (tmp_path / "settings.toml").write_text('shard_size = 5\nbundle = "file"\ndevice = "cpu"\n')
    monkeypatch.setenv("VIRNUC_SHARD_SIZE", "6")
    monkeypatch.setenv("VIRNUC_BUNDLE", "environment")

    settings = Settings.read(home=tmp_path, shard_size=7, bundle=None)

    assert (settings.shard_size, settings.bundle, settings.device) == (7, "environment", "cpu")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"shard_size": 0}, "shard_size"),
        ({"device": "gpu"}, "device"),
        ({"precision": "int4"}, "precision"),
        ({"threads": -1}, "threads"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_impossible_settings_are_refused_by_name(flags, named):
    with pytest.raises(SettingsError, match=named) as caught:
        Settings.read(**flags)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("shard_size = ", "not TOML"),
        ('backfill_cron = "61 2 * * *"', "backfill_cron: not a cron expression"),
        ('audit_cron = "0 4 * * caturday"', "audit_cron: not a cron expression"),
        ('webhook = "hooks.example/secret-token"', "webhook: not an http or https address"),
        ('devise = "cpu"', "devise: no such setting; did you mean device?"),
        ('VIRNUC_DEVICE = "cpu"', "VIRNUC_DEVICE: no such setting; did you mean device?"),
        ("zzz = 1", "zzz: no such setting\n"),
    ],
)
def test_a_mistake_in_the_file_is_said_before_anything_starts(tmp_path, line, named):
    (tmp_path / "settings.toml").write_text(line)
    with pytest.raises(SettingsError) as caught:
        Settings.read(home=tmp_path)
    assert named in str(caught.value)
    assert "secret-token" not in str(caught.value)


def test_a_home_is_not_chosen_by_a_file_that_lies_in_one(tmp_path):
    (tmp_path / "settings.toml").write_text('home = "/elsewhere"\n')
    with pytest.raises(SettingsError, match="names a home, but lies in one"):
        Settings.read(home=tmp_path)


def test_the_settings_of_a_home_below_ones_own_folder_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VIRNUC_HOME", "~/virnuc")
    (tmp_path / "virnuc").mkdir()
    (tmp_path / "virnuc" / "settings.toml").write_text("threads = 7\n")
    assert (Settings.read().threads, Settings.read().home) == (7, tmp_path / "virnuc")


def test_an_empty_variable_counts_as_not_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("VIRNUC_HOME", "VIRNUC_STORE", "VIRNUC_BUNDLE", "VIRNUC_THREADS"):
        monkeypatch.setenv(name, "")

    assert Settings.read() == Settings(home=tmp_path / ".virnuc")
