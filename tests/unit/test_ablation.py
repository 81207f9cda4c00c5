"""The ablation of learned query weights: its training and its measurement, on random tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lateint.evaluation import Benchmark
from lateint.maxsim import maxsim
from lateint.ragged import Ragged


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    scripts = Path(__file__).resolve().parents[2] / "scripts"
    monkeypatch.syspath_prepend(str(scripts))
    before = set(sys.modules)
    import ablate_scoring_head

    yield ablate_scoring_head
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == scripts:
            sys.modules.pop(name)


def tokens(counts: list[int], seed: int, width: int) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    return Ragged.from_list([torch.randn(n, width, generator=generator).half() for n in counts])


def test_weights_change_nothing_but_the_queries_and_are_measured_as_maxsim(ablation: Any) -> None:
    kept = {
        "train query": tokens([3, 5] * 8, 1, ablation.WIDTH),
        "train document": tokens([9, 4] * 8, 2, ablation.WIDTH),
        "birds query": tokens([4, 2, 6], 3, ablation.WIDTH),
        "birds document": tokens([7, 3, 8, 5, 2], 4, ablation.WIDTH),
    }
    study = SimpleNamespace(plan=SimpleNamespace(batch=8, projection_rate=1e-3))
    unit = ablation.trained(study, kept, 0)
    fresh = torch.nn.Linear(ablation.WIDTH, ablation.DIM, bias=False)
    torch.manual_seed(0)
    torch.nn.init.orthogonal_(fresh.weight)
    assert not torch.equal(unit.projection.weight, fresh.weight)  # it has learned
    before = unit.projection.weight.clone()
    weighted = ablation.trained(study, kept, 0, unit, learned=True, rate=0.05)
    assert weighted.projection is unit.projection and torch.equal(before, unit.projection.weight)
    lengths = weighted(kept["birds query"], "query").values.norm(dim=-1)
    assert bool((lengths - 1).abs().max() > 1e-3)
    names = {role: [f"{role} {i}" for i in range(n)] for role, n in (("q", 3), ("d", 5))}
    birds = Benchmark(
        "birds",
        dict.fromkeys(names["d"], "x"),
        dict.fromkeys(names["q"], "y"),
        {query: {names["d"][i]: 1} for i, query in enumerate(names["q"])},
    )
    found = ablation.measured([unit, weighted], kept, birds)
    for row, values in zip((unit, weighted), found, strict=True):
        scores = maxsim(row(kept["birds query"], "query"), row(kept["birds document"], "document"))
        for i, query in enumerate(names["q"]):
            rank = 1 + int((scores[i] > scores[i, i]).sum())
            assert values["MRR@10"][query] == pytest.approx(1 / rank)
