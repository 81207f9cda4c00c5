"""One table for the heads and the baselines, through the index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_model import toy_model

from lateint.evaluation import evaluate, report_runs
from lateint.evaluation.benchmark import Benchmark
from lateint.evaluation.metrics import measure
from lateint.evaluation.qrels_run import BenchmarkError
from lateint.model import LateInteractionModel

NOUNS = "kite gull owl tern wren swan crow duck finch heron stork rail".split()
PLACES = "harbour forest meadow river marsh garden cliff island valley roof".split()


@pytest.fixture(scope="module")
def model() -> LateInteractionModel:
    return toy_model()


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    """120 documents: each bird at each place; a query names both."""
    documents = {
        f"{bird}-{place}": f"a {bird} was seen near the {place} today"
        for bird in NOUNS
        for place in PLACES
    }
    queries = {f"q-{name}": name.replace("-", " ") for name in list(documents)[::7]}
    qrels = {query: {query.removeprefix("q-"): 1} for query in queries}
    return Benchmark("sightings", documents, queries, qrels)


def test_systems_side_by_side(model: LateInteractionModel, benchmark: Benchmark) -> None:
    report = evaluate(model, benchmark, metrics=["nDCG@10", "MRR@10", "MAP"], permutations=500)
    assert [row.system for row in report.rows] == [
        "multi",
        "multi + BM25",
        "single",
        "single + BM25",
        "BM25",
    ]
    assert (report.queries, report.documents) == (18, 120)
    multi = report.rows[0]
    assert multi.metrics == {"nDCG@10": 1.0, "MRR@10": 1.0, "MAP": 1.0}
    assert multi.comparison is None and multi.p_value is None
    for row in report.rows:
        assert row.metrics == measure(benchmark.qrels, report.runs[row.system], [*row.metrics])
    for row in report.rows[1:]:
        assert row.comparison is not None and row.p_value is not None
        assert row.p_value >= row.comparison.p_value  # corrected
        assert row.comparison.queries == 18


def test_the_table_and_its_json(model: LateInteractionModel, benchmark: Benchmark) -> None:
    report = evaluate(
        model, benchmark, heads=["multi"], baselines=["bm25"], metrics=["MRR@10"], permutations=100
    )
    lines = report.table().splitlines()
    assert lines[0].split() == ["system", "MRR@10", "p"]
    assert lines[1].split() == ["multi", "1.0000"]
    assert lines[2].split()[0] == "BM25"
    data = json.loads(json.dumps(report.to_json()))
    assert data["benchmark"] == "sightings"
    assert data["systems"][0] == {"system": "multi", "MRR@10": 1.0, "comparison": None}
    assert {*data["systems"][1]["comparison"]} >= {"difference", "p_value", "p_holm", "low", "high"}


def test_a_real_difference_is_found_and_luck_is_not(benchmark: Benchmark) -> None:
    good = {query: {query.removeprefix("q-"): 1.0} for query in benchmark.queries}
    bad = {query: {"kite-harbour": 1.0} for query in benchmark.queries}
    report = report_runs(benchmark.qrels, {"good": good, "bad": bad, "again": good}, ["MRR@10"])
    assert report.rows[1].p_value is not None and report.rows[1].p_value < 0.001
    assert report.rows[2].p_value == 1.0
    assert (report.benchmark, report.documents) == ("", None)
    with pytest.raises(ValueError, match="none given"):
        report_runs(benchmark.qrels, {})


def test_without_words_there_are_no_baselines(model: LateInteractionModel) -> None:
    from PIL import Image

    page = Image.new("RGB", (40, 60), "red")
    pages = Benchmark("pages", {"a": page}, {"q": "red"}, {"q": {"a": 1}}, document_modality="page")
    report = evaluate(model, pages, heads=["multi"])
    assert [row.system for row in report.rows] == ["multi"]
    assert list(report.rows[0].metrics) == ["nDCG@5", "nDCG@10", "Recall@1", "Recall@5"]
    assert "p" not in report.table().splitlines()[0].split()
    with pytest.raises(BenchmarkError, match="no head and no baseline"):
        evaluate(model, pages, heads=[])


def test_indexes_are_kept_where_asked(
    model: LateInteractionModel, benchmark: Benchmark, tmp_path: Path
) -> None:
    from lateint.index import Index

    evaluate(
        model, benchmark, heads=["multi"], baselines=[], metrics=["MAP"], folder=tmp_path / "kept"
    )
    with Index.open(tmp_path / "kept" / "multi.index") as index:
        assert len(index) == 120


def test_wrong_names(model: LateInteractionModel, benchmark: Benchmark) -> None:
    with pytest.raises(ValueError, match="no head 'dense'"):
        evaluate(model, benchmark, heads=["dense"])
    with pytest.raises(ValueError, match="baseline: got 'splade'"):
        evaluate(model, benchmark, baselines=["splade"])
    with pytest.raises(ValueError, match="metric: got 'ndcg'"):
        evaluate(model, benchmark, metrics=["ndcg"])
