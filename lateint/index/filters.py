"""`where`: an SQL expression over the documents' metadata, confined three times over.

The text may hold only known metadata keys, literals, `?`, operators and harmless functions (a list
of what is allowed, none of what is not); SQLite's authorizer lets the statement read nothing but
the metadata and call nothing but those functions; and a step limit ends what takes too long.
"""

from __future__ import annotations

import difflib
import re
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from lateint.index.errors import BadFilter
from lateint.index.tokens import IntArray

_FUNCTIONS = """
    abs ceil ceiling coalesce date datetime floor glob ifnull iif instr json_array_length
    json_extract json_type julianday length like lower ltrim max min nullif round rtrim
    sign strftime substr substring time trim typeof unicode unixepoch upper
"""
_RESERVED = """
    and as between case collate distinct else escape from in is isnull not notnull null or
    then when
"""
_OTHERS = """
    binary cast end false glob integer like nocase numeric real rtrim text true
"""
FUNCTIONS = frozenset(_FUNCTIONS.split())
RESERVED = frozenset(_RESERVED.split())  # never a name unless quoted
WORDS = RESERVED | frozenset(_OTHERS.split())
LENGTH = 10_000  # characters of an expression
PARAMETER = 1_000  # characters of a bound string: bounds what one LIKE can cost
STEPS = 1_000_000  # of SQLite's virtual machine, for any filter ...
STEPS_PER_DOCUMENT = 1_000  # ... and for each document of the index
TICK = 10_000  # steps between two looks at the limit

_TOKEN = re.compile(
    r"""\s+|(?P<string>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*")|(?P<bad>--|/\*)"""
    r"""|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(?P<word>[^\W\d]\w*)"""
    r"""|(?P<operator>->>|->|\|\||<>|!=|<=|>=|==|[-+*/%=<>(),?&|~])"""
)
# The number's column. No metadata key with a quote in it can be named, so none collides.
_INNER = '"""doc"'


class Filters:
    """Runs `where` expressions on `db`; installs an authorizer that is idle outside of them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._confined = False
        self._denied = False
        self._ticks = 0
        db.set_authorizer(self._authorize)

    def documents(
        self, where: str, params: Sequence[Any], keys: Sequence[str], count: int
    ) -> IntArray:
        """Numbers of the documents (ascending) for which `where` is true.

        params: one value (str, int, float, bool, None) per `?`; keys: the metadata keys that exist;
        count: documents in the index, which the step limit grows with. Raises BadFilter.
        """
        sql, bound = statement(where, keys), _bind(params)
        self._denied = False
        self._ticks = (STEPS + STEPS_PER_DOCUMENT * count) // TICK
        self._confined = True
        self._db.set_progress_handler(self._tick, TICK)
        try:
            numbers = [number for (number,) in self._db.execute(sql, bound)]
        except (sqlite3.DatabaseError, OverflowError) as error:
            if self._ticks < 0:
                raise BadFilter(
                    f"where {where!r:.200}: takes too many steps; make it simpler"
                ) from None
            if type(error) is sqlite3.DatabaseError and not self._denied:
                raise  # damage, not the expression
            raise BadFilter(f"where {where!r:.200}: {error}") from None
        finally:
            self._confined = False
            self._db.set_progress_handler(None, 0)
        return np.sort(np.asarray(numbers, np.int64))

    def _tick(self) -> int:
        self._ticks -= 1
        return int(self._ticks < 0)

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if not self._confined or action == sqlite3.SQLITE_SELECT:
            return sqlite3.SQLITE_OK
        if (
            action == sqlite3.SQLITE_READ
            and str(first).lower() == "documents"
            and str(second).lower() in ("doc", "metadata", "")
        ):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and str(second).lower() in FUNCTIONS | {"->", "->>"}:
            return sqlite3.SQLITE_OK
        self._denied = True
        return sqlite3.SQLITE_DENY


def statement(where: str, keys: Sequence[str]) -> str:
    """The SELECT that finds the documents: the keys named in `where` become columns."""
    columns = "".join(
        f", json_extract(metadata, {_path(key)}) AS {_name(key)}" for key in _keys(where, keys)
    )
    # Of the inner SELECT the expression sees these columns and no others.
    inner = f"SELECT doc AS {_INNER}{columns} FROM documents"
    return f"SELECT {_INNER} FROM ({inner}) WHERE (\n{where}\n)"


def check_key(key: str, keys: Sequence[str]) -> None:
    """Raises BadFilter, naming the nearest key, unless `key` is one of the metadata keys."""
    if key not in keys:
        near = difflib.get_close_matches(key, keys, 1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"known keys: {', '.join(sorted(keys)[:20]) or 'none'}"
        )
        raise BadFilter(f"no document carries the metadata key {key!r}; {hint}")


def _keys(where: str, keys: Sequence[str]) -> list[str]:
    """The keys that `where` names. Raises BadFilter at the first thing that is not allowed."""
    if not isinstance(where, str) or not where.strip() or len(where) > LENGTH:
        raise BadFilter(
            f"where: wanted an SQL expression of 1 to {LENGTH} characters, got {where!r:.100}"
        )
    folded: dict[str, list[str]] = {}
    for key in keys:
        folded.setdefault(_fold(key), []).append(key)
    used: dict[str, None] = {}
    at = depth = 0
    while at < len(where):
        match = _TOKEN.match(where, at)
        if match is None or match["bad"] or "\0" in match[0]:
            raise BadFilter(
                f"where {where!r:.200}: {where[at : at + 2]!r} at character {at} is not allowed"
            )
        at = match.end()
        depth += (match[0] == "(") - (match[0] == ")")
        if depth < 0:
            raise BadFilter(f"where {where!r:.200}: closes a bracket that it did not open")
        word = match["word"] or (match["quoted"] or "")[1:-1].replace('""', '"')
        if not (match["word"] or match["quoted"]):
            continue
        if match["word"] and where[at:].lstrip().startswith("(") and word.lower() not in WORDS:
            if word.lower() not in FUNCTIONS:
                raise BadFilter(
                    f"where: function {word!r} is not allowed; allowed: "
                    + ", ".join(sorted(FUNCTIONS))
                )
        elif match["word"] and word.lower() in RESERVED:
            continue
        elif names := folded.get(_fold(word)):
            if len(names) > 1:
                raise BadFilter(
                    f"where: SQL cannot tell the metadata keys {names} apart; rename one of them"
                )
            used[names[0]] = None
        elif match["quoted"] or word.lower() not in WORDS:
            check_key(word, [key for key in keys if filterable(key)])
    if depth:
        raise BadFilter(f"where {where!r:.200}: leaves a bracket open")
    for key in used:
        if not filterable(key):
            raise BadFilter(
                f"where: the metadata key {key!r} has characters that SQL paths cannot hold"
            )
    return list(used)


def filterable(key: str) -> bool:
    """Whether SQLite's JSON paths can name this key."""
    return bool(key) and not re.search(r'["\\\x00-\x1f]', key)


def _path(key: str) -> str:
    return "'$.\"" + key.replace("'", "''") + "\"'"


def _name(key: str) -> str:
    return f'"{key}"'


def _fold(name: str) -> str:
    """As SQLite compares names: only ASCII letters lose their case."""
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in name)


def _bind(params: Sequence[Any]) -> list[Any]:
    if isinstance(params, (str, bytes)):
        raise BadFilter("params: got one string, wanted a list with one value per '?'")
    for place, value in enumerate(params):
        if not isinstance(value, (str, int, float, type(None))):
            raise BadFilter(
                f"params: value {place} is a {type(value).__name__}; "
                "wanted str, int, float, bool or None"
            )
        if isinstance(value, str):
            with suppress(UnicodeEncodeError):
                value.encode()
                if len(value) <= PARAMETER:
                    continue
            raise BadFilter(
                f"params: string {place} is not valid Unicode or longer than {PARAMETER} characters"
            )
    return list(params)
