"""Pictures found by pictures and by words, through a Collection and a tiny open_clip model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import tiny, write_parts

import lateint
from lateint.model import LateInteractionModel
from lateint.ragged import Ragged
from modalities.clip import OpenClip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> OpenClip:
    parts = tmp_path_factory.mktemp("parts")
    write_parts(parts)
    model, tokenizer, config, preprocess = tiny("clip", parts)
    return OpenClip.from_model(model, tokenizer, config, preprocess)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(12):
        small = rng.integers(0, 255, (4, 6, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((60 + i, 40), Image.Resampling.NEAREST)
        image.save(folder / f"photo{i:02}.png")
    (folder / "note.txt").write_text("a note about a dog that runs over a field")
    return folder


@pytest.mark.parametrize("heads", [("multi", "single"), ("single",)])
def test_pictures_by_pictures_and_by_words(
    encoder: OpenClip, photos: Path, tmp_path: Path, heads: tuple[str, ...]
) -> None:
    """A picture's own file comes first; words rank pictures as the scores of all pairs do."""
    model = LateInteractionModel({"image": encoder, "text": encoder}, heads)
    model.save(tmp_path / "model")
    words = ["a dog runs", "red and green", "nothing like it at all"]
    with lateint.Collection.create(tmp_path / "c.lateint", tmp_path / "model") as photographs:
        report = photographs.add(photos)
        assert (report.documents, report.problems) == (13, [])
        for path in sorted(photos.glob("*.png")):
            assert photographs.search(image=path, k=1)[0].id == path.name
        names = [name for name in photographs.ids() if name.endswith(".png")]
        docs = model.encode_documents([photos / n for n in names], modality="image", head=heads[0])
        queries = model.encode_queries(words, head=heads[0])
        expected = _scores(queries, docs)
        for query, row in zip(words, expected, strict=True):
            hits = photographs.search(query, k=12, where="kind = 'image'")
            assert [hit.id for hit in hits] == [names[i] for i in row.argsort(descending=True)]
            found = torch.tensor([hit.score for hit in hits])
            torch.testing.assert_close(found, row.sort(descending=True).values, atol=5e-3, rtol=0)
        if heads[0] == "multi":
            best = photographs.search("a dog runs", k=1, where="kind = 'image'")[0]
            assert [match.word for match in best.words if match.box is not None]


def _scores(queries: Ragged, docs: Ragged) -> torch.Tensor:
    """(Q, N): each query token's best match, summed; written out."""
    return torch.stack([torch.stack([(q @ d.T).amax(1).sum() for d in docs]) for q in queries])
