"""What the processes of tests/unit/test_distributed.py run: importable by name, so that a new
process finds it. A linear encoder under DistributedDataParallel, each process with its own items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lateint.distributed import gather, gather_rows, joint
from lateint.gradcache import cached
from lateint.losses import KL, InfoNCE, Loss, Sigmoid, Targets, duplicates
from lateint.objective import Distil, Goal, Objective
from lateint.ragged import Ragged

WIDTH, NEGATIVES = 6, 2


@dataclass(frozen=True)
class Case:
    """A step: queries of each process, objectives, chunk budget of the encoder."""

    queries: tuple[int, int]
    goals: tuple[Goal, ...]
    budget: int | None = None
    repeated: bool = False  # the first document of the second process is that of the first


def cases() -> dict[str, Case]:
    infonce: Loss = InfoNCE(0.5)
    return {
        "infonce": Case((3, 3), (Objective(infonce),)),
        "uneven": Case((2, 5), (Objective(infonce),)),
        "cached": Case((2, 5), (Objective(infonce),), budget=8),
        "two heads": Case((3, 2), (Objective(infonce), Objective(infonce, "single"), Distil())),
        "both ways": Case((2, 4), (Objective(InfoNCE(0.5, symmetric=True)),)),
        "sigmoid": Case((3, 2), (Objective(Sigmoid(1.0, -1.0)),)),
        "matryoshka": Case((3, 2), (Objective(infonce, dims=(None, 2), tokens=(None, 2)),)),
        "distilled": Case((3, 2), (Objective(KL()),)),
        "repeated": Case((3, 2), (Objective(infonce),), repeated=True),
    }


class Encoder(nn.Module):
    """Rows (N, 6) -> both heads' vectors; some items have no row of their own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(WIDTH, 4, dtype=torch.float64)

    def forward(self, items: list[Tensor], budget: int | None) -> dict[str, Ragged]:
        def encode(places: list[int]) -> dict[str, Ragged]:
            some = [items[i] for i in places]
            rows = Ragged.from_list(some, dim=WIDTH)
            tokens = nn.functional.normalize(self.layer(rows.values).tanh(), dim=-1)
            multi = Ragged(tokens, rows.offsets)
            means = torch.stack([row.sum(0) for row in multi])
            return {"multi": multi, "single": Ragged(means, torch.arange(len(some) + 1))}

        return cached(encode, [len(item) for item in items], budget)


def items(side: str, process: int, count: int) -> list[Tensor]:
    """The items of one process: 1 to 5 rows each."""
    draw = torch.Generator().manual_seed(len(side) * 100 + process)
    lengths = torch.randint(1, 6, (count,), generator=draw).tolist()
    return [torch.randn(n, WIDTH, generator=draw, dtype=torch.float64) for n in lengths]


def given(case: Case, process: int) -> tuple[list[Tensor], list[Tensor], Targets]:
    """Queries, documents (positives, then negatives by column) and targets of one process."""
    count = case.queries[process]
    documents = items("document", process, count * (1 + NEGATIVES))
    if case.repeated and process == 1:
        documents[0] = items("document", 0, case.queries[0] * (1 + NEGATIVES))[0]
    draw = torch.Generator().manual_seed(process)
    teacher = torch.randn(count, 1 + NEGATIVES, generator=draw, dtype=torch.float64)
    return (
        items("query", process, count),
        documents,
        Targets.by_column(count, NEGATIVES, teacher),
    )


def keys(documents: list[Tensor]) -> Tensor:
    return torch.stack([document.sum() for document in documents]).mul(1e6).round().long()


def step(module: nn.Module, case: Case, process: int) -> tuple[Tensor, float]:
    """This process's loss and weight, with the gather that the objectives ask for."""
    queries, documents, targets = given(case, process)
    # one call: DistributedDataParallel wants forward and backward to take turns
    both = module(queries + documents, case.budget)
    asked = {head: v.take(range(len(queries))) for head, v in both.items()}
    found = {head: v.take(range(len(queries), len(v))) for head, v in both.items()}
    everyone = any(goal.needs_all_queries for goal in case.goals)
    gathered = joint(asked, found, targets, all_queries=everyone)
    targets = gathered.targets
    if case.repeated:
        own = torch.arange(len(targets.positives)) + 1000 * process
        everything = gather_rows(keys(documents))
        targets = replace(targets, excluded=duplicates(own, everything, targets.positives))
    total = sum(goal(gathered.queries, gathered.documents, targets) for goal in case.goals)
    assert isinstance(total, Tensor)
    return total, gathered.weight


def work(rank: int, folder: str) -> None:
    """One of two processes: every case, results into `folder`/rank.safetensors."""
    torch.set_num_threads(1)
    address = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        results: dict[str, Tensor] = {}
        for name, case in cases().items():
            encoder = Encoder()
            parallel = DistributedDataParallel(encoder)  # must live until the backward pass
            loss, weight = step(parallel, case, rank)
            (loss * weight).backward()
            assert encoder.layer.weight.grad is not None
            results[f"{name}/gradient"] = encoder.layer.weight.grad.clone()
            results[f"{name}/loss"] = (loss * weight).detach()
        own = Ragged(torch.full((rank * 2, 3), float(rank)), torch.tensor([0, 0, rank * 2]))
        own.values.requires_grad_()
        together = gather(own)
        results["gather/offsets"] = together.offsets
        results["gather/values"] = together.values.detach()
        (together.values * (rank + 1)).sum().backward()
        if own.values.grad is not None:
            results["gather/gradient"] = own.values.grad
        save_file(results, str(Path(folder) / f"{rank}.safetensors"))
    finally:
        dist.destroy_process_group()
