"""Fits the reader's `early` layer: along which cells a line of print runs, told from the cheap half of
the net, so that the costly half is spent there alone.

The layer is linear on features that are not trained for it, so it is a logistic regression, solved at
once after the reader has been trained; nothing else of the reader changes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.reader import GlyphNet

PER_CROP = 300  # cells with a line, and as many without, of each crop
SHRINK = 1e-3  # of the squared weights, against chance


def line_cells(target: Tensor) -> Tensor:
    """(B, h, w) centres of characters -> where a line runs: a centre at most 6 cells (a letter or two)
    to the left or right."""
    return F.max_pool2d(target[:, None], (1, 13), 1, (0, 6))[:, 0] > 0.2


@torch.no_grad()
def fit(net: GlyphNet, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Solves for `net.early` on batches of crops (`train_mini.collate`); what it leaves wrong."""
    seen, wanted = [], []
    generator = torch.Generator().manual_seed(0)
    net.eval()
    for batch in batches:
        low = net.stem[:-1](batch["ink"])
        patches = F.unfold(F.pad(low, (2, 2, 1, 1)), (3, 5), stride=(2, 1))  # (B, 48 * 15, cells)
        rows = -(-low.shape[2] // 2)
        target = torch.zeros(len(low), rows, low.shape[3])
        target.index_put_(batch["cell"].unbind(1), batch["share"], accumulate=True)
        lines = line_cells(target).flatten(1)
        for patch, line in zip(patches, lines, strict=True):
            for label in (True, False):
                cells = torch.nonzero(line == label)[:, 0]
                cells = cells[torch.randperm(len(cells), generator=generator)[:PER_CROP]]
                seen.append(patch[:, cells].T)
                wanted.append(torch.full((len(cells),), float(label)))
    x, y = torch.cat(seen), torch.cat(wanted)
    mean, spread = x.mean(0), x.std(0) + 1e-3
    x = (x - mean) / spread
    weight, bias = _logistic(x, y)
    scaled = weight / spread
    net.early.weight.copy_(scaled.view_as(net.early.weight))
    net.early.bias.fill_(float(bias - (scaled * mean).sum()))
    logit = x @ weight + bias
    return {
        "cells": len(y),
        "lines missed": round(float((logit[y == 1] < -2.94).float().mean()), 4),  # below 0.05
        "others kept": round(float((logit[y == 0] > -2.94).float().mean()), 4),
    }


def _logistic(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (D,) and bias of the regression of y (N,) on x (N, D)."""
    weight = torch.zeros(x.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        error = F.binary_cross_entropy_with_logits(x @ weight + bias, y)
        total = error + SHRINK * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        solver.step(loss)
    return weight.detach(), bias.detach()
