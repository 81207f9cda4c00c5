"""timm's folders (`config.json` with `architecture`, `model.safetensors`): a backbone for pictures.

Such a backbone has never seen a text and has no projection, so one has to be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lateint.checkpoints.layouts import LoadOptions
from lateint.checkpoints.weights import check_weights, read_weights
from lateint.config import ConfigError, read_json
from lateint.model import LateInteractionModel
from modalities.encoder import Encoder
from modalities.image import ImageConfig, TimmImage
from modalities.naflex import NaFlexConfig, NaFlexImage
from modalities.timm_backbones import create, data_config, is_naflex

IGNORED = (
    "num_classes",
    "in_chans",
)  # of model_args: the classifier goes, pictures have 3 channels


def load(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """A model of "image" alone, with both heads, to be trained: its projection is fresh.

    ConfigError: options.dim is None, so that nobody takes random tokens for a model; weights other
    than the classifier's missing or left over; an architecture that timm does not know.
    """
    if options.dim is None:
        raise ConfigError(
            f"{folder} is a bare timm backbone: its tokens need a projection, which it has not. "
            "Give dim=128 for a fresh, random one, and train it before you index with it"
        )
    path = folder / "config.json"
    config = read_json(path)
    facts = config.get("pretrained_cfg", config)
    given = config.get("model_args", {})
    if not isinstance(facts, Mapping) or not isinstance(given, Mapping):
        raise ConfigError(f"{path}: pretrained_cfg and model_args must be objects")
    arguments = {k: v for k, v in given.items() if k not in IGNORED}
    try:
        backbone = _filled(folder, str(config["architecture"]), facts, arguments)
        encoder = _encoder(backbone, str(config["architecture"]), facts, arguments, options)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return LateInteractionModel({"image": encoder}).eval()


def _filled(folder: Path, name: str, facts: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """The backbone with the folder's weights, all but the classifier's."""
    weights = read_weights(folder)
    heads = facts.get("classifier") or ()
    classifiers = (heads,) if isinstance(heads, str) else tuple(map(str, heads))
    for key in list(weights):
        if key.startswith(tuple(f"{head}." for head in classifiers)):
            del weights[key]
    with torch.device("meta"):  # no memory for a configuration that the weights do not fit
        empty = create(name, None, False, arguments)
    check_weights(empty.state_dict(), weights, folder)
    backbone = create(name, None, False, arguments)
    backbone.load_state_dict(weights)
    return backbone


def _encoder(
    backbone: Any,
    name: str,
    facts: Mapping[str, Any],
    arguments: Mapping[str, Any],
    options: LoadOptions,
) -> Encoder:
    """What the folder says of size, mean, std and interpolation, else what timm says."""
    data = {**data_config(backbone), **{k: v for k, v in facts.items() if v is not None}}
    common: dict[str, Any] = {
        "backbone": name,
        "dim": options.dim,
        "mean": tuple(data["mean"]),
        "std": tuple(data["std"]),
        "interpolation": data["interpolation"],
        "dtype": options.dtype,
        "options": dict(arguments),
    }
    if is_naflex(backbone):
        return NaFlexImage(backbone, NaFlexConfig(**common)).eval()
    size = arguments.get("img_size", data["input_size"][-2:])
    height, width = (size, size) if isinstance(size, int) else size
    return TimmImage(backbone, ImageConfig(image_size=(height, width), **common)).eval()
