"""Makes the small index of the present format that later versions must open: `python
tests/make_index_fixture.py` writes tests/fixtures/index-v<format> and, beside it, what it answers.

Run once for each format, by the last code that writes it, and never again: the older ones cannot be
made any more. test_formats.py opens them all.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lateint.index import Index
from lateint.index.manifest import FORMAT

FIXTURES = Path(__file__).parent / "fixtures"
DIM = 32


def main() -> None:
    rng = np.random.default_rng(1)

    def unit(count: int) -> np.ndarray:
        rows = rng.standard_normal((count, DIM))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)

    docs = [unit(int(length)) for length in rng.integers(1, 9, 30)]
    queries = [unit(4) for _ in range(3)]
    path = FIXTURES / f"index-v{FORMAT}"
    with Index.create(path, DIM, model="fixture", nbits=2, centroids=16) as index:
        for first, last in ((0, 12), (12, 30)):
            index.add(
                [f"d{n}" for n in range(first, last)],
                docs[first:last],
                metadata=[{"n": n, "parent": f"p{n // 3}"} for n in range(first, last)],
                texts=[f"text {n}" if n % 2 else None for n in range(first, last)],
            )
            index.train()
        index.delete(["d3", "d20"])
        index.upsert(["d5"], [docs[6]], metadata=[{"n": 500}])
        ids = index.ids()
        answers = {
            "version": FORMAT,
            "ids": ids,
            "metadata": index.metadata(ids),
            "texts": index.texts(ids),
            "queries": [query.astype(float).tolist() for query in queries],
            "hits": [[[h.id, h.score] for h in row] for row in index.search(queries, k=5)],
            "sums": [float(matrix.sum()) for matrix in index.reconstruct(ids)],
            "tokens": index.info().tokens,
        }
        index.verify()
    path.with_suffix(".json").write_text(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
