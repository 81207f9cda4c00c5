"""Any sequence of calls leaves what a dictionary would hold, and finds what plain numpy finds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from index_helpers import matrix

from lateint.index import (
    BadTokens,
    DuplicateId,
    Index,
    building,
    compaction,
)

NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True)
SEEDS = st.integers(0, 2**32)
WORDS = ["kite", "gull", "boat", "rain"]
Held = dict[str, tuple[np.ndarray, int]]  # id -> tokens, number; in the order of addition


class Machine(RuleBasedStateMachine):
    """float16 tokens: what comes out is what went in."""

    width, nbits = 4, 16

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.index = Index.create(self.folder / "i", self.width, nbits=self.nbits)
        self.reader = Index.open(self.folder / "i")
        self.held: Held = {}
        self.read: Held = {}  # what the reader's snapshot holds

    def teardown(self) -> None:
        self.index.close()
        self.reader.close()
        shutil.rmtree(self.folder)

    def made(self, names: list[str], seed: int) -> tuple[list[np.ndarray], list[int]]:
        rng = np.random.default_rng(seed)
        docs = [matrix(rng, int(rng.integers(1, 5)), self.width) for _ in names]
        return docs, rng.integers(0, 9, len(names)).tolist()

    def put(self, names: list[str], seed: int, call: Any) -> None:
        docs, numbers = self.made(names, seed)
        texts = [
            None if n == 8 else f"a {WORDS[n % 4]}, {name}"
            for n, name in zip(numbers, names, strict=True)
        ]
        call(names, docs, metadata=[{"n": n} for n in numbers], texts=texts)
        for name in names:
            self.held.pop(name, None)
        self.held |= dict(zip(names, zip(docs, numbers, strict=True), strict=True))

    @rule(names=NAMES, seed=SEEDS)
    def add(self, names: list[str], seed: int) -> None:
        if self.held.keys() & set(names):
            with pytest.raises(DuplicateId):
                self.index.add(names, self.made(names, seed)[0])
            return
        self.put(names, seed, self.index.add)

    @rule(names=NAMES, seed=SEEDS)
    def upsert(self, names: list[str], seed: int) -> None:
        self.put(names, seed, self.index.upsert)

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

    @rule()
    def refresh(self) -> None:
        self.reader.refresh()
        self.read = dict(self.held)
        self.reader.verify()

    @rule(names=NAMES, seed=SEEDS)
    def bad(self, names: list[str], seed: int) -> None:
        docs, _ = self.made(names, seed)
        docs[-1][0, 0] = np.nan
        with pytest.raises(BadTokens):
            self.index.upsert(names, docs)

    @rule(seed=SEEDS, least=st.integers(0, 9), k=st.integers(1, 9))
    def search(self, seed: int, least: int, k: int) -> None:
        query = matrix(np.random.default_rng(seed), 3, self.width)
        known = self.tokens()
        scores = {
            name: float((query @ known[name].T).max(axis=1).sum())
            for name, (_, n) in self.held.items()
            if n >= least
        }
        if not self.held:  # `n` is no key then
            return
        hits = self.index.search([query], k=k, where="n >= ?", params=[least])[0]
        best = sorted(scores.values(), reverse=True)[:k]
        near = {"rtol": 1e-5, "atol": 1e-6} if self.nbits == 16 else {"atol": 0.1}
        np.testing.assert_allclose([hit.score for hit in hits], best, **near)
        np.testing.assert_allclose([scores[hit.id] for hit in hits], best, **near)

    @rule(word=st.sampled_from(range(4)))
    def words(self, word: int) -> None:
        hits = self.index.search_hybrid(None, [WORDS[word]], 99, fusion="bm25")[0]
        wanted = {name for name, (_, n) in self.held.items() if n != 8 and n % 4 == word}
        assert {hit.id for hit in hits} == wanted

    def tokens(self) -> dict[str, np.ndarray]:
        """What the index holds of each document, as it says itself."""
        return dict(zip(self.held, self.index.reconstruct(list(self.held)), strict=True))

    @invariant()
    def agrees(self) -> None:
        for index, held in ((self.index, self.held), (self.reader, self.read)):
            assert index.ids() == list(held) and len(index) == len(held)
            assert index.metadata(list(held)) == [{"n": n} for _, n in held.values()]
            for got, (doc, _) in zip(index.reconstruct(list(held)), held.values(), strict=True):
                self.alike(got, doc)

    def alike(self, got: np.ndarray, doc: np.ndarray) -> None:
        np.testing.assert_array_equal(got, doc)


class Compressed(Machine):
    """Compressed once trained: what comes out is near what went in. Begins with enough documents to
    train a codec on that suits others like them."""

    width, nbits = 32, 4

    def __init__(self) -> None:
        super().__init__()
        self.put([f"s{i}" for i in range(60)], 1, self.index.add)

    @rule()
    def train(self) -> None:
        self.index.train()
        assert self.index.info().kind == "residual" and not self.index.info().deleted

    def alike(self, got: np.ndarray, doc: np.ndarray) -> None:
        assert got.shape == doc.shape
        # Of tokens without any pattern; two at random are so near one time in 2,000.
        assert (got * doc).sum(axis=1).min() > 0.6


@pytest.mark.parametrize("machine", [Machine, Compressed])
def test_against_a_dictionary(monkeypatch: pytest.MonkeyPatch, machine: type[Machine]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setattr(compaction, "MANY", 3)
    monkeypatch.setattr(building, "SEGMENT_BYTES", 2 * machine.width * 24)
    check = settings(max_examples=10, stateful_step_count=12, deadline=None, database=None)
    run_state_machine_as_test(machine, settings=check)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [Machine, Compressed])
def test_long_lives(monkeypatch: pytest.MonkeyPatch, machine: type[Machine]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setattr(compaction, "MANY", 3)
    monkeypatch.setattr(building, "SEGMENT_BYTES", 2 * machine.width * 24)
    check = settings(max_examples=150, stateful_step_count=40, deadline=None, database=None)
    run_state_machine_as_test(machine, settings=check)
