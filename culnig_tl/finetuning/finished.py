"""The folder of a fine-tuned model: it appears when it is whole, and says what made it.

    OUT.training/   checkpoints of a training that goes on, and its settings
    OUT.part/       the finished model while it is written
    OUT/            a Hugging Face folder, with finetuning.json

The record holds the settings, the fingerprints of the source model and of the rows, the names of
the parameters that moved and the loss of every step. A training with the same settings is returned
from the folder; one with others is refused.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from culnig_tl.errors import InvalidInputError, UnwritableError
from culnig_tl.files import Format, read_record, write_record

RECORD = "finetuning.json"
_FORMAT = Format("culnig_tl.FineTuned", 1, noun="fine-tuned model", writer="ct.finetune")
_STARTED = Format("culnig_tl.training", 1, noun="training", writer="ct.finetune")


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A fine-tuned model on disk; ``ct.load_model(it.folder)`` opens it.

    Attributes:
        folder: the Hugging Face folder.
        settings: what made it: the settings of ``finetune``, fingerprints of the source and rows.
        parameters: names of the parameters that were trained, as transformers gives them.
        history: columns step, epoch and loss (nats per answer token, one row per step) and, where
            there were validation rows, validation_loss.
        seconds: how long it trained, since it was last started.
    """

    folder: Path
    settings: dict[str, Any]
    parameters: tuple[str, ...]
    history: pd.DataFrame
    seconds: float

    def __repr__(self) -> str:
        losses = self.history["loss"].dropna()
        change = f", loss {losses.iloc[0]:.3f} to {losses.iloc[-1]:.3f}" if len(losses) else ""
        return (
            f"{self.folder.name}: {len(self.parameters)} weights trained in {len(losses)} "
            f"steps{change}"
        )


def training_folder(out: Path) -> Path:
    """Where checkpoints are while a model is trained."""
    return out.with_name(f"{out.name}.training")


def reopened(out: Path, settings: Mapping[str, Any]) -> FineTuned | None:
    """The finished model of a folder, None where there is none yet.

    Raises:
        InvalidInputError: the folder holds something else, or a model that other settings made.
        DamagedFileError: its record was changed.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / RECORD).is_file():
        raise InvalidInputError(
            f"{out} is there already and is no model that finetune wrote (it has no {RECORD}); "
            "give another folder."
        )
    content, recorded = read_record(out / RECORD, _FORMAT)
    _check_same(out, recorded, settings)
    _FORMAT.check_fields(out / RECORD, content, parameters=list, history=dict, seconds=(int, float))
    if training_folder(out).exists():  # stopped after the last file was written
        shutil.rmtree(training_folder(out))
    return FineTuned(
        folder=out,
        settings=recorded,
        parameters=tuple(content["parameters"]),
        history=pd.DataFrame(content["history"]),
        seconds=float(content["seconds"]),
    )


def start(out: Path, settings: Mapping[str, Any]) -> Path:
    """The folder for checkpoints, with the settings of this training in it.

    Raises:
        InvalidInputError: a training with other settings was begun there.
        UnwritableError: it cannot be written.
    """
    folder = training_folder(out)
    record = folder / "training.json"
    if record.exists():
        _check_same(folder, read_record(record, _STARTED)[1], settings)
    else:
        write_record(record, _STARTED, {}, identity=settings)
    return folder


def finish(
    out: Path,
    hf_model: PreTrainedModel,
    tokenizer: Any,
    *,
    settings: Mapping[str, Any],
    parameters: list[str],
    history: pd.DataFrame,
    seconds: float,
) -> None:
    """Write the finished folder whole or not at all, and delete the checkpoints.

    Raises:
        UnwritableError: it cannot be written.
    """
    part = out.with_name(f"{out.name}.part")
    content = {
        "parameters": parameters,
        "history": history.astype(object).where(history.notna(), None).to_dict("list"),
        "seconds": seconds,
    }
    try:
        shutil.rmtree(part, ignore_errors=True)
        hf_model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_record(part / RECORD, _FORMAT, content, identity=settings)
        part.replace(out)
        shutil.rmtree(training_folder(out))
    except OSError as error:
        if isinstance(error, UnwritableError):
            raise
        raise UnwritableError(
            f"{out} cannot be written ({error.strerror or error}); free some space, or choose a "
            "folder that you may write to, and start again: training goes on from its last "
            "checkpoint."
        ) from error


def _check_same(folder: Path, recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    differing = [name for name, value in settings.items() if recorded.get(name) != value]
    differing += [name for name in recorded if name not in settings]
    if differing:
        name = differing[0]
        raise InvalidInputError(
            f"{folder} holds a training with other {', '.join(differing)} ({name} was "
            f"{str(recorded.get(name))[:60]}, not {str(settings.get(name))[:60]}); give another "
            "folder, or delete it."
        )
