"""Section "mixed" of bench_mini: pictures and pages in one collection, which most folders are.

Names of held-out concepts (`mini_pictures`) ask for their pictures, and outline titles
(`development`) for their pages, each among their own kind alone and among both together: all
held-out pictures and all development pages, as the shipped model reads them. Without `common`: as
before pictures were put on a level with pages.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import mini_pictures
import torch
from development import english_read
from layout_data import Corpus
from mini_pictures import summary
from torch import Tensor

import lateint
from lateint.maxsim import maxsim
from lateint.ragged import Ragged
from modalities import words
from modalities.layout import geometry
from modalities.page import PageText
from modalities.picture import PictureReader

TITLES, SEED = 200, 4


@torch.inference_mode()
def pages_of(data: Path) -> tuple[Corpus, Ragged]:
    """The development pages and their tokens, all of them."""
    corpus, seen = english_read(data)
    layout, rows = PageText.shipped().layout, []
    for vectors, boxes in seen:
        mask = torch.ones(1, len(vectors), dtype=torch.bool)
        rows.append(layout(vectors[None].float(), geometry(boxes)[None], mask).tokens[0])
    return corpus, Ragged.from_list(rows)


def measure(data: Path) -> dict[str, Any]:
    """All numbers of this section, as JSON values."""
    model = lateint.load()
    reader = model.encoder("image")
    assert isinstance(reader, PictureReader)
    corpus, pages = pages_of(data)
    table = mini_pictures.held(data)
    files = [data / "pictures/drawn" / p.file for p in table]
    named = mini_pictures.questions(table, "en")
    titled = [(t, p) for t, p in corpus.queries if len([*words.split(t)]) >= 2]
    titled = random.Random(SEED).sample(titled, TITLES)
    names = model.encode_queries([text for text, _ in named])
    titles = model.encode_queries([text for text, _ in titled])
    right = [places for _, places in named]
    theirs = [[len(table) + page for page in found] for _, found in titled]
    common = reader.page.layout.common.clone()
    found: dict[str, Any] = {"pictures": len(table), "pages": len(pages)}
    own: dict[str, Tensor] = {"names": maxsim(names, pages), "titles": maxsim(titles, pages)}
    for label, level in (("", common), (", without common", torch.zeros_like(common))):
        reader.page.layout.common.copy_(level)
        seen = model.encode_documents(files, modality="image")
        drawn = {"names": maxsim(names, seen), "titles": maxsim(titles, seen)}
        both = {of: torch.cat([drawn[of], own[of]], 1) for of in own}
        found[f"name > picture, alone{label}"] = summary(drawn["names"], right)
        found[f"name > picture, among pages{label}"] = summary(both["names"], right)
        found[f"title > page, among pictures{label}"] = summary(both["titles"], theirs)
    reader.page.layout.common.copy_(common)
    found["title > page, alone"] = summary(own["titles"], [p for _, p in titled])
    return found
