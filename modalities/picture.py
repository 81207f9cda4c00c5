"""The small picture model that ships with the package: what a picture shows, and says in print.

`PictureReader` looks at a picture twice. A small convolutional net (`modalities.picture_net`) and
a tower over its lattice give tokens for what is to be seen: one for the whole and one for each
cell, in the space of the text tower, so that words find pictures. The page reader gives a token
for each word that is printed in it, so that a screenshot is found by what it says. Knows nothing
of retrieval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities import lexicon, packed, picture_net
from modalities.encoder import Batch, Encoder, Role, check_role
from modalities.grid import TokenGrid
from modalities.image import patch_labels
from modalities.layout import DIM, geometry
from modalities.media import as_image, image_size, pixels
from modalities.page import PageReader
from modalities.paper import ink_of
from modalities.picture_net import CELLS, CLASSES, LiteNet
from modalities.reader import Reading

WEIGHTS = "picture.safetensors"
MODEL = 192
HEADS = 4
LAYERS = 1
REDUCED = 256  # numbers of a cell that the tower reads
GRID = 4  # rows and columns of cells; more: finer boxes, larger index, slower to train
FEATURES = picture_net.WIDE + picture_net.FINE
MOST_WORDS = 1024  # of one picture
# Mean certainty below which what looked like a word was none, and how many times as wide as high it has
# to be: lines and circles look like single letters. Of 670 drawings 30 have words then, 146 without LONG;
# of true words 1 % are lost.
CERTAIN, LONG = 0.75, 0.8
PRINT = 12.0  # words of a picture from which its single vector is half that of a page
QUERY_CELL = 0.2  # length of a cell's row where a picture asks


@dataclass
class Seen:
    """tokens: (B, 1 + GRID * GRID, DIM), unit rows, the whole first; pooled: (B, DIM)."""

    tokens: Tensor
    pooled: Tensor


class _Block(nn.Module):
    """Attention among a picture's cells, and an MLP."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.norm, self.norm_mlp = nn.LayerNorm(MODEL), nn.LayerNorm(MODEL)
        self.qkv, self.out = nn.Linear(MODEL, 3 * MODEL), nn.Linear(MODEL, MODEL)
        self.mlp = nn.Sequential(
            nn.Linear(MODEL, 3 * MODEL), nn.GELU(), nn.Linear(3 * MODEL, MODEL)
        )
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, MODEL)
        batch, length, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, length, 3, HEADS, width // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v)
        x = x + self.drop(self.out(seen.transpose(1, 2).reshape(batch, length, width)))
        return x + self.drop(self.mlp(self.norm_mlp(x)))


class PictureTower(nn.Module):
    """Features of a lattice's cells -> tokens in the text tower's space.

    A cell's token is what the cell itself looks like (a projection of its features) and what the
    cells around it say (attention); the whole picture's is that of their mean, and of the names of
    the things that ImageNet's classifier takes it for.
    """

    def __init__(self, drop: float = 0.1) -> None:
        super().__init__()
        self.reduce = nn.Linear(FEATURES, REDUCED)  # begins as principal components
        self.enter = nn.Linear(REDUCED, MODEL)
        self.item = nn.Parameter(torch.randn(MODEL) * 0.1)
        self.position = nn.Parameter(torch.randn(GRID * GRID, MODEL) * 0.02)
        self.drop = nn.Dropout(drop)
        self.blocks = nn.ModuleList(_Block(drop) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(MODEL)
        self.out, self.pool = nn.Linear(MODEL, DIM), nn.Linear(MODEL, DIM)
        self.direct = nn.Linear(REDUCED, DIM, bias=False)  # of a cell; of the mean for the whole
        self.direct_pool = nn.Linear(REDUCED, DIM, bias=False)
        self.names = nn.Linear(CLASSES, DIM, bias=False)
        self.names_pool = nn.Linear(CLASSES, DIM, bias=False)

    def cells(self, wide: Tensor) -> Tensor:
        """What the net sees in each of its cells (B, CELLS * CELLS, FEATURES) -> in each of ours,
        (B, GRID * GRID, REDUCED)."""
        lattice = self.reduce(wide).transpose(1, 2).unflatten(2, (CELLS, CELLS))
        return F.adaptive_avg_pool2d(lattice, GRID).flatten(2).transpose(1, 2)

    def forward(self, features: Tensor, likely: Tensor) -> Seen:
        """features (B, GRID * GRID, REDUCED): of `cells`. likely (B, CLASSES): probabilities."""
        features = self.drop(features)
        mean = features.mean(1, keepdim=True)
        x = self.enter(features) + self.position
        x = torch.cat([self.item.expand(len(x), 1, MODEL), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        tokens = self.out(x) + self.direct(torch.cat([mean, features], 1))
        tokens = torch.cat([tokens[:, :1] + self.names(likely)[:, None], tokens[:, 1:]], 1)
        pooled = self.pool(x[:, 0]) + self.direct_pool(mean[:, 0]) + self.names_pool(likely)
        return Seen(F.normalize(tokens, dim=-1), F.normalize(pooled, dim=-1))


class PictureReader(Encoder):
    """Pictures -> tokens of what they show, and of the words printed in them.

    Raw items: PIL images, or paths of picture files. The first token is for the whole picture, the
    next `GRID * GRID` for its cells, row by row; then, where print is to be seen, one for the
    page and one a word, as the page reader has them. Boxes are those of the cells and words.
    Print should come at about 100 dpi, as screenshots do (see `PageReader`).

    Args:
        page: reads the words; None: a new one. A model that reads pages as well shares its own.
    """

    name = "picture"
    modality = "image"
    dim = DIM

    def __init__(self, page: PageReader | None = None) -> None:
        super().__init__()
        self.net, self.tower = LiteNet(), PictureTower()
        self.page = page or PageReader()

    @classmethod
    def shipped(cls, page: PageReader | None = None) -> PictureReader:
        """With the weights that come with the package, in fp32, in eval mode. page: the shipped
        page reader, where it is loaded already."""
        from safetensors.torch import load

        encoder = cls(page or PageReader.shipped())
        stored = load((files("modalities") / "weights" / WEIGHTS).read_bytes())
        own = {k for k in encoder.state_dict() if not k.startswith("page.")}
        weights = packed.unpack(stored)
        if missing := own - weights.keys():
            raise ValueError(f"the package's {WEIGHTS} lacks {sorted(missing)}: reinstall lateint")
        encoder.load_state_dict(weights, strict=False)
        return encoder.eval()

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.page.layout.lexicon.save(Path(folder) / lexicon.WEIGHTS)

    @classmethod
    def build(cls, config: dict[str, Any], folder: Path) -> PictureReader:
        """ValueError: the folder's lexicon is missing, or none."""
        return cls(PageReader.build(config, folder))

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """picture: (B, 3, SIDE, SIDE) uint8, stretched; pixels, size: as of `PageReader`.

        Raises MediaError naming a file that cannot be read, TypeError for other items."""
        check_role(role)
        images = [as_image(item) for item in raw]
        flat = [pixels(image, (picture_net.SIDE, picture_net.SIDE)) for image in images]
        none = np.zeros((0, 3, picture_net.SIDE, picture_net.SIDE), dtype=np.uint8)
        inputs = {"picture": torch.from_numpy(np.stack(flat) if flat else none)}
        return Batch({**inputs, **self.page.prepare(images, role).inputs}, role=role)

    def forward(self, batch: Batch) -> TokenGrid:
        """Picture by picture: on a CPU nothing is won by more, and so its tokens cannot depend on
        its neighbours."""
        dtype = self.dtype
        tokens, boxes, pooled = [], [], []
        for picture, grey, (height, width) in zip(
            batch.inputs["picture"], batch.inputs["pixels"], batch.inputs["size"].tolist(),
            strict=True,
        ):  # fmt: skip
            rows, places, whole = self._seen(picture)
            reading = self._read(grey[:height, :width])
            if len(reading.boxes):
                words_in = self.page.layout(
                    reading.vectors[None].clone().to(dtype),  # no longer of inference mode
                    geometry(reading.boxes.cpu().float())[None].to(self.device, dtype),
                    torch.ones(1, len(reading.boxes), dtype=torch.bool, device=self.device),
                )
                rows = torch.cat([rows, words_in.tokens[0]])
                stand = reading.on_page(height, width).cpu().float().clamp(0, 1)
                places = torch.cat([places, WHOLE, stand])
                share = len(reading.boxes) / (len(reading.boxes) + PRINT)
                whole = F.normalize((1 - share) * whole + share * words_in.pooled[0], dim=-1)
            tokens.append(rows)
            boxes.append(places)
            pooled.append(whole)
        return self._grid(tokens, boxes, pooled, batch.role)

    def _seen(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (3, SIDE, SIDE) -> tokens, their boxes, one row for the picture."""
        features = self.net(picture[None])
        wide = self.net.wide(features)
        likely = self.net.classes(wide.mean(1)).softmax(-1)
        both = torch.cat([wide, features[..., picture_net.COARSE :]], -1)
        seen = self.tower(self.tower.cells(both), likely)
        rows, whole = self.page.layout.among_words(seen.tokens[0]), seen.pooled[0]
        return rows, torch.cat([WHOLE, cells()]), self.page.layout.among_pages(whole)

    def _read(self, grey: Tensor) -> Reading:
        """What is printed in a picture: words that the page reader is certain of, and no single letters."""
        reading = self.page.reader.read(ink_of(grey).to(self.device, self.dtype))
        size = reading.boxes[:, 2:] - reading.boxes[:, :2]
        wide, high = size[:, 0] * grey.shape[1], size[:, 1] * grey.shape[0]
        kept = (reading.certainty >= CERTAIN) & (wide >= LONG * high)
        return reading.at(torch.nonzero(kept)[:MOST_WORDS, 0])

    def _grid(
        self, tokens: list[Tensor], boxes: list[Tensor], pooled: list[Tensor], role: Role
    ) -> TokenGrid:
        if not tokens:
            none = torch.zeros(0, 1, self.dim, device=self.device, dtype=self.dtype)
            return TokenGrid(none, none[..., 0] > 0, (), none[:, 0], none.new_zeros(0, 1, 4))
        padded = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        lengths = torch.tensor([len(rows) for rows in tokens], device=padded.device)
        mask = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
        if role == "query":  # cells repeat each other: together they count as a few words do
            weight = torch.ones(padded.shape[1], 1, device=padded.device, dtype=padded.dtype)
            weight[1 : 1 + GRID * GRID] = QUERY_CELL
            padded = padded * weight
        shape = tuple((1, len(rows)) for rows in tokens)
        framed = nn.utils.rnn.pad_sequence(boxes, batch_first=True)
        return TokenGrid(padded, mask, shape, torch.stack(pooled), framed)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """Cells, and a guess of the words from the size, as of `PageReader`."""
        sizes = [image_size(item) for item in raw]
        return [1 + GRID * GRID + width * height // 20_000 for width, height in sizes]

    def labels(self, item: Any, role: Role) -> list[str]:
        """ "[picture]", cells from the top left "r0c0", "r0c1", ..., "[page]" and "word 1" ..."""
        with torch.inference_mode():
            count = self(self.prepare([item], role)).shape[0][1]
        seen = ["[picture]", *patch_labels(GRID, GRID)]
        printed = count - len(seen)
        return [*seen, *(["[page]"] if printed else []), *(f"word {i}" for i in range(1, printed))]


WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def cells() -> Tensor:
    """(GRID * GRID, 4): boxes of the cells, row by row."""
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    return torch.stack([x, y, x + 1, y + 1], -1).view(-1, 4).float() / GRID
