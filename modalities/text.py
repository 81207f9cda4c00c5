"""Text through any transformers backbone, encoder or decoder: one token a word piece.

The conventions are ColBERT's (Khattab and Zaharia 2020, arXiv:2004.12832) in the form that PyLate
and sentence-transformers read: a marker tells queries from documents, queries are expanded to a
fixed length with mask tokens, punctuation is left out of documents. Knows transformers; nothing of
heads, scores or retrieval.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from modalities.encoder import Batch, Encoder, Role, check_role, from_config
from modalities.grid import TokenGrid

if TYPE_CHECKING:
    from typing_extensions import Self

BACKBONE = "backbone"  # folder of the backbone's config.json
TOKENIZER = "tokenizer"  # apart: beside a config.json, transformers may choose another class for it
MAX_LENGTH = 131_072  # tokens; lengths may come from a file
CHARACTERS = 128  # of a text for each token that is kept of it; what lies beyond is not tokenized


@dataclass(frozen=True)
class TextConfig:
    """What a TransformerText is, apart from its backbone and its weights.

    dim: width of the tokens.
    query_length, document_length: tokens of one text, all that is added included; the rest of the
        text is cut off. Larger: more of the text is read, more tokens to keep and to score.
    query_marker, document_marker: vocabulary entry put after the first special token ([CLS], bos),
        or at the start where there is none; added to the vocabulary if new; None: no marker.
    query_expansion: pad queries to query_length with the expansion token; these are real tokens
        of the query, in which the backbone may write what the query did not say.
    attend_to_expansion: whether the backbone attends to expansion tokens. False as in PyLate.
    expansion_token: None: the mask token, or the end-of-text token where there is none.
    skiplist: vocabulary entries left out of a document's tokens (the backbone still reads them).
        Spelt as in the vocabulary: in byte-level ones "." and "Ġ." are two. A document that has
        nothing else keeps its tokens.
    query_prompt, document_prompt: put before the text, without a space of their own.
    dtype: of the weights.
    """

    dim: int = 128
    query_length: int = 32
    document_length: int = 180
    query_marker: str | None = "[Q] "
    document_marker: str | None = "[D] "
    query_expansion: bool = True
    attend_to_expansion: bool = False
    expansion_token: str | None = None
    skiplist: tuple[str, ...] = tuple(string.punctuation)
    query_prompt: str = ""
    document_prompt: str = ""
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, not {self.dim}")
        for name in ("query_length", "document_length"):
            if not 1 <= getattr(self, name) <= MAX_LENGTH:
                raise ValueError(f"{name} must be 1 to {MAX_LENGTH}, not {getattr(self, name)}")
        if isinstance(self.skiplist, str):
            raise ValueError("skiplist must be a sequence of words, not one string")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"unknown dtype {self.dtype!r}")


class TransformerText(Encoder):
    """Texts -> contextual tokens of a transformers backbone, projected to the shared width.

    Raw items: str. Lone surrogates become U+FFFD; other odd characters (NUL) are the tokenizer's
    to drop or to spell. An empty text has the special tokens and the marker, or one expansion
    token where the tokenizer adds nothing: never no token. Strings that spell a special token
    ("[MASK]") are read as that token, as transformers' tokenizers do everywhere.

    Padding is at the right and is never attended to, for decoders too, so positions and tokens
    do not depend on the batch. `pooled` is None: heads take the mean.
    """

    name = "transformer-text"
    modality = "text"

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
        skipped = sorted(vocabulary[word] for word in config.skiplist if word in vocabulary)
        self._skipped = torch.tensor(skipped, dtype=torch.long)
        added = list(tokenizer("")["input_ids"])
        first = (tokenizer.cls_token_id, tokenizer.bos_token_id)
        self._leading = int(bool(added) and added[0] in first)  # specials before the marker
        self._check_lengths(len(added))
        dtype = getattr(torch, config.dtype)
        backbone.to(dtype)
        width = backbone.config.hidden_size
        self.projection = nn.Linear(width, config.dim, bias=False, dtype=dtype)

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
        of the tokens that stay, and mask (B, T): which of them are real."""
        rows = self._rows(raw, role)
        length = max((len(ids) for ids, _ in rows), default=0)
        ids = torch.full((len(rows), length), self._pad, dtype=torch.long)
        attend = torch.zeros(len(rows), length, dtype=torch.bool)
        kept: list[torch.Tensor] = []
        for i, (row, own) in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
            attend[i, : len(row) if self.settings.attend_to_expansion else own] = True
            kept.append(self._kept(ids[i, : len(row)], role))
        most = max((len(k) for k in kept), default=0)
        keep = torch.zeros(len(rows), most, dtype=torch.long)
        mask = torch.zeros(len(rows), most, dtype=torch.bool)
        for i, places in enumerate(kept):
            keep[i, : len(places)] = places
            mask[i, : len(places)] = True
        inputs = {"ids": ids, "attend": attend, "keep": keep, "mask": mask}
        return Batch(inputs, tuple((1, len(k)) for k in kept), role)

    def forward(self, batch: Batch) -> TokenGrid:
        x = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        shape = batch.shape or ()
        if not len(batch):
            none = self.projection.weight.new_zeros(0, 0, self.dim)
            return TokenGrid(none, x["mask"], shape)
        hidden = self.backbone(
            input_ids=x["ids"], attention_mask=x["attend"].long()
        ).last_hidden_state  # (B, L, H)
        chosen = hidden.gather(1, x["keep"][..., None].expand(-1, -1, hidden.shape[-1]))
        tokens = self.projection(chosen)  # (B, T, D)
        return TokenGrid(tokens.masked_fill(~x["mask"][..., None], 0), x["mask"], shape)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """Exact: the tokens that the backbone reads, those of the skiplist included."""
        return [len(ids) for ids, _ in self._rows(raw, role)]

    def labels(self, item: Any, role: Role) -> list[str]:
        """Vocabulary entries as the tokenizer writes them, with its own signs for beginnings and
        continuations ("##ing", "Ġword") made plain: "ing", "word"; "[CLS]", "[D] ", "[MASK]"."""
        (ids, _), = self._rows([item], role)  # fmt: skip
        kept = self._kept(torch.tensor(ids, dtype=torch.long), role).tolist()
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
        values = asdict(self.settings)
        return {
            **values,
            "skiplist": list(self.settings.skiplist),
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

    def _rows(self, raw: Sequence[Any], role: Role) -> list[tuple[list[int], int]]:
        """Ids of each text, expansion included, and how many of them are its own."""
        check_role(role)
        if isinstance(raw, str):
            raise TypeError("texts come as a sequence of str, not as one str")
        for i, text in enumerate(raw):
            if not isinstance(text, str):
                raise TypeError(f"text {i} is {type(text).__name__}, not str")
        if not raw:
            return []
        s = self.settings
        query = role == "query"
        length = s.query_length if query else s.document_length
        prompt = s.query_prompt if query else s.document_prompt
        marker = self._markers[role]
        encoded = self.tokenizer(
            [prompt + _clean(text, length * CHARACTERS) for text in raw],
            truncation=True,
            max_length=length - (marker is not None),
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        rows = []
        for ids in encoded:
            ids = list(ids)
            if marker is not None:
                ids.insert(self._leading, marker)
            ids = ids or [self._expansion]
            own = len(ids)
            if query and s.query_expansion:
                ids += [self._expansion] * (length - own)
            rows.append((ids, own))
        return rows

    def _kept(self, ids: torch.Tensor, role: Role) -> torch.Tensor:
        """Places of the tokens of one text that stay."""
        if role == "document":
            places = (~torch.isin(ids, self._skipped)).nonzero()[:, 0]
            if len(places):
                return places
        return torch.arange(len(ids))

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


def _clean(text: str, most: int) -> str:
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
