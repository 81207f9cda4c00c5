"""Words and their fixed vectors: what a page reader aims at and what a query starts from.

A word's vector is a sum over its characters of random codes bound together (a tensor sketch of
its character uni-, bi- and trigrams), so it needs no vocabulary and no stored table: words never
seen in training, names and numbers get vectors that are near those of words spelt like them.
Because the sketch is a product of per-character codes, a network that is unsure between two
characters can put its probabilities where a speller puts one-hot rows, and gets the expectation.

Cyrillic and Greek letters are folded by look: one that is drawn like a Latin letter is that letter
(an "а" of a Russian word has the code of "a"), the others have codes of their own. A reader of
pixels cannot tell more, and a query's words are folded just so.

This module knows characters only: no pixels, no layout, no retrieval.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

LATIN = "abcdefghijklmnopqrstuvwxyz0123456789"
CYRILLIC = "бгджзилпфцчшщъыьэюяє"  # those not drawn like a Latin letter
GREEK = "δζθλμξσψ"  # those not drawn like a Latin or Cyrillic one
LETTERS = LATIN + CYRILLIC + GREEK
OTHER = len(LETTERS)  # a letter or digit outside LETTERS after folding
BOUNDARY = OTHER + 1  # as a neighbour: the word begins or ends here
CLASSES = OTHER + 1  # of a character
NEIGHBOURS = BOUNDARY + 1  # of a character's neighbour
WIDTH = 256  # of a word's vector

_CODE = {letter: i for i, letter in enumerate(LETTERS)}
_LOOKS = dict(  # as small capitals or as small letters, whichever is met more
    zip(
        "авекмнорстухіјѕһґѓћђџαβγεηικνοπρςτυφχω",
        "abekmhopctyxijshггhhцabгenikvoпpσtuфxw",
        strict=True,
    )
)
_FOLD = {
    "ß": "ss",
    "æ": "ae",
    "œ": "oe",
    "ø": "o",
    "đ": "d",
    "ð": "d",
    "ł": "l",
    "þ": "th",
    "ı": "i",
    "љ": "ль",
    "њ": "hь",
    **_LOOKS,
}
_RUN = re.compile(r"[^\W_]+")
MAX_LETTERS = 40  # of one word; longer runs are data, not language


@lru_cache(maxsize=10_000)
def fold(character: str) -> str:
    """Lower case, without accents, ligatures taken apart, by look: "É" -> "e", "ﬁ" -> "fi",
    "в" -> "b"; "" for marks."""
    low = character.lower()
    if low in _FOLD:
        return _FOLD[low]
    parts = unicodedata.normalize("NFKD", low)
    return "".join(_FOLD.get(p, p) for p in parts if p.isalnum())


def split(text: str) -> Iterator[tuple[str, int, int]]:
    """The words of a text: (folded word, start, end), runs of letters and digits.

    Punctuation, underscores and white space divide words, so `warm-up` is two. A run without
    any of LETTERS (another script) is left out: all such runs of a length would look the same.
    """
    for run in _RUN.finditer(text):
        word = "".join(fold(c) for c in run.group())[:MAX_LETTERS]
        if not _CODE.keys().isdisjoint(word):
            yield word, run.start(), run.end()


def codes(word: str) -> list[int]:
    """Class of each character of a folded word."""
    return [_CODE.get(character, OTHER) for character in word]


@cache
def codebook() -> Tensor:
    """The fixed random codes, (6, NEIGHBOURS, WIDTH) fp32 on the CPU, entries +1 or -1.

    One for a character alone, two for a bigram's places, three for a trigram's. Bits of SHA-256
    in counter mode: the same on every machine and release, so nothing has to be stored. Each
    letter that came later has a stream of its own, so that no word's vector ever moves.
    """
    first = _codes(b"words", len(LATIN) + 2)
    later = [_codes(b"letter %d" % ord(letter), 1) for letter in LETTERS[len(LATIN) :]]
    table = np.concatenate([first[:, : len(LATIN)], *later, first[:, len(LATIN) :]], axis=1)
    with torch.inference_mode(False):  # made once, used in training as well
        return torch.from_numpy(table)


def _codes(name: bytes, letters: int) -> np.ndarray:
    count = 6 * letters * WIDTH
    blocks = (sha256(b"lateint %s %d" % (name, i)).digest() for i in range(count // 256 + 1))
    bits = np.unpackbits(np.frombuffer(b"".join(blocks), dtype=np.uint8))[:count]
    return (bits.astype(np.float32) * 2 - 1).reshape(6, letters, WIDTH)


UNIGRAM, BIGRAM, TRIGRAM = 0.5, 1.0, 1.0  # shares in the sketch; trigrams tell words apart best


def sketch(book: Tensor, before: Tensor, here: Tensor, after: Tensor) -> Tensor:
    """What one character adds to its word's vector, in expectation over its neighbours.

    before, after: (N, NEIGHBOURS), here: (N, CLASSES): probabilities (one-hot when spelt).
    Returns (N, WIDTH).
    """
    here = torch.nn.functional.pad(here, (0, NEIGHBOURS - here.shape[1]))
    bigram = (before @ book[1]) * (here @ book[2])
    trigram = (before @ book[3]) * (here @ book[4]) * (after @ book[5])
    return UNIGRAM * (here @ book[0]) + BIGRAM * bigram + TRIGRAM * trigram


def _class_of(letters: np.ndarray) -> np.ndarray:
    """Code points of folded words, a line each -> classes, BOUNDARY for ends of lines."""
    table = np.full(int(letters.max(initial=0)) + 1, OTHER, np.int64)
    for letter, code in {**_CODE, "\n": BOUNDARY}.items():
        if ord(letter) < len(table):
            table[ord(letter)] = code
    return table[letters]


def vectors(words: Sequence[str]) -> Tensor:
    """Unit vectors of folded words, (len(words), WIDTH) fp32."""
    book = codebook()
    if not words:
        return torch.zeros(0, WIDTH)
    letters = np.frombuffer("\n".join(words).encode("utf-32-le"), np.uint32)
    framed = np.concatenate([[BOUNDARY], _class_of(letters), [BOUNDARY]])
    inside = np.flatnonzero(letters != ord("\n"))
    before, here, after = (torch.from_numpy(framed[inside + i]) for i in range(3))
    starts = torch.tensor([0] + [len(word) for word in words[:-1]]).cumsum(0)
    # a vocabulary of 50,000 words has 400,000 characters, of which 20,000 stand differently
    place = (before * NEIGHBOURS + here) * NEIGHBOURS + after
    distinct, which = place.unique(return_inverse=True)

    def one_hot(index: Tensor, size: int) -> Tensor:
        return torch.nn.functional.one_hot(index % NEIGHBOURS, size).float()

    parts = sketch(
        book,
        one_hot(distinct // NEIGHBOURS**2, NEIGHBOURS),
        one_hot(distinct // NEIGHBOURS, CLASSES),
        one_hot(distinct, NEIGHBOURS),
    )
    total = torch.nn.functional.embedding_bag(which, parts, starts, mode="sum")
    return torch.nn.functional.normalize(total, dim=1)
