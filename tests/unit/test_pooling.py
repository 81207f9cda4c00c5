"""Fewer tokens with gradients: rules against loops, and a budget that learns what matters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from toy_model import DIM as TOY_DIM
from toy_model import ColourPage, HashedText

import modalities
from lateint.heads import MultiVectorConfig, MultiVectorHead
from lateint.losses import InfoNCE, Targets
from lateint.model import LateInteractionModel
from lateint.pooling import RULES, TokenBudget, shorten
from lateint.ragged import Ragged
from lateint.scorers import MaxSim
from modalities.grid import TokenGrid

LENGTHS = [5, 2, 0, 3, 7]


def make(dtype: torch.dtype = torch.float64) -> Ragged:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(sum(LENGTHS), 4, generator=draw, dtype=torch.float64).to(dtype)
    return Ragged(values.requires_grad_(), torch.tensor([0, *LENGTHS]).cumsum(0))


def by_loop(item: torch.Tensor, count: int, rule: str) -> torch.Tensor:
    if len(item) <= count:
        return item
    if rule == "first":
        return item[:count]
    if rule == "longest":
        return item[sorted(item.norm(dim=1).argsort(descending=True)[:count].tolist())]
    runs: list[list[torch.Tensor]] = [[] for _ in range(count)]
    for j, row in enumerate(item):
        runs[j * count // len(item)].append(row)
    rows = []
    for run in runs:
        length = torch.stack([row.norm() for row in run]).mean()
        total = torch.stack(run).sum(0)
        rows.append(total / total.norm() * length)
    return torch.stack(rows)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_rules_are_what_they_say(rule: str, count: int) -> None:
    documents = make()
    short = shorten(documents, count, rule)
    wanted = Ragged.from_list([by_loop(item, count, rule) for item in documents])
    assert torch.equal(short.offsets, wanted.offsets)
    torch.testing.assert_close(short.values, wanted.values)
    (one,) = torch.autograd.grad(short.values.square().sum(), documents.values)
    (two,) = torch.autograd.grad(wanted.values.square().sum(), documents.values)
    torch.testing.assert_close(one, two)


def test_enough_is_left_alone() -> None:
    documents = make(torch.bfloat16)
    assert shorten(documents, None) is documents
    assert shorten(documents, 7) is documents
    assert shorten(documents, 2).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="count is a number of rows"):
        shorten(documents, 0)
    with pytest.raises(ValueError, match="unknown rule 'last'"):
        shorten(documents, 2, "last")


def test_a_budget_keeps_the_highest_scores_in_order() -> None:
    budget = TokenBudget(2, 1).eval()
    with torch.no_grad():
        budget.net.layers[-1].weight.fill_(1.0)
    score = torch.tensor([[0.1], [3.0], [2.0], [0.5], [0.5], [0.5], [9.0]])
    documents = Ragged(torch.arange(7.0)[:, None], torch.tensor([0, 3, 6, 7]))
    short, kept = budget(documents, score)
    assert kept.tolist() == [False, True, True, True, True, False, True]  # of equals the first
    assert short.values[:, 0].tolist() == [1, 2, 3, 4, 6]
    assert short.offsets.tolist() == [0, 2, 4, 5]


def test_gates_of_training_are_soft_around_the_border() -> None:
    budget = TokenBudget(1, 1, softness=0.5)
    with torch.no_grad():
        budget.net.layers[-1].weight.fill_(1.0)
        budget.net.layers[-1].bias.fill_(0.0)
    score = torch.tensor([[0.0], [2.0], [1.0], [5.0]])
    documents = Ragged(torch.ones(4, 1), torch.tensor([0, 3, 4]))
    gated, kept = budget(documents, score)
    assert kept.all()
    # the border of the first document is 1.5; the second has no more than it may keep
    wanted = [*torch.sigmoid((score[:3, 0] - 1.5) / 0.5).tolist(), 1.0]
    assert gated.values[:, 0].tolist() == pytest.approx(wanted)
    gated.values.sum().backward()
    gradient = budget.net.layers[-1].weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def data(seed: int, noise: int) -> tuple[Ragged, Ragged, Targets]:
    """16 queries of 2 tokens; their documents have the same two among `noise` tokens that are
    nearly copies of other queries' tokens. What is noise shows in a token's last number."""
    draw = torch.Generator().manual_seed(seed)
    topics = torch.randn(16, 2, 16, generator=draw)
    found = torch.cat([topics, topics[torch.randint(16, (16, noise), generator=draw), 0]], 1)
    mark = torch.cat([torch.full((16, 2, 1), -2.0), torch.full((16, noise, 1), 2.0)], 1)
    asked = torch.cat([topics, torch.zeros(16, 2, 1)], -1)
    found = torch.cat([found, mark], -1)
    places = torch.randperm(2 + noise, generator=draw)
    return (
        Ragged.from_padded(asked),
        Ragged.from_padded(found[:, places]),
        Targets.by_column(16),
    )


def grid(rows: Ragged) -> TokenGrid:
    tokens, mask = rows.pad()
    return TokenGrid(tokens, mask, tuple((1, int(n)) for n in rows.lengths))


def test_a_budget_learns_which_tokens_to_keep() -> None:
    torch.manual_seed(0)
    head = MultiVectorHead(MultiVectorConfig(budget=2, width=17))
    accuracy = {}
    for when in ("before", "after"):
        queries, documents, targets = data(99, noise=6)
        with torch.no_grad():
            scores = MaxSim()(
                head.eval()(grid(queries), "query"), head.eval()(grid(documents), "document")
            )
        accuracy[when] = (scores.argmax(1) == targets.positives).float().mean().item()
        if when == "after":
            break
        optimiser = torch.optim.Adam(head.parameters(), lr=0.03)
        head.train()
        for i in range(60):
            queries, documents, targets = data(i, noise=6)
            scores = MaxSim()(head(grid(queries), "query"), head(grid(documents), "document"))
            loss = InfoNCE(0.2)(targets.scores(scores))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert accuracy["after"] == 1.0 and accuracy["before"] < 0.8, accuracy
    assert head.eval()(grid(data(1, 6)[1]), "document").lengths.tolist() == [2] * 16


def test_query_weights_learn_which_tokens_to_trust() -> None:
    """Half of each query is other queries' words, which show by a mark: the plain maximum can do
    nothing about it (an ablation in small)."""
    torch.manual_seed(0)

    def noisy(seed: int) -> tuple[Ragged, Ragged, Targets]:
        draw = torch.Generator().manual_seed(seed)
        topics = torch.randn(16, 2, 16, generator=draw)
        wrong = topics[torch.randint(16, (16, 4), generator=draw), 1]
        mark = torch.cat([torch.zeros(16, 2, 1), torch.full((16, 4, 1), 2.0)], 1)
        asked = torch.cat([torch.cat([topics, wrong], 1), mark], -1)
        found = torch.cat([topics, torch.zeros(16, 2, 1)], -1)
        return Ragged.from_padded(asked), Ragged.from_padded(found), Targets.by_column(16)

    learned = MultiVectorHead(MultiVectorConfig(queries="learned", width=17))
    plain = MultiVectorHead()

    def accuracy(head: MultiVectorHead) -> float:
        right = 0.0
        for seed in range(100, 110):
            queries, documents, targets = noisy(seed)
            with torch.no_grad():
                scores = MaxSim()(head(grid(queries), "query"), head(grid(documents), "document"))
            right += (scores.argmax(1) == targets.positives).float().mean().item()
        return right / 10

    before = accuracy(learned)
    assert before == accuracy(plain)  # all weights start at 1
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.1)
    for i in range(60):
        queries, documents, targets = noisy(i)
        scores = MaxSim()(learned(grid(queries), "query"), learned(grid(documents), "document"))
        loss = InfoNCE(0.2)(targets.scores(scores))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = accuracy(learned)
    assert after > before + 0.05, (before, after)


def test_a_model_keeps_what_its_heads_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved and loaded; and the boxes of kept tokens are those tokens' boxes."""
    for encoder in (HashedText, ColourPage):
        monkeypatch.setitem(modalities.ENCODERS, encoder.name, ("toy_model", encoder.__name__))
    torch.manual_seed(0)
    config = MultiVectorConfig(queries="learned", budget=5, width=TOY_DIM, hidden=3)
    encoders = {"text": HashedText(), "page": ColourPage()}
    model = LateInteractionModel(encoders, {"multi": MultiVectorHead(config)}).eval()
    picture = Image.effect_noise((40, 60), 90).convert("RGB")
    for i, colour in enumerate(("red", "green", "blue", "yellow", "violet")):
        picture.paste(colour, (10 * (i % 4), 20 * (i // 4), 10 * (i % 4) + 10, 20 * (i // 4) + 10))
    pages = [picture, Image.new("RGB", (40, 60), "red")]
    encoded = model.encode(pages, "document", modality="page")
    assert encoded.boxes is not None and encoded.tokens.lengths.tolist() == [5, 5]
    assert encoded.boxes.lengths.tolist() == [5, 5]
    whole = LateInteractionModel(encoders, ("multi",)).eval()
    everything = whole.encode(pages, "document", modality="page")
    assert everything.boxes is not None
    for rows, boxes, all_rows, all_boxes in zip(
        encoded.tokens, encoded.boxes, everything.tokens, everything.boxes, strict=True
    ):
        for row, box in zip(rows, boxes, strict=True):
            place = (all_boxes == box).all(1).nonzero()[0, 0]
            torch.testing.assert_close(row, all_rows[place])
    model.save(tmp_path / "m")
    again = LateInteractionModel.load(tmp_path / "m")
    for items, role in ((["red or blue"], "query"), (["a b c d e f g h"], "document")):
        one, two = (m.encode(items, role).tokens for m in (model, again))
        assert torch.equal(one.values, two.values) and torch.equal(one.offsets, two.offsets)
    assert len(again.encode_documents(["a b c d e f g h"])[0]) == 5


def test_a_net_says_which_width_it_was_made_for() -> None:
    head = MultiVectorHead(MultiVectorConfig(queries="learned", width=5))
    with pytest.raises(ValueError, match="tokens of width 5, got 4"):
        head(grid(make(torch.float32)), "query")
    with pytest.raises(ValueError, match="need width"):
        MultiVectorConfig(budget=4)
