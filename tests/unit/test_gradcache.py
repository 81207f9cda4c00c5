"""Cached steps against uncached ones: loss, gradients, dropout, what is kept meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_text import bert
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from toy_model import ColourPage as Colours

from lateint.batching import batches
from lateint.gradcache import cached, cached_chunks
from lateint.heads import MultiVectorConfig, MultiVectorHead, SingleVectorHead
from lateint.losses import InfoNCE, Targets
from lateint.objective import Distil, Objective
from lateint.ragged import Ragged
from modalities.encoder import Batch, Encoder, Role
from modalities.grid import TokenGrid
from modalities.text import TextConfig, TransformerText

QUERIES = ["loss goes up", "who wrote this", "budget 2024", "a"]
TEXTS = ["the loss goes up after warm up", "budget", "who wrote this a a a a a", "learn rate", "up"]
DIM = 64  # of the toy page encoder


def text_encoder(dropout: float) -> TransformerText:
    backbone, tokenizer = bert()
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    config = TextConfig(dim=DIM, query_length=8, document_length=16)
    torch.manual_seed(1)
    return TransformerText(backbone, tokenizer, config).train()


class ColourPage(Colours):
    """With weights that matter to unit rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.projection = nn.Linear(DIM, DIM)

    def forward(self, batch: Batch) -> TokenGrid:
        return TokenGrid(
            self.projection(batch.inputs["tokens"]), batch.inputs["mask"], batch.shape or ()
        )


class Step(nn.Module):
    """Queries and documents through encoders and two heads under one list of objectives."""

    def __init__(self, queries: Encoder, documents: Encoder) -> None:
        super().__init__()
        self.queries, self.documents = queries, documents
        config = MultiVectorConfig(queries="learned", width=DIM)
        self.heads = nn.ModuleDict({"multi": MultiVectorHead(config), "single": SingleVectorHead()})
        self.goals = nn.ModuleList(
            [Objective(InfoNCE(learnable=True)), Objective(InfoNCE(0.1), "single"), Distil()]
        )

    def encode(self, items: Sequence[Any], role: Role) -> dict[str, Ragged]:
        encoder = self.queries if role == "query" else self.documents
        grid = encoder(encoder.prepare(items, role))
        return {kind: head(grid, role) for kind, head in self.heads.items()}

    def forward(
        self, queries: Sequence[Any], documents: Sequence[Any], budget: int | None
    ) -> Tensor:
        sides = []
        for items, role, encoder in (
            (queries, "query", self.queries),
            (documents, "document", self.documents),
        ):
            sides.append(
                cached(
                    lambda places, items=items, role=role: self.encode(
                        [items[i] for i in places], role
                    ),
                    encoder.cost(items, role),
                    budget,
                )
            )
        targets = Targets(torch.arange(len(queries)))
        return torch.stack([goal(*sides, targets) for goal in self.goals]).sum()


def run(step: Step, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
    step.zero_grad()
    loss = step(*arguments)
    loss.backward()
    names = {name: p.grad for name, p in step.named_parameters() if p.grad is not None}
    return loss.detach(), {name: grad.clone() for name, grad in names.items()}


def same(one: tuple[Tensor, dict[str, Tensor]], two: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(one[0], two[0], rtol=1e-5, atol=1e-6)
    assert one[1].keys() == two[1].keys() and one[1]
    for name, gradient in one[1].items():
        scale = max(1e-3, float(gradient.abs().max()))
        torch.testing.assert_close(two[1][name], gradient, rtol=0, atol=1e-5 * scale, msg=name)


PAGES = [Image.new("RGB", (40, 60), colour) for colour in ("red", "green", "blue", "white")]


@pytest.mark.parametrize("budget", [1, 20, 40])
def test_the_cached_step_is_the_uncached_one_for_text(budget: int) -> None:
    encoder = text_encoder(dropout=0.0)
    step = Step(encoder, encoder)
    same(run(step, QUERIES, TEXTS, None), run(step, QUERIES, TEXTS, budget))


@pytest.mark.parametrize("budget", [1, 60])
def test_the_cached_step_is_the_uncached_one_across_modalities(budget: int) -> None:
    step = Step(text_encoder(dropout=0.0), ColourPage())
    same(run(step, QUERIES, PAGES, None), run(step, QUERIES, PAGES, budget))


def test_the_second_encoding_drops_what_the_first_one_dropped() -> None:
    """Against the same chunks with everything kept, from the same seed."""
    encoder = text_encoder(dropout=0.3)
    head = MultiVectorHead()
    goal = Objective(InfoNCE())
    plan = list(batches(encoder.cost(TEXTS, "document"), 20))
    assert len(plan) > 2

    def encode(places: Sequence[int]) -> Ragged:
        return head(encoder(encoder.prepare([TEXTS[i] for i in places], "document")), "document")

    def gradients(parts: list[Ragged]) -> tuple[Tensor, dict[str, Tensor]]:
        documents = {"multi": Ragged.concat(parts)}
        loss = goal(documents, documents, Targets(torch.arange(len(TEXTS)).roll(1)))
        encoder.zero_grad()
        loss.backward()
        return loss.detach(), {
            n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None
        }

    torch.manual_seed(5)
    kept = gradients([encode(chunk) for chunk in plan])
    after = torch.rand(1)
    torch.manual_seed(5)
    replayed = gradients(cached_chunks(encode, plan))
    same(kept, replayed)
    assert torch.equal(torch.rand(1), after)  # the generator stands where it would have stood
    torch.manual_seed(6)
    other = gradients([encode(chunk) for chunk in plan])
    assert not torch.allclose(kept[0], other[0])


def test_activations_of_one_chunk_at_a_time() -> None:
    """After the encoding none is alive; in the backward pass those of one chunk."""
    layer = nn.Linear(4, 4)
    made: list[StorageWeakRef] = []
    most: list[int] = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            most.append(sum(not one.expired() for one in made))
            return gradient

    def encode(chunk: Tensor) -> Ragged:
        hidden = layer(chunk).tanh()  # kept for its own backward pass, which comes after Watch's
        made.append(StorageWeakRef(hidden.untyped_storage()))
        return Ragged.from_padded(Watch.apply(hidden).square()[None])

    chunks = [torch.randn(3, 4) for _ in range(5)]
    parts = cached_chunks(encode, chunks)
    assert len(made) == 5 and all(one.expired() for one in made)
    Ragged.concat(parts).values.sum().backward()
    assert len(made) == 10 and most == [1] * 5


def test_items_come_back_in_their_order() -> None:
    items = torch.arange(12.0).view(6, 2).requires_grad_()
    costs = [3, 9, 1, 9, 4, 2]
    seen: list[list[int]] = []

    def encode(places: Sequence[int]) -> Ragged:
        seen.append(list(places))
        return Ragged.from_list([items[i].repeat(costs[i], 1) for i in places])

    vectors = cached(encode, costs, 10)
    assert seen == list(batches(costs, 10)) and len(seen) == 4
    assert vectors.lengths.tolist() == costs
    assert all(bool((row == items[i]).all()) for i, row in enumerate(vectors))
    vectors.values.sum().backward()
    assert items.grad is not None and items.grad[:, 0].tolist() == costs


def test_without_gradients_everything_is_encoded_once() -> None:
    calls = []

    def encode(places: Sequence[int]) -> Ragged:
        calls.append(len(places))
        return Ragged(torch.zeros(len(places), 2), torch.arange(len(places) + 1))

    with torch.no_grad():
        assert len(cached(encode, [1, 1, 1], 2)) == 3
    assert calls == [2, 1]
    assert len(cached(encode, [], 2)) == 0
    with pytest.raises(ValueError, match="token budget is at least 1"):
        cached(encode, [1], 0)
