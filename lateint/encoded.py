"""What encoding gives: vectors of items and, where there are any, their places in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lateint.ragged import Ragged
from modalities.grid import TokenGrid


@dataclass(frozen=True)
class Encoded:
    """Items as vectors, in input order.

    tokens: the head's rows.
    boxes: for each row x0, y0, x1, y1 as fractions of its item's width and height, origin top
        left (float32, on the CPU, same offsets as `tokens`); None where rows have no place: text
        encoders without layout, and heads with one row an item.
    seconds: for each row of a recording, from when to when it stands (as `boxes`); else None.
    """

    tokens: Ragged
    boxes: Ragged | None = None
    seconds: Ragged | None = None

    def __len__(self) -> int:
        return len(self.tokens)


def boxes_of(grid: TokenGrid, modality: str, kept: Tensor) -> list[Tensor] | None:
    """(n_i, 4) for the kept tokens, (B, T) bool, of each item: the encoder's boxes, else the cells
    of a picture's lattice."""
    if grid.boxes is not None:
        return of_kept(grid.boxes, kept)
    if modality not in ("image", "page"):
        return None
    cells = (_cells(rows, cols) for rows, cols in grid.shape)
    return [item[stays[: len(item)]] for item, stays in zip(cells, kept.cpu(), strict=True)]


def of_kept(facts: Tensor, kept: Tensor) -> list[Tensor]:
    """(B, T, n), what a grid says of its tokens -> (n_i, n) float32 of the kept ones, (B, T) bool."""
    return [item[stays] for item, stays in zip(facts.float().cpu(), kept.cpu(), strict=True)]


def _cells(rows: int, cols: int) -> Tensor:
    """(rows * cols, 4): the boxes of a lattice's cells, row by row."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    corners = torch.stack([x / cols, y / rows, (x + 1) / cols, (y + 1) / rows], dim=-1)
    return corners.view(-1, 4)
