"""What a page's tokens cost and give: nDCG@5 of titles and phrases at several token budgets.

    python scripts/mini_budget.py --data DATA [--net RUN/budget/budget.safetensors] [--record]

On the pages of `bench_pages` as read from pixels, with a part of its queries. "merged": the most
alike become one, down to one token in so many of each page (lateint.merging), for several factors.
Ways to leave tokens out, with at most so many a page: a learned net's (--net); words that mean most
(a rule: a meaning's length says how rare a word is, unknown words come first) after words that a page
has already had twice. Titles and phrases are each in two halves: a setting may be chosen on the first
and believed on the second. Bytes are of the 4-bit index, which takes about 72 a token.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench_pages
import numpy as np
import torch
from development import english_read
from mini_languages import sides
from results import record
from safetensors.torch import load_file
from torch import Tensor

from lateint.merging import merge
from lateint.pooling import TokenNet
from modalities import words
from modalities.layout import DIM, LayoutContext, geometry

BUDGETS = (100, 150, 200, 270)
FACTORS = (1.3, 1.6, 2.0, 3.0)
TITLES, PHRASES = 400, 200
TWICE = 0.93  # cosine of two words' vectors from which they are the same word, as read


def orders(
    net: TokenNet | None, layout: LayoutContext, vectors: Tensor, tokens: Tensor
) -> dict[str, Tensor]:
    """A score for each token of a page, the page's own first: higher stays longer."""
    alike = (vectors @ vectors.T > TWICE).float().tril(-1).sum(1)
    meaning = layout.lexicon(vectors).norm(dim=1)
    known = torch.where(meaning < 0.02, 1.0, meaning)
    again = (alike >= 2).float()
    found = {"rare": torch.cat([torch.full((1,), 9.0), known - again])}
    return found if net is None else found | {"learned": net(tokens)}


def fewer(
    net: TokenNet | None, layout: LayoutContext, vectors: Tensor, tokens: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Every way and setting, and the rows that it keeps of a page's tokens (T, DIM)."""
    yield "all", tokens
    for factor in FACTORS:
        merged, _ = merge(tokens.numpy(), math.ceil(len(tokens) / factor))
        yield f"merged, {factor}", torch.from_numpy(merged)
    for way, score in orders(net, layout, vectors, tokens).items():
        best = score.argsort(descending=True, stable=True)
        for budget in BUDGETS:
            yield f"{way}, {budget}", tokens[best[:budget]]


@torch.inference_mode()
def measure(data: Path, context: Path | None = None, net: Path | None = None) -> dict[str, Any]:
    """way and setting -> tokens a page, and nDCG@5 of both halves of titles and of phrases. context:
    a checkpoint instead of what the package ships."""
    corpus, seen = english_read(data)
    names = [str(i) for i in range(len(seen))]
    titled = [
        ([w for w, _, _ in words.split(t)], pages)
        for t, pages in corpus.queries
        if len([*words.split(t)]) >= 2
    ]  # fmt: skip
    titled = titled[:: max(1, len(titled) // TITLES)][:TITLES]
    queries = titled + bench_pages.phrases(corpus, PHRASES, seed=5)
    layout, query = sides(context)
    asked = [
        query(words.vectors(q)[None], torch.ones(1, len(q), dtype=torch.bool)).tokens[0]
        for q, _ in queries
    ]
    owner = torch.cat([torch.full((len(a),), i) for i, a in enumerate(asked)])
    tokens = torch.cat(asked)
    chooser = None if net is None else budget_net(net)
    scores: dict[str, list[Tensor]] = {}
    counts: dict[str, list[int]] = {}
    for vectors, boxes in seen:
        mask = torch.ones(1, len(vectors), dtype=torch.bool)
        own = layout(vectors[None].float(), geometry(boxes)[None], mask).tokens[0]
        for way, rows in fewer(chooser, layout, vectors.float(), own):
            scores.setdefault(way, []).append(_sums(rows @ tokens.T, owner))
            counts.setdefault(way, []).append(len(rows))
    parts = {"titles": range(len(titled)), "phrases": range(len(titled), len(queries))}
    table: dict[str, Any] = {}
    for way, columns in scores.items():
        matrix = torch.stack(columns, 1).numpy()
        table[way] = {"tokens": round(float(np.mean(counts[way])), 1)}
        for name, part in parts.items():
            halves = [list(part)[half::2] for half in (0, 1)]
            table[way][name] = [_found(matrix, half, queries, names) for half in halves]
    return table


def _found(
    matrix: np.ndarray,
    half: list[int],
    queries: list[tuple[list[str], list[int]]],
    names: list[str],
) -> float:
    """nDCG@5 of these queries."""
    qrels = {f"q{i}": {names[p]: 1 for p in queries[q][1]} for i, q in enumerate(half)}
    return bench_pages.evaluate(qrels, matrix[half], names)["nDCG@5"]


def budget_net(path: Path) -> TokenNet:
    """The net that scores tokens, out of the result of train_mini.py's stage `budget`."""
    stored = load_file(str(path))
    own = {k.rpartition("net.")[2]: v.float() for k, v in stored.items() if "net.layers" in k}
    net = TokenNet(DIM, len(own["layers.0.weight"]) if len(own) > 2 else 0)
    net.load_state_dict(own)
    return net.eval()


def _sums(sims: Tensor, owner: Tensor) -> Tensor:
    """(page tokens, query tokens) -> (queries,) MaxSim."""
    return torch.zeros(int(owner[-1]) + 1).index_add_(0, owner, sims.amax(0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--context", type=Path)
    parser.add_argument("--net", type=Path)
    parser.add_argument("--record", action="store_true", help="append to scripts/results/")
    args = parser.parse_args()
    table = measure(args.data, args.context, args.net)
    for way, row in table.items():
        print(way, json.dumps(row))
    if args.record:
        record("mini_budget", table=table)


if __name__ == "__main__":
    main()
