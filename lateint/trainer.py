"""`Trainer`: transformers' trainer for models of single and multiple vectors, of any modality.

    trainer = Trainer(model, TrainingArguments("out", ...), train_dataset=pairs, loss=InfoNCE(),
                      evaluator=evaluator)
    trainer.train()

Several processes, bf16 and fp16, accumulation, schedulers, early stopping, resume, W&B and
TensorBoard, hub upload: as of `transformers.Trainer`, whose arguments and callbacks all hold. What
is here is what it does not know: several data sets and modalities in a step, goals on heads,
evaluators, LoRA, and checkpoints that are models of this library.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lateint import adapters
from lateint import training_files as files
from lateint.adapters import Lora
from lateint.card import Card, Facts, write_card
from lateint.data.batches import Batches, JoinedSets, Mix, batch_loader
from lateint.data.collate import Collate
from lateint.data.sets import TrainingSet
from lateint.data.stream import Stream
from lateint.learner import Learner, no_match
from lateint.losses import Loss
from lateint.model import LateInteractionModel
from lateint.objective import Goal
from lateint.training_arguments import TrainingArguments, hf
from lateint.training_inputs import (
    Evaluator,
    data_facts,
    describe,
    evaluators_of,
    goal_name,
    goals_of,
    is_scored,
    is_stream,
    reader_name,
    sets_of,
)


class Trainer(hf.Trainer):
    """Trains a model in place.

    Args:
        model: what `evaluator` is called with, and what is saved.
        args: see `TrainingArguments`.
        train_dataset: a `TrainingSet`, a `Stream`, a `datasets.Dataset` or a list of dicts (by
            position, as sentence-transformers has it); or name -> any of these but streams.
        eval_dataset: the same, for an `eval_loss`; streams have no end and are none.
        loss: a `Loss` (on the head "multi", or the model's first), a `Goal`, or a list of these,
            whose sum is made small; None: InfoNCE.
        evaluator: model -> {name: number}, called whenever the arguments say so; or several, as a
            list, or as name -> evaluator. Numbers are logged as eval_<name>; one of them may be
            `metric_for_best_model`.
        lora: adapters in the backbones. They are merged into the weights when `train` is done.
        card: what the model card says besides data, arguments and numbers.
        options: callbacks, optimizers and whatever else transformers.Trainer takes.

    `trainer.retriever` is the model; `trainer.learner`, which transformers calls `trainer.model`, is
    the `Learner` around it.

    Raises ValueError or TypeError: no data, heads or modalities that the model does not have,
    patterns that match nothing.
    """

    args: TrainingArguments
    control: Any

    def __init__(
        self,
        model: LateInteractionModel,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        loss: Loss | Goal | Sequence[Loss | Goal] | None = None,
        evaluator: Evaluator | Sequence[Evaluator] | Mapping[str, Evaluator] | None = None,
        *,
        lora: Lora | None = None,
        card: Card | None = None,
        callbacks: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        args = args or TrainingArguments("trainer_output")
        self.retriever = model
        self.lora = lora
        self.card = card or Card()
        self.evaluators = evaluators_of(evaluator)
        self._batches: Batches | None = None
        self._parts: list[Tensor] = []
        self._frozen: list[nn.Parameter] = []  # by adapters
        goals = goals_of(loss, model)
        learner = Learner(
            model,
            goals,
            cached=args.budget_tokens is not None,
            exclude_duplicates=args.exclude_duplicates,
        )
        self.learner = learner
        learner.freeze(args.freeze)
        for pattern in args.learning_rates:
            if not any(re.search(pattern, name) for name in learner.named_trainable()):
                raise ValueError(no_match(pattern, learner.named_trainable()))
        self.eval_sets = {} if eval_dataset is None else sets_of(eval_dataset)
        train: Any = None
        self.train_sets: dict[str, TrainingSet] = {}
        if isinstance(train_dataset, Stream) or is_stream(train_dataset):
            train = train_dataset if isinstance(train_dataset, Stream) else Stream(train_dataset)
        elif train_dataset is not None:
            self.train_sets = sets_of(train_dataset)
            train = JoinedSets(list(self.train_sets.values()))
        scored = is_scored(train, self.train_sets)
        if train is not None and not scored and any(goal.needs_teacher for goal in goals):
            raise ValueError("a loss learns from a teacher's scores, and no data set has scores")
        hard = scored or any(data.has_negatives for data in self.train_sets.values())
        super().__init__(
            model=learner,
            args=args,
            data_collator=Collate(
                model_encoders(model),
                args.budget_tokens,
                candidates=hard or args.world_size > 1,
                scored=scored,
            ),
            train_dataset=train,
            # transformers wants to see one wherever it is told to evaluate
            eval_dataset=self.eval_sets or ({} if self.evaluators else None),
            callbacks=[_Epochs(self), *callbacks],
            **options,
        )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("FSDP and DeepSpeed are not supported: run it under torchrun (DDP)")

    # -- data -----------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        """This process's steps."""
        if self.train_dataset is None:
            raise ValueError("nothing to train on: give train_dataset")
        if not isinstance(self.train_dataset, Stream):
            self._batches = self._steps(self.train_dataset, train=True)
            return batch_loader(self._batches, self.data_collator, **self._loading())
        from torch.utils.data import DataLoader

        self.train_dataset.share(self.args.world_size, self.args.process_index)
        return DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            **self._loading("num_workers"),
        )

    def _steps(self, data: JoinedSets, *, train: bool) -> Batches:
        args = self.args
        return Batches(
            data,
            self._train_batch_size if train else args.eval_batch_size,
            mix=cast(Mix, args.mix) if train else "proportional",
            no_duplicates=train and args.no_duplicates,
            shuffle=train and getattr(args, "train_sampling_strategy", "") != "sequential",
            drop_last=train and args.dataloader_drop_last,
            processes=args.world_size,
            rank=args.process_index,
            seed=args.seed if args.data_seed is None else args.data_seed,
        )

    def _loading(self, workers: str = "workers") -> dict[str, Any]:
        count = self.args.dataloader_num_workers
        options: dict[str, Any] = {workers: count}
        if count:
            options["persistent_workers"] = self.args.dataloader_persistent_workers
            options["prefetch_factor"] = self.args.dataloader_prefetch_factor
        return options

    # -- training -------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> Any:
        """As transformers.Trainer. resume_from_checkpoint=True: the last checkpoint that is whole
        (one that was cut short, by a kill or a full disk, is passed over)."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(files.last_checkpoint(self._folder()))
        if self.lora is not None and not adapters.has_adapters(self.retriever):
            self._frozen = adapters.inject(self.retriever, self.lora)
            self.retriever.to(self.args.device)
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **options)
        self.merge()
        self.learner.eval()
        return result

    def merge(self) -> None:
        """Merges adapters into the model, as `train` does at its end (and not when it raises)."""
        if not adapters.has_adapters(self.retriever):
            return
        adapters.merge(self.retriever, self._frozen)
        # the optimizer and a wrapped model hold parameters that are gone
        self.optimizer = self.lr_scheduler = None
        self.model_wrapped = self.model
        self.accelerator.free_memory()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The sum of the goals on a step."""
        outputs = model(inputs["step"])
        if model.training:
            self._parts.append(outputs["parts"])
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """With several goals, what each of them gave beside their sum."""
        goals = self.learner.goals
        if "loss" in logs and self._parts:
            if len(goals) > 1:
                mean = torch.stack(self._parts).mean(0)
                mean = self.accelerator.reduce(mean, reduction="mean")
                names = [goal_name(goal) for goal in goals]
                for place, (name, value) in enumerate(zip(names, mean.tolist(), strict=True)):
                    label = name if names.count(name) == 1 else f"{name} {place + 1}"
                    logs[f"loss/{label}"] = value
            self._parts.clear()
        super().log(logs, *arguments, **options)

    def create_optimizer(self, *arguments: Any, **options: Any) -> Any:
        """Groups with learning rates of their own where `args.learning_rates` says so."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(*arguments, **options)
        if made and self.args.learning_rates:
            names = {id(p): name for name, p in self.learner.named_trainable().items()}
            groups: dict[tuple[int, float], dict[str, Any]] = {}
            for place, group in enumerate(optimizer.param_groups):
                for parameter in group["params"]:
                    rate = self._rate(names.get(id(parameter), ""), group["lr"])
                    part = groups.setdefault((place, rate), {**group, "params": [], "lr": rate})
                    part["params"].append(parameter)
            ordinary = self.args.learning_rate  # first, because the first group's is logged
            ordered = sorted(groups.items(), key=lambda item: item[0][1] != ordinary)
            optimizer.param_groups[:] = [group for _, group in ordered]
        return optimizer

    def _rate(self, name: str, ordinary: float) -> float:
        for pattern, rate in self.args.learning_rates.items():
            if re.search(pattern, name):
                return float(rate)
        return ordinary

    # -- evaluation -----------------------------------------------------------------------------

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """The loss on the evaluation sets and the numbers of the evaluators (which run in the first
        process; the others wait for their numbers)."""
        sets = self.eval_sets if eval_dataset is None else sets_of(eval_dataset)
        if not sets and not self.evaluators:
            raise ValueError("nothing to evaluate: give eval_dataset or evaluator")
        begun = time.time()
        training = self.learner.training
        self.learner.eval()
        numbers = {
            f"{metric_key_prefix}_{f'{name}_' if len(sets) > 1 else ''}loss": self._loss_of(data)
            for name, data in sets.items()
        }
        numbers |= {f"{metric_key_prefix}_{key}": v for key, v in self._measure().items()}
        self.learner.train(training)
        numbers[f"{metric_key_prefix}_runtime"] = round(time.time() - begun, 3)
        self.log(numbers)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, numbers
        )
        return numbers

    def _loss_of(self, data: TrainingSet) -> float:
        batches = self._steps(JoinedSets([data]), train=False)
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad(), self.accelerator.autocast():
            for inputs in batch_loader(batches, self.data_collator, **self._loading()):
                step = inputs["step"]
                loss = float(self.model(step)["loss"])
                total += torch.tensor([loss * len(step), len(step)], dtype=torch.float64)
        total = self.accelerator.reduce(total.to(self.args.device, torch.float32), reduction="sum")
        if not total[1]:
            raise ValueError(f"{data.name}: fewer evaluation examples than processes")
        return float(total[0] / total[1])

    def _measure(self) -> dict[str, float]:
        numbers: dict[str, float] = {}
        if self.evaluators and self.is_world_process_zero():
            with torch.no_grad(), self.accelerator.autocast():
                for name, evaluator in self.evaluators.items():
                    for key, value in evaluator(self.retriever).items():
                        full = f"{name}/{key}" if name else key
                        if full in numbers:
                            raise ValueError(f"two evaluators give {full!r}: name them in a dict")
                        numbers[full] = float(value)
        if self.args.world_size > 1 and self.evaluators:
            from accelerate.utils import broadcast_object_list

            numbers = broadcast_object_list([numbers])[0]
        return numbers

    # -- saving ---------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            files.save(
                Path(output_dir or self._folder()),
                self.learner,
                write_card(self.card, self._facts()),
                json.loads(json.dumps(self.args.to_dict(), default=str)),
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        files.load(Path(resume_from_checkpoint), self.learner)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # transformers copies the files that it knows to output_dir and uploads that
        self._save(self.args.output_dir)
        super()._push_from_checkpoint(checkpoint_folder)

    def create_model_card(self, **facts: Any) -> None:
        """Writes the card into output_dir; `model_name`, `language` and `license` as transformers
        has them go before those of `card`."""
        given = self.card
        language = facts.get("language") or given.language
        card = Card(
            facts.get("model_name") or given.name,
            facts.get("license") or given.licence,
            (language,) if isinstance(language, str) else tuple(language),
            given.base,
            given.text,
        )
        if self.is_world_process_zero():
            path = self._folder() / files.CARD
            path.write_text(write_card(card, self._facts()), encoding="utf-8")

    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    def _facts(self) -> Facts:
        from lateint import __version__

        changed = {
            name: value
            for name, value in self.args.given.items()
            if not name.endswith(("_token", "_dir"))
        }
        if self.lora is not None:
            changed["lora"] = self.lora
        model = self.retriever
        return Facts(
            encoders={m: reader_name(model.encoder(m)) for m in model.encoders},
            heads={kind: model.head_dim(kind) for kind in model.heads},
            data=data_facts(self.train_dataset, self.train_sets),
            goals=[describe(goal) for goal in self.learner.goals],
            arguments=changed,
            history=self.state.log_history,
            step=self.state.global_step,
            versions={
                "lateint": __version__,
                "torch": torch.__version__,
                "transformers": hf.__version__,
            },
        )


class _Epochs(hf.TrainerCallback):
    """Tells the plan of steps which epoch begins, when resumed in the middle of one too."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if self.trainer._batches is not None:
            self.trainer._batches.set_epoch(int((state.epoch or 0) + 1e-6))


def model_encoders(model: LateInteractionModel) -> dict[str, Any]:
    """Encoders by modality."""
    return {modality: model.encoder(modality) for modality in model.encoders}
