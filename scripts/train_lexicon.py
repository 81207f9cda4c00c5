"""Stage "lexicon": what words mean, from a text model, translations and definitions.

1. An English word means what MiniLM's vector of that word alone says, turned to its principal
   axes and cut to MEANING numbers; its length says how rare it is, stop words have next to none.
2. A word of another language means what it translates to: the mean of the English meanings under
   p(e | f), which IBM model 1 (Brown et al. 1993) learns in both directions from short parallel
   texts. A spelling that several languages share has their mean by frequency.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import token_data
import torch
from lexicon_data import FULL, LANGUAGES, Pair, counts, descriptions, folded, held_out, kept
from torch import Tensor
from torch.nn import functional as F

from modalities.lexicon import MEANING, Lexicon

QUOTA = {"en": 24_000, "de": 12_000, "fr": 9_000, "es": 8_000, "it": 8_000}
SOME, FEW = 3_000, 1_200  # words of a language with and without translated descriptions
TRANSLATED = ("da", "nl", "pt", "pl", "cs", "sk", "ru", "uk", "sv")
MOST_LINKS = 20_000_000  # word pairs in which model 1 counts
SHORT = 24  # words of a text that contexts are trained on


@dataclass(frozen=True)
class Words:
    """A language's words, the most frequent first, and the share of texts that each is in."""

    spelling: list[str]
    share: dict[str, float]


def wordnet(data: Path) -> tuple[Counter[str], list[Pair]]:
    """How often WordNet's tagged texts use a word, and (synonyms, definition) of its concepts."""
    root = data / "pkg" / "wordnet-base" / "usr/share/wordnet"
    used: Counter[str] = Counter()
    for line in (root / "cntlist.rev").read_text().split("\n"):
        sense, _, rest = line.partition(" ")
        word = folded(sense.partition("%")[0].replace("_", " "))
        if len(word) == 1 and rest:
            used[word[0]] += int(rest.split()[1])
    glosses = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (root / f"data.{part}").read_text().split("\n"):
            fields = line.split(" ")
            if line.startswith(" ") or len(fields) < 5:
                continue
            lemmas = [fields[4 + 2 * i].replace("_", " ") for i in range(int(fields[3], 16))]
            gloss = re.sub(r'"[^"]*"', " ", line.partition(" | ")[2])
            pair = Pair("gloss", folded(" ".join(lemmas)), folded(gloss)[:SHORT])
            if pair.other and pair.english:
                glosses.append(pair)
    return used, glosses


def vocabulary(data: Path, out: Path) -> dict[str, Words]:
    """The words of each language that get a meaning. Names and captions count as more texts, since
    what they name is what pictures show."""
    found = {}
    used, glosses = wordnet(data)
    english = {p.english: None for code in LANGUAGES for p in kept(data, out, code)}
    count, number = counts(iter([*english, *(p.english for p in glosses)]))
    for word, times in used.items():
        count[word] += times
    found["en"] = _words(count, number, QUOTA["en"], 3)
    for code in LANGUAGES:
        pairs = kept(data, out, code)
        count, number = counts(p.other for p in pairs)
        named, _ = counts(p.other for p in pairs if p.kind in ("name", "caption", "keywords"))
        most = QUOTA.get(code, SOME if code in TRANSLATED else FEW)
        found[code] = _words(count + named, number, most, 2)
    return found


def _words(count: Counter[str], number: int, most: int, least: int) -> Words:
    chosen = [
        word
        for word, times in count.most_common(most)
        if times >= least and not word.isdigit() and 1 < len(word) <= 30
    ]
    return Words(chosen, {word: count[word] / number for word in chosen})


def weight(share: float) -> float:
    """Length of a meaning, 0.02 to 1, from the share of texts a word is in: a third of them and it
    says nothing, one in 200 and it says all."""
    return min(1.0, max(0.02, (-math.log(max(share, 1e-9)) - 1.2) / 4))


@torch.inference_mode()
def english_meanings(spelling: list[str], model: Path) -> Tensor:
    """(V, MEANING) unit rows: MiniLM's pooled vectors of words alone, their mean taken off, on
    their principal axes, large ones made less so (to the square root of their spread)."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    backbone = AutoModel.from_pretrained(str(model)).eval()
    table = torch.zeros(len(spelling), backbone.config.hidden_size, dtype=torch.float64)
    order = sorted(range(len(spelling)), key=lambda i: len(spelling[i]))  # little padding
    for start in range(0, len(spelling), 512):
        part = order[start : start + 512]
        batch = tokenizer([spelling[i] for i in part], padding=True, return_tensors="pt")
        states = backbone(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        pooled = (states * mask).sum(1) / mask.sum(1)
        table[part] = F.normalize(pooled, dim=1).double()
    table -= table.mean(0)
    spread, axes = torch.linalg.eigh(table.T @ table / len(table))
    spread, axes = spread.flip(0)[:MEANING], axes.flip(1)[:, :MEANING]
    return F.normalize(table @ axes / spread.pow(0.25), dim=1).float()


def translations(
    pairs: list[Pair], seed: int, rounds: int = 6
) -> dict[str, list[tuple[str, float]]]:
    """Word -> its English words with their shares, at most six: the geometric mean of what IBM
    model 1 says in both directions, which drops what only one of them believes."""
    order = list(range(len(pairs)))
    random.Random(seed).shuffle(order)
    other: dict[str, int] = {}
    english: dict[str, int] = {}
    left, right, left_token, right_token = [], [], [], []
    links, lefts, rights = 0, 0, 0
    for i in order:
        o = [other.setdefault(w, len(other)) for w in pairs[i].other]
        e = [english.setdefault(w, len(english)) for w in pairs[i].english]
        left.append(np.repeat(o, len(e)))
        right.append(np.tile(e, len(o)))
        left_token.append(np.repeat(np.arange(lefts, lefts + len(o)), len(e)))
        right_token.append(np.tile(np.arange(rights, rights + len(e)), len(o)))
        links, lefts, rights = links + len(o) * len(e), lefts + len(o), rights + len(e)
        if links > MOST_LINKS:
            break
    o, e = np.concatenate(left).astype(np.int64), np.concatenate(right).astype(np.int64)
    cells, cell = np.unique(o * len(english) + e, return_inverse=True)
    o, e = cells // len(english), cells % len(english)
    forth = _model_one(cell, np.concatenate(right_token), o, e, rounds)  # p(e | f)
    back = _model_one(cell, np.concatenate(left_token), e, o, rounds)  # p(f | e)
    both = np.sqrt(forth * back)
    spelt, of = list(english), list(other)
    best = np.lexsort((-both, o))
    begins = np.searchsorted(o[best], np.arange(len(of) + 1))
    found = {}
    for i, word in enumerate(of):
        chosen = best[begins[i] : begins[i + 1]][:6]
        shares = both[chosen] / max(both[chosen].sum(), 1e-12)
        found[word] = [
            (spelt[e[c]], float(s)) for c, s in zip(chosen, shares, strict=True) if s > 0.08
        ]
    return found


def _model_one(
    cell: np.ndarray, token: np.ndarray, given: np.ndarray, made: np.ndarray, rounds: int
) -> np.ndarray:
    """p(made | given) of each cell (given, made). cell: of each link; token: which word of the
    texts is made. A word may also be made by nothing, as often as chance has it."""
    size = np.bincount(token)
    p = 1.0 / np.bincount(given)[given]
    first = np.zeros(len(size), np.int64)
    first[token] = made[cell]
    nothing = 0.1 * np.bincount(first) / len(first)
    by_chance = nothing[first]
    for _ in range(rounds):
        share = p[cell]
        share /= (np.bincount(token, share) + by_chance)[token]
        count = np.bincount(cell, share, minlength=len(given))
        p = count / np.maximum(np.bincount(given, count), 1e-12)[given]
    return p


def table_of(
    known: dict[str, Words],
    english: Tensor,
    translated: dict[str, dict[str, list[tuple[str, float]]]],
) -> tuple[list[str], Tensor]:
    """All words and their meanings (V, MEANING) before step 3."""
    place = {word: i for i, word in enumerate(known["en"].spelling)}
    sums: dict[str, tuple[Tensor, float, float]] = {}  # meaning, weight and how much is in them

    def add(word: str, meaning: Tensor, share: float) -> None:
        total, length, much = sums.get(word, (torch.zeros(MEANING), 0.0, 0.0))
        sums[word] = total + share * meaning, length + share * weight(share), much + share

    for word in known["en"].spelling:
        add(word, english[place[word]], 2 * known["en"].share[word])  # more of what is read
    for code, words_ in known.items():
        if code == "en":
            continue
        for word in words_.spelling:
            terms = [(place[e], s) for e, s in translated[code].get(word, ()) if e in place]
            if terms:
                meaning = sum(s * english[i] for i, s in terms)
                add(word, F.normalize(torch.as_tensor(meaning), dim=0), words_.share[word])
    spelling = list(sums)
    rows = [F.normalize(total, dim=0) * length / much for total, length, much in sums.values()]
    return spelling, torch.stack(rows)


def training_texts(data: Path, out: Path) -> list[list[Pair]]:
    """Groups of pairs, drawn from in turn: the four full languages, the others, English."""

    def short(pairs: list[Pair]) -> list[Pair]:
        return [p for p in pairs if 2 <= len(p.english) <= SHORT and len(p.other) <= SHORT]

    full = [short(kept(data, out, code)) for code in FULL]
    rest = [p for code in LANGUAGES if code not in FULL for p in short(kept(data, out, code))]
    described = [
        Pair("described", folded(d.short), folded(d.long[0])[:SHORT])
        for d in descriptions(data, "en").values()
        if d.long and not held_out(d.package)
    ]
    described = [p for p in described if p.other and len(p.english) >= 5]
    told = [p for p in wordnet(data)[1] if not held_out(" ".join(p.other))]
    return [*full, *full, rest, rest, described, told]


def train(data: Path, out: Path, seed: int) -> Path:
    """Both steps. MiniLM lies in data/weights. Returns the lexicon's file, beside which
    translations.json says how words were translated."""
    target = out / "lexicon.safetensors"
    if target.exists():
        return target
    known = vocabulary(data, out)
    print({code: len(w.spelling) for code, w in known.items()}, flush=True)
    english = english_meanings(known["en"].spelling, token_data.weights(data))
    translated = {}
    for code in LANGUAGES:
        translated[code] = translations(kept(data, out, code), seed)
        print(code, len(translated[code]), "words translated", flush=True)
    rows = {
        code: {
            word: [(*term, known[code].share[word]) for term in terms]
            for word, terms in table.items()
            if word in known[code].share
        }
        for code, table in translated.items()
    }
    (out / "translations.json").write_text(json.dumps(rows))
    Lexicon.make(*table_of(known, english, translated)).save(target)
    return target
