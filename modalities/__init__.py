"""`modalities`: raw input (text, page images, pictures, recordings) to token grids in one shared width.

Knows backbones, pixels and samples; knows nothing of retrieval and never imports `lateint`. Importing this
package imports no torch: names are looked up on first use (PEP 562).
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalities.encoder import Batch, Encoder, Role, check_encoder
    from modalities.grid import TokenGrid
    from modalities.media import Audio, MediaError, open_audio, open_image

__all__ = [
    "ENCODERS",
    "Audio",
    "Batch",
    "Encoder",
    "MediaError",
    "Role",
    "TokenGrid",
    "check_encoder",
    "load_encoder",
    "open_audio",
    "open_image",
]

# name in encoder.json -> (module, class); a new encoder is a row here
ENCODERS: dict[str, tuple[str, str]] = {
    "transformer-text": ("modalities.text", "TransformerText"),
    "onnx-text": ("modalities.onnx", "OnnxText"),
    "timm-image": ("modalities.image", "TimmImage"),
    "timm-naflex": ("modalities.naflex", "NaFlexImage"),
    "open-clip": ("modalities.clip", "OpenClip"),
    "vision-language": ("modalities.vlm", "VisionLanguage"),
    "page": ("modalities.page", "PageReader"),
    "page-text": ("modalities.page", "PageText"),
    "picture": ("modalities.picture", "PictureReader"),
    "speech": ("modalities.speech", "SpeechReader"),
    "audio": ("modalities.audio", "AudioEncoder"),
    "clap": ("modalities.clap", "Clap"),
}

_LAZY = {
    "Audio": "modalities.media",
    "Batch": "modalities.encoder",
    "Encoder": "modalities.encoder",
    "MediaError": "modalities.media",
    "Role": "modalities.encoder",
    "TokenGrid": "modalities.grid",
    "check_encoder": "modalities.encoder",
    "open_audio": "modalities.media",
    "open_image": "modalities.media",
}


def load_encoder(folder: str | Path) -> Encoder:
    """The encoder saved in `folder`, whichever it is, on the CPU, in eval mode.

    Raises FileNotFoundError where there is no encoder.json, ValueError where it names an encoder
    that is not in ENCODERS or the weights do not fit.
    """
    from modalities.encoder import read_facts

    name, _ = read_facts(Path(folder))
    if name not in ENCODERS:
        near = get_close_matches(name, ENCODERS, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{folder}: unknown encoder {name!r}{hint}; known: {sorted(ENCODERS)}")
    module, kind = ENCODERS[name]
    encoder: type[Encoder] = getattr(import_module(module), kind)
    return encoder.load(Path(folder))


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'modalities' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
