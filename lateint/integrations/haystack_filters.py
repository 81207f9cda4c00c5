"""Haystack's filters -> `where` with bound parameters.

    {"field": "meta.page", "operator": "<", "value": 10}
    {"operator": "AND" | "OR" | "NOT", "conditions": [...]}

Every value of a filter is a parameter, every field a quoted name that the index compares with its
metadata keys, so nothing in a filter is ever read as SQL. Each comparison is true or false, never
NULL, as in Haystack: a field that is missing equals None, differs from every value, and is neither
larger nor smaller than any.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from json import dumps
from typing import Any

DEPTH = 50  # of conditions within conditions: filters may come from outside

Part = tuple[str, list[Any]]  # SQL, its parameters


class BadCondition(ValueError):
    """A filter that says nothing that can be asked."""


def to_where(filters: dict[str, Any], keys: Collection[str]) -> Part:
    """SQL and parameters for `Index.search(where=..., params=...)`.

    keys: the metadata keys that the index has; a field that no document has is NULL.
    Raises BadCondition.
    """
    return _condition(filters, keys, 0)


def _condition(given: Any, keys: Collection[str], depth: int) -> Part:
    if not isinstance(given, dict):
        raise BadCondition(f"filters: got {given!r:.100}; wanted a dictionary")
    if depth > DEPTH:
        raise BadCondition(f"filters: conditions within conditions, {DEPTH} deep; make it simpler")
    if "field" not in given:
        return _logic(given, keys, depth)
    for wanted in ("operator", "value"):
        if wanted not in given:
            raise BadCondition(f"filters: {given!r:.200} lacks {wanted!r}")
    operator = given["operator"]
    if operator not in COMPARISONS:
        raise BadCondition(f"filters: operator {operator!r}; wanted one of {list(COMPARISONS)}")
    return COMPARISONS[operator](_column(given["field"], keys), given["value"])


def _logic(given: dict[str, Any], keys: Collection[str], depth: int) -> Part:
    for wanted in ("operator", "conditions"):
        if wanted not in given:
            raise BadCondition(f"filters: {given!r:.200} lacks {wanted!r}")
    operator, conditions = given["operator"], given["conditions"]
    if operator not in ("AND", "OR", "NOT"):
        raise BadCondition(f"filters: operator {operator!r}; wanted AND, OR or NOT")
    if not isinstance(conditions, list):
        raise BadCondition(f"filters: conditions of {operator} are {conditions!r:.100}, no list")
    parts = [_condition(each, keys, depth + 1) for each in conditions]
    if not parts:  # as Python's all() and any()
        return ("0" if operator in ("OR", "NOT") else "1"), []
    joined = (" or " if operator == "OR" else " and ").join(f"({sql})" for sql, _ in parts)
    values = [value for _, part in parts for value in part]
    return (f"not ({joined})" if operator == "NOT" else joined), values


def _column(field: Any, keys: Collection[str]) -> str:
    if not isinstance(field, str) or not field:
        raise BadCondition(f"filters: field {field!r}; wanted the name of a metadata key")
    if field in ("id", "content", "embedding", "score", "blob"):
        raise BadCondition(f"filters: field {field!r}; only metadata can be filtered by")
    key = field.removeprefix("meta.")
    if key not in keys:
        return "null"
    return '"' + key.replace('"', '""') + '"'


def _equal(column: str, value: Any) -> Part:
    return f"{column} is ?", [_plain(value)]


def _differs(column: str, value: Any) -> Part:
    return f"{column} is not ?", [_plain(value)]


def _ordered(operator: str) -> Callable[[str, Any], Part]:
    def compare(column: str, value: Any) -> Part:
        if value is None:
            return "0", []
        if isinstance(value, (int, float)):
            kind = f"typeof({column}) in ('integer', 'real')"
            return f"coalesce({kind} and {column} {operator} ?, 0)", [value]
        kind = f"typeof({column}) = 'text'"
        days = f"julianday({column}) {operator} julianday(?)"
        return f"coalesce({kind} and {days}, 0)", [_date(value, operator)]

    return compare


def _within(column: str, value: Any) -> Part:
    if not isinstance(value, list):
        raise BadCondition(f"filters: 'in' and 'not in' want a list, got {value!r:.100}")
    values = [_plain(each) for each in value]
    marks = ", ".join("?" for each in values if each is not None)
    parts = [f"coalesce({column} in ({marks}), 0)"] if marks else []
    if None in values:
        parts.append(f"{column} is null")
    return " or ".join(parts) or "0", [each for each in values if each is not None]


def _without(column: str, value: Any) -> Part:
    sql, values = _within(column, value)
    return f"not ({sql})", values


COMPARISONS: dict[str, Callable[[str, Any], Part]] = {
    "==": _equal,
    "!=": _differs,
    **{operator: _ordered(operator) for operator in (">", ">=", "<", "<=")},
    "in": _within,
    "not in": _without,
}


def _plain(value: Any) -> Any:
    """As SQLite has it: lists and dictionaries are their JSON, dates their ISO form."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (list, dict)):
        return dumps(value, ensure_ascii=False, separators=(",", ":"))
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise BadCondition(f"filters: value {value!r:.100}; wanted text, a number, a date or a list")


def _date(value: Any, operator: str) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    try:
        if not isinstance(value, str):
            raise ValueError(f"{type(value).__name__} has no order")
        return datetime.fromisoformat(value.replace("Z", "+00:00")).isoformat()
    except ValueError as error:
        raise BadCondition(
            f"filters: {operator!r} compares numbers and ISO dates, got {value!r:.100} ({error})"
        ) from None
