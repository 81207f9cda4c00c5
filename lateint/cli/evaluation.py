"""The commands that measure: eval, compare, mine.

A thin skin over `lateint.evaluation` and `lateint.mining`; heavy imports are inside the commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lateint.cli.shared import Json, print_json, say

if TYPE_CHECKING:
    from lateint.evaluation import Report
    from lateint.model import LateInteractionModel

Model = Annotated[
    Path | None,
    typer.Argument(metavar="[MODEL]", help="Folder of a model; default: the one that ships."),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        metavar="FOLDER",
        help="Benchmark in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/<split>.tsv.",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="nDCG@k, Recall@k, MRR@k, MAP ...; repeatable, first decides."),
]
DocumentModality = Annotated[
    str | None, typer.Option(help="Encoder that reads the documents, as page; default: as named.")
]
QueryModality = Annotated[str | None, typer.Option(help="Encoder that reads the queries.")]


def eval(
    data: Data,
    model: Model = None,
    split: Annotated[str, typer.Option(help="Which qrels.")] = "test",
    heads: Annotated[
        str | None, typer.Option(help="Heads of the model, as multi,single; default: all.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Also BM25, and each head fused with it, where there are words.")
    ] = True,
    metric: Metrics = None,
    nbits: Annotated[
        int, typer.Option(help="Of the index: 16 is exact; 4, 2, 1 compress as a search would.")
    ] = 16,
    queries: Annotated[int | None, typer.Option(min=1, help="Only so many, drawn.")] = None,
    documents: Annotated[
        int | None, typer.Option(min=1, help="Only so many, the queries' answers and others.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Write a TREC run; of several systems to FILE.<system>.trec each."),
    ] = None,
    document_modality: DocumentModality = None,
    query_modality: QueryModality = None,
    as_json: Json = False,
) -> None:
    """Measure a model on a benchmark, beside BM25 and the hybrid of both."""
    from lateint.evaluation import evaluate, read_benchmark
    from lateint.evaluation.metrics import check_metrics
    from lateint.evaluation.report import BASELINES

    check_metrics(metric or ())
    benchmark = read_benchmark(
        data, split, document_modality=document_modality, query_modality=query_modality
    )
    if queries is not None or documents is not None:
        benchmark = benchmark.subset(queries, documents)
    report = evaluate(
        _load(model),
        benchmark,
        heads=None if heads is None else _names(heads),
        baselines=BASELINES if baselines else (),
        metrics=metric,
        nbits=nbits,
        progress=True,
    )
    written = [] if run is None else _write_runs(report, run)
    if as_json:
        print_json({**report.to_json(), "runs": written})
        return
    print(f"{report.benchmark}: {report.queries} queries, {report.documents} documents")
    print(report.table())
    for name in written:
        say(f"run written: {name}")


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="TREC runs, or mteb's JSON.")
    ],
    qrels: Annotated[Path, typer.Option(metavar="FILE", help="Qrels, as TREC or BEIR write them.")],
    metric: Metrics = None,
    as_json: Json = False,
) -> None:
    """Measure runs and test each against the first: is the difference more than luck?"""
    from lateint.evaluation import read_qrels, read_run, report_runs
    from lateint.evaluation.metrics import DEFAULT_METRICS

    if len({*runs}) < len(runs):
        raise typer.BadParameter("a run is named twice")
    report = report_runs(
        read_qrels(qrels), {str(path): read_run(path) for path in runs}, metric or DEFAULT_METRICS
    )
    if as_json:
        print_json(report.to_json())
    else:
        print(f"{report.queries} queries")
        print(report.table())


def mine(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSON lines to train on.")],
    model: Model = None,
    split: Annotated[str, typer.Option(help="Which qrels.")] = "train",
    number: Annotated[int, typer.Option(min=0, help="Negatives for each answer.")] = 4,
    ranks: Annotated[
        str, typer.Option(metavar="FIRST-LAST", help="Where to take them from, from 1.")
    ] = "1-100",
    margin: Annotated[
        float | None, typer.Option(help="A negative scores at most the answer minus this.")
    ] = None,
    relative: Annotated[
        float, typer.Option(help="A negative scores at most this share of the answer; 0: no rule.")
    ] = 0.95,
    pick: Annotated[
        Literal["top", "random"], typer.Option(help="The hardest that pass, or drawn by the seed.")
    ] = "top",
    teacher: Annotated[
        Path | None, typer.Option(help="Folder of a model whose scores are written.")
    ] = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="The teacher's scores decide what is too near.")
    ] = False,
    head: Annotated[str, typer.Option(help="Head of the model, and of the teacher.")] = "multi",
    seed: Annotated[int, typer.Option(help="Of random picks.")] = 0,
    document_modality: DocumentModality = None,
    query_modality: QueryModality = None,
    as_json: Json = False,
) -> None:
    """Find hard negatives and teacher scores for a benchmark's training queries."""
    from lateint import mining
    from lateint.evaluation import Encoding, read_benchmark

    if judge and teacher is None:
        raise typer.BadParameter("--judge goes with --teacher")
    first, last = _ranks(ranks)
    config = mining.MiningConfig(
        number=number,
        first=first,
        last=last,
        margin=margin,
        relative=relative or None,
        judge="teacher" if judge else "model",
        pick=pick,
        seed=seed,
    )
    benchmark = read_benchmark(
        data, split, document_modality=document_modality, query_modality=query_modality
    )
    encoding = Encoding(head, benchmark.query_modality, benchmark.document_modality)
    loaded = _load(model)
    scorer = None if teacher is None else mining.model_teacher(_load(teacher), encoding)
    mined = mining.mine(loaded, benchmark, config, encoding=encoding, teacher=scorer, progress=True)
    lines = mining.write_triples(out, mined, benchmark)
    facts = {
        "file": str(out),
        "lines": lines,
        "negatives": sum(len(one.negatives) for one in mined),
        "without_negatives": sum(not one.negatives for one in mined),
    }
    if as_json:
        print_json(facts)
    else:
        print(
            f"{lines} answers with {facts['negatives']} negatives in {out}; "
            f"{facts['without_negatives']} without"
        )


def _load(folder: Path | None) -> LateInteractionModel:
    import lateint

    return lateint.load(folder)


def _names(text: str) -> Sequence[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _ranks(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise typer.BadParameter(f"--ranks wants FIRST-LAST, as 1-100, got {text!r}")
    return int(first), int(last)


def _write_runs(report: Report, path: Path) -> list[str]:
    """One file for one system; of several out.trec becomes out.multi.trec and so on."""
    from lateint.evaluation import write_run
    from lateint.evaluation.qrels_run import trec_ids

    written: list[str] = []
    several = len(report.runs) > 1
    for system, found in report.runs.items():
        name = system.replace(" ", "")
        target = path.with_name(f"{path.stem}.{name}{path.suffix}") if several else path
        coded: Any = trec_ids(found)
        write_run(target, coded, tag=name)
        written.append(str(target))
    return written
