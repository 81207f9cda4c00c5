"""From words and where they stand to tokens in the shared space: both sides of the page model.

`LayoutContext` turns a page's word vectors and boxes into document tokens; `QueryContext` turns
a query's word vectors into query tokens with learned weights. Both begin as the same projection
of a word's vector (so equal words match before any training) and add what the word means
(`modalities.lexicon`: words of one meaning match, in other languages too) and what the
surroundings say: a heading is not a line of a table of contents. It does not matter to either
whether a vector was spelt from text, read from pixels or heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities import lexicon, words
from modalities.lexicon import MEANING, Lexicon
from modalities.reader import line_numbers

DIM = 128  # of the shared space
MODEL = 160
HEADS = 4
GEOMETRY = 12
# How much of what all questions have in common is given to what is no word, tokens and single vectors.
# 0: whatever is printed is nearer to any question than whatever is drawn (scripts/mini_mixed.py); more:
# pictures come before pages that have the words asked for.
TOKEN_SHARE, POOLED_SHARE = 1.5, 0.5


def geometry(boxes: Tensor) -> Tensor:
    """What a word's place says, (N, GEOMETRY) fp32, from boxes (N, 4) in reading order.

    Place on the page, height (absolute and against the page's median), width in heights, first
    and last of its line, words and extent of the line, space above and below the line in lines.
    """
    if not len(boxes):
        return torch.zeros(0, GEOMETRY)
    x0, y0, x1, y1 = boxes.float().unbind(1)
    tall = (y1 - y0).clamp(min=1e-4)
    middle = (y0 + y1) / 2
    line = line_numbers(boxes)
    count = int(line.max()) + 1
    zeros = torch.zeros(count)
    size = zeros.index_add(0, line, torch.ones_like(x0))
    level = zeros.index_add(0, line, middle) / size
    high = zeros.index_add(0, line, tall) / size
    left = torch.full((count,), 2.0).scatter_reduce(0, line, x0, "amin")
    right = torch.full((count,), -1.0).scatter_reduce(0, line, x1, "amax")
    above = F.pad(level[1:] - level[:-1], (1, 0), value=0.1) / high
    below = F.pad(level[1:] - level[:-1], (0, 1), value=0.1) / high
    first, last = (x0 <= left[line]).float(), (x1 >= right[line]).float()
    features = [
        x0 * 2 - 1, x1 * 2 - 1, middle * 2 - 1,
        torch.log(tall * 60), torch.log(tall / tall.median()) * 3,
        torch.log(((x1 - x0) / tall).clamp(min=0.1)), first, last,
        torch.log(size[line]) - 1.5, (right - left)[line] * 2 - 1,
        torch.log(above.clamp(0.1, 8))[line], torch.log(below.clamp(0.1, 8))[line],
    ]  # fmt: skip
    return torch.stack(features, 1)


class Block(nn.Module):
    """Neighbours in reading order (depthwise convolution), the whole page (attention), MLP."""

    def __init__(self, width: int = MODEL, reach: int = 7) -> None:
        super().__init__()
        self.near = nn.Conv1d(width, width, reach, padding=reach // 2, groups=width)
        self.norm_near, self.norm_far, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # (B, T, C), (B, T)
        beside = self.norm_near(x) * mask[..., None]
        x = x + self.near(beside.transpose(1, 2)).transpose(1, 2)
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_far(x)).view(batch, length, 3, HEADS, width // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm_mlp(x))


@dataclass
class Tokens:
    """tokens: (B, T, DIM) with the item's own token first; mask: (B, T); pooled: (B, DIM)."""

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


class _Context(nn.Module):
    """What both sides share: an item token before the words, blocks, and the way out."""

    def __init__(self, layers: int, known: Lexicon | None) -> None:
        super().__init__()
        self.lexicon = lexicon.shipped() if known is None else known
        self.sense = _zero(nn.Linear(MEANING, DIM, bias=False))  # meanings count once trained
        self.enter_sense = _zero(nn.Linear(MEANING, MODEL, bias=False))
        self.pool_sense = _zero(nn.Linear(MEANING, DIM, bias=False))
        self.item = nn.Parameter(torch.randn(MODEL) * 0.1)
        self.enter = nn.Linear(words.WIDTH, MODEL)
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        self.norm = nn.LayerNorm(MODEL)
        self.word = nn.Linear(words.WIDTH, DIM, bias=False)  # equal words match from the start
        nn.init.orthogonal_(self.word.weight)
        self.around = _zero(nn.Linear(MODEL, DIM))
        self.pool = nn.Linear(MODEL, 1)
        self.pool_word = nn.Linear(words.WIDTH, DIM, bias=False)
        nn.init.orthogonal_(self.pool_word.weight)
        self.pool_item = _zero(nn.Linear(MODEL, DIM))

    def _through(
        self, vectors: Tensor, meaning: Tensor, x: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x + self.enter(vectors) + self.enter_sense(meaning)
        item = self.item.expand(len(x), 1, MODEL)
        x = torch.cat([item, x], 1)
        mask = F.pad(mask, (1, 0), value=True)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        word = self.word(vectors) + self.sense(meaning)
        tokens = F.pad(word, (0, 0, 1, 0)) + self.around(x)
        share = self.pool(x)[..., 0].masked_fill(~mask, float("-inf")).softmax(1)
        word = self.pool_word(vectors) + self.pool_sense(meaning)
        pooled = self.pool_item(x[:, 0]) + (share[:, 1:, None] * word).sum(1)
        return x, F.normalize(tokens, dim=-1), F.normalize(pooled, dim=-1)


class LayoutContext(_Context):
    """Words of a page -> document tokens, unit rows.

    Args:
        lexicon: what words mean; None: the one that comes with the package.
    """

    common: Tensor

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        super().__init__(2, lexicon)
        self.place = nn.Sequential(nn.Linear(GEOMETRY, MODEL), nn.GELU(), nn.Linear(MODEL, MODEL))
        # unit rows, the mean directions of questions' tokens and of their single vectors; 0: not known
        self.register_buffer("common", torch.zeros(2, DIM))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Models from before `common` load without it, and parts of a model leave it as it is."""
        state.setdefault(prefix + "common", self.common.clone())
        super()._load_from_state_dict(state, prefix, *rest)

    def among_words(self, rows: Tensor) -> Tensor:
        """Unit rows (..., DIM) for what is no word, so that they compare with words' tokens."""
        return F.normalize(rows + TOKEN_SHARE * self.common[0], dim=-1)

    def among_pages(self, pooled: Tensor) -> Tensor:
        """Unit rows (..., DIM), single vectors of what is no text, so that they compare with pages'."""
        return F.normalize(pooled + POOLED_SHARE * self.common[1], dim=-1)

    def forward(
        self, vectors: Tensor, place: Tensor, mask: Tensor, meaning: Tensor | None = None
    ) -> Tokens:
        """vectors (B, N, WIDTH), place (B, N, GEOMETRY), mask (B, N) -> tokens (B, 1 + N, DIM).

        meaning: (B, N, MEANING), what the lexicon says of `vectors` where that is known already
        (training on the same pages again); None: it is asked."""
        meaning = self.lexicon(vectors) if meaning is None else meaning
        _, tokens, pooled = self._through(vectors, meaning, self.place(place), mask)
        return Tokens(tokens, F.pad(mask, (1, 0), value=True), pooled)


class QueryContext(_Context):
    """Words of a query -> query tokens; a token's length is its learned weight.

    Args:
        lexicon: as in `LayoutContext`.
    """

    MAX_WORDS = 64

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        super().__init__(1, lexicon)
        self.position = nn.Parameter(torch.randn(self.MAX_WORDS, MODEL) * 0.02)
        self.weight = nn.Linear(MODEL, 1)

    def forward(self, vectors: Tensor, mask: Tensor, meaning: Tensor | None = None) -> Tokens:
        """vectors (B, N, WIDTH), mask (B, N), N <= MAX_WORDS -> tokens (B, 1 + N, DIM).

        meaning: as in `LayoutContext.forward`."""
        meaning = self.lexicon(vectors) if meaning is None else meaning
        place = self.position[: vectors.shape[1]].expand(len(vectors), -1, -1)
        x, tokens, pooled = self._through(vectors, meaning, place, mask)
        weight = F.softplus(self.weight(x) + 0.5)
        return Tokens(tokens * weight, F.pad(mask, (1, 0), value=True), pooled)


def _zero(linear: nn.Linear) -> nn.Linear:
    """Of a part that says nothing before it is trained."""
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear
