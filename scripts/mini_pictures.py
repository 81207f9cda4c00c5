"""Section "pictures" of bench_mini: do words find pictures that training has not seen?

    python scripts/mini_pictures.py --data DATA [--run RUN]

- held: pictures of the held-out concepts (`picture_data`), through the shipped model as a user has
  it, asked by their names in several languages, among all held-out pictures; and among those and
  all that training saw (with the weights that training kept, where RUN has them);
- styles: towers trained on one drawing style of emoji, asked for the pictures of the other, all
  concepts and the held-out ones (trained by `train_mini.py picture-styles`, in RUN);
- across: a picture asks for the same concept in the other style;
- names of files: what a user has without a model, BM25 over them, where files have names;
- chance: what a random order gives. Speed and size of a picture.

Recall@k: the share of queries with a right picture among the first k; right is every picture of
the concept, and every one of the same name.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import picture_data
import torch
import train_pictures
from picture_data import Picture
from torch import Tensor

import lateint
from lateint.maxsim import maxsim
from lateint.ragged import Ragged
from modalities import words

SHOWN = ("en", "de", "fr", "es", "it", "nl", "pl", "sv", "ru", "el")
TOKEN_BYTES = 73  # in the 4-bit index (scripts/results/bench_index.jsonl)

Numbers = dict[str, float]


def held(data: Path) -> list[Picture]:
    """The pictures of held-out concepts, but flags: nothing in one says what a country is called."""
    return [p for p in picture_data.load(data) if p.held and p.group != "flags"]


def questions(table: Sequence[Picture], language: str) -> list[tuple[str, list[int]]]:
    """(name, positions that are right) for each name of a picture in a language; names without a
    word that the text tower reads are left out."""
    concepts: dict[str, list[int]] = {}
    named: dict[str, list[int]] = {}
    for i, picture in enumerate(table):
        concepts.setdefault(picture.concept, []).append(i)
        for name in picture.names.get(language, ()):
            named.setdefault(name.lower(), []).append(i)
    asked = []
    for name, places in named.items():
        if any(True for _ in words.split(name)):
            right = {j for i in places for j in concepts[table[i].concept]} | set(places)
            asked.append((name, sorted(right)))
    return asked


def summary(scores: Tensor, right: Sequence[Sequence[int]]) -> Numbers:
    """Recall@1, Recall@10 and MRR@10 of (queries, pictures) scores; of equal ones, the worst."""
    ranks = []
    for row, answers in zip(scores, right, strict=True):
        others = torch.ones(len(row), dtype=torch.bool)
        others[list(answers)] = False
        best = row[list(answers)].max()
        ranks.append(1 + int((row[others] >= best).sum()))
    place = torch.tensor(ranks, dtype=torch.float64)
    return {
        "recall@1": round(float((place <= 1).double().mean()), 4),
        "recall@10": round(float((place <= 10).double().mean()), 4),
        "mrr@10": round(float(torch.where(place <= 10, 1 / place, 0.0).mean()), 4),
        "queries": len(ranks),
    }


def both_heads(
    model: lateint.LateInteractionModel,
    asked: Sequence[tuple[str, list[int]]],
    documents: tuple[Ragged, Tensor],
) -> dict[str, Numbers]:
    """Names against pictures' rows and pooled rows."""
    texts, right = [t for t, _ in asked], [r for _, r in asked]
    multi = maxsim(model.encode_queries(texts), documents[0])
    single = model.encode_queries(texts, head="single").values @ documents[1].T
    chance = torch.rand(multi.shape, generator=torch.Generator().manual_seed(0))
    return {
        "multi": summary(multi, right),
        "single": summary(single, right),
        "chance": summary(chance, right),
    }


def held_out(data: Path) -> tuple[dict[str, Any], tuple[Ragged, Tensor]]:
    """The shipped model on the held-out pictures, as files."""
    model = lateint.load()
    folder = data / "pictures/drawn"
    table = held(data)
    files = [folder / p.file for p in table]
    began = time.process_time()
    tokens = model.encode_documents(files, modality="image")
    seconds = (time.process_time() - began) / len(files)
    pooled = model.encode_documents(files, modality="image", head="single").values
    found: dict[str, Any] = {"pictures": len(files), "cpu_seconds": round(seconds, 4)}
    found["tokens"] = round(len(tokens.values) / len(files), 1)
    found["bytes"] = round(found["tokens"] * TOKEN_BYTES)
    for language in SHOWN:
        if asked := questions(table, language):
            found[language] = both_heads(model, asked, (tokens, pooled))
    for source in dict.fromkeys(p.source for p in table):
        places = [i for i, p in enumerate(table) if p.source == source]
        own = [table[i] for i in places]
        rows = tokens.take(torch.tensor(places)), pooled[places]
        found[f"en {source}"] = {"pictures": len(own)} | both_heads(
            model, questions(own, "en"), rows
        )
    return found, (tokens, pooled)


def among_all(data: Path, run: Path) -> dict[str, Any]:
    """Held-out concepts among all pictures, from training's pixels and weights."""
    pictures = train_pictures.Pictures.load(data)
    encoder = train_pictures.trained(
        data, pictures, train_pictures.Recipe(), run / "pictures" / "shipped"
    )
    table = pictures.table
    documents = train_pictures.seen(encoder, range(len(table)))
    asked = [
        (name, right)
        for name, right in questions(table, "en")
        if any(table[i].held and table[i].group != "flags" for i in right)
    ]
    return {"pictures": len(table)} | both_heads(lateint.load(), asked, documents)


def styles(data: Path, run: Path) -> dict[str, Any]:
    """Trained on one style, asked for the other."""
    pictures = train_pictures.Pictures.load(data)
    model = lateint.load()
    found: dict[str, Any] = {}
    for train, test in (picture_data.EMOJI, picture_data.EMOJI[::-1]):
        places = [i for i, p in enumerate(pictures.table) if p.source == test]
        table = [pictures.table[i] for i in places]
        for folder in sorted((run / "pictures").glob(f"style-{train}-*")):
            encoder = train_pictures.trained(data, pictures, train_pictures.Recipe(), folder)
            documents = train_pictures.seen(encoder, places)
            asked = questions(table, "en")
            new = [
                (n, r)
                for n, r in asked
                if any(table[i].held and table[i].group != "flags" for i in r)
            ]
            label = f"{folder.name.removeprefix('style-')} -> {test}"
            found[label] = {"pictures": len(table)} | both_heads(model, asked, documents)
            found[f"{label}, held-out concepts"] = both_heads(model, new, documents)
    return found


def across(data: Path) -> dict[str, Any]:
    """The shipped model: a held-out Noto emoji as a query for its OpenMoji counterpart."""
    model = lateint.load()
    folder = data / "pictures/drawn"
    table = held(data)
    shown = [p for p in table if p.source == "openmoji"]
    right = {}
    for i, picture in enumerate(shown):
        right.setdefault(picture.concept, []).append(i)
    asking = [p for p in table if p.source == "noto" and p.concept in right]
    files, queries = [folder / p.file for p in shown], [folder / p.file for p in asking]
    answers = [right[p.concept] for p in asking]
    multi = maxsim(
        model.encode_queries(queries, modality="image"),
        model.encode_documents(files, modality="image"),
    )
    single = (
        model.encode_queries(queries, modality="image", head="single").values
        @ model.encode_documents(files, modality="image", head="single").values.T
    )
    return {
        "pictures": len(files),
        "multi": summary(multi, answers),
        "single": summary(single, answers),
    }


def file_names(data: Path) -> dict[str, Numbers]:
    """BM25 over file names, for the sources whose files are named by what they show."""
    import bm25s

    found = {}
    for source in ("tuxpaint", "openclipart", "mdi", "lucide"):
        table = [p for p in held(data) if p.source == source]
        asked = questions(table, "en")
        names = [" ".join(re.split(r"[\W_]+", p.key.removeprefix(f"{source}-"))) for p in table]
        index = bm25s.BM25()
        tokens = [[w for w, _, _ in words.split(name)] for name in names]
        index.index(tokens, show_progress=False)
        scores = torch.stack(
            [
                torch.from_numpy(index.get_scores([w for w, _, _ in words.split(text)]))
                for text, _ in asked
            ]
        )
        found[source] = summary(scores, [right for _, right in asked])
    return found


def measure(data: Path, run: Path | None = None) -> dict[str, Any]:
    """All numbers of this section, as JSON values."""
    run = data / "run" if run is None else run
    found, _ = held_out(data)
    numbers: dict[str, Any] = {"held": found, "across": across(data), "files": file_names(data)}
    if (run / "pictures" / "shipped" / "picture.safetensors").exists():
        numbers["among all"] = among_all(data, run)
        numbers["styles"] = styles(data, run)
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path)
    args = parser.parse_args()
    print(json.dumps(measure(args.data, args.run), indent=1))


if __name__ == "__main__":
    main()
