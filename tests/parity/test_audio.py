"""Tokens of recordings against transformers' own models and feature extractors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio
import torch
from tiny_audio import tone
from torch import Tensor

from modalities.audio import AudioEncoder
from modalities.audio_families import LogMel
from modalities.clap import Clap
from modalities.encoder import check_encoder
from modalities.grid import TokenGrid

RATE = 16_000
SHORT = [tone(0.9), tone(0.31, seed=1), tone(1.2, seed=2)]  # each within one window
TEXTS = ["the loss goes up after warm-up", "a", "", "зяблик и воробей", "up " * 100]


def raw(sounds: list[np.ndarray]) -> list[tuple[np.ndarray, int]]:
    return [(sound, RATE) for sound in sounds]


def encoder_of(name: str, folder: Path, **options: Any) -> tuple[AudioEncoder, Any, Any]:
    """Ours, out of theirs as saved by theirs, with a projection that changes nothing."""
    model, features = tiny_audio.BACKBONES[name]()
    model.save_pretrained(folder)
    features.save_pretrained(folder)
    ours = AudioEncoder.from_pretrained(folder, dim=32, **{"stride": 1, "bands": True, **options})
    with torch.no_grad():
        ours.projection.weight.copy_(torch.eye(32))
    return ours, model, features


def ast_hidden(model: Any, features: Any, sounds: list[np.ndarray]) -> list[Tensor]:
    inputs = features(sounds, sampling_rate=RATE, return_tensors="pt")
    hidden = model(**inputs).last_hidden_state[:, 2:]
    rows = hidden.unflatten(1, (4, -1)).transpose(1, 2)  # bands are the slower axis in theirs
    counts = [-(-(1 + (len(sound) - 400) // 160) // 10) for sound in sounds]
    return [row[:count].flatten(0, 1) for row, count in zip(rows, counts, strict=True)]


def whisper_hidden(model: Any, features: Any, sounds: list[np.ndarray]) -> list[Tensor]:
    inputs = features(sounds, sampling_rate=RATE, return_tensors="pt")
    hidden = model.encoder(inputs["input_features"]).last_hidden_state
    return [row[: -(-len(sound) // 320)] for row, sound in zip(hidden, sounds, strict=True)]


def wave_hidden(model: Any, features: Any, sounds: list[np.ndarray]) -> list[Tensor]:
    """A padded batch with a mask for models that were trained with it, else one by one, as their
    documentation asks for no mask and padding changes what they give."""
    if model.config.feat_extract_norm == "group" and len(sounds) > 1:
        return [wave_hidden(model, features, [sound])[0] for sound in sounds]
    inputs = features(sounds, sampling_rate=RATE, padding=True, return_tensors="pt")
    hidden = model(**inputs).last_hidden_state
    counts = [int(model._get_feat_extract_output_lengths(len(sound))) for sound in sounds]
    return [row[:count] for row, count in zip(hidden, counts, strict=True)]


THEIRS: dict[str, Callable[[Any, Any, list[np.ndarray]], list[Tensor]]] = {
    "ast": ast_hidden,
    "whisper": whisper_hidden,
    "wav2vec2": wave_hidden,
    "wav2vec2-layer": wave_hidden,
    "hubert": wave_hidden,
}


def real(grid: TokenGrid) -> list[Tensor]:
    return [row[mask] for row, mask in zip(grid.tokens, grid.mask, strict=True)]


def same(ours: Tensor, theirs: Tensor, atol: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert float(theirs.std()) > 0.01  # there is something to compare
    assert float((ours - theirs).abs().max()) <= atol * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_frames_are_the_hidden_states_alone_and_in_a_padded_batch(
    name: str, tmp_path: Path
) -> None:
    ours, model, features = encoder_of(name, tmp_path)
    with torch.inference_mode():
        theirs = THEIRS[name](model, features, SHORT)
        together = ours(ours.prepare(raw(SHORT), "document"))
        for i, row in enumerate(real(together)):
            same(row, theirs[i])
            alone = ours(ours.prepare(raw([SHORT[i]]), "document"))
            same(real(alone)[0], THEIRS[name](model, features, [SHORT[i]])[0])
            if alone.pooled is not None:
                inputs = features(SHORT[i], sampling_rate=RATE, return_tensors="pt")
                same(alone.pooled, model(**inputs).pooler_output)


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_each_family_keeps_the_contract(name: str, tmp_path: Path) -> None:
    ours, *_ = encoder_of(name, tmp_path, window=0.8, overlap=0.2)
    check_encoder(ours, raw([tone(2.3), *SHORT[:2], tone(0.004)]))


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_a_long_recording_is_theirs_window_by_window(name: str, tmp_path: Path) -> None:
    ours, model, features = encoder_of(name, tmp_path, window=1.0, overlap=0.3)
    sound = tone(3.37)
    parts = ours.windows(len(sound))
    assert len(parts) > 3 and parts[0].start == 0 and parts[-1].stop == len(sound)
    with torch.inference_mode():
        (tokens,) = real(ours(ours.prepare(raw([sound]), "document")))
        bands = ours.lattice.bands
        at = 0
        for part in parts:
            (theirs,) = THEIRS[name](model, features, [sound[part.start : part.stop]])
            kept = theirs[part.first * bands : (part.first + part.count) * bands]
            same(tokens[at : at + len(kept)], kept)
            at += len(kept)
    assert at == len(tokens)


def test_the_mean_of_bands_and_of_frames(tmp_path: Path) -> None:
    fine, *_ = encoder_of("ast", tmp_path)
    coarse = AudioEncoder(fine.backbone, fine.features, _with(fine, stride=4, bands=False))
    coarse.projection = fine.projection
    with torch.inference_mode():
        (all_,) = real(fine(fine.prepare(raw(SHORT[:1]), "document")))
        (few,) = real(coarse(coarse.prepare(raw(SHORT[:1]), "document")))
    frames = all_.unflatten(0, (-1, 4)).mean(1)
    wanted = torch.stack([part.mean(0) for part in frames.split(4)])
    same(few, wanted)


def _with(encoder: AudioEncoder, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(encoder.settings, **changes)


def test_log_mel_is_whisper_s() -> None:
    from transformers import WhisperFeatureExtractor

    features = WhisperFeatureExtractor()
    for sound in (*SHORT, tone(7.77, seed=5), np.zeros(8000, np.float32)):
        sound = sound[: len(sound) // 160 * 160]  # theirs has no last line of a broken length
        theirs = features(sound, sampling_rate=RATE, padding="do_not_pad", return_tensors="np")
        theirs = theirs["input_features"][0].T
        ours = LogMel()(sound).numpy()
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1e-4


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def clap(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Clap, Any, Any, Any]:
    model, tokenizer, features = tiny_audio.clap(fused=request.param)
    folder = tmp_path_factory.mktemp("clap")
    for part in (model, tokenizer, features):
        part.save_pretrained(folder)
    return Clap.from_pretrained(folder), model, tokenizer, features


def test_clap_s_recordings(clap: tuple[Clap, Any, Any, Any]) -> None:
    ours, model, _, features = clap
    sounds = [sound[:RATE] for sound in SHORT]
    inputs = features(sounds, sampling_rate=RATE, return_tensors="pt")
    inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])  # theirs draws one by lot
    with torch.inference_mode():
        output = model.audio_model(**inputs)
        pooled = model.get_audio_features(**inputs).pooler_output
        frames = model.audio_projection(output.last_hidden_state.mean(2).transpose(1, 2))
        together = ours(ours.prepare(raw(sounds), "document"))
        for i, (row, sound) in enumerate(zip(real(together), sounds, strict=True)):
            same(row, frames[i, : -(-len(sound) // 500)])
            alone = ours(ours.prepare(raw([sound]), "query"))
            same(real(alone)[0], row)
            assert together.pooled is not None and alone.pooled is not None
            same(together.pooled[i], pooled[i])
            same(alone.pooled[0], pooled[i])


def test_clap_s_texts(clap: tuple[Clap, Any, Any, Any]) -> None:
    ours, model, tokenizer, _ = clap
    options = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
    inputs = tokenizer(TEXTS, return_token_type_ids=False, **options)
    with torch.inference_mode():
        pooled = model.get_text_features(**inputs).pooler_output
        together = ours(ours.prepare(TEXTS, "query"))
        for i, text in enumerate(TEXTS):
            own = tokenizer([text], return_token_type_ids=False, **options)
            hidden = model.text_model(**own).last_hidden_state
            each = model.text_model.pooler(hidden.transpose(0, 1))  # every token as if the first
            same(real(together)[i], model.text_projection(each))
            alone = ours(ours.prepare([text], "query"))
            assert together.pooled is not None and alone.pooled is not None
            same(together.pooled[i], pooled[i])
            same(alone.pooled[0], model.get_text_features(**own).pooler_output[0])


def test_clap_keeps_the_contract_with_both_towers(clap: tuple[Clap, Any, Any, Any]) -> None:
    ours = clap[0]
    assert ours.modalities == ("audio", "text")
    check_encoder(ours, raw([tone(2.6), *SHORT[:2]]))
    check_encoder(ours, TEXTS[:4], role="query")
    with pytest.raises(ValueError, match="1 texts among 2 items"):
        ours.prepare(["a text", (SHORT[0], RATE)], "query")
