"""Where the image tokens of a vision-language model lie on the page: boxes and names, in order.

Knows how families lay patches out, from what their processors return; knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from modalities.vlm_families import Family

WHOLE = (0.0, 0.0, 1.0, 1.0)  # the box of what stands for the page as a whole


@dataclass(frozen=True)
class Cells:
    """Image tokens of one page, in the order in which the backbone reads them.

    boxes: (N, 4) x0, y0, x1, y1 as fractions of the page. names: N strings, "r0c0" for a row and
    column of the page's lattice, "page r0c0" for a row and column of a second look at the whole
    page. shape: (rows, cols) where they are one lattice, (1, N) where they are several.
    """

    boxes: Tensor
    names: list[str]
    shape: tuple[int, int]


def placed(inputs: dict[str, Tensor], image_id: int, family: Family) -> Tensor:
    """(L,) bool: which tokens of one prepared page are image tokens with a place on it."""
    places = inputs["input_ids"][0] == image_id
    if family.lattice == "rows":  # the second token is a marker spelt with the image token
        places = places & (torch.arange(len(places)) >= 2)
    return places


def cells(
    family: Family, processor: Any, inputs: dict[str, Tensor], count: int, size: tuple[int, int]
) -> Cells:
    """Places of the `count` image tokens of one prepared page of size (width, height).

    Raises ValueError where the processor's inputs do not make up the family's lattice: processor
    and family do not go together.
    """
    width, height = size
    if family.lattice == "split":
        _, rows, cols = processor.image_processor.get_number_of_image_patches(height, width, {})
        return _split(rows, cols, count)
    if family.lattice == "rows":
        # positions count rows and columns from 2; one more column is the marker behind each row
        rows, cols = (int(axis.max()) for axis in inputs["position_ids"][:, 0])
        rows, cols = rows - 1, cols - 2
        right, bottom = _padded(rows, cols, processor.image_processor.patch_size, size)
    elif family.lattice == "merged":
        _, rows, cols = inputs["image_grid_thw"][0].tolist()
        merge = processor.image_processor.merge_size
        rows, cols, right, bottom = rows // merge, cols // merge, 1.0, 1.0
    else:
        rows = cols = isqrt(count)
        right = bottom = 1.0
    if rows * cols != count:
        raise ValueError(f"{count} image tokens are no lattice of {rows} rows and {cols} columns")
    names = [f"r{r}c{c}" for r in range(rows) for c in range(cols)]
    return Cells(_lattice(rows, cols, right, bottom), names, (rows, cols))


def _split(rows: int, cols: int, count: int) -> Cells:
    """Tiles row by row, each a square lattice, then the page once more; or the page alone."""
    tiles = rows * cols
    side = isqrt(count // (tiles + 1))
    if side * side * (tiles + 1) != count:
        raise ValueError(f"{count} image tokens are no {tiles} square tiles and the whole page")
    own = [(r, c) for r in range(side) for c in range(side)]
    names = [
        f"r{tile // cols * side + r}c{tile % cols * side + c}"
        for tile in range(tiles)
        for r, c in own
    ]
    names += [f"page r{r}c{c}" if tiles else f"r{r}c{c}" for r, c in own]
    page = _lattice(side, side)
    if not tiles:
        return Cells(page, names, (side, side))
    corner = torch.tensor([[t % cols, t // cols] * 2 for t in range(tiles)]).float()  # (tiles, 4)
    spread = (page[None] + corner[:, None]) / torch.tensor([cols, rows, cols, rows])
    return Cells(torch.cat([spread.view(-1, 4), page]), names, (1, count))


def _lattice(rows: int, cols: int, right: float = 1.0, bottom: float = 1.0) -> Tensor:
    """(rows * cols, 4): cells row by row, of a lattice of which the page takes up the share
    (right, bottom); what stands over the page's edge is cut off."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    corners = torch.stack([x / cols, y / rows, (x + 1) / cols, (y + 1) / rows], -1).view(-1, 4)
    return (corners / torch.tensor([right, bottom, right, bottom])).clamp(0, 1)


def _padded(rows: int, cols: int, patch: int, size: tuple[int, int]) -> tuple[float, float]:
    """The share of a lattice of whole patches that the page itself takes up.

    The page was scaled by one factor, then padded to whole patches at the right and below. The
    factor is 1 where that gives this lattice, else it is known to within a patch.
    """
    width, height = size
    low = max((cols - 1) * patch / width, (rows - 1) * patch / height)
    high = min(cols * patch / width, rows * patch / height)
    scale = 1.0 if low < 1.0 <= high else (low + high) / 2
    right, bottom = width * scale / (cols * patch), height * scale / (rows * patch)
    return min(1.0, right), min(1.0, bottom)
