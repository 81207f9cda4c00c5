"""check_encoder passes an honest encoder and finds each way to be dishonest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modalities.encoder import Batch, Encoder, Role, check_encoder, check_role, from_config
from modalities.grid import TokenGrid

ITEMS = ["abc", "z", "lateint"]


class Letters(Encoder):
    """One token a letter, after one for the text: small, real and correct."""

    name = "letters"
    modality = "text"

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.dim = dim
        self.table = nn.Embedding(128, dim)

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        rows = [torch.tensor([1, *map(ord, text)]) for text in raw]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0)
        return Batch({"ids": ids.long()}, tuple((1, len(row)) for row in rows), role)

    def forward(self, batch: Batch) -> TokenGrid:
        ids = batch.inputs["ids"].to(self.device)
        mask = ids > 0
        pooled = (self.table(ids) * mask[..., None]).sum(1)
        return TokenGrid(self.table(ids), mask, batch.shape or (), pooled)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return [1 + len(text) for text in raw]

    def labels(self, item: Any, role: Role) -> list[str]:
        return ["[text]", *item]

    def config(self) -> dict[str, Any]:
        return {"dim": self.dim}


class SeesNeighbours(Letters):
    def forward(self, batch: Batch) -> TokenGrid:
        grid = super().forward(batch)
        return replace(grid, tokens=grid.tokens + grid.tokens.mean()) if len(batch) else grid


class SeesPadding(Letters):
    def forward(self, batch: Batch) -> TokenGrid:
        grid = super().forward(batch)
        return replace(grid, pooled=self.table(batch.inputs["ids"]).sum(1))


class SortsByLength(Letters):
    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        return super().prepare(sorted(raw, key=len), role)


class PadsAtTheLeft(Letters):
    def forward(self, batch: Batch) -> TokenGrid:
        grid = super().forward(batch)
        return replace(grid, tokens=grid.tokens.flip(1), mask=grid.mask.flip(1))


class Random(Letters):
    def forward(self, batch: Batch) -> TokenGrid:
        grid = super().forward(batch)
        return replace(grid, tokens=grid.tokens + torch.rand(()))


class WrongWidth(Letters):
    def __init__(self, dim: int = 4) -> None:
        super().__init__(dim)
        self.dim = dim + 1


class WrongDtype(Letters):
    def forward(self, batch: Batch) -> TokenGrid:
        return super().forward(batch).to(dtype=torch.float16)


class NoEmptyBatch(Letters):
    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        return super().prepare(raw or ["a"], role)


class TooFewLabels(Letters):
    def labels(self, item: Any, role: Role) -> list[str]:
        return [*item]


class CostOfTheBatch(Letters):
    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return [1 + max(map(len, raw), default=0)] * len(raw)


class NoCost(Letters):
    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return [0 for _ in raw]


class ForgetsWeights(Letters):
    @classmethod
    def load(cls, folder: Path) -> ForgetsWeights:
        return cls().eval()


class LosesTheRole(Letters):
    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        return super().prepare(raw, "query")


class NotFinite(Letters):
    def forward(self, batch: Batch) -> TokenGrid:
        grid = super().forward(batch)
        return replace(grid, tokens=grid.tokens / 0)


def test_an_honest_encoder_passes_and_keeps_its_mode() -> None:
    encoder = Letters().train()
    check_encoder(encoder, ITEMS)
    check_encoder(encoder, ITEMS, role="query")
    assert encoder.training


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (SeesNeighbours, "tokens differ"),
        (SeesPadding, "pooled differ"),
        (SortsByLength, "shape"),
        (PadsAtTheLeft, "padded at the left"),
        (Random, "encoded again: tokens differ"),
        (WrongWidth, "width 4, dim is 5"),
        (WrongDtype, "float16"),
        (NoEmptyBatch, "1 rows for no items"),
        (TooFewLabels, "4 tokens and 3 labels"),
        (CostOfTheBatch, "depends on its neighbours"),
        (NoCost, "at least 1"),
        (ForgetsWeights, "after save and load"),
        (LosesTheRole, "'document' into 'query'"),
        (NotFinite, "not finite"),
    ],
)
def test_a_dishonest_encoder_is_found(kind: type[Encoder], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_encoder(kind(), ITEMS)


def test_one_item_proves_nothing() -> None:
    with pytest.raises(AssertionError, match="at least two items"):
        check_encoder(Letters(), ["abc"])


def test_save_and_load(tmp_path: Path) -> None:
    encoder = Letters(dim=3)
    encoder.save(tmp_path / "new" / "folder")
    again = Letters.load(tmp_path / "new" / "folder")
    assert torch.equal(again.table.weight, encoder.table.weight)
    assert not again.training
    with pytest.raises(ValueError, match="of encoder 'letters', not 'other'"):
        type("Other", (Letters,), {"name": "other"}).load(tmp_path / "new" / "folder")


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    Letters(dim=3).save(tmp_path)
    (tmp_path / "encoder.json").write_text(json.dumps({"encoder": "letters", "config": {"dim": 4}}))
    with pytest.raises(ValueError, match="does not fit 'letters'"):
        Letters.load(tmp_path)
    for broken in (b"", b"\xff" * 100, (tmp_path / "model.safetensors").read_bytes()[:-10]):
        (tmp_path / "model.safetensors").write_bytes(broken)
        with pytest.raises(ValueError, match="does not fit"):
            Letters.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        Letters.load(tmp_path)


def test_batch_moves_floats_to_a_dtype_and_leaves_whole_numbers() -> None:
    batch = Batch({"ids": torch.ones(2, 3).long(), "x": torch.ones(2, 3)}, None, "query")
    moved = batch.to("cpu", torch.float16)
    assert (moved.inputs["ids"].dtype, moved.inputs["x"].dtype) == (torch.int64, torch.float16)
    assert (len(moved), moved.role, moved.shape) == (2, "query", None)
    assert len(Batch({}, None, "query")) == 0


def test_roles() -> None:
    check_role("query")
    check_role("document")
    with pytest.raises(ValueError, match="'passage'"):
        check_role("passage")


def test_config_keys() -> None:
    @dataclass(frozen=True)
    class Config:
        width: int
        places: tuple[int, ...] = ()

    assert from_config(Config, {"width": 3, "places": [1, 2]}) == Config(3, (1, 2))
    with pytest.raises(ValueError, match=r"'widht' of Config: did you mean \['width'\]"):
        from_config(Config, {"widht": 3})
    with pytest.raises(ValueError, match=r"missing 1 required .*'width'"):
        from_config(Config, {})
