"""`Ragged`: several token matrices of different lengths, stored end to end.

The one type in which embeddings travel: heads return it, MaxSim scores it, the index stores it.
A single vector is a Ragged whose items have one row. This module knows no model, no role and no
similarity; it only keeps track of which rows belong to which item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Ragged:
    """B items; item i owns the rows `values[offsets[i]:offsets[i + 1]]`.

    Args:
        values: (N, D) floating point, any device, any dtype; the rows of all items end to end.
        offsets: (B + 1,) int64, always on the CPU: starts at 0, never falls, ends at N. An item
            without rows is allowed.

    Raises:
        ValueError: shapes, dtype, device or order are not as above.
    """

    values: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise ValueError(f"Ragged values must be (N, D), got shape {tuple(self.values.shape)}")
        offsets = self.offsets
        if offsets.ndim != 1 or len(offsets) == 0 or offsets.dtype != torch.int64:
            raise ValueError(
                "Ragged offsets must be one int64 row of B + 1 numbers, "
                f"got {offsets.dtype} {tuple(offsets.shape)}"
            )
        if offsets.device.type != "cpu":
            raise ValueError(f"Ragged offsets live on the CPU, got {offsets.device}: use .cpu()")
        first, last = int(offsets[0]), int(offsets[-1])
        if first != 0 or last != len(self.values) or bool((offsets.diff() < 0).any()):
            raise ValueError(
                f"Ragged offsets must rise from 0 to the number of rows ({len(self.values)}), "
                f"got first {first}, last {last}"
            )

    @classmethod
    def from_list(cls, items: Sequence[Tensor], *, dim: int | None = None) -> Ragged:
        """One item for each (n_i, D) tensor. `dim` is needed only where `items` may be empty."""
        for i, item in enumerate(items):
            if item.ndim != 2 or item.shape[1] != items[0].shape[-1]:
                raise ValueError(
                    f"item {i} has shape {tuple(item.shape)}, wanted (n, {items[0].shape[-1]})"
                )
        if not items:
            if dim is None:
                raise ValueError("no items: pass dim=..., the width cannot be read off them")
            return cls(torch.empty(0, dim), torch.zeros(1, dtype=torch.int64))
        return cls(torch.cat(list(items)), _offsets([len(item) for item in items]))

    @classmethod
    def from_padded(cls, tokens: Tensor, mask: Tensor | None = None) -> Ragged:
        """The real rows of padded `tokens` (B, T, D), in order; `mask` (B, T) is True for a real
        row (it need not be at the left), None: all are. Differentiable. Without a mask the values
        are a view."""
        if tokens.ndim != 3:
            raise ValueError(f"padded tokens must be (B, T, D), got shape {tuple(tokens.shape)}")
        if mask is None:
            count, length, dim = tokens.shape
            return cls(tokens.reshape(count * length, dim), _offsets([length] * count))
        check_mask(mask, tokens)
        rows = mask.flatten().nonzero().squeeze(1)
        return cls(tokens.flatten(0, 1).index_select(0, rows), _offsets(mask.sum(1)))

    @classmethod
    def of(cls, source: Any, *, dim: int | None = None) -> Ragged:
        """Token matrices of another library as they come from it; a Ragged is returned as it is.

        source: something with `.values` and `.offsets`, a sequence of (n_i, D) or (1, n_i, D) tensors
            or arrays (what sentence-transformers' `encode_document` and PyLate's `encode` return), or one
            (B, T, D) tensor or array. Tensors keep device, dtype and gradient. Except where there are
            offsets, rows of zeros at either end of an item are padding, as colpali-engine's models
            write it, and are left out.
        dim: as in `from_list`.

        Raises ValueError (shapes), TypeError (not numbers).
        """
        if isinstance(source, Ragged):
            return source
        if hasattr(source, "offsets") and not callable(getattr(source, "values", None)):
            offsets = torch.as_tensor(source.offsets, dtype=torch.int64)
            return cls(torch.as_tensor(source.values), offsets.cpu())
        return cls.from_list([_unpadded(torch.as_tensor(item)) for item in source], dim=dim)

    @classmethod
    def concat(cls, parts: Sequence[Ragged]) -> Ragged:
        """The items of all parts, in order. At least one part (it may hold no items)."""
        if not parts:
            raise ValueError("concat needs at least one Ragged: its width and dtype cannot be read")
        widths = sorted({part.dim for part in parts})
        if len(widths) > 1:
            raise ValueError(f"cannot concat Ragged of different widths: {widths}")
        if len(parts) == 1:
            return parts[0]
        lengths = torch.cat([part.lengths for part in parts])
        return cls(torch.cat([part.values for part in parts]), _offsets(lengths))

    @property
    def dim(self) -> int:
        """D, the width of a row."""
        return self.values.shape[1]

    @property
    def lengths(self) -> Tensor:
        """(B,) int64 on the CPU: rows of each item."""
        return self.offsets.diff()

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Tensor:
        """Item i as a (n_i, D) view; negative i counts from the end."""
        size = len(self)
        if not -size <= i < size:
            raise IndexError(f"item {i} of a Ragged with {size} items")
        i %= size
        return self.values[int(self.offsets[i]) : int(self.offsets[i + 1])]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.values.split(self.lengths.tolist()) if len(self) else ())

    def take(self, indices: Sequence[int] | Tensor) -> Ragged:
        """The items at `indices`, in that order; repeats are allowed. Differentiable."""
        chosen = self._chosen(indices)
        lengths = self.lengths[chosen]
        offsets = _offsets(lengths)
        shift = self.offsets[:-1][chosen] - offsets[:-1]
        rows = torch.arange(int(offsets[-1])) + shift.repeat_interleave(lengths)
        return Ragged(self.values.index_select(0, rows.to(self.device)), offsets)

    def pad(self, indices: Sequence[int] | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rectangular form of all items, or of those at `indices` in that order.

        Returns:
            tokens (B, T, D), zeros after an item's last row, T the longest item (0: no rows at
            all); mask (B, T) bool, True = a real row. Both on the device of `values`.
            Differentiable.
        """
        chosen = self._chosen(range(len(self)) if indices is None else indices)
        lengths = self.lengths[chosen]
        longest = int(lengths.max()) if len(chosen) else 0
        if longest == 0:
            empty = self.values.new_zeros(len(chosen), 0, self.dim)
            return empty, torch.zeros(len(chosen), 0, dtype=torch.bool, device=self.device)
        steps = torch.arange(longest)
        mask = steps < lengths[:, None]
        rows = torch.where(mask, self.offsets[:-1][chosen][:, None] + steps, 0).to(self.device)
        tokens = self.values.index_select(0, rows.flatten())  # (B * T, D)
        if mask.all():
            return tokens.view(len(chosen), longest, self.dim), mask.to(self.device)
        mask = mask.to(self.device)
        tokens = tokens.view(len(chosen), longest, self.dim).masked_fill(~mask[..., None], 0)
        return tokens, mask

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Ragged:
        """The same items on another device or in another dtype (offsets stay on the CPU)."""
        values = self.values.to(device=device or self.device, dtype=dtype or self.dtype)
        return Ragged(values, self.offsets)

    def numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """(values, offsets) as arrays on the CPU; bfloat16, which numpy lacks, becomes float32."""
        values = self.values.detach().cpu()
        if values.dtype == torch.bfloat16:
            values = values.float()
        return values.numpy(), self.offsets.numpy()

    def __repr__(self) -> str:
        return (
            f"Ragged({len(self)} items, {len(self.values)} rows of width {self.dim}, "
            f"{self.dtype}, {self.device})"
        )

    def _chosen(self, indices: Sequence[int] | Tensor) -> Tensor:
        chosen = torch.as_tensor(indices, dtype=torch.int64).cpu()
        wrong = (chosen < -len(self)) | (chosen >= len(self))
        if wrong.any():
            raise IndexError(
                f"items {chosen[wrong].tolist()[:5]} of a Ragged with {len(self)} items"
            )
        return chosen


def check_mask(mask: Tensor, tokens: Tensor) -> None:
    """The mask of padded tokens is bool and has their shape without the width; else ValueError."""
    if mask.dtype != torch.bool or mask.shape != tokens.shape[:-1]:
        raise ValueError(
            f"the mask of tokens {tuple(tokens.shape)} must be bool {tuple(tokens.shape[:-1])} "
            f"with True for a real token, got {mask.dtype} {tuple(mask.shape)}"
        )


def _unpadded(item: Tensor) -> Tensor:
    """The rows of an item (n, D) from the first to the last that is not all zeros: a view."""
    if item.ndim == 3 and len(item) == 1:
        item = item[0]
    if item.ndim != 2:
        return item  # from_list says what is wrong with it
    real = item.detach().ne(0).any(1).nonzero()[:, 0]
    return item[int(real[0]) : int(real[-1]) + 1] if len(real) else item[:0]


def _offsets(lengths: Sequence[int] | Tensor) -> Tensor:
    """(B,) lengths -> (B + 1,) int64 running total from 0, on the CPU."""
    steps = torch.as_tensor(lengths, dtype=torch.int64).cpu()
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)])
