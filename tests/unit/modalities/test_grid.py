"""TokenGrid refuses what does not fit together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modalities.grid import TokenGrid

MASK = torch.tensor([[True, True, True], [True, False, False]])


def grid(**changes: Any) -> TokenGrid:
    values: dict[str, Any] = {
        "tokens": torch.ones(2, 3, 4),
        "mask": MASK,
        "shape": ((1, 3), (1, 1)),
        "pooled": torch.ones(2, 4),
        "boxes": torch.zeros(2, 3, 4),
        "seconds": torch.tensor([[0.0, 0.5], [0.5, 1.0], [1.0, 1.2]]).repeat(2, 1, 1),
    }
    return TokenGrid(**{**values, **changes})


def test_a_good_grid() -> None:
    good = grid()
    good.verify()
    assert (len(good), good.dim) == (2, 4)
    none = TokenGrid(torch.zeros(0, 0, 4), torch.zeros(0, 0, dtype=torch.bool), ())
    none.verify()
    assert (len(none), none.dim) == (0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": torch.ones(2, 3)}, r"tokens must be floats \(B, T, D\)"),
        ({"tokens": torch.ones(2, 3, 4, dtype=torch.long)}, "tokens must be floats"),
        ({"mask": MASK.long()}, "mask must be bool"),
        ({"mask": MASK[:, :2]}, "mask must be bool"),
        ({"mask": MASK.to("meta")}, "mask is on meta"),
        ({"shape": ((1, 3),)}, "1 entries for 2 items"),
        ({"shape": ((1, 3), (2, 2))}, "item 1 has shape"),
        ({"shape": ((1, 3), (-1, -1))}, "item 1 has shape"),
        ({"pooled": torch.ones(2, 5)}, r"pooled must be \(2, 4\)"),
        ({"boxes": torch.ones(2, 3)}, r"boxes must be \(2, 3, 4\)"),
        ({"seconds": torch.ones(2, 3)}, r"seconds must be \(2, 3, 2\)"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(**changes)


def test_values_that_do_not_fit() -> None:
    left = torch.tensor([[True, True, True], [False, False, True]])
    nan = torch.ones(2, 3, 4)
    nan[1, 0, 2] = float("nan")
    for changes, message in (
        ({"shape": ((1, 3), (1, 2))}, r"item 1 has 1 real tokens and shape \(1, 2\)"),
        ({"mask": left}, "item 1 is padded at the left"),
        ({"tokens": nan}, "item 1 has tokens that are not finite"),
        ({"pooled": torch.full((2, 4), float("inf"))}, "pooled has values"),
        ({"boxes": torch.full((2, 3, 4), 1.5)}, "boxes must be fractions"),
    ):
        with pytest.raises(ValueError, match=message):
            grid(**changes).verify()  # type: ignore[arg-type]


def test_what_stands_under_the_mask_means_nothing() -> None:
    tokens, boxes = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)
    tokens[1, 2], boxes[1, 2] = float("nan"), 7.0
    grid(tokens=tokens, boxes=boxes).verify()


def test_to_another_dtype_leaves_mask_and_boxes() -> None:
    moved = grid().to(dtype=torch.float16)
    assert moved.pooled is not None and moved.boxes is not None
    assert moved.tokens.dtype == moved.pooled.dtype == torch.float16
    assert (moved.mask.dtype, moved.boxes.dtype) == (torch.bool, torch.float32)
    assert moved.shape == grid().shape
    assert grid().to("meta").boxes.device.type == "meta"  # type: ignore[union-attr]
