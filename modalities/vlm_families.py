"""Vision-language families that page encoders are made of: one row each, no class.

A row says how a family's pages and texts become the inputs of its backbone, in the words of the
library that trains it: which transformers processor reads pictures, what text stands around one,
what is put behind a query, how image tokens lie on the page, and what its weights are called in
other people's files. Rows of transformers' own `*ForRetrieval` models and rows of colpali-engine's
(`engine-...`) are apart even where backbones are the same: their prompts and positions differ, so
their tokens do. Knows names and strings; imports neither torch nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AUGMENTATION = 10  # tokens behind a query, in which the backbone may write what it did not say
_DESCRIBE = "Describe the image."
_QWEN_PAGE = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
    f"{_DESCRIBE}<|im_end|><|endoftext|>"
)
_OMNI_SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
    "perceiving auditory and visual inputs, as well as generating text and speech."
)

Renames = tuple[tuple[str, str | None], ...]

# Names of weights, as any version of colpali-engine and transformers has written them, to one name
# for each: regular expressions, tried in order on what the one before left. Names of the backbone
# in memory go through the same rules. None: known and dropped, the head of a language model.
_ENGINE: Renames = (
    (r"^base_model\.model\.", ""),
    (r"^(model\.)?(custom_text_proj|linear)\.", "projection."),
    (r"(^|\.)lm_head\.weight$", None),
)
_QWEN: Renames = (
    *_ENGINE,
    (r"^model\.(visual|language_model)\.", r"\1."),
    (r"^model\.(layers|embed_tokens|norm)\.", r"language_model.\1."),
)


@dataclass(frozen=True)
class Family:
    """One way to make pages and texts into tokens.

    backbones: model types of the backbone's config that it goes with.
    processor: class of transformers.
    calls: who writes the prompts. "own": the processor (`process_images`, `process_queries`);
        "prompt": this row (`page`, `augmentation`); "chat": the processor's chat template, with
        `page` as the words beside the picture.
    lattice: how image tokens lie on the page. "square": one square lattice; "merged": the vision
        tower's patches, merged (`image_grid_thw`); "split": a lattice of square tiles, each with a
        square lattice of its own, and the whole page once more behind them; "rows": raw patches,
        a marker behind each row.
    page: text in which a page stands, or the words beside it.
    query: text before a query.
    system: a system message before it; None: none.
    augmentation: the token put ten times behind a query; "": the tokenizer's padding token; None:
        none, or the processor's own affair.
    bos: whether a query begins with the tokenizer's bos token, written out.
    positions: "model": as the backbone counts (in Qwen's, rows and columns of patches); "flat": 0,
        1, 2 ... whatever a token is.
    tasks: whether the chat template is told "query" or "document".
    dense: whether the mean of the hidden states was trained as a single vector (Matryoshka).
    bias: whether the projection has one.
    audio: whether it hears, too.
    renames: names of weights, as above, in colpali-engine's files; transformers renames its own.
    engine: its class in colpali-engine, which stands in the config.json of merged models.
    retrieval: the `*ForRetrieval` family of transformers that gives the same tokens; "": none does.
    """

    backbones: tuple[str, ...]
    processor: str
    calls: Literal["own", "prompt", "chat"]
    lattice: Literal["square", "merged", "split", "rows"]
    page: str = ""
    query: str = ""
    system: str | None = None
    augmentation: str | None = None
    bos: bool = False
    positions: Literal["model", "flat"] = "model"
    tasks: bool = False
    dense: bool = False
    bias: bool = True
    audio: bool = False
    renames: Renames = ()
    engine: str = ""
    retrieval: str = ""


FAMILIES: dict[str, Family] = {
    # transformers
    "colpali": Family(
        ("paligemma",), "ColPaliProcessor", "own", lattice="square", retrieval="colpali"
    ),
    "colqwen2": Family(
        # its forward pass hands embeddings, not ids, to the backbone, which then counts flat
        ("qwen2_vl",),
        "ColQwen2Processor",
        "own",
        lattice="merged",
        positions="flat",
        retrieval="colqwen2",
    ),
    "colmodernvbert": Family(
        ("modernvbert",),
        "ColModernVBertProcessor",
        "own",
        lattice="split",
        retrieval="colmodernvbert",
    ),
    "neomme": Family(
        ("neomme",),
        "NeoMMEProcessor",
        "chat",
        lattice="rows",
        tasks=True,
        dense=True,
        bias=False,
        retrieval="neomme",
    ),
    # colpali-engine
    "engine-colpali": Family(
        ("paligemma",),
        "PaliGemmaProcessor",
        "prompt",
        lattice="square",
        page=f"<image><bos>{_DESCRIBE}",
        augmentation="",
        bos=True,
        engine="ColPali",
        renames=(
            *_ENGINE,
            (r"^(model\.)+(language_model|vision_tower|multi_modal_projector)\.", r"\2."),
            (r"^language_model\.model\.", "language_model."),
            (r"^vision_tower\.vision_model\.", "vision_tower."),
        ),
    ),
    "engine-colqwen2": Family(
        ("qwen2_vl",),
        "Qwen2VLProcessor",
        "prompt",
        lattice="merged",
        page=_QWEN_PAGE,
        augmentation="<|endoftext|>",
        engine="ColQwen2",
        renames=_QWEN,
    ),
    "engine-colqwen2.5": Family(
        ("qwen2_5_vl",),
        "Qwen2VLProcessor",
        "prompt",
        lattice="merged",
        page=_QWEN_PAGE,
        augmentation="<|endoftext|>",
        engine="ColQwen2_5",
        renames=_QWEN,
    ),
    "engine-colqwen3": Family(
        ("qwen3_vl",),
        "Qwen3VLProcessor",
        "prompt",
        lattice="merged",
        page=_QWEN_PAGE,
        augmentation="<|endoftext|>",
        engine="ColQwen3",
        renames=(*_ENGINE, (r"^model\.", "")),
    ),
    "engine-colidefics3": Family(
        ("idefics3", "smolvlm"),
        "Idefics3Processor",
        "prompt",
        lattice="split",
        page=f"<|im_start|>User:<image>{_DESCRIBE}<end_of_utterance>\nAssistant:",
        augmentation="<end_of_utterance>",
        engine="ColIdefics3",
        renames=(*_ENGINE, (r"^model\.", "")),
    ),
    "engine-colmodernvbert": Family(
        ("modernvbert",),
        "Idefics3Processor",
        "prompt",
        lattice="split",
        page=f"<|begin_of_text|>User:<image>{_DESCRIBE}<end_of_utterance>\nAssistant:",
        augmentation="<end_of_utterance>",
        engine="ColModernVBert",
        retrieval="colmodernvbert",
        renames=(*_ENGINE, (r"^model\.", "")),
    ),
    "engine-colqwen-omni": Family(
        ("qwen2_5_omni_thinker",),
        "Qwen2_5OmniProcessor",
        "chat",
        lattice="merged",
        page="Describe the content.",
        query="Query: ",
        system=_OMNI_SYSTEM,
        augmentation="<|endoftext|>",
        audio=True,
        engine="ColQwen2_5Omni",
        renames=(
            *_ENGINE,
            (r"^thinker\.", ""),
            (r"^model\.(layers|embed_tokens|norm)\.", r"language_model.\1."),
            (r"^model\.", ""),
        ),
    ),
}
"""Name (in encoder.json too) -> its row."""
