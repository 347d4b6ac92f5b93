"""The training loop: transformers' Trainer, told what to log, to keep and when to stop.

AdamW with a constant learning rate and gradients clipped to norm 1; checkpoints hold optimizer,
generators of random numbers and position in the data, so that a training that was killed goes on
to the same weights. Nothing is reported anywhere. This module imports the Trainer, which takes a
while: it is imported when a training begins.
"""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)

from culnig_tl.attribution import launched
from culnig_tl.errors import InvalidInputError
from culnig_tl.files import read_json
from culnig_tl.finetuning.examples import Examples, collate
from culnig_tl.finetuning.settings import Settings

_COLUMNS = {"step": "step", "epoch": "epoch", "loss": "loss", "eval_loss": "validation_loss"}
_STATE = "trainer_state.json"  # the last file of a checkpoint


class _Progress(ProgressCallback):
    """A bar alone: losses are in the history."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        pass


def train(
    model: Any,
    examples: Examples,
    validation: Examples | None,
    *,
    settings: Settings,
    folder: Path,
    checkpoint: str | None,
    progress: bool,
) -> tuple[pd.DataFrame, float]:
    """Train what requires gradients, from a checkpoint on if there is one.

    Args:
        model: a transformers model, or peft's around one; trained in place.
        examples: what it is trained on.
        validation: what decides when to stop; None to train to the end.
        settings: see ``finetune``.
        folder: where checkpoints are.
        checkpoint: the one to go on from.
        progress: whether a bar is shown.

    Returns:
        Loss of every step (see ``FineTuned``), and seconds.

    Raises:
        InvalidInputError: the loss is no finite number.
    """
    trainer: Any = Trainer(
        model=model,
        args=_arguments(settings, folder),
        data_collator=collate,  # pyright: ignore[reportArgumentType]
        train_dataset=examples,  # pyright: ignore[reportArgumentType]
        eval_dataset=validation,  # pyright: ignore[reportArgumentType]
    )
    trainer.remove_callback(PrinterCallback)
    if progress:
        trainer.add_callback(_Progress)
    if settings.early_stop is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.early_stop))
    result = trainer.train(resume_from_checkpoint=checkpoint)
    history = _history(trainer.state.log_history)
    _check_finite(history, settings)
    return history, float(result.metrics["train_runtime"])


def last_checkpoint(folder: Path, n_processes: int = 1) -> str | None:
    """The latest whole checkpoint; those that were not written to their end are deleted."""
    by_step = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*")}
    for step in sorted(by_step, reverse=True):
        if _is_whole(by_step[step], n_processes):
            return str(by_step[step])
        shutil.rmtree(by_step[step])
    return None


def _is_whole(checkpoint: Path, n_processes: int) -> bool:
    state = checkpoint / _STATE  # each process has random numbers of its own
    if not state.is_file() or len(list(checkpoint.glob("rng_state*"))) < n_processes:
        return False
    try:
        read_json(state)
    except InvalidInputError:  # cut off as it was written
        return False
    return True


def _arguments(settings: Settings, folder: Path) -> TrainingArguments:
    every = settings.checkpoint_every
    is_half = settings.dtype == "bfloat16"
    watches = settings.early_stop is not None
    arguments = TrainingArguments(
        output_dir=str(folder),
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        weight_decay=settings.weight_decay,
        num_train_epochs=settings.epochs,
        max_steps=-1 if settings.max_steps is None else settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        bf16=is_half,
        use_cpu=(is_half or launched() is not None) and not torch.cuda.is_available(),
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no" if every is None else "steps",
        save_steps=every or 1,
        save_total_limit=1,
        eval_strategy="steps" if watches else "no",
        eval_steps=every if watches else None,
        load_best_model_at_end=watches,
        metric_for_best_model="loss" if watches else None,
        restore_callback_states_from_checkpoint=watches,
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,  # its bar prints every loss
        report_to=[],
    )
    arguments.report_to = []  # transformers adds some that it finds in the environment
    return arguments


def _history(log: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per step, with the validation loss where it was measured."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in log:
        kept = {name: entry[key] for key, name in _COLUMNS.items() if key in entry}
        if "loss" in kept or "validation_loss" in kept:
            rows.setdefault(entry["step"], {}).update(kept)
    names = [name for name in _COLUMNS.values() if any(name in row for row in rows.values())]
    return pd.DataFrame([rows[step] for step in sorted(rows)], columns=names)


def _check_finite(history: pd.DataFrame, settings: Settings) -> None:
    lost = history[~history["loss"].map(lambda loss: -1e30 < loss < 1e30)]
    if len(lost):
        raise InvalidInputError(
            f"The loss is {lost['loss'].iloc[0]} at step {lost['step'].iloc[0]}, no finite number; "
            f"train with a lower learning rate than {settings.learning_rate:g}, and in another "
            "folder."
        )
