"""What a page's tokens cost and give: nDCG@5 of titles and phrases at several token budgets.

    python scripts/mini_budget.py --data DATA [--net RUN/budget/budget.safetensors]

On the pages of `bench_pages` as read from pixels, with a part of its queries. Ways to choose tokens:
the net that ships or a checkpoint's; tokens of words that mean most (a rule: a meaning's length says
how rare a word is, unknown words come first); the same after words that a page has already had twice
are put last; the first of the page. Bytes are of the 4-bit index, which takes about 73 a token.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import bench_pages
import numpy as np
import torch
from layout_data import Corpus
from mini_languages import sides, weights
from safetensors.torch import load_file
from torch import Tensor

from lateint.pooling import TokenNet
from modalities import words
from modalities.layout import DIM, LayoutContext, geometry

BUDGETS = (64, 100, 150, 200, 270)
TITLES, PHRASES = 400, 200
TWICE = 0.93  # cosine of two words' vectors from which they are the same word, as read


def orders(
    net: TokenNet, layout: LayoutContext, vectors: Tensor, tokens: Tensor
) -> dict[str, Tensor]:
    """A score for each token of a page, the page's own first: higher stays longer."""
    alike = (vectors @ vectors.T > TWICE).float().tril(-1).sum(1)
    meaning = layout.lexicon(vectors).norm(dim=1)
    known = torch.where(meaning < 0.02, 1.0, meaning)
    again = (alike >= 2).float()
    first = torch.full((1,), 9.0)
    learned = net(tokens)
    return {
        "learned": learned,
        "learned, once": learned - 100 * torch.cat([torch.zeros(1), again]),
        "rare": torch.cat([first, known]),
        "rare, once": torch.cat([first, known - again]),
        "first": -torch.arange(len(tokens)).float(),
    }


@torch.inference_mode()
def measure(data: Path, context: Path | None = None, net: Path | None = None) -> dict[str, Any]:
    """way -> budget -> [nDCG@5 of titles, of phrases]; "all" keeps every token. context, net:
    checkpoints instead of what the package ships."""
    corpus = Corpus.load(data / "bench" / "english.safetensors")
    paths = [data / "pkg" / name for name in bench_pages.ENGLISH]
    stamp = f"{weights().stat().st_mtime_ns:x}"
    seen = bench_pages.read_pages(
        corpus, paths, weights(), data / "bench" / f"read-{stamp}.safetensors"
    )
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
    chooser = budget_net(net)
    scores: dict[tuple[str, int], list[Tensor]] = {}
    for vectors, boxes in seen:
        mask = torch.ones(1, len(vectors), dtype=torch.bool)
        own = layout(vectors[None].float(), geometry(boxes)[None], mask).tokens[0]
        sims = own @ tokens.T  # (page tokens, query tokens)
        for way, score in orders(chooser, layout, vectors.float(), own).items():
            best = score.argsort(descending=True, stable=True)
            for budget in BUDGETS:
                if budget < len(own) or way == "first":
                    scores.setdefault((way, budget), []).append(_sums(sims[best[:budget]], owner))
                else:
                    scores.setdefault((way, budget), []).append(_sums(sims, owner))
        scores.setdefault(("all", 0), []).append(_sums(sims, owner))
    table: dict[str, Any] = {}
    for (way, budget), columns in scores.items():
        matrix = torch.stack(columns, 1).numpy()
        found = []
        for part in (slice(0, len(titled)), slice(len(titled), None)):
            qrels = {
                f"q{i}": {names[p]: 1 for p in pages} for i, (_, pages) in enumerate(queries[part])
            }
            found.append(bench_pages.evaluate(qrels, matrix[part], names)["nDCG@5"])
        table.setdefault(way, {})[str(budget) if budget else "all"] = found
    counts = np.array([1 + len(vectors) for vectors, _ in seen])
    table["tokens a page"] = {
        "all": round(float(counts.mean()), 1),
        **{str(b): round(float(np.minimum(counts, b).mean()), 1) for b in BUDGETS},
    }
    return table


def budget_net(path: Path | None) -> TokenNet:
    """The net that scores tokens, out of a stage's result or out of the package's weights."""
    stored = load_file(str(path or weights()))
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
    args = parser.parse_args()
    for way, row in measure(args.data, args.context, args.net).items():
        print(way, json.dumps(row))


if __name__ == "__main__":
    main()
