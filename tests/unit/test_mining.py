"""Mining with a real tiny model whose scores are known: MaxSim counts shared words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from toy_model import COLOURS, toy_model

from lateint.evaluation.benchmark import Benchmark
from lateint.evaluation.ranking import Encoding, candidates, index_benchmark
from lateint.mining import MiningConfig, mine, model_teacher, write_triples
from lateint.model import LateInteractionModel

DOCUMENTS = {
    "answer": "red kite over the harbour",
    "copy": "Red  kite over the HARBOUR",  # says the same
    "near": "red kite over the forest",
    "half": "a red roof at the harbour",
    "little": "a red roof in the sun",
    "none": "mice sleep all winter",
}
QUERY = "red kite over harbour"
OPEN = MiningConfig(relative=None, same="id")


@pytest.fixture(scope="module")
def model() -> LateInteractionModel:
    return toy_model()


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return Benchmark("birds", DOCUMENTS, {"q": QUERY}, {"q": {"answer": 1, "half": 0}})


def negatives(model: LateInteractionModel, benchmark: Benchmark, **config: Any) -> tuple[str, ...]:
    (one,) = mine(model, benchmark, MiningConfig(**config))
    return one.negatives


def test_hardest_first_with_the_scores_of_the_model(
    model: LateInteractionModel, benchmark: Benchmark
) -> None:
    (one,) = mine(model, benchmark, OPEN)
    assert (one.query, one.positive) == ("q", "answer")
    assert one.negatives == ("copy", "near", "half", "little")
    own = [DOCUMENTS[name] for name in (one.positive, *one.negatives)]
    exact = candidates(model, [QUERY], [own])[0].tolist()
    assert one.scores == pytest.approx(exact, abs=5e-3)  # the index holds float16


def test_what_says_the_same_as_an_answer_is_one(
    model: LateInteractionModel, benchmark: Benchmark
) -> None:
    assert "copy" in negatives(model, benchmark, relative=None, same="id")
    assert "copy" not in negatives(model, benchmark, relative=None)


def test_a_graded_zero_may_be_a_negative_and_another_answer_may_not(
    model: LateInteractionModel,
) -> None:
    qrels = {"q": {"answer": 2, "near": 1, "half": 0}}
    found = mine(model, Benchmark("b", DOCUMENTS, {"q": QUERY}, qrels), MiningConfig(relative=None))
    assert [one.positive for one in found] == ["answer", "near"]
    for one in found:
        assert one.negatives == ("half", "little", "none")


def test_the_same_query_under_another_id_shares_its_answers(model: LateInteractionModel) -> None:
    queries = {"q": QUERY, "again": QUERY.upper()}
    qrels = {"q": {"answer": 1}, "again": {"near": 1}}
    found = mine(model, Benchmark("b", DOCUMENTS, queries, qrels), MiningConfig(relative=None))
    assert len(found) == 2
    assert not {"answer", "near", "copy"} & {name for one in found for name in one.negatives}


def test_margins(model: LateInteractionModel, benchmark: Benchmark) -> None:
    (one,) = mine(model, benchmark, OPEN)
    best = one.scores[0]
    scores = dict(zip(one.negatives, one.scores[1:], strict=True))
    for share in (0.99, 0.8, 0.6, 0.2):
        wanted = tuple(name for name in scores if scores[name] <= share * best)
        found = negatives(model, benchmark, relative=share, same="id")
        assert found[: len(wanted)] == wanted
        assert not {*found} & {name for name in scores if scores[name] > share * best}
    for margin in (0.5, 1.5, 3.5):
        wanted = tuple(name for name in scores if scores[name] <= best - margin)
        found = negatives(model, benchmark, margin=margin, relative=None, same="id")
        assert found[: len(wanted)] == wanted
    assert negatives(model, benchmark, margin=100.0, relative=None) == ()


def test_ranks_and_numbers(model: LateInteractionModel, benchmark: Benchmark) -> None:
    ranked = negatives(model, benchmark, number=99, relative=None, same="id")
    assert ranked == ("copy", "near", "half", "little", "none")
    assert negatives(model, benchmark, first=3, relative=None, same="id") == ranked[2:]
    assert negatives(model, benchmark, first=2, last=3, relative=None, same="id") == ranked[1:3]
    assert negatives(model, benchmark, number=1, relative=None, same="id") == ranked[:1]
    assert negatives(model, benchmark, number=0) == ()


def test_random_picks_depend_on_the_seed_only(model: LateInteractionModel) -> None:
    documents = {f"d{i}": f"red thing number{i} of many" for i in range(40)}
    queries = {f"q{i}": f"red number{i}" for i in range(8)}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(8)}
    benchmark = Benchmark("b", documents, queries, qrels)
    config = MiningConfig(number=3, pick="random", relative=None, seed=5)
    found = mine(model, benchmark, config)
    assert found == mine(model, benchmark, config)
    backwards = Benchmark("b", documents, dict(reversed(queries.items())), qrels)
    assert {one.query: one for one in mine(model, backwards, config)} == {o.query: o for o in found}
    other = mine(model, benchmark, MiningConfig(number=3, pick="random", relative=None, seed=6))
    assert [one.negatives for one in other] != [one.negatives for one in found]
    for one in found:
        assert len({*one.negatives}) == 3 and one.positive not in one.negatives
        assert list(one.scores[1:]) == sorted(one.scores[1:], reverse=True)


def test_a_teacher_scores(model: LateInteractionModel, benchmark: Benchmark) -> None:
    asked: list[tuple[str, int]] = []

    def length(queries: Sequence[Any], documents: Sequence[Sequence[Any]]) -> list[list[float]]:
        asked.append((queries[0], len(documents[0])))
        return [[float(len(text)) for text in own] for own in documents]

    (one,) = mine(model, benchmark, OPEN, teacher=length)
    assert one.scores == tuple(len(DOCUMENTS[name]) for name in (one.positive, *one.negatives))
    assert asked == [(QUERY, 5)]  # the answer and what was kept, no more


def test_a_teacher_judges(model: LateInteractionModel, benchmark: Benchmark) -> None:
    def says(queries: Sequence[Any], documents: Sequence[Sequence[Any]]) -> list[list[float]]:
        return [[0.9 if "kite" in text.lower() else 0.1 for text in own] for own in documents]

    config = MiningConfig(judge="teacher", same="id")
    (one,) = mine(model, benchmark, config, teacher=says)
    assert one.negatives == (
        "half",
        "little",
        "none",
    )  # "copy" and "near" answer it, says the judge
    assert one.scores == (0.9, 0.1, 0.1, 0.1)


def test_another_model_as_teacher(model: LateInteractionModel, benchmark: Benchmark) -> None:
    teacher = toy_model()
    (one,) = mine(model, benchmark, OPEN, teacher=model_teacher(teacher, Encoding(head="single")))
    own = [DOCUMENTS[name] for name in (one.positive, *one.negatives)]
    exact = candidates(teacher, [QUERY], [own], Encoding(head="single"))[0].tolist()
    assert one.scores == pytest.approx(exact, abs=1e-6)


def test_an_index_that_is_there_already(
    model: LateInteractionModel, benchmark: Benchmark, tmp_path: Path
) -> None:
    with index_benchmark(model, benchmark, tmp_path / "i", Encoding()) as index:
        assert mine(model, benchmark, OPEN, index=index) == mine(model, benchmark, OPEN)


def test_pages(model: LateInteractionModel) -> None:
    from PIL import Image

    def page(*colours: str) -> Image.Image:
        found = Image.new("RGB", (40, 60), "white")
        for i, colour in enumerate(colours):
            found.paste(COLOURS[colour], (0, 20 * i, 40, 20 * i + 10))
        return found

    pages = {"a": page("red", "blue"), "b": page("red", "green"), "c": page("green", "violet")}
    benchmark = Benchmark("p", pages, {"q": "red blue"}, {"q": {"a": 1}}, document_modality="page")
    (one,) = mine(model, benchmark, MiningConfig())
    assert one.negatives == ("b", "c")


def test_triples_in_a_file(
    model: LateInteractionModel, benchmark: Benchmark, tmp_path: Path
) -> None:
    mined = mine(model, benchmark, MiningConfig(number=2))
    assert write_triples(tmp_path / "t.jsonl", mined, benchmark) == 1
    (line,) = (tmp_path / "t.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["query"] == QUERY
    assert record["positive"] == DOCUMENTS["answer"]
    assert record["negatives"] == [DOCUMENTS[name] for name in record["negative_ids"]]
    assert record["scores"] == pytest.approx(list(mined[0].scores), abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"number": -1}, "number -1"),
        ({"first": 0}, "ranks 0 to 100"),
        ({"first": 5, "last": 4}, "first not behind last"),
        ({"pick": "best"}, "pick: got 'best'; wanted one of top, random"),
        ({"judge": "me"}, "judge"),
        ({"same": "never"}, "same"),
    ],
)
def test_wrong_settings(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiningConfig(**config)


def test_a_judge_that_is_not_there(model: LateInteractionModel, benchmark: Benchmark) -> None:
    with pytest.raises(ValueError, match="needs a teacher"):
        mine(model, benchmark, MiningConfig(judge="teacher"))
    with pytest.raises(ValueError, match="gave 1 scores for 5 documents"):
        mine(model, benchmark, OPEN, teacher=lambda queries, documents: [[1.0]])
