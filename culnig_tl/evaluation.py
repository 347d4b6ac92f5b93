"""What happens to answers when neurons are scaled.

``evaluate`` gives one row a prompt: the arg-max token at the last position, decoded, is the
prediction, and it is correct when it equals the label (arXiv 2510.08284); beside it stands
``P(y|x)``, which moves before accuracy does. ``compare`` sums up conditions by benchmark, in
percent.

Intervals are 95 % percentile bootstrap intervals over questions: the prompts of one question and
culture are averaged first and drawn together. A drop counts when it beats random neurons of the
same number; its p-value is the share of paired bootstrap draws (the same questions under both
conditions) in which it does not.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from jaxtyping import Float
from tqdm.auto import tqdm

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooks import HookedModel, last_logits, scaled_neurons
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch, batches, questions

Condition = NeuronSet | Sequence[NeuronSet] | None
"""Neurons to scale; several sets (random ones) are averaged; None leaves the model as it is."""

_NOTHING = NeuronSet.of({})
_DRAWS = 2000
_GROUPS = ("id", "culture", "topic", "template", "benchmark")


def evaluate(
    model: HookedModel,
    rows: Dataset,
    *,
    neurons: NeuronSet | None = None,
    factor: float = 0.0,
    token_budget: int = 16384,
    progress: bool = False,
) -> pd.DataFrame:
    """The model's answers, one row a prompt in the order of ``rows``.

    Args:
        model: any model with named hook points.
        rows: questions.
        neurons: neurons to scale; None leaves the model as it is.
        factor: what their activations are multiplied by.
        token_budget: tokens a batch, padding counted.
        progress: show a progress bar.

    Returns:
        Columns id, culture, topic, template, benchmark, answer, prediction, correct (bool),
        probability (of the answer, 0 to 1).

    Raises:
        InvalidInputError: rows that cannot be used, or neurons outside the model.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> accuracy = evaluate(ct.load_model(), rows)["correct"].mean()
    """
    rows = questions(rows)
    prepared = batches(model, rows, token_budget=token_budget)
    return _answers(model, rows, prepared, neurons or _NOTHING, factor, progress=progress)


def compare(
    model: HookedModel,
    benchmarks: Mapping[str, Dataset],
    conditions: Mapping[str, Condition],
    *,
    factor: float = 0.0,
    reference: str = "random",
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Accuracy and mean ``P(answer)`` of every condition on every benchmark.

    Args:
        model: any model with named hook points.
        benchmarks: questions by name.
        conditions: neurons to scale by name; None is the model as it is.
        factor: what their activations are multiplied by.
        reference: the condition that a drop must beat (see ``p_value``).
        seed: seed of the bootstrap.
        progress: show a progress bar.

    Returns:
        The table of ``summarise``.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> key = ct.answer_key("general")
        >>> conditions = {"original": None, "planted": key}
        >>> table = compare(ct.load_model(), {"atlas": rows}, conditions, progress=False)
    """
    answers = pd.concat(
        [
            condition_answers(
                model, benchmarks, condition, name=name, factor=factor, progress=progress
            )
            for name, condition in conditions.items()
        ],
        ignore_index=True,
    )
    return summarise(answers, reference=reference, seed=seed)


def condition_answers(
    model: HookedModel,
    benchmarks: Mapping[str, Dataset],
    condition: Condition,
    *,
    name: str,
    factor: float = 0.0,
    token_budget: int = 16384,
    progress: bool = True,
) -> pd.DataFrame:
    """Answers to every benchmark under one condition: the columns of ``evaluate``, and more.

    Returns:
        ``benchmark`` holds the name given here; ``condition``, ``draw`` (which of several sets) and
        ``n_neurons`` are added.
    """
    draws = [condition or _NOTHING] if isinstance(condition, NeuronSet | None) else list(condition)
    frames = []
    with tqdm(total=len(draws) * len(benchmarks), desc=name, disable=not progress) as bar:
        for benchmark, given in benchmarks.items():
            rows = questions(given)
            prepared = batches(model, rows, token_budget=token_budget)
            for draw, neurons in enumerate(draws):
                frame = _answers(model, rows, prepared, neurons, factor)
                frames.append(
                    frame.assign(
                        benchmark=benchmark, condition=name, draw=draw, n_neurons=len(neurons)
                    )
                )
                bar.update()
    return pd.concat(frames, ignore_index=True)


def summarise(answers: pd.DataFrame, *, reference: str = "random", seed: int = 0) -> pd.DataFrame:
    """Accuracy and mean ``P(answer)`` by benchmark and condition, with intervals.

    Args:
        answers: frames of ``condition_answers``, one below the other.
        reference: the condition that a drop must beat.
        seed: seed of the bootstrap.

    Returns:
        One row a benchmark and condition: n_neurons, n_questions (question and culture), accuracy
        in % and its interval, the standard deviation of the accuracy over draws, probability (0 to
        1) and its interval, change (of accuracy, in points, against the condition without neurons)
        and p_value (that this condition drops no more than ``reference`` does; NaN where that is
        absent).
    """
    tables = []
    for benchmark, group in answers.groupby("benchmark", sort=False):
        tables.append(
            _summary(group, reference, np.random.default_rng(seed)).assign(benchmark=benchmark)
        )
    table = pd.concat(tables, ignore_index=True)
    return table[["benchmark", *table.columns.drop("benchmark")]]


def culture_effects(
    model: HookedModel,
    rows: Dataset,
    sets: Mapping[str, NeuronSet],
    *,
    factor: float = 0.0,
    progress: bool = True,
) -> pd.DataFrame:
    """What scaling each culture's neurons does to every culture.

    Args:
        model: any model with named hook points.
        rows: questions of several cultures.
        sets: neurons by the culture they were selected for.
        factor: what their activations are multiplied by.
        progress: show a progress bar.

    Returns:
        One row a pair: masked, tested, change (of accuracy, in points), probability_change,
        n_neurons, n_prompts.
    """
    rows = questions(rows)
    prepared = batches(model, rows)
    original = _by_culture(_answers(model, rows, prepared, _NOTHING, factor))
    effects = []
    for masked, neurons in tqdm(sets.items(), desc="cultures", disable=not progress):
        answers = _answers(model, rows, prepared, neurons, factor)
        change = _by_culture(answers) - original
        effects += [
            {
                "masked": masked,
                "tested": tested,
                "change": 100 * change.loc[tested, "correct"],
                "probability_change": change.loc[tested, "probability"],
                "n_neurons": len(neurons),
                "n_prompts": int((answers["culture"] == tested).sum()),
            }
            for tested in change.index
        ]
    return pd.DataFrame(effects)


def _answers(
    model: HookedModel,
    rows: Dataset,
    prepared: Sequence[Batch],
    neurons: NeuronSet,
    factor: float,
    *,
    progress: bool = False,
) -> pd.DataFrame:
    predicted = [""] * len(rows)
    probability = np.zeros(len(rows))
    with (
        torch.no_grad(),
        scaled_neurons(model, neurons, factor=factor),
        tqdm(total=len(rows), unit="question", disable=not progress) as bar,
    ):
        for batch in prepared:
            logits = last_logits(model, batch.tokens, batch.mask).float()
            chance = logits.softmax(-1).gather(1, batch.answers[:, None])[:, 0]
            probability[list(batch.rows)] = chance.cpu().numpy()
            for row, token in zip(batch.rows, logits.argmax(-1).tolist(), strict=True):
                predicted[row] = model.tokenizer.decode([token])
            bar.update(len(batch))
    frame = pd.DataFrame({name: rows[name] for name in (*_GROUPS, "answer")})
    frame["prediction"] = predicted
    frame["correct"] = frame["prediction"] == frame["answer"]
    return frame.assign(probability=probability)


def _by_culture(answers: pd.DataFrame) -> pd.DataFrame:
    return answers.groupby("culture", sort=False)[["correct", "probability"]].mean()


def _summary(group: pd.DataFrame, reference: str, generator: np.random.Generator) -> pd.DataFrame:
    """The summary of one benchmark; every condition sees the same bootstrap draws."""
    by_condition = {name: group[group["condition"] == name] for name in group["condition"].unique()}
    means = {name: _unit_means(frame) for name, frame in by_condition.items()}
    first, *others = means.values()
    if not all(first.index.equals(other.index) for other in others):
        sizes = ", ".join(f"{name} {len(frame)}" for name, frame in means.items())
        raise InvalidInputError(
            f"The conditions answer different questions (numbers: {sizes}); "
            "evaluate all of them on the same rows."
        )
    units = {name: frame.to_numpy(dtype=float) for name, frame in means.items()}
    n = len(first)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=_DRAWS) / n
    resampled = {name: weights @ values for name, values in units.items()}
    sizes = {name: int(frame["n_neurons"].max()) for name, frame in by_condition.items()}
    untouched = next((name for name, size in sizes.items() if size == 0), None)
    base = units[untouched][:, 0].mean() if untouched is not None else float("nan")
    return pd.DataFrame(
        [
            {
                "condition": name,
                "n_neurons": sizes[name],
                "n_questions": n,
                **_with_interval("accuracy", 100 * values[:, 0], 100 * resampled[name][:, 0]),
                "accuracy_sd_of_draws": _sd_of_draws(by_condition[name]),
                **_with_interval("probability", values[:, 1], resampled[name][:, 1]),
                "change": 100 * (values[:, 0].mean() - base),
                "p_value": _p_value(resampled, name, reference, untouched),
            }
            for name, values in units.items()
        ]
    )


def _unit_means(answers: pd.DataFrame) -> pd.DataFrame:
    """Share correct and mean ``P(answer)`` of each question and culture, in one order."""
    return answers.groupby(["id", "culture"], sort=True)[["correct", "probability"]].mean()


def _with_interval(
    name: str, values: Float[np.ndarray, "unit"], resampled: Float[np.ndarray, "draw"]
) -> dict[str, float]:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {name: values.mean(), f"{name}_low": low, f"{name}_high": high}


def _sd_of_draws(answers: pd.DataFrame) -> float:
    by_draw = 100 * answers.groupby("draw")["correct"].mean()
    return float(by_draw.std()) if len(by_draw) > 1 else float("nan")


def _p_value(
    resampled: Mapping[str, Float[np.ndarray, "draw two"]],
    name: str,
    reference: str,
    untouched: str | None,
) -> float:
    """Share of paired draws in which ``name`` is no worse than ``reference``, one added."""
    if reference not in resampled or name in (reference, untouched):
        return float("nan")
    no_worse = (resampled[name][:, 0] >= resampled[reference][:, 0]).sum()
    return float((no_worse + 1) / (_DRAWS + 1))
