"""Stage "context": from words and their places to tokens, trained on titles, lines and phrases.

Queries are outline titles (the page they point to answers them), large lines (pseudo titles) and
phrases of a page; negatives are the other pages of the batch and, for each query, a page of the
same document that holds most of its words (a table of contents, an index: what has to be told
from a heading). Words come spelt from the text layer with spelling noise, or, in a second round,
as the reader read them from pixels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from layout_data import Corpus
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from training_run import Run

from modalities import words
from modalities.layout import LayoutContext, QueryContext, Tokens, geometry
from modalities.lexicon import MEANING, Lexicon

MOST_WORDS = 420
NOISE = 0.08  # share of words misspelt when vectors come from the text layer
GROUPS = 4  # documents in a batch: fewer means harder negatives

Page = tuple[Tensor, Tensor, Tensor]  # word vectors, geometry, meanings
Words = tuple[Tensor, Tensor]  # vectors (N, WIDTH), meanings (N, MEANING)


@dataclass
class Query:
    text: list[str]
    answers: list[int]
    title: bool


class Source:
    """Pages of a corpus as (vectors, geometry, meanings), spelt or read, and queries on them."""

    def __init__(
        self, corpus: Corpus, readings: Path | None, seed: int, lexicon: Lexicon | None = None
    ) -> None:
        self.corpus, self.rng = corpus, random.Random(seed)
        self.lexicon = Lexicon() if lexicon is None else lexicon
        self.table = words.vectors(corpus.vocabulary)
        self.read = load_file(str(readings)) if readings else None
        self.meanings = self._meanings()
        have = np.ones(len(corpus.document), bool)
        if self.read is not None:
            have[:] = False
            have[self.read["pages"].numpy()] = True
            self.slot = {int(p): i for i, p in enumerate(self.read["pages"].tolist())}
        self.have = have
        self.sets = [set(self.ids(p).tolist()) for p in range(len(corpus.document))]
        self.by_document: dict[int, list[int]] = {}
        for page, document in enumerate(corpus.document.tolist()):
            if have[page]:
                self.by_document.setdefault(document, []).append(page)
        self.pages = np.flatnonzero(have).tolist()
        self.known = {word: i for i, word in enumerate(corpus.vocabulary)}
        self.titles = [
            Query(text, [p for p in pages if have[p]], True)
            for title, pages in corpus.queries
            if 1 <= len(text := [w for w, _, _ in words.split(title)]) <= 16
            and any(have[p] for p in pages)
        ]
        self.titles_of: dict[int, list[Query]] = {}
        for query in self.titles:
            self.titles_of.setdefault(int(corpus.document[query.answers[0]]), []).append(query)
        self.documents = [d for d, pages in self.by_document.items() if len(pages) >= 3]
        self.weights = [len(self.titles_of.get(d, ())) ** 0.7 + 0.3 for d in self.documents]

    @torch.no_grad()
    def _meanings(self) -> Tensor | None:
        """Of the corpus's words, or of each word as read, since pages come again and again."""
        if not len(self.lexicon):
            return None
        rows = self.table if self.read is None else self.read["vectors"]
        return torch.cat([self.lexicon(part).half() for part in rows.split(4096)])

    def _meaning(self, which: Tensor | slice, vectors: Tensor) -> Tensor:
        if self.meanings is None:
            return vectors.new_zeros(len(vectors), MEANING)
        return self.meanings[which][:MOST_WORDS].float()

    def ids(self, page: int) -> np.ndarray:
        start, end = self.corpus.offsets[page : page + 2]
        return self.corpus.ids[start:end]

    def page(self, page: int) -> Page:
        """(N, WIDTH) word vectors, (N, GEOMETRY) and (N, MEANING) of one page, at most MOST_WORDS
        words."""
        if self.read is not None:
            slot = self.slot[page]
            start, end = self.read["offsets"][slot : slot + 2].tolist()
            vectors = self.read["vectors"][start:end][:MOST_WORDS].float()
            place = geometry(self.read["boxes"][start:end])[:MOST_WORDS]
            return vectors, place, self._meaning(slice(start, end), vectors)
        start, end = self.corpus.offsets[page : page + 2]
        ids = torch.from_numpy(self.corpus.ids[start:end].astype(np.int64))
        vectors = self.table[ids][:MOST_WORDS]
        meaning = self._meaning(ids, vectors)
        hit = [i for i in range(len(vectors)) if self.rng.random() < NOISE]
        if hit:
            vectors = vectors.clone()
            vectors[hit] = words.vectors(
                [self.misspell(self.corpus.vocabulary[self.corpus.ids[start + i]]) for i in hit]
            )
        place = geometry(torch.from_numpy(self.corpus.boxes[start:end]))[:MOST_WORDS]
        return vectors, place, meaning

    def misspell(self, word: str) -> str:
        place = self.rng.randrange(len(word))
        letter = self.rng.choice(words.LETTERS)
        change = self.rng.random()
        if change < 0.6 or len(word) == 1:
            return word[:place] + letter + word[place + 1 :]
        return (
            word[:place] + word[place + (change < 0.8) :]
            if change < 0.8
            else word[:place] + letter + word[place:]
        )

    def query(self, document: int) -> Query | None:
        """A title, a large line (a pseudo title) or a phrase of one document; None: nothing found."""
        chance = self.rng.random()
        if chance < 0.65 and (titles := self.titles_of.get(document)):
            return self.rng.choice(titles)
        for _ in range(5):
            page = self.rng.choice(self.by_document[document])
            start, end = self.corpus.offsets[page : page + 2]
            length = self.rng.randint(2, 6)
            if end - start < 40:
                continue
            if chance < 0.8:
                tall = self.corpus.boxes[start:end, 3] - self.corpus.boxes[start:end, 1]
                big = np.flatnonzero(tall > 1.15 * np.median(tall))
                if not 2 <= len(big) <= 60:
                    continue
                first = int(self.rng.choice(big.tolist()))
            else:
                first = self.rng.randrange(end - start - length)
            middle = (self.corpus.boxes[start:end, 1] + self.corpus.boxes[start:end, 3]) / 2
            text = [
                self.corpus.vocabulary[self.corpus.ids[start + i]]
                for i in range(first, min(first + length, end - start))
                if abs(middle[i] - middle[first]) < 0.004
            ]
            if len(text) >= 2:
                return Query(text, [page], False)
        return None

    def negative(self, query: Query) -> int:
        """A page of the same document with many of the query's words, or any page."""
        mates = self.by_document[int(self.corpus.document[query.answers[0]])]
        asked = {self.known.get(w, -1) for w in query.text}
        scored = [
            (len(asked & self.sets[p]) + 0.3 * self.rng.random(), p)
            for p in mates
            if p not in query.answers
        ]
        if not query.title:  # a page that holds the whole phrase answers it too
            scored = [(s, p) for s, p in scored if not asked <= self.sets[p]]
        if not scored:
            return self.rng.choice(self.pages)
        scored.sort(reverse=True)
        return self.rng.choice(scored[:4])[1]

    def batch(self, size: int) -> tuple[list[Query], list[int], Tensor, Tensor]:
        """Queries, pages, (size, pages) bool `right` and `ignored` (answers nobody marked).

        All are of GROUPS documents: the pages that a query must be told from are those of its own
        document, which share its words, its type and its layout."""
        documents = self.rng.choices(self.documents, self.weights, k=GROUPS)
        queries: list[Query] = []
        while len(queries) < size:
            if query := self.query(documents[len(queries) % GROUPS]):
                queries.append(query)
            else:
                documents[len(queries) % GROUPS] = self.rng.choices(self.documents, self.weights)[0]
        pages = [self.rng.choice(q.answers) for q in queries]
        pages = list(dict.fromkeys(pages + [self.negative(q) for q in queries]))
        right = torch.zeros(size, len(pages), dtype=torch.bool)
        ignored = torch.zeros_like(right)
        for i, query in enumerate(queries):
            asked = {self.known.get(w, -1) for w in query.text}
            for j, page in enumerate(pages):
                right[i, j] = page in query.answers
                ignored[i, j] = not query.title and asked <= self.sets[page]
        return queries, pages, right, ignored & ~right


def padded(items: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(x) for x in items])
    full = nn.utils.rnn.pad_sequence(items, batch_first=True)
    mask = torch.arange(full.shape[1])[None] < lengths[:, None]
    return full.to(device), mask.to(device)


def unmeant(text: list[str]) -> Words:
    """Words of which only the look is known."""
    vectors = words.vectors(text)
    return vectors, vectors.new_zeros(len(vectors), MEANING)


class Model(nn.Module):
    """Both sides, and the scales of their scores."""

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        super().__init__()
        lexicon = Lexicon() if lexicon is None else lexicon
        self.layout, self.query = LayoutContext(lexicon), QueryContext(lexicon)
        for part in ("word", "pool_word", "sense", "pool_sense"):  # one projection for both sides
            getattr(self.query, part).weight = getattr(self.layout, part).weight
        self.scale = nn.Parameter(torch.tensor([2.0, 2.5]))  # log temperature of multi, single

    @property
    def device(self) -> torch.device:
        return self.scale.device

    def documents(self, items: list[Page]) -> Tokens:
        """In three groups of like length, so that less padding is computed on."""
        order = sorted(range(len(items)), key=lambda i: len(items[i][0]))
        parts, longest = [], 1 + len(items[order[-1]][0])
        for group in np.array_split(order, 3):
            vectors, mask = padded([items[i][0] for i in group], self.device)
            place, meaning = (padded([items[i][k] for i in group], self.device)[0] for k in (1, 2))
            parts.append(self.layout(vectors, place, mask, meaning))
        back = torch.argsort(torch.tensor(order)).to(self.device)
        tokens = [F.pad(p.tokens, (0, 0, 0, longest - p.tokens.shape[1])) for p in parts]
        masks = [F.pad(p.mask, (0, longest - p.mask.shape[1])) for p in parts]
        return Tokens(
            torch.cat(tokens)[back],
            torch.cat(masks)[back],
            torch.cat([p.pooled for p in parts])[back],
        )

    def queries(self, asked: Sequence[Words]) -> Tokens:
        """Of each query its words' vectors and meanings; those beyond MAX_WORDS are left out."""
        parts = [[x[: QueryContext.MAX_WORDS] for x in one] for one in asked]
        (vectors, mask), (meanings, _) = (
            padded([one[k] for one in parts], self.device) for k in (0, 1)
        )
        tokens: Tokens = self.query(vectors, mask, meanings)
        return tokens

    def scores(self, queries: Tokens, documents: Tokens) -> tuple[Tensor, Tensor]:
        """(Q, D) MaxSim over the tokens, and dot products of the pooled vectors."""
        dots = torch.einsum("qad,pbd->qpab", queries.tokens, documents.tokens)
        best = dots.masked_fill(~documents.mask[None, :, None], -1e4).amax(-1)
        return (best * queries.mask[:, None]).sum(-1), queries.pooled @ documents.pooled.T

    def losses(
        self, multi: Tensor, single: Tensor, right: Tensor, ignored: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """InfoNCE of both heads, each (Q, D), and what to log; right, ignored: (Q, D) bool."""
        losses, facts = dict[str, Tensor](), dict[str, float]()
        right, ignored = right.to(multi.device), ignored.to(multi.device)
        scores = zip(("multi", "single"), (multi, single), self.scale, strict=True)
        for name, score, scale in scores:
            logits = (score * scale.exp()).masked_fill(ignored, float("-inf"))
            chosen = logits.masked_fill(~right, float("-inf")).logsumexp(1) - logits.logsumexp(1)
            losses[name] = -chosen.mean()
            first = right[torch.arange(len(right), device=right.device), logits.argmax(1)].float()
            facts |= {name: losses[name].item(), f"{name}_first": first.mean().item()}
        return losses, facts


def train(
    corpus: Path,
    out: Path,
    *,
    steps: int,
    heads: str,
    readings: Path | None,
    start: Path | None,
    rate: float,
    batch: int,
    seed: int,
    device: str,
) -> Path:
    """One run; resumes from out/state.pt. heads: "multi", "single" or "both"; readings: what the
    reader saw (else words are spelt); start: weights to begin with. Returns the weights' file."""
    torch.manual_seed(seed)
    source = Source(Corpus.load(corpus), readings, seed)
    print(f"{len(source.pages)} pages, {len(source.titles)} titles", flush=True)
    model = Model()
    if start is not None:
        model.load_state_dict(load_file(str(start)), strict=False)
    run = Run(out, model.to(device), rate, steps, name="context", weight_decay=0.02)
    source.rng.seed(seed + run.step)
    while run.step < steps:
        queries, pages, right, ignored = source.batch(batch)
        documents = model.documents([source.page(p) for p in pages])
        multi, single = model.scores(model.queries([unmeant(q.text) for q in queries]), documents)
        losses, facts = model.losses(multi, single, right, ignored)
        chosen = [loss for name, loss in losses.items() if heads in (name, "both")]
        run.update(torch.stack(chosen).sum(), facts, warm_up=50, clip=1.0, decay=0.99)
    return run.result
