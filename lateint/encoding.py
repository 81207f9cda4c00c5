"""What a collection needs of its model: documents to tokens that can be explained, queries, and a
fingerprint that says whether two models give the same tokens.

Knows which encoder reads which kind of document; knows no files and no index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lateint.checkpoints import load
from lateint.config import to_json
from lateint.explain import Traces, is_marker, words_at
from lateint.model import LateInteractionModel
from lateint.sources import Kind, SourceDocument

if TYPE_CHECKING:
    import os

    from lateint.ragged import Ragged

QUERY_SECONDS = 60.0  # of a recording as a query; a search's time grows with its tokens
SAMPLE = 4096  # numbers of each tensor that the fingerprint looks at


class CollectionModel:
    """A LateInteractionModel as one collection sees it.

    origin: the folder it was loaded from, None for the model that ships, "" for an object.
    """

    def __init__(self, model: LateInteractionModel, origin: str | None) -> None:
        self.model, self.origin = model, origin
        self.fingerprint = fingerprint(model)
        self.head = "multi" if "multi" in model.heads else next(iter(model.heads))
        self.dim = model.head_dim(self.head)

    @classmethod
    def of(cls, given: LateInteractionModel | str | os.PathLike[str] | None) -> CollectionModel:
        """From a model, a checkpoint's folder or its name on the hub, or None for the one that
        ships."""
        if isinstance(given, LateInteractionModel):
            return cls(given, "")
        if given is None:
            return cls(load(None), None)
        folder = Path(given).expanduser()
        origin = str(folder.resolve() if folder.exists() else given)
        return cls(load(origin), origin)

    def modality(self, kind: Kind) -> str:
        """Which encoder reads a kind of document: pages are for the page encoder where the model
        has one, pictures for the image encoder, and each does the other's work where it is alone.
        Raises ValueError where the model has none."""
        if kind == "text":
            wanted: tuple[str, ...] = ("text",)
        elif kind == "audio":
            wanted = ("audio",)
        else:
            wanted = ("image", "page") if kind == "image" else ("page", "image")
        for modality in wanted:
            if modality in self.model.encoders:
                return modality
        if kind == "audio":
            raise ValueError(
                "this model has no encoder for audio: it cannot read a recording; one made of CLAP "
                "can, and one trained over Whisper, wav2vec 2.0, HuBERT or AST (--model FOLDER)"
            )
        raise ValueError(
            f"this model has no encoder for {' or '.join(sorted(wanted, reverse=True))}: it cannot "
            f"read a {kind}"
        )

    def refuses(self, kind: Kind) -> str | None:
        """Why the model cannot read a kind of document; None where it can."""
        try:
            self.modality(kind)
        except ValueError as error:
            return str(error)
        return None

    def encode_documents(
        self, documents: Sequence[SourceDocument]
    ) -> list[tuple[npt.NDArray[np.float32], Traces]]:
        """Tokens (T, D) of each document, and what they stand for. All of one modality."""
        if not documents:
            return []
        modality = self.modality(documents[0].kind)
        items = [document.item for document in documents]
        encoded = self.model.encode(items, "document", modality=modality, head=self.head)
        tokens = [rows.numpy() for rows in encoded.tokens]
        if modality == "text":  # boxes of texts are made up by the encoder, so they are not kept
            return [(t, self._words(item, len(t))) for item, t in zip(items, tokens, strict=True)]
        if encoded.seconds is not None:  # from the beginning of the part; wanted: of the file
            starts = [float(document.metadata.get("start", 0.0)) for document in documents]
            times = [rows.numpy() for rows in encoded.seconds]
            return [
                (t, Traces(seconds=own + np.float32(start)))
                for t, own, start in zip(tokens, times, starts, strict=True)
            ]
        if encoded.boxes is None:
            return [(t, Traces()) for t in tokens]
        boxes = [rows.numpy() for rows in encoded.boxes]
        return [
            (t, Traces(b, words_at(b, document.words) if document.words else None))
            for t, b, document in zip(tokens, boxes, documents, strict=True)
        ]

    def _words(self, text: str, tokens: int) -> Traces:
        labels = self.model.encoder("text").labels(text, "document")
        return Traces(labels=tuple(labels)) if len(labels) == tokens else Traces()

    def encode_queries(self, texts: Sequence[str]) -> Ragged:
        """Texts as queries. Raises ValueError where the model has no text encoder."""
        return self.model.encode_queries(
            list(texts), modality=self.modality("text"), head=self.head
        )

    def reads(self, text: str) -> bool:
        """Whether the model sees any word in a query: not in punctuation, and not in a script that
        it does not know. What it would find for such a query is noise."""
        return not all(is_marker(label) for label in self.query_labels(text))

    def query_labels(self, text: str) -> list[str]:
        """What each token of a query stands for."""
        return self.model.query_labels(text)

    def encode_picture(self, image: Any) -> Ragged:
        """One picture (a PIL image, or the path of an image file) as a query."""
        from PIL import Image

        from modalities.media import open_image

        if not isinstance(image, Image.Image):
            image = open_image(image)
        return self.model.encode_queries([image], modality=self.modality("image"), head=self.head)

    def encode_recording(self, audio: Any) -> Ragged:
        """One recording (a media.Audio, (samples, rate), or the path of a file) as a query. Raises
        MediaError for one that cannot be read or is longer than QUERY_SECONDS."""
        from modalities.media import as_audio, open_audio

        modality = self.modality("audio")
        if isinstance(audio, (str, Path)):
            audio = open_audio(audio, max_seconds=QUERY_SECONDS)
        elif (sound := as_audio(audio)).seconds > QUERY_SECONDS:
            raise ValueError(
                f"a recording of {sound.seconds:.0f} s as a query; at most {QUERY_SECONDS:.0f} s: "
                "take the stretch that matters"
            )
        return self.model.encode_queries([audio], modality=modality, head=self.head)


def fingerprint(model: LateInteractionModel) -> str:
    """16 hexadecimal digits: equal for models that give the same tokens.

    Over the encoders' names and configurations, the heads, and the weights: names, shapes, dtypes,
    and up to 4,096 evenly spread numbers of each, since training changes all of them and hashing
    gigabytes at each start would cost seconds. The same weights in another dtype are another model.
    """
    facts: dict[str, Any] = {
        "encoders": {m: [model.encoder(m).name, model.encoder(m).config()] for m in model.encoders},
        "heads": {kind: to_json(model.head(kind).config) for kind in model.heads},
    }
    state = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().flatten()
        few = flat[:: max(1, len(flat) // SAMPLE)].cpu()
        state.update((few.double() if few.is_floating_point() else few).numpy().tobytes())
    return state.hexdigest()[:16]
