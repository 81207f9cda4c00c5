"""Text through any transformers backbone, encoder or decoder: one token a word piece.

The conventions are ColBERT's (Khattab and Zaharia 2020, arXiv:2004.12832) in the form that PyLate
and sentence-transformers read: a marker tells queries from documents, queries are expanded to a
fixed length with mask tokens, punctuation is left out of documents. Knows transformers; nothing of
heads, scores or retrieval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from modalities.dense import chain
from modalities.encoder import Batch, Encoder, Role, check_role, from_config
from modalities.grid import TokenGrid
from modalities.pooled import pooled
from modalities.text_config import TextConfig

if TYPE_CHECKING:
    from typing_extensions import Self

BACKBONE = "backbone"  # folder of the backbone's config.json
TOKENIZER = "tokenizer"  # apart: beside a config.json, transformers may choose another class for it
CHARACTERS = 128  # of a text for each token that is kept of it; what lies beyond is not tokenized


class TransformerText(Encoder):
    """Texts -> contextual tokens of a transformers backbone, projected to the shared width.

    Raw items: str. Lone surrogates become U+FFFD; other odd characters (NUL) are the tokenizer's
    to drop or to spell. An empty text has the special tokens and the marker, or one expansion
    token where the tokenizer adds nothing: never no token. Strings that spell a special token
    ("[MASK]") are read as that token, as transformers' tokenizers do everywhere.

    Padding is at the right and is never attended to, for decoders too, so positions and tokens
    do not depend on the batch. `pooled` is given where the config names a pooling; else heads take
    the mean.
    """

    name = "transformer-text"
    modality = "text"
    cpu_tokens = 1024  # what lies between two layers then stays in a core's cache
    concurrent = True

    def __init__(self, backbone: Any, tokenizer: Any, config: TextConfig) -> None:
        """backbone: a transformers model that returns last_hidden_state; tokenizer: its own. New
        markers are added to both. Raises ValueError where config and backbone do not go together.
        """
        super().__init__()
        self.settings = config
        self.dim = config.dim
        self.backbone = backbone
        self.tokenizer = tokenizer
        if isinstance(getattr(backbone, "pooler", None), nn.Module):
            backbone.pooler = None  # its output is not used, its weights would get no gradient
        if getattr(backbone.config, "use_cache", False):
            backbone.config.use_cache = False
        self._markers = {
            "query": _entry(tokenizer, config.query_marker),
            "document": _entry(tokenizer, config.document_marker),
        }
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        rows = max(vocabulary.values()) + 1
        if rows > backbone.get_input_embeddings().num_embeddings:
            backbone.resize_token_embeddings(rows)
        self._expansion = _expansion_id(tokenizer, config.expansion_token)
        self._pad = self._expansion if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._skipped = _ids_of(vocabulary, config.skiplist)
        self._only = None if config.keep_only is None else _ids_of(vocabulary, config.keep_only)
        added = list(tokenizer("")["input_ids"])
        first = (tokenizer.cls_token_id, tokenizer.bos_token_id)
        self._leading = int(bool(added) and added[0] in first)  # specials before the marker
        self._check_lengths(len(added))
        dtype = getattr(torch, config.dtype)
        backbone.to(dtype)
        width = backbone.config.hidden_size
        self.projection: nn.Module = chain(config.dense, width, config.dim, dtype)
        if config.pooling is not None and not config.pooled_dense and width != config.dim:
            raise ValueError(
                f"pooled_dense=False: the pooled vector has width {width}, tokens {config.dim}"
            )

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        dim: int = 128,
        *,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Self:
        """A backbone of a hub or a folder, with a fresh projection; in eval mode, on the CPU.

        options: other fields of `TextConfig`, e.g. document_length=512. Code that comes with a
        model is never run. Of an encoder-decoder (T5) only the encoder is taken.
        """
        from transformers import AutoConfig, AutoTokenizer

        values = {"dim": dim, "dtype": str(dtype).removeprefix("torch."), **options}
        config = from_config(TextConfig, values)
        source = str(name_or_folder)
        kind = _auto_model(AutoConfig.from_pretrained(source))
        backbone = kind.from_pretrained(source, dtype=dtype)
        return cls(backbone, AutoTokenizer.from_pretrained(source), config).eval()

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """ids (B, L), attend (B, L) bool: what the backbone attends to; keep (B, T): places in L
        of the tokens that stay, and mask (B, T): which of them are real. Where the prompt is left
        out of the pooled vector also pool (B, L) bool: what counts in it."""
        rows = self._rows(raw, role)
        lengths = torch.tensor([len(ids) for ids, _ in rows], dtype=torch.long)
        length = int(lengths.max()) if rows else 0
        ids = torch.full((len(rows), length), self._pad, dtype=torch.long)
        attend = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, (row, attended) in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
            attend[i, : len(row)] = torch.tensor(attended, dtype=torch.bool)
        stay = self._stay(ids, torch.arange(length) < lengths[:, None], role)
        counts = stay.sum(1)
        most = int(counts.max()) if rows else 0
        # places of what stays, in order, before the others
        keep = (~stay).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        mask = torch.arange(most) < counts[:, None]
        keep = keep.masked_fill(~mask, 0)
        inputs = {"ids": ids, "attend": attend, "keep": keep, "mask": mask}
        if self.settings.pooling is not None and not self.settings.pool_prompt:
            inputs["pool"] = attend & (torch.arange(length) >= self._prompt_tokens(role))
        return Batch(inputs, tuple((1, count) for count in counts.tolist()), role)

    def forward(self, batch: Batch) -> TokenGrid:
        x = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        shape = batch.shape or ()
        way = self.settings.pooling
        if not len(batch):
            none = torch.zeros(0, 0, self.dim, dtype=self.dtype, device=self.device)
            vector = None if way is None else none.new_zeros(0, self.dim)
            return TokenGrid(none, x["mask"], shape, pooled=vector)
        hidden = self.backbone(
            input_ids=x["ids"], attention_mask=x["attend"].long()
        ).last_hidden_state  # (B, L, H)
        chosen = hidden.gather(1, x["keep"][..., None].expand(-1, -1, hidden.shape[-1]))
        tokens = self.projection(chosen)  # (B, T, D)
        whole = None
        if way is not None:
            whole = pooled(hidden, x.get("pool", x["attend"]), way)  # (B, H)
            whole = self.projection(whole) if self.settings.pooled_dense else whole
        tokens = tokens.masked_fill(~x["mask"][..., None], 0)
        return TokenGrid(tokens, x["mask"], shape, pooled=whole)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """Exact: the tokens that the backbone reads, those of the skiplist included."""
        return [len(ids) for ids, _ in self._rows(raw, role)]

    def labels(self, item: Any, role: Role) -> list[str]:
        """Vocabulary entries as the tokenizer writes them, with its own signs for beginnings and
        continuations ("##ing", "Ġword") made plain: "ing", "word"; "[CLS]", "[D] ", "[MASK]"."""
        (ids, _), = self._rows([item], role)  # fmt: skip
        every = torch.ones(1, len(ids), dtype=torch.bool)
        kept = (
            self._stay(torch.tensor([ids], dtype=torch.long), every, role)[0]
            .nonzero()[:, 0]
            .tolist()
        )
        special = {*self.tokenizer.all_special_ids, *self._markers.values()}
        model = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "model", None)
        continues = getattr(model, "continuing_subword_prefix", None) or ""
        labels = []
        for place in kept:
            entry = self.tokenizer.convert_ids_to_tokens(ids[place])
            if ids[place] not in special:
                entry = self.tokenizer.convert_tokens_to_string([entry]).strip() or entry
                entry = entry.removeprefix(continues) or entry
            labels.append(entry)
        return labels

    def config(self) -> dict[str, Any]:
        return {
            **asdict(self.settings),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def save(self, folder: Path) -> None:
        """As every encoder; the backbone's config and the tokenizer in folders beside."""
        self.backbone.config.save_pretrained(Path(folder) / BACKBONE)
        self.tokenizer.save_pretrained(str(Path(folder) / TOKENIZER))
        super().save(folder)

    @classmethod
    def build(cls, config: dict[str, Any], folder: Path) -> Self:
        from transformers import AutoConfig, AutoTokenizer

        settings = from_config(TextConfig, config)
        source, words = Path(folder) / BACKBONE, Path(folder) / TOKENIZER
        for path in (source / "config.json", words / "tokenizer_config.json"):
            if not path.is_file():
                raise ValueError(f"{path} is missing: the encoder is incomplete")
        form = AutoConfig.from_pretrained(str(source), local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(str(words), local_files_only=True)
        backbone = _auto_model(form).from_config(form, dtype=getattr(torch, settings.dtype))
        return cls(backbone, tokenizer, settings)

    def _rows(self, raw: Sequence[Any], role: Role) -> list[tuple[list[int], list[bool]]]:
        """Ids of each text, expansion included, and which of them the backbone attends to."""
        check_role(role)
        if isinstance(raw, str):
            raise TypeError("texts come as a sequence of str, not as one str")
        for i, text in enumerate(raw):
            if not isinstance(text, str):
                raise TypeError(f"text {i} is {type(text).__name__}, not str")
        if not raw:
            return []
        length, prompt = self.settings.length(role), self.settings.prompt(role)
        marker = self._markers[role]
        texts = [prompt + clean(text, length * CHARACTERS) for text in raw]
        encoded = self.tokenizer(
            [text.strip() for text in texts] if self.settings.strip else texts,
            truncation=True,
            max_length=length - (marker is not None),
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return [self._completed(list(ids), role) for ids in encoded]

    def _completed(self, ids: list[int], role: Role) -> tuple[list[int], list[bool]]:
        """A text's ids with expansion tokens and marker."""
        s, marker = self.settings, self._markers[role]
        if not ids and marker is None:
            ids = [self._expansion]
        attend = [True] * len(ids)
        if role == "query" and s.query_expansion:
            missing = (s.expansion_length or s.query_length) - len(ids) - (marker is not None)
            more, flags = [self._expansion] * missing, [s.attend_to_expansion] * missing
            if s.expand_left:
                ids, attend = more + ids, flags + attend
            else:
                ids, attend = ids + more, attend + flags
        if marker is not None:
            place = self._leading if s.marker_place is None else s.marker_place
            ids.insert(place, marker)
            attend.insert(place, True)
        return ids, attend

    def _stay(self, ids: torch.Tensor, real: torch.Tensor, role: Role) -> torch.Tensor:
        """(B, L) ids, (B, L) bool: the real ones -> (B, L) bool: tokens that stay."""
        stay = real
        if role in self.settings.skiplist_roles and len(self._skipped):
            stay = stay & ~torch.isin(ids, self._skipped)
        if role == "document" and self._only is not None:
            stay = stay & torch.isin(ids, self._only)
        return torch.where(stay.any(1, keepdim=True), stay, real)

    def _prompt_tokens(self, role: Role) -> int:
        """Tokens that a prompt alone makes, its special tokens at the start included and the one
        at the end not."""
        prompt = self.settings.prompt(role)
        if not prompt:
            return 0
        ids = list(self.tokenizer(prompt)["input_ids"])
        ends = bool(ids) and ids[-1] in self.tokenizer.all_special_ids
        return len(ids) - ends + (self._markers[role] is not None)

    def _check_lengths(self, added: int) -> None:
        """Lengths must leave room for text beside `added` specials, and fit the positions."""
        most = _positions(self.backbone, self.tokenizer)
        for role in ("query", "document"):
            length = getattr(self.settings, f"{role}_length")
            least = added + (self._markers[role] is not None) + 1
            if length < least:
                raise ValueError(f"{role}_length {length} has no room for text: at least {least}")
            if length > most:
                raise ValueError(f"{role}_length {length} is more than the backbone reads: {most}")


def _ids_of(vocabulary: dict[str, int], words: Sequence[str]) -> torch.Tensor:
    """Ids of the words that are entries."""
    found = sorted(vocabulary[word] for word in words if word in vocabulary)
    return torch.tensor(found, dtype=torch.long)


def _entry(tokenizer: Any, marker: str | None) -> int | None:
    """Id of a marker; one that the vocabulary lacks is added."""
    if marker is None:
        return None
    if marker not in tokenizer.get_vocab():
        from tokenizers import AddedToken

        tokenizer.add_tokens([AddedToken(marker, normalized=False, special=True)])
    return int(tokenizer.convert_tokens_to_ids(marker))


def _expansion_id(tokenizer: Any, wanted: str | None) -> int:
    """Id of the expansion token: as configured, else mask, else end of text, else padding."""
    if wanted is not None:
        if wanted not in tokenizer.get_vocab():
            raise ValueError(f"expansion_token {wanted!r} is not in the vocabulary")
        return int(tokenizer.convert_tokens_to_ids(wanted))
    for found in (tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        if found is not None:
            return int(found)
    raise ValueError("the tokenizer has no mask, eos or pad token: give expansion_token")


def _positions(backbone: Any, tokenizer: Any) -> int:
    """The most tokens that a backbone reads, by its config and by its tokenizer's word."""
    most = int(tokenizer.model_max_length)  # a huge number where it is not known
    positions = getattr(backbone.config, "max_position_embeddings", None)
    if positions is not None and positions > 0:
        table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
        if table is not None and table.padding_idx is not None:
            positions -= table.padding_idx + 1  # RoBERTa counts from there
        most = min(most, positions)
    return most


def clean(text: str, most: int) -> str:
    """The first `most` characters, as valid Unicode: a tokenizer takes no lone surrogates."""
    text = text[:most]
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _auto_model(config: Any) -> Any:
    """The transformers class that makes a backbone of this config: the one for text encoding
    where there is one (of T5 the encoder alone), else the plain model."""
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    return (
        AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
    )
