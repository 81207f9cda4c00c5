"""Prefix scores against CTC itself, and against all texts that there can be."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.agreement import Agreement, letters
from modalities.hearing import BLANK, SOUNDS, SPACE


@pytest.fixture
def spelt() -> Tensor:
    torch.manual_seed(0)
    return (3 * torch.randn(14, SOUNDS)).log_softmax(1)


def ctc(spelt: Tensor, text: list[int]) -> float:
    targets = torch.tensor([text], dtype=torch.long)
    sizes = torch.tensor([len(spelt)]), torch.tensor([len(text)])
    return -float(F.ctc_loss(spelt.double()[:, None], targets, *sizes, BLANK, "sum"))


def test_letters_and_what_stands_between_words() -> None:
    assert letters(" Don't.") == [SPACE, 3, 14, 13, SPACE, 19, SPACE]


@pytest.mark.parametrize(
    "pieces", [["a"], ["hello"], [" he", "llo,", " y", "ou"], ["b-b", " ", "."]]
)
def test_a_whole_text_has_the_probability_that_ctc_gives_it(
    spelt: Tensor, pieces: list[str]
) -> None:
    agreement = Agreement(spelt)
    found = agreement.start()
    for piece in pieces:
        found = agreement.longer(found, [0], [letters(piece)])
    plain = letters("".join(pieces).strip(" .").replace(",", ""))
    assert float(found.whole[0]) == pytest.approx(ctc(spelt, plain), abs=1e-6)


def test_what_begins_so_is_all_that_can_follow() -> None:
    torch.manual_seed(1)
    logits = torch.full((4, SOUNDS), -torch.inf)
    known = [0, 1, SPACE, BLANK]
    logits[:, known] = torch.randn(4, len(known))
    spelt = logits.log_softmax(1).clamp(min=-200)
    agreement = Agreement(spelt)
    found = agreement.longer(agreement.start(), [0], [letters("ab")])
    texts = [[0, 1, *rest] for n in range(3) for rest in itertools.product(known[:3], repeat=n)]
    total = torch.tensor([ctc(spelt, text) for text in texts]).logsumexp(0)
    assert float(found.begun[0]) == pytest.approx(float(total), abs=1e-5)


def test_rows_are_told_apart(spelt: Tensor) -> None:
    agreement = Agreement(spelt)
    first = agreement.longer(agreement.start(), [0, 0], [letters("so"), letters("a")])
    both = agreement.longer(first, [1, 0, 1], [letters(" so"), letters(""), letters("a")])
    wanted = [letters("a so"), letters("so"), letters("aa")]
    assert both.whole.tolist() == pytest.approx([ctc(spelt, text) for text in wanted], abs=1e-6)
    assert float(both.take([2]).whole[0]) == float(both.whole[2])
    assert float(first.whole[0]) == pytest.approx(ctc(spelt, letters("so")), abs=1e-6)  # as before
