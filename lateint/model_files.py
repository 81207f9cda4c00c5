"""A model's folder: config.json, one subfolder an encoder, and heads.safetensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lateint.config import ConfigError, from_json, read_json, to_json, write_json
from lateint.heads import Head, make_head
from modalities import load_encoder
from modalities.encoder import Encoder

FORMAT = "lateint-model"
VERSION = 1
CONFIG = "config.json"
HEAD_WEIGHTS = "heads.safetensors"


@dataclass(frozen=True)
class ModelConfig:
    """config.json of a saved model. encoders: modality -> subfolder (one that several modalities
    share is one encoder); heads: kind -> config."""

    format: str
    version: int
    encoders: dict[str, str]
    heads: dict[str, dict[str, Any]]


def write(folder: Path, encoders: Mapping[str, Encoder], heads: Mapping[str, Head]) -> None:
    """See `LateInteractionModel.save`. An encoder under several modalities is written once, in the
    folder of the first."""
    config = folder / CONFIG
    if folder.is_dir() and any(folder.iterdir()) and not _is_model(config):
        raise FileExistsError(f"{folder} is not empty and holds no saved model: not touched")
    folder.mkdir(parents=True, exist_ok=True)
    config.unlink(missing_ok=True)
    folders: dict[int, str] = {}
    names = {modality: folders.setdefault(id(e), modality) for modality, e in encoders.items()}
    for name in folders.values():
        encoders[name].save(folder / name)
    state = nn.ModuleDict(dict(heads)).state_dict()
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in state.items()}, str(folder / HEAD_WEIGHTS)
    )
    configs = {kind: to_json(head.config) for kind, head in heads.items()}
    write_json(config, ModelConfig(FORMAT, VERSION, names, configs))


def read(folder: Path) -> tuple[dict[str, Encoder], dict[str, Head]]:
    """The encoders by modality and the heads by kind; see `LateInteractionModel.load`."""
    config = _read_config(folder / CONFIG)
    for name in (*config.encoders, *config.encoders.values()):
        check_name(name, f"{folder / CONFIG}: encoders: ")
    loaded = {sub: load_encoder(folder / sub) for sub in sorted(set(config.encoders.values()))}
    encoders = {modality: loaded[sub] for modality, sub in config.encoders.items()}
    where = f"{folder / CONFIG}: heads"
    heads = {kind: make_head(kind, values, where) for kind, values in config.heads.items()}
    path = folder / HEAD_WEIGHTS
    try:
        weights = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    modules = nn.ModuleDict(dict(heads))
    own = modules.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        raise ConfigError(f"{path}: missing weights {missing}, unexpected weights {extra}")
    try:
        modules.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"{path}: {error}") from error
    return encoders, heads


def check_name(name: str, where: str = "") -> None:
    """A modality is the name of a subfolder too, and may come from a file."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise ConfigError(f"{where}{name!r} is no name of letters, digits, '-' and '_'")


def _read_config(path: Path) -> ModelConfig:
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ConfigError(f'{path}: no saved lateint model ("format": "{FORMAT}" is missing)')
    version = data.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ConfigError(
            f"{path}: format version {version} is newer than {VERSION}, the newest that this "
            "lateint reads: upgrade lateint"
        )
    return from_json(ModelConfig, data, str(path))


def _is_model(config: Path) -> bool:
    try:
        _read_config(config)
    except ConfigError:
        return False
    return True
