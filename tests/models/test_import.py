"""Published weights become a bundle, and hostile files become errors: nothing in a file is ever executed."""

import argparse
import json
import pickle
import re
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from virnuc_dagster.classify.head import Head
from virnuc_dagster.cli import main
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Encoder, Esm2Model
from virnuc_dagster.embedding.runner import embed
from virnuc_dagster.errors import BundleError
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.models.published import read_fair_esm, read_head

CPU = torch.device("cpu")
WIDTH, LAYERS, HEADS, DNA_WIDTH = 16, 2, 2, 96
ESM2_CONFIG = Esm2Config(WIDTH, LAYERS, HEADS, 4 * WIDTH)


class MLPClassifier(nn.Module):
    """The published class, as far as its pickle goes."""

    def __init__(self, features: int = DNA_WIDTH + WIDTH, hidden: int = 8) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(features, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(0.5)
        self.output_layer = nn.Linear(hidden, 2)


@pytest.fixture
def published_head(tmp_path, monkeypatch) -> Path:
    """`500_model.pth`: the whole module, its class in `__main__`."""
    monkeypatch.setattr(sys.modules["__main__"], "MLPClassifier", MLPClassifier, raising=False)
    monkeypatch.setattr(MLPClassifier, "__module__", "__main__")
    path = tmp_path / "500_model.pth"
    torch.manual_seed(0)
    torch.save(MLPClassifier(), path)
    return path


@pytest.fixture
def esm2_folder(tmp_path) -> Path:
    folder = tmp_path / "esm2"
    folder.mkdir()
    torch.manual_seed(0)
    state = {f"esm.{name}": tensor for name, tensor in Esm2Model(ESM2_CONFIG).published_state().items()}
    save_file(state | {"lm_head.bias": torch.zeros(33)}, folder / "model.safetensors")
    config = vars(ESM2_CONFIG) | {"model_type": "esm", "position_embedding_type": "rotary", "hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def dnabert_s_folder(tmp_path, shared) -> Path:
    """As published: `pytorch_model.bin`, config and tokeniser."""
    from safetensors.torch import load_file

    folder = tmp_path / "dnabert_s"
    folder.mkdir()
    golden = shared / "golden/dnabert_s_tiny"
    torch.save(
        {f"bert.{n}": t for n, t in load_file(golden / "model.safetensors").items()}, folder / "pytorch_model.bin"
    )
    (folder / "config.json").write_bytes((golden / "config.json").read_bytes())
    (folder / "tokenizer.json").write_bytes((shared / "dnabert2_tokenizer/tokenizer.json").read_bytes())
    return folder


def command(dnabert_s: object, esm2: object, head: object, output: Path, window: str = "500") -> list[str]:
    parts = ["--dnabert-s", str(dnabert_s), "--esm2", str(esm2), "--head", str(head)]
    return ["models", "import", *parts, "--window-length", window, "--output", str(output)]


def test_published_parts_become_a_bundle(dnabert_s_folder, esm2_folder, published_head, tmp_path, capsys):
    output = tmp_path / "bundle"

    assert main(command(dnabert_s_folder, esm2_folder, published_head, output)) == 0
    assert main(["models", "verify", str(output)]) == 0
    assert main(["models", "show", str(output), "--json"]) == 0

    spec = open_bundle(str(output)).spec
    assert "warning" not in capsys.readouterr().err
    assert ([of.dim for of in spec.encoders], spec.window_length) == ([DNA_WIDTH, WIDTH], 500)
    assert spec.golden is not None
    assert not list(tmp_path.glob(".bundle-*"))


def test_a_window_length_that_contradicts_the_file_name_is_said(
    dnabert_s_folder, esm2_folder, published_head, tmp_path, capsys
):
    assert main(command(dnabert_s_folder, esm2_folder, published_head, tmp_path / "b", "300")) == 0

    assert "named for windows of 500" in capsys.readouterr().err


def test_verify_notices_a_changed_file(dnabert_s_folder, esm2_folder, published_head, tmp_path, capsys):
    output = tmp_path / "bundle"
    main(command(dnabert_s_folder, esm2_folder, published_head, output))
    content = bytearray((output / "esm2.safetensors").read_bytes())
    content[-1] ^= 1
    (output / "esm2.safetensors").write_bytes(content)

    assert main(["models", "verify", str(output)]) == 1
    assert "esm2.safetensors has sha256" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["missing", "unknown", "misshapen"])
def test_weights_that_do_not_fit_leave_no_bundle(change, dnabert_s_folder, esm2_folder, published_head, tmp_path):
    state = Esm2Model(ESM2_CONFIG).published_state()
    name = "encoder.layer.1.output.dense.weight"
    if change != "unknown":
        tensor = state.pop(name)
    if change == "misshapen":
        state[name] = tensor[:3].clone()
    if change == "unknown":
        state["encoder.layer.7.output.dense.weight"] = torch.zeros(2)
    save_file(state, esm2_folder / "model.safetensors")

    assert main(command(dnabert_s_folder, esm2_folder, published_head, tmp_path / "bundle")) == 1
    assert not (tmp_path / "bundle").exists()
    assert not list(tmp_path.glob(".bundle-*"))


def test_a_hub_id_offline_says_what_to_do(dnabert_s_folder, published_head, tmp_path, capsys, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    assert main(command(dnabert_s_folder, "nobody/no-such-model", published_head, tmp_path / "b")) == 1

    error = capsys.readouterr().err
    assert "nobody/no-such-model" in error
    assert "hf download" in error
    assert "Traceback" not in error


def test_a_fair_esm_file_gives_the_embeddings_of_fair_esm(tmp_path):
    esm = pytest.importorskip("esm")
    torch.manual_seed(1)
    model = esm.ESM2(LAYERS, WIDTH, HEADS, alphabet="ESM-1b").eval()
    settings = argparse.Namespace(
        encoder_layers=LAYERS, encoder_embed_dim=WIDTH, encoder_attention_heads=HEADS, token_dropout=True
    )
    state = {re.sub(r"^(?!lm_head)", "encoder.sentence_encoder.", n): t for n, t in model.state_dict().items()}
    path = tmp_path / "esm2_t2_tiny.pt"
    torch.save({"cfg": {"model": settings}, "model": state}, path)
    protein = "MKTAYIAKQRLV"

    config, weights = read_fair_esm(path)
    own = Esm2Model(Esm2Config.from_dict(config))
    own.load_published(weights)

    found = embed(Esm2Encoder(own.pack(torch.float32, CPU), "t", CPU), ["a"], [protein], token_budget=99)[0]
    _, _, tokens = model.alphabet.get_batch_converter()([("", protein)])
    with torch.no_grad():
        expected = model(tokens, repr_layers=[LAYERS])["representations"][LAYERS][0, 1:-1].mean(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_the_pickled_head_and_its_state_dict_are_the_same(published_head, tmp_path):
    torch.manual_seed(0)
    plain = MLPClassifier().state_dict()
    torch.save(plain, tmp_path / "state.pth")

    pickled, from_dict = read_head(published_head), read_head(tmp_path / "state.pth")

    assert pickled.keys() == from_dict.keys() == plain.keys()
    assert all(torch.equal(pickled[name], plain[name]) for name in plain)
    Head(DNA_WIDTH + WIDTH, 8).load_state_dict(pickled, strict=True)


CANARY = "canary-was-here"
PYTHON = f"open({CANARY!r}, 'w').close()"
SHELL = f"touch {CANARY}"


def raw(module: str, name: str, argument: str) -> bytes:
    """A protocol-2 pickle that calls module.name(argument)."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + len(argument).to_bytes(4, "little") + (
        argument.encode() + b"\x85R."
    )  # fmt: skip


def behind_a_classifier(call: bytes) -> bytes:
    """The call hidden in the attributes of the one class that is expected."""
    return b"\x80\x02c__main__\nMLPClassifier\n)\x81}X\x01\x00\x00\x00a" + call[2:-1] + b"sb."


HOSTILE = {
    "os.system": raw("os", "system", SHELL),
    "posix.system": raw("posix", "system", SHELL),
    "builtins.eval": raw("builtins", "eval", PYTHON),
    "builtins.exec": raw("builtins", "exec", PYTHON),
    "__builtin__.eval (python 2 name)": raw("__builtin__", "eval", PYTHON),
    "subprocess.getoutput": raw("subprocess", "getoutput", SHELL),
    "runpy.run_path": raw("runpy", "run_path", "evil.py"),
    "torch.load": raw("torch", "load", "evil.pth"),
    "torch.hub.load": raw("torch.hub", "load", "evil"),
    "importlib.import_module": raw("importlib", "import_module", "evil"),
    "attribute of a class": raw("builtins", "getattr", "evil"),
    "timeit of code": raw("timeit", "timeit", PYTHON),
    "hidden in the classifier": behind_a_classifier(raw("os", "system", SHELL)),
    "eval hidden in the classifier": behind_a_classifier(raw("builtins", "eval", PYTHON)),
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(SHELL)]) + SHELL.encode() + b"\x85R.",
    "INST": b"(S'" + SHELL.encode() + b"'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'" + SHELL.encode() + b"'\no.",
}


def hostile_file(path: Path, content: bytes, *, zipped: bool) -> Path:
    """The pickle as torch.save would store it, in a zip, or as a bare pickle."""
    if not zipped:
        path.write_bytes(content)
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_head_is_refused_and_runs_nothing(name, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(PYTHON)
    monkeypatch.syspath_prepend(tmp_path)
    path = hostile_file(tmp_path / "500_model.pth", HOSTILE[name], zipped=zipped)

    with pytest.raises(BundleError, match="was not read"):
        read_head(path)

    assert not (tmp_path / CANARY).exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "STACK_GLOBAL", "OBJ"])
def test_the_canary_sings_where_pickles_are_run(name, tmp_path, monkeypatch):
    """The hostile files are really hostile: the standard unpickler runs them."""
    monkeypatch.chdir(tmp_path)

    pickle.loads(HOSTILE[name])

    assert (tmp_path / CANARY).exists()


def test_the_allow_list_ends_with_the_file(published_head):
    before = set(torch.serialization.get_safe_globals())

    read_head(published_head)

    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(published_head, weights_only=True)


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"not a model"])
def test_a_broken_head_is_an_error_with_a_hint(content, tmp_path):
    (tmp_path / "500_model.pth").write_bytes(content)

    with pytest.raises(BundleError) as caught:
        read_head(tmp_path / "500_model.pth")

    assert caught.value.hint
