"""A peer's losses on given tokens, for tests/parity/test_losses.py.

    ENVS/<sbert|pylate>/bin/python scripts/peers/losses.py GIVEN.safetensors FOUND.safetensors

GIVEN: table (V, D) of unit rows, queries (B, Lq), documents (B, W, Ld) ids of its rows, mask (B, W,
Ld) uint8, teacher (B, W). The peer's own loss modules run on a model that looks tokens up in the
table. FOUND: <case>/loss and <case>/gradient of the table, for each case of the peer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Table(nn.Module):
    """Looks like a model of either peer: features -> token embeddings and their mask."""

    skiplist: tuple[int, ...] = ()
    do_query_expansion = False

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, features: dict[str, Any], task: str | None = None) -> dict[str, Any]:
        return {**features, "token_embeddings": self.table[features["input_ids"]]}


def columns(given: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Queries, then documents column by column."""
    queries, documents, mask = given["queries"], given["documents"], given["mask"]
    found = [{"input_ids": queries, "attention_mask": torch.ones_like(queries)}]
    for c in range(documents.shape[1]):
        found.append({"input_ids": documents[:, c], "attention_mask": mask[:, c].long()})
    return found


def of_sentence_transformers(model: Any, given: dict[str, Tensor]) -> dict[str, Callable[[], Any]]:
    from sentence_transformers.multi_vector_encoder import losses
    from sentence_transformers.multi_vector_encoder.scoring import XTRScores, mean_colbert_scores

    ranking = losses.MultiVectorMultipleNegativesRankingLoss
    kl, margin = losses.MultiVectorDistillKLDivLoss, losses.MultiVectorMarginMSELoss
    inputs, teacher = columns(given), given["teacher"]
    return {
        "infonce": lambda: ranking(model)(inputs),
        "infonce-temperature": lambda: ranking(model, scale=2.0)(inputs),
        "infonce-mean": lambda: ranking(model, similarity_fct=mean_colbert_scores)(inputs),
        "infonce-xtr": lambda: ranking(model, similarity_fct=XTRScores(40))(inputs),
        "kl": lambda: kl(model)(inputs, teacher),
        "kl-temperatures": lambda: kl(model, student_temperature=0.5, teacher_temperature=2.0)(
            inputs, teacher
        ),
        "marginmse": lambda: margin(model)(inputs, teacher),
    }


def of_pylate(model: Any, given: dict[str, Tensor]) -> dict[str, Callable[[], Any]]:
    from pylate import losses

    inputs, teacher = columns(given), given["teacher"]
    together = {
        "input_ids": given["documents"].flatten(0, 1),
        "attention_mask": given["mask"].flatten(0, 1).long(),
    }
    return {
        "infonce": lambda: losses.Contrastive(model)(inputs),
        "infonce-temperature": lambda: losses.Contrastive(model, temperature=0.5)(inputs),
        "kl": lambda: losses.Distillation(model, normalize_scores=False)(
            [inputs[0], together], teacher
        ),
        "kl-normalised": lambda: losses.Distillation(model)([inputs[0], together], teacher),
    }


def main() -> None:
    given = load_file(sys.argv[1])
    model = Table(given["table"])
    try:
        cases = of_sentence_transformers(model, given)
    except ImportError:  # this is PyLate's environment, whose sentence-transformers is older
        cases = of_pylate(model, given)
    found = {}
    for name, loss_of in cases.items():
        model.zero_grad()
        loss = loss_of()
        loss.backward()
        assert model.table.grad is not None
        found[f"{name}/loss"] = loss.detach()
        found[f"{name}/gradient"] = model.table.grad.clone()
    save_file(found, sys.argv[2])


if __name__ == "__main__":
    main()
