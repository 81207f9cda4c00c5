"""Pictures as an open_clip model was trained on them: resized, cut or padded; where each patch lies.

open_clip's own steps do it, so the pixels are the same as theirs. Knows pictures; no tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modalities.image import MAX_SIDE

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_ASPECT = 64  # a longer picture is first cut to its middle, or resizing would need gigabytes
Box = tuple[float, float, float, float]


class ClipPictures:
    """Pictures -> pixels of the tower's size, and the part of the picture that they show.

    values: fields of `open_clip.transform.PreprocessCfg`. resize_mode "shortest" (open_clip's
    default) fills the tower's input and cuts off what stands over at the long side, so that part is
    not seen; "longest" shows the whole picture with bars beside it, "squash" the whole, stretched.
    Raises ValueError for values that do not fit.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        try:
            self.cfg = PreprocessCfg(**{k: _tupled(v) for k, v in values.items()})
        except (TypeError, AssertionError) as error:
            raise ValueError(f"preprocess: {error}: got {dict(values)}") from error
        _check(self.cfg)
        self.transform = image_transform_v2(self.cfg, is_train=False)
        self._steps = self.transform.transforms[:-3]  # then RGB, tensor, normalised
        size = self.cfg.size
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        """(height, width) of the tower's input."""

    def values(self) -> dict[str, Any]:
        """Back to JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.cfg).items()}

    def __call__(self, image: Image) -> tuple[np.ndarray, Box]:
        """An RGB picture -> (3, height, width) uint8, and x0, y0, x1, y1 of what it shows as
        fractions of the picture's width and height: inside 0..1 where something was cut off, beyond
        where there are bars."""
        width, height = image.size
        left, top = 0, 0
        if self.cfg.resize_mode != "squash":
            image, left, top = _middle(image, min(MAX_ASPECT, *self.size))
        first, *rest = self._steps
        resized = first(image)
        shown = resized
        for step in rest:
            shown = step(shown)
        across, x0, x1 = image.width, *_span(resized.width, self.size[1])
        down, y0, y1 = image.height, *_span(resized.height, self.size[0])
        box = (
            (left + x0 * across) / width,
            (top + y0 * down) / height,
            (left + x1 * across) / width,
            (top + y1 * down) / height,
        )
        flat = np.ascontiguousarray(np.asarray(shown).transpose(2, 0, 1))
        return flat, box


def patch_boxes(box: Box, rows: int, cols: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """The patches of an input that shows `box` of a picture, those that lie in bars left out.

    Returns their places in the lattice (T,) row by row, their boxes (T, 4) as fractions of the
    picture, float32, and (rows, cols) of those that stay: T = rows * cols.
    """
    x0, y0, x1, y1 = box
    xs = (x0 + (x1 - x0) * torch.arange(cols + 1, dtype=torch.float64) / cols).clamp(0, 1)
    ys = (y0 + (y1 - y0) * torch.arange(rows + 1, dtype=torch.float64) / rows).clamp(0, 1)
    across = ((xs[1:] - xs[:-1]) > 1e-9).nonzero()[:, 0]
    down = ((ys[1:] - ys[:-1]) > 1e-9).nonzero()[:, 0]
    row, col = torch.meshgrid(down, across, indexing="ij")
    row, col = row.flatten(), col.flatten()
    boxes = torch.stack([xs[col], ys[row], xs[col + 1], ys[row + 1]], dim=-1).float()
    return row * cols + col, boxes, (len(down), len(across))


def _middle(image: Image, aspect: int) -> tuple[Image, int, int]:
    """The middle of a picture with a side longer than `aspect` times the other, and where that
    begins: left, top."""
    width, height = image.size
    most = aspect * min(width, height)
    if max(width, height) <= most:
        return image, 0, 0
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most))), left, top


def _span(have: int, want: int) -> tuple[float, float]:
    """Where the middle `want` pixels of `have` begin and end, as fractions of `have`: as
    torchvision's CenterCrop rounds where it cuts, and open_clip where it pads."""
    start = round((have - want) / 2.0) if have >= want else -((want - have) // 2)
    return start / have, (start + want) / have


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check(cfg: Any) -> None:
    sides = (cfg.size,) if isinstance(cfg.size, int) else cfg.size
    good = isinstance(sides, tuple) and len(sides) <= 2
    if not good or not all(isinstance(s, int) and 1 <= s <= MAX_SIDE for s in sides):
        raise ValueError(f"preprocess: size must be 1 to {MAX_SIDE}, one or two, not {cfg.size}")
    for name in ("mean", "std"):
        numbers = getattr(cfg, name)
        if len(numbers) != 3 or not all(isinstance(n, (int, float)) for n in numbers):
            raise ValueError(f"preprocess: {name} must be 3 numbers, not {numbers}")
    if min(cfg.std) <= 0:
        raise ValueError(f"preprocess: std must be above 0, not {cfg.std}")
    if cfg.resize_mode not in ("shortest", "longest", "squash"):
        raise ValueError(f"preprocess: unknown resize_mode {cfg.resize_mode!r}")
    if cfg.interpolation not in ("bicubic", "bilinear", "random"):
        raise ValueError(f"preprocess: unknown interpolation {cfg.interpolation!r}")
