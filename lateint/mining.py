"""Hard negatives and teacher scores, mined through our own index with MaxSim.

    mined = mine(model, benchmark, MiningConfig(number=4))
    write_triples("triples.jsonl", mined, benchmark)

A hard negative is a document that the model ranks high for a query and that does not answer it.
The danger is the false negative: a document that does answer, and nobody said so. What is kept out:

* every document that the qrels grade 1 or more for the query, or for another query that is the same;
* documents whose content equals an answer's (`MiningConfig.same`);
* documents that score too near the answer, or above it (`margin`, `relative`; NV-Retriever, Moreira
  et al. 2024, arXiv:2407.15831, found 95 % of the answer's score the best of such rules), by the
  model's scores or by a better judge's, the teacher's;
* the first ranks altogether (`first`).

Knows models by `encode`, and any pair of modalities; writes files that the trainer reads.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lateint.evaluation.benchmark import Benchmark
from lateint.evaluation.metrics import judged
from lateint.evaluation.ranking import QUERIES, Encoding, candidates, index_benchmark

if TYPE_CHECKING:
    from lateint.index import Index
    from lateint.model import LateInteractionModel

Teacher = Callable[[Sequence[Any], Sequence[Sequence[Any]]], Sequence[Sequence[float]]]
"""Raw queries and the raw candidates of each -> a score for each candidate; higher is better."""


@dataclass(frozen=True)
class MiningConfig:
    """number: negatives for each answer of each query; fewer where fewer pass. 0: none, which gives
        teacher scores of the answers alone.
    first, last: ranks to take them from, from 1, counted over documents that are no answers. A
        larger `first` leaves out more false negatives and the hardest true ones; a larger `last`
        adds easier ones (for pick "random") and costs time.
    margin: a negative scores at most the answer's score minus this. Larger: safer, easier.
    relative: a negative scores at most this share of the answer's score (0.95; of a negative score
        as far below it). Smaller: safer, easier. None: no such rule. Both given: both hold.
    judge: whose scores these two compare: "model", or "teacher".
    pick: "top": the hardest that pass; "random": drawn by `seed` among those that pass.
    same: "content": a document whose text equals an answer's, but for case and white space, is an
        answer too; "id": only the answer itself.
    seed: the same seed, model and data give the same negatives, whatever the order of queries.
    """

    number: int = 4
    first: int = 1
    last: int = 100
    margin: float | None = None
    relative: float | None = 0.95
    judge: Literal["model", "teacher"] = "model"
    pick: Literal["top", "random"] = "top"
    same: Literal["content", "id"] = "content"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.number < 0 or not 1 <= self.first <= self.last:
            raise ValueError(
                f"got number {self.number}, ranks {self.first} to {self.last}; wanted a number of "
                "at least 0 and ranks from 1, first not behind last"
            )
        for name, value, known in (
            ("judge", self.judge, ("model", "teacher")),
            ("pick", self.pick, ("top", "random")),
            ("same", self.same, ("content", "id")),
        ):
            if value not in known:
                raise ValueError(f"{name}: got {value!r}; wanted one of {', '.join(known)}")


@dataclass(frozen=True)
class Mined:
    """One answer of one query with its hard negatives, by id.

    scores: the judge's, or the model's without a teacher; the answer's first, then one for each
    negative: what a distillation loss takes as teacher scores.
    """

    query: str
    positive: str
    negatives: tuple[str, ...]
    scores: tuple[float, ...]


def mine(
    model: LateInteractionModel,
    benchmark: Benchmark,
    config: MiningConfig | None = None,
    *,
    encoding: Encoding | None = None,
    teacher: Teacher | None = None,
    index: Index | None = None,
    progress: bool = False,
) -> list[Mined]:
    """Hard negatives for every answer of every query, in the order of the queries.

    Args:
        model: finds the candidates.
        benchmark: queries, documents and qrels to train on; `encoding`'s modalities are taken from
            it, its head and batch sizes from `encoding`.
        teacher: judges and scores the candidates that the ranks leave; `model_teacher`, or a
            function around a cross-encoder.
        index: of the benchmark's documents under its ids and of this model's head, where there is
            one already; None: one is built in a temporary folder and thrown away.
        progress: a progress bar while documents are encoded.

    Raises ValueError: a teacher is to judge and there is none, or gives another number of scores
    than asked; BenchmarkError: no query has an answer.
    """
    from dataclasses import replace

    config = config or MiningConfig()
    if config.judge == "teacher" and teacher is None:
        raise ValueError('judge "teacher" needs a teacher, as model_teacher(other_model)')
    encoding = replace(
        encoding or Encoding(),
        query_modality=benchmark.query_modality,
        document_modality=benchmark.document_modality,
    )
    answers = _answers(benchmark, config)
    if index is not None:
        return [*_mine(index, model, benchmark, config, encoding, teacher, answers)]
    with tempfile.TemporaryDirectory(prefix="lateint-") as folder:
        built = index_benchmark(
            model, benchmark, Path(folder) / "mining.index", encoding, progress=progress
        )
        with built as own:
            return [*_mine(own, model, benchmark, config, encoding, teacher, answers)]


def model_teacher(
    model: LateInteractionModel, encoding: Encoding | None = None
) -> Callable[[Sequence[Any], Sequence[Sequence[Any]]], list[list[float]]]:
    """A teacher that scores with another model's MaxSim, exactly."""

    def score(queries: Sequence[Any], documents: Sequence[Sequence[Any]]) -> list[list[float]]:
        return [row.tolist() for row in candidates(model, queries, documents, encoding)]

    return score


def write_triples(path: Path | str, mined: Sequence[Mined], benchmark: Benchmark) -> int:
    """Mined negatives as JSON lines, whole or not at all; returns how many.

        {"query_id", "positive_id", "negative_ids": [...], "scores": [...],
         "query", "positive", "negatives": [...]}

    The last three are the texts, where the side is text; pages, pictures and recordings stay in
    the benchmark's folder, under their ids.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    asks = benchmark.queries if benchmark.query_modality == "text" else None
    found = benchmark.documents if benchmark.document_modality == "text" else None
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for one in mined:
                line: dict[str, Any] = {
                    "query_id": one.query,
                    "positive_id": one.positive,
                    "negative_ids": list(one.negatives),
                    "scores": [round(score, 6) for score in one.scores],
                }
                if asks is not None:
                    line["query"] = asks[one.query]
                if found is not None:
                    line["positive"] = found[one.positive]
                    line["negatives"] = [found[name] for name in one.negatives]
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(mined)


@dataclass(frozen=True)
class _Answers:
    """positives: the answers of each query that are documents; all: with whatever counts as one."""

    positives: dict[str, list[str]]
    all: dict[str, frozenset[str]]


def _answers(benchmark: Benchmark, config: MiningConfig) -> _Answers:
    wanted = judged(benchmark.qrels)
    graded = {query: {d for d, grade in row.items() if grade >= 1} for query, row in wanted.items()}
    words = benchmark.words("query")
    alike: dict[str, set[str]] = {}  # answers by what is asked
    for query, documents in graded.items():
        alike.setdefault(_key(query, words), set()).update(documents)
    copies: dict[str, set[str]] = {}  # documents by what they say
    texts = benchmark.words("document") if config.same == "content" else None
    if texts is not None and benchmark.document_modality == "text":
        for name in benchmark.documents:
            copies.setdefault(_key(name, texts), set()).add(name)
    everything = {}
    for query in graded:
        known = alike[_key(query, words)]
        same = {name for d in known for name in copies.get(_key(d, texts), ())}
        everything[query] = frozenset(known | same)
    there = {
        query: [d for d in wanted[query] if d in graded[query] and d in benchmark.documents]
        for query in benchmark.asked()
    }
    return _Answers(there, everything)


def _key(name: str, words: Mapping[str, str] | None) -> str:
    """What makes two items the same: their words; without words, their id."""
    text = words.get(name) if words is not None else None
    return f"id {name}" if not text else f"text {' '.join(text.casefold().split())}"


def _mine(
    index: Index,
    model: LateInteractionModel,
    benchmark: Benchmark,
    config: MiningConfig,
    encoding: Encoding,
    teacher: Teacher | None,
    answers: _Answers,
) -> Iterator[Mined]:
    names = [query for query, positives in answers.positives.items() if positives]
    for start in range(0, len(names), QUERIES):
        chunk = names[start : start + QUERIES]
        asked = model.encode_queries(
            [benchmark.queries[name] for name in chunk],
            modality=encoding.query_modality,
            head=encoding.head,
            batch_tokens=encoding.batch_tokens,
        )
        k = config.last + max(len(answers.all[name]) for name in chunk)
        found = index.search(asked, k, threads=0)
        for i, (query, hits) in enumerate(zip(chunk, found, strict=True)):
            scores = {hit.id: hit.score for hit in hits}
            positives = [name for name in answers.positives[query] if name in index]
            missing = [name for name in positives if name not in scores]
            if missing:
                values = index.score(asked.take([i]), missing)[0].tolist()
                scores |= dict(zip(missing, values, strict=True))
            ranked = [hit.id for hit in hits if hit.id not in answers.all[query]]
            pool = ranked[config.first - 1 : config.last]
            yield from _choose(query, positives, pool, scores, config, benchmark, teacher)


def _choose(
    query: str,
    positives: Sequence[str],
    pool: Sequence[str],
    scores: Mapping[str, float],
    config: MiningConfig,
    benchmark: Benchmark,
    teacher: Teacher | None,
) -> Iterator[Mined]:
    """The negatives of each answer of one query, out of `pool` (hardest first)."""
    judged_by_teacher = config.judge == "teacher"
    if teacher is not None and judged_by_teacher:
        scores = _teach(teacher, benchmark, query, [*positives, *pool])
    for positive in positives:
        passed = _below(scores, positive, pool, config)
        if config.pick == "random":
            generator = random.Random(f"{config.seed} {query} {positive}")
            order = generator.sample(range(len(passed)), min(config.number, len(passed)))
            passed = [passed[place] for place in sorted(order)]
        kept = passed[: config.number]
        row: Mapping[str, float] = scores
        if teacher is not None and not judged_by_teacher:
            row = _teach(teacher, benchmark, query, [positive, *kept])
        yield Mined(query, positive, tuple(kept), tuple(row[name] for name in (positive, *kept)))


def _below(
    scores: Mapping[str, float], positive: str, pool: Sequence[str], config: MiningConfig
) -> list[str]:
    """Those of `pool` that score far enough below the answer, by the rule of the losses' filter."""
    import torch

    from lateint.losses import Targets, likely_positives

    if not pool:
        return []
    row = torch.tensor([[scores[name] for name in (positive, *pool)]], dtype=torch.float64)
    judged = Targets(torch.zeros(1, dtype=torch.int64)).scores(row)
    if config.margin is not None:
        judged = likely_positives(judged, margin=config.margin)
    if config.relative is not None:
        judged = likely_positives(judged, relative=config.relative)
    out = [False] * len(row[0]) if judged.excluded is None else judged.excluded[0].tolist()
    return [name for name, gone in zip(pool, out[1:], strict=True) if not gone]


def _teach(
    teacher: Teacher, benchmark: Benchmark, query: str, names: Sequence[str]
) -> dict[str, float]:
    items = [benchmark.documents[name] for name in names]
    (given,) = teacher([benchmark.queries[query]], [items])
    if len(given) != len(names):
        raise ValueError(f"the teacher gave {len(given)} scores for {len(names)} documents")
    return dict(zip(names, map(float, given), strict=True))
