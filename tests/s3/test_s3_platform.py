"""The platform on a store on S3: from the inbox to the report, and from a flipped bit back to green."""

import json

import pytest

pytest.importorskip("s3fs", reason="needs the extra [s3]")
from kits.automation import Platform, sequences
from kits.s3 import environment, new_bucket, service
from upath import UPath

from virnuc_dagster.stages.pipeline import SEQUENCES

ESM2 = "esm2_embeddings"


@pytest.fixture
def platform(tmp_path, monkeypatch):
    with service() as port:
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        yield Platform(tmp_path / "home", {"store": new_bucket(port)})


def test_arrivals_audit_and_repair(platform):
    platform.drop("one.fa", sequences(1))
    platform.settle()
    (key,) = platform.store.list(SEQUENCES)
    report = platform.report(key.batch)
    assert json.loads(report["summary.json"])["complete"]
    assert not (platform.home / "store").exists()

    broken = platform.store.list(ESM2)[0]
    stored = UPath(platform.settings.store) / ESM2 / broken.batch / platform.store.record(broken).file
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.write_bytes(bytes(data))
    assert not platform.audit().get_asset_check_evaluations()[-1].passed
    assert platform.store.record(broken) is None, "set aside"
    others = {k: platform.store.record(k).sha256 for k in platform.store.list(ESM2)}

    (request,) = platform.scheduled()
    assert platform.carry_out(request).success
    platform.settle()

    assert platform.store.record(broken) is not None
    assert {k: platform.store.record(k).sha256 for k in others} == others
    assert platform.scheduled() == []
    assert platform.audit().get_asset_check_evaluations()[-1].passed
    assert platform.report(key.batch) == report
