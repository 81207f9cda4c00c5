"""One item into the inputs of a vision-language backbone, and where its tokens come from.

    raw item -> the family's processor -> a batch of one -> padded batch

Knows transformers' processors and the rows of `vlm_families`; knows no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modalities.encoder import Role
from modalities.vlm_families import AUGMENTATION, Family
from modalities.vlm_lattice import Cells, cells, placed

Kind = Literal["page", "text", "audio"]
Prepared = dict[str, Tensor]
MAX_CHARACTERS = 16_384  # of a text; what lies beyond is not read
RECORDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".m4a")  # else a picture
_SEQUENCE = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class ItemReader:
    """A family's processor, item by item. accepts: names of inputs that the backbone takes."""

    def __init__(self, family: Family, processor: Any, accepts: frozenset[str]) -> None:
        self.family, self.processor, self.accepts = family, processor, accepts

    def kind(self, raw: Sequence[Any]) -> Kind:
        """What all the items are; "page" for none."""
        if isinstance(raw, str):
            raise TypeError("texts come as a sequence of str, not as one str")
        kinds = [_kind_of(item, self.family.audio) for item in raw]
        if len(set(kinds)) > 1:
            raise ValueError(f"items of one call must be of one kind, these are {kinds[:8]}")
        return kinds[0] if kinds else "page"

    def read(self, item: Any, kind: Kind, role: Role) -> Prepared:
        """One item as a batch of one: input_ids, attention_mask (1, L) and what else there is."""
        if kind == "text":
            found = self._text(item, role)
        elif kind == "page":
            found = self._page(item)
        else:
            found = self._recording(item)
        if not found["input_ids"].numel():  # an empty text: never no token
            alone = torch.tensor([[self.processor.tokenizer.pad_token_id or 0]])
            return {"input_ids": alone, "attention_mask": torch.ones_like(alone)}
        return {name: x for name, x in found.items() if name in self.accepts}

    def places(self, prepared: Prepared, item: Any) -> tuple[Tensor, Cells]:
        """Places in the sequence of one page's image tokens, and their cells."""
        from modalities.media import image_size

        image_id = self.processor.image_token_id
        at = placed(prepared, image_id, self.family).nonzero()[:, 0]
        lattice = cells(self.family, self.processor, prepared, len(at), image_size(item))
        return at, lattice

    def seconds(self, prepared: Prepared) -> Tensor:
        """(L, 2): where in its recording each token begins and ends; the prompt's: all of it."""
        hears = self.processor.feature_extractor
        whole = float(prepared["feature_attention_mask"].sum()) * hears.hop_length
        whole /= hears.sampling_rate
        at = self._heard(prepared)
        edges = torch.linspace(0, whole, len(at) + 1)
        seconds = torch.tensor([0.0, whole]).repeat(prepared["input_ids"].shape[1], 1)
        seconds[at] = torch.stack([edges[:-1], edges[1:]], 1)
        return seconds

    def labels(self, item: Any, prepared: Prepared, kind: Kind) -> list[str]:
        """What each of the L tokens stands for."""
        names = [_spelt(self.processor.tokenizer, i) for i in prepared["input_ids"][0].tolist()]
        if kind == "page":
            at, lattice = self.places(prepared, item)
            for place, name in zip(at.tolist(), lattice.names, strict=True):
                names[place] = name
        if kind == "audio":
            begins = self.seconds(prepared)[:, 0].tolist()
            for place in self._heard(prepared).tolist():
                names[place] = f"{begins[place]:.2f}s"
        return names

    def page_tokens(self, width: int, height: int) -> int:
        """About how many tokens a page of this size has, from the processor's own arithmetic."""
        pictures = self.processor.image_processor
        if self.family.lattice == "square":
            return int(pictures.image_seq_length) + AUGMENTATION
        patches = pictures.get_number_of_image_patches(height, width, {})
        if self.family.lattice == "split":
            return max(1, patches[0]) * (int(self.processor.image_seq_len) + 2) + AUGMENTATION
        if self.family.lattice == "merged":
            return int(patches // pictures.merge_size**2) + AUGMENTATION
        return int(patches) + AUGMENTATION

    def _page(self, item: Any) -> Any:
        from modalities.media import as_image

        image = as_image(item)
        if self.family.calls == "own":
            return self.processor.process_images(images=[image], return_tensors="pt")
        if self.family.calls == "chat":
            return self._chat([{"type": "image", "image": image}], "document")
        return self.processor(text=[self.family.page], images=[image], return_tensors="pt")

    def _recording(self, item: Any) -> Any:
        """The first seconds of it, as many as the processor's feature extractor takes."""
        from modalities.media import as_audio, resample

        hears = self.processor.feature_extractor
        samples = resample(as_audio(item), hears.sampling_rate)[: hears.n_samples]
        return self._chat([{"type": "audio", "audio": samples}], "document")

    def _text(self, item: str, role: Role) -> Any:
        text = self._readable(item)
        if self.family.calls == "own":
            behind = {} if role == "query" else {"suffix": ""}
            return self.processor.process_queries(text=[text], return_tensors="pt", **behind)
        tokenizer = self.processor.tokenizer
        if role == "query":
            token = self.family.augmentation
            token = tokenizer.pad_token if token == "" else token or ""
            text = self.family.query + text + token * AUGMENTATION
        if self.family.calls == "chat":
            return self._chat(text, role)
        text = tokenizer.bos_token + text if self.family.bos else text
        ids = tokenizer(text, return_token_type_ids=False)["input_ids"]
        row = torch.tensor([list(ids)], dtype=torch.long)
        # PaliGemma reads prefixes (type 0) both ways. Not told so, it does with one text and does not
        # with several of different lengths, in transformers 5.23.
        kinds = torch.zeros_like(row)
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "token_type_ids": kinds}

    def _chat(self, content: str | list[dict[str, Any]], task: Role) -> Any:
        """A text, or a picture or recording with the family's words beside it, as a message."""
        family = self.family
        if isinstance(content, list) and family.page:
            content = [*content, {"type": "text", "text": family.page}]
        messages: list[dict[str, Any]] = []
        options: dict[str, Any] = {"task": task} if family.tasks else {}
        if family.system is not None:
            system = [{"type": "text", "text": family.system}]
            messages.append({"role": "system", "content": system})
            options["add_generation_prompt"] = True
            if isinstance(content, str):
                content = [{"type": "text", "text": content}]
        messages.append({"role": "user", "content": content})
        return self.processor.apply_chat_template(
            [messages], tokenize=True, return_dict=True, return_tensors="pt", **options
        )

    def _readable(self, text: str) -> str:
        from modalities.text import clean

        text = clean(text, MAX_CHARACTERS)
        for medium in ("image", "video", "audio"):
            token = getattr(self.processor, f"{medium}_token", None)
            text = text.replace(token, " ") if token else text
        return text

    def _heard(self, prepared: Prepared) -> Tensor:
        """Places of the tokens that stand for sound."""
        return (prepared["input_ids"][0] == self.processor.audio_token_id).nonzero()[:, 0]


def collated(items: Sequence[Prepared], family: Family, pad: int) -> Prepared:
    """Batches of one as one batch: what belongs to tokens padded at the right to (B, L), pictures
    and recordings of all items one after another. pad: id of the padding token."""
    inputs: dict[str, Tensor] = {}
    for name in items[0]:
        parts = [item[name] for item in items]
        if name in _SEQUENCE:
            fill = pad if name == "input_ids" else 0
            inputs[name] = padded([part[0] for part in parts], fill)
        elif name == "position_ids":  # (2, 1, L): two axes
            both = padded([part[:, 0].T for part in parts], 0)  # (B, L, 2)
            inputs[name] = both.permute(2, 0, 1).contiguous()
        elif name == "pixel_values" and family.positions == "flat":
            inputs[name] = torch.cat([part[0] for part in parts])  # (1, patches, numbers)
        else:  # pictures, one after another: tiles in the second place, all else in the first
            inputs[name] = torch.cat(parts, dim=int(family.lattice == "split"))
    return inputs


def load_processor(family: Family, source: str | Path) -> Any:
    """The family's processor from a folder (without network) or, where `source` is none, from a
    hub. Never runs code that comes with it. ValueError: it cannot be made of what is there."""
    import transformers

    kind = getattr(transformers, family.processor, None)
    if kind is None:
        raise ValueError(
            f"transformers {transformers.__version__} has no {family.processor}: upgrade it"
        )
    try:
        return kind.from_pretrained(
            str(source), local_files_only=Path(source).is_dir(), trust_remote_code=False
        )
    except Exception as error:  # on a broken file tokenizers raises bare ones
        raise ValueError(f"{source}: no {family.processor} can be made of it: {error}") from error


def _kind_of(item: Any, hears: bool) -> Kind:
    from PIL import Image

    from modalities.media import Audio

    if isinstance(item, str):
        return "text"
    if hears and isinstance(item, (Audio, tuple)):
        return "audio"
    if hears and isinstance(item, Path) and item.suffix.lower() in RECORDINGS:
        return "audio"
    if isinstance(item, (Image.Image, Path)):
        return "page"
    wanted = "a str, a picture (PIL image, Path)" + (" or a recording (Audio)" if hears else "")
    raise TypeError(f"an item is {wanted}, not {type(item).__name__}")


def padded(rows: list[Tensor], fill: int) -> Tensor:
    """(B, L, ...), padded at the right."""
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)


def _spelt(tokenizer: Any, token: int) -> str:
    """A vocabulary entry as text, special tokens as they are written."""
    entry: str = tokenizer.convert_ids_to_tokens(token)
    if token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder:
        return entry
    return tokenizer.convert_tokens_to_string([entry]).strip() or entry
