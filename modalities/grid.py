"""`TokenGrid`: what every encoder returns, a padded batch of tokens in the shared width.

Knows tensors and their shapes; nothing of backbones, of what a token stands for, or of retrieval.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenGrid:
    """Tokens of B items, padded at the right to the longest, T.

    tokens: (B, T, D) floating point, in the shared width D. Not necessarily of unit length: heads
        normalise (or keep the length as a token's weight). What stands under a false mask means
        nothing.
    mask: (B, T) bool on the same device; True = a real token. Padding is at the right only.
    shape: for each item (rows, cols) of its lattice with rows * cols real tokens in row-major
        order: (1, T_i) for text, words and the frames of a recording, (H, W) for the patches of a picture.
    pooled: (B, D) one vector for the whole item, where the encoder has one.
    boxes: (B, T, 4) x0, y0, x1, y1 as fractions of the item's width and height, origin top left;
        given where tokens do not sit on a regular lattice (the page reader: one token a word).
    seconds: (B, T, 2) float32, where in its recording each token begins and ends; of recordings.

    Raises ValueError where sizes do not fit. That costs nothing on any device; what needs the
    mask's values (a copy from the device) is in `verify`.
    """

    tokens: Tensor
    mask: Tensor
    shape: tuple[tuple[int, int], ...]
    pooled: Tensor | None = None
    boxes: Tensor | None = None
    seconds: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tokens.dim() != 3 or not self.tokens.is_floating_point():
            raise ValueError(f"tokens must be floats (B, T, D), not {_what(self.tokens)}")
        batch, length, width = self.tokens.shape
        if self.mask.shape != (batch, length) or self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool ({batch}, {length}), not {_what(self.mask)}")
        if self.mask.device != self.tokens.device:
            raise ValueError(f"mask is on {self.mask.device}, tokens are on {self.tokens.device}")
        if len(self.shape) != batch:
            raise ValueError(f"shape has {len(self.shape)} entries for {batch} items")
        for i, (rows, cols) in enumerate(self.shape):
            if rows < 0 or cols < 0 or rows * cols > length:
                raise ValueError(f"item {i} has shape ({rows}, {cols}), of {length} tokens")
        if self.pooled is not None and self.pooled.shape != (batch, width):
            raise ValueError(f"pooled must be ({batch}, {width}), not {_what(self.pooled)}")
        if self.boxes is not None and self.boxes.shape != (batch, length, 4):
            raise ValueError(f"boxes must be ({batch}, {length}, 4), not {_what(self.boxes)}")
        if self.seconds is not None and self.seconds.shape != (batch, length, 2):
            raise ValueError(f"seconds must be ({batch}, {length}, 2), not {_what(self.seconds)}")

    def __len__(self) -> int:
        """Number of items, B."""
        return self.tokens.shape[0]

    @property
    def dim(self) -> int:
        """Width of a token, D."""
        return self.tokens.shape[2]

    def verify(self) -> None:
        """Checks values: padding at the right, shape agreeing with the mask, real tokens finite.

        Raises ValueError naming the first item that is wrong. Copies the mask from its device.
        """
        counts = self.mask.sum(1).tolist()
        for i, (count, (rows, cols)) in enumerate(zip(counts, self.shape, strict=True)):
            if count != rows * cols:
                raise ValueError(f"item {i} has {count} real tokens and shape ({rows}, {cols})")
            if not bool(self.mask[i, :count].all()):
                raise ValueError(f"item {i} is padded at the left: padding belongs at the right")
            if not bool(torch.isfinite(self.tokens[i, :count]).all()):
                raise ValueError(f"item {i} has tokens that are not finite")
        if self.pooled is not None and not bool(torch.isfinite(self.pooled).all()):
            raise ValueError("pooled has values that are not finite")
        if self.boxes is not None:
            real = self.boxes[self.mask.to(self.boxes.device)]
            if not bool(((real >= 0) & (real <= 1)).all()):
                raise ValueError("boxes must be fractions of the item's size, 0 to 1")
        if self.seconds is not None:
            begin, end = self.seconds[self.mask.to(self.seconds.device)].unbind(-1)
            if not bool(((begin >= 0) & (begin <= end) & torch.isfinite(end)).all()):
                raise ValueError("seconds must be 0 or more, and no token may end before it begins")

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> TokenGrid:
        """On another device; tokens and pooled in another dtype (boxes and seconds keep theirs)."""

        def move(tensor: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
            return None if tensor is None else tensor.to(device=device, dtype=dtype)

        return TokenGrid(
            tokens=self.tokens.to(device=device, dtype=dtype),
            mask=self.mask.to(device=device),
            shape=self.shape,
            pooled=move(self.pooled, dtype),
            boxes=move(self.boxes),
            seconds=move(self.seconds),
        )


def _what(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
