"""`LateInteractionModel`: encoders by modality, and the heads they share.

    items -> encoder.prepare -> encoder -> TokenGrid -> head -> Ragged

This is where batches are made: items are sorted by length and grouped under a token budget, run
without gradients, and handed back in the order they came in. The model knows no index, no loss and
no file but its own; for training call `model.grid(...)` and a head, which keep gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from lateint import model_files
from lateint.batching import batches
from lateint.config import nearest
from lateint.encoded import Encoded, boxes_of, of_kept
from lateint.heads import Head, make_head
from lateint.model_files import check_name
from lateint.progress import counting
from lateint.ragged import Ragged
from lateint.streams import side_by_side
from modalities.encoder import Batch, Encoder, Role, check_role
from modalities.grid import TokenGrid

if TYPE_CHECKING:
    from typing_extensions import Self

BATCH_TOKENS = 16_384


class LateInteractionModel(nn.Module):
    """Encoders of one shared width, by modality, under one set of heads.

    Args:
        encoders: modality ("text", "page", "image", "audio") -> encoder. All must have the same `dim`.
            The same object may stand under several modalities: its weights are kept once.
        heads: kinds of `lateint.heads.HEADS` with their defaults, or kind -> head.

    Raises:
        ValueError: no encoder, no head, or encoders of different widths.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        heads: Sequence[str] | Mapping[str, Head] = ("multi", "single"),
    ) -> None:
        super().__init__()
        if not encoders or not heads:
            raise ValueError("a model needs at least one encoder and one head")
        widths = {modality: encoder.dim for modality, encoder in encoders.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f"encoders must end in one shared width, got {widths}")
        for name in encoders:
            check_name(name)
        if not isinstance(heads, Mapping):
            heads = {kind: make_head(kind) for kind in heads}
        self.dim: int = next(iter(widths.values()))
        """Shared width of the encoders' tokens."""
        self.encoders = nn.ModuleDict(dict(encoders))
        self.heads = nn.ModuleDict(dict(heads))
        for kind in heads:
            if self.head_dim(kind) > self.dim:
                raise ValueError(
                    f"head {kind!r} wants {self.head_dim(kind)} numbers of tokens of {self.dim}"
                )

    @classmethod
    def from_backbones(
        cls,
        text: str | None = None,
        image: str | None = None,
        audio: str | None = None,
        clip: str | None = None,
        *,
        heads: Sequence[str] | Mapping[str, Head] = ("multi", "single"),
        dim: int = 128,
        pretrained: bool = True,
        text_options: Mapping[str, Any] | None = None,
        audio_options: Mapping[str, Any] | None = None,
        clip_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A model to train: backbones with fresh projections to `dim`.

        Args:
            text: a transformers checkpoint: a folder, or a name on the hub.
            image: a timm model name; a NaFlex one reads pictures in their own shapes.
            audio: a transformers checkpoint of AST, Whisper, wav2vec 2.0 or HuBERT (a folder or a
                name on the hub), or "log-mel" for a baseline without a backbone.
            clip: an open_clip model for images and texts, in place of `image` and `text`: a folder
                in its layout, or a name of open_clip's with clip_options={"pretrained": its tag}.
            heads: as in the constructor.
            dim: the shared width. Larger: better, larger index. 128 is usual.
            pretrained: False takes random weights for the image backbone and for clip (needs no
                network).
            text_options: further fields of `modalities.text.TextConfig`, e.g. document_length.
            audio_options: further fields of `modalities.audio.AudioConfig`, e.g. stride.
            clip_options: further arguments of `modalities.clip.OpenClip.from_pretrained`.

        Raises:
            ValueError: clip beside text or image.
        """
        encoders: dict[str, Encoder] = {}
        if clip is not None:
            if text is not None or image is not None:
                raise ValueError("clip reads images and texts: give it without text and image")
            from modalities.clip import OpenClip

            weights = {} if pretrained else {"pretrained": False}
            both = OpenClip.from_pretrained(clip, dim=dim, **{**weights, **(clip_options or {})})
            encoders.update({"image": both, "text": both})
        if text is not None:
            from modalities.text import TransformerText

            encoders["text"] = TransformerText.from_pretrained(
                text, dim=dim, **(text_options or {})
            )
        if image is not None:
            from modalities.naflex import image_encoder

            encoders["image"] = image_encoder(image, pretrained, dim)
        if audio is not None:
            from modalities.audio import AudioEncoder

            options = dict(audio_options or {})
            if audio == "log-mel":
                encoders["audio"] = AudioEncoder.log_mel(dim, **options)
            else:
                encoders["audio"] = AudioEncoder.from_pretrained(audio, dim, **options)
        return cls(encoders, heads)

    def encoder(self, modality: str) -> Encoder:
        """The encoder of a modality; ValueError names the modalities there are."""
        if modality not in self.encoders:
            raise ValueError(
                f"this model has no encoder for {modality!r}{nearest(modality, self.encoders)}"
            )
        return cast(Encoder, self.encoders[modality])

    def head(self, kind: str) -> Head:
        """The head of a kind; ValueError names the heads there are."""
        if kind not in self.heads:
            raise ValueError(f"this model has no head {kind!r}{nearest(kind, self.heads)}")
        return cast(Head, self.heads[kind])

    def head_dim(self, kind: str = "multi") -> int:
        """Width of the rows that a head gives: the index's `dim`."""
        return self.head(kind).config.dim or self.dim

    def grid(self, items: Sequence[Any], role: Role, *, modality: str = "text") -> TokenGrid:
        """One batch through its encoder, with gradients if they are on: what training and
        explanations start from. The caller keeps the batch small."""
        encoder = self.encoder(modality)
        grid: TokenGrid = encoder(encoder.prepare(items, role))
        return grid

    def query_labels(self, query: Any, *, modality: str = "text") -> list[str]:
        """What each token of a query stands for; row j of its multi-vector Ragged is label j."""
        return self.encoder(modality).labels(query, "query")

    def encode_queries(
        self,
        items: Iterable[Any],
        *,
        modality: str = "text",
        head: str = "multi",
        batch_tokens: int = BATCH_TOKENS,
        progress: bool = False,
    ) -> Ragged:
        """Queries -> Ragged, in input order. See `encode`."""
        return self.encode(
            items,
            "query",
            modality=modality,
            head=head,
            batch_tokens=batch_tokens,
            progress=progress,
        ).tokens

    def encode_documents(
        self,
        items: Iterable[Any],
        *,
        modality: str = "text",
        head: str = "multi",
        batch_tokens: int = BATCH_TOKENS,
        progress: bool = False,
    ) -> Ragged:
        """Documents -> Ragged, in input order. See `encode`; `encode_documents_iter` for many."""
        return self.encode(
            items,
            "document",
            modality=modality,
            head=head,
            batch_tokens=batch_tokens,
            progress=progress,
        ).tokens

    def encode_documents_iter(
        self,
        items: Iterable[Any],
        *,
        modality: str = "text",
        head: str = "multi",
        window: int = 64,
        batch_tokens: int = BATCH_TOKENS,
        progress: bool = False,
    ) -> Iterator[Encoded]:
        """Documents from an iterable of any length, `window` items at a time, in input order.

        At most one window of items and vectors is held: 10,000 rendered pages never are in memory
        together. `window`: larger sorts lengths better (less padding), smaller holds less.
        """
        if window < 1:
            raise ValueError(f"window is a number of items, at least 1, got {window}")
        _check_items(items)
        total = len(items) if isinstance(items, Sequence) else None
        source = iter(items)
        with counting(f"{modality} documents", total, progress) as advance:
            while chunk := list(islice(source, window)):
                encoded = self.encode(
                    chunk, "document", modality=modality, head=head, batch_tokens=batch_tokens
                )
                advance(len(chunk))
                del chunk
                yield encoded

    def encode(
        self,
        items: Iterable[Any],
        role: Role,
        *,
        modality: str = "text",
        head: str = "multi",
        batch_tokens: int = BATCH_TOKENS,
        gather: bool = True,
        progress: bool = False,
    ) -> Encoded:
        """Raw items -> vectors and, where the encoder knows them, their tokens' boxes or seconds.

        Runs in eval mode without gradients, on the device and in the dtype of the encoder.

        Args:
            items: what the modality's encoder takes: strings, images, recordings, paths of them.
            role: "query" or "document".
            modality, head: keys of `encoders` and `heads`.
            batch_tokens: most padded tokens in a batch (longest item times items, as the encoder
                estimates). Larger: faster on a GPU, more memory. An item above it goes alone. On a
                CPU never more than the encoder's `cpu_tokens`, and batches run side by side, one
                a thread, where the encoder is `concurrent`.
            gather: True: float32 rows on the CPU. False: rows stay on the model's device, in its
                dtype.
            progress: a progress bar on standard error.

        Returns:
            Encoded, in input order. No items give no rows of the right width.

        Raises:
            TypeError: `items` is one string. ValueError: unknown modality, head or role.
        """
        check_role(role)
        _check_items(items)
        items = list(items)
        encoder, to_rows = self.encoder(modality), self.head(head)
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens is a number of tokens, at least 1, got {batch_tokens}")
        rows: dict[int, Tensor] = {}
        boxes: dict[int, Tensor] = {}
        seconds: dict[int, Tensor] = {}
        bar = counting(f"{modality} {role}s", len(items), progress)
        on_cpu = encoder.device.type == "cpu"
        if on_cpu and encoder.cpu_tokens is not None:
            batch_tokens = min(batch_tokens, encoder.cpu_tokens)
        chosen = list(batches(encoder.cost(items, role), batch_tokens))
        streams = torch.get_num_threads() if on_cpu and encoder.concurrent else 1

        def work(prepared: Batch) -> tuple[Ragged, list[Tensor] | None, list[Tensor] | None]:
            grid: TokenGrid = encoder(prepared)
            ragged, kept = to_rows.rows(grid, role)
            if gather:
                ragged = ragged.to("cpu", torch.float32)
            if not to_rows.per_token:
                return ragged, None, None
            heard = None if grid.seconds is None else of_kept(grid.seconds, kept)
            return ragged, boxes_of(grid, modality, kept), heard

        @torch.inference_mode()
        def prepared(batch: list[int]) -> Batch:
            return encoder.prepare([items[i] for i in batch], role)

        with _evaluating(encoder, to_rows), bar as advance:
            made = side_by_side(work, map(prepared, chosen), min(streams, len(chosen)))
            for batch, (ragged, placed, heard) in zip(chosen, made, strict=True):
                rows.update(zip(batch, ragged, strict=True))
                if placed is not None:
                    boxes.update(zip(batch, placed, strict=True))
                if heard is not None:
                    seconds.update(zip(batch, heard, strict=True))
                advance(len(batch))
        # outside inference mode: the result may then take part in training, as a teacher's does
        order = range(len(items))
        tokens = Ragged.from_list([rows[i] for i in order], dim=self.head_dim(head))

        def gathered(parts: dict[int, Tensor]) -> Ragged | None:
            whole = bool(items) and len(parts) == len(items)
            return Ragged.from_list([parts[i] for i in order]) if whole else None

        return Encoded(tokens, gathered(boxes), gathered(seconds))

    def save(self, folder: Path | str) -> None:
        """Writes config.json, one subfolder an encoder, and heads.safetensors.

        A model that is there already is replaced; any other folder that is not empty is an error.
        config.json is written last, so a save that was cut short does not load.
        """
        encoders = {modality: self.encoder(modality) for modality in self.encoders}
        model_files.write(Path(folder), encoders, {kind: self.head(kind) for kind in self.heads})

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """A saved model, on the CPU, in eval mode, in the dtype it was saved in.

        Raises:
            ConfigError (a ValueError): no saved model, one of a newer version, an unknown key
                (the nearest known one is named), head weights missing or left over. ValueError:
                an encoder's folder does not fit (see `modalities.load_encoder`).
        """
        return cls(*model_files.read(Path(folder))).eval()


# Of 341 tokens a page 263 are kept, and titles and phrases find their pages as well as with all
# (scripts/mini_budget.py); 1.6: 214, and with this reader just as well.
PAGE_MERGE = 1.3


def load(path: Path | str | None = None) -> LateInteractionModel:
    """A model from a folder that `LateInteractionModel.save` wrote; None: the model that ships.

    The shipped model reads pages ("page": rendered pages, scans), sees pictures ("image": what they
    show, and what is printed in them), hears English speech ("audio") and puts text ("text") into
    the same space, width 128; its query rows carry learned weights as their lengths, and of long
    documents one token in PAGE_MERGE is kept. It comes with the package and needs no network.
    """
    if path is not None:
        return LateInteractionModel.load(path)
    from modalities.page import PageReader, PageText
    from modalities.picture import PictureReader
    from modalities.speech import SpeechReader

    options = {"queries": "weighted", "merge": PAGE_MERGE}
    heads = {"multi": make_head("multi", options), "single": make_head("single")}
    page = PageReader.shipped()
    encoders: dict[str, Encoder] = {"page": page, "text": PageText.shipped()}
    encoders["image"] = PictureReader.shipped(page)
    encoders["audio"] = SpeechReader.shipped()
    return LateInteractionModel(encoders, heads).eval()


@contextmanager
def _evaluating(*modules: nn.Module) -> Iterator[None]:
    """Eval mode inside; every submodule's own mode again after (some may be frozen in eval)."""
    training = [m for module in modules for m in module.modules() if m.training]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


def _check_items(items: Any) -> None:
    if isinstance(items, (str, bytes, Path)):
        raise TypeError(f"items is one {type(items).__name__}: pass a list of items")
