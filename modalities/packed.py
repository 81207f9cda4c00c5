"""Weights on the disk: matrices as int8 with a scale for each row, the rest in half precision.

A row's scale is its largest magnitude over 127, so the error of a weight is at most 0.4 % of that.
Knows tensors by name; nothing of what they are for.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".scale"  # after a matrix's name: its rows' scales
SMALL = 4096  # numbers below which a tensor stays in half precision


def pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict as it is stored: int8 (and fp16 scales under the name + SCALE) for tensors of
    two and more dimensions and SMALL numbers, fp16 for other floats, the rest as it is."""
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            stored[name] = tensor.contiguous()
        elif tensor.dim() < 2 or tensor.numel() < SMALL:
            stored[name] = tensor.half().contiguous()
        else:
            scale = (tensor.flatten(1).abs().amax(1) / 127).clamp(min=6e-8).half()
            rows = tensor.float() / _rows(scale, tensor)
            stored[name] = rows.round().clamp(-127, 127).to(torch.int8).contiguous()
            stored[name + SCALE] = scale
    return stored


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `pack` stored, in fp32 (integers that have no scale as they are)."""
    state: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(SCALE) and name.removesuffix(SCALE) in stored:
            continue
        scale = stored.get(name + SCALE)
        if scale is not None:
            state[name] = tensor.float() * _rows(scale, tensor)
        else:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _rows(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.float().view(-1, *[1] * (tensor.dim() - 1))
