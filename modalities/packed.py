"""Weights on the disk: matrices as int8 with a scale for each row, or as 4 bits with a scale for each
32 numbers of a row; the rest in half precision.

A scale is the largest magnitude over 127 (or 7), so the error of a weight is at most 0.4 % (7 %) of
that. Knows tensors by name; nothing of what they are for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

SCALE = ".scale"  # after a matrix's name: its rows' scales
SMALL = 4096  # numbers below which a tensor stays in half precision
GROUP = 32  # numbers of a row that share a scale at 4 bits


def pack(state: Mapping[str, Tensor], half_bytes: Collection[str] = ()) -> dict[str, Tensor]:
    """A state_dict as it is stored: int8 (and fp16 scales under the name + SCALE) for tensors of
    two and more dimensions and SMALL numbers, fp16 for other floats, the rest as it is.

    half_bytes: names of matrices that are stored in 4 bits, a byte for two numbers of a row, which
    must be a multiple of GROUP wide; their scales have two dimensions."""
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            stored[name] = tensor.contiguous()
        elif name in half_bytes:
            groups = tensor.float().unflatten(1, (-1, GROUP))
            scale = (groups.abs().amax(2) / 7).clamp(min=6e-8).half()
            whole = (groups / scale.float()[..., None]).round().clamp(-7, 7).flatten(1) + 8
            low, high = whole.to(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
            stored[name], stored[name + SCALE] = low | high << 4, scale
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
        if scale is None:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
        elif tensor.dtype == torch.uint8:
            whole = torch.stack([tensor & 15, tensor >> 4], 2).flatten(1).float() - 8
            state[name] = (whole.unflatten(1, (-1, GROUP)) * scale.float()[..., None]).flatten(1)
        else:
            state[name] = tensor.float() * _rows(scale, tensor)
    return state


def _rows(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.float().view(-1, *[1] * (tensor.dim() - 1))
