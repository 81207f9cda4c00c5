from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modalities import words
from modalities.layout import DIM, GEOMETRY, LayoutContext, QueryContext, geometry

X0, X1, MIDDLE, TALL, RELATIVE, WIDE, FIRST, LAST, SIZE, EXTENT, ABOVE, BELOW = range(GEOMETRY)


def page() -> Tensor:
    """A heading of one word twice as high, then two lines of three words, in reading order."""
    heading = [[0.1, 0.1, 0.5, 0.14]]
    lines = [[0.1 + 0.2 * i, y, 0.25 + 0.2 * i, y + 0.02] for y in (0.2, 0.23) for i in range(3)]
    return torch.tensor(heading + lines)


def test_geometry_says_where_a_word_stands() -> None:
    g = geometry(page())
    assert g.shape == (7, GEOMETRY) and g.dtype == torch.float32 and torch.isfinite(g).all()
    assert g[0, X0] == pytest.approx(0.1 * 2 - 1) and g[0, X1] == pytest.approx(0.5 * 2 - 1)
    assert g[0, MIDDLE] == pytest.approx(0.12 * 2 - 1)
    assert g[0, TALL] > g[1, TALL] and g[0, RELATIVE] > 1
    assert g[1:, RELATIVE].tolist() == pytest.approx([0.0] * 6, abs=1e-4)
    assert g[:, FIRST].tolist() == [1, 1, 0, 0, 1, 0, 0]
    assert g[:, LAST].tolist() == [1, 0, 0, 1, 0, 0, 1]
    assert g[0, SIZE] < g[1, SIZE] and torch.equal(g[1:4, SIZE], g[4:7, SIZE])
    assert g[1, EXTENT] == pytest.approx(0.55 * 2 - 1, abs=1e-4)
    assert g[4, ABOVE] < g[1, ABOVE]  # more white above the first line than above the second
    assert torch.equal(g[1:4, BELOW], g[4:7, ABOVE])  # the same white, seen from both sides


def test_geometry_of_little_and_of_nonsense_is_finite() -> None:
    assert geometry(torch.zeros(0, 4)).shape == (0, GEOMETRY)
    for boxes in (
        torch.tensor([[0.5, 0.5, 0.5, 0.5]]),
        torch.zeros(3, 4),
        torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.9, 0.9, 1.0, 1.0]]),
    ):
        assert torch.isfinite(geometry(boxes)).all()


@pytest.fixture(scope="module")
def contexts() -> tuple[LayoutContext, QueryContext]:
    torch.manual_seed(0)
    return LayoutContext().eval(), QueryContext().eval()


def test_before_training_equal_words_match_in_both_contexts(
    contexts: tuple[LayoutContext, QueryContext],
) -> None:
    layout, query = contexts
    query.word.load_state_dict(layout.word.state_dict())  # one projection, as the recipe starts
    vectors = words.vectors(["rain", "gauge", "battery"])[None]
    mask = torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        place = geometry(page()[1:4])[None]
        document, asked = layout(vectors, place, mask), query(vectors.flip(1), mask)
    assert document.tokens.shape == (1, 4, DIM) and document.pooled.shape == (1, DIM)
    cosine = torch.nn.functional.cosine_similarity(
        asked.tokens[0, 1:, None], document.tokens[:, 1:], dim=-1
    )
    assert cosine.argmax(1).tolist() == [2, 1, 0]
    assert cosine.max(1).values.min() > 0.999


def test_document_tokens_are_unit_rows_and_query_tokens_carry_weights(
    contexts: tuple[LayoutContext, QueryContext],
) -> None:
    layout, query = contexts
    vectors, mask = words.vectors(["a", "b"])[None], torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        document = layout(vectors, geometry(page()[:2])[None], mask).tokens
        asked = query(vectors, mask).tokens
    assert document[0, 1:].norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    lengths = asked[0, 1:].norm(dim=1)
    assert (lengths > 0).all() and float((lengths - 1).abs().max()) > 1e-3


def test_padding_changes_nothing(contexts: tuple[LayoutContext, QueryContext]) -> None:
    layout, query = contexts
    vectors = words.vectors(["rain", "gauge"])
    padded = torch.cat([vectors, torch.randn(5, words.WIDTH)])[None]
    mask = torch.tensor([[True] * 2 + [False] * 5])
    place = torch.cat([geometry(page()[:2]), torch.randn(5, GEOMETRY)])[None]
    alone = torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        for one, other in (
            (layout(vectors[None], place[:, :2], alone), layout(padded, place, mask)),
            (query(vectors[None], alone), query(padded, mask)),
        ):
            assert torch.allclose(one.tokens, other.tokens[:, :3], atol=1e-5)
            assert torch.allclose(one.pooled, other.pooled, atol=1e-5)
            assert other.mask[0].tolist() == [True] * 3 + [False] * 5
