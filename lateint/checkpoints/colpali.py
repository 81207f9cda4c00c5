"""colpali-engine's models, merged or as LoRA adapters over a base, as `LateInteractionModel`s.

Which family a folder is of follows from the backbone's type in config.json; names of weights, of
which every release wrote others, go through the family's row. A projection that is in no file is
an error: that library itself took a random one, silently, until its version 0.3.14.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lateint.checkpoints.backbone import reading
from lateint.checkpoints.layouts import LoadOptions
from lateint.checkpoints.retrieval import page_model
from lateint.checkpoints.weights import check_weights, fill, read_weights
from lateint.config import ConfigError, read_json
from lateint.model import LateInteractionModel
from modalities.vlm_families import FAMILIES, Family
from modalities.vlm_inputs import load_processor

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER = "adapter_config.json"
_PART = re.compile(r"^(?P<module>.+)\.lora_(?P<embeds>embedding_)?(?P<part>[AB])(\.weight)?$")
# What an adapter may ask for beyond W + scale * B A, and its harmless value.
_PLAIN: dict[str, Any] = {"use_dora": False, "lora_bias": False, "fan_in_fan_out": False}


def load(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """A merged model: all weights in one folder.

    Raises ConfigError: a backbone that no family has, files that are broken, weights missing, left
    over or of another shape than config.json says.
    """
    name = _family(folder)
    weights = _renamed(read_weights(folder), FAMILIES[name], folder)
    return _assembled(name, folder, folder, weights, options)


def load_adapter(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """A LoRA adapter, merged into its base: W + scale * B A (Hu et al. 2021, arXiv:2106.09685),
    and whole weights that were trained beside it.

    The base is options.base, else what adapter_config.json names: a folder, or a name on the hub.

    Raises ConfigError: as `load`; a kind of adapter that is not plain LoRA; a weight of the
    adapter that has no place in the base, half a pair, a layer left out.
    """
    from lateint.checkpoints import find

    facts = read_json(folder / ADAPTER)
    if not isinstance(facts, dict) or facts.get("peft_type") != "LORA":
        raise ConfigError(f"{folder / ADAPTER}: wanted an object with peft_type LORA")
    for key, plain in _PLAIN.items():
        if facts.get(key, plain) != plain:
            raise ConfigError(
                f"{folder / ADAPTER}: {key} is {facts[key]!r}: merge it with peft "
                "(merge_and_unload) and load the merged model"
            )
    origin = options.base or facts.get("base_model_name_or_path")
    if not isinstance(origin, str) or not origin:
        raise ConfigError(f"{folder / ADAPTER}: names no base model: give base=...")
    try:
        base = find(origin, options)
    except ConfigError as error:
        raise ConfigError(
            f"{folder}: its base model {origin!r} is not to be had; give base=folder. {error}"
        ) from error
    name = _family(base)
    family = FAMILIES[name]
    weights = _renamed(read_weights(base), family, base)
    parts = read_weights(folder, "adapter_model.safetensors", "adapter_model.bin")
    merge(weights, parts, family, facts, folder)
    reads = folder if (folder / "tokenizer_config.json").is_file() else base
    return _assembled(name, base, reads, weights, options)


def merge(
    weights: dict[str, Tensor],
    parts: Mapping[str, Tensor],
    family: Family,
    facts: Mapping[str, Any],
    where: Path,
) -> None:
    """Puts an adapter into the weights of its base, in place, in float32.

    weights: by the family's names. parts: the adapter's file. facts: its adapter_config.json.
    Raises ConfigError as `load_adapter` says, naming `where`.
    """
    pairs: dict[str, _Pair] = {}
    for key, tensor in parts.items():
        found = _PART.match(key)
        whole = key if found is None else f"{found['module']}.weight"
        name = renamed(whole, family)
        if name is None:
            continue
        if name not in weights and (found or not name.startswith("projection.")):
            raise ConfigError(f"{where}: adapter weight {key!r} has no place in the base")
        if found is None:  # trained as a whole beside the adapter: the projection, biases
            weights[name] = tensor
            continue
        module = found["module"].removeprefix("base_model.model.")
        pair = pairs.setdefault(name, _Pair(module, embeds=found["embeds"] is not None))
        setattr(pair, found["part"].lower(), tensor.float())
    _check_layers(list(pairs), weights, facts, where)
    for name, pair in pairs.items():
        change = pair.change(facts, where)
        if change.shape != weights[name].shape:
            raise ConfigError(
                f"{where}: the adapter of {pair.module!r} makes {tuple(change.shape)}, "
                f"the base has {tuple(weights[name].shape)}"
            )
        weights[name] = weights[name].float() + change


@dataclass
class _Pair:
    """One module's share of an adapter: a (r, in), b (out, r); of an embedding turned round."""

    module: str
    embeds: bool = False
    a: Tensor | None = None
    b: Tensor | None = None

    def change(self, facts: Mapping[str, Any], where: Path) -> Tensor:
        """scale * B A, in the shape of the weight."""
        if self.a is None or self.b is None:
            half = "lora_A" if self.a is None else "lora_B"
            raise ConfigError(f"{where}: {half} of {self.module!r} is missing")
        if self.a.dim() != 2 or self.b.dim() != 2 or len(self.a) != self.b.shape[1]:
            shapes = f"{tuple(self.a.shape)} and {tuple(self.b.shape)}"
            raise ConfigError(f"{where}: lora_A and lora_B of {self.module!r} are {shapes}")
        rank = _number(facts, "r", "rank_pattern", self.module, where)
        if len(self.a) != rank:
            raise ConfigError(
                f"{where}: {self.module!r} is of rank {len(self.a)}, {ADAPTER} says {rank:g}"
            )
        alpha = _number(facts, "lora_alpha", "alpha_pattern", self.module, where)
        scale = alpha / (math.sqrt(rank) if facts.get("use_rslora") else rank)
        change = (self.b @ self.a) * scale
        return change.T if self.embeds else change


def _number(facts: Mapping[str, Any], key: str, exceptions: str, module: str, where: Path) -> float:
    """`r` or `lora_alpha` of a module: its exception, by the end of the module's name, or the
    adapter's own."""
    value = facts.get(key)
    for end, other in (facts.get(exceptions) or {}).items():
        if not re.fullmatch(r"[\w.]+", end):
            raise ConfigError(f"{where / ADAPTER}: {exceptions} has {end!r}; wanted names alone")
        if f".{module}".endswith(f".{end}"):
            value = other
            break
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise ConfigError(f"{where / ADAPTER}: {key} of {module!r} is {value!r}, wanted above 0")
    return float(value)


def _check_layers(
    names: list[str], weights: Mapping[str, Tensor], facts: Mapping[str, Any], where: Path
) -> None:
    """What is adapted in one layer is adapted in all that have it, unless the adapter chose
    layers; and each module that adapter_config.json lists by name is adapted somewhere."""
    listed = facts.get("target_modules")
    for module in listed if isinstance(listed, list) else []:
        if not any(f".{n}".endswith(f".{_last(str(module))}.weight") for n in names):
            if not any(f".{n}".endswith(f".{_last(str(module))}.weight") for n in weights):
                continue  # of another tower, or by the name of another release
            raise ConfigError(f"{where}: no adapter weights for {module!r}, which is a target")
    if facts.get("layers_to_transform") is not None or facts.get("exclude_modules"):
        return
    kinds = {_layer(name) for name in names}
    left_out = sorted(n for n in weights if n not in set(names) and _layer(n) in kinds)
    if left_out:
        raise ConfigError(f"{where}: no adapter weights for {left_out[:6]}, but for other layers")


def _last(module: str) -> str:
    return "projection" if module in ("custom_text_proj", "linear") else module


def _layer(name: str) -> str:
    """A weight's name without the number of its layer."""
    return re.sub(r"\.\d+\.", ".*.", name)


def renamed(name: str, family: Family) -> str | None:
    """A weight's name in the family's own terms; None for one that is known and dropped."""
    for pattern, new in family.renames:
        if new is None:
            if re.search(pattern, name):
                return None
        else:
            name = re.sub(pattern, new, name)
    return name


def _family(folder: Path) -> str:
    """The family of colpali-engine that goes with a backbone, by config.json."""
    data = read_json(folder / "config.json")
    kind = data.get("model_type") if isinstance(data, dict) else None
    known = {b: name for name, row in FAMILIES.items() if row.engine for b in row.backbones}
    if kind not in known:
        raise ConfigError(
            f"{folder / 'config.json'}: no page model stands on a backbone of type {kind!r}; "
            f"known: {sorted(known)}"
        )
    return known[kind]


def _renamed(weights: Mapping[str, Tensor], family: Family, where: Path) -> dict[str, Tensor]:
    """A file's weights by the family's names."""
    found: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name = renamed(key, family)
        if name in found:
            raise ConfigError(f"{where}: two weights are {name!r}, one of them {key!r}")
        if name is not None:
            found[name] = tensor
    return found


def _assembled(
    name: str, folder: Path, reads: Path, weights: dict[str, Tensor], options: LoadOptions
) -> LateInteractionModel:
    """folder: of the backbone's config.json; reads: of the processor."""
    from transformers import AutoConfig, AutoModel

    family, dtype = FAMILIES[name], getattr(torch, options.dtype)
    projection = {
        key.removeprefix("projection."): weights.pop(key)
        for key in list(weights)
        if key.startswith("projection.")
    }
    if "weight" not in projection or projection["weight"].dim() != 2:
        raise ConfigError(
            f"{folder}: no projection (custom_text_proj.weight) among the weights; a random one "
            "would find nothing. Is it the bare backbone?"
        )
    with reading(folder):
        form = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        with torch.device("meta"):  # names and shapes first: no memory for what does not fit
            frame = AutoModel.from_config(form)
    own = {renamed(key, family): key for key in frame.state_dict()}
    weights = {own.get(key, key): tensor for key, tensor in weights.items()}
    check_weights(frame.state_dict(), weights, folder)
    with reading(reads):
        processor = load_processor(family, reads)
    backbone = AutoModel.from_config(form, dtype=dtype)
    fill(backbone, weights, folder)
    return page_model(name, backbone, processor, projection, dtype)
