from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lateint.ragged import Ragged

LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def make(lengths: list[int], dim: int = 3) -> tuple[Ragged, list[torch.Tensor]]:
    items = [torch.randn(n, dim) for n in lengths]
    return Ragged.from_list(items), items


@given(LENGTHS)
@settings(max_examples=30, deadline=None)
def test_items_come_back_as_they_went_in(lengths: list[int]) -> None:
    ragged, items = make(lengths)
    assert len(ragged) == len(items) and ragged.dim == 3
    assert ragged.lengths.tolist() == lengths
    for i, item in enumerate(items):
        assert torch.equal(ragged[i], item)
        assert torch.equal(ragged[i - len(items)], item)
    assert [len(row) for row in ragged] == lengths


@given(LENGTHS)
@settings(max_examples=30, deadline=None)
def test_pad_and_back(lengths: list[int]) -> None:
    ragged, items = make(lengths)
    tokens, mask = ragged.pad()
    assert tokens.shape == (len(items), max(lengths), 3)
    assert mask.sum(1).tolist() == lengths
    assert not tokens[~mask].any()
    again = Ragged.from_padded(tokens, mask)
    assert torch.equal(again.values, ragged.values) and torch.equal(again.offsets, ragged.offsets)


@given(LENGTHS, st.data())
@settings(max_examples=30, deadline=None)
def test_take_and_pad_of_some(lengths: list[int], data: st.DataObject) -> None:
    ragged, items = make(lengths)
    chosen = data.draw(st.lists(st.integers(-len(items), len(items) - 1), max_size=8))
    taken = ragged.take(chosen)
    assert [row.tolist() for row in taken] == [items[i].tolist() for i in chosen]
    tokens, mask = ragged.pad(chosen)
    again = Ragged.from_padded(tokens, mask)
    assert torch.equal(again.values, taken.values) and torch.equal(again.offsets, taken.offsets)


def test_from_padded_reads_masks_with_holes() -> None:
    tokens = torch.arange(8.0).view(2, 4, 1)
    mask = torch.tensor([[True, False, True, False], [False, False, False, True]])
    ragged = Ragged.from_padded(tokens, mask)
    assert [row.flatten().tolist() for row in ragged] == [[0.0, 2.0], [7.0]]
    assert Ragged.from_padded(tokens).values.data_ptr() == tokens.data_ptr()


def test_concat_joins_in_order() -> None:
    a, b = make([2, 0])[0], make([1, 3])[0]
    both = Ragged.concat([a, b])
    assert both.lengths.tolist() == [2, 0, 1, 3]
    assert torch.equal(both.values, torch.cat([a.values, b.values]))
    with pytest.raises(ValueError, match="different widths"):
        Ragged.concat([a, make([1], dim=2)[0]])
    with pytest.raises(ValueError, match="at least one"):
        Ragged.concat([])


def test_gradients_pass_through_take_pad_and_from_padded() -> None:
    values = torch.randn(5, 2, requires_grad=True)
    ragged = Ragged(values, torch.tensor([0, 2, 5]))
    tokens, mask = ragged.take([1, 1]).pad()
    Ragged.from_padded(tokens, mask).values.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, 0.0]] * 2 + [[2.0, 2.0]] * 3


def test_numpy_and_to() -> None:
    ragged = make([2, 1])[0]
    values, offsets = ragged.to(dtype=torch.bfloat16).numpy()
    assert values.dtype == "float32" and offsets.tolist() == [0, 2, 3]
    assert ragged.to(dtype=torch.float16).dtype == torch.float16


def test_empty_needs_a_width() -> None:
    assert Ragged.from_list([], dim=4).values.shape == (0, 4)
    tokens, mask = Ragged.from_list([], dim=4).pad()
    assert tokens.shape == (0, 0, 4) and mask.shape == (0, 0)
    assert list(Ragged.from_list([], dim=4)) == []
    with pytest.raises(ValueError, match="dim="):
        Ragged.from_list([])


@pytest.mark.parametrize(
    ("values", "offsets", "message"),
    [
        (torch.zeros(3), torch.tensor([0, 3]), r"\(N, D\)"),
        (torch.zeros(3, 2), torch.tensor([0.0, 3.0]), "int64"),
        (torch.zeros(3, 2), torch.tensor([], dtype=torch.int64), "int64"),
        (torch.zeros(3, 2), torch.tensor([0, 2]), "number of rows"),
        (torch.zeros(3, 2), torch.tensor([1, 3]), "from 0"),
        (torch.zeros(3, 2), torch.tensor([0, 2, 1, 3]), "rise"),
    ],
)
def test_wrong_parts_are_refused(values: torch.Tensor, offsets: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ragged(values, offsets)


def test_wrong_items_and_masks_are_refused() -> None:
    ragged = make([1, 2])[0]
    with pytest.raises(IndexError, match="2 items"):
        ragged[2]
    with pytest.raises(IndexError, match="2 items"):
        ragged.take([0, -3])
    with pytest.raises(ValueError, match="item 1"):
        Ragged.from_list([torch.zeros(1, 3), torch.zeros(1, 2)])
    with pytest.raises(ValueError, match="must be bool"):
        Ragged.from_padded(torch.zeros(1, 2, 3), torch.ones(1, 2))
