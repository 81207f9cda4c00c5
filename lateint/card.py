"""The model card: README.md of a saved model, so that whoever finds it knows what it is.

Facts only: what it was trained on and under which licences, with which arguments, and what was
measured. Numbers come from the run's own log. Knows text; no model and no trainer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EVALUATIONS = 20  # rows of the table of numbers: the last ones


@dataclass(frozen=True)
class DataFacts:
    """One data set. size: examples; None: a stream. columns: as "query: question (text)"."""

    name: str
    size: int | None
    licence: str = ""
    source: str = ""
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """What a person says of a model; the rest of the card is written by the trainer.

    name: title. licence: of the weights, as SPDX writes it. language: codes ("en", "de"). base:
    what the weights started from. text: a paragraph or more, put first.
    """

    name: str = ""
    licence: str = ""
    language: tuple[str, ...] = ()
    base: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Facts:
    """What the trainer knows. encoders: modality -> what reads it. heads: kind -> width. arguments:
    those that are not the defaults. history: the log, oldest first. versions: library -> version.
    place: what `lateint.load` is called with."""

    encoders: Mapping[str, str]
    heads: Mapping[str, int]
    data: Sequence[DataFacts]
    goals: Sequence[str]
    arguments: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    step: int
    versions: Mapping[str, str] = field(default_factory=dict)
    place: str = '"path/of/this/folder"'


def write_card(card: Card, facts: Facts) -> str:
    """The card as Markdown with a YAML head, as model hubs read it."""
    title = card.name or "Late interaction model"
    parts = [_head(card, facts), f"# {title}"]
    if card.text:
        parts.append(card.text.strip())
    parts += [_what(facts), _use(facts), _data(facts.data), _training(facts), _numbers(facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(card: Card, facts: Facts) -> str:
    # JSON's strings are YAML's too: names cannot break out of the head
    multi = "multi" in facts.heads
    lines = ["---", "library_name: lateint", "pipeline_tag: sentence-similarity", "tags:"]
    tags = ["late-interaction", "multi-vector"] if multi else ["single-vector"]
    lines += [f"- {json.dumps(tag)}" for tag in ("lateint", *tags, *facts.encoders)]
    for key, values in (("language", card.language), ("base_model", card.base)):
        if values:
            lines += [f"{key}:", *(f"- {json.dumps(value)}" for value in values)]
    if card.licence:
        lines.append(f"license: {json.dumps(card.licence.lower())}")
    lines += ["datasets:", *(f"- {json.dumps(one.name)}" for one in facts.data)]
    return "\n".join([*lines, "---"])


def _what(facts: Facts) -> str:
    rows = [f"| {modality} | {_cell(reader)} |" for modality, reader in facts.encoders.items()]
    heads = ", ".join(f"{kind} ({width})" for kind, width in facts.heads.items())
    return "\n".join(
        ["## What it is", "", "| modality | encoder |", "|---|---|", *rows, "", f"Heads: {heads}."]
    )


def _use(facts: Facts) -> str:
    modality = next(iter(facts.encoders))
    return (
        "## Use\n\n```python\nimport lateint\n\n"
        f"model = lateint.load({facts.place})\n"
        f'documents = model.encode_documents(items, modality="{modality}")\n```'
    )


def _data(data: Sequence[DataFacts]) -> str:
    lines = ["## Trained on", "", "| data | examples | licence | source | columns |"]
    lines.append("|---|---:|---|---|---|")
    for one in data:
        size = "stream" if one.size is None else f"{one.size:,}"
        cells = (one.name, size, one.licence or "not said", one.source, "; ".join(one.columns))
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _training(facts: Facts) -> str:
    lines = ["## Training", "", f"{facts.step} steps. Objectives:", ""]
    lines += [f"- `{_cell(goal)}`" for goal in facts.goals]
    if facts.arguments:
        lines += ["", "Arguments that are not the defaults:", ""]
        lines += [f"- {name}: `{_cell(str(value))}`" for name, value in facts.arguments.items()]
    if facts.versions:
        lines += ["", ", ".join(f"{name} {number}" for name, number in facts.versions.items())]
    return "\n".join(lines)


def _numbers(facts: Facts) -> str:
    ignored = ("_runtime", "_per_second")
    rows = [entry for entry in facts.history if any(key.startswith("eval_") for key in entry)]
    rows = rows[-EVALUATIONS:]
    names = list(
        dict.fromkeys(
            key
            for entry in rows
            for key in entry
            if key.startswith("eval_") and not key.endswith(ignored)
        )
    )
    losses = [entry["loss"] for entry in facts.history if "loss" in entry]
    lines = ["## Numbers", ""]
    if losses:
        lines += [f"Training loss at the end: {losses[-1]:.4f}.", ""]
    if names:
        heads = [_cell(name.removeprefix("eval_")) for name in names]
        lines += ["| step | " + " | ".join(heads) + " |", "|---:" * (1 + len(heads)) + "|"]
        for entry in rows:
            cells = [f"{entry[name]:.4f}" if name in entry else "" for name in names]
            lines.append(f"| {entry.get('step', '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines).rstrip() if len(lines) > 2 else ""


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
