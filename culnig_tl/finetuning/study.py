"""Does fine-tuning where culture lives cost culture? Arms and seeds, before and after.

    arm: modules -> finetune -> answers to task, cultural and general benchmarks -> drift of neurons
    all arms and seeds -> change_table, difference_table (see ``changes``) -> trade-off figure

| arm | what is trained |
|---|---|
| ``top`` | the modules with most culture neurons, to a budget of parameters |
| ``bottom`` | those with fewest |
| ``random`` | modules drawn anew for each seed, to the same budget |
| ``all`` | every parameter |
| ``protect`` | those of ``top``, the culture neurons' own weights held as they are |
| ``protect all`` | every parameter but those |

``protect`` differs from ``top`` in nothing but the mask, and the densest modules are where there is
most to protect; so its difference from ``top`` is what protection is worth.

The paper (arXiv 2510.08284) compares ``top`` and ``bottom``, one training each. Every seed here is
a training of its own (order of the rows), and all arms share the seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import plotly.graph_objects as go
from tqdm.auto import tqdm

from culnig_tl.attribution import require_single_process
from culnig_tl.errors import InvalidInputError, check_by_name, check_choice, check_seed, check_some
from culnig_tl.evaluation import Mode, check_answerable, same_rows, warn
from culnig_tl.figures import trade_off
from culnig_tl.files import RunFolder
from culnig_tl.finetuning.changes import BEFORE, change_table, difference_table
from culnig_tl.finetuning.modules import rank_modules, select_modules
from culnig_tl.finetuning.pieces import TASK, Arm, Piece, answers_of
from culnig_tl.finetuning.settings import Method, Settings
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import load_model, model_fingerprint
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare

ARMS: tuple[Arm, ...] = ("top", "bottom", "random", "all", "protect")


@dataclass(frozen=True, eq=False)
class FineTuningStudy:
    """What ``finetuning_study`` measured.

    Attributes:
        answers: one row per arm, seed, benchmark and prompt: id, culture, topic, correct,
            probability; arm ``"before"`` is the model as it was.
        runs: one row per arm and seed: modules, n_weights (matrices and
            vectors that were trained), loss (mean of the last tenth of the
            steps), seconds, n_found and jaccard (of the set found afterwards; NaN without
            ``find``).
        drift: one row per arm, seed and group of MLP neurons (in_set: culture neurons or others;
            trained: in a module that was trained or not): n_neurons, and the means of
            weight_change and activation_change.
    """

    answers: pd.DataFrame
    runs: pd.DataFrame
    drift: pd.DataFrame

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Before, after and change of every benchmark and arm (see ``change_table``)."""
        return change_table(self.answers)

    @cached_property
    def differences(self) -> pd.DataFrame:
        """Pairs of arms against each other (see ``difference_table``)."""
        return difference_table(self.answers)

    @classmethod
    def joined(cls, studies: Sequence["FineTuningStudy"]) -> "FineTuningStudy":
        """One study of the seeds and arms of several, which other processes may have made.

        Raises:
            InvalidInputError: none, or studies whose models answered differently before.
        """
        check_some("studies", studies)
        before = [each.answers[each.answers["arm"] == BEFORE] for each in studies]
        if not all(other.equals(before[0]) for other in before):
            raise InvalidInputError(
                f"These {len(studies)} studies began from different answers; join studies of the "
                "same model, task and benchmarks."
            )
        tuned = [each.answers[each.answers["arm"] != BEFORE] for each in studies]
        return cls(
            pd.concat([before[0], *tuned], ignore_index=True),
            pd.concat([each.runs for each in studies], ignore_index=True),
            pd.concat([each.drift for each in studies], ignore_index=True),
        )

    def figure(self, *, value: Literal["accuracy", "probability"] = "accuracy") -> go.Figure:
        """Gain on the task against what becomes of every benchmark, an arrow per arm."""
        return trade_off(self.frame, task=TASK, value=value)


def finetuning_study(
    model: str | Path,
    task_rows: Rows,
    task_test: Rows,
    *,
    neurons: NeuronSet,
    benchmarks: Mapping[str, Rows],
    out: str | Path,
    arms: Sequence[Arm] = ARMS,
    seeds: Sequence[int] = range(5),
    share: float = 0.10,
    kind: Literal["mlp", "attn", "both"] = "mlp",
    method: Method = "direct",
    learning_rate: float = 3e-5,
    epochs: float = 1,
    batch_size: int = 4,
    accumulation: int = 4,
    mode: Mode = "argmax",
    find: Callable[[HookedModel], NeuronSet] | None = None,
    token_budget: int = 8192,
    keep: bool = False,
    progress: bool = True,
) -> FineTuningStudy:
    """Fine-tune chosen modules on a task, and see what it does to culture and to everything else.

    A study that was stopped goes on from its folder.

    Args:
        model: a name or folder as ``load_model`` takes it.
        task_rows: what it is trained on.
        task_test: what shows whether it learnt that; other prompts.
        neurons: culture neurons, which rank the modules and are protected; found on other rows.
        benchmarks: cultural and general questions by name.
        out: folder of the study.
        arms: see above.
        seeds: of the trainings, and of the choice of ``random``; one training each.
        share, kind: budget and kind of modules, as in ``select_modules``.
        method, learning_rate, epochs, batch_size, accumulation: as in ``finetune``.
        mode: what counts as an answer, as in ``evaluate``.
        find: finds culture neurons in a model, to compare the set found afterwards with
            ``neurons``; what it does is not seen by the folder: take another one for another rule.
        token_budget: tokens per pass; prepared questions have their own.
        keep: keep the fine-tuned models, in ``models/ARM-SEED``, some GB each for large ones.
        progress: show progress bars.

    Returns:
        Tables and a figure; ``changes.csv``, ``differences.csv``, ``runs.csv`` and ``drift.csv``
        lie in the folder.

    Raises:
        InvalidInputError: arms, seeds, rows or neurons that cannot be used, a benchmark called
            ``"task"``, prompts of the task that are in its test too, or several processes that were
            launched together; before any training.

    Warns:
        UserWarning: the neurons were found on the very rows of a benchmark.

    Example:
        >>> import tempfile, culnig_tl as ct
        >>> rows, test = (ct.load_benchmark("atlas-sums", split=split, limit=8)
        ...               for split in ("identify", "test"))
        >>> facts = ct.load_benchmark("atlas", split="test", limit=8)
        >>> study = finetuning_study("atlas", rows, test, neurons=ct.answer_key("general"),
        ...     benchmarks={"culture": facts}, out=tempfile.mkdtemp(), arms=["top"], seeds=[0],
        ...     progress=False)
        >>> study.frame["benchmark"].tolist()
        ['task', 'culture']
    """
    require_single_process()
    _check(arms, seeds, benchmarks)
    hooked = load_model(model)
    ready = partial(prepare, hooked, token_budget=token_budget)
    task, tests = ready(task_rows), {TASK: ready(task_test)}
    tests |= {name: ready(rows) for name, rows in benchmarks.items()}
    for each in tests.values():
        check_answerable(each, mode)
    _check_held_out(task, tests[TASK])
    ranking = rank_modules(neurons, hooked)
    select_modules(ranking, share=share, kind=kind)
    warn(same_rows([neurons], tests))
    training: dict[str, Any] = {
        "method": method,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulation": accumulation,
    }
    Settings(  # refuses what finetune would, before the folder is touched
        **training,
        weight_decay=0.0,
        seed=0,
        dtype="float32",
        lora_rank=8,
        max_steps=None,
        checkpoint_every=None,
        early_stop=None,
    )
    identity = {
        "study": 1,
        "model": model_fingerprint(hooked),
        "tests": {name: each.fingerprint for name, each in tests.items()},
        "mode": mode,
    }
    with RunFolder(out, identity) as folder:
        before = folder.frame("before.parquet", {}, lambda: answers_of(tests, mode, BEFORE, 0))
        pieces = []
        for arm, seed in tqdm(list(product(arms, seeds)), desc="trainings", disable=not progress):
            which = arm if arm in ("top", "bottom", "random") else "top"
            modules = select_modules(ranking, which=which, share=share, kind=kind, seed=seed)
            piece = Piece(
                source=model,
                arm=arm,
                seed=seed,
                modules=None if arm.endswith("all") else tuple(modules),
                neurons=neurons,
                task=task,
                tests=tests,
                mode=mode,
                training=training,
                find=find,
                progress=progress,
            )
            pieces.append(piece.measured(folder, keep=keep))
        tuned, runs, moved = (list(each) for each in zip(*pieces, strict=True))
        study = FineTuningStudy(
            pd.concat([before, *tuned], ignore_index=True),
            pd.DataFrame(runs),
            pd.concat(moved, ignore_index=True),
        )
        _write(folder, study)
        folder.check_complete()
    return study


def _check(arms: Sequence[str], seeds: Sequence[int], benchmarks: Mapping[str, Rows]) -> None:
    check_some("arms", arms)
    check_some("seeds", seeds)
    check_by_name("benchmarks", benchmarks)
    for arm in arms:
        check_choice("arm", arm, get_args(Arm))
    for seed in seeds:
        check_seed(seed)
    for name, values in (("arms", arms), ("seeds", seeds)):
        if len(set(values)) < len(values):
            raise InvalidInputError(f"{name} is {list(values)}; give each of them once.")
    if taken := {TASK, BEFORE} & set(benchmarks):
        raise InvalidInputError(
            f"A benchmark is called {taken.pop()!r}, which a study calls its own; give another "
            "name."
        )


def _check_held_out(task: PreparedQuestions, test: PreparedQuestions) -> None:
    """Refuse a test of prompts that were trained on."""
    if n_shared := sum(prompt in set(task.prompts) for prompt in test.prompts):
        raise InvalidInputError(
            f"{n_shared} of {len(test)} prompts that test the task are among the {len(task)} that "
            "it is trained on; keep them apart (ct.split, or another half)."
        )


def _write(folder: RunFolder, study: FineTuningStudy) -> None:
    """The tables, to be read by anything."""
    for name, frame in {
        "changes": study.frame,
        "differences": study.differences,
        "runs": study.runs,
        "drift": study.drift,
    }.items():
        folder.csv(f"{name}.csv", frame)
