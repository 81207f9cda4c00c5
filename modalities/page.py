"""The small page model that ships with the package: pages and text into one shared space.

`PageReader` reads a rendered page, a scan or a picture of print without OCR: one token for each
word it sees (`modalities.reader`), put into its surroundings (`modalities.layout`), and one for
the page. `PageText` puts queries, and documents that are text already, into the same space. Their
weights, 3 MB and 8 MB of what words mean (`modalities.lexicon`), are package data: nothing is
downloaded. It reads words in Latin letters and digits (accents folded); other scripts and pictures
without words are not for this model.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities import lexicon, words
from modalities.encoder import Batch, Encoder, Role
from modalities.grid import TokenGrid
from modalities.layout import DIM, GEOMETRY, LayoutContext, QueryContext, Tokens, geometry
from modalities.lexicon import Lexicon
from modalities.paper import ink_of
from modalities.reader import GlyphNet

WEIGHTS = "page.safetensors"
MAX_WORDS = 2048  # of one page or text; the longest of 50,000 real pages has 1,900
MAX_PIXELS = 2_200_000  # A3 at 100 dpi; a larger picture is taken for a scan and made smaller
UNITS = 1 << 20  # of a page's width or height, in prepared boxes
SCAN_PIXELS = 1_100_000  # what a scan is made to: A4 at 107 dpi

P = TypeVar("P", bound="_PageEncoder")


class _PageEncoder(Encoder):
    """What both sides share: the width, the lexicon, and the weights that come with the package.

    Args:
        lexicon: what words mean; None: the one that comes with the package. Saved beside the
            weights, so that a saved model keeps its own.
    """

    dim = DIM

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        super().__init__()
        self.layout = LayoutContext(lexicon)

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.layout.lexicon.save(Path(folder) / lexicon.WEIGHTS)

    @classmethod
    def build(cls: type[P], config: dict[str, Any], folder: Path) -> P:
        """ValueError: the folder's lexicon is missing, or none."""
        path = Path(folder) / lexicon.WEIGHTS
        if not path.is_file():
            raise ValueError(f"{path} is missing: {folder} is no folder of a saved {cls.name!r}")
        return cls(Lexicon.of_bytes(path.read_bytes(), str(path)), **config)

    @classmethod
    def shipped(cls: type[P]) -> P:
        """With the weights that come with the package, in fp32, in eval mode."""
        from safetensors.torch import load

        encoder = cls()
        stored = load((files("modalities") / "weights" / WEIGHTS).read_bytes())
        own = encoder.state_dict()
        # parts that came later load without their weights, and then change nothing
        later = ("sense.", ".early.", ".common")
        missing = {k for k in own.keys() - stored.keys() if not any(part in k for part in later)}
        if missing:
            raise ValueError(f"the package's {WEIGHTS} lacks {sorted(missing)}: reinstall lateint")
        known = {k: stored[k].to(own[k].dtype) for k in own.keys() & stored.keys()}
        encoder.load_state_dict(known, strict=False)
        return encoder.eval()


class PageReader(_PageEncoder):
    """Page images -> one token a word, and one for the page (the first).

    Raw items: PIL images, or paths of image files. A page should come at about 100 dpi (small
    print of 7 points is then read; more dpi makes larger print too large to be read); pictures of
    more than 2.2 megapixels are taken for scans of a page and scaled down.
    """

    name = "page"
    modality = "page"

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        super().__init__(lexicon)
        self.reader = GlyphNet()

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """Grey pixels, (B, H, W) uint8 padded with white at the right and below, and sizes."""
        grey = [_grey(item) for item in raw]
        height = max((len(g) for g in grey), default=1)
        width = max((g.shape[1] for g in grey), default=1)
        pixels = torch.full((len(grey), height, width), 255, dtype=torch.uint8)
        for i, g in enumerate(grey):
            pixels[i, : g.shape[0], : g.shape[1]] = g
        size = torch.tensor([g.shape for g in grey], dtype=torch.long).view(-1, 2)
        return Batch(inputs={"pixels": pixels, "size": size}, role=role)

    def forward(self, batch: Batch) -> TokenGrid:
        """Reads page by page (on a CPU nothing is won by reading pages side by side, and so a
        page's tokens cannot depend on its neighbours), then puts all into context at once."""
        device = self.layout.item.device
        vectors, boxes, places = [], [], []
        for pixels, (height, width) in zip(
            batch.inputs["pixels"], batch.inputs["size"].tolist(), strict=True
        ):
            reading = self.reader.read(ink_of(pixels[:height, :width]).to(self.layout.item))
            vectors.append(reading.vectors[:MAX_WORDS])
            places.append(geometry(reading.boxes[:MAX_WORDS].cpu().float()))
            boxes.append(reading.on_page(height, width)[:MAX_WORDS].cpu().float())
        return _grid(self.layout, vectors, places, boxes, device)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """A guess from the size: a page of A4 at 100 dpi (1.0 megapixels) has about 500 words."""
        return [max(1, int(np.prod(_size(item)) / 2000)) for item in raw]

    def labels(self, item: Any, role: Role) -> list[str]:
        """ "[page]", then "word 1", "word 2" ... in reading order: the reader spells nothing."""
        with torch.inference_mode():
            count = self(self.prepare([item], role)).shape[0][1]
        return ["[page]", *(f"word {i}" for i in range(1, count))]


class PageText(_PageEncoder):
    """Texts in the page reader's space: queries (weighted tokens) and documents.

    A query's tokens are its words (at most 64) after one for the whole; the length of a token is
    its learned weight. A document's words get boxes as if typed on a page; a line that begins
    with `#` counts as a heading.
    """

    name = "page-text"
    modality = "text"

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        super().__init__(lexicon)
        self.query = QueryContext(self.layout.lexicon)

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """Word vectors (B, N, WIDTH) with mask; for documents geometry and boxes as well."""
        most = QueryContext.MAX_WORDS if role == "query" else MAX_WORDS
        texts = [[w for w, _, _ in words.split(text)][:most] for text in raw]
        counts = torch.tensor([len(t) for t in texts], dtype=torch.long)
        flat = words.vectors([w for t in texts for w in t])
        inputs = {"count": counts, "vectors": flat}
        if role == "document":
            boxes = [typed(text)[:most] for text in raw]
            # integers, so that a move to half precision does not blur places
            inputs["boxes"] = (torch.cat([torch.zeros(0, 4), *boxes]) * UNITS).round().int()
        return Batch(inputs=inputs, role=role)

    def forward(self, batch: Batch) -> TokenGrid:
        device = self.layout.item.device
        counts = batch.inputs["count"].tolist()
        vectors = list(batch.inputs["vectors"].split(counts)) if counts else []
        if batch.role == "document":
            places = batch.inputs["boxes"].cpu().float() / UNITS
            boxes = list(places.split(counts)) if counts else []
            return _grid(self.layout, vectors, [geometry(b) for b in boxes], boxes, device)
        padded, mask = _pad(vectors, words.WIDTH, device, self.layout.item.dtype)
        return _token_grid(self.query(padded, mask), None)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        most = QueryContext.MAX_WORDS if role == "query" else MAX_WORDS
        return [1 + min(most, sum(1 for _ in words.split(text))) for text in raw]

    def labels(self, item: Any, role: Role) -> list[str]:
        """ "[query]" or "[text]", then the words as they were written."""
        most = QueryContext.MAX_WORDS if role == "query" else MAX_WORDS
        found = [item[start:end] for _, start, end in words.split(item)][:most]
        return ["[query]" if role == "query" else "[text]", *found]


def typed(text: str) -> Tensor:
    """Boxes (N, 4) of a text's words as if typed on one page, 92 characters a line."""
    rows: list[tuple[float, float, float]] = []  # line, start and end in characters
    tall: list[float] = []
    line = 0.0
    for paragraph in text.split("\n"):
        scale = 1.5 if paragraph.startswith("#") else 1.0
        column, before = 0, 0
        for _, start, end in words.split(paragraph):
            column += start - before
            if column + (end - start) > 92 and column:
                column, line = 0, line + scale
            rows.append((line, column * scale, (column + end - start) * scale))
            tall.append(scale)
            column, before = column + end - start, end
        line += scale
    if not rows:
        return torch.zeros(0, 4)
    table = torch.tensor(rows)
    pitch = min(0.0155, 0.86 / max(line, 1.0))
    top = 0.07 + table[:, 0] * pitch
    x = (0.12 + table[:, 1:] * 0.0082).clamp(max=0.98)
    return torch.stack([x[:, 0], top, x[:, 1], top + 0.85 * pitch * torch.tensor(tall)], 1)


def _grey(item: Any) -> Tensor:
    """(H, W) uint8 of an image or an image file, a scan scaled to about 107 dpi of A4."""
    from PIL import Image

    from modalities.media import open_image

    image = item if isinstance(item, Image.Image) else open_image(item)
    if image.width * image.height > MAX_PIXELS:
        scale = (SCAN_PIXELS / (image.width * image.height)) ** 0.5
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.convert("L").resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image.convert("L")))


def _size(item: Any) -> tuple[int, int]:
    from PIL import Image

    if isinstance(item, Image.Image):
        return item.size
    with Image.open(item) as image:
        return image.size


def _pad(
    items: list[Tensor], width: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(B, N, width) padded at the right, and its mask (B, N)."""
    if not items:
        none = torch.zeros(0, 0, width, device=device, dtype=dtype)
        return none, torch.zeros(0, 0, dtype=torch.bool, device=device)
    full = nn.utils.rnn.pad_sequence(items, batch_first=True).to(device, dtype)
    lengths = torch.tensor([len(x) for x in items])
    return full, (torch.arange(full.shape[1])[None] < lengths[:, None]).to(device)


def _grid(
    layout: LayoutContext,
    vectors: list[Tensor],
    places: list[Tensor],
    boxes: list[Tensor],
    device: torch.device,
) -> TokenGrid:
    dtype = layout.item.dtype
    padded, mask = _pad(vectors, words.WIDTH, device, dtype)
    tokens = layout(padded, _pad(places, GEOMETRY, device, dtype)[0], mask)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    framed, _ = _pad([torch.cat([whole, b]) for b in boxes], 4, device, torch.float32)
    return _token_grid(tokens, framed if boxes else framed.new_zeros(0, 1, 4))


def _token_grid(out: Tokens, boxes: Tensor | None) -> TokenGrid:
    shape = tuple((1, int(n)) for n in out.mask.sum(1).tolist())
    tokens = out.tokens * out.mask[..., None]
    return TokenGrid(tokens, out.mask, shape, pooled=F.normalize(out.pooled, dim=-1), boxes=boxes)
