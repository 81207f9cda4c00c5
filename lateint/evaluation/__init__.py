"""Evaluation: qrels and runs, metrics, evaluators for training, baselines, significance, mteb.

Names are imported on first use; nothing here imports a backbone library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lateint.evaluation.benchmark import Benchmark, read_benchmark
    from lateint.evaluation.evaluators import (
        CrossModal,
        Distillation,
        Evaluator,
        Evaluators,
        InformationRetrieval,
        Reranking,
        Triplet,
    )
    from lateint.evaluation.metrics import measure, per_query
    from lateint.evaluation.qrels_run import (
        BenchmarkError,
        Qrels,
        Run,
        read_qrels,
        read_run,
        trec_id,
        write_qrels,
        write_run,
    )
    from lateint.evaluation.ranking import Encoding, rank
    from lateint.evaluation.report import Report, evaluate, report_runs
    from lateint.evaluation.significance import Comparison, compare, holm

_WHERE = {
    "benchmark": ("Benchmark", "read_benchmark"),
    "evaluators": (
        "CrossModal",
        "Distillation",
        "Evaluator",
        "Evaluators",
        "InformationRetrieval",
        "Reranking",
        "Triplet",
    ),
    "metrics": ("measure", "per_query"),
    "qrels_run": (
        "BenchmarkError",
        "Qrels",
        "Run",
        "read_qrels",
        "read_run",
        "trec_id",
        "write_qrels",
        "write_run",
    ),
    "ranking": ("Encoding", "rank"),
    "report": ("Report", "evaluate", "report_runs"),
    "significance": ("Comparison", "compare", "holm"),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Benchmark",
    "BenchmarkError",
    "Comparison",
    "CrossModal",
    "Distillation",
    "Encoding",
    "Evaluator",
    "Evaluators",
    "InformationRetrieval",
    "Qrels",
    "Report",
    "Reranking",
    "Run",
    "Triplet",
    "compare",
    "evaluate",
    "holm",
    "measure",
    "per_query",
    "rank",
    "read_benchmark",
    "read_qrels",
    "read_run",
    "report_runs",
    "trec_id",
    "write_qrels",
    "write_run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value
