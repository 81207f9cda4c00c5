"""Haystack's filters as SQL over an index: the same documents as Haystack's own rule chooses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from lateint.index import BadFilter, Index
from lateint.integrations.haystack_filters import BadCondition, to_where

META: list[dict[str, Any]] = [
    {"page": 1, "name": "intro", "date": "2021-05-01T12:00:00+00:00", "tags": ["a", "b"]},
    {"page": 2, "name": "intro", "date": "2021-05-01T13:00:00+02:00", "good": True},
    {"page": 10, "name": "it's; drop table", "ratio": 0.5},
    {"name": None, "page": "7", 'odd "key"': 3, "good": False},
    {"date": "2022-01-01"},
]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], list[int]]:
    index = Index.create(tmp_path_factory.mktemp("filters") / "i", 4)
    ids = [str(i) for i in range(len(META))]
    index.add(ids, [np.eye(4, dtype=np.float32)] * len(META), metadata=META)
    index_keys = index.info().keys

    def chosen(filters: Any) -> list[int]:
        return [int(i) for i in index.ids(*to_where(filters, index_keys))]

    return chosen


def f(field: str, operator: str, value: Any) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value}


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (f("meta.page", "==", 1), [0]),
        (f("page", "==", 1), [0]),
        (f("meta.page", "==", "1"), []),
        (f("meta.name", "==", "it's; drop table"), [2]),
        (f("meta.name", "==", None), [3, 4]),
        (f("meta.name", "!=", "intro"), [2, 3, 4]),
        (f("meta.name", "!=", None), [0, 1, 2]),
        (f("meta.nowhere", "==", 1), []),
        (f("meta.nowhere", "!=", 1), [0, 1, 2, 3, 4]),
        (f("meta.good", "==", True), [1]),
        (f("meta.good", "==", False), [3]),
        (f("meta.tags", "==", ["a", "b"]), [0]),
        (f("meta.page", ">", 1), [1, 2]),
        (f("meta.page", ">=", 1), [0, 1, 2]),
        (f("meta.page", "<", 2.5), [0, 1]),
        (f("meta.page", "<=", None), []),
        (f("meta.nowhere", "<", 3), []),
        (f("meta.date", ">", "2021-05-01T11:30:00+00:00"), [0, 4]),
        (f("meta.date", "<=", datetime(2021, 5, 1, 12)), [0, 1]),
        (f("meta.page", "in", [1, 10, "x"]), [0, 2]),
        (f("meta.page", "in", [1, None]), [0, 4]),
        (f("meta.page", "in", []), []),
        (f("meta.page", "not in", [1, 2]), [2, 3, 4]),
        ({"operator": "AND", "conditions": [f("page", ">", 1), f("name", "==", "intro")]}, [1]),
        ({"operator": "OR", "conditions": [f("page", "==", 1), f("ratio", "<", 1)]}, [0, 2]),
        ({"operator": "NOT", "conditions": [f("page", ">", 1), f("name", "==", "intro")]},
         [0, 2, 3, 4]),
        ({"operator": "NOT", "conditions": [
            {"operator": "OR", "conditions": [f("page", "<", 3), f("good", "==", False)]}]},
         [2, 4]),
        ({"operator": "AND", "conditions": []}, [0, 1, 2, 3, 4]),
        ({"operator": "OR", "conditions": []}, []),
    ],
)  # fmt: skip
def test_chosen(ask: Callable[[Any], list[int]], filters: Any, wanted: list[int]) -> None:
    assert ask(filters) == wanted


def test_a_key_that_sql_paths_cannot_hold(ask: Callable[[Any], list[int]]) -> None:
    with pytest.raises(BadFilter, match="SQL paths cannot hold"):
        ask(f('meta.odd "key"', "==", 3))


@pytest.mark.parametrize(
    "filters",
    [
        "page = 1",
        {"operator": "AND"},
        {"conditions": []},
        {"field": "page", "value": 1},
        {"field": "page", "operator": "=="},
        f("page", "like", "x"),
        f("page", "in", "abc"),
        f("date", ">", "soon"),
        f("date", ">", ["2021-01-01"]),
        f("id", "==", "x"),
        f("page", "==", object()),
        {"operator": "XOR", "conditions": []},
        {"operator": "AND", "conditions": f("page", "==", 1)},
    ],
)
def test_refused(ask: Callable[[Any], list[int]], filters: Any) -> None:
    with pytest.raises(BadCondition):
        ask(filters)


def test_conditions_too_deep(ask: Callable[[Any], list[int]]) -> None:
    filters: dict[str, Any] = f("page", "==", 1)
    for _ in range(60):
        filters = {"operator": "AND", "conditions": [filters]}
    with pytest.raises(BadCondition, match="deep"):
        ask(filters)
