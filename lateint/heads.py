"""Heads: what turns a TokenGrid into the vectors that are stored and compared.

A single vector is one token: `SingleVectorHead` yields one row an item, `MultiVectorHead` one a
real token, both as `Ragged`, and MaxSim of one row is the dot product. So nothing behind the heads
asks which of the two it has. Heads see tokens in the shared width only: they know no modality, no
backbone and no similarity.

The length of a row. Document rows are unit rows, always. Query rows are unit rows too, unless the
encoder has learned a weight for each query token: MaxSim is linear in the query, so the weight is
folded into the length of the query's row ("weighted"), and needs no place of its own in the index,
in the search or in a saved query.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lateint.config import ConfigError, from_json, nearest
from lateint.ragged import Ragged
from modalities.encoder import Role, check_role
from modalities.grid import TokenGrid


@dataclass(frozen=True)
class MultiVectorConfig:
    """dim: keep the first `dim` numbers of each token (a Matryoshka prefix, arXiv:2205.13147;
    smaller: less memory and time, less quality, unless trained for it); None: the whole width.
    queries: "unit" rows, or "weighted": rows as long as the encoder's tokens were (before the
    prefix is cut, so that a weight does not depend on `dim`)."""

    dim: int | None = None
    queries: Literal["unit", "weighted"] = "unit"

    def __post_init__(self) -> None:
        _check_dim(self.dim)


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
    """Whether row j of an item is its j-th real token (and so has that token's label and box)."""

    @property
    @abstractmethod
    def config(self) -> Any:
        """The frozen dataclass that `make_head` builds this head from."""

    @abstractmethod
    def forward(self, grid: TokenGrid, role: Role) -> Ragged: ...


class MultiVectorHead(Head):
    """One row for each real token, in order. A token of zeros stays zero; an item without tokens
    has no rows."""

    kind = "multi"
    per_token = True

    def __init__(self, config: MultiVectorConfig | None = None) -> None:
        super().__init__()
        self._config = config or MultiVectorConfig()

    @property
    def config(self) -> MultiVectorConfig:
        return self._config

    def forward(self, grid: TokenGrid, role: Role) -> Ragged:
        check_role(role)
        tokens = Ragged.from_padded(grid.tokens, grid.mask)  # values (N, D)
        weighted = role == "query" and self.config.queries == "weighted"
        if weighted and self.config.dim is None:
            return tokens
        rows = unit_rows(prefix(tokens.values, self.config.dim))
        if weighted:
            rows = rows * _wide(tokens.values).norm(dim=-1, keepdim=True).to(rows.dtype)
        return Ragged(rows, tokens.offsets)


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

    def forward(self, grid: TokenGrid, role: Role) -> Ragged:
        check_role(role)
        pooled = grid.pooled
        if pooled is None:
            pooled = masked_mean(grid.tokens, grid.mask)
        rows = unit_rows(prefix(pooled, self.config.dim))  # (B, D)
        return Ragged(rows, torch.arange(len(rows) + 1))


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
