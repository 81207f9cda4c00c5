"""Stage "pack": checkpoints of the reader, the contexts and the lexicon to the package's weights,
floats in fp16."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from modalities import lexicon as lexicons
from modalities.layout import DIM
from modalities.lexicon import Lexicon
from modalities.page import PageReader, PageText

FOLDER = Path(__file__).parent.parent / "modalities" / "weights"
WEIGHTS = FOLDER / "page.safetensors"


def sides(text: PageText, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """A context's checkpoint, with meanings that count for nothing where it knows none yet."""
    start = {k: v for k, v in text.state_dict().items() if "sense." in k}
    return start | stored


@torch.inference_mode()
def common(text: PageText, questions: Sequence[str]) -> Tensor:
    """`LayoutContext.common` from what is asked, such as outline titles."""
    rows, pooled = torch.zeros(DIM), torch.zeros(DIM)
    for first in range(0, len(questions), 256):
        grid = text(text.prepare(questions[first : first + 256], "query"))
        rows += F.normalize(grid.tokens[grid.mask], dim=-1).sum(0)
        pooled += grid.pooled.sum(0)
    return F.normalize(torch.stack([rows, pooled]), dim=-1)


def pack(
    reader: Path,
    context: Path | None,
    lexicon: Path | None = None,
    questions: Sequence[str] = (),
    target: Path = WEIGHTS,
) -> None:
    """Writes reader.*, layout.* and query.* into one file, and the lexicon beside it. Without a
    context, an untrained one: words then match as they are spelt, all with the same weight.
    questions: what is asked in training, for what all have in common."""
    torch.manual_seed(0)
    known = None if lexicon is None else Lexicon.of_bytes(lexicon.read_bytes(), str(lexicon))
    text = PageText(known)
    text.query.word.weight.data.copy_(text.layout.word.weight.data)
    torch.nn.init.zeros_(text.query.weight.weight)
    stored = {f"reader.{k}": v for k, v in load_file(str(reader)).items()}
    trained = text.state_dict() if context is None else sides(text, load_file(str(context)))
    stored |= {k: v for k, v in trained.items() if k.startswith(("layout.", "query."))}
    text.load_state_dict(trained, strict=False)
    stored["layout.common"] = common(text.eval(), questions)
    expected = PageReader().state_dict().keys() | text.state_dict().keys()
    if stored.keys() != expected:
        raise ValueError(f"weights that do not fit: {sorted(stored.keys() ^ expected)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(_halves(stored), str(target))
    if lexicon is not None:
        shutil.copyfile(lexicon, target.parent / lexicons.WEIGHTS)
    sizes = {p.name: f"{p.stat().st_size / 1e6:.1f} MB" for p in sorted(target.parent.iterdir())}
    print(sizes)


def _halves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in tensors.items()}
