"""Qrels and runs, and the files they travel in: TREC's, BEIR's and mteb's.

    qrels  {query: {document: grade}}   what is known to answer; a grade of 1 or more is relevant
    run    {query: {document: score}}   what a system gave; higher is better

Knows ids, grades and scores; no model, no metric, no text. Files come from outside, so lengths are
bounded, and an error names the file, the line, what came and what was wanted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]
Layout = Literal["trec", "beir"]

MAX_LINE = 1 << 16  # bytes of a line of a qrels or run file
MAX_LINES = 50_000_000  # of one file
MAX_JSON = 1 << 30  # bytes of a run in JSON, which is read as a whole
MAX_GRADE = 1_000_000
BEIR_HEADER = ("query-id", "corpus-id", "score")


class BenchmarkError(ValueError):
    """A file of a benchmark, a qrels or a run cannot be used; the message names it."""


def read_qrels(path: Path | str) -> Qrels:
    """Qrels from a TREC file (`query iteration document grade`, blanks between) or a BEIR one
    (`query document grade`, tabs between, with or without its header line).

    A pair may be repeated with the same grade. Raises BenchmarkError: a line of another form, a
    grade that is no whole number, a pair with two grades, no line at all, a file beyond the limits.
    """
    path = Path(path)
    qrels: Qrels = {}
    for number, line in _lines(path):
        fields = line.split("\t") if "\t" in line else line.split()
        fields = [field.strip() for field in fields]
        if number == 1 and tuple(fields) == BEIR_HEADER:
            continue
        if len(fields) == 4:
            query, _, document, grade = fields
        elif len(fields) == 3:
            query, document, grade = fields
        else:
            raise _bad(
                path, number, line, "`query 0 document grade` or `query<TAB>document<TAB>grade`"
            )
        if not query or not document:
            raise _bad(path, number, line, "ids that are not empty")
        value = _grade(grade)
        if value is None:
            raise _bad(path, number, line, "a whole number as the grade")
        known = qrels.setdefault(query, {}).setdefault(document, value)
        if known != value:
            raise BenchmarkError(
                f"{path}, line {number}: query {query!r} and document {document!r} have grade "
                f"{value} here and {known} before"
            )
    if not qrels:
        raise BenchmarkError(f"{path}: holds no qrels")
    return qrels


def write_qrels(
    path: Path | str, qrels: Mapping[str, Mapping[str, int]], layout: Layout = "trec"
) -> None:
    """Qrels as a file, whole or not at all. layout: "trec" or "beir"; ids may hold no white space
    in the first, no tab or line end in the second (see `trec_id`)."""
    _check_layout(layout)
    rows: list[str] = [] if layout == "trec" else ["\t".join(BEIR_HEADER)]
    for query, document, grade in _pairs(qrels):
        if isinstance(grade, bool) or not isinstance(grade, int):
            raise BenchmarkError(
                f"query {query!r}, document {document!r}: grade {grade!r}; wanted a whole number"
            )
        for name in (query, document):
            _check_id(name, layout)
        parts = (
            (query, "0", document, str(grade))
            if layout == "trec"
            else (query, document, str(grade))
        )
        rows.append((" " if layout == "trec" else "\t").join(parts))
    _write(Path(path), rows)


def read_run(path: Path | str) -> Run:
    """A run from a TREC file (`query Q0 document rank score tag`) or from JSON as mteb and BEIR
    write it (`{query: {document: score}}`; the name ends in .json).

    The score decides the order, not the rank; `run_lines` breaks ties. Raises BenchmarkError: a
    line of another form, a score that is no finite number, a document twice for one query, no line
    at all, a file beyond the limits.
    """
    path = Path(path)
    if path.suffix == ".json":
        return _json_run(path)
    run: Run = {}
    for number, line in _lines(path):
        fields = line.split()
        if len(fields) != 6:
            raise _bad(path, number, line, "`query Q0 document rank score tag`")
        query, _, document, _, score, _ = fields
        value = _score(score)
        if value is None:
            raise _bad(path, number, line, "a finite number as the score")
        found = run.setdefault(query, {})
        if document in found:
            raise BenchmarkError(
                f"{path}, line {number}: document {document!r} comes twice for query {query!r}"
            )
        found[document] = value
    if not run:
        raise BenchmarkError(f"{path}: holds no run")
    return run


def write_run(
    path: Path | str, run: Mapping[str, Mapping[str, float]], tag: str = "lateint"
) -> None:
    """A run as a TREC file, whole or not at all. Ids may hold no white space (see `trec_id`)."""
    _check_id(tag, "trec")
    _write(Path(path), run_lines(run, tag))


def run_lines(run: Mapping[str, Mapping[str, float]], tag: str = "lateint") -> Iterator[str]:
    """The lines of a TREC file, best first for each query; scores with all digits that they need."""
    for query, found in run.items():
        _check_id(query, "trec")
        for rank, document in enumerate(ranked(found), start=1):
            _check_id(document, "trec")
            yield f"{query} Q0 {document} {rank} {found[document]:.9g} {tag}"


def ranked(found: Mapping[str, float]) -> list[str]:
    """Documents best first; among equals the one with the smaller id, so that a number does not
    depend on the order in which a system happened to list them."""
    for document, score in found.items():
        if not math.isfinite(score):
            raise BenchmarkError(f"document {document!r} has score {score}; wanted a finite number")
    return sorted(found, key=lambda document: (-found[document], document))


def trec_id(name: str) -> str:
    """An id without blanks, for TREC files: `%` and white space as %XX."""
    coded = (
        "".join(f"%{byte:02X}" for byte in character.encode())
        if character == "%" or character.isspace()
        else character
        for character in name
    )
    return "".join(coded)


def trec_ids(pairs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same qrels or run with `trec_id` of every id."""
    return {
        trec_id(query): {trec_id(document): value for document, value in found.items()}
        for query, found in pairs.items()
    }


def _json_run(path: Path) -> Run:
    _check_file(path, MAX_JSON)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path}: not JSON: {error}") from error
    wanted = f"{path}: wanted {{query: {{document: score}}}}"
    if not isinstance(data, dict) or not data:
        raise BenchmarkError(f"{wanted}, got {type(data).__name__} {str(data)[:60]}")
    run: Run = {}
    for query, found in data.items():
        if not isinstance(found, dict):
            raise BenchmarkError(f"{wanted}, query {query!r} has {type(found).__name__}")
        for document, score in found.items():
            number = isinstance(score, (int, float)) and not isinstance(score, bool)
            if not number or not math.isfinite(score):
                raise BenchmarkError(f"{wanted}, document {document!r} has score {score!r:.60}")
        run[query] = {document: float(score) for document, score in found.items()}
    return run


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1."""
    _check_file(path, None)
    with path.open("rb") as file:
        for number in range(1, MAX_LINES + 2):
            line = file.readline(MAX_LINE + 1)
            if not line:
                return
            if number > MAX_LINES:
                raise BenchmarkError(f"{path}: more than {MAX_LINES} lines")
            if len(line) > MAX_LINE:
                raise BenchmarkError(f"{path}, line {number}: longer than {MAX_LINE} bytes")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BenchmarkError(f"{path}, line {number}: not UTF-8: {error}") from error
            if text.strip():
                yield number, text.rstrip("\r\n")


def _check_file(path: Path, limit: int | None) -> None:
    if not path.exists():
        raise BenchmarkError(f"{path}: no such file")
    if not path.is_file():
        raise BenchmarkError(f"{path}: not a regular file")
    if limit is not None and path.stat().st_size > limit:
        raise BenchmarkError(f"{path}: larger than {limit} bytes")


def _bad(path: Path, number: int, line: str, wanted: str) -> BenchmarkError:
    shown = line if len(line) <= 80 else line[:77] + "..."
    return BenchmarkError(f"{path}, line {number}: got {shown!r}; wanted {wanted}")


def _grade(text: str) -> int | None:
    """A whole number, also as other tools write one ("1.0"); None for anything else."""
    value = _score(text)
    if value is None or value != int(value) or abs(value) > MAX_GRADE:
        return None
    return int(value)


def _score(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def _pairs(values: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    for query, found in values.items():
        for document, value in found.items():
            yield query, document, value


def _check_layout(layout: str) -> None:
    if layout not in ("trec", "beir"):
        raise ValueError(f'layout: got {layout!r}; wanted "trec" or "beir"')


def _check_id(name: str, layout: str) -> None:
    bad = any(c.isspace() for c in name) if layout == "trec" else bool({*name} & {*"\t\r\n"})
    if not name or bad:
        raise BenchmarkError(
            f"id {name!r} is empty or has white space, which the {layout} layout cannot hold: "
            "write trec_id(id) instead"
        )


def _write(path: Path, rows: Iterable[str]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{row}\n" for row in rows)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
