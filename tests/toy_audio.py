"""A real, tiny audio encoder in the space of `toy_model`: it hears whether a tone is low or high.

Each half second becomes the vector of the word for its strongest frequency, so that the query
"high" finds the recording with a whistle, and the second at which it is heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import nn
from toy_model import DIM, HashedText, word_vector

from lateint.model import LateInteractionModel
from modalities.encoder import Batch, Encoder, Role
from modalities.grid import TokenGrid
from modalities.media import as_audio, resample

RATE, FRAME = 8000, 4000
PITCHES = {"low": 200, "middle": 800, "high": 3000}


class Pitch(Encoder):
    name = "pitch"
    modality = "audio"
    dim = DIM

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        items = [torch.stack([word_vector(w) for w in self.labels(x, role)]) for x in raw]
        tokens = nn.utils.rnn.pad_sequence(items, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([[len(item)] for item in items])
        return Batch(
            {"tokens": tokens, "mask": mask}, tuple((1, len(item)) for item in items), role
        )

    def forward(self, batch: Batch) -> TokenGrid:
        assert batch.shape is not None
        mask = batch.inputs["mask"]
        edges = torch.arange(mask.shape[1] + 1) * (FRAME / RATE)
        seconds = torch.stack([edges[:-1], edges[1:]], dim=-1).expand(len(mask), -1, -1)
        tokens = batch.inputs["tokens"] * self.scale
        return TokenGrid(tokens, mask, batch.shape, seconds=seconds)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return [len(self.labels(x, role)) for x in raw]

    def labels(self, item: Any, role: Role) -> list[str]:
        sound = resample(as_audio(item), RATE)
        frames = [sound[i : i + FRAME] for i in range(0, len(sound), FRAME)]
        return [_pitch(frame) for frame in frames]


def _pitch(frame: np.ndarray) -> str:
    if np.abs(frame).max() < 0.01:
        return "silence"
    strongest = np.abs(np.fft.rfft(frame)).argmax() * RATE / len(frame)
    return min(PITCHES, key=lambda name: abs(PITCHES[name] - strongest))


def write_pitches(path: Path, *parts: tuple[str, float], rate: int = 16_000) -> Path:
    """A recording of tones one after the other: ("low", 12.5) is twelve and a half seconds."""
    pieces = []
    for name, seconds in parts:
        time = np.arange(round(seconds * rate)) / rate
        loud = 0.0 if name == "silence" else 0.5
        pieces.append(loud * np.sin(2 * np.pi * PITCHES.get(name, 0) * time))
    soundfile.write(path, np.concatenate(pieces), rate)
    return path


def listening_model() -> LateInteractionModel:
    """Text and recordings in one 64-wide space, multi-vector."""
    return LateInteractionModel({"text": HashedText(), "audio": Pitch()})
