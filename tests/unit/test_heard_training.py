"""scripts/heard_data.py, scripts/train_sense.py: contexts learn from what the ear gives, as it gives it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modalities import words
from modalities.hearing import RATE, Heard
from modalities.lexicon import MEANING, Lexicon
from modalities.page import PageText
from modalities.speech import Impression, SpeechReader

TEXTS = [
    *("press one for the kitchen", "press two for the kitchen", "press one for the garden"),
    *("the garden is closed", "the kitchen is closed today", "water the garden today"),
    *("one two three", "two three four", "three for the garden", "close the kitchen door"),
    *("open the door", "open the garden door", "is the water cold", "cold water for the kitchen"),
]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    import heard_data
    import train_context
    import train_sense

    return type(
        "Scripts", (), {"heard": heard_data, "context": train_context, "sense": train_sense}
    )


def lexicon() -> Lexicon:
    spelling = sorted({word for text in TEXTS for word in text.split()})
    meanings = torch.randn(len(spelling), MEANING, generator=torch.Generator().manual_seed(1)) * 0.1
    return Lexicon.make(spelling, meanings)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """All texts heard, every other one in doubt: its second word may have been another."""
    rows: list[list[str]] = []
    for i, text in enumerate(TEXTS):
        rows += [text.split(), ["gardn", "dor"] if i % 2 else []]
    path = tmp_path / "000.safetensors"
    save_file(
        {
            "vectors": words.vectors([word for row in rows for word in row]).half(),
            "letters": torch.tensor([len(word) for row in rows for word in row]),
            "offsets": torch.tensor([0, *map(len, rows)]).cumsum(0),
            "texts": torch.frombuffer(bytearray("\n".join(TEXTS).encode()), dtype=torch.uint8),
        },
        str(path),
    )
    return path


def heard(vectors: Tensor, letters: Tensor) -> Heard:
    seconds = torch.arange(len(letters))[:, None] * 0.1 + torch.tensor([0.0, 0.1])
    return Heard(vectors, seconds, letters, torch.ones(len(letters)), [""] * len(letters))


def models(scripts: Any) -> tuple[Any, SpeechReader]:
    """The trainer's model and an ear with the same contexts."""
    torch.manual_seed(3)
    model = scripts.context.Model(lexicon()).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    text = PageText(lexicon())
    text.layout, text.query = model.layout, model.query
    return model, SpeechReader(text).eval()


@torch.inference_mode()
@pytest.mark.parametrize("role", ["query", "document"])
def test_training_sees_what_the_ear_gives(
    scripts: Any, part: Path, role: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ear = models(scripts)
    utterances = scripts.heard.Utterances.load([part])
    spoken = scripts.sense.Spoken(utterances, scripts.sense.Spelt(lexicon()), random.Random(0))
    numbers = [0, 1, 5]
    trained = getattr(spoken, {"query": "asked", "document": "recordings"}[role])(model, numbers)
    impressions = iter(
        Impression(heard(*utterances.said[i]), heard(*utterances.instead[i]), torch.zeros(0, 128))
        for i in numbers
    )
    monkeypatch.setattr(ear, "listen", lambda samples: next(impressions))
    grid = ear(ear.prepare([(torch.zeros(RATE).numpy(), RATE)] * 3, role))
    for i in range(3):
        torch.testing.assert_close(
            trained.tokens[i][trained.mask[i]], grid.tokens[i][grid.mask[i]], rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(trained.pooled, grid.pooled, rtol=1e-4, atol=1e-5)


def test_what_was_heard_is_told_from_texts_that_share_words(scripts: Any, part: Path) -> None:
    torch.manual_seed(0)
    utterances = scripts.heard.Utterances.load([part])
    assert [" ".join(text) for text in utterances.texts] == TEXTS
    spoken = scripts.sense.Spoken(utterances, scripts.sense.Spelt(lexicon()), random.Random(0))
    assert ["open", "the", "door"] in spoken
    assert ["open", "the", "gate"] not in spoken
    first = utterances.texts.index(("open", "the", "door"))
    assert utterances.texts.index(("open", "the", "garden", "door")) in spoken.alike[first][:3]
    model = scripts.context.Model(lexicon())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    curve = []
    for _ in range(15):
        spoken.rng.seed(0)  # the same batch again and again
        losses, facts = spoken.losses(model, 8)
        total = torch.stack([*losses.values()]).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        curve.append(total.item())
    assert curve[-1] < 0.8 * curve[0]
    assert facts.keys() >= {"spoken_multi_first", "typed_multi_first"}
