"""Tiny audio models with random weights, made on the spot with transformers: no hub.

Each maker gives the model and its feature extractor, of windows short enough to run in moments; and
a few recordings to read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_text import byte_level
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 8, 8),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def ast() -> tuple[Any, Any]:
    """1.3 s in 13 frames of 4 bands."""
    torch.manual_seed(0)
    config = ASTConfig(max_length=136, num_mel_bins=48, **SIZES)
    return _stirred(ASTModel(config)), ASTFeatureExtractor(max_length=136, num_mel_bins=48)


def whisper() -> tuple[Any, Any]:
    """2 s in 100 frames."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=48,
        max_source_positions=100,
        max_target_positions=16,
        vocab_size=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return _stirred(WhisperModel(config)), WhisperFeatureExtractor(chunk_length=2)


def wav2vec2(norm: str = "group") -> tuple[Any, Any]:
    """50 frames a second. norm: "group" as wav2vec2-base, "layer" as the large ones."""
    torch.manual_seed(0)
    stable = norm == "layer"
    config = Wav2Vec2Config(
        feat_extract_norm=norm,
        do_stable_layer_norm=stable,
        conv_bias=stable,
        **CONVOLUTIONS,
        **SIZES,
    )
    return _stirred(Wav2Vec2Model(config)), Wav2Vec2FeatureExtractor(return_attention_mask=stable)


def hubert() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return _stirred(HubertModel(HubertConfig(**CONVOLUTIONS, **SIZES))), Wav2Vec2FeatureExtractor()


def clap(*, fused: bool = False) -> tuple[Any, Any, Any]:
    """The model, its tokenizer, its feature extractor: 1 s in 8 frames of 2 bands."""
    torch.manual_seed(0)
    tokenizer = byte_level(bos=True, mask=True, pad=True)
    text = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 82}
    audio = {
        "spec_size": 64,
        "num_mel_bins": 16,
        "window_size": 4,
        "patch_size": 4,
        "patch_stride": (4, 4),
        "patch_embeds_hidden_size": 16,
        "hidden_size": 32,
        "depths": (1, 1),
        "num_attention_heads": (2, 2),
        "enable_fusion": fused,
        "fusion_type": "aff_2d",
    }
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    features = ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=16_000,
        hop_length=80,
        fft_window_size=400,
        frequency_max=8000,
        max_length_s=1,
        truncation="fusion" if fused else "rand_trunc",
    )
    return _stirred(ClapModel(config)), tokenizer, features


def _stirred(model: Any) -> Any:
    """In eval mode, with weights large enough that tokens differ, and norms that do something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.1 if parameter.dim() > 1 else 0.05))
    return model.eval()


def tone(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """A chirp with noise, float32 (n,): no two stretches of it are alike."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    sweep = np.sin(2 * np.pi * (200 + 150 * (seed + 1) * time) * time)
    return (0.4 * sweep + 0.05 * noise).astype(np.float32)


def write_tone(
    path: Path, seconds: float, rate: int = 16_000, seed: int = 0, **options: Any
) -> Path:
    import soundfile

    soundfile.write(path, tone(seconds, rate, seed), rate, **options)
    return path


BACKBONES: dict[str, Any] = {
    "ast": ast,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "wav2vec2-layer": lambda: wav2vec2("layer"),
    "hubert": hubert,
}
