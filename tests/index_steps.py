"""Steps that an index goes through, each with a known result; for processes that get killed in them.

Step 0 creates the index, the others repeat CYCLE. Texts and values follow from the step's number, so
what an index should hold after any step can be written down without it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from index_helpers import Matrix, matrix

from lateint.index import Index

WIDTH = 32
CYCLE = ["add", "upsert", "delete", "compact", "extend", "train"]


class Held(NamedTuple):
    """What a document should be."""

    step: int
    tokens: Matrix
    text: str | None


def document(step: int, i: int) -> Matrix:
    return matrix(np.random.default_rng([step, i]), 1 + i % 3, WIDTH)


def kind_of(step: int) -> str:
    return CYCLE[(step - 1) % len(CYCLE)] if step else "create"


def expected(step: int) -> dict[str, Held]:
    """id -> what it is when steps up to `step` are done."""
    state: dict[str, Held] = {}
    for s in range(1, step + 1):
        kind = kind_of(s)
        if kind in ("add", "extend"):
            for i in range(20 if kind == "add" else 12):
                state[f"{s}-{i}"] = Held(s, document(s, i), f"word{s} of {s}-{i}")
        elif kind == "upsert":
            state |= {f"{s - 1}-{i}": Held(s, document(s, i), None) for i in range(5, 10)}
        elif kind == "delete":
            for i in range(5):
                del state[f"{s - 2}-{i}"]
    return state


def take(index: Index | None, path: Path, step: int, nbits: int) -> Index:
    """Goes through one step; each but the creation is one commit at most."""
    kind = kind_of(step)
    if index is None:
        assert kind == "create"
        return Index.create(path, WIDTH, nbits=nbits)
    if kind in ("add", "extend"):
        held = {name: doc for name, doc in expected(step).items() if doc.step == step}
        columns: list[list[Any]] = [
            list(held),
            [doc.tokens for doc in held.values()],
            [{"step": step}] * len(held),
            [doc.text for doc in held.values()],
        ]
        if kind == "add":
            index.add(columns[0], columns[1], metadata=columns[2], texts=columns[3])
        else:
            index.extend(tuple(part[i : i + 4] for part in columns) for i in range(0, 12, 4))
    elif kind == "upsert":
        docs = [document(step, i) for i in range(5, 10)]
        names = [f"{step - 1}-{i}" for i in range(5, 10)]
        index.upsert(names, docs, metadata=[{"step": step}] * 5)
    elif kind == "delete":
        index.delete([f"{step - 2}-{i}" for i in range(5)])
    elif kind == "compact":
        index.compact()
    elif nbits != 16:
        index.train()
    return index


def go_on(path: Path, base: int, nbits: int, said: int) -> None:
    """Takes the steps after `base` for ever, and says so before and after each on the file `said`."""
    index = Index.open(path, write=True) if base >= 0 else None
    while True:
        base += 1
        os.write(said, f"begin {base}\n".encode())
        index = take(index, path, base, nbits)
        os.write(said, f"done {base}\n".encode())


def serve() -> None:
    """Reads [path, pipe, base, nbits] from stdin, a line each; forks a process that goes on with
    that index, prints its number, waits for its end, prints "gone"."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            path, pipe, base, nbits = json.loads(line)
            go_on(Path(path), base, nbits, os.open(pipe, os.O_WRONLY))
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)
