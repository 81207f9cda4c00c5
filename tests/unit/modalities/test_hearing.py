"""From frames to words: what CTC's peaks become, without any weights."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from modalities import words
from modalities.hearing import (
    BLANK,
    FFT,
    LATIN,
    MELS,
    RATE,
    SOUNDS,
    SPACE,
    Hearing,
    Whisper,
    heard,
    log_mel,
    mel_filters,
    units,
    vocabulary,
)


def spelt(text: str, *, sure: float = 0.98, gap: int = 1, stay: int = 2) -> Tensor:
    """Log probabilities of a text said letter by letter: `stay` frames each, `gap` blanks between."""
    rows: list[int] = []
    for letter in text:
        rows += [SPACE if letter == " " else LATIN.index(letter)] * stay + [BLANK] * gap
    chance = torch.full((len(rows), SOUNDS), (1 - sure) / (SOUNDS - 1))
    chance[torch.arange(len(rows)), rows] = sure
    return chance.log()


def test_mel_filters_are_those_of_transformers() -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    theirs = audio_utils.mel_filter_bank(
        FFT // 2 + 1, MELS, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney"
    )
    torch.testing.assert_close(mel_filters(), torch.tensor(theirs).float(), atol=1e-7, rtol=1e-5)


def test_spectrogram_is_that_of_transformers() -> None:
    from transformers import WhisperFeatureExtractor

    samples = torch.randn(RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    samples[: RATE // 4] = 0
    whole = F.pad(samples, (0, 29 * RATE))
    theirs = WhisperFeatureExtractor()(whole.numpy(), sampling_rate=RATE, return_tensors="pt")
    torch.testing.assert_close(log_mel(whole), theirs.input_features[0], atol=2e-3, rtol=1e-3)


def test_encoder_is_that_of_transformers() -> None:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536
    )
    theirs, ours = WhisperEncoder(config).eval(), Whisper().eval()
    own = dict(ours.named_parameters())
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            for old, new in (
                ("self_attn_layer_norm", "norm_seen"), ("final_layer_norm", "norm_mlp"),
                ("layer_norm", "norm"), ("self_attn.out_proj", "out"), ("fc1", "rise"),
                ("fc2", "fall"), ("embed_positions.weight", "positions"),
            ):  # fmt: skip
                name = name.replace(old, new)
            for i, part in enumerate("qkv"):
                if f"self_attn.{part}_proj" in name:
                    layer, kind = name.split(f"self_attn.{part}_proj.")
                    own[f"{layer}qkv.{kind}"][384 * i : 384 * (i + 1)] = tensor
                    if part == "k":
                        own[f"{layer}qkv.bias"][384:768] = 0
            if "self_attn" not in name:
                own[name].copy_(tensor)
        mel = torch.randn(1, MELS, 3000)
        torch.testing.assert_close(ours(mel), theirs(mel).last_hidden_state, atol=1e-4, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(LATIN, min_size=1, max_size=9), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_words_said_clearly_are_the_words_as_written(said: list[str], gap: int, stay: int) -> None:
    found = heard(spelt(" ".join(said), sure=1 - 1e-7, gap=gap, stay=stay))
    assert found.letters.tolist() == [len(word) for word in said]
    same = (found.vectors * words.vectors(said)).sum(1)
    assert (same > 0.999).all()
    assert (found.seconds[:, 0] < found.seconds[:, 1]).all()
    assert (found.seconds[1:, 0] >= found.seconds[:-1, 1]).all()
    assert (found.certainty > 0.99).all()


def test_doubt_between_two_letters_stays_doubt() -> None:
    chance = spelt("cat").exp()
    at = [i for i in range(len(chance)) if chance[i].argmax() == LATIN.index("a")]
    chance[at, LATIN.index("a")], chance[at, LATIN.index("u")] = 0.52, 0.46
    vector = heard(chance.log()).vectors[0]
    cat, cut, dog = words.vectors(["cat", "cut", "dog"])
    assert min(float(vector @ cat), float(vector @ cut)) > float(vector @ dog) + 0.3


def test_a_letter_that_may_not_be_there_is_between_both_words() -> None:
    chance = spelt("boat").exp()
    at = [i for i in range(len(chance)) if chance[i].argmax() == LATIN.index("a")]
    chance[at, LATIN.index("a")], chance[at, BLANK] = 0.5, 0.48
    vector = heard(chance.log()).vectors[0]
    boat, bot = words.vectors(["boat", "bot"])
    sure = heard(spelt("boat")).vectors[0]
    assert float(vector @ bot) > float(sure @ bot) + 0.05
    assert float(vector @ boat) > 0.6


def test_what_is_not_spelt_as_it_sounds_is_near_its_word() -> None:
    vector = heard(spelt("coferens", sure=0.75)).vectors[0]
    as_it_sounds, as_written = words.vectors(["coferens", "conference"])
    assert float(vector @ as_written) > float(as_it_sounds @ as_written) + 0.05


def test_the_vocabulary_is_folded_words_once_each() -> None:
    padded, sizes, vectors = vocabulary()
    spelling = [
        "".join(LATIN[c] for c in row[:n].tolist()) for row, n in zip(padded, sizes, strict=True)
    ]
    assert len(set(spelling)) == len(spelling) == len(vectors) > 10_000
    assert all(word == next(words.split(word))[0] for word in spelling[::97])


def test_a_letter_twice_is_heard_twice_and_a_pause_divides() -> None:
    assert heard(spelt("poor")).letters.tolist() == [4]
    assert len(units(spelt("poor"))[1]) == 4
    silence = torch.full((40, SOUNDS), math.log(1e-4))
    silence[:, BLANK] = 0
    assert heard(torch.cat([spelt("to"), silence, spelt("day")])).letters.tolist() == [2, 3]


def test_nothing_is_heard_in_silence_or_mumbling() -> None:
    silence = torch.full((30, SOUNDS), math.log(1e-5))
    silence[:, BLANK] = 0
    mumbling = torch.full((30, SOUNDS), -math.log(SOUNDS))
    for frames in (silence, mumbling, silence[:0]):
        found = heard(frames)
        assert found.vectors.shape == (0, words.WIDTH) and found.seconds.shape == (0, 2)


@torch.inference_mode()
def test_padding_changes_nothing_and_odd_lengths_fit() -> None:
    torch.manual_seed(0)
    net = Hearing().eval()
    frames = torch.randn(2, 21, 384)
    mask = torch.arange(21)[None] < torch.tensor([21, 13])[:, None]
    both = net.spell(frames, mask)
    assert both.shape == (2, 21, SOUNDS)
    torch.testing.assert_close(both.exp().sum(-1), torch.ones(2, 21))
    alone = net.spell(frames[1:, :13], mask[1:, :13])
    torch.testing.assert_close(both[1, :13], alone[0], atol=1e-5, rtol=1e-4)
