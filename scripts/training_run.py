"""A training run on disk: schedule, averaged weights, curve, checkpoints and resuming.

Both stages of `train_mini.py` run through this; it knows neither data nor losses.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

FLOOR = 0.02  # of the learning rate, where the cosine ends


class Run:
    """One run in a folder: `curve.jsonl`, `state.pt` to resume from, and the averaged weights.

    The average of the weights over the last `1 / (1 - decay)` steps is what is kept as the result:
    it reads better than the last step's weights and needs no separate low-rate phase. every: steps
    between two checkpoints.
    """

    def __init__(
        self,
        out: Path,
        net: nn.Module,
        rate: float,
        steps: int,
        *,
        name: str,
        weight_decay: float,
        every: int = 200,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.net, self.rate, self.steps, self.name = out, net, rate, steps, name
        self.every = every
        self.optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=weight_decay)
        self.average = {k: v.clone() for k, v in net.state_dict().items()}
        self.step = 0
        if (out / "state.pt").exists():
            device = next(net.parameters()).device
            state = torch.load(out / "state.pt", map_location=device, weights_only=True)
            net.load_state_dict(state["net"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average, self.step = state["average"], state["step"]
        self._began, self._seen = time.time(), 0
        self._sums: dict[str, float] = {}
        count = sum(p.numel() for p in net.parameters())
        print(f"{name}: {count} parameters, from step {self.step} of {steps}", flush=True)

    @staticmethod
    def finished(out: Path, steps: int) -> bool:
        """Whether a run in this folder has done its steps, whatever net it was that it trained."""
        state = out / "state.pt"
        if not state.exists():
            return False
        return torch.load(state, map_location="cpu", weights_only=True)["step"] >= steps

    @property
    def result(self) -> Path:
        """The averaged weights, written with every checkpoint."""
        return self.out / f"{self.name}.safetensors"

    def update(
        self, loss: Tensor, facts: dict[str, float], *, warm_up: int, clip: float, decay: float
    ) -> None:
        """One step of the optimiser; logs every 50 steps, keeps a checkpoint every `every`."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        rate = self.rate * min(1, (self.step + 1) / warm_up) * (FLOOR + (1 - FLOOR) * cosine)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), clip)
        self.optimiser.step()
        self.step += 1
        self._averaged(min(decay, self.step / (self.step + 10)))
        self._seen += 1
        for k, v in facts.items():
            self._sums[k] = self._sums.get(k, 0.0) + v
        if self.step % 50 == 0:
            self._log(rate)
        if self.step % self.every == 0 or self.step == self.steps:
            self._save()

    @torch.no_grad()
    def _averaged(self, decay: float) -> None:
        for k, v in self.net.state_dict().items():
            if v.dtype.is_floating_point:
                self.average[k].lerp_(v, 1 - decay)
            else:
                self.average[k].copy_(v)

    def _log(self, rate: float) -> None:
        row = {"step": self.step, "seconds": round(time.time() - self._began, 1), "lr": rate}
        row |= {k: round(v / self._seen, 4) for k, v in self._sums.items()}
        with (self.out / "curve.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        self._seen, self._sums = 0, {}

    def _save(self) -> None:
        state = {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "step": self.step,
        }
        torch.save(state, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")
        kept = {k: v.clone().contiguous() for k, v in self.average.items()}
        part = self.result.with_suffix(".tmp")
        save_file(kept, str(part))
        part.replace(self.result)
