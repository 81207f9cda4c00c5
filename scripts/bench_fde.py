"""How many of a query's best documents are among the first candidates that FDE finds.

    python scripts/bench_fde.py .data/tokens --documents 10000 > scripts/results/fde.jsonl

Physics: a vector of n numbers is n bytes a document and n multiplications a query and document; a
token matrix of 80 tokens at 4 bits is 5,280 bytes. Candidates are scored exactly afterwards, so
recall of the candidates is the recall of the search. The truth is exact MaxSim in float32. One JSON
line per setting; times are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from lateint.index.fde import Fde, scan, to_bytes
from lateint.index.search.exact import blocks, maxsim, query_groups
from lateint.index.tokens import Tokens

TOP = 10
LOOKED_AT = (100, 500, 1000)
GRID = (
    {"repetitions": 10, "bits": 4, "projection": 8},
    {"repetitions": 20, "bits": 4, "projection": 8},
    {"repetitions": 20, "bits": 5, "projection": 8},
    {"repetitions": 20, "bits": 5, "projection": 16},
    {"repetitions": 40, "bits": 5, "projection": 16, "final": 2560},
    {"repetitions": 40, "bits": 5, "projection": 16, "final": 10240},
)


def documents(data: Path, count: int) -> Tokens:
    """The first documents of the collection that scripts/token_data.py made."""
    whole = data / f"documents_{count}.safetensors"
    files = [whole] if whole.exists() else sorted((data / "shards").glob("*.safetensors"))
    parts = [load_file(file) for file in files]
    lengths = np.concatenate([np.diff(part["offsets"]) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    found = Tokens(np.concatenate([part["values"] for part in parts]), offsets)
    return found.slice(0, min(count, len(found)))


def truth(queries: Tokens, docs: Tokens) -> np.ndarray:
    """Positions of the best TOP documents of each query, by exact MaxSim."""
    best = []
    for first, last in query_groups(queries, len(docs)):
        asked = queries.slice(first, last)
        scores = [maxsim(asked, docs.slice(a, b)) for a, b in blocks(docs.lengths, 1 << 14)]
        best.append(np.argsort(-np.concatenate(scores, axis=1), axis=1)[:, :TOP])
    return np.concatenate(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder tokens/ of scripts/token_data.py")
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    docs = documents(arguments.data, arguments.documents)
    held = load_file(arguments.data / "queries.safetensors")
    queries = Tokens(held["values"].astype(np.float32), held["offsets"]).slice(0, arguments.queries)
    wanted = truth(queries, docs)
    for settings in GRID:
        fde = Fde(docs.dim, **settings)
        start = time.process_time()
        vectors, steps = to_bytes(fde.encode_documents(docs))
        encoding = time.process_time() - start
        start = time.process_time()
        asked = fde.encode_queries(queries)
        scores = np.concatenate([scan(asked[i : i + 1], vectors, steps) for i in range(len(asked))])
        searching = time.process_time() - start
        order = np.argsort(-scores, axis=1)[:, : max(LOOKED_AT)]
        recall = {
            f"recall@{TOP} of {n}": round(
                float(
                    np.mean([np.isin(a, b[:n]).mean() for a, b in zip(wanted, order, strict=True)])
                ),
                4,
            )
            for n in LOOKED_AT
        }
        line = {
            "bench": "fde",
            "documents": len(docs),
            "tokens": len(docs.values),
            "queries": len(queries),
            **settings,
            "bytes_per_document": fde.size + 4,
            **recall,
            "encode_ms_per_document": round(1000 * encoding / len(docs), 3),
            "search_ms_per_query": round(1000 * searching / len(queries), 2),
            "machine": platform.machine(),
            "numpy": np.__version__,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
