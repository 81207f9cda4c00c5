"""Trains the page reader that ships with lateint, from public PDFs, on two cores.

    python scripts/train_mini.py read  --data DATA --out RUN     # pixels -> characters, words

Each stage writes checkpoints and a curve (`curve.jsonl`) into RUN and resumes where it stopped.
DATA holds `pkg/<package>/...` with unpacked document packages (see scripts/get_data.sh).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import page_data
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from modalities.reader import CELL, GlyphNet

CROP = (384, 256)
SEED = 7


class Crops(IterableDataset[Any]):
    """Batches of crops; the seed moves with the step that training resumes from."""

    def __init__(self, paths: list[Path], batch: int, seed: int) -> None:
        self.paths, self.batch, self.seed = paths, batch, seed

    def __iter__(self) -> Iterator[Any]:
        stream = page_data.crops(self.paths, CROP, self.seed)
        while True:
            yield collate([next(stream) for _ in range(self.batch)])


def collate(crops: list[page_data.Crop]) -> dict[str, torch.Tensor]:
    item = np.concatenate([np.full(len(c.cells), i) for i, c in enumerate(crops)])
    cells = np.concatenate([c.cells for c in crops])
    return {
        "ink": torch.from_numpy(np.stack([c.ink for c in crops]))[:, None],
        "cell": torch.from_numpy(np.concatenate([item[:, None], cells], axis=1)),
        "share": torch.from_numpy(np.concatenate([c.share for c in crops])),
        "classes": torch.from_numpy(np.concatenate([c.classes for c in crops])),
        "height": torch.from_numpy(np.concatenate([c.height for c in crops])),
    }


def reading_loss(
    net: GlyphNet, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Centre map (binary), characters and their neighbours (classes), height (log).

    Cells within 12 pixels of a crop's left or right edge count for nothing: what they would
    have to know is cut off.
    """
    ink = batch["ink"].contiguous(memory_format=torch.channels_last)
    features, maps = net(ink)
    item, row, column = batch["cell"].unbind(1)
    target = torch.zeros_like(maps[:, 0])
    target.index_put_((item, row, column), batch["share"], accumulate=True)
    target.clamp_(max=1)
    edge = 12 // CELL[1]
    centre = F.binary_cross_entropy_with_logits(
        maps[:, 0, :, edge:-edge], target[:, :, edge:-edge], reduction="none"
    )
    kept = (column >= edge) & (column < target.shape[2] - edge)
    item, row, column, share = item[kept], row[kept], column[kept], batch["share"][kept]
    centre_loss = centre.sum() / share.sum().clamp(min=1)
    logits = net.characters(features[item, :, row, column])
    classes = batch["classes"][kept]
    parts = [F.cross_entropy(x, y) for x, y in zip(logits, classes.unbind(1), strict=True)]
    tall = torch.log(batch["height"][kept] / CELL[0])
    height = F.smooth_l1_loss(maps[:, 1][item, row, column], tall)
    loss = centre_loss + parts[0] + 0.5 * (parts[1] + parts[2]) + 0.2 * height
    with torch.no_grad():
        right = [
            (x.argmax(1) == y).float().mean().item()
            for x, y in zip(logits, classes.unbind(1), strict=True)
        ]
        found = (
            (torch.sigmoid(maps[:, 0]) > 0.5)[item, row, column][share > 0.9].float().mean().item()
        )
    return loss, {
        "loss": loss.item(),
        "centre": centre_loss.item(),
        "height": height.item(),
        "here": right[0],
        "before": right[1],
        "after": right[2],
        "found": found,
    }


def train_read(args: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(args.threads)
    out = args.out / "read"
    out.mkdir(parents=True, exist_ok=True)
    net = GlyphNet().to(memory_format=torch.channels_last)
    average = {k: v.clone() for k, v in net.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=0.01)
    step = 0
    if (out / "state.pt").exists():
        state = torch.load(out / "state.pt", weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        average, step = state["average"], state["step"]
    print(
        f"{sum(p.numel() for p in net.parameters())} parameters, from step {step} of {args.steps}"
    )
    paths = page_data.pdfs(args.data, page_data.TRAINING)
    loader = DataLoader(
        Crops(paths, args.batch, SEED + step), batch_size=None, num_workers=1, prefetch_factor=8
    )
    began, seen, sums = time.time(), 0, {}
    net.train()
    for batch in loader:
        if step >= args.steps:
            break
        rate = (
            args.lr
            * min(1, (step + 1) / 100)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, facts = reading_loss(net, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            for k, v in net.state_dict().items():
                if v.dtype.is_floating_point:
                    average[k].lerp_(v, 1 - min(0.998, step / (step + 10)))
                else:
                    average[k].copy_(v)
        seen += 1
        for k, v in facts.items():
            sums[k] = sums.get(k, 0.0) + v
        if step % 50 == 0:
            row = {"step": step, "seconds": round(time.time() - began, 1), "lr": rate}
            row |= {k: round(v / seen, 4) for k, v in sums.items()}
            with (out / "curve.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            seen, sums = 0, {}
        if step % 200 == 0 or step == args.steps:
            torch.save(
                {
                    "net": net.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "average": average,
                    "step": step,
                },
                out / "state.tmp",
            )
            (out / "state.tmp").replace(out / "state.pt")
            save_file(
                {k: v.contiguous() for k, v in average.items()}, str(out / "reader.safetensors")
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["read"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    {"read": train_read}[args.stage](args)


if __name__ == "__main__":
    main()
