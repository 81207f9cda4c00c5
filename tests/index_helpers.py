"""Small indexes with known answers, and the damage that is done to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lateint.index import Index

ROOT = Path(__file__).resolve().parents[1]
DIM = 8
Matrix = npt.NDArray[np.float32]


def matrix(rng: np.random.Generator, length: int, dim: int = DIM) -> Matrix:
    """Random unit rows, (length, dim), exact in float16."""
    rows = rng.standard_normal((length, dim))
    return (
        (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    )


def matrices(seed: int, count: int, longest: int = 9, dim: int = DIM) -> list[Matrix]:
    rng = np.random.default_rng(seed)
    return [matrix(rng, int(rng.integers(1, longest + 1)), dim) for _ in range(count)]


def triple_loop(query: Matrix, document: Matrix) -> float:
    """MaxSim as its definition reads."""
    total = 0.0
    for asked in query:
        best = -np.inf
        for token in document:
            dot = 0.0
            for a, b in zip(asked.tolist(), token.tolist(), strict=True):
                dot += a * b
            best = max(best, dot)
        total += best
    return total


def make(path: Path, count: int = 12, seed: int = 0) -> list[Matrix]:
    """An index of `count` documents d0, d1, ... in two segments; returns their tokens."""
    docs = matrices(seed, count)
    half = count // 2
    with Index.create(path, DIM) as index:
        for low, high in ((0, half), (half, count)):
            index.add(
                [f"d{i}" for i in range(low, high)],
                docs[low:high],
                metadata=[
                    {"n": i, "parent": f"p{i // 3}", "even": i % 2 == 0} for i in range(low, high)
                ],
                texts=[f"text {i}" if i % 2 else None for i in range(low, high)],
            )
    return docs


def python(code: str, *args: Any, **options: Any) -> subprocess.Popen[str]:
    """Runs `code` in another process, with this checkout on its path."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def contents(path: Path) -> dict[str, Any]:
    """Everything an index answers, for comparing two states."""
    with Index.open(path) as index:
        ids = index.ids()
        return {
            "ids": ids,
            "metadata": index.metadata(ids),
            "texts": index.texts(ids),
            "tokens": [matrix.tobytes() for matrix in index.reconstruct(ids)],
            "count": len(index),
        }
