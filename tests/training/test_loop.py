import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from kits.training import records, tiny_options

from virnuc_dagster.progress import Progress
from virnuc_dagster.training.data import Data, fingerprint
from virnuc_dagster.training.frames import frames_of
from virnuc_dagster.training.loop import OtherTrainingError, StoppedError, Task, Training, train_member
from virnuc_dagster.training.networks import MEMBERS, PARTS


def task(folder: Path, part: str = "dnabert_s", *, steps: int = 60, seed: int = 1) -> Task:
    data, options = Data.of(records(), 1, 500), tiny_options(steps, seed)
    fit, dev = frames_of(data.fit, 500), frames_of(data.dev, 500)
    kinds = np.unique([r.kind for r in data.fit], return_inverse=True)[1][fit.record]
    name = fingerprint(data, options)
    return Task(part, options.recipes[part], seed, fit, kinds, dev, name, folder / f"{part}.pt")


def trained(training: Training) -> dict[str, torch.Tensor]:
    return train_member(training, progress=Progress(), stop=threading.Event()).state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("part", PARTS)
def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path, part):
    first, again, other = (trained(Training(task(tmp_path, part, seed=seed))) for seed in (1, 1, 2))

    assert equal(first, again)
    assert not equal(first, other)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("stopped_at", [1, 20, 33, 59])
def test_a_stopped_training_goes_on_to_the_weights_of_an_unbroken_one(tmp_path, part, stopped_at):
    unbroken = trained(Training(task(tmp_path, part)))
    (tmp_path / f"{part}.pt").unlink()
    stop = threading.Event()

    class StopThere(Progress):
        steps = 0

        def advance(self, stage: str, done: int) -> None:
            self.steps += done
            if self.steps == stopped_at:
                stop.set()

    with pytest.raises(StoppedError, match="stopped"):
        train_member(Training(task(tmp_path, part)), progress=StopThere(), stop=stop)
    resumed = Training(task(tmp_path, part))
    resumed.restore()

    assert resumed.step == stopped_at
    assert equal(trained(resumed), unbroken)


def test_the_best_weights_are_kept_not_the_last(tmp_path):
    training = Training(task(tmp_path))
    best = trained(training)
    with torch.no_grad():  # what comes after is worse
        training.average.module.head.output_layer.weight.neg_()
    training.step += 1
    training._look()

    assert training.curve[-1]["dev_loss"] > min(entry["dev_loss"] for entry in training.curve)
    assert equal(training.best, best)
    assert equal(trained(training), best)


def test_training_ends_early_when_dev_gets_no_better(tmp_path):
    training = Training(task(tmp_path, steps=10_000))
    training.curve = [{"step": 20 * i, "dev_loss": 0.5 + 0.01 * i} for i in range(training.task.recipe.patience + 1)]

    assert training.is_done
    training.curve[-1]["dev_loss"] = 0.1
    assert not training.is_done


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: b"",
        lambda state: b"no archive",
        lambda state: state[:-1],
        *(lambda state, at=at: state[:at] + bytes([state[at] ^ 1]) + state[at + 1 :] for at in (0, 500, 20_000, -9)),
    ],
)
def test_a_damaged_state_is_refused_by_name(tmp_path, damage):
    """Torch itself loads a state with a flipped bit, and training would go on from other weights."""
    Training(task(tmp_path)).save()
    state = tmp_path / "dnabert_s.pt"
    state.write_bytes(damage(state.read_bytes()[:]))

    with pytest.raises(OtherTrainingError, match="is damaged") as caught:
        Training(task(tmp_path)).restore()

    assert "move the folder" in caught.value.hint


def test_the_state_of_other_options_is_refused(tmp_path):
    Training(task(tmp_path)).save()

    with pytest.raises(OtherTrainingError, match="other data or options"):
        Training(task(tmp_path, seed=2)).restore()


@pytest.mark.parametrize("part", PARTS)
def test_the_encoder_of_the_bundle_gives_what_the_trained_one_gives(tmp_path, part):
    training = Training(task(tmp_path, part))
    member = training.network.eval()
    frames = training.task.dev
    codes = frames.codons if part == "dnabert_s" else frames.residues
    row = torch.from_numpy(codes[: frames.length[0]]).long()[None]

    encoder = member.as_encoder()
    text = (frames.nucleotide if part == "dnabert_s" else frames.protein)[0]
    tokens = torch.tensor(encoder.tokenize([text]))

    assert tokens.tolist() == member.tokens(row).tolist()
    with torch.inference_mode():
        torch.testing.assert_close(encoder.pool(tokens), member.pool(member.encoder(tokens)), atol=1e-5, rtol=1e-4)
    assert type(MEMBERS[part](member.size, 4)) is type(member)


#: Killed after as many saved states as the last argument says; 0 for not at all.
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from kits import training as training_kit
from virnuc_dagster.progress import Progress
from virnuc_dagster.training import loop
from virnuc_dagster.training.run import Wanted, train_all

left, write_atomic = [int(sys.argv[3])], loop.write_atomic

def write_and_die(*arguments):
    write_atomic(*arguments)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

loop.write_atomic = write_and_die
train_all(training_kit.records(), training_kit.tiny_options(160), Wanted(Path(sys.argv[2]), "test"), Progress())
"""


def test_a_killed_training_ends_with_the_same_bundle(tmp_path):
    """SIGKILL, not a request to stop; then the same call again."""

    def run(name: str, states: int, code: int = 0) -> Path:
        output = tmp_path / name / "bundle"
        command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(output), str(states)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return output

    unbroken = run("unbroken", 0)
    killed = run("killed", 2, -signal.SIGKILL)
    state = killed.parent / ".bundle.training" / "dnabert_s.pt"
    assert state.exists()
    assert not killed.exists()
    run("killed", 0)

    files = sorted(path.name for path in unbroken.iterdir())
    assert files == sorted(path.name for path in killed.iterdir())
    for name in files:
        assert (unbroken / name).read_bytes() == (killed / name).read_bytes(), name
    assert json.loads((killed / "bundle.json").read_text())["training"]["val"]["open_windows"]["n"] > 0
    assert not state.parent.exists(), "the states go when the bundle is whole"
