"""Broken and hostile checkpoints: a clear error, nothing run, nothing made up."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import backbone, put, pylate, stanford

import lateint
from lateint.config import ConfigError


class Bomb:
    """A pickle that writes a file when it is loaded by an unguarded reader."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.mark}",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pylate(tmp_path / "m", "bert")
    return tmp_path / "m"


def edit(path: Path, **changes: Any) -> None:
    put(path, {**json.loads(path.read_text()), **changes})


def test_the_bomb_works(tmp_path: Path) -> None:
    """Else the tests below could not fail."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("where", ["1_Dense/pytorch_model.bin", "pytorch_model.bin"])
def test_a_pickle_with_code_is_refused(folder: Path, tmp_path: Path, where: str) -> None:
    path = folder / where
    path.with_name("model.safetensors").unlink()
    torch.save({"linear.weight": Bomb(tmp_path / "mark")}, path)
    with pytest.raises(ConfigError):
        lateint.load(folder)
    assert not (tmp_path / "mark").exists()


def test_a_pickle_with_code_is_refused_of_bge_m3(tmp_path: Path) -> None:
    backbone(tmp_path / "m", "xlmr")
    torch.save({"weight": Bomb(tmp_path / "mark")}, tmp_path / "m" / "colbert_linear.pt")
    with pytest.raises(ConfigError, match=r"colbert_linear\.pt"):
        lateint.load(tmp_path / "m")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("where", ["model.safetensors", "1_Dense/model.safetensors"])
@pytest.mark.parametrize("kept", [0, 7, 200])
def test_truncated_weights(folder: Path, where: str, kept: int) -> None:
    data = (folder / where).read_bytes()
    (folder / where).write_bytes(data[:kept])
    with pytest.raises(ConfigError, match=str(folder)):
        lateint.load(folder)


def test_a_safetensors_header_of_impossible_length(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(b"\xff" * 8 + data[8:])
    with pytest.raises(ConfigError, match=str(folder)):
        lateint.load(folder)


def change(path: Path, **changes: torch.Tensor | None) -> None:
    """None: the weight goes."""
    weights = {**load_file(str(path)), **changes}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, str(path), metadata={"format": "pt"})


NORM = "encoder.layer.1.output.LayerNorm.weight"


@pytest.mark.parametrize(
    "file,changes,match",
    [
        ("1_Dense/model.safetensors", {"linear.weight": torch.zeros(8, 15)}, "linear.weight"),
        ("1_Dense/model.safetensors", {"linear.bias": torch.zeros(8)}, "linear.bias"),
        ("1_Dense/model.safetensors", {"linear.weight": None, "w": torch.zeros(8, 16)}, "0.w"),
        ("model.safetensors", {NORM: None}, NORM),
        ("model.safetensors", {NORM: torch.zeros(17)}, "m"),
        ("model.safetensors", {"adapter.weight": torch.zeros(2)}, "adapter.weight"),
    ],
)
def test_weights_that_do_not_fit(folder: Path, file: str, changes: Any, match: str) -> None:
    change(folder / file, **changes)
    with pytest.raises(ConfigError, match=match):
        lateint.load(folder)


def test_the_pooler_and_heads_of_pretraining_are_dropped(folder: Path) -> None:
    more = {"pooler.dense.weight": torch.zeros(16, 16), "cls.predictions.bias": torch.zeros(3)}
    change(folder / "model.safetensors", **more)
    lateint.load(folder)


def test_stanford_without_its_projection(tmp_path: Path) -> None:
    stanford(tmp_path, "bert")
    change(tmp_path / "model.safetensors", **{"linear.weight": None})
    with pytest.raises(ConfigError, match=r"linear\.weight"):
        lateint.load(tmp_path)


@pytest.mark.parametrize(
    "path",
    ["..", "../../etc", "/etc", "1_Dense/../..", "C:\\x", "a/b", "~", ".", "1_Dense\x00", 7, None],
)
def test_module_paths_out_of_the_folder(folder: Path, tmp_path: Path, path: Any) -> None:
    rows = json.loads((folder / "modules.json").read_text())
    rows[1]["path"] = path
    put(folder / "modules.json", rows)
    with pytest.raises(ConfigError, match="no name of a folder"):
        lateint.load(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/tmp/x", "..", ""])
def test_shards_out_of_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    path = folder / "1_Dense" / "model.safetensors"
    weights = load_file(str(path))
    save_file(weights, str(folder / "outside.safetensors"))
    path.unlink()
    put(path.with_name("model.safetensors.index.json"), {"weight_map": {"linear.weight": name}})
    with pytest.raises(ConfigError, match="no name of a file"):
        lateint.load(folder)


BOMBS = {
    "deep": "[" * 200_000,
    "deep object": '{"a":' * 100_000,
    "huge": '{"a": "' + "x" * 2_000_000 + '"}',
    "number": '{"query_length": ' + "9" * 50_000 + "}",
    "empty": "",
    "bytes": "\x00\x01",
    "list": "[1, 2]",
    "text": '"x"',
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize(
    "where",
    [
        "config.json",
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Dense/config.json",
    ],
)
def test_json_that_is_none_or_too_much(folder: Path, where: str, bomb: str) -> None:
    (folder / where).write_text(BOMBS[bomb])
    with pytest.raises(ConfigError):
        lateint.load(folder)


@pytest.mark.parametrize(
    "changes,match",
    [
        ({"query_length": 10**12}, "query_length"),
        ({"query_length": "32"}, "query_length must be int"),
        ({"query_length": -1}, "query_length"),
        ({"document_length": 4096}, "more than the backbone reads"),
        ({"query_prefix": "[nowhere]"}, "not in the vocabulary"),
        ({"skiplist_words": [1]}, "must be strings"),
        ({"prompts": {"query": 3}}, "prompts"),
        ({"default_prompt_name": "absent"}, "default_prompt_name"),
        ({"do_query_expansion": "yes"}, "do_query_expansion must be bool"),
    ],
)
def test_settings_that_are_wrong(folder: Path, changes: Any, match: str) -> None:
    edit(folder / "config_sentence_transformers.json", **changes)
    with pytest.raises(ConfigError, match=match):
        lateint.load(folder)


@pytest.mark.parametrize(
    "changes,match",
    [
        ({"activation_function": "os.system"}, "os.system"),
        ({"activation_function": "torch.nn.Module"}, "is not run"),
        ({"activation_function": "torch.nn.functional.gelu_"}, "is not run"),
        ({"in_features": 10**15}, "in_features"),
        ({"in_features": 24}, "dense layer 0 wants width 24"),
        ({"in_features": "16"}, "in_features"),
        ({"bias": 1}, "bias must be true or false"),
        ({"code": "x"}, "unknown keys"),
        ({"module_input_name": "a", "module_output_name": "b"}, "writes"),
    ],
)
def test_dense_layers_that_are_wrong(folder: Path, changes: Any, match: str) -> None:
    edit(folder / "1_Dense" / "config.json", **changes)
    with pytest.raises(ConfigError, match=match):
        lateint.load(folder)


@pytest.mark.parametrize("where", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_other_files_that_are_broken(folder: Path, where: str) -> None:
    (folder / where).write_text('{"version": "1.0", "model": {"type": "WordPiece", "vocab": 5')
    with pytest.raises(ConfigError, match=str(folder)):
        lateint.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**7},
        {"num_hidden_layers": 900},
        {"hidden_size": 10**9},
        {"hidden_size": 65536, "intermediate_size": 10**6, "vocab_size": 10**7},
        {"max_position_embeddings": 10**8},
    ],
)
def test_a_configuration_larger_than_its_weights(folder: Path, changes: dict[str, int]) -> None:
    edit(folder / "config.json", **changes)
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"config\.json.*(above|describes)"):
        lateint.load(folder)
    assert time.process_time() - start < 10


def test_code_in_a_checkpoint_is_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: pass\nclass M: pass\n")
    maps = {"AutoConfig": "own.C", "AutoModel": "own.M"}
    edit(folder / "config.json", auto_map=maps, model_type="of-its-own")
    with pytest.raises(ConfigError):
        lateint.load(folder)
    edit(folder / "config.json", model_type="bert")  # the class that transformers has is taken
    lateint.load(folder)
    assert not mark.exists()
