"""Our models in mteb: `MtebEncoder` is its encoder protocol, `MtebSearch` its search protocol.

    import mteb
    from lateint.evaluation.mteb import MtebEncoder, MtebSearch

    mteb.evaluate(MtebEncoder("my-model"), mteb.get_tasks(["STSBenchmark"]))  # the single vector
    mteb.evaluate(MtebSearch("my-model"), mteb.get_tasks(["NFCorpus"]))       # tokens, MaxSim, our index

The first serves every task type with one vector an item; the second retrieval and reranking, through
`lateint.Index`. Roles come from mteb's prompt type, modalities from the columns of a task's rows
("text", "image", "audio"); `modalities` says which encoder reads which, {"image": "page"} for
ViDoRe. Knows mteb's two protocols as of version 2 and nothing of its tasks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lateint.evaluation.ranking import QUERIES

if TYPE_CHECKING:
    from lateint.index import Index
    from lateint.model import LateInteractionModel
    from lateint.ragged import Ragged
    from modalities.encoder import Role

COLUMNS = ("image", "audio", "text")
"""Columns of mteb's rows that can be an item; the first that is there and has an encoder is taken."""


class _Model:
    """What both protocols share.

    Args:
        model_name: a model, or what `lateint.load` opens.
        revision: what mteb files results under; None: "none".
        device: None: where the model is; for a loaded one the CPU.
        head: of the model. modalities: column -> key of the model's `encoders`; None: the same name.
        without_prompt: the role of items that mteb calls neither query nor document (pairs of
            similar sentences, texts to be classified).
        batch_tokens, window: as in `Encoding`.
        name: what mteb files results under; None: the folder's, or "lateint/model".
    """

    kind: str  # as mteb calls it

    def __init__(
        self,
        model_name: str | Path | LateInteractionModel,
        revision: str | None = None,
        *,
        device: str | None = None,
        **options: Any,
    ) -> None:
        if isinstance(model_name, (str, Path)):
            import lateint

            name = f"lateint/{Path(model_name).resolve().name}"
            self.model: LateInteractionModel = lateint.load(model_name)
        else:
            name, self.model = "lateint/model", model_name
        if device is not None:
            self.model.to(device)
        self.options = _options(options, type(self).__name__)
        self.head = self.options["head"] or self.default_head
        self.model.head(self.head)  # ValueError names the heads there are
        for encoder in self.options["modalities"].values():
            self.model.encoder(encoder)
        self.name: str = self.options["name"] or name
        self.revision = revision or "none"

    default_head = "single"

    @property
    def mteb_model_meta(self) -> Any:
        """mteb's facts of this model."""
        ModelMeta, ScoringFunction = _mteb_meta()
        columns = [column for column in COLUMNS if self._encoder(column) is not None]
        single = self.kind == "dense"
        return ModelMeta(
            loader=None,
            name=self.name,
            revision=self.revision,
            release_date=None,
            languages=None,
            n_parameters=sum(p.numel() for p in self.model.parameters()),
            memory_usage_mb=None,
            max_tokens=None,
            embed_dim=self.model.head_dim(self.head),
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.COSINE if single else ScoringFunction.MAX_SIM,
            use_instructions=False,
            training_datasets=None,
            modalities=columns,
            model_type=[self.kind],
        )

    def _encode(self, rows: Iterable[Mapping[str, Any]], role: Role) -> Ragged:
        items, modality = self._items(rows)
        encode = self.model.encode_queries if role == "query" else self.model.encode_documents
        return encode(
            items,
            modality=modality,
            head=self.head,
            batch_tokens=self.options["batch_tokens"],
        )

    def _items(self, rows: Iterable[Mapping[str, Any]]) -> tuple[list[Any], str]:
        """Raw items and the encoder that reads them; all of one modality."""
        items: list[Any] = []
        modality = "text"
        for i, row in enumerate(rows):
            filled = [c for c in COLUMNS if row.get(c) is not None and self._encoder(c) is not None]
            if not filled:
                raise ValueError(
                    f"row {i} has columns {sorted(row)}; this model reads "
                    f"{[c for c in COLUMNS if self._encoder(c) is not None]}: say which encoder "
                    'reads a column with modalities, as {"image": "page"}'
                )
            encoder = self._encoder(filled[0])
            assert encoder is not None
            if i and encoder != modality:
                raise ValueError(f"row {i} is for {encoder!r}, the rows before for {modality!r}")
            modality = encoder
            items.append(_item(filled[0], row))
        return items, modality

    def _encoder(self, column: str) -> str | None:
        name: str = self.options["modalities"].get(column, column)
        return name if name in self.model.encoders else None


class MtebEncoder(_Model):
    """mteb's `EncoderProtocol`: one vector an item (see the top of this file)."""

    kind = "dense"

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Batches of columns, as mteb's data loader gives them -> (N, D) float32 unit rows."""
        role: Role = self.options["without_prompt"]
        if prompt_type is not None:
            role = "query" if _value(prompt_type) == "query" else "document"
        found = [self._encode(_rows(batch), role) for batch in inputs]
        if any(bool((part.lengths != 1).any()) for part in found):
            raise ValueError(
                f"head {self.head!r} gives several rows an item; mteb's encoder protocol wants one: "
                "take a single-vector head, or MtebSearch"
            )
        values = [part.values.numpy() for part in found]
        width = self.model.head_dim(self.head)
        return np.concatenate(values) if values else np.zeros((0, width), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(N, M) dot products of unit rows, a tensor."""
        one, two = _tensor(embeddings1), _tensor(embeddings2)
        return one @ two.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(N,) dot products of row i with row i, a tensor."""
        return (_tensor(embeddings1) * _tensor(embeddings2)).sum(-1)


class MtebSearch(_Model):
    """mteb's `SearchProtocol`: tokens in an index of ours, ranked with MaxSim.

    Args beside those of all: nbits, of the index; 16 is exact, 4 is what a search usually uses.
    """

    kind = "late-interaction"
    default_head = "multi"

    def __init__(
        self,
        model_name: str | Path | LateInteractionModel,
        revision: str | None = None,
        *,
        device: str | None = None,
        nbits: int = 16,
        **options: Any,
    ) -> None:
        super().__init__(model_name, revision, device=device, **options)
        self.nbits = nbits
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._index: Index | None = None

    def index(
        self,
        corpus: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Any,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Builds the index of a corpus, in a temporary folder; a former one is thrown away."""
        from lateint.index import Index

        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="lateint-mteb-")
        self._index = Index.build(
            Path(self._folder.name) / "corpus.index",
            self._batches(corpus),
            self.model.head_dim(self.head),
            nbits=self.nbits,
        )

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Any,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """{query: {document: MaxSim}}, the top_k best, or the best of a query's own `top_ranked`."""
        if self._index is None:
            raise ValueError("there is no corpus yet: call index() first")
        found: dict[str, dict[str, float]] = {}
        for rows in _chunks(queries, QUERIES):
            names = [str(row["id"]) for row in rows]
            asked = self._encode(rows, "query")
            if top_ranked is None:
                hits = self._index.search(asked, top_k, threads=0)
            else:
                hits = []
                for i, name in enumerate(names):
                    own = [d for d in map(str, top_ranked.get(name, ())) if d in self._index]
                    hits += self._index.search(asked.take([i]), top_k, ids=own) if own else [[]]
            found |= {
                name: {hit.id: float(hit.score) for hit in row}
                for name, row in zip(names, hits, strict=True)
            }
        return found

    def close(self) -> None:
        """Throws the index away."""
        if self._index is not None:
            self._index.close()
            self._index = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _batches(self, corpus: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
        for rows in _chunks(corpus, self.options["window"]):
            encoded = self._encode(rows, "document")
            kept = [i for i, n in enumerate(encoded.lengths.tolist()) if n]
            yield [str(rows[i]["id"]) for i in kept], encoded.take(kept)


def _options(given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The options that are not in a signature, with their defaults; mteb adds none of its own."""
    known: dict[str, Any] = {
        "head": None,
        "modalities": {},
        "without_prompt": "document",
        "batch_tokens": 16_384,
        "window": 256,
        "name": None,
    }
    if unknown := sorted(given.keys() - known.keys()):
        from lateint.config import nearest

        raise TypeError(f"{owner}: unknown argument {unknown[0]!r}{nearest(unknown[0], known)}")
    return known | dict(given)


def _item(column: str, row: Mapping[str, Any]) -> Any:
    value = row[column]
    if column == "text":
        title = row.get("title") if "body" not in row else None  # mteb joined them already
        return f"{title} {value}".strip() if title else str(value)
    if column == "audio":
        return _audio(value)
    return value


def _audio(value: Any) -> Any:
    """mteb's {"array", "sampling_rate"} -> `modalities.media.Audio`."""
    from modalities.media import Audio

    samples = np.asarray(value["array"], dtype=np.float32)
    if samples.ndim > 1:
        samples = samples.mean(axis=int(samples.shape[0] > samples.shape[1]))
    return Audio(np.ascontiguousarray(samples), int(value["sampling_rate"]))


def _rows(batch: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Columns -> rows."""
    length = max((len(column) for column in batch.values()), default=0)
    return [
        {name: column[i] for name, column in batch.items() if len(column) == length}
        for i in range(length)
    ]


def _chunks(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    source = iter(rows)
    while chunk := list(islice(source, size)):
        yield chunk


def _tensor(rows: Any) -> Any:
    import torch

    tensor = torch.as_tensor(rows).float()
    return tensor[None] if tensor.ndim == 1 else tensor


def _value(prompt_type: Any) -> str:
    return str(getattr(prompt_type, "value", prompt_type))


def _mteb_meta() -> tuple[Any, Any]:
    try:
        from mteb.models.model_meta import ModelMeta, ScoringFunction
    except ImportError as error:
        raise ImportError("mteb's protocols need mteb: pip install 'lateint[mteb]'") from error
    return ModelMeta, ScoringFunction
