"""timm models as backbones: made by name without a classifier, and their features as patches.

Knows timm; no picture, no projection, no retrieval. Only timm's own names are taken: a saved
encoder comes from outside and must not reach for the network or for other files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from torch import Tensor

MAX_OPTIONS_BYTES = 10_000  # of a configuration as JSON; it comes from outside
MAX_NUMBER = 1_000_000  # sizes, widths, entries of a vocabulary
MAX_DEPTH = 512  # blocks of one stage
# Arguments of timm.create_model that read files or the network, or that the encoder sets itself.
RESERVED = (
    *("model_name", "pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg"),
    *("pretrained_cfg_overlay", "num_classes", "in_chans", "features_only", "scriptable"),
)


def check_name(name: str) -> None:
    """Raises ValueError, naming the nearest, unless timm has a model of this name."""
    import timm

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 3)
        hint = f": did you mean one of {near}?" if near else ""
        raise ValueError(f"timm has no model {name!r}{hint} (timm.list_models() lists them)")


def check_options(options: Mapping[str, Any]) -> None:
    """Raises ValueError for options that no backbone of reasonable size needs, or that would read
    files. options: arguments of the timm model beside its name (`model_args` in timm's files)."""
    for key in options:
        if key in RESERVED:
            raise ValueError(
                f"options may not have {key!r}: it is set by the encoder, or reads files"
            )
    check_values(options, "options")


def check_values(values: Mapping[str, Any], what: str) -> None:
    """Raises ValueError for a configuration that is no JSON, too long, or asks for more than any
    backbone has: numbers above MAX_NUMBER, depths above MAX_DEPTH. what: how the error calls it."""
    try:
        text = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be JSON values: {error}") from error
    if len(text) > MAX_OPTIONS_BYTES:
        raise ValueError(f"{what}: {len(text)} bytes as JSON, at most {MAX_OPTIONS_BYTES}")
    for key, number in _numbers("", values):
        limit = MAX_DEPTH if "depth" in key or "layers" in key else MAX_NUMBER
        if abs(number) > limit:
            raise ValueError(f"{what}: {key} is {number}, at most {limit}")


def _numbers(key: str, value: Any) -> list[tuple[str, float]]:
    """Every number in JSON values, under the key nearest above it."""
    if isinstance(value, Mapping):
        return [found for k, item in value.items() for found in _numbers(str(k), item)]
    if isinstance(value, (list, tuple)):
        return [found for item in value for found in _numbers(key, item)]
    return [(key, value)] if isinstance(value, (int, float)) else []


def create(
    name: str,
    image_size: tuple[int, int] | None = None,
    pretrained: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """A timm model without classifier, for pictures of `image_size` (None: its own).

    pretrained: with timm's weights (needs the network or a filled cache), else random. options: as
    `check_options` allows. Raises ValueError for a name or options that timm does not know.
    """
    import timm

    check_name(name)
    extra = dict(options or {})
    check_options(extra)
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    # A backbone that takes any size has no such argument; the others are built for one.
    fixed = cfg is not None and cfg.fixed_input_size and tuple(cfg.input_size[1:]) != image_size
    if image_size and (fixed or "img_size" in extra):
        extra["img_size"] = image_size
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **extra)
    except (TypeError, AssertionError, KeyError) as error:  # how constructors refuse an argument
        raise ValueError(f"timm's {name} cannot be made with {extra}: {error}") from error


def full_name(backbone: Any, name: str) -> str:
    """A name of timm with the tag of the weights, so that a saved encoder says what it was."""
    cfg = backbone.pretrained_cfg
    tag = f".{cfg['tag']}" if cfg.get("tag") else ""
    return f"{cfg.get('architecture') or name.split('.')[0]}{tag}"


def data_config(backbone: Any) -> dict[str, Any]:
    """Size, mean, std and interpolation that a backbone was trained with. Raises ValueError where
    it does not read 3 channels."""
    from timm.data import resolve_model_data_config

    data: dict[str, Any] = resolve_model_data_config(backbone)
    if data["input_size"][0] != 3:
        raise ValueError(f"the backbone reads {data['input_size'][0]} channels; pictures have 3")
    return data


def is_naflex(backbone: Any) -> bool:
    """Whether it reads pictures as patches of any lattice (NaFlex: NaViT, arXiv:2307.06304)."""
    from timm.models.naflexvit import NaFlexVit

    return isinstance(backbone, NaFlexVit)


def lattice(backbone: Any, features: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """What `forward_features` gives -> patches (B, rows * cols, C) in row-major order, (rows, cols).

    Class and register tokens are left out. Raises ValueError for features without a lattice.
    """
    if features.dim() == 4:
        if channels_last(backbone):
            features = features.permute(0, 3, 1, 2)
        rows, cols = features.shape[2:]
        return features.flatten(2).transpose(1, 2), (rows, cols)
    if features.dim() == 3:
        patches = features[:, getattr(backbone, "num_prefix_tokens", 0) :]
        grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
        if grid is not None and grid[0] * grid[1] == patches.shape[1]:
            return patches, (int(grid[0]), int(grid[1]))
    name = getattr(backbone, "pretrained_cfg", {}).get("architecture", type(backbone).__name__)
    raise ValueError(
        f"{name} gives features {tuple(features.shape)} without a lattice of patches: choose a "
        "backbone with patch tokens (ViT) or a feature map (ConvNeXt)"
    )


def channels_last(backbone: Any) -> bool:
    """Whether its feature maps are (B, rows, cols, C)."""
    return str(getattr(backbone, "output_fmt", "NCHW")).upper().endswith("NHWC")
