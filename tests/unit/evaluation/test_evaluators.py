"""Evaluators and rankings with a real tiny model whose answers are known: MaxSim counts words."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from toy_model import COLOURS, ColourPage, toy_model, word_vector

from lateint.evaluation import (
    CrossModal,
    Distillation,
    Evaluators,
    InformationRetrieval,
    Reranking,
    Triplet,
)
from lateint.evaluation.benchmark import Benchmark
from lateint.evaluation.ranking import (
    Encoding,
    bm25_run,
    candidates,
    index_benchmark,
    index_run,
    rank,
)
from lateint.maxsim import maxsim
from lateint.model import LateInteractionModel

DOCUMENTS = {
    "kite": "the red kite is a bird of prey",
    "gull": "a white gull follows the ship",
    "owl": "the owl hunts mice at night",
    "ship": "a ship is red below the water line",
}
QUERIES = {"1": "red kite", "2": "white gull ship", "3": "mice at night"}
QRELS = {"1": {"kite": 1}, "2": {"gull": 1}, "3": {"owl": 1}}


@pytest.fixture(scope="module")
def model() -> LateInteractionModel:
    return toy_model()


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return Benchmark("birds", DOCUMENTS, QUERIES, QRELS)


def pages() -> dict[str, Any]:
    """A page for each colour but the paper's, with a few cells of it."""
    found = {}
    for name, colour in COLOURS.items():
        if name != "white":
            page = Image.new("RGB", (40, 60), "white")
            page.paste(colour, (10, 10, 20, 30))
            found[name] = page
    return found


@pytest.mark.parametrize("head", ["multi", "single"])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_a_ranking_is_exact_maxsim(model: LateInteractionModel, head: str, window: int) -> None:
    run = rank(model, QUERIES, DOCUMENTS, Encoding(head=head, window=window), k=3)
    scores = maxsim(
        model.encode_queries(QUERIES.values(), head=head),
        model.encode_documents(DOCUMENTS.values(), head=head),
    )
    for row, query in zip(scores, QUERIES, strict=True):
        best = sorted(zip(row.tolist(), DOCUMENTS, strict=True), reverse=True)[:3]
        assert run[query] == pytest.approx({name: score for score, name in best}, abs=1e-5)


def test_documents_are_opened_a_window_at_a_time(model: LateInteractionModel) -> None:
    opened: list[str] = []

    class Counting(dict[str, str]):
        def __getitem__(self, name: str) -> str:
            opened.append(name)
            return super().__getitem__(name)

    rank(model, QUERIES, Counting(DOCUMENTS), Encoding(window=2))
    assert opened == list(DOCUMENTS)


def test_a_document_without_tokens_is_no_answer(model: LateInteractionModel) -> None:
    class Sometimes(ColourPage):
        def labels(self, item: Any, role: Any) -> list[str]:
            return super().labels(item, role)

        def forward(self, batch: Any) -> Any:
            grid = super().forward(batch)
            mask = grid.mask.clone()
            mask[:, :] = False
            return type(grid)(grid.tokens, mask, ((0, 0),) * len(grid.mask))

    empty = toy_model(page=Sometimes())
    encoding = Encoding(document_modality="page")
    assert rank(empty, {"q": "red"}, pages(), encoding) == {"q": {}}


def test_candidates_are_scored_alone(model: LateInteractionModel) -> None:
    lists = [["red kite", "red"], ["gull"], ["mice", "night owl", "at night"]]
    for window in (1, 4, 50):
        found = candidates(model, list(QUERIES.values()), lists, Encoding(window=window))
        for query, own, scores in zip(QUERIES.values(), lists, found, strict=True):
            wanted = maxsim(model.encode_queries([query]), model.encode_documents(own))[0]
            assert torch.allclose(scores, wanted, atol=1e-5)


def test_an_index_gives_the_same_run(
    model: LateInteractionModel, benchmark: Benchmark, tmp_path: Path
) -> None:
    with index_benchmark(model, benchmark, tmp_path / "i", Encoding()) as index:
        found = index_run(index, model, benchmark, Encoding(), k=3)
        exact = rank(model, QUERIES, DOCUMENTS, k=3)
        for query in QUERIES:
            assert found[query] == pytest.approx(exact[query], abs=5e-3)  # float16
        hybrid = index_run(index, model, benchmark, Encoding(), k=3, hybrid=True)
        assert next(iter(hybrid["1"])) == "kite"


def test_bm25_like_bm25s(tmp_path: Path) -> None:
    """Scores and order of another implementation, over 200 documents of 12 to 40 random words."""
    bm25s = pytest.importorskip("bm25s", reason="a cross-check only")
    generator = random.Random(4)
    vocabulary = [f"word{i}" for i in range(150)]
    documents = {
        f"d{i:03d}": " ".join(generator.choices(vocabulary, k=generator.randint(12, 40)))
        for i in range(200)
    }
    queries = {f"q{i}": " ".join(generator.sample(vocabulary, 4)) for i in range(10)}
    qrels = {query: {"d000": 1} for query in queries}
    run = bm25_run(Benchmark("random", documents, queries, qrels), tmp_path / "b", k=200)
    other = bm25s.BM25(k1=1.2, b=0.75, method="robertson")
    other.index([text.split() for text in documents.values()], show_progress=False)
    for query, text in queries.items():
        scores = 2.2 * other.get_scores(text.split())  # it leaves out the factor k1 + 1
        wanted = {name: s for name, s in zip(documents, scores.tolist(), strict=True) if s > 0}
        assert run[query] == pytest.approx(wanted, rel=1e-4)
        assert len(run[query]) > 20


def test_information_retrieval_leaves_the_model_as_it_was(
    model: LateInteractionModel,
) -> None:
    evaluator = InformationRetrieval(
        {**QUERIES, "nobody": "judged"},
        DOCUMENTS,
        QRELS,
        metrics=["nDCG@10", "Recall@1"],
        name="dev",
    )
    model.train()
    numbers = evaluator(model)
    assert model.training
    model.eval()
    assert numbers == {"dev/nDCG@10": 1.0, "dev/Recall@1": 1.0}
    assert evaluator.primary == "dev/nDCG@10"
    assert evaluator.primary in numbers
    assert next(iter(evaluator.last_run["multi"]["1"])) == "kite"
    assert "nobody" not in evaluator.last_run["multi"]


def test_a_worse_model_measures_worse(model: LateInteractionModel) -> None:
    wrong = {"1": {"gull": 1}, "2": {"owl": 1}, "3": {"kite": 1}}
    evaluator = InformationRetrieval(QUERIES, DOCUMENTS, wrong, metrics=["Recall@1", "MAP"])
    numbers = evaluator(model)
    assert numbers["Recall@1"] == 0.0 and 0 < numbers["MAP"] < 0.6


def test_heads_are_told_apart(model: LateInteractionModel) -> None:
    evaluator = InformationRetrieval(
        QUERIES, DOCUMENTS, QRELS, metrics=["MRR@10"], heads=["multi", "single"]
    )
    numbers = evaluator(model)
    assert [*numbers] == ["multi/MRR@10", "single/MRR@10"]
    assert evaluator.primary == "multi/MRR@10"


def test_pages_as_vidore(model: LateInteractionModel) -> None:
    found = pages()
    queries = {name: f"the {name} one" for name in found}
    qrels: Mapping[str, Mapping[str, int]] = {name: {name: 1} for name in found}
    benchmark = Benchmark("colours", found, queries, dict(qrels), document_modality="page")  # type: ignore[arg-type]
    evaluator = InformationRetrieval.of(benchmark)
    assert evaluator.primary == "nDCG@5"
    assert evaluator(model) == dict.fromkeys(("nDCG@5", "nDCG@10", "Recall@1", "Recall@5"), 1.0)


def test_cross_modal_recall_both_ways(model: LateInteractionModel) -> None:
    found = pages()
    captions = [text for name in found for text in (name, f"something {name} here")]
    pictures = [found[name] for name in found for _ in range(2)]
    keys = [name for name in found for _ in range(2)]
    evaluator = CrossModal(
        captions, pictures, ("text", "page"), keys=(None, keys), cutoffs=(1, 2), name="colours"
    )
    numbers = evaluator(model)
    assert numbers["colours/text->page Recall@1"] == 1.0
    assert [*numbers] == [
        "colours/text->page Recall@1",
        "colours/text->page Recall@2",
        "colours/page->text Recall@1",
        "colours/page->text Recall@2",
        "colours/mean recall",
    ]
    assert evaluator.primary == "colours/mean recall"
    shuffled = CrossModal(captions, pictures[2:] + pictures[:2], ("text", "page"), cutoffs=(1,))
    assert shuffled(model)["text->page Recall@1"] == 0.0


def test_reranking(model: LateInteractionModel) -> None:
    samples = [
        {"query": "red kite", "positive": ["a red kite"], "negative": ["a gull", "red"]},
        {"query": "white gull", "positive": ["owl"], "negative": ["a white gull", "white"]},
    ]
    assert Reranking(samples)(model) == pytest.approx(
        {"MAP": (1 + 1 / 3) / 2, "MRR@10": (1 + 1 / 3) / 2, "nDCG@10": (1 + 0.5) / 2}
    )


def test_reranking_gives_nothing_for_one_score_for_all(model: LateInteractionModel) -> None:
    samples = [{"query": "kite", "positive": ["gull"], "negative": ["gull", "gull"]}]
    assert Reranking(samples, metrics=["MRR@10"])(model) == {"MRR@10": pytest.approx(1 / 3)}


def test_triplets(model: LateInteractionModel) -> None:
    evaluator = Triplet(["red kite", "gull"], ["a red kite", "owl"], ["an owl", "gull"])
    assert evaluator(model) == {"accuracy": 0.5}
    assert Triplet(["kite"], ["kite"], ["owl"], margin=5.0)(model) == {"accuracy": 0.0}
    assert Triplet(["kite"], ["kite"], ["kite"])(model) == {"accuracy": 0.0}  # a draw is no win


def test_distillation(model: LateInteractionModel) -> None:
    queries, documents = ["red kite"], [["red kite", "red", "owl"]]
    own = [candidates(model, queries, documents)[0].tolist()]
    same = Distillation(queries, documents, own, normalise=False)(model)
    assert same == pytest.approx({"order": 1.0, "KL divergence": 0.0}, abs=1e-6)
    backwards = Distillation(queries, documents, [[0.0, 1.0, 2.0]])(model)
    assert backwards["order"] == pytest.approx(-1.0)
    assert backwards["KL divergence"] > 0.1
    flat = Distillation(queries, documents, [[1.0, 1.0, 1.0]])(model)
    assert flat["order"] == 0.0


def test_several_in_one(model: LateInteractionModel) -> None:
    triplet = Triplet(["kite"], ["kite"], ["owl"], name="triples")
    retrieval = InformationRetrieval(QUERIES, DOCUMENTS, QRELS, metrics=["MAP"], name="dev")
    both = Evaluators([retrieval, triplet])
    assert both(model) == {"dev/MAP": 1.0, "triples/accuracy": 1.0}
    assert both.primary == "dev/MAP"
    with pytest.raises(ValueError, match="two evaluators give 'triples/accuracy'"):
        Evaluators([triplet, triplet])(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InformationRetrieval(QUERIES, DOCUMENTS, QRELS, metrics=["ndcg"]), "metric"),
        (lambda: InformationRetrieval(QUERIES, DOCUMENTS, {"1": {"kite": 0}}), "grade 1 or more"),
        (lambda: InformationRetrieval({}, DOCUMENTS, QRELS), "queries that are not there"),
        (lambda: InformationRetrieval(QUERIES, DOCUMENTS, QRELS, heads="multi"), "list of heads"),
        (lambda: CrossModal(["a"], [], ("text", "page")), "1 items and 0 partners"),
        (lambda: CrossModal(["a"], ["b"], ("text", "page"), keys=(["x", "y"], None)), "keys"),
        (lambda: Reranking([{"query": "q", "positive": ["a"]}]), r"sample 0 lacks \['negative'\]"),
        (lambda: Reranking([{"query": "q", "positive": [], "negative": ["a"]}]), "0 positives"),
        (lambda: Reranking([]), "no sample"),
        (
            lambda: Reranking([{"query": "q", "positive": "a", "negative": ["b"]}]),
            "wanted lists of documents, got a text",
        ),
        (lambda: Triplet(["a"], [], []), "1 anchors, 0 positives"),
        (lambda: Distillation(["q"], [["a"]], [[1.0]]), "at least two"),
        (lambda: Distillation(["q"], [["a", "b"]], []), "1 lists of documents and 0 of scores"),
        (lambda: Evaluators([]), "none given"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_heads_and_modalities(model: LateInteractionModel) -> None:
    with pytest.raises(ValueError, match="no head 'mulit'"):
        InformationRetrieval(QUERIES, DOCUMENTS, QRELS, heads=["mulit"])(model)
    with pytest.raises(ValueError, match="no encoder for 'audio'"):
        rank(model, QUERIES, DOCUMENTS, Encoding(query_modality="audio"))
    with pytest.raises(ValueError, match="k: got 0"):
        rank(model, QUERIES, DOCUMENTS, k=0)


def test_words_are_vectors() -> None:
    """What the tests above rest on: different words are far apart, whatever their letters."""
    words = torch.stack([word_vector(w) for w in "red white kite gull owl ship mice night".split()])
    cosines = words @ words.T - torch.eye(len(words))
    assert float(cosines.abs().max()) < 0.5
