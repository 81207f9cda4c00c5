"""Which examples make a step, over sets, epochs and processes; and what a step is made of."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import toy_training as toy
from PIL import Image
from toy_model import ColourPage, HashedText

from lateint.data import Batches, Collate, Column, JoinedSets, TableSet
from lateint.data.columns import Columns, DataError


def sets(*sizes: int) -> JoinedSets:
    return JoinedSets(
        [
            TableSet([{"q": f"q{k} {i}", "p": f"p{k} {i}"} for i in range(size)])
            for k, size in enumerate(sizes)
        ]
    )


def test_sets_stand_end_to_end() -> None:
    joined = sets(3, 2)
    assert [joined[i].query.value for i in range(5)] == ["q0 0", "q0 1", "q0 2", "q1 0", "q1 1"]
    assert len(joined) == 5


def test_an_epoch_sees_everything_once_and_each_its_own_order() -> None:
    batches = Batches(sets(10, 7), 4)
    first = list(batches)
    assert len(first) == len(batches) == 3 + 2
    assert sorted(i for batch in first for i in batch) == list(range(17))
    assert all(len({i < 10 for i in batch}) == 1 for batch in first)  # of one set
    assert list(batches) == first
    batches.set_epoch(1)
    assert list(batches) != first


def test_sets_take_turns_or_are_mixed() -> None:
    turns = list(Batches(sets(12, 4), 4, mix="round_robin"))
    assert [batch[0] < 12 for batch in turns] == [True, False]
    mixed = list(Batches(sets(12, 12), 4, mix="mixed"))
    assert len(mixed) == 6
    assert any(len({i < 12 for i in batch}) == 2 for batch in mixed)


@pytest.mark.parametrize("mix", ["proportional", "mixed", "round_robin"])
@pytest.mark.parametrize("no_duplicates", [False, True])
def test_processes_share_the_steps_of_one(mix: Any, no_duplicates: bool) -> None:
    joined = sets(22, 10)
    options: dict[str, Any] = {"mix": mix, "no_duplicates": no_duplicates, "seed": 3}
    alone = list(Batches(joined, 4, **options))
    parts = [list(Batches(joined, 2, processes=2, rank=r, **options)) for r in (0, 1)]
    assert len(parts[0]) == len(parts[1])
    for whole, *own in zip(alone, *parts, strict=False):
        assert sorted(whole) == sorted(i for part in own for i in part)
        assert all(part for part in own)


def test_a_last_step_too_small_for_all_processes_is_left_out() -> None:
    assert len(Batches(sets(9), 4, processes=2)) == 1  # one example is left
    assert [len(b) for b in Batches(sets(10), 4, processes=2)] == [4, 1]
    assert len(Batches(sets(10), 4, drop_last=True)) == 2


def test_duplicates_are_kept_apart_and_nothing_is_lost() -> None:
    rows = [{"q": f"q{i}", "p": f"p{i % 6}"} for i in range(36)]  # each document six times
    batches = Batches(JoinedSets([TableSet(rows)]), 6, no_duplicates=True)
    steps = list(batches)
    assert sorted(i for step in steps for i in step) == list(range(36))
    clean = [max(Counter(i % 6 for i in step).values()) == 1 for step in steps]
    assert sum(clean) >= 4  # what is left at the end may have to repeat
    plain = [
        max(Counter(i % 6 for i in step).values()) == 1
        for step in Batches(JoinedSets([TableSet(rows)]), 6)
    ]
    assert sum(plain) < sum(clean)
    repeated = [{"q": "same", "p": f"p{i}"} for i in range(4)]
    assert [len(b) for b in Batches(JoinedSets([TableSet(repeated)]), 2, no_duplicates=True)] == [
        2,
        2,
    ]


def test_a_step_keeps_the_order_of_items_over_modalities_and_chunks() -> None:
    """Vectors put back by the places of their chunks are those of the items one by one."""
    columns = [Column("q", "query"), Column("d", "document", "page")]
    pages = TableSet(
        [
            {"q": "find red", "d": Image.new("RGB", (8, 8), "red")},
            {"q": "a", "d": Image.new("RGB", (8, 8))},
        ],
        columns,
    )
    words = TableSet(
        [{"q": "two three", "d": "one two three four", "n": "x"}, {"q": "y", "d": "z", "n": "w"}]
    )
    joined = JoinedSets([pages, words])
    examples = [joined[i] for i in (2, 0, 3, 1)]
    collate = Collate({"text": HashedText(), "page": ColourPage()}, budget_tokens=6)
    step = collate(examples)["step"]
    assert sorted(p for chunk in step.documents for p in chunk.places) == list(range(6))
    assert len([chunk for chunk in step.documents if chunk.modality == "text"]) > 1
    by_place = {
        place: (chunk.modality, chunk.batch.inputs["tokens"][row][chunk.batch.inputs["mask"][row]])
        for chunk in step.documents
        for row, place in enumerate(chunk.places)
    }
    items = [item for example in examples for item in example.documents]
    for place, item in enumerate(items):
        modality, tokens = by_place[place]
        assert modality == item.modality
        alone = collate.encoders[modality].prepare([item.opened()], "document")
        assert torch.equal(tokens, alone.inputs["tokens"][0])
    assert step.targets.positives.tolist() == [0, 2, 3, 5]
    assert step.targets.candidates is not None
    assert step.targets.candidates.tolist() == [[0, 1], [2, -1], [3, 4], [5, -1]]
    assert step.targets.teacher is None


def test_teacher_scores_of_some_examples() -> None:
    columns = Columns((Column("q", "query"), Column("d", "document")), ("s",))
    scored = TableSet([{"q": "a", "d": ["b", "c"], "s": [2, 1]}], columns)
    plain = TableSet(toy.pairs(2))
    examples = [scored[0], plain[0]]
    step = Collate({"text": HashedText()})(examples)["step"]
    assert step.targets.teacher is not None
    assert step.targets.teacher[0].tolist() == [2.0, 1.0]
    assert bool(step.targets.teacher[1].isnan().all())


def test_steps_have_the_same_kinds_of_targets_on_request() -> None:
    plain = TableSet(toy.pairs(2))
    collate = Collate({"text": HashedText()}, candidates=True, scored=True)
    targets = collate([plain[0], plain[1]])["step"].targets
    assert targets.candidates.tolist() == [[0], [1]]
    assert targets.teacher.isnan().all()
    assert Collate({"text": HashedText()})([plain[0]])["step"].targets.candidates is None


def test_a_modality_that_the_model_does_not_read_is_named() -> None:
    columns = [Column("q", "query"), Column("d", "document", "page")]
    pages = TableSet([{"q": "red", "d": Image.new("RGB", (8, 8))}], columns)
    with pytest.raises(DataError, match="'page', but the model reads 'text'"):
        Collate({"text": HashedText()})([pages[0]])
