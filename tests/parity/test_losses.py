"""Losses and gradients against sentence-transformers' and PyLate's on the same tokens.

Runs in environments of `scripts/peers/env.sh DATA pylate sbert`; LATEINT_PEERS names DATA/envs where
that is not .data/envs.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lateint.losses import KL, InfoNCE, MarginMSE, Targets
from lateint.objective import Objective
from lateint.ragged import Ragged
from lateint.scorers import XTR, MaxSim

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "peers" / "losses.py"
# peer, case -> our objective, and what its loss is multiplied by
SBERT, PYLATE = "sbert", "pylate"
CASES: dict[tuple[str, str], tuple[Objective, float]] = {
    (SBERT, "infonce"): (Objective(InfoNCE()), 1),
    (SBERT, "infonce-temperature"): (Objective(InfoNCE(0.5)), 1),
    (SBERT, "infonce-mean"): (Objective(InfoNCE(), scorer=MaxSim(mean=True)), 1),
    (SBERT, "infonce-xtr"): (Objective(InfoNCE(), scorer=XTR(40)), 1),
    (SBERT, "kl"): (Objective(KL()), 1),
    # theirs is multiplied by the student's temperature squared
    (SBERT, "kl-temperatures"): (Objective(KL(2.0, student_temperature=0.5)), 0.25),
    (SBERT, "marginmse"): (Objective(MarginMSE()), 1),
    (PYLATE, "infonce"): (Objective(InfoNCE()), 1),
    (PYLATE, "infonce-temperature"): (Objective(InfoNCE(0.5)), 1),
    (PYLATE, "kl"): (Objective(KL()), 1),
    (PYLATE, "kl-normalised"): (Objective(KL(normalise=True)), 1),
}


def given() -> dict[str, Tensor]:
    """6 queries of 7 tokens, 4 documents each of up to 23 tokens; no token of a document twice,
    since of equal ones each library retrieves another."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 24, (6, 4, 1), generator=draw)
    lengths[0] = 23
    # all tokens lean one way, so that no best match is negative: PyLate masks by multiplying with
    # 0, and its padding would win there
    table = torch.randn(700, 16, generator=draw) + 0.5
    return {
        "table": nn.functional.normalize(table, dim=-1),
        "queries": torch.randint(700, (6, 7), generator=draw),
        "documents": torch.randperm(700, generator=draw)[: 6 * 4 * 23].view(6, 4, 23),
        "mask": (torch.arange(23) < lengths).byte(),
        "teacher": torch.randn(6, 4, generator=draw) * 2,
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """What each peer that is there has found."""
    envs = Path(os.environ.get("LATEINT_PEERS", ROOT / ".data" / "envs"))
    folder = tmp_path_factory.mktemp("losses")
    save_file(given(), str(folder / "given.safetensors"))
    results = {}
    for peer in (SBERT, PYLATE):
        python = envs / peer / "bin" / "python"
        if not python.exists():
            continue
        out = folder / f"{peer}.safetensors"
        command = [str(python), str(SCRIPT), str(folder / "given.safetensors"), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        results[peer] = load_file(str(out))
    return results


@pytest.mark.parametrize(("peer", "case"), list(CASES), ids=lambda x: str(x))
def test_losses_and_gradients_are_theirs(
    peer: str, case: str, found: dict[str, dict[str, Tensor]]
) -> None:
    if peer not in found:
        pytest.skip(f"no environment of {peer}: scripts/peers/env.sh .data {peer}")
    objective, factor = CASES[peer, case]
    x = given()
    table = x["table"].requires_grad_()
    # PyLate's losses bring tokens to unit length, and so the gradient through that
    rows = nn.functional.normalize(table, dim=-1) if peer == PYLATE else table
    queries = Ragged.from_padded(rows[x["queries"]])
    documents = Ragged.from_padded(
        rows[x["documents"].flatten(0, 1)], x["mask"].flatten(0, 1).bool()
    )
    places = torch.arange(24).view(6, 4)
    targets = Targets(places[:, 0].clone(), places, x["teacher"])
    loss = objective({"multi": queries}, {"multi": documents}, targets) * factor
    loss.backward()
    assert table.grad is not None
    theirs = found[peer]
    torch.testing.assert_close(loss.detach(), theirs[f"{case}/loss"], rtol=1e-5, atol=1e-6)
    gradient = theirs[f"{case}/gradient"]
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(
        table.grad, gradient, rtol=0, atol=1e-5 * float(gradient.abs().max())
    )
