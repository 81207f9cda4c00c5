"""open_clip's configuration of a model: read, checked, and made into a model with random weights.

A configuration comes from outside and open_clip follows it far: it fetches what it names, passes its
options on, and takes the memory it asks for. So it is checked here before open_clip sees it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modalities.encoder import MAX_FACTS_BYTES
from modalities.timm_backbones import check_name, check_values

CONFIG = "open_clip_config.json"  # of open_clip's own folders
LOCAL, HUB = "local-dir:", "hf-hub:"
TOKENIZER_OPTIONS = ("clean", "strip_sep_token", "language")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class ClipConfig:
    """What an OpenClip is, apart from its weights.

    model: open_clip's configuration of the model (embed_dim, vision_cfg, text_cfg ...).
    preprocess: fields of open_clip's PreprocessCfg, see `modalities.clip_pictures`.
    tokenizer: what `modalities.clip_tokenizer` needs beside the tokenizer's files.
    dim: width of the tokens: the model's own, or that of a projection behind both towers.
    dtype: of the weights.
    """

    model: dict[str, Any]
    preprocess: dict[str, Any]
    tokenizer: dict[str, Any]
    dim: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_model_config(self.model)
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, not {self.dim}")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"unknown dtype {self.dtype!r}")


def model_config(source: str) -> dict[str, Any]:
    """The configuration of a model that open_clip knows by name, or of a folder in its layout.
    ValueError where there is none, or where it is one that `check_model_config` refuses."""
    import open_clip

    if source.startswith(LOCAL):
        path = Path(source.removeprefix(LOCAL)) / CONFIG
        if not path.is_file():
            raise ValueError(f"{path} is missing: no folder in open_clip's layout")
        if path.stat().st_size > MAX_FACTS_BYTES:
            raise ValueError(f"{path} is larger than {MAX_FACTS_BYTES} bytes: it is no {CONFIG}")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f'{path} must be JSON {{"model_cfg": {{...}}}}: {error!r}') from error
    else:
        try:
            config = open_clip.get_model_config(source)
        except Exception as error:  # the hub cannot be reached, or answers with anything
            raise ValueError(f"{source}: open_clip finds no configuration: {error}") from error
        if config is None:
            raise ValueError(
                f"open_clip has no model {source!r} (open_clip.list_models() lists them)"
            )
    check_model_config(config)
    return deepcopy(dict(config))


def check_model_config(config: Any) -> None:
    """Raises ValueError unless it looks like open_clip's configuration of a model, and for one that
    open_clip would follow further than it may: options of a tokenizer that run code, picture towers
    that are no names of timm."""
    parts = ("vision_cfg", "text_cfg")
    if not isinstance(config, Mapping) or not all(isinstance(config.get(p), dict) for p in parts):
        raise ValueError("an open_clip configuration has embed_dim, vision_cfg and text_cfg")
    if not isinstance(config.get("embed_dim"), int):
        raise ValueError(f"embed_dim must be a number, not {config.get('embed_dim')!r}")
    check_values(config, "the open_clip configuration")
    options = config["text_cfg"].get("tokenizer_kwargs") or {}
    if not isinstance(options, dict) or set(options) - set(TOKENIZER_OPTIONS):
        raise ValueError(f"tokenizer_kwargs may have {TOKENIZER_OPTIONS}, got {options}")
    if backbone := config["vision_cfg"].get("timm_model_name"):
        check_name(backbone)


def make_model(config: Mapping[str, Any], text: Path | None = None) -> Any:
    """An open_clip model with random weights, of the class that `open_clip.create_model` chooses.

    text: folder with the config of a transformers text tower; None: where the configuration says.
    ValueError where open_clip refuses the configuration."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    values = deepcopy(dict(config))
    of_transformers = "hf_model_name" in values["text_cfg"]
    if of_transformers:
        values["text_cfg"]["hf_model_pretrained"] = False
        if text is not None:
            if not (text / "config.json").is_file():
                raise ValueError(f"{text / 'config.json'} is missing: the encoder is incomplete")
            values["text_cfg"]["hf_model_name"] = str(text)
    if "timm_model_name" in values["vision_cfg"]:
        values["vision_cfg"]["timm_model_pretrained"] = False
    custom = values.pop("custom_text", False) or of_transformers
    kind: type[Any] = CLIP
    if custom:
        kind = CoCa if "multimodal_cfg" in values else CustomTextCLIP
    try:
        return kind(**values)
    except (TypeError, AssertionError, KeyError, RuntimeError, OSError) as error:
        raise ValueError(f"open_clip cannot make a model of {dict(config)}: {error}") from error


def check_size(config: Mapping[str, Any], folder: Path, text: Path | None = None) -> None:
    """Raises ValueError where a model of this configuration has more numbers than the largest file
    of weights in the folder has bytes, before memory is taken for it. text: as in `make_model`."""
    sizes = [f.stat().st_size for f in folder.iterdir() if f.suffix in SUFFIXES and f.is_file()]
    if not sizes:
        raise ValueError(f"{folder}: no file of weights ({', '.join(SUFFIXES)})")
    with torch.device("meta"):
        numbers = sum(p.numel() for p in make_model(config, text).parameters())
    if numbers > max(sizes):
        raise ValueError(
            f"{folder}: the configuration asks for {numbers} weights, the largest file has "
            f"{max(sizes)} bytes: they do not belong together"
        )
