"""transformers' audio models through `lateint.load`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_audio
import torch
from tiny_audio import tone

import lateint
from lateint.checkpoints import sniff
from lateint.checkpoints.layouts import AUDIO_MODELS
from lateint.config import ConfigError
from modalities.audio_families import FAMILIES
from modalities.clap import Clap

RATE = 16_000


def saved(folder: Path, *parts: Any) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder


def test_the_table_of_layouts_knows_every_family() -> None:
    bare = {name for name, row in FAMILIES.items() if row.backbone} - {"clap_audio_model"}
    assert {*bare, "clap"} == AUDIO_MODELS


@pytest.mark.parametrize("name", ["ast", "whisper", "wav2vec2", "hubert"])
def test_a_bare_backbone_needs_a_projection(name: str, tmp_path: Path) -> None:
    saved(tmp_path, *tiny_audio.BACKBONES[name]())
    assert sniff(tmp_path).name == "transformers-audio"
    with pytest.raises(ConfigError, match=r"bare .* backbone.*dim=128"):
        lateint.load(tmp_path)
    model = lateint.load(tmp_path, dim=16, dtype="bfloat16")
    assert list(model.encoders) == ["audio"] and model.dim == 16
    assert model.encoder("audio").dtype == torch.bfloat16
    tokens = model.encode_documents([(tone(1.0), RATE)], modality="audio")
    assert tokens.dim == 16 and len(tokens[0])


def test_heads_of_tasks_are_dropped(tmp_path: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    model, features = tiny_audio.whisper()
    saved(tmp_path, WhisperForConditionalGeneration(model.config), features)
    assert lateint.load(tmp_path, dim=8).dim == 8


def test_clap_has_a_space_of_its_own(tmp_path: Path) -> None:
    from transformers import ClapProcessor

    model, tokenizer, features = tiny_audio.clap()
    saved(tmp_path, model, ClapProcessor(features, tokenizer))
    ours = lateint.load(tmp_path)
    assert ours.dim == 24 and ours.encoder("audio") is ours.encoder("text")
    assert isinstance(ours.encoder("text"), Clap)
    sounds = [tone(1.0), tone(0.5, seed=1)]
    inputs = features(sounds, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        wanted = model.get_audio_features(**inputs).pooler_output
        words = tokenizer(["the loss"], return_tensors="pt", return_token_type_ids=False)
        said = model.get_text_features(**words).pooler_output
    raw = [(sound, RATE) for sound in sounds]
    found = ours.encode_documents(raw, modality="audio", head="single").values
    assert float((found - wanted).abs().max()) < 1e-5
    asked = ours.encode_queries(["the loss"], head="single").values
    assert float((asked - said).abs().max()) < 1e-5
    ours.save(tmp_path / "ours")
    again = lateint.load(tmp_path / "ours")
    assert torch.equal(
        again.encode_queries(["the loss"]).values, ours.encode_queries(["the loss"]).values
    )
    with pytest.raises(ConfigError, match="joint space has 24 numbers"):
        lateint.load(tmp_path, dim=128)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"no tokenizer; looked for tokenizer\.json"):
        lateint.load(tmp_path)


def test_hostile_folders(tmp_path: Path) -> None:
    saved(tmp_path, *tiny_audio.hubert())
    config = json.loads((tmp_path / "config.json").read_text())

    def refused(why: str, **changes: Any) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(ConfigError, match=why):
            lateint.load(tmp_path, dim=8)

    refused("2000000 layers, the limit is 1000", num_hidden_layers=2_000_000)
    refused("describes .* weights, the files have", hidden_size=2**18)
    refused("cannot be read", conv_kernel=[10])
    refused("does not fit|cannot be read", intermediate_size=47)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError):
        lateint.load(tmp_path, dim=8)
    weights.write_bytes(whole)
    place = tmp_path / "preprocessor_config.json"
    place.write_text(place.read_text().replace("16000", "16000000"))
    with pytest.raises(ConfigError, match="sampling_rate must be a number above 0"):
        lateint.load(tmp_path, dim=8)
    place.unlink()
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json is missing"):
        lateint.load(tmp_path, dim=8)
