"""Evaluators: a model -> {name: number}, for use while it trains.

    InformationRetrieval   queries against a whole corpus, any pair of modalities; ViDoRe's pages
    CrossModal             pairs of items, both ways: image-text and audio-text recall
    Reranking              each query's own candidates put in order
    Triplet                is the positive nearer than the negative
    Distillation           how near the scores are to a teacher's
    Evaluators             several in one

Each is called with a model and leaves it as it was (mode and gradients). Higher is better for every
number, but for a divergence, whose name says so. `primary` is the number to choose a checkpoint by:
`TrainingArguments(metric_for_best_model=evaluator.primary)`. Numbers are named
`name/head/metric`, without what is empty, and without the head where there is one only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lateint.evaluation.benchmark import Benchmark
from lateint.evaluation.metrics import (
    DEFAULT_METRICS,
    PAGE_METRICS,
    check_metrics,
    depth,
    measure,
)
from lateint.evaluation.qrels_run import BenchmarkError, Qrels, Run
from lateint.evaluation.ranking import Encoding, candidates, rank

if TYPE_CHECKING:
    from lateint.model import LateInteractionModel

RERANKING_METRICS = ("MAP", "MRR@10", "nDCG@10")


class Evaluator(ABC):
    """What the trainer calls: a model -> {name: number}."""

    @property
    @abstractmethod
    def primary(self) -> str:
        """Name of the number to choose a checkpoint by."""

    @abstractmethod
    def __call__(self, model: LateInteractionModel) -> dict[str, float]:
        """Measures the model; in eval mode, without gradients."""


class HeadEvaluator(Evaluator):
    """One that measures some heads of the model, one after the other.

    name: put before every number, to tell several evaluators apart. heads: of the model.
    encoding: modalities and batch sizes (its head is not looked at).
    """

    primary_metric: str

    def __init__(
        self, *, name: str = "", heads: Sequence[str] = ("multi",), encoding: Encoding | None = None
    ) -> None:
        if isinstance(heads, str) or not heads:
            raise ValueError(f'heads: got {heads!r}; wanted a list of heads, as ("multi",)')
        self.name = name
        self.heads = tuple(heads)
        self.encoding = encoding or Encoding()

    @property
    def primary(self) -> str:
        return self._key(self.heads[0], self.primary_metric)

    def __call__(self, model: LateInteractionModel) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for head in self.heads:
            found = self.measure(model, replace(self.encoding, head=head))
            numbers |= {self._key(head, metric): value for metric, value in found.items()}
        return numbers

    @abstractmethod
    def measure(self, model: LateInteractionModel, encoding: Encoding) -> dict[str, float]:
        """{metric: value} of one head."""

    def _key(self, head: str, metric: str) -> str:
        parts = (self.name, head if len(self.heads) > 1 else "", metric)
        return "/".join(part for part in parts if part)


class InformationRetrieval(HeadEvaluator):
    """Queries against a corpus, ranked by exact MaxSim.

    Args:
        queries, documents: id -> raw item. Only queries with a relevant document are asked.
        qrels: grades by query and document.
        metrics: see metrics.py; the first is `primary`.
        name, heads, encoding: as for every evaluator.

    `last_run`, after a call: {head: run}, to be written or compared.
    """

    def __init__(
        self,
        queries: Mapping[str, Any],
        documents: Mapping[str, Any],
        qrels: Mapping[str, Mapping[str, int]],
        *,
        metrics: Sequence[str] = DEFAULT_METRICS,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_metrics(metrics)
        copied: Qrels = {query: dict(grades) for query, grades in qrels.items()}
        self.benchmark = Benchmark(self.name or "evaluation", documents, queries, copied)
        self.metrics = tuple(metrics)
        self.primary_metric = self.metrics[0]
        self.last_run: dict[str, Run] = {}
        self._asked = self.benchmark.asked()  # raises here, not after the first epoch

    @classmethod
    def of(
        cls, benchmark: Benchmark, *, metrics: Sequence[str] | None = None, **options: Any
    ) -> InformationRetrieval:
        """Of a benchmark (`read_benchmark`): its modalities, and for pages ViDoRe's metrics."""
        if metrics is None:
            metrics = PAGE_METRICS if benchmark.document_modality == "page" else DEFAULT_METRICS
        encoding = replace(
            options.pop("encoding", None) or Encoding(),
            query_modality=benchmark.query_modality,
            document_modality=benchmark.document_modality,
        )
        return cls(
            benchmark.queries,
            benchmark.documents,
            benchmark.qrels,
            metrics=metrics,
            encoding=encoding,
            **options,
        )

    def measure(self, model: LateInteractionModel, encoding: Encoding) -> dict[str, float]:
        run = rank(model, self._asked, self.benchmark.documents, encoding, k=depth(self.metrics))
        self.last_run[encoding.head] = run
        return measure(self.benchmark.qrels, run, self.metrics)


class CrossModal(HeadEvaluator):
    """Pairs of two modalities, each side asked for the other: "text->image Recall@1" and back.

    A side may hold an item several times (a picture with five captions): equal keys are one item,
    and any of its partners is right, which is what image-text papers call Recall@k.

    Args:
        left, right: the items of pair i are left[i] and right[i].
        modalities: of left and right, keys of the model's encoders.
        keys: what tells the items of each side apart; None: a left and a right item for each pair.
        cutoffs: the ks.
    """

    def __init__(
        self,
        left: Sequence[Any],
        right: Sequence[Any],
        modalities: tuple[str, str],
        *,
        keys: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
        cutoffs: Sequence[int] = (1, 5, 10),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if len(left) != len(right) or not left:
            raise ValueError(f"pairs: got {len(left)} items and {len(right)} partners")
        self.modalities = modalities
        self.cutoffs = tuple(cutoffs)
        names: list[list[str]] = []
        for side, given in zip((left, right), keys, strict=True):
            if given is not None and len(given) != len(side):
                raise ValueError(f"keys: got {len(given)} for {len(side)} items")
            names.append([str(key) for key in (range(len(side)) if given is None else given)])
        self._sides = tuple(
            {key: item for key, item in reversed(list(zip(own, side, strict=True)))}
            for own, side in zip(names, (left, right), strict=True)
        )
        self._qrels: tuple[Qrels, Qrels] = ({}, {})
        for one, other in zip(*names, strict=True):
            self._qrels[0].setdefault(one, {})[other] = 1
            self._qrels[1].setdefault(other, {})[one] = 1
        self.primary_metric = "mean recall"

    def measure(self, model: LateInteractionModel, encoding: Encoding) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for asking, answering in ((0, 1), (1, 0)):
            one, other = self.modalities[asking], self.modalities[answering]
            found = rank(
                model,
                self._sides[asking],
                self._sides[answering],
                replace(encoding, query_modality=one, document_modality=other),
                k=max(self.cutoffs),
            )
            metrics = [f"Success@{k}" for k in self.cutoffs]
            values = measure(self._qrels[asking], found, metrics)
            way = (
                f"{one}->{other}" if one != other else f"{one}->{other} {('left', 'right')[asking]}"
            )
            numbers |= {
                f"{way} Recall@{k}": values[m] for k, m in zip(self.cutoffs, metrics, strict=True)
            }
        return {**numbers, "mean recall": sum(numbers.values()) / len(numbers)}


class Reranking(HeadEvaluator):
    """Each query's candidates put in order: {"query": ..., "positive": [...], "negative": [...]},
    the columns of sentence-transformers' reranking evaluator.

    A sample without a positive or without a negative says nothing and is an error.
    """

    primary_metric = "MAP"

    def __init__(
        self,
        samples: Sequence[Mapping[str, Any]],
        *,
        metrics: Sequence[str] = RERANKING_METRICS,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_metrics(metrics)
        if not samples:
            raise BenchmarkError("reranking: no sample")
        self.samples = samples
        self.metrics = tuple(metrics)
        self.primary_metric = self.metrics[0]
        self._qrels: Qrels = {}
        for i, sample in enumerate(samples):
            if missing := {"query", "positive", "negative"} - sample.keys():
                raise BenchmarkError(f"reranking: sample {i} lacks {sorted(missing)}")
            if isinstance(sample["positive"], str) or isinstance(sample["negative"], str):
                raise BenchmarkError(
                    f"reranking: sample {i}: wanted lists of documents, got a text"
                )
            counts = len(sample["positive"]), len(sample["negative"])
            if 0 in counts:
                raise BenchmarkError(
                    f"reranking: sample {i} has {counts[0]} positives and {counts[1]} negatives; "
                    "wanted at least one of each"
                )
            self._qrels[str(i)] = {str(j): int(j < counts[0]) for j in range(sum(counts))}

    def measure(self, model: LateInteractionModel, encoding: Encoding) -> dict[str, float]:
        items = [[*sample["positive"], *sample["negative"]] for sample in self.samples]
        scores = candidates(model, [sample["query"] for sample in self.samples], items, encoding)
        run: Run = {}
        for i, row in enumerate(scores):
            # among equals the negative comes first: a model that gives all one score earns nothing;
            # the last bits of a sum differ with the place in a batch
            rounded = [round(score, 5) for score in row.tolist()]
            order = sorted(range(len(rounded)), key=lambda j: (-rounded[j], -j))
            run[str(i)] = {str(j): float(-place) for place, j in enumerate(order)}
        return measure(self._qrels, run, self.metrics)


class Triplet(HeadEvaluator):
    """Share of triples in which the anchor's positive scores higher than its negative.

    Args:
        anchors, positives, negatives: raw items, one each a triple; anchors are queries.
        margin: by how much higher it must score. Larger: harder.
    """

    primary_metric = "accuracy"

    def __init__(
        self,
        anchors: Sequence[Any],
        positives: Sequence[Any],
        negatives: Sequence[Any],
        *,
        margin: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not len(anchors) == len(positives) == len(negatives) or not anchors:
            raise ValueError(
                f"triples: got {len(anchors)} anchors, {len(positives)} positives and "
                f"{len(negatives)} negatives; wanted as many of each, at least one"
            )
        self.anchors = anchors
        self.documents = list(zip(positives, negatives, strict=True))
        self.margin = margin

    def measure(self, model: LateInteractionModel, encoding: Encoding) -> dict[str, float]:
        import torch

        table = torch.stack(candidates(model, self.anchors, self.documents, encoding))
        right = table[:, 0] > table[:, 1] + self.margin
        return {"accuracy": float(right.float().mean())}


class Distillation(HeadEvaluator):
    """How near a model's scores of each query's candidates are to a teacher's.

    "order": Kendall's tau-b of the two orders, mean over queries; 1 is the teacher's order;
    `primary`. "KL divergence" (lower is better): what the loss `KL` makes small.

    Args:
        queries: raw items. documents: the candidates of each, at least two. scores: the teacher's.
        normalise, temperature: of that loss (`lateint.losses.KL`).
    """

    primary_metric = "order"

    def __init__(
        self,
        queries: Sequence[Any],
        documents: Sequence[Sequence[Any]],
        scores: Sequence[Sequence[float]],
        *,
        normalise: bool = True,
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not len(queries) == len(documents) == len(scores) or not queries:
            raise ValueError(
                f"distillation: got {len(queries)} queries, {len(documents)} lists of documents "
                f"and {len(scores)} of scores"
            )
        for i, (own, row) in enumerate(zip(documents, scores, strict=True)):
            if len(own) != len(row) or len(own) < 2:
                raise ValueError(
                    f"distillation: query {i} has {len(own)} documents and {len(row)} scores; "
                    "wanted as many, at least two"
                )
        from lateint.losses import KL

        self.queries, self.documents, self.scores = queries, documents, scores
        self.loss = KL(temperature, normalise=normalise)

    def measure(self, model: LateInteractionModel, encoding: Encoding) -> dict[str, float]:
        import torch

        from lateint.losses import Targets

        divergence = order = 0.0
        found = candidates(model, self.queries, self.documents, encoding)
        for own, given in zip(found, self.scores, strict=True):
            teacher, student = torch.tensor(given, dtype=torch.float64), own.double()
            order += _kendall(teacher, student)
            targets = Targets.by_column(1, len(own) - 1, teacher[None])
            divergence += float(self.loss(targets.scores(student[None])))
        return {"order": order / len(found), "KL divergence": divergence / len(found)}


class Evaluators(Evaluator):
    """Several evaluators in one; `primary` is the first one's. Their names must tell them apart."""

    def __init__(self, evaluators: Sequence[Evaluator]) -> None:
        if not evaluators:
            raise ValueError("evaluators: none given")
        self.evaluators = list(evaluators)

    @property
    def primary(self) -> str:
        return self.evaluators[0].primary

    def __call__(self, model: LateInteractionModel) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for evaluator in self.evaluators:
            found = evaluator(model)
            if twice := sorted(numbers.keys() & found.keys()):
                raise ValueError(
                    f"two evaluators give {twice[0]!r}: give each a name, as name='dev'"
                )
            numbers |= found
        return numbers


def _kendall(left: Any, right: Any) -> float:
    """Kendall's tau-b: concordant minus discordant pairs, over the pairs that either side orders
    (geometric mean); 0 where a side orders none."""
    a = (left[:, None] - left[None]).sign()
    b = (right[:, None] - right[None]).sign()
    ordered = float((a != 0).sum()) * float((b != 0).sum())
    return float((a * b).sum()) / ordered**0.5 if ordered else 0.0
