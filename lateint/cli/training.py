"""The command that trains: train.

A thin skin over `lateint.training_config`; heavy imports are inside the command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lateint.cli.shared import Json, print_json, say


def train(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="A TOML file; see --example.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last whole checkpoint.")
    ] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Print a file with every table, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a model as a TOML file says. The finished model is in OUTPUT/model.

    The tables are model, data, loss, distil, evaluate, eval_data, lora, card and arguments; --example
    prints a file that has them all, with comments. Several processes: torchrun --nproc-per-node 2
    -m lateint.cli train config.toml. Needs pip install 'lateint[train]'.
    """
    if example:
        from lateint.training_config import EXAMPLE

        print(EXAMPLE, end="")
        return
    if config is None:
        raise typer.BadParameter("wanted CONFIG, a TOML file (--example prints one)")
    from lateint.training_config import build, read_config

    run = read_config(config)
    trainer = build(run, config.parent)
    output = trainer.train(resume_from_checkpoint=resume)
    folder = config.parent / run.output / "model"
    numbers = trainer.evaluate() if trainer.evaluators or trainer.eval_sets else {}
    trainer.save_model(str(folder))
    if not trainer.is_world_process_zero():
        return
    if as_json:
        print_json({"model": str(folder), "steps": output.global_step, "numbers": numbers})
        return
    for name, value in numbers.items():
        say(f"{name.removeprefix('eval_')}  {value:.4f}")
    print(f"{output.global_step} steps, loss {output.training_loss:.4f}; the model is in {folder}")
