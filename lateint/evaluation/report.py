"""One table for a model and what a user could have instead: each head, BM25, and both fused.

    report = evaluate(model, read_benchmark("scifact"))
    print(report.table())

Everything goes through `Index`, exactly scored unless told otherwise, so the table shows what a
search would answer. Each system is compared with the first one by a paired test over queries.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lateint.evaluation.metrics import (
    DEFAULT_METRICS,
    PAGE_METRICS,
    check_metrics,
    depth,
    per_query,
)
from lateint.evaluation.qrels_run import BenchmarkError, Run
from lateint.evaluation.ranking import Encoding, bm25_run, index_benchmark, index_run
from lateint.evaluation.significance import Comparison, compare, holm

if TYPE_CHECKING:
    from lateint.evaluation.benchmark import Benchmark
    from lateint.model import LateInteractionModel

BM25 = "BM25"
BASELINES = ("bm25", "hybrid")


@dataclass(frozen=True)
class Row:
    """One system: its metrics, and how it compares with the first row on the first metric (None in
    the first row itself). p_value: of that comparison, Holm-corrected over all rows."""

    system: str
    metrics: dict[str, float]
    comparison: Comparison | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Report:
    """benchmark: its name; "" for runs by themselves. queries: how many count. documents: how many
    there are, None: not known. runs: {system: run}, for files and further tests; not in JSON."""

    benchmark: str
    queries: int
    documents: int | None
    rows: tuple[Row, ...]
    runs: dict[str, Run] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        rows = [
            {
                "system": row.system,
                **row.metrics,
                "comparison": None
                if row.comparison is None
                else {**row.comparison.to_json(), "p_holm": row.p_value},
            }
            for row in self.rows
        ]
        facts = {"benchmark": self.benchmark, "queries": self.queries, "documents": self.documents}
        return {**facts, "systems": rows}

    def table(self) -> str:
        """Systems and metrics as a text table; p is of the first metric against the first row."""
        metrics = list(self.rows[0].metrics)
        head = ["system", *metrics]
        compared = len(self.rows) > 1
        lines = [[*head, "p"] if compared else head]
        for row in self.rows:
            cells = [row.system, *(f"{row.metrics[metric]:.4f}" for metric in metrics)]
            if compared:
                cells.append("" if row.p_value is None else f"{row.p_value:.4f}")
            lines.append(cells)
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def evaluate(
    model: LateInteractionModel,
    benchmark: Benchmark,
    *,
    heads: Sequence[str] | None = None,
    baselines: Sequence[str] = BASELINES,
    metrics: Sequence[str] | None = None,
    encoding: Encoding | None = None,
    **options: Any,
) -> Report:
    """Measures a model's heads and the baselines on a benchmark.

    Args:
        heads: None: all that the model has. Systems are called by them.
        baselines: "bm25": BM25 alone; "hybrid": each head fused with it ("multi + BM25"). Left out
            where the benchmark's documents or queries have no words. (): none.
        metrics: names of metrics.py; None: the usual ones, ViDoRe's for pages.
        encoding: batch sizes; modalities are the benchmark's.
        options: nbits (of the index, 16: exact), progress, folder (where to keep the indexes,
            one a head, new; None: thrown away after), permutations and seed of the test.

    Raises ValueError: an unknown head, baseline or metric; BenchmarkError: see `Benchmark.asked`.
    """
    settings = _Options(**options)
    heads = list(model.heads) if heads is None else list(heads)
    for head in heads:
        model.head(head)  # ValueError names the heads there are
    for name in baselines:
        if name not in BASELINES:
            raise ValueError(f"baseline: got {name!r}; wanted some of {', '.join(BASELINES)}")
    if metrics is None:
        metrics = PAGE_METRICS if benchmark.document_modality == "page" else DEFAULT_METRICS
    check_metrics(metrics)
    encoding = replace(
        encoding or Encoding(),
        query_modality=benchmark.query_modality,
        document_modality=benchmark.document_modality,
    )
    if benchmark.words("document") is None or benchmark.words("query") is None:
        baselines = ()
    runs: dict[str, Run] = {}
    k = depth(metrics)
    with _folder(settings.folder) as folder:
        for head in heads:
            own = replace(encoding, head=head)
            built = index_benchmark(
                model,
                benchmark,
                folder / f"{head}.index",
                own,
                nbits=settings.nbits,
                progress=settings.progress,
            )
            with built as index:
                runs[head] = index_run(index, model, benchmark, own, k=k)
                if "hybrid" in baselines:
                    found = index_run(index, model, benchmark, own, k=k, hybrid=True)
                    runs[f"{head} + {BM25}"] = found
        if "bm25" in baselines:
            with _folder(None) as scratch:
                runs[BM25] = bm25_run(benchmark, scratch / "bm25.index", k=k)
    if not runs:
        raise BenchmarkError(f"{benchmark.name}: no head and no baseline to measure")
    report = report_runs(
        benchmark.qrels, runs, metrics, permutations=settings.permutations, seed=settings.seed
    )
    return replace(report, benchmark=benchmark.name, documents=len(benchmark.documents))


def report_runs(
    qrels: Mapping[str, Mapping[str, int]],
    runs: Mapping[str, Mapping[str, Mapping[str, float]]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> Report:
    """The table of runs, whoever made them; the first is what the others are compared with."""
    tables = {name: per_query(qrels, run, metrics) for name, run in runs.items()}
    names = list(tables)
    if not names:
        raise ValueError("runs: none given")
    first = tables[names[0]][metrics[0]]
    comparisons = [
        compare(tables[name][metrics[0]], first, permutations=permutations, seed=seed)
        for name in names[1:]
    ]
    corrected = holm([one.p_value for one in comparisons])
    rows = [
        Row(name, {metric: _mean(values) for metric, values in tables[name].items()})
        for name in names
    ]
    rows[1:] = [
        replace(row, comparison=one, p_value=p)
        for row, one, p in zip(rows[1:], comparisons, corrected, strict=True)
    ]
    kept: dict[str, Run] = {
        name: {query: dict(found) for query, found in run.items()} for name, run in runs.items()
    }
    return Report("", len(first), None, tuple(rows), kept)


@dataclass(frozen=True)
class _Options:
    nbits: int = 16
    progress: bool = False
    folder: Path | str | None = None
    permutations: int = 10_000
    seed: int = 0


@contextmanager
def _folder(kept: Path | str | None) -> Iterator[Path]:
    if kept is not None:
        folder = Path(kept)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="lateint-") as name:
        yield Path(name)


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)
