"""Stage "budget": which of a page's tokens the index has to keep.

The contexts stay as they are. A small net (`lateint.pooling.TokenBudget`) learns from the pages and
queries of stage "seen" to tell tokens that queries come for from those that none does: it gates a
page's tokens, a different number of them each step, so that its order is good at every budget.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from layout_data import Corpus
from safetensors.torch import load_file
from torch import Tensor
from train_context import Model, Source
from training_run import Run

from lateint.pooling import TokenBudget
from lateint.ragged import Ragged
from modalities import words
from modalities.layout import DIM, Tokens
from modalities.lexicon import Lexicon

HIDDEN = 32
COUNTS = (48, 64, 100, 150, 200)


def gated(budget: TokenBudget, documents: Tokens) -> Tokens:
    """Document tokens times their gates (training mode)."""
    rows = Ragged.from_padded(documents.tokens, documents.mask)
    kept, _ = budget(rows, rows.values)
    tokens: Tensor = torch.zeros_like(documents.tokens)
    return Tokens(
        tokens.masked_scatter(documents.mask[..., None], kept.values),
        documents.mask,
        documents.pooled,
    )


def train(
    corpus: Path,
    readings: Path,
    context: Path,
    lexicon: Path,
    out: Path,
    *,
    steps: int,
    rate: float,
    seed: int,
) -> Path:
    """One run; resumes from out/state.pt. context: the contexts whose tokens are kept or not, with
    their lexicon. Returns the file of the net's weights, as in `TokenBudget`'s state_dict."""
    torch.manual_seed(seed)
    known = Lexicon.of_bytes(lexicon.read_bytes(), lexicon.name)
    model = Model(known).eval()
    model.load_state_dict(load_file(str(context)))
    source = Source(Corpus.load(corpus), readings, seed, known)
    budget = TokenBudget(max(COUNTS), DIM, HIDDEN)
    run = Run(out, budget, rate, steps, name="budget", weight_decay=0.01, every=50)
    source.rng.seed(seed + run.step)
    rng = random.Random(seed + run.step)
    while run.step < steps:
        queries, pages, right, ignored = source.batch(24)
        with torch.no_grad():
            documents = model.documents([source.page(p) for p in pages])
            vectors = [words.vectors(q.text) for q in queries]
            asked = model.queries([(v, known(v)) for v in vectors])
        budget.count = rng.choice(COUNTS)
        scores, _ = model.scores(asked, gated(budget, documents))
        logits = (scores * model.scale[0].detach().exp()).masked_fill(ignored, float("-inf"))
        loss = (logits.logsumexp(1) - logits.masked_fill(~right, float("-inf")).logsumexp(1)).mean()
        first = right[torch.arange(len(right)), logits.argmax(1)].float().mean().item()
        facts = {"loss": loss.item(), "first": first}
        run.update(loss, facts, warm_up=20, clip=1.0, decay=0.97)
    return run.result
