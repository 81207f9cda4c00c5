from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lateint.config import ConfigError, to_json
from lateint.heads import (
    HEADS,
    MultiVectorConfig,
    MultiVectorHead,
    SingleVectorConfig,
    SingleVectorHead,
    make_head,
)
from lateint.maxsim import maxsim
from modalities.encoder import Role
from modalities.grid import TokenGrid

LENGTHS = (3, 0, 2)


def grid(pooled: Tensor | None = None, dtype: torch.dtype = torch.float32) -> TokenGrid:
    """Three items, one without tokens; NaN under the mask."""
    torch.manual_seed(0)
    mask = torch.arange(3) < torch.tensor(LENGTHS)[:, None]
    tokens = (3 * torch.randn(3, 3, 8)).masked_fill(~mask[..., None], math.nan)
    return TokenGrid(tokens.to(dtype), mask, tuple((1, n) for n in LENGTHS), pooled)


@pytest.mark.parametrize("role", ["query", "document"])
def test_multi_gives_a_unit_row_a_real_token(role: Role) -> None:
    given = grid()
    ragged = MultiVectorHead()(given, role)
    assert ragged.lengths.tolist() == list(LENGTHS)
    for i, row in enumerate(ragged):
        own = given.tokens[i, : LENGTHS[i]]
        torch.testing.assert_close(row, own / own.norm(dim=-1, keepdim=True))


def test_weighted_queries_keep_their_lengths_and_documents_do_not() -> None:
    given = grid()
    head = MultiVectorHead(MultiVectorConfig(queries="weighted"))
    assert torch.equal(head(given, "query").values, given.tokens[given.mask])
    torch.testing.assert_close(head(given, "document").values.norm(dim=-1), torch.ones(5))


@pytest.mark.parametrize("queries", ["unit", "weighted"])
def test_a_prefix_is_cut_before_rows_become_unit_and_weights_stay(queries: Any) -> None:
    given = grid()
    head = MultiVectorHead(MultiVectorConfig(dim=5, queries=queries))
    real = given.tokens[given.mask]
    unit = real[:, :5] / real[:, :5].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(head(given, "document").values, unit)
    weight = real.norm(dim=-1, keepdim=True) if queries == "weighted" else 1.0
    torch.testing.assert_close(head(given, "query").values, unit * weight)
    with pytest.raises(ValueError, match="prefix of 9 numbers does not fit tokens of width 8"):
        MultiVectorHead(MultiVectorConfig(dim=9))(given, "document")


def test_single_is_the_mean_of_real_tokens_or_the_pooled_vector() -> None:
    given = grid()
    rows = SingleVectorHead()(given, "document")
    assert rows.lengths.tolist() == [1, 1, 1]
    for i in (0, 2):
        mean = given.tokens[i, : LENGTHS[i]].mean(0)
        torch.testing.assert_close(rows[i][0], mean / mean.norm())
    assert not rows[1].any()

    pooled = torch.randn(3, 8)
    rows = SingleVectorHead(SingleVectorConfig(dim=4))(grid(pooled), "query")
    torch.testing.assert_close(rows.values, torch.nn.functional.normalize(pooled[:, :4], dim=-1))


def test_maxsim_of_single_vectors_is_the_dot_product() -> None:
    pooled = torch.randn(3, 8)
    rows = SingleVectorHead()(grid(pooled), "query")
    torch.testing.assert_close(maxsim(rows, rows), rows.values @ rows.values.T)


@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_of_the_grid_is_kept(kind: str, dtype: torch.dtype) -> None:
    rows = make_head(kind)(grid(dtype=dtype), "document").values
    assert rows.dtype == dtype
    lengths = rows.double().norm(dim=-1)
    assert (lengths[lengths > 0] - 1).abs().max() < (1e-12 if dtype == torch.float64 else 1e-2)


@pytest.mark.parametrize("kind", list(HEADS))
def test_gradients_reach_the_real_tokens_only(kind: str) -> None:
    given = grid()
    given.tokens.requires_grad_()
    (make_head(kind)(given, "query").values[:, 0]).sum().backward()
    found = given.tokens.grad
    assert found is not None and not found[~given.mask].any()
    assert found[given.mask].isfinite().all() and found[given.mask].any()


@pytest.mark.parametrize("kind", list(HEADS))
def test_an_empty_batch_and_a_wrong_role(kind: str) -> None:
    head = make_head(kind)
    nothing = TokenGrid(torch.zeros(0, 0, 8), torch.zeros(0, 0, dtype=torch.bool), ())
    assert len(head(nothing, "document")) == 0
    wrong: Any = "doc"
    with pytest.raises(ValueError, match="role must be"):
        head(grid(), wrong)


@pytest.mark.parametrize(
    ("kind", "config"),
    [("multi", MultiVectorConfig(64, "weighted")), ("single", SingleVectorConfig(32))],
)
def test_heads_are_made_again_from_their_json(kind: str, config: Any) -> None:
    head = make_head(kind, to_json(make_head(kind, config).config))
    assert head.config == config and head.kind == kind


def test_what_no_head_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown head 'mutli', did you mean 'multi'"):
        make_head("mutli")
    with pytest.raises(ConfigError, match="unknown key 'querys', did you mean 'queries'"):
        make_head("multi", {"querys": "unit"})
    with pytest.raises(ConfigError, match="at least 1"):
        make_head("single", {"dim": 0})


def test_merging_keeps_what_is_alike_in_one_place() -> None:
    """Three directions, said seven times: three rows, each with the place of its first member."""
    directions = torch.eye(8)[:3]
    said = torch.tensor([0, 1, 0, 2, 1, 0, 2])
    torch.manual_seed(0)
    tokens = 3 * (directions[said] + 0.02 * torch.randn(7, 8))
    short = torch.zeros(7, 8)
    short[:2] = tokens[:2]
    mask = torch.tensor([[True] * 7, [True] * 2 + [False] * 5])
    given = TokenGrid(torch.stack([tokens, short]), mask, ((1, 7), (1, 2)))
    head = MultiVectorHead(MultiVectorConfig(queries="weighted", merge=2.5, merge_from=2)).eval()
    rows, places = head.rows(given, "document")
    assert rows.lengths.tolist() == [3, 2]
    assert places.tolist() == [[True, True, False, True, False, False, False], mask[1].tolist()]
    torch.testing.assert_close(rows[0] @ directions.T, torch.eye(3), atol=0.05, rtol=0)
    torch.testing.assert_close(rows.values.norm(dim=1), torch.ones(5))
    plain = MultiVectorHead()(given, "document")
    assert torch.equal(rows[1], plain[1])
    assert torch.equal(head(given, "query").values, given.tokens[given.mask])
    assert torch.equal(head.train()(given, "document").values, plain.values)
    longer = make_head("multi", {"merge": 7, "merge_from": 5}).eval()
    assert longer(given, "document").lengths.tolist() == [5, 2]
    for wrong in ({"merge": 0.5}, {"merge_from": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            MultiVectorConfig(**wrong)
    assert make_head("multi", to_json(head.config)).config == head.config
