"""`TextConfig`: what a text encoder is, apart from its backbone and its weights."""

from __future__ import annotations

import string
from dataclasses import dataclass

import torch

from modalities.dense import DenseConfig
from modalities.pooled import POOLING

MAX_LENGTH = 131_072  # tokens; lengths may come from a file
ROLES = ("query", "document")


@dataclass(frozen=True)
class TextConfig:
    """What a TransformerText is, apart from its backbone and its weights.

    dim: width of the tokens.
    query_length, document_length: tokens of one text, all that is added included; the rest of the
        text is cut off. Larger: more of the text is read, more tokens to keep and to score.
    query_marker, document_marker: vocabulary entry put after the first special token ([CLS], bos),
        or at the start where there is none; added to the vocabulary if new; None: no marker.
    query_expansion: pad queries with the expansion token; these are real tokens of the query, in
        which the backbone may write what the query did not say.
    attend_to_expansion: whether the backbone attends to expansion tokens. False as in PyLate.
    expansion_token: None: the mask token, or the end-of-text token where there is none.
    skiplist: vocabulary entries left out of a document's tokens (the backbone still reads them).
        Spelt as in the vocabulary: in byte-level ones "." and "Ġ." are two. A document that has
        nothing else keeps its tokens.
    query_prompt, document_prompt: put before the text, without a space of their own.
    dtype: of the weights.
    marker_place: place of the marker among the ids; None: as said above. 1 is PyLate's: second,
        even where the first is no special token.
    expansion_length: tokens that queries are padded to; None: query_length. Smaller: longer queries
        are not padded, nor cut before query_length (sentence-transformers' "min").
    expand_left: expansion tokens stand before the query instead of behind it.
    skiplist_roles: whose tokens the skiplist leaves out.
    keep_only: if given, all other vocabulary entries are left out of a document's tokens.
    strip: take white space off both ends of prompt and text, as PyLate does.
    dense: layers from the backbone to the tokens; None: one linear map without bias to `dim`;
        (): none, tokens are as the backbone gives them.
    pooling: one vector for the whole text besides (`modalities.pooled.POOLING`), over all tokens
        that the backbone attends to; None: heads take the mean of the tokens.
    pool_prompt: whether the prompt's tokens count in it.
    pooled_dense: whether that vector goes through the dense layers as tokens do; else it must have
        the width `dim` without them.
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
    marker_place: int | None = None
    expansion_length: int | None = None
    expand_left: bool = False
    skiplist_roles: tuple[str, ...] = ("document",)
    keep_only: tuple[str, ...] | None = None
    strip: bool = False
    dense: tuple[DenseConfig, ...] | None = None
    pooling: str | None = None
    pool_prompt: bool = True
    pooled_dense: bool = True

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, not {self.dim}")
        for name in ("query_length", "document_length"):
            if not 1 <= getattr(self, name) <= MAX_LENGTH:
                raise ValueError(f"{name} must be 1 to {MAX_LENGTH}, not {getattr(self, name)}")
        length = self.expansion_length
        if length is not None and not 1 <= length <= self.query_length:
            raise ValueError(
                f"expansion_length must be 1 to query_length ({self.query_length}), not {length}"
            )
        if self.marker_place is not None and self.marker_place not in (0, 1):
            raise ValueError(f"marker_place must be 0, 1 or null, not {self.marker_place}")
        for name in ("skiplist", "keep_only", "skiplist_roles"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a sequence of words, not one string")
        if wrong := sorted(set(self.skiplist_roles) - set(ROLES)):
            raise ValueError(f"skiplist_roles must be of {ROLES}, not {wrong}")
        if self.pooling is not None and self.pooling not in POOLING:
            raise ValueError(f"unknown pooling {self.pooling!r}; known: {POOLING}")
        if self.dense is not None:  # rows of a JSON file are dicts
            layers = tuple(DenseConfig(**x) if isinstance(x, dict) else x for x in self.dense)
            object.__setattr__(self, "dense", layers)
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"unknown dtype {self.dtype!r}")

    def length(self, role: str) -> int:
        """query_length or document_length."""
        return self.query_length if role == "query" else self.document_length

    def prompt(self, role: str) -> str:
        """query_prompt or document_prompt."""
        return self.query_prompt if role == "query" else self.document_prompt
