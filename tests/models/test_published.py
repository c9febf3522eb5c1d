"""Published encoders, by whatever names and in whatever files a version of transformers wrote them, are one encoder."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSModel
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Model, tokenize_protein
from virnuc_dagster.errors import BundleError
from virnuc_dagster.models.esm_names import esm_names
from virnuc_dagster.models.published import read_encoder_folder

SIZES = Esm2Config(16, 2, 2, 64)
DNA_SIZES = DnabertSConfig(20, 24, 2, 3, 16)
FREQUENCIES = torch.zeros(4)
HEADS = {"contact_head.regression.weight": torch.zeros(1, 4), "pooler.dense.bias": torch.zeros(16)}
LM_HEAD = {"lm_head.bias": torch.zeros(33), "lm_head.dense.weight": torch.zeros(16, 16)}
State = dict[str, torch.Tensor]


def weights() -> State:
    torch.manual_seed(0)
    return Esm2Model(SIZES).published_state()


def of_version_4(state: State) -> State:
    """`EsmModel.save_pretrained` of transformers 4.50."""
    rotary = {f"encoder.layer.{i}.attention.self.rotary_embeddings.inv_freq": FREQUENCIES.clone() for i in (0, 1)}
    return state | HEADS | rotary | {"embeddings.position_embeddings.weight": torch.zeros(1026, 16)}


def of_version_5(state: State) -> State:
    """`EsmModel.save_pretrained` of transformers 5.23: the norms of the layers have other names than the last one."""
    parts = {"weight": "gamma", "bias": "beta"}
    named = {re.sub(r"(LayerNorm)\.(\w+)$", lambda m: f"{m[1]}.{parts[m[2]]}", n): t for n, t in state.items()}
    return named | HEADS | {"encoder.layer.*.attention.self.rotary_embeddings.inv_freq": FREQUENCIES}


def masked(state: State) -> State:
    """As `EsmForMaskedLM` writes it."""
    return {f"esm.{name}": tensor for name, tensor in state.items()} | LM_HEAD


def write(folder: Path, state: State, kind: str = "whole", config: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    config = config or vars(SIZES) | {"model_type": "esm", "position_embedding_type": "rotary", "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config))
    ending, save_to = ("bin", torch.save) if "bin" in kind else ("safetensors", save_file)
    stem = "pytorch_model" if ending == "bin" else "model"
    if "sharded" not in kind:
        save_to(state, folder / f"{stem}.{ending}")
        return folder
    names = {name: f"{stem}-{i % 3 + 1:05}-of-00003.{ending}" for i, name in enumerate(state)}
    for file in set(names.values()):
        save_to({name: state[name] for name in names if names[name] == file}, folder / file)
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def load(folder: Path) -> Esm2Model:
    config, state = read_encoder_folder(folder)
    model = Esm2Model(Esm2Config.from_dict(config))
    model.load_published(esm_names(SIZES, state))
    return model


CASES = {
    "4.x": (of_version_4, "whole"),
    "4.x in shards": (of_version_4, "sharded"),
    "4.x bin": (of_version_4, "bin"),
    "4.x bin in shards": (of_version_4, "sharded bin"),
    "4.x masked": (lambda state: masked(of_version_4(state)), "whole"),
    "5.x": (of_version_5, "whole"),
    "5.x in shards": (of_version_5, "sharded"),
    "5.x masked": (lambda state: masked(of_version_5(state)), "sharded"),
    "neither heads nor buffers": (lambda state: state, "whole"),
}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_an_esm2_folder_of_any_version_gives_the_same_file(case, precision, tmp_path):
    as_written, kind = CASES[case]
    stored = {name: tensor.to(precision) for name, tensor in weights().items()}

    found = load(write(tmp_path / "esm2", as_written(stored), kind)).published_state()

    assert save(found) == save({name: tensor.float() for name, tensor in stored.items()})


@pytest.mark.parametrize("shard_size", ["1GB", "10KB"])
@pytest.mark.parametrize("kind", ["EsmModel", "EsmForMaskedLM"])
def test_what_the_installed_transformers_saves_computes_what_it_computes(kind, shard_size, tmp_path):
    import transformers

    torch.manual_seed(1)
    sizes = vars(SIZES) | {"position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 32}
    published = getattr(transformers, kind)(transformers.EsmConfig(**sizes)).eval()
    for parameter in published.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    published.save_pretrained(tmp_path / "esm2", max_shard_size=shard_size)
    tokens = torch.tensor([tokenize_protein("MKTAYIAKQR")])

    found = load(tmp_path / "esm2")(tokens)

    expected = published.base_model(tokens)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


NORM = "encoder.layer.1.attention.LayerNorm"
FAULTS = {  # what is wrong with a folder -> what the error must name
    "lost": (lambda s: {n: t for n, t in s.items() if n != f"{NORM}.gamma"}, rf"missing {NORM}\.weight"),
    "misshapen": (lambda s: s | {f"{NORM}.gamma": torch.ones(3)}, rf"{NORM}\.weight is \(3,\), expected \(16,\)"),
    "unknown": (lambda s: s | {"encoder.layer.7.output.dense.bias": torch.ones(16)}, r"unknown encoder\.layer\.7"),
    "a stranger": (lambda s: s | {"trunk.weight": torch.ones(16)}, "unknown trunk.weight"),
    "two names": (lambda s: s | {f"{NORM}.weight": torch.ones(16)}, r"gamma and .*weight are one parameter"),
    "two prefixes": (lambda s: s | {f"esm.{NORM}.beta": torch.ones(16)}, r"are one parameter"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_parameter_is_there_once_and_nothing_else(fault, tmp_path):
    change, named = FAULTS[fault]
    folder = write(tmp_path / "esm2", change(of_version_5(weights())))

    with pytest.raises(BundleError, match=named):
        load(folder)


def test_a_shard_that_is_not_there_is_named(tmp_path):
    folder = write(tmp_path / "esm2", weights(), "sharded")
    (folder / "model-00002-of-00003.safetensors").unlink()

    with pytest.raises(BundleError, match=r"lacks 1 of 3 shards: model-00002-of-00003\.safetensors"):
        read_encoder_folder(folder)


def test_an_index_leads_nowhere_else(tmp_path):
    folder = write(tmp_path / "esm2", weights(), "sharded")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other/model.safetensors"}}')

    with pytest.raises(BundleError, match="outside its folder"):
        read_encoder_folder(folder)


def test_other_makings_of_the_model_beside_it_are_not_mixed_in(tmp_path):
    folder = write(tmp_path / "esm2", weights())
    strange = {name: torch.full_like(tensor, 7.0) for name, tensor in weights().items()}
    for name in ("model.fp16.safetensors", "zz_adapter_model.safetensors"):
        save_file(strange, folder / name)

    assert save(load(folder).published_state()) == save(weights())


CANARY = "canary-was-here"


def test_a_folder_that_brings_code_runs_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asking = {"auto_map": {"AutoModel": "evil.Evil"}, "_attn_implementation": "nobody/evil", "quantization_config": {}}
    config = vars(SIZES) | asking | {"attn_implementation": "nobody/evil"}
    folder = write(tmp_path / "esm2", of_version_5(weights()), config=config)
    (folder / "evil.py").write_text(f"open({CANARY!r}, 'w').close()")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "nobody/evil"}')

    assert save(load(folder).published_state()) == save(weights())
    assert not (tmp_path / CANARY).exists()


def dnabert_names(kind: str, state: State) -> State:
    if kind == "with norms as TensorFlow's":
        return {re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", n): t for n, t in state.items()}
    if kind == "MosaicBERT":
        head = {"cls.predictions.decoder.bias": torch.zeros(20), "bert.pooler.dense.bias": torch.zeros(24)}
        return {f"bert.{name}": tensor for name, tensor in state.items()} | head
    return state


@pytest.mark.parametrize("file", ["whole", "sharded", "bin", "sharded bin"])
@pytest.mark.parametrize("kind", ["DNABERT-S", "MosaicBERT", "with norms as TensorFlow's"])
def test_a_dnabert_folder_is_read_and_its_program_is_not_run(kind, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    expected = DnabertSModel(DNA_SIZES).published_state()
    asking = {"auto_map": {"AutoModel": "bert_layers.BertModel"}}
    folder = write(tmp_path / "dna", dnabert_names(kind, expected), file, vars(DNA_SIZES) | asking)
    (folder / "bert_layers.py").write_text(f"open({CANARY!r}, 'w').close()")

    config, state = read_encoder_folder(folder)
    model = DnabertSModel(DnabertSConfig.from_dict(config))
    model.load_published(state)

    assert save(model.published_state()) == save(expected)
    assert not (tmp_path / CANARY).exists()
