"""Heads: what turns a TokenGrid into the vectors that are stored and compared.

A single vector is one token: `SingleVectorHead` yields one row an item, `MultiVectorHead` one a
real token, both as `Ragged`, and MaxSim of one row is the dot product. So nothing behind the heads
asks which of the two it has. Heads see tokens in the shared width only: they know no modality, no
backbone and no similarity.

The length of a row. Document rows are unit rows (shorter only while a token budget is trained).
Query rows are unit rows too, unless the encoder ("weighted") or the head ("learned") has learned a
weight for each query token: MaxSim is linear in the query, so the weight is folded into the length
of the query's row, and needs no place of its own in the index, in the search or in a saved query.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lateint.config import ConfigError, from_json, nearest
from lateint.pooling import TokenBudget, TokenNet, merged
from lateint.ragged import Ragged
from modalities.encoder import Role, check_role
from modalities.grid import TokenGrid

_SOFTPLUS_OF_ONE = math.log(math.e - 1)  # softplus of it is 1: learned weights start there


@dataclass(frozen=True)
class MultiVectorConfig:
    """dim: keep the first `dim` numbers of each token (a Matryoshka prefix, arXiv:2205.13147;
    smaller: less memory and time, less quality, unless trained for it); None: the whole width.
    queries: "unit" rows; "weighted": rows as long as the encoder's tokens were (before the prefix
    is cut, so that a weight does not depend on `dim`); "learned": rows as long as a small net of
    this head says, from 1 for all at the start.
    budget: at most so many tokens of a document, those that a small net of this head learns to
    keep (`lateint.pooling.TokenBudget`); smaller: less memory and time, less quality; None: all.
    merge: about one token in so many of a document is kept, the most alike merged into their mean,
    which has the place of the first (`lateint.merging`, nothing is learned; not in training mode);
    larger: less memory and time, less quality; 1: all. merge_from: documents keep at least so many.
    width: the shared width, which the nets of "learned" and `budget` read; needed with them.
    hidden: width of their hidden layer; 0: they are linear."""

    dim: int | None = None
    queries: Literal["unit", "weighted", "learned"] = "unit"
    budget: int | None = None
    merge: float = 1.0
    merge_from: int = 100
    width: int | None = None
    hidden: int = 0

    def __post_init__(self) -> None:
        _check_dim(self.dim)
        learns = self.queries == "learned" or self.budget is not None
        if learns and (self.width is None or self.width < 1):
            raise ValueError(f"learned parts need width, the shared width, got {self.width}")
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"budget must be at least 1 or null, got {self.budget}")
        if not self.merge >= 1 or self.merge_from < 1:
            said = f"{self.merge} and {self.merge_from}"
            raise ValueError(f"merge and merge_from must be at least 1, got {said}")
        if self.hidden < 0:
            raise ValueError(f"hidden must be at least 0, got {self.hidden}")


@dataclass(frozen=True)
class SingleVectorConfig:
    """dim: as in MultiVectorConfig."""

    dim: int | None = None

    def __post_init__(self) -> None:
        _check_dim(self.dim)


class Head(nn.Module):
    """A TokenGrid of B items -> Ragged of B items, in the grid's dtype, on its device."""

    kind: ClassVar[str]
    """Its name in HEADS."""
    per_token: ClassVar[bool]
    """Whether rows are an item's real tokens in their order (and so have labels and boxes)."""

    @property
    @abstractmethod
    def config(self) -> Any:
        """The frozen dataclass that `make_head` builds this head from."""

    @abstractmethod
    def rows(self, grid: TokenGrid, role: Role) -> tuple[Ragged, Tensor]:
        """The vectors, and (B, T) bool: which tokens they are, where `per_token`; else which
        tokens they were made of."""

    def forward(self, grid: TokenGrid, role: Role) -> Ragged:
        return self.rows(grid, role)[0]


class MultiVectorHead(Head):
    """One row for each real token, in order; with a budget, for each token of a document that is
    kept (in training mode for all of them, shorter where they would not be). A token of zeros stays
    zero; an item without tokens has no rows."""

    kind = "multi"
    per_token = True

    def __init__(self, config: MultiVectorConfig | None = None) -> None:
        super().__init__()
        self._config = config = config or MultiVectorConfig()
        self.query_weight: TokenNet | None = None
        self.budget: TokenBudget | None = None
        if config.queries == "learned":
            assert config.width is not None
            self.query_weight = TokenNet(config.width, config.hidden, start=0.0)
        if config.budget is not None:
            assert config.width is not None
            self.budget = TokenBudget(config.budget, config.width, config.hidden)

    @property
    def config(self) -> MultiVectorConfig:
        return self._config

    def rows(self, grid: TokenGrid, role: Role) -> tuple[Ragged, Tensor]:
        check_role(role)
        tokens = Ragged.from_padded(grid.tokens, grid.mask)  # values (N, D)
        if role == "query":
            return Ragged(self._query_rows(tokens.values), tokens.offsets), grid.mask
        rows = Ragged(unit_rows(prefix(tokens.values, self.config.dim)), tokens.offsets)
        mask = grid.mask
        if self.budget is not None:
            rows, kept = self.budget(rows, unit_rows(tokens.values))
            mask = _among(mask, kept)
        if self.config.merge > 1 and not self.training:
            rows, kept = merged(rows, self.config.merge, self.config.merge_from)
            mask = _among(mask, kept)
        return rows, mask

    def _query_rows(self, tokens: Tensor) -> Tensor:
        """(N, D) -> (N, dim)"""
        if self.config.queries == "weighted" and self.config.dim is None:
            return tokens
        rows = unit_rows(prefix(tokens, self.config.dim))
        if self.config.queries == "weighted":
            rows = rows * _wide(tokens).norm(dim=-1, keepdim=True).to(rows.dtype)
        if self.query_weight is not None:
            weight = nn.functional.softplus(self.query_weight(unit_rows(tokens)) + _SOFTPLUS_OF_ONE)
            rows = rows * weight[:, None].to(rows.dtype)
        return rows


class SingleVectorHead(Head):
    """One unit row an item: the encoder's pooled vector where it has one, else the mean of the
    item's real tokens. An item without tokens and without a pooled vector is a row of zeros."""

    kind = "single"
    per_token = False

    def __init__(self, config: SingleVectorConfig | None = None) -> None:
        super().__init__()
        self._config = config or SingleVectorConfig()

    @property
    def config(self) -> SingleVectorConfig:
        return self._config

    def rows(self, grid: TokenGrid, role: Role) -> tuple[Ragged, Tensor]:
        check_role(role)
        pooled = grid.pooled
        if pooled is None:
            pooled = masked_mean(grid.tokens, grid.mask)
        rows = unit_rows(prefix(pooled, self.config.dim))  # (B, D)
        return Ragged(rows, torch.arange(len(rows) + 1)), grid.mask


HEADS: dict[str, tuple[type[Head], type[Any]]] = {
    "multi": (MultiVectorHead, MultiVectorConfig),
    "single": (SingleVectorHead, SingleVectorConfig),
}
"""kind -> (head, its configuration)"""


def make_head(kind: str, config: Any = None, where: str = "heads") -> Head:
    """A head of the table from its configuration (JSON values, its dataclass, or None for the
    defaults). ConfigError: an unknown kind or key, with the nearest known one."""
    if kind not in HEADS:
        raise ConfigError(f"{where}: unknown head {kind!r}{nearest(kind, HEADS)}")
    head, config_class = HEADS[kind]
    if config is None:
        config = config_class()
    elif not isinstance(config, config_class):
        config = from_json(config_class, config, f"{where}: {kind}")
    return head(config)


def _among(mask: Tensor, kept: Tensor) -> Tensor:
    """`mask` (B, T) with only those of its true places that are `kept` (N,)."""
    fewer = mask.clone()
    fewer[mask] = kept.to(mask.device)
    return fewer


def prefix(rows: Tensor, dim: int | None) -> Tensor:
    """The first `dim` numbers of each row (..., D); None: all."""
    if dim is None:
        return rows
    if dim > rows.shape[-1]:
        raise ValueError(f"a prefix of {dim} numbers does not fit tokens of width {rows.shape[-1]}")
    return rows[..., :dim]


def unit_rows(rows: Tensor) -> Tensor:
    """Rows (..., D) of length one, lengths taken in float32 at least; zero rows stay zero."""
    return nn.functional.normalize(_wide(rows), dim=-1).to(rows.dtype)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D), (B, T) -> (B, D), the mean of the real tokens, zero where an item has none; summed
    in float32 at least. What stands under the mask is never read."""
    total = _wide(tokens).masked_fill(~mask[..., None], 0).sum(1)
    return (total / mask.sum(1, keepdim=True).clamp(min=1)).to(tokens.dtype)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check_dim(dim: int | None) -> None:
    if dim is not None and dim < 1:
        raise ValueError(f"dim must be at least 1 or null, got {dim}")
