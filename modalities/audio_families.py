"""Families of audio backbones: what one window of samples becomes, and how long its frames are.

A family is a row of `FAMILIES`; the encoder that uses them (`modalities.audio`) knows none by name.
What a backbone reads comes from its own transformers feature extractor, and so is exact; only the
baseline without a backbone, the log-mel spectrogram, is computed here (torchaudio).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_WINDOW = 120.0  # seconds


@dataclass(frozen=True)
class Lattice:
    """The frames that a backbone makes of one window.

    rate: samples a second. hop: samples from one frame to the next. most: samples of the longest
    window. least: samples that make one frame; shorter windows are filled up with zeros.
    frames: samples of a window -> real frames, at least 1. cost: frames that the backbone computes
    for a window of so many samples, padding included. bands: tokens of one frame, from low to high
    frequencies. width: numbers of each.
    """

    rate: int
    hop: float
    most: int
    least: int
    frames: Callable[[int], int]
    cost: Callable[[int], int]
    bands: int
    width: int


@dataclass(frozen=True)
class Family:
    """A row of the table.

    backbone: the transformers class that reads checkpoints; None: no backbone. part: the attribute
        of it that is kept ("" is all of it); alone: "module:class" of what is kept.
    features: the transformers class of the feature extractor; None: log-mel, computed here.
    lattice: (backbone's config, feature extractor) -> Lattice.
    extract: (feature extractor, samples of one window, most) -> what the backbone reads of it;
        windows are stacked, padded with zeros along the first axis.
    run: (backbone, features (W, ...), samples of each window (W,), frames) -> hidden states
        (W, bands, F, H), and one vector a window (W, H) where the backbone has one. What stands
        behind a window's real frames means nothing.
    dropped: beginnings of weights that checkpoints have beside the backbone, known and not used.
    window, overlap, stride: defaults of `AudioConfig`.
    """

    backbone: str | None
    features: str | None
    lattice: Callable[[Any, Any], Lattice]
    extract: Callable[[Any, np.ndarray, int], Tensor]
    run: Callable[[Any, Tensor, Tensor, Callable[[int], int]], tuple[Tensor, Tensor | None]]
    part: str = ""
    alone: str = ""
    dropped: tuple[str, ...] = ()
    window: float = 30.0
    overlap: float = 2.0
    stride: int = 1


# AST (Gong et al. 2021, arXiv:2104.01778): patches of a spectrogram of fixed length.


def _ast_lattice(config: Any, features: Any) -> Lattice:
    if (config.max_length, config.num_mel_bins) != (features.max_length, features.num_mel_bins):
        raise ValueError(
            f"the backbone reads {config.max_length} frames of {config.num_mel_bins} mel bands, the "
            f"feature extractor gives {features.max_length} of {features.num_mel_bins}"
        )
    rate = features.sampling_rate
    step, size = rate // 100, rate // 40  # of the spectrogram: 10 and 25 ms, as Kaldi
    patch, stride = config.patch_size, config.time_stride
    columns = (config.max_length - patch) // stride + 1

    def frames(samples: int) -> int:
        """Patches in which there is sound."""
        lines = 1 + max(0, samples - size) // step
        return min(columns, math.ceil(lines / stride))

    return Lattice(
        rate=rate,
        hop=stride * step,
        most=(config.max_length - 1) * step + size,
        least=size,
        frames=frames,
        cost=lambda samples: columns,
        bands=(config.num_mel_bins - patch) // config.frequency_stride + 1,
        width=config.hidden_size,
    )


def _ast_extract(features: Any, samples: np.ndarray, most: int) -> Tensor:
    values = features(samples, sampling_rate=features.sampling_rate, return_tensors="pt")
    return values["input_values"][0]  # (lines, mel)


def _ast_run(
    backbone: Any, features: Tensor, samples: Tensor, frames: Callable[[int], int]
) -> tuple[Tensor, Tensor | None]:
    output = backbone(features)
    patches = output.last_hidden_state[:, 2:]  # without class and distillation token
    config = backbone.config
    bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    return patches.unflatten(1, (bands, -1)), output.pooler_output


# Whisper's encoder (Radford et al. 2022, arXiv:2212.04356): padded to its 30 s, always.


def _whisper_lattice(config: Any, features: Any) -> Lattice:
    if config.num_mel_bins != features.feature_size:
        raise ValueError(
            f"the backbone reads {config.num_mel_bins} mel bands, the feature extractor gives "
            f"{features.feature_size}"
        )
    hop = 2 * features.hop_length  # the second convolution halves
    return Lattice(
        rate=features.sampling_rate,
        hop=hop,
        most=config.max_source_positions * hop,
        least=1,
        frames=lambda samples: max(1, math.ceil(samples / hop)),
        cost=lambda samples: int(config.max_source_positions),
        bands=1,
        width=config.d_model,
    )


def _whisper_extract(features: Any, samples: np.ndarray, most: int) -> Tensor:
    values = features(
        samples, sampling_rate=features.sampling_rate, max_length=most, return_tensors="pt"
    )
    return values["input_features"][0]  # (mel, lines)


def _whisper_run(
    backbone: Any, features: Tensor, samples: Tensor, frames: Callable[[int], int]
) -> tuple[Tensor, Tensor | None]:
    return backbone(features).last_hidden_state[:, None], None


# wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477), HuBERT (Hsu et al. 2021, arXiv:2106.07447).


def _wave_lattice(config: Any, features: Any) -> Lattice:
    if getattr(config, "add_adapter", False):
        raise ValueError("backbones with an adapter (add_adapter) are not read: take one without")
    layers = list(zip(config.conv_kernel, config.conv_stride, strict=True))

    def frames(samples: int) -> int:
        for kernel, stride in layers:
            samples = (samples - kernel) // stride + 1
        return max(1, samples)

    least = 1
    for kernel, stride in reversed(layers):
        least = (least - 1) * stride + kernel
    return Lattice(
        rate=features.sampling_rate,
        hop=math.prod(config.conv_stride),
        most=int(MAX_WINDOW * features.sampling_rate),
        least=least,
        frames=frames,
        cost=frames,
        bands=1,
        width=config.hidden_size,
    )


def _wave_extract(features: Any, samples: np.ndarray, most: int) -> Tensor:
    values = features(samples, sampling_rate=features.sampling_rate, return_tensors="pt")
    return values["input_values"][0]  # (samples,)


def _wave_run(
    backbone: Any, features: Tensor, samples: Tensor, frames: Callable[[int], int]
) -> tuple[Tensor, Tensor | None]:
    """With an attention mask where the backbone has learned to heed it; where its first layer takes
    a norm over time ("group"), windows of one length at a time, as padding would change them."""
    if backbone.config.feat_extract_norm == "layer":
        attend = torch.arange(features.shape[1], device=features.device) < samples[:, None]
        hidden = backbone(features, attention_mask=attend.long()).last_hidden_state
        return hidden[:, None], None
    lengths = samples.tolist()
    hidden = features.new_zeros(
        len(lengths), frames(max(lengths)), backbone.config.hidden_size
    )  # (W, F, H)
    for length in sorted(set(lengths)):
        rows = (samples == length).nonzero()[:, 0]
        part = backbone(features[rows, :length]).last_hidden_state
        hidden = hidden.index_put(
            (rows[:, None], torch.arange(part.shape[1], device=rows.device)), part
        )
    return hidden[:, None], None


# CLAP's audio tower (Wu et al. 2022, arXiv:2211.06687), an HTS-AT: short windows are repeated.


def _clap_lattice(config: Any, features: Any) -> Lattice:
    if config.num_mel_bins != features.feature_size:
        raise ValueError(
            f"the backbone reads {config.num_mel_bins} mel bands, the feature extractor gives "
            f"{features.feature_size}"
        )
    most = features.nb_max_samples
    halved = config.spec_size // 2 ** (len(config.depths) - 1)
    strides = config.patch_stride
    low, across = (halved // stride for stride in _pair(strides))
    bands = low // max(1, config.spec_size // config.num_mel_bins)
    if bands < 1 or across < 1:
        raise ValueError(
            f"spec_size {config.spec_size}, num_mel_bins {config.num_mel_bins} and patch_stride "
            f"{config.patch_stride} leave no frame"
        )
    columns = low // bands * across
    hop = most / columns
    return Lattice(
        rate=features.sampling_rate,
        hop=hop,
        most=most,
        least=1,
        frames=lambda samples: max(1, min(columns, math.ceil(samples / hop))),
        cost=lambda samples: columns,
        bands=bands,
        width=config.hidden_size,
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _clap_extract(features: Any, samples: np.ndarray, most: int) -> Tensor:
    values = features(samples, sampling_rate=features.sampling_rate, return_tensors="pt")
    return values["input_features"][0].float()  # (1 or 4, lines, mel)


def _clap_run(
    backbone: Any, features: Tensor, samples: Tensor, frames: Callable[[int], int]
) -> tuple[Tensor, Tensor | None]:
    # Never "longer": a window fits. The feature extractor would call one of a batch longer by lot,
    # and so make an item's tokens depend on its neighbours.
    longer = torch.zeros(len(features), 1, dtype=torch.bool, device=features.device)
    output = backbone(features, is_longer=longer)
    return output.last_hidden_state.permute(0, 2, 3, 1), output.pooler_output


# The baseline: Whisper's log-mel spectrogram, 16 kHz, 80 bands, 10 ms, and no backbone.

RATE, BANDS, LINE, FFT = 16_000, 80, 160, 400


class LogMel:
    """Whisper's log-mel spectrogram through torchaudio, of windows of any length; no weights."""

    sampling_rate = RATE

    def __init__(self) -> None:
        from torchaudio.transforms import MelSpectrogram

        scale = {"norm": "slaney", "mel_scale": "slaney", "f_max": RATE / 2}
        self._mel = MelSpectrogram(RATE, n_fft=FFT, hop_length=LINE, n_mels=BANDS, **scale)

    def __call__(self, samples: np.ndarray) -> Tensor:
        """(samples // LINE, BANDS); samples (n,) at RATE, more than FFT / 2 of them."""
        power = self._mel(torch.from_numpy(samples))[:, :-1]  # its last line is half padding
        lines = power.clamp(min=1e-10).log10()
        return ((lines.maximum(lines.max() - 8) + 4) / 4).T


def _mel_lattice(config: Any, features: Any) -> Lattice:
    return Lattice(
        rate=RATE,
        hop=LINE,
        most=int(MAX_WINDOW * RATE),
        least=FFT,
        frames=lambda samples: max(1, samples // LINE),
        cost=lambda samples: max(1, samples // LINE),
        bands=1,
        width=BANDS,
    )


def _mel_run(
    backbone: Any, features: Tensor, samples: Tensor, frames: Callable[[int], int]
) -> tuple[Tensor, Tensor | None]:
    return features[:, None], None


_WAVE_HEADS = (
    "lm_head.",
    "classifier.",
    "projector.",
    "layer_weights",
    "quantizer.",
    "project_q.",
    "project_hid.",
)

FAMILIES: dict[str, Family] = {
    "audio-spectrogram-transformer": Family(
        backbone="ASTModel",
        alone="transformers:ASTModel",
        features="ASTFeatureExtractor",
        lattice=_ast_lattice,
        extract=_ast_extract,
        run=_ast_run,
        dropped=("classifier.",),
        window=10.24,
    ),
    "whisper": Family(
        backbone="WhisperModel",
        part="encoder",
        alone="transformers.models.whisper.modeling_whisper:WhisperEncoder",
        features="WhisperFeatureExtractor",
        lattice=_whisper_lattice,
        extract=_whisper_extract,
        run=_whisper_run,
        dropped=("proj_out.", "classifier.", "projector.", "layer_weights"),
        stride=8,
    ),
    "wav2vec2": Family(
        backbone="Wav2Vec2Model",
        alone="transformers:Wav2Vec2Model",
        features="Wav2Vec2FeatureExtractor",
        lattice=_wave_lattice,
        extract=_wave_extract,
        run=_wave_run,
        dropped=_WAVE_HEADS,
        window=20.0,
        stride=8,
    ),
    "hubert": Family(
        backbone="HubertModel",
        alone="transformers:HubertModel",
        features="Wav2Vec2FeatureExtractor",
        lattice=_wave_lattice,
        extract=_wave_extract,
        run=_wave_run,
        dropped=_WAVE_HEADS,
        window=20.0,
        stride=8,
    ),
    "clap_audio_model": Family(
        backbone="ClapAudioModel",
        alone="transformers:ClapAudioModel",
        features="ClapFeatureExtractor",
        lattice=_clap_lattice,
        extract=_clap_extract,
        run=_clap_run,
        window=10.0,
    ),
    "log-mel": Family(
        backbone=None,
        features=None,
        lattice=_mel_lattice,
        extract=lambda features, samples, most: features(samples),
        run=_mel_run,
        stride=16,
    ),
}
"""transformers' model_type -> family; "log-mel" has no backbone."""
