"""transformers' folders of audio models (AST, Whisper, wav2vec 2.0, HuBERT, CLAP).

CLAP brings a space for recordings and texts; the others are bare backbones that have never seen a
text, so a projection has to be asked for, and trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lateint.checkpoints.backbone import reading
from lateint.checkpoints.layouts import LoadOptions
from lateint.config import ConfigError, read_json
from lateint.model import LateInteractionModel
from modalities.audio import AudioEncoder
from modalities.clap import Clap

MAX_LAYERS = 1000
WEIGHT_FILES = ("*.safetensors", "*.bin")


def load(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """Of CLAP a model of "audio" and "text", both in its joint space; of the others one of "audio",
    to be trained: its projection is fresh. Both heads.

    ConfigError: no options.dim for a bare backbone, so that nobody takes random tokens for a model;
    options.dim for CLAP, other than its own; weights missing, left over, or of other shapes;
    feature extractor or (of CLAP) tokenizer missing; a config.json that describes more than the
    files hold.
    """
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "clap" and options.dim is None:
        raise ConfigError(
            f"{folder} is a bare {kind} backbone: its tokens need a projection, which it has not. "
            "Give dim=128 for a fresh, random one, and train it before you index with it"
        )
    _check_size(folder)
    dtype = getattr(torch, options.dtype)
    with reading(folder):
        if kind == "clap":
            both = Clap.from_pretrained(folder, options.dim, dtype=dtype)
            return LateInteractionModel({"audio": both, "text": both}).eval()
        encoder = AudioEncoder.from_pretrained(folder, options.dim or 0, dtype=dtype)
    return LateInteractionModel({"audio": encoder}).eval()


def _check_size(folder: Path) -> None:
    """Raises ConfigError where config.json describes more weights than the files can hold: a few
    digits in it must not take the machine's memory."""
    from transformers import AutoConfig, AutoModel

    path = folder / "config.json"
    layers = _layers(read_json(path))
    if layers > MAX_LAYERS:
        raise ConfigError(f"{path}: {layers} layers, the limit is {MAX_LAYERS}")
    with reading(folder), torch.device("meta"):  # shapes without memory
        frame = AutoModel.from_config(AutoConfig.from_pretrained(str(folder)))
    described = sum(weight.numel() for weight in frame.parameters())
    held = sum(file.stat().st_size for mask in WEIGHT_FILES for file in folder.glob(mask))
    if described > held:
        raise ConfigError(f"{path} describes {described} weights, the files have {held} bytes")


def _layers(values: Any, name: str = "") -> int:
    """The largest number in a configuration that counts layers, at any depth of it."""
    if isinstance(values, dict):
        return max((_layers(value, str(key)) for key, value in values.items()), default=0)
    if isinstance(values, list):
        return max((_layers(value, name) for value in values), default=0)
    counts = "layers" in name or name == "depths"
    return values if counts and isinstance(values, int) else 0
