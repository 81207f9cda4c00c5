"""Stage "sense": what words mean enters the tokens, so that pages answer in other words and tongues.

Begins with the contexts that know words by their look alone (stage "seen"). Every step has
- pages, as in that stage, but a part of the queries put into another language word by word, with
  the translations that the lexicon learnt: so an English page answers in all of them;
- texts that say the same in two languages, either one asking, and short descriptions asking for
  long ones; the text that answers stands among others on a typed page;
- spoken texts as they were heard (`heard_data`), asking for what was said or asked by it, among texts
  that share words with it. So what is misheard is still found by its look, however much meanings count.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from heard_data import Utterances
from layout_data import Corpus
from lexicon_data import Pair
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from train_context import Model, Page, Query, Source, Words
from training_run import Run

from modalities import words
from modalities.layout import Tokens, geometry
from modalities.lexicon import MEANING, Lexicon
from modalities.page import typed

TRANSLATED = 0.4  # share of the pages' queries put into another language
MAIN = ("de", "fr", "es", "it")  # three times in four into one of these
QUERY_WORDS = 16
GAIN = 1.2  # of the meanings at the start, against 1 of a word's look
SPOKEN = 0.5  # share of the titles that were spoken that are asked for as they were heard
ALIKE = 12  # texts that share most words with one; those that it has to be told from


class Spelt:
    """Words' vectors and meanings, made once."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.vectors = words.vectors(lexicon.spelling)
        self.meanings = self.mean(self.vectors)
        self.place = {word: i for i, word in enumerate(lexicon.spelling)}

    def __call__(self, text: Sequence[str]) -> Words:
        new = [w for w in dict.fromkeys(text) if w not in self.place]
        if new:
            vectors = words.vectors(new)
            self.place |= {word: len(self.vectors) + i for i, word in enumerate(new)}
            self.vectors = torch.cat([self.vectors, vectors])
            self.meanings = torch.cat([self.meanings, self.mean(vectors)])
        which = torch.tensor([self.place[w] for w in text], dtype=torch.long)
        return self.vectors[which], self.meanings[which]

    @torch.no_grad()
    def mean(self, vectors: Tensor) -> Tensor:
        """(N, WIDTH) -> (N, MEANING)"""
        none = vectors.new_zeros(0, MEANING)
        return torch.cat([none, *(self.lexicon(part) for part in vectors.split(4096))])


class Translator:
    """Puts words into other languages, one by one, as often as texts did."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        """path: JSON, language -> word -> [[English word, share, how often the word is met], ...]
        (`train_lexicon`)."""
        self.rng = rng
        self.into: dict[str, dict[str, tuple[list[str], list[float]]]] = {}
        for code, table in json.loads(path.read_text()).items():
            back: dict[str, tuple[list[str], list[float]]] = {}
            for word, terms in table.items():
                for english, share, often in terms:
                    if share > 0.25 and not english.isdigit():
                        found = back.setdefault(english, ([], []))
                        found[0].append(word)
                        found[1].append(share * often)
            self.into[code] = back

    def __call__(self, text: list[str]) -> list[str]:
        main = self.rng.random() < 0.75
        table = self.into[self.rng.choice(MAIN if main else [*self.into])]
        return [self.rng.choices(*table[w])[0] if w in table else w for w in text]


class Texts:
    """Pairs of texts; each answer stands among others of its language on a typed page."""

    def __init__(self, groups: list[list[Pair]], spelt: Spelt, rng: random.Random) -> None:
        self.groups, self.spelt, self.rng = groups, spelt, rng

    def batch(self, size: int) -> tuple[list[list[str]], list[Page], Tensor]:
        """Queries, documents, and (queries, documents) bool: which answers."""
        group = self.rng.choice(self.groups)
        pairs = self.rng.sample(group, size + self.rng.randint(1, 3) * size)
        turned = group[0].kind not in ("described", "gloss") and self.rng.random() < 0.5
        both = [(p.english, p.other) if turned else (p.other, p.english) for p in pairs]
        queries = [list(q[:QUERY_WORDS]) for q, _ in both[:size]]
        documents, answers = [], []
        for i in range(size):
            texts = [a for _, a in both[i::size]]
            self.rng.shuffle(texts)
            heads = ["# " if self.rng.random() < 0.3 else "" for _ in texts]
            lines = [head + " ".join(t) for head, t in zip(heads, texts, strict=True)]
            vectors, meanings = self.spelt([w for t in texts for w in t])
            documents.append((vectors, geometry(typed("\n".join(lines))), meanings))
            answers.append(set(texts))
        right = torch.tensor([[a in found for found in answers] for _, a in both[:size]])
        return queries, documents, right


class Spoken:
    """Spoken texts, each with those that share most words with it."""

    def __init__(self, heard: Utterances, spelt: Spelt, rng: random.Random) -> None:
        self.heard, self.spelt, self.rng = heard, spelt, rng
        self.said = [self._page(*one) for one in heard.said]
        self.instead = [self._page(*one) for one in heard.instead]
        self.number = {text: i for i, text in enumerate(heard.texts)}
        place = {w: i for i, w in enumerate(sorted({w for text in heard.texts for w in text}))}
        bags = torch.zeros(len(heard.texts), len(place))
        for bag, text in zip(bags, heard.texts, strict=True):
            bag[[place[w] for w in text]] = 1
        bags = F.normalize(bags, dim=1)
        shared = (bags @ bags.T).fill_diagonal_(0)
        self.alike = shared.topk(ALIKE).indices.tolist()

    def _page(self, vectors: Tensor, letters: Tensor) -> Page:
        """As `SpeechReader` types a recording: words of as many letters."""
        place = geometry(typed(" ".join("x" * n for n in letters.tolist())))
        return vectors, place, self.spelt.mean(vectors)

    def __contains__(self, text: Sequence[str]) -> bool:
        return tuple(text) in self.number

    def losses(self, model: Model, size: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Heard asks for typed, typed for heard, typed for typed: means of the three."""
        firsts = self.rng.sample(range(len(self.said)), size // 4)
        near = [[first, *self.rng.sample(self.alike[first], 9)] for first in firsts]
        asking = [i for group in near for i in group[:4]]
        others = [i for group in near for i in group[4:]]
        texts = [self.heard.texts[i] for i in asking + others]
        written = [self.spelt(text) for text in texts]
        pages = model.documents(
            [(v, geometry(typed(" ".join(t))), m) for t, (v, m) in zip(texts, written, strict=True)]
        )
        spoken, recordings = self.asked(model, asking), self.recordings(model, asking)
        typing = model.queries(written[: len(asking)])
        right = torch.tensor([[a == b for b in texts] for a in texts[: len(asking)]])
        found = [
            model.losses(*model.scores(queries, documents), same, torch.zeros_like(same))
            for queries, documents, same in (
                (spoken, pages, right),
                (typing, recordings, right[:, : len(asking)]),
                (typing, pages, right),
            )
        ]
        losses = {k: torch.stack([x[k] for x, _ in found]).mean() for k in found[0][0]}
        facts = {f"spoken_{k}": v for k, v in found[0][1].items()}
        return losses, facts | {"typed_multi_first": found[2][1]["multi_first"]}

    def asked(self, model: Model, numbers: list[int]) -> Tokens:
        """Utterances as queries."""
        parts = [[part[i][::2] for i in numbers] for part in (self.said, self.instead)]
        return joined(*map(model.queries, parts))

    def recordings(self, model: Model, numbers: list[int]) -> Tokens:
        """Utterances as documents."""
        parts = [[part[i] for i in numbers] for part in (self.said, self.instead)]
        return joined(*map(model.documents, parts))


def joined(said: Tokens, instead: Tokens) -> Tokens:
    """What was said and what may have been instead, together as in `SpeechReader`."""
    doubt = instead.mask.sum(1, keepdim=True) > 1  # more than the token for the whole
    both = torch.where(doubt, said.pooled + instead.pooled, said.pooled)
    return Tokens(
        torch.cat([said.tokens, instead.tokens[:, 1:]], 1),
        torch.cat([said.mask, instead.mask[:, 1:]], 1),
        F.normalize(both, dim=-1),
    )


def begin(start: Path, lexicon: Lexicon) -> Model:
    """The contexts of a stage without meanings, with meanings that count from the start: their
    shared projection is orthogonal, what the surroundings make of them is nothing yet. How a page's
    words see their surroundings stays as it was, which takes a third of the time of learning it
    again; what is made of that, and all of the query's side, is trained."""
    model = Model(lexicon)
    model.load_state_dict(load_file(str(start)), strict=False)
    for part in (model.layout.sense, model.layout.pool_sense):
        nn.init.orthogonal_(part.weight, gain=GAIN)
    layout = model.layout
    for kept in (layout.enter, layout.enter_sense, layout.place, layout.blocks, layout.norm):
        kept.requires_grad_(False)
    layout.item.requires_grad_(False)
    return model


def train(
    corpus: Path,
    readings: Path,
    start: Path,
    lexicon: Path,
    groups: list[list[Pair]],
    heard: Sequence[Path],
    out: Path,
    *,
    steps: int,
    rate: float,
    seed: int,
    device: str,
) -> Path:
    """One run; resumes from out/state.pt. corpus, readings, start: as in `train_context.train`;
    lexicon: its file, with translations.json beside it; heard: what `heard_data.make` gives. Returns the
    weights' file."""
    torch.manual_seed(seed)
    known = Lexicon.of_bytes(lexicon.read_bytes(), lexicon.name)
    source, spelt = Source(Corpus.load(corpus), readings, seed, known), Spelt(known)
    print(f"{len(source.pages)} pages, {len(source.titles)} titles, {len(known)} words", flush=True)
    model = begin(start, known)
    run = Run(out, model.to(device), rate, steps, name="context", weight_decay=0.02, every=25)
    source.rng.seed(seed + run.step)
    rng = random.Random(seed + run.step)
    translate = Translator(lexicon.parent / "translations.json", rng)
    texts = Texts(groups, spelt, rng)
    spoken = Spoken(Utterances.load(heard), spelt, rng)

    nothing = spelt(())

    def put(query: Query) -> tuple[Words, Words]:
        """What is said, and what may have been instead."""
        if query.text in spoken and rng.random() < SPOKEN:
            number = spoken.number[tuple(query.text)]
            return spoken.said[number][::2], spoken.instead[number][::2]
        asked = translate(query.text) if rng.random() < TRANSLATED else query.text
        return spelt(asked), nothing

    while run.step < steps:
        queries, pages, right, ignored = source.batch(8)
        documents = model.documents([source.page(p) for p in pages])
        told = joined(*map(model.queries, zip(*map(put, queries), strict=True)))
        losses, facts = model.losses(*model.scores(told, documents), right, ignored)
        short, long, answers = texts.batch(24)
        scores = model.scores(model.queries([*map(spelt, short)]), model.documents(long))
        more, said = model.losses(*scores, answers, torch.zeros_like(answers))
        facts |= {f"text_{name}": value for name, value in said.items()}
        third, said = spoken.losses(model, 24)
        facts |= said
        total = torch.stack([*losses.values(), *more.values(), *third.values()]).sum()
        run.update(total, facts, warm_up=15, clip=1.0, decay=0.95)
    return run.result
