"""open_clip's folders, read and written: `open_clip_config.json`, weights, the tokenizer's files.

One encoder for pictures and texts, with open_clip's own space as the shared width.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lateint.checkpoints.layouts import LoadOptions
from lateint.config import ConfigError, write_json
from lateint.model import LateInteractionModel
from modalities.clip import OpenClip
from modalities.clip_config import CONFIG

WEIGHTS = "open_clip_model.safetensors"


def load(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """A model of "image" and "text" with both heads. options.dim: None for open_clip's own space;
    another width puts a fresh projection behind both towers, which is to be trained."""
    dtype = getattr(torch, options.dtype)
    try:
        encoder = OpenClip.from_pretrained(folder, dim=options.dim, dtype=dtype)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return LateInteractionModel({"image": encoder, "text": encoder}).eval()


def save(model: LateInteractionModel, folder: Path) -> None:
    """Writes what `open_clip.create_model("local-dir:...")` opens.

    ConfigError for what the layout has no place for: other encoders beside it, a projection.
    """
    from safetensors.torch import save_file

    encoders = {id(model.encoder(m)): model.encoder(m) for m in model.encoders}
    (encoder,) = encoders.values() if len(encoders) == 1 else (None,)
    if not isinstance(encoder, OpenClip):
        kinds = sorted({found.name for found in encoders.values()})
        raise ConfigError(f"open_clip's layout holds one OpenClip encoder, this model has {kinds}")
    if next(encoder.projection.parameters(), None) is not None:
        own = encoder.settings.model["embed_dim"]
        raise ConfigError(
            f"open_clip's layout has no place for the projection from {own} to {encoder.dim} numbers"
        )
    facts = encoder.config()
    preprocess = {k: v for k, v in facts["preprocess"].items() if k not in ("size", "mode")}
    folder.mkdir(parents=True, exist_ok=True)
    if not encoder.tokenizer.simple:
        encoder.tokenizer.tokenizer.tokenizer.save_pretrained(str(folder))
    weights = {k: v.detach().cpu().clone().contiguous() for k, v in _state(encoder).items()}
    save_file(weights, str(folder / WEIGHTS))
    config = json.loads(json.dumps(facts["model"]))
    write_json(folder / CONFIG, {"model_cfg": config, "preprocess_cfg": preprocess})


def _state(encoder: OpenClip) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = encoder.model.state_dict()
    return state
