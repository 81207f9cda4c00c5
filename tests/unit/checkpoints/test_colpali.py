"""colpali-engine's folders: names of all its releases, adapters, and what is broken or missing.

The folders are made by hand with the names that its versions wrote; against the library itself
they are compared in tests/parity/test_vlm_engine.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lateint.checkpoints
from lateint.checkpoints.retrieval import MODELS
from lateint.config import ConfigError
from modalities.vlm_families import FAMILIES
from tests.tiny_vlm import engine_encoder, transformers_model

QUERIES = ["loss goes up", "who wrote this?"]
Named = Callable[[str], str]


def prefixed(prefix: str, projection: str) -> Named:
    return lambda name: (
        name.replace("projection.", projection, 1)
        if name.startswith("projection.")
        else prefix + name.removeprefix("backbone.")
    )


def old_qwen(name: str) -> str:
    """Before transformers 4.52 the language model was `model`."""
    name = prefixed("", "custom_text_proj.")(name)
    return name.replace("language_model.", "model.", 1)


def old_paligemma(name: str) -> str:
    name = prefixed("model.", "custom_text_proj.")(name)
    return name.replace("model.language_model.", "model.language_model.model.", 1)


WRITTEN: list[tuple[str, Named]] = [
    ("engine-colpali", old_paligemma),
    ("engine-colpali", prefixed("model.model.", "custom_text_proj.")),
    ("engine-colqwen2", prefixed("", "custom_text_proj.")),
    ("engine-colqwen2", old_qwen),
    ("engine-colqwen2.5", prefixed("model.", "model.custom_text_proj.")),
    ("engine-colqwen3", prefixed("model.", "model.custom_text_proj.")),
    ("engine-colidefics3", prefixed("model.", "linear.")),
    (
        "engine-colmodernvbert",
        prefixed("base_model.model.model.", "base_model.model.custom_text_proj."),
    ),
    ("engine-colqwen-omni", prefixed("model.", "custom_text_proj.")),
]


def put(folder: Path, encoder: Any, named: Named) -> Path:
    """A merged model as colpali-engine saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.backbone.config.architectures = [encoder.family.engine]
    encoder.backbone.config.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    weights = {named(name): w.clone() for name, w in encoder.state_dict().items()}
    weights["lm_head.weight"] = torch.zeros(3, 3)  # known, and dropped
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def queries(encoder: Any) -> torch.Tensor:
    with torch.inference_mode():
        grid = encoder(encoder.prepare(QUERIES, "query"))
    rows: torch.Tensor = torch.nn.functional.normalize(grid.tokens[grid.mask], dim=-1)
    return rows


@pytest.mark.parametrize(("family", "named"), WRITTEN)
def test_merged_models_open_whatever_their_weights_are_called(
    family: str, named: Named, tmp_path: Path
) -> None:
    encoder = engine_encoder(family)
    model = lateint.checkpoints.load(put(tmp_path / "m", encoder, named))
    assert model.encoder("page") is model.encoder("text")
    assert model.encoder("page").config()["family"] == family
    torch.testing.assert_close(model.encode_queries(QUERIES).values, queries(encoder))
    model.save(tmp_path / "ours")
    again = lateint.checkpoints.load(tmp_path / "ours")
    torch.testing.assert_close(again.encode_queries(QUERIES).values, queries(encoder))


@pytest.fixture
def base(tmp_path: Path) -> tuple[Any, Path]:
    encoder = engine_encoder("engine-colqwen2")
    return encoder, put(tmp_path / "base", encoder, prefixed("", "custom_text_proj."))


def adapter(folder: Path, base: Path, encoder: Any, **options: Any) -> torch.Tensor:
    """An adapter that peft itself makes and merges; gives what the merged model says."""
    from peft import LoraConfig, get_peft_model

    class Whole(torch.nn.Module):  # modules under the names that colpali-engine has them under
        def __init__(self) -> None:
            super().__init__()
            self.language_model = encoder.backbone.language_model
            self.visual = encoder.backbone.visual
            self.custom_text_proj = encoder.projection

    chosen = {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "down_proj", "custom_text_proj"],
    }
    adapted = get_peft_model(Whole(), LoraConfig(**{**chosen, **options}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    adapted.save_pretrained(folder)
    facts = json.loads((folder / "adapter_config.json").read_text())
    put_json(folder / "adapter_config.json", {**facts, "base_model_name_or_path": str(base)})
    merged = adapted.merge_and_unload()
    encoder.backbone.language_model, encoder.backbone.visual = merged.language_model, merged.visual
    encoder.projection = merged.custom_text_proj
    return queries(encoder)


def put_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
        {"target_modules": ["v_proj"], "modules_to_save": ["custom_text_proj"]},
    ],
    ids=["plain", "patterns", "whole projection"],
)
def test_adapters_merge_as_peft_does(
    base: tuple[Any, Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    encoder, folder = base
    before = queries(encoder)
    wanted = adapter(tmp_path / "lora", folder, encoder, **options)
    assert float((wanted - before).abs().max()) > 0.01
    model = lateint.checkpoints.load(tmp_path / "lora")
    torch.testing.assert_close(model.encode_queries(QUERIES).values, wanted, atol=1e-5, rtol=0)


def test_an_adapter_that_is_not_whole_is_an_error(base: tuple[Any, Path], tmp_path: Path) -> None:
    encoder, folder = base
    lora = tmp_path / "lora"
    adapter(lora, folder, encoder)
    parts = load_file(lora / "adapter_model.safetensors")
    name = next(n for n in parts if "layers.1.self_attn.q_proj.lora_A" in n)

    def refused(match: str, change: dict[str, Any], drop: str = "") -> None:
        kept = {n: w for n, w in {**parts, **change}.items() if not drop or drop not in n}
        save_file({n: w.clone() for n, w in kept.items()}, lora / "adapter_model.safetensors")
        with pytest.raises(ConfigError, match=match):
            lateint.checkpoints.load(lora)

    refused("lora_A of .* is missing", {}, drop=name)
    refused("but for other layers", {}, drop="layers.1.self_attn.q_proj")
    refused("no adapter weights for 'q_proj', which is a target", {}, drop="q_proj")
    refused("has no place in the base", {name.replace("layers.1", "layers.7"): parts[name]})
    refused("of rank 2", {name: parts[name][:2], name.replace("_A", "_B"): torch.zeros(32, 2)})
    refused("the base has", {name: torch.zeros(4, 5)})
    save_file(parts, lora / "adapter_model.safetensors")
    facts = json.loads((lora / "adapter_config.json").read_text())
    for changed, match in (
        ({"use_dora": True}, "use_dora"),
        ({"r": "4"}, "wanted above 0"),
        ({"rank_pattern": {"(a+)+$": 2}}, "wanted names alone"),
        ({"base_model_name_or_path": str(tmp_path / "gone")}, "base model"),
        ({"base_model_name_or_path": None}, "names no base"),
    ):
        put_json(lora / "adapter_config.json", {**facts, **changed})
        with pytest.raises(ConfigError, match=match):
            lateint.checkpoints.load(lora)
    model = lateint.checkpoints.load(lora, base=str(folder))  # the caller knows better
    assert len(model.encode_queries(QUERIES)) == 2


def test_broken_and_hostile_folders(base: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = base
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    weights = load_file(path)
    projection = {n: w for n, w in weights.items() if n.startswith("custom_text_proj.")}
    some = "language_model.layers.0.self_attn.q_proj.weight"

    def refused(match: str, given: dict[str, Any]) -> None:
        save_file({n: w.clone() for n, w in given.items()}, path)
        with pytest.raises(ConfigError, match=match):
            lateint.checkpoints.load(folder)

    refused("no projection", {n: w for n, w in weights.items() if n not in projection})
    refused(f"missing: '{some}'", {n: w for n, w in weights.items() if n != some})
    refused("unexpected: 'odd'", {**weights, "odd": torch.zeros(2)})
    refused("configuration says", {**weights, some: torch.zeros(4, 4)})
    refused("two weights", {**weights, f"model.{some}": weights[some]})
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="truncated"):
        lateint.checkpoints.load(folder)
    path.unlink()
    with pytest.raises(ConfigError, match="no weights"):
        lateint.checkpoints.load(folder)
    save_file(weights, tmp_path / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    put_json(index, {"weight_map": dict.fromkeys(weights, "../outside.safetensors")})
    with pytest.raises(ConfigError, match="no name of a file"):
        lateint.checkpoints.load(folder)
    save_file(weights, folder / "part.safetensors")
    put_json(
        index,
        {"weight_map": {**dict.fromkeys(weights, "part.safetensors"), "more": "part.safetensors"}},
    )
    with pytest.raises(ConfigError, match="no file has: 'more'"):
        lateint.checkpoints.load(folder)
    put_json(index, {"weight_map": dict.fromkeys(weights, "part.safetensors")})
    assert lateint.checkpoints.load(folder).dim == 16
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = 10**12  # 128 TB, were it made before it is compared
    put_json(folder / "config.json", config)
    with pytest.raises(ConfigError, match="configuration says"):
        lateint.checkpoints.load(folder)


def test_transformers_models_with_weights_missing_left_over_or_broken(tmp_path: Path) -> None:
    model, processor = transformers_model("colqwen2")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole, weights = path.read_bytes(), load_file(path)
    head = {n: w for n, w in weights.items() if "embedding_proj_layer" in n}
    assert head

    def refused(match: str, given: dict[str, Any]) -> None:
        save_file(given, path, metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=match):
            lateint.checkpoints.load(tmp_path)

    refused("missing: .*embedding_proj", {n: w for n, w in weights.items() if n not in head})
    refused("unexpected: .*odd", {**weights, "odd": torch.zeros(2)})
    name = next(n for n in head if n.endswith("weight"))
    refused("cannot be read|another shape", {**weights, name: torch.zeros(3, 3)})
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="cannot be read"):
        lateint.checkpoints.load(tmp_path)
    path.write_bytes(whole)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ConfigError, match="cannot be read"):
        lateint.checkpoints.load(tmp_path)


def test_what_transformers_cannot_express_is_not_written(tmp_path: Path) -> None:
    def refused(model: Any, match: str) -> None:
        with pytest.raises(ConfigError, match=match):
            lateint.checkpoints.save(model, tmp_path / "out", "transformers")
        assert not (tmp_path / "out").exists()

    model = lateint.LateInteractionModel
    other = engine_encoder("engine-colqwen2")
    refused(model({"page": other, "text": other}, ("multi",)), "prompts and positions")
    few = engine_encoder("engine-colmodernvbert", tokens="patches")
    refused(model({"page": few}, ("multi",)), "keep them all")
    whole = engine_encoder("engine-colmodernvbert")
    refused(model({"page": whole}, ("multi", "single")), "cannot express head 'single'")
    refused(lateint.load(), "one vision-language encoder")


def test_every_row_is_known_to_a_loader() -> None:
    assert {row.retrieval for row in FAMILIES.values()} - {""} == set(MODELS)
    types = [kind for row in FAMILIES.values() if row.engine for kind in row.backbones]
    assert len(types) == len(set(types))  # a backbone's type tells the family
