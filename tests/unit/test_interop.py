"""Token matrices of other libraries go into the index, and into a Ragged, as they come.

The shapes are those that sentence-transformers' `encode_document`, PyLate's `encode` and
colpali-engine's models return; tests/parity runs the libraries themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lateint.index import BadTokens, Index, Tokens
from lateint.ragged import Ragged

LENGTHS = (3, 5, 1, 4)
DIM = 32


def matrices(*lengths: int) -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(3)
    rows = [torch.randn(n, DIM, generator=make) for n in lengths or LENGTHS]
    return [torch.nn.functional.normalize(each, dim=1) for each in rows]


def padded(items: list[torch.Tensor], left: bool = False) -> torch.Tensor:
    """(B, T, D) with zeros where there is no token, as colpali-engine's models return it."""
    whole = torch.zeros(len(items), max(map(len, items)), DIM)
    for row, item in zip(whole, items, strict=True):
        row[len(row) - len(item) :] = item if left else 0
        if not left:
            row[: len(item)] = item
    return whole


def objects(items: list[torch.Tensor]) -> np.ndarray:
    """What numpy makes of matrices of different lengths."""
    array = np.empty(len(items), dtype=object)
    array[:] = [item.numpy() for item in items]
    return array


class Array:
    """Has `__array__` and nothing else, as many libraries' arrays do."""

    def __init__(self, item: torch.Tensor) -> None:
        self.item = item

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.item.numpy()


FORMS = {
    "sentence-transformers, tensors": lambda items: items,
    "sentence-transformers, arrays": lambda items: [item.numpy() for item in items],
    "PyLate, arrays": lambda items: [item.numpy().astype(np.float32) for item in items],
    "PyLate, object array": objects,
    "PyLate, padded": lambda items: list(torch.split(padded(items), 1)),
    "bfloat16 with gradients": lambda items: [
        item.bfloat16().requires_grad_() * 1 for item in items
    ],
    "float16": lambda items: [item.half() for item in items],
    "colpali-engine, padded right": padded,
    "colpali-engine, padded left": lambda items: padded(items, left=True),
    "colpali-engine, unbound": lambda items: list(torch.unbind(padded(items).bfloat16())),
    "padded numpy": lambda items: padded(items).numpy(),
    "__array__ only": lambda items: [Array(item) for item in items],
    "Ragged": Ragged.from_list,
    "Tokens": lambda items: Tokens(*Ragged.from_list(items).numpy()),
}


@pytest.mark.parametrize("form", FORMS)
def test_index_takes_documents_and_queries_as_they_come(tmp_path: Path, form: str) -> None:
    items, query = matrices(), matrices(2, 4)
    loose = {"atol": 1e-2} if "float16" in form or "unbound" in form else {"atol": 1e-3}
    with Index.create(tmp_path / "i", DIM) as index:
        index.add(["a", "b"], FORMS[form](items[:2]))
        index.upsert(["b", "c", "d"], FORMS[form](items[1:]))
        kept = index.reconstruct(["a", "b", "c", "d"])
        assert kept.lengths.tolist() == list(LENGTHS)  # padding is no token
        for got, wanted in zip(kept, items, strict=True):
            np.testing.assert_allclose(got, wanted.numpy(), **loose)
        found = index.search(FORMS[form](query), k=4)
        for hits, asked in zip(found, query, strict=True):
            best = [float((asked @ item.T).max(1).values.sum()) for item in items]
            scores = dict(zip("abcd", best, strict=True))
            assert {hit.id: hit.score for hit in hits} == pytest.approx(scores, abs=3e-2)


@pytest.mark.parametrize("form", [f for f in FORMS if f != "__array__ only"])
def test_ragged_of(form: str) -> None:
    items = matrices()
    ragged = Ragged.of(FORMS[form](items))
    assert ragged.lengths.tolist() == list(LENGTHS)
    torch.testing.assert_close(ragged.values.float(), torch.cat(items), atol=1e-2, rtol=0)
    assert Ragged.of(ragged) is ragged


def test_ragged_of_keeps_gradients_and_dtype() -> None:
    tokens = padded(matrices()).double().requires_grad_()
    ragged = Ragged.of(tokens)
    assert ragged.dtype == torch.float64
    ragged.values.sum().backward()
    assert tokens.grad is not None and int(tokens.grad.any(2).sum()) == sum(LENGTHS)


def test_zeros_between_tokens_stay_and_offsets_are_taken_at_their_word(tmp_path: Path) -> None:
    (item,) = matrices(5)
    item[2] = 0  # between tokens: the caller's own
    with Index.create(tmp_path / "i", DIM) as index:
        index.add(["hole"], [item])
        index.add(["said"], Ragged.from_list([torch.cat([item[:2], torch.zeros(2, DIM)])]))
        assert index.reconstruct(["hole", "said"]).lengths.tolist() == [5, 4]


def test_a_document_of_padding_only_is_refused(tmp_path: Path) -> None:
    with Index.create(tmp_path / "i", DIM) as index:
        with pytest.raises(BadTokens, match="document 1 has no tokens"):
            index.add(["a", "b"], padded([*matrices(2), torch.zeros(0, DIM)]))
        assert len(index) == 0
    with pytest.raises(ValueError, match="no items"):
        Ragged.of([])
    assert Ragged.of([], dim=4).dim == 4
    with pytest.raises(ValueError, match="wanted"):
        Ragged.of(torch.zeros(3, 4))


def test_ids_of_the_documents_that_fulfil_a_condition(tmp_path: Path) -> None:
    with Index.create(tmp_path / "i", DIM) as index:
        index.add(list("abcd"), matrices(), metadata=[{"n": n} for n in (4, 3, 2, 1)])
        assert index.ids("n >= ?", [2]) == ["a", "b", "c"] and index.ids("n > 9") == []
        assert index.ids() == list("abcd")
