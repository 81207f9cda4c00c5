"""Audio backbones and their feature extractors from folders, within limits.

Weights that are missing, or that nothing takes, are errors; so are files that would make a filter
bank of gigabytes. Knows files; nothing of windows and frames.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from modalities.audio_families import MAX_WINDOW, Family, LogMel

BACKBONE, FEATURES = "backbone", "features"  # folders of config.json and preprocessor_config.json
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
MAX_FEATURES_BYTES = 1_000_000
# Largest values of a feature extractor's file, which comes from outside: filter banks and padded
# windows are made of them.
LIMITS = {
    "feature_size": 1024,
    "num_mel_bins": 1024,
    "n_fft": 65_536,
    "fft_window_size": 65_536,
    "hop_length": 65_536,
    "chunk_length": MAX_WINDOW,
    "max_length_s": MAX_WINDOW,
    "max_length": 100_000,
    "sampling_rate": 384_000,
}
TRAINING_ONLY = "masked_spec_embed"  # stands for masked frames while wav2vec 2.0 is trained


def read_features(family: Family, source: Path | str) -> Any:
    """The feature extractor of a family, from a folder or of a name on the hub.

    In a folder it stands in preprocessor_config.json, or, as transformers 5 writes processors, in
    processor_config.json under "feature_extractor". Raises ValueError where there is neither, for
    a file that is no JSON, and for values beyond LIMITS.
    """
    import transformers

    if family.features is None:
        return LogMel()
    kind = getattr(transformers, family.features)
    if Path(source).is_dir():
        features = kind.from_dict(_values(Path(source)))
    else:
        features = kind.from_pretrained(str(source))
    if getattr(features, "dither", 0.0):
        features.dither = 0.0  # noise: a recording would have other tokens each time
    return features


def _values(folder: Path) -> dict[str, Any]:
    """What a folder says of its feature extractor, checked."""
    path, values = folder / PROCESSOR, _json(folder / PROCESSOR).get("feature_extractor")
    if values is None:
        path = folder / PREPROCESSOR
        if not path.is_file():
            raise ValueError(f"{path} is missing: it says what samples become before the backbone")
        values = _json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: wanted an object, got {type(values).__name__}")
    for key, most in LIMITS.items():
        value = values.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
            raise ValueError(f"{path}: {key} must be a number above 0, at most {most}: {value!r}")
    return values


def _json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file; {} where there is no such file."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_FEATURES_BYTES:
        raise ValueError(f"{path} is larger than {MAX_FEATURES_BYTES} bytes")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error!r}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: wanted an object, got {type(values).__name__}")
    return values


def load_backbone(
    kind: str | None, source: str, dtype: torch.dtype, dropped: tuple[str, ...] = ()
) -> Any:
    """A transformers model of class `kind`. Raises ValueError for weights that are missing, and for
    such as nothing takes unless their names begin with one of `dropped`."""
    import transformers

    loader = getattr(transformers, str(kind))
    model, report = loader.from_pretrained(source, dtype=dtype, output_loading_info=True)
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(TRAINING_ONLY))
    extra = sorted(name for name in report["unexpected_keys"] if not name.startswith(dropped))
    if missing or extra:
        raise ValueError(
            f"{source} does not fit {kind}: missing weights {missing[:9]}, unexpected weights "
            f"{extra[:9]}"
        )
    return model


def read_backbone_config(folder: Path, kind: str) -> Any:
    """A backbone's config.json in a saved encoder's folder, of the model_type `kind`."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder / 'config.json'} is missing: the encoder is incomplete")
    form = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    if form.model_type != kind:
        raise ValueError(f"{folder / 'config.json'} is of a {form.model_type!r}, not of a {kind!r}")
    return form
