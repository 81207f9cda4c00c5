"""Metrics against numbers worked out by hand, and their rules on ties and absent queries."""

from __future__ import annotations

from math import log2

import pytest

from lateint.evaluation.metrics import depth, judged, measure, per_query
from lateint.evaluation.qrels_run import BenchmarkError

ALL = ("nDCG@3", "Recall@2", "MRR@2", "MRR", "MAP", "MAP@2", "Precision@2", "Success@1")


def test_by_hand() -> None:
    qrels = {"q": {"a": 2, "b": 1, "c": 0, "far": 1}}
    run = {"q": {"c": 9.0, "a": 8.0, "x": 7.0, "b": 6.0}}
    ideal = 2 / log2(2) + 1 / log2(3) + 1 / log2(4)
    assert measure(qrels, run, ALL) == pytest.approx(
        {
            "nDCG@3": (2 / log2(3)) / ideal,
            "Recall@2": 1 / 3,
            "MRR@2": 1 / 2,
            "MRR": 1 / 2,
            "MAP": (1 / 2 + 2 / 4) / 3,
            "MAP@2": (1 / 2) / 3,
            "Precision@2": 1 / 2,
            "Success@1": 0.0,
        }
    )
    assert list(measure(qrels, run, ALL)) == list(ALL)


def test_every_query_with_an_answer_counts_and_no_other() -> None:
    qrels = {"hit": {"a": 1}, "unanswered": {"a": 1}, "no answer": {"a": 0}}
    run = {"hit": {"a": 1.0}, "no answer": {"a": 1.0}, "not asked": {"a": 1.0}}
    for name in ("nDCG@10", "Recall@10", "MRR@10", "MRR", "MAP", "Success@5"):
        assert measure(qrels, run, [name]) == {name: 0.5}
        assert per_query(qrels, run, [name]) == {name: {"hit": 1.0, "unanswered": 0.0}}


def test_ties_are_ordered_by_id_for_all_metrics_alike() -> None:
    """trec_eval would put the larger id first, MS MARCO's script the smaller."""
    run = {"q": dict.fromkeys("abc", 0.5)}
    for name in ("nDCG@1", "MRR@1", "MAP@1", "Recall@1"):
        assert measure({"q": {"a": 1}}, run, [name])[name] == 1.0
        assert measure({"q": {"c": 1}}, run, [name])[name] == 0.0


def test_scores_that_float32_cannot_tell_apart_are_told_apart() -> None:
    run = {"q": {"a": 1.0, "b": 1.0 + 1e-12}}
    assert measure({"q": {"b": 1}}, run, ["MRR", "nDCG@1"]) == {"MRR": 1.0, "nDCG@1": 1.0}


@pytest.mark.parametrize("name", ["ndcg@10", "Recall", "MRR@0", "MAP@x", "F1@3", "nDCG@10 "])
def test_unknown_metrics(name: str) -> None:
    with pytest.raises(ValueError, match=r"wanted one of nDCG, nDCG@k, Recall@k"):
        measure({"q": {"a": 1}}, {"q": {"a": 1.0}}, [name])


def test_what_cannot_be_measured_says_why() -> None:
    with pytest.raises(BenchmarkError, match="has a document of grade 1 or more"):
        judged({"q": {"a": 0}})
    with pytest.raises(BenchmarkError, match=r"answers none .* run has 'p', qrels has 'q'"):
        measure({"q": {"a": 1}}, {"p": {"a": 1.0}})
    with pytest.raises(ValueError, match="none given"):
        measure({"q": {"a": 1}}, {"q": {"a": 1.0}}, [])


def test_depth_is_the_largest_cutoff() -> None:
    assert depth(["nDCG@10", "MAP"]) == 100
    assert depth(["nDCG@10", "Recall@1000"]) == 1000
    assert depth(["Recall@5"], least=1) == 5
