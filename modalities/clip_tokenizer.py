"""open_clip's tokenizers, with what an encoder needs beside ids: which are real, what each stands for.

Knows open_clip's three tokenizers (its own of CLIP, transformers' and SigLIP's); no tower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

CHARACTERS = 32  # of a text for each token; time grows with the square of a word (half a second)
MAX_CONTEXT = 4096  # tokens; a length may come from a file
ENTRIES = 49_408  # of open_clip's own vocabulary
FOLDER = "tokenizer"  # of a saved encoder, for a tokenizer of transformers
CLEANING = ("lower", "whitespace", "canonicalize")
KEYS = {"kind", "context_length", "clean", "strip_sep_token", "mode"}


class ClipTokenizer:
    """Texts -> ids (B, context_length), and for each text the places of its own tokens."""

    def __init__(self, tokenizer: Any) -> None:
        """tokenizer: what `open_clip.get_tokenizer` gives. Raises ValueError for one that draws
        which words it keeps, or whose vocabulary is not open_clip's and is no transformers one."""
        from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer

        self.tokenizer = tokenizer
        self.simple = isinstance(tokenizer, SimpleTokenizer)
        if self.simple:
            if getattr(tokenizer, "reduction_fn", None) is not None:
                raise ValueError(
                    "the tokenizer drops words at random (reduction_mask): make one without"
                )
            self.entries = len(tokenizer.encoder)
            if self.entries != ENTRIES:
                raise ValueError(
                    f"the tokenizer has {self.entries} entries, open_clip's own {ENTRIES}: "
                    "put a vocabulary of your own into an open_clip HFTokenizer"
                )
        elif isinstance(tokenizer, (HFTokenizer, SigLipTokenizer)):
            self.entries = len(tokenizer.tokenizer)
        else:
            raise ValueError(f"no tokenizer of open_clip: {type(tokenizer).__name__}")
        self.context_length = int(tokenizer.context_length)

    def ids(self, texts: Sequence[str]) -> Tensor:
        """(B, context_length), cut or padded, as the text tower was trained."""
        most = self.context_length * CHARACTERS  # what lies beyond is not tokenized
        ids: Tensor = self.tokenizer([_valid(text[:most]) for text in texts])
        return ids

    def places(self, ids: Tensor, causal: bool) -> list[int]:
        """Places of the real tokens of one row of ids: all but the padding, and where a word sees
        only what stands before it, without the start token, which is then the same for all texts.
        At least one."""
        if self.simple:  # its padding, 0, is an entry of its own ("!"), so the end token tells
            end = (ids == self.tokenizer.eot_token_id).nonzero()
            found = list(range(int(end[0]) + 1 if len(end) else len(ids)))
            starts: tuple[int | None, ...] = (self.tokenizer.sot_token_id,)
        else:
            inner = self.tokenizer.tokenizer
            found = (ids != inner.pad_token_id).nonzero()[:, 0].tolist()
            if inner.pad_token_id == inner.eos_token_id:  # SigLIP: the first of them is the end
                found += [len(found)] if len(found) < len(ids) else []
            starts = (inner.bos_token_id, inner.cls_token_id)
        if causal and len(found) > 1 and int(ids[found[0]]) in starts:
            found = found[1:]
        return found or [0]

    def label(self, entry: int) -> str:
        """What an id stands for, without the vocabulary's signs for beginnings and ends of words."""
        if self.simple:
            spelt = self.tokenizer.decode([entry]).strip()
            return spelt or str(self.tokenizer.decoder[entry])
        inner = self.tokenizer.tokenizer
        written = str(inner.convert_ids_to_tokens(entry))
        if entry in inner.all_special_ids:
            return written
        model = getattr(getattr(inner, "backend_tokenizer", None), "model", None)
        plain = inner.convert_tokens_to_string([written]).strip() or written
        return plain.removeprefix(getattr(model, "continuing_subword_prefix", None) or "") or plain

    def facts(self) -> dict[str, Any]:
        """What `load` needs beside the tokenizer's files; JSON values."""
        if self.simple:
            return {"kind": "clip", "context_length": self.context_length, "clean": self._clean}
        return {
            "kind": "transformers",
            "context_length": self.context_length,
            "clean": self._clean,
            "strip_sep_token": bool(getattr(self.tokenizer, "strip_sep_token", False)),
            "mode": str(getattr(self.tokenizer, "tokenizer_mode", "")),
        }

    @property
    def _clean(self) -> str:
        from open_clip.tokenizer import get_clean_fn

        own = getattr(self.tokenizer, "clean_fn", None)
        if own is None:  # SigLIP's
            return "canonicalize"
        for kind in CLEANING:
            if get_clean_fn(kind) is own:
                return kind
        raise ValueError(
            f"the tokenizer cleans texts in a way of its own: wanted one of {CLEANING}"
        )

    def save(self, folder: Path) -> None:
        """The tokenizer's files, where it is one of transformers."""
        if not self.simple:
            self.tokenizer.tokenizer.save_pretrained(str(Path(folder) / FOLDER))

    @classmethod
    def load(cls, facts: Mapping[str, Any], folder: Path) -> ClipTokenizer:
        """From `facts` and the files that `save` wrote. Raises ValueError where they do not fit."""
        from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

        length, clean = facts.get("context_length"), facts.get("clean")
        known = facts.get("kind") in ("clip", "transformers") and clean in CLEANING
        if not known or not isinstance(length, int) or not 1 <= length <= MAX_CONTEXT:
            raise ValueError(f"tokenizer: wanted kind, context_length and clean, got {dict(facts)}")
        if extra := set(facts) - KEYS:
            raise ValueError(f"tokenizer: unknown keys {sorted(extra)}")
        if facts["kind"] == "clip":
            return cls(SimpleTokenizer(context_length=length, clean=clean))
        place = Path(folder) / FOLDER
        if not (place / "tokenizer_config.json").is_file():
            raise ValueError(f"{place / 'tokenizer_config.json'} is missing: incomplete encoder")
        return cls(
            HFTokenizer(
                str(place),
                context_length=length,
                clean=clean,
                strip_sep_token=bool(facts.get("strip_sep_token", False)),
                tokenizer_mode=str(facts.get("mode", "")),
                local_files_only=True,
            )
        )


def _valid(text: str) -> str:
    """Lone surrogates become U+FFFD: no tokenizer takes them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
