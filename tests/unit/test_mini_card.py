"""The card of the model that ships says what was measured last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    import mini_card

    return mini_card


def test_measures_are_told_from_counts_and_circumstances(card: Any) -> None:
    line = {"pages": 60, "machine": {"load": 1.5}, "clean": {"multi": {"R@1": 0.96, "queries": 3}}}
    assert [*card.rows(line)] == [("clean / multi", "R@1 0.96")]


def test_the_card_has_the_newest_numbers(card: Any) -> None:
    """After a benchmark: `scripts/train_mini.py card`."""
    text = card.TARGET.read_text(encoding="utf-8")
    assert card.numbers() in text
    assert "lateint.load()" in text and "## Limits" in text
    assert "nDCG@5" in text
