"""The words that speech is likely to be made of: modalities/weights/english.txt.

    python scripts/english_words.py DATA

The most frequent words of WordNet's glosses and of Debian's package descriptions, those that both
use (so no package's name), most frequent first. The asterisk prompts, which speech is measured on,
are not looked at.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from speech_data import SMALL, TENS, wordnet
from token_data import descriptions

from modalities import words
from modalities.hearing import ENGLISH, LATIN

MOST = 20_000
TARGET = Path(__file__).parent.parent / "modalities" / "weights" / ENGLISH


def counted(texts: list[str]) -> Counter[str]:
    return Counter(
        word for text in texts for word, _, _ in words.split(text) if set(word) <= set(LATIN)
    )


def main() -> None:
    data = Path(sys.argv[1])
    glosses, lemmas = wordnet(data / "pkg" / "wordnet-base")
    told = counted(glosses)
    packages = counted([f"{short} {long}" for _, short, long in descriptions(data)])
    single = {lemma for lemma in lemmas if lemma.isalpha()} | set(told)
    share = {  # of either kind of text, so that the larger does not decide
        word: told[word] / told.total() + packages[word] / packages.total()
        for word in set(told) | set(packages)
        if len(word) < 16 and word in single and (told[word] > 1 or packages[word] > 4)
    }
    found = sorted(share, key=lambda word: (-share[word], word))[:MOST]
    found += [w for w in (*SMALL, *TENS, *LATIN) if w not in set(found)]
    TARGET.write_text("\n".join(found) + "\n", "ascii")
    print(len(found), TARGET.stat().st_size, found[:30])


if __name__ == "__main__":
    main()
