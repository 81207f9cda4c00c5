"""Any sequence of calls leaves what a dictionary would hold, and finds what plain numpy finds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from index_helpers import matrix

from lateint.index import DuplicateId, Index, building, compaction

NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True)
SEEDS = st.integers(0, 2**32)
WIDTH = 4


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.index = Index.create(self.folder / "i", WIDTH)
        self.held: dict[str, tuple[np.ndarray, int]] = {}  # in the order of addition

    def teardown(self) -> None:
        self.index.close()
        shutil.rmtree(self.folder)

    def made(self, names: list[str], seed: int) -> tuple[list[np.ndarray], list[int]]:
        rng = np.random.default_rng(seed)
        return [matrix(rng, int(rng.integers(1, 5)), WIDTH) for _ in names], rng.integers(
            0, 9, len(names)
        ).tolist()

    @rule(names=NAMES, seed=SEEDS)
    def add(self, names: list[str], seed: int) -> None:
        docs, numbers = self.made(names, seed)
        if self.held.keys() & set(names):
            with pytest.raises(DuplicateId):
                self.index.add(names, docs)
            return
        self.index.add(names, docs, metadata=[{"n": n} for n in numbers])
        self.held |= dict(zip(names, zip(docs, numbers, strict=True), strict=True))

    @rule(names=NAMES, seed=SEEDS)
    def upsert(self, names: list[str], seed: int) -> None:
        docs, numbers = self.made(names, seed)
        self.index.upsert(names, docs, metadata=[{"n": n} for n in numbers])
        for name in names:
            self.held.pop(name, None)
        self.held |= dict(zip(names, zip(docs, numbers, strict=True), strict=True))

    @rule(names=NAMES)
    def delete(self, names: list[str]) -> None:
        assert self.index.delete(names) == sum(name in self.held for name in names)
        for name in names:
            self.held.pop(name, None)

    @rule()
    def compact(self) -> None:
        self.index.compact()
        assert self.index.info().deleted == 0

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = Index.open(self.folder / "i", write=True)
        self.index.verify()

    @rule(seed=SEEDS, least=st.integers(0, 9), k=st.integers(1, 9))
    def search(self, seed: int, least: int, k: int) -> None:
        if not self.held:
            return
        query = matrix(np.random.default_rng(seed), 3, WIDTH)
        scores = {
            name: float((query @ doc.T).max(axis=1).sum())
            for name, (doc, n) in self.held.items()
            if n >= least
        }
        hits = self.index.search([query], k=k, where="n >= ?", params=[least])[0]
        best = sorted(scores.values(), reverse=True)[:k]
        np.testing.assert_allclose([hit.score for hit in hits], best, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose([scores[hit.id] for hit in hits], best, rtol=1e-5, atol=1e-6)

    @invariant()
    def agrees(self) -> None:
        assert self.index.ids() == list(self.held) and len(self.index) == len(self.held)
        for got, (doc, _) in zip(
            self.index.reconstruct(list(self.held)), self.held.values(), strict=True
        ):
            np.testing.assert_array_equal(got, doc)


def test_against_a_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setattr(compaction, "MANY", 3)
    monkeypatch.setattr(building, "SEGMENT_BYTES", 2 * WIDTH * 24)
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=20, stateful_step_count=12, deadline=None, database=None),
    )
