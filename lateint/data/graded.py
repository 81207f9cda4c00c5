"""A training set as a benchmark: held-out pairs are queries with one relevant document each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lateint.data.columns import DataError, Item

if TYPE_CHECKING:
    from lateint.data.sets import TrainingSet
    from lateint.evaluation.benchmark import Benchmark


def as_benchmark(data: TrainingSet) -> Benchmark:
    """What evaluators and `lateint eval` take: every query of the set against every document in it,
    hard negatives included. Equal items are one; the positives of equal queries are all relevant.

    Raises DataError where queries or documents are of several modalities.
    """
    from lateint.evaluation.benchmark import Benchmark

    queries, documents = _Items(), _Items()
    qrels: dict[str, dict[str, int]] = {}
    for number in range(len(data)):
        example = data[number]
        found = [documents.add(item, example.where) for item in example.documents]
        qrels.setdefault(queries.add(example.query, example.where), {})[found[0]] = 1
    return Benchmark(
        data.name or "data", documents, queries, qrels, documents.modality, queries.modality
    )


class _Items(Mapping[str, Any]):
    """key -> raw item, opened on access."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self.modality = ""

    def add(self, item: Item, where: str) -> str:
        if self.modality not in ("", item.modality):
            raise DataError(f"{where}: {item.modality} beside {self.modality}: wanted one modality")
        self.modality = item.modality
        self._items.setdefault(name := f"{item.key:016x}", item)
        return name

    def __getitem__(self, name: str) -> Any:
        return self._items[name].opened()

    def __contains__(self, name: object) -> bool:
        return name in self._items  # without opening it

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
