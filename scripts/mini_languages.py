"""Meaning across languages and beyond spelling: a section of `bench_mini.py`.

Pages: the installation guide, whose outlines are the same entry by entry in every language. A query
is an outline title in English, answered by the page that its entry points to in the other language's
guide, and the other way round; candidates are all pages of that guide. On the words of the text
layer, and on pixels. What a model without meanings finds are names and numbers that both share.

Texts: descriptions of Debian packages that no training has seen (`lexicon_data.held_out`). The short
line, in English and in other languages, asks for the long text in English; a word asks for its
synonym, of concepts that no training has seen.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench_pages
import ir_measures
import lexicon_data
import numpy as np
import page_data
import torch
from development import read_pages
from ir_measures import R, nDCG
from layout_data import Corpus, clean_title, collect
from safetensors.torch import load_file
from torch import Tensor, nn

from modalities import pdf, words
from modalities.layout import LayoutContext, QueryContext
from modalities.lexicon import Lexicon
from modalities.page import PageText, typed

GUIDE = "installation-guide-amd64/usr/share/doc/installation-guide-amd64"
READ = ("de", "fr", "es", "ru")  # languages whose pages are also read from pixels
TOLD = (*READ, "it", "nl", "da", "cs")
MEASURES = (R @ 1, R @ 10, nDCG @ 10)
TEXTS = 600  # packages in each test on descriptions
SYNONYMS = 800

Pages = list[tuple[Tensor, Tensor]]  # word vectors (N, WIDTH) and boxes (N, 4)


def measured(scores: np.ndarray, answers: Sequence[Sequence[int]]) -> dict[str, float]:
    """Recall@1, Recall@10 and nDCG@10 of a (queries, documents) score matrix; answers: of each query
    the documents that answer it."""
    qrels = {f"q{i}": {str(d): 1 for d in found} for i, found in enumerate(answers)}
    top = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    run = {
        f"q{i}": {str(d): float(scores[i, d]) for d in row.tolist()} for i, row in enumerate(top)
    }
    found = ir_measures.calc_aggregate(MEASURES, qrels, run)
    return {str(m): round(found[m], 4) for m in MEASURES}


def guide(data: Path, cache: Path, language: str) -> tuple[Path, Corpus]:
    """One language's installation guide and the words of its text layer."""
    page_data.unpack(data / "pkg" / "installation-guide-amd64")
    path = data / "pkg" / GUIDE / language / f"install.{language}.pdf"
    kept = cache / f"guide-{language}.safetensors"
    if not kept.exists():
        collect([path], most=100_000, without_outline=100_000, seed=0, workers=1).save(kept)
    return path, Corpus.load(kept)


def spelt(corpus: Corpus) -> Pages:
    table = words.vectors(corpus.vocabulary)
    return [
        (table[torch.from_numpy(corpus.ids[s:e].astype(np.int64))], torch.from_numpy(corpus.boxes[s:e]))
        for s, e in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)
    ]  # fmt: skip


def asked(own: Path, other: Path, corpus: Corpus) -> tuple[list[list[str]], list[list[int]]]:
    """Titles of one guide's outline, and the places in the other's corpus of the pages that the
    same entries point to there."""
    place = {int(name.rpartition("=")[2]): i for i, name in enumerate(corpus.names)}
    answers: dict[tuple[str, ...], set[int]] = {}
    for mine, theirs in zip(pdf.outline(own), pdf.outline(other), strict=True):
        title = tuple(w for w, _, _ in words.split(clean_title(mine.title)))
        if title and theirs.page in place:
            answers.setdefault(title, set()).add(place[theirs.page])
    kept = [(t, sorted(p)) for t, p in answers.items() if len(p) <= 3]
    return [list(t) for t, _ in kept], [p for _, p in kept]


def pages(data: Path, cache: Path, layout: LayoutContext, query: QueryContext) -> dict[str, Any]:
    """Rows of the cross-lingual page table, by "en > de" and so on."""
    table: dict[str, Any] = {}
    english, english_corpus = guide(data, cache, "en")
    for language in TOLD:
        path, corpus = guide(data, cache, language)
        there = asked(english, path, corpus)
        back = asked(path, english, english_corpus)
        for row, (titles, answers), of, target in (
            (f"en > {language}", there, corpus, spelt(corpus)),
            (f"{language} > en", back, english_corpus, spelt(english_corpus)),
        ):
            lexical = bench_pages.bm25(bench_pages.layer(of), titles)
            multi, single, _ = bench_pages.model_scores(layout, query, target, titles)
            table[row] = {
                "queries": len(titles),
                "bm25": measured(lexical, answers),
                "words": measured(multi, answers),
                "words, single": measured(single, answers),
            }
        if language in READ:
            seen = read_pages(corpus, [path], cache, f"guide-{language}")
            multi, single, _ = bench_pages.model_scores(layout, query, seen, there[0])
            table[f"en > {language}"] |= {
                "pixels": measured(multi, there[1]),
                "pixels, single": measured(single, there[1]),
            }
    return table


def texts(data: Path, layout: LayoutContext, query: QueryContext) -> dict[str, Any]:
    """Short lines asking for long texts, in several languages, and words asking for synonyms."""
    english = {
        key: d
        for key, d in lexicon_data.descriptions(data, "en").items()
        if lexicon_data.held_out(d.package) and d.long
    }
    table = {}
    for language in ("en", "de", "fr", "it", "es", "da", "ru"):
        told = english if language == "en" else lexicon_data.descriptions(data, language)
        keys = list({told[k].short: k for k in english if k in told}.values())[:TEXTS]
        titles = [list(lexicon_data.folded(told[k].short)) for k in keys]
        found = {i for i, k in enumerate(keys) if titles[i] and told[k].short != english[k].short}
        chosen = [i for i in range(len(keys)) if i in found or (language == "en" and titles[i])]
        long = ["\n\n".join(english[k].long) for k in keys]
        table[f"{language} short > en long"] = _rows(
            layout, query, [titles[i] for i in chosen], long, [[i] for i in chosen]
        )
    table["word > synonym"] = _rows(layout, query, *synonyms(data))
    return table


def synonyms(data: Path) -> tuple[list[list[str]], list[str], list[list[int]]]:
    """Words of WordNet's tagged texts, and other words for the same concept among SYNONYMS."""
    from train_lexicon import wordnet

    used, glosses = wordnet(data)
    rng, seen = random.Random(11), set[str]()
    found: list[tuple[str, str]] = []
    rng.shuffle(glosses)
    for pair in glosses:
        if not lexicon_data.held_out(" ".join(pair.other)):
            continue
        common = [w for w in dict.fromkeys(pair.other) if used[w] >= 5 and w not in seen]
        if len(common) >= 2 and common[0][:4] != common[1][:4]:
            found.append((common[0], common[1]))
            seen.update(common)
        if len(found) == SYNONYMS:
            break
    return [[a] for a, _ in found], [b for _, b in found], [[i] for i in range(len(found))]


def _rows(
    layout: LayoutContext,
    query: QueryContext,
    queries: list[list[str]],
    documents: list[str],
    answers: list[list[int]],
) -> dict[str, Any]:
    split = [[w for w, _, _ in words.split(text)] for text in documents]
    target = [(words.vectors(text), typed(raw)) for text, raw in zip(split, documents, strict=True)]
    multi, single, _ = bench_pages.model_scores(layout, query, target, queries)
    return {
        "queries": len(queries),
        "documents": len(documents),
        "bm25": measured(bench_pages.bm25(split, queries), answers),
        "multi": measured(multi, answers),
        "single": measured(single, answers),
    }


def sides(context: Path | None) -> tuple[LayoutContext, QueryContext]:
    """The package's contexts, or a checkpoint's; of one from before meanings without a lexicon."""
    if context is None:
        text = PageText.shipped()
        return text.layout, text.query
    stored = load_file(str(context))
    knows = any("sense." in name for name in stored)
    text = PageText(None if knows else Lexicon())
    for side, prefix in ((text.layout, "layout."), (text.query, "query.")):
        own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
        nn.Module.load_state_dict(side, own, strict=knows)
    text.eval()
    return text.layout, text.query


def measure(data: Path, context: Path | None = None, only: str | None = None) -> dict[str, Any]:
    """Both tables. data: as for `bench_pages`, with `scripts/get_data.sh DATA lexicon`; context: a
    checkpoint instead of the package's weights; only: "pages" or "texts"."""
    cache = data / "bench"
    cache.mkdir(exist_ok=True)
    layout, query = sides(context)
    found: dict[str, Any] = {}
    with torch.inference_mode():
        if only != "texts":
            found["pages"] = pages(data, cache, layout, query)
        if only != "pages":
            found["texts"] = texts(data, layout, query)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--context", type=Path)
    parser.add_argument("--only", choices=("pages", "texts"))
    args = parser.parse_args()
    for section, table in measure(args.data, args.context, args.only).items():
        print(section)
        for row, cells in table.items():
            print(f"  {row}: {cells}")


if __name__ == "__main__":
    main()
