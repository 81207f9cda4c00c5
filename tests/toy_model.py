"""A real, tiny model for tests: hashed words, no training, no download, the same answer every time.

`HashedText` gives each word its own nearly orthogonal unit vector, so MaxSim counts the words that
query and document share. `ColourPage` reads the colours of a page's cells into the same space.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lateint.model import LateInteractionModel
from modalities.encoder import Batch, Encoder, Role
from modalities.grid import TokenGrid

DIM = 64
_WORD = re.compile(r"\w+")


def word_vector(word: str) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(word.lower().encode()).digest()[:8], "little") >> 1
    return nn.functional.normalize(
        torch.randn(DIM, generator=torch.Generator().manual_seed(seed)), dim=0
    )


class HashedText(Encoder):
    name = "hashed-text"
    modality = "text"
    dim = DIM

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        items = [torch.stack([word_vector(w) for w in self.labels(text, role)]) for text in raw]
        return _padded(items, tuple((1, len(item)) for item in items), role)

    def forward(self, batch: Batch) -> TokenGrid:
        assert batch.shape is not None
        return TokenGrid(batch.inputs["tokens"] * self.scale, batch.inputs["mask"], batch.shape)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return [len(self.labels(text, role)) for text in raw]

    def labels(self, item: Any, role: Role) -> list[str]:
        return [f"[{role}]", *_WORD.findall(item)]


class ColourPage(Encoder):
    """Pages and pictures: 6 x 4 cells, each the vector of the word for its colour, so that the
    query "red" finds the page with a red cell, and where it is."""

    name = "colour-page"
    modality = "page"
    dim = DIM
    grid = (6, 4)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        items = [torch.stack([word_vector(w) for w in self.labels(x, role)]) for x in raw]
        return _padded(items, (self.grid,) * len(items), role)

    def forward(self, batch: Batch) -> TokenGrid:
        assert batch.shape is not None
        return TokenGrid(batch.inputs["tokens"] * self.scale, batch.inputs["mask"], batch.shape)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return [self.grid[0] * self.grid[1]] * len(raw)

    def labels(self, item: Any, role: Role) -> list[str]:
        small = item.convert("RGB").resize(self.grid[::-1], resample=4)  # the mean of each cell
        flat = small.tobytes()
        cells = [flat[i : i + 3] for i in range(0, len(flat), 3)]
        return [min(COLOURS, key=lambda name: _distance(COLOURS[name], cell)) for cell in cells]


COLOURS = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "violet": (160, 0, 255),
    "orange": (255, 140, 0),
}


def _distance(a: Sequence[int], b: Sequence[int]) -> int:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def _padded(items: list[Tensor], shape: tuple[tuple[int, int], ...], role: Role) -> Batch:
    lengths = torch.tensor([len(item) for item in items], dtype=torch.long)
    if not items:
        tokens = torch.zeros(0, 0, DIM)
    else:
        tokens = nn.utils.rnn.pad_sequence(items, batch_first=True)
    mask = torch.arange(tokens.shape[1])[None] < lengths[:, None]
    return Batch({"tokens": tokens, "mask": mask}, shape, role)


def toy_model(page: Encoder | None = None, scale: float = 1.0) -> LateInteractionModel:
    """Text and pages in one 64-wide space, multi-vector."""
    return LateInteractionModel({"text": HashedText(scale), "page": page or ColourPage()})
