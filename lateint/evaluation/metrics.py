"""Metrics of a run against qrels, by name: nDCG@k, Recall@k, MRR@k, MAP, MAP@k, Precision@k, Success@k.

The arithmetic is ir_measures' (trec_eval's and MS MARCO's code behind one door); names, ties and
which queries count are ours:

    nDCG@k       gain = grade, discount log2(1 + rank); ideal over all graded documents
    Recall@k     share of the relevant documents (grade 1 or more) among the first k
    MRR@k        1 / rank of the first relevant document, 0 if none is among the first k; MRR: no k
    MAP, MAP@k   mean over the relevant documents of the precision at their ranks
    Precision@k  share of the first k that is relevant
    Success@k    1 if any relevant document is among the first k ("Recall@k" of image-text papers)

Every query with a relevant document counts, answered or not; queries without one count nowhere.
Equal scores are ordered by id (see `qrels_run.ranked`), for all metrics alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lateint.evaluation.qrels_run import BenchmarkError, Qrels, Run, ranked

DEFAULT_METRICS = ("nDCG@10", "Recall@10", "Recall@100", "MRR@10", "MAP")
PAGE_METRICS = ("nDCG@5", "nDCG@10", "Recall@1", "Recall@5")
"""What page retrieval is reported with: nDCG@5 is ViDoRe's first version, nDCG@10 its third."""

# our name -> ir_measures' name; whether a cutoff is needed
_NAMES = {
    "nDCG": ("nDCG", None),
    "Recall": ("R", True),
    "MRR": ("RR", None),
    "MAP": ("AP", None),
    "Precision": ("P", True),
    "Success": ("Success", True),
}
_NAME = re.compile(r"([A-Za-z]+)(?:@([1-9][0-9]{0,6}))?")


def measure(
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Mapping[str, float]],
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, float]:
    """{metric: mean over the queries that have a relevant document}, in the order of `metrics`.

    Raises ValueError: an unknown name; BenchmarkError: no query of the qrels has a relevant
    document, or the run answers none of them.
    """
    table = per_query(qrels, run, metrics)
    return {name: sum(values.values()) / len(values) for name, values in table.items()}


def per_query(
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Mapping[str, float]],
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, dict[str, float]]:
    """{metric: {query: value}}: what a significance test compares. Errors as `measure`."""
    asked = {_parse(name): name for name in metrics}
    if not asked:
        raise ValueError("metrics: none given")
    wanted = judged(qrels)
    if not wanted.keys() & run.keys():
        raise BenchmarkError(
            f"the run answers none of the {len(wanted)} queries of the qrels: run "
            f"{_some(run)}, qrels {_some(wanted)}"
        )
    ordered: Run = {}
    for query in wanted:
        found = ranked(run.get(query, {}))
        # ranks as scores: no tie is left for the measures to break each in its own way
        ordered[query] = {document: float(-rank) for rank, document in enumerate(found)}
    table: dict[str, dict[str, float]] = {name: {} for name in metrics}
    library = _library()
    measures = {library.parse_measure(theirs): name for theirs, name in asked.items()}
    for metric in library.iter_calc(list(measures), wanted, ordered):
        table[measures[metric.measure]][metric.query_id] = float(metric.value)
    return {name: {query: values[query] for query in wanted} for name, values in table.items()}


def judged(qrels: Mapping[str, Mapping[str, int]]) -> Qrels:
    """The queries that have a relevant document (grade 1 or more); BenchmarkError if none has."""
    found = {
        query: dict(grades)
        for query, grades in qrels.items()
        if any(grade >= 1 for grade in grades.values())
    }
    if not found:
        raise BenchmarkError(
            f"no query of the qrels ({len(qrels)}) has a document of grade 1 or more"
        )
    return found


def check_metrics(metrics: Iterable[str]) -> None:
    """Raises ValueError for a name that there is none of."""
    for name in metrics:
        _parse(name)


def depth(metrics: Iterable[str], least: int = 100) -> int:
    """How many documents a query a run must hold for these metrics: the largest k, at least
    `least`, which also is how far a metric without k looks."""
    return max([least, *(int(m[2]) for name in metrics if (m := _NAME.fullmatch(name)) and m[2])])


def _parse(name: str) -> str:
    """ir_measures' name for ours."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in _NAMES or (_NAMES[match[1]][1] and match[2] is None):
        known = ", ".join(f"{n}@k" if cut else f"{n}, {n}@k" for n, (_, cut) in _NAMES.items())
        raise ValueError(f"metric: got {name!r}; wanted one of {known}")
    theirs = _NAMES[match[1]][0]
    return theirs if match[2] is None else f"{theirs}@{match[2]}"


def _some(values: Mapping[str, Any]) -> str:
    shown = ", ".join(repr(key) for key in list(values)[:3])
    return f"has {shown or 'none'}{' ...' if len(values) > 3 else ''}"


def _library() -> Any:
    try:
        import ir_measures
    except ImportError as error:
        raise ImportError("metrics need ir_measures: pip install 'lateint[eval]'") from error
    return ir_measures
