"""One vector out of a text's tokens: the ways of sentence-transformers' Pooling module."""

from __future__ import annotations

import torch
from torch import Tensor

POOLING = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")


def pooled(hidden: Tensor, mask: Tensor, way: str) -> Tensor:
    """(B, L, H), (B, L) bool -> (B, H) over the tokens where the mask is true.

    cls, lasttoken: the first and the last of them; max: of each number; mean; mean_sqrt_len_tokens:
    their sum over the root of their count; weightedmean: each weighs its place, from 1. Sums are
    taken in float32 at least. An item whose mask is empty gives zeros. ValueError: another way.
    """
    if way not in POOLING:
        raise ValueError(f"unknown pooling {way!r}; known: {POOLING}")
    some = mask.any(1, keepdim=True)  # (B, 1)
    if way in ("cls", "lasttoken"):
        places = torch.arange(mask.shape[1], device=mask.device)
        far = mask.shape[1] if way == "cls" else -1
        places = torch.where(mask, places, far)
        place = places.amin(1) if way == "cls" else places.amax(1)
        chosen = place.clamp(0, mask.shape[1] - 1)[:, None, None].expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, chosen)[:, 0].masked_fill(~some, 0)
    if way == "max":
        lowest = torch.finfo(hidden.dtype).min
        return hidden.masked_fill(~mask[..., None], lowest).amax(1).masked_fill(~some, 0)
    wide = hidden if hidden.dtype == torch.float64 else hidden.float()
    weight = mask.to(wide.dtype)
    if way == "weightedmean":
        weight = weight * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    total = (wide * weight[..., None]).sum(1)
    count = weight.sum(1, keepdim=True).clamp(min=1)
    if way == "mean_sqrt_len_tokens":
        count = count.sqrt()
    return (total / count).to(hidden.dtype)
