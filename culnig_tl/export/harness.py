"""Any task of lm-evaluation-harness on a model whose neurons are scaled.

    task of the harness -> its own prompts, log-likelihoods, metrics -> one table per set of neurons

``MaskedLM`` is the harness's own class for transformers models (``HFLM``), with the hooks of
``module_hooks`` around each of its forward passes and generations: everything else, from few-shot
examples to metrics, is the harness's. ``evaluate`` asks one loaded model as it is, with the
neurons scaled and with each random set scaled.

Needs the extra ``harness``, which is imported when the first of them is used.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel

from culnig_tl.atlas import EMBEDDED
from culnig_tl.errors import InvalidInputError, UnknownNameError, check_number, check_some
from culnig_tl.export.module_hooks import channels_of, check_factor, hooks_on
from culnig_tl.neurons import Listed, NeuronSet

NOTHING = NeuronSet.of({})


def __getattr__(name: str) -> Any:
    if name != "MaskedLM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _masked_lm()


def evaluate(
    model: Any,
    tasks: Sequence[str],
    neurons: NeuronSet | Listed,
    *,
    factor: float = 0.0,
    random: Sequence[NeuronSet] = (),
    include_path: str | Path | None = None,
    num_fewshot: int | None = None,
    limit: int | float | None = None,
    chat: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Results of the harness's tasks for a model as it is, masked, and with random sets masked.

    Args:
        model: a name or folder, a transformers model (with ``tokenizer=``), or a ``MaskedLM``.
        tasks: names of tasks or groups of the harness, or of those in ``include_path``.
        neurons: a set, or neurons by value or name.
        factor: what their activations are multiplied by, those of random sets too.
        random: sets to compare with, as ``random_neurons`` draws them.
        include_path: a folder with task files (.yaml) of your own.
        num_fewshot: examples before each question; by default as the task says.
        limit: questions per task, or their share if below 1.
        chat: whether prompts are put into the model's chat template.
        options: for ``MaskedLM``, and through it for ``HFLM``: ``batch_size``, ``dtype``, ...

    Returns:
        One row per task, metric, filter and set: task, metric, filter, condition (``"original"``,
        ``"masked"``, ``"random"``), draw (which random set), n_neurons, factor, value and stderr
        in the metric's own unit, NaN where the harness has none, and n_questions.

    Raises:
        InvalidInputError: lm-evaluation-harness is not installed, or neurons, a factor or a model
            as in ``MaskedLM``.
        UnknownNameError: a task that the harness does not know.

    Example:
        >>> evaluate("my-model", [], "L1.mlp.hook_post.17")
        Traceback (most recent call last):
        ...
        culnig_tl.errors.InvalidInputError: tasks is []; ...
    """
    check_some("tasks", tasks)
    check_number("factor", factor)
    manager = _task_manager(tasks, include_path)
    lm = _masked(model, options)
    sets = [("original", 0, NOTHING), ("masked", 0, NeuronSet.of(neurons))]
    sets += [("random", draw, each) for draw, each in enumerate(random)]
    masked = [lm.with_neurons(each, factor) for _, _, each in sets]  # refused before the first pass
    frames = []
    for (condition, draw, each), scaled in zip(sets, masked, strict=True):
        results = _harness().simple_evaluate(
            model=scaled,
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=chat,
            log_samples=False,
        )
        frames.append(
            pd.DataFrame(list(_rows(results))).assign(
                condition=condition,
                draw=draw,
                n_neurons=len(each),
                factor=float(factor) if condition != "original" else 1.0,
            )
        )
    return pd.concat(frames, ignore_index=True)[list(_COLUMNS)]


def comparison(results: pd.DataFrame) -> pd.DataFrame:
    """What ``evaluate`` returned, one row per task, metric and filter.

    Returns:
        original, masked and change (masked - original) in the metric's own unit; where there are
        random sets, the mean and the standard deviation of their change.

    Example:
        >>> row = {"task": "t", "metric": "acc", "filter": "none", "draw": 0}
        >>> frame = pd.DataFrame([{**row, "condition": "original", "value": 0.5},
        ...                       {**row, "condition": "masked", "value": 0.25}])
        >>> comparison(frame)["change"].tolist()
        [-0.25]
    """
    keys = ["task", "metric", "filter"]
    wide = results.pivot_table(
        index=keys, columns=["condition", "draw"], values="value", sort=False, dropna=False
    )
    original = wide["original", 0]
    table = pd.DataFrame({"original": original, "masked": wide["masked", 0]})
    table["change"] = table["masked"] - table["original"]
    if "random" in wide:
        changes = wide["random"].sub(original, axis=0).T
        table["random_change"], table["random_sd"] = changes.mean(), changes.std()
    return table.reset_index()


_COLUMNS = (
    *("task", "metric", "filter", "condition", "draw", "n_neurons", "factor"),
    *("value", "stderr", "n_questions"),
)


def _rows(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Metrics of every task, whose keys are ``metric,filter`` and ``metric_stderr,filter``."""
    counts = results.get("n-samples", {})
    for task, values in results["results"].items():
        for key, value in values.items():
            metric, comma, of_filter = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{of_filter}")
            yield {
                "task": task,
                "metric": metric,
                "filter": of_filter,
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, int | float) else float("nan"),
                "n_questions": counts.get(task, {}).get("effective", float("nan")),
            }


@cache
def _harness() -> Any:
    """lm-evaluation-harness, imported.

    Raises:
        InvalidInputError: it is not installed.
    """
    try:
        import lm_eval.models.huggingface
        import lm_eval.tasks
    except ImportError as error:
        raise InvalidInputError(
            f"lm-evaluation-harness is not installed ({error}); pip install 'culnig-tl[harness]'."
        ) from error
    return lm_eval


def _task_manager(tasks: Sequence[str], include_path: str | Path | None) -> Any:
    """What knows these tasks. The harness's own thousands, whose files take seconds to read, are
    left out where a folder has them all."""
    manager_of = _harness().tasks.TaskManager
    if include_path is not None:
        own = manager_of(include_path=str(include_path), include_defaults=False)
        if set(tasks) <= set(own.all_subtasks):
            return own
    manager = manager_of(include_path=None if include_path is None else str(include_path))
    task_names = set(manager.all_tasks)
    if unknown := [task for task in tasks if task not in task_names]:
        raise UnknownNameError(
            f"{unknown[0]!r} is no task of the harness; `lm_eval ls tasks` lists its tasks, and "
            "include_path names a folder with your own."
        )
    return manager


def _name_or_model(model: Any) -> Any:
    if isinstance(model, str | Path):
        return str(EMBEDDED.get(str(model), model))
    if not isinstance(model, PreTrainedModel):
        raise InvalidInputError(
            f"model is a {type(model).__name__}; give a name on the hub, a folder, a model of "
            "transformers with tokenizer=, or a MaskedLM."
        )
    return model


def _masked(model: Any, options: Mapping[str, Any]) -> Any:
    kind = _masked_lm()
    if not isinstance(model, kind):
        return kind(model, NOTHING, **options)
    if options:
        raise InvalidInputError(
            f"The options {', '.join(options)} are for loading a model, and this one is a MaskedLM "
            "already; give them to MaskedLM."
        )
    return model


@cache
def _masked_lm() -> Any:
    """The class; its base is imported with it."""
    base = _harness().models.huggingface.HFLM

    class MaskedLM(base):
        """A model of lm-evaluation-harness whose neurons are scaled in every pass.

        Args:
            model: a name on the hub or a folder, or a transformers model (with ``tokenizer=``).
            neurons: a set, or neurons by value or name.
            factor: 0 suppresses, 1 keeps, 2 enhances; any finite number is allowed.
            options: for ``HFLM``: ``batch_size``, ``dtype``, ``device``, ``parallelize``, ...

        Raises:
            InvalidInputError: a site whose place in this model is not known, a neuron outside the
                model, or a factor that is no finite number of the model's type.
        """

        def __init__(
            self,
            model: Any,
            neurons: NeuronSet | Listed,
            factor: float = 0.0,
            **options: Any,
        ) -> None:
            check_number("factor", factor)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            super().__init__(_name_or_model(model), **{"device": device, **options})
            self._scale(neurons, factor)

        def with_neurons(self, neurons: NeuronSet | Listed, factor: float = 0.0) -> "MaskedLM":
            """The same loaded model with other neurons scaled."""
            other = copy.copy(self)
            other._scale(neurons, factor)
            return other

        def _scale(self, neurons: NeuronSet | Listed, factor: float) -> None:
            check_factor(factor, self.model)
            self._scaled, self._factor = channels_of(self.model, neurons), factor

        def _model_call(self, *inputs: Any, **more: Any) -> torch.Tensor:
            with hooks_on(self.model, self._scaled, self._factor):
                return super()._model_call(*inputs, **more)

        def _model_generate(self, *inputs: Any, **more: Any) -> torch.Tensor:
            with hooks_on(self.model, self._scaled, self._factor):
                return super()._model_generate(*inputs, **more)

    return MaskedLM
