"""One training of a study, and all that is measured of it; what its folder has is not made again.

finetune -> answers to the task and every benchmark -> record -> drift of the neurons
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from culnig_tl.evaluation import Mode, answers
from culnig_tl.files import RunFolder
from culnig_tl.finetuning.drift import drift
from culnig_tl.finetuning.training import finetune
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import load_model
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions, prepare

Arm = Literal["top", "bottom", "random", "all", "protect", "protect all"]
TASK = "task"
"""The name of the task among the benchmarks of a study."""
_KEPT = ["id", "culture", "topic", "benchmark", "correct", "probability"]


def answers_of(
    tests: Mapping[str, PreparedQuestions], mode: Mode, arm: str, seed: int
) -> pd.DataFrame:
    """Answers to every benchmark, one below the other."""
    frames = [
        answers(each, mode=mode).assign(benchmark=name)[_KEPT] for name, each in tests.items()
    ]
    return pd.concat(frames, ignore_index=True).assign(arm=arm, seed=seed)


@dataclass(frozen=True, eq=False)
class Piece:
    """One training of a study, and all that is measured of it."""

    source: str | Path
    arm: str
    seed: int
    modules: tuple[str, ...] | None
    neurons: NeuronSet
    task: PreparedQuestions
    tests: Mapping[str, PreparedQuestions]
    mode: Mode
    training: Mapping[str, Any]
    find: Callable[[HookedModel], NeuronSet] | None
    progress: bool

    def measured(
        self, folder: RunFolder, *, keep: bool
    ) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
        """Answers, record and drift, from the folder where they are there."""
        place = folder.path / "models" / self.name
        tuned = _Tuned(self, place)
        whole = (
            folder.frame(f"{self.name}.parquet", self.identity, tuned.answers),
            folder.record(f"{self.name}.json", self.identity | self._finds, tuned.record),
            folder.frame(f"{self.name}-drift.parquet", self.identity, tuned.drift),
        )
        if place.exists() and not keep:
            shutil.rmtree(place)
        return whole

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.arm.replace(' ', '-')}-{self.seed}"

    @property
    def identity(self) -> dict[str, Any]:
        """All that the fine-tuned weights depend on."""
        return {
            "arm": self.arm,
            "seed": self.seed,
            "modules": self.modules,
            "neurons": self.neurons.fingerprint,
            "task": self.task.fingerprint,
            **self.training,
        }

    @property
    def _finds(self) -> dict[str, Any]:
        return {"find": self.find is not None}


class _Tuned:
    """The fine-tuned model of a piece, trained when something of it is first asked for."""

    def __init__(self, piece: Piece, place: Path) -> None:
        self._piece = piece
        self._place = place

    @cached_property
    def _trained(self) -> Any:
        piece = self._piece
        return finetune(
            piece.source,
            piece.task,
            piece.modules,
            out=self._place,
            protect=piece.neurons if piece.arm.startswith("protect") else None,
            seed=piece.seed,
            progress=piece.progress,
            **piece.training,
        )

    @cached_property
    def _model(self) -> Any:
        return load_model(self._trained.folder)

    def answers(self) -> pd.DataFrame:
        piece = self._piece
        tests = {name: _for_model(self._model, each) for name, each in piece.tests.items()}
        return answers_of(tests, piece.mode, piece.arm, piece.seed)

    def record(self) -> dict[str, Any]:
        piece, losses = self._piece, self._trained.history["loss"].dropna()
        record = {
            "arm": piece.arm,
            "seed": piece.seed,
            "modules": "all" if piece.modules is None else ", ".join(piece.modules),
            "n_weights": len(self._trained.parameters),
            "loss": float(losses.tail(max(1, len(losses) // 10)).mean()),
            "seconds": self._trained.seconds,
            "n_found": None,
            "jaccard": None,
        }
        if piece.find is not None:
            after = piece.find(self._model)
            record |= {"n_found": len(after), "jaccard": after.jaccard(piece.neurons)}
        return record

    def drift(self) -> pd.DataFrame:
        piece = self._piece
        cultural = next(
            (each for each in piece.tests.values() if any(each.cultures)), piece.tests[TASK]
        )
        moved = drift(piece.source, self._trained.folder, neurons=piece.neurons, rows=cultural.rows)
        trained = {f"L{layer}.mlp" for layer in moved["layer"]}
        if piece.modules is not None:
            trained &= set(piece.modules)
        moved["trained"] = [f"L{layer}.mlp" in trained for layer in moved["layer"]]
        means = moved.groupby(["in_set", "trained"])[["weight_change", "activation_change"]]
        table = means.mean().assign(n_neurons=means.size()).reset_index()
        return table.assign(arm=piece.arm, seed=piece.seed)


def _for_model(model: HookedModel, prepared: PreparedQuestions) -> PreparedQuestions:
    """The same questions for the fine-tuned model, whose tokenizer is the same."""
    return prepare(
        model,
        prepared.rows,
        chat=prepared.chat,
        template=prepared.template,
        token_budget=prepared.token_budget,
    )
