"""Several conditions on several benchmarks, and every culture's neurons on every culture."""

from collections.abc import Mapping, Sequence
from typing import get_args

import pandas as pd
from tqdm.auto import tqdm

from culnig_tl.errors import (
    InvalidInputError,
    check_by_name,
    check_choice,
    check_kind,
    check_number,
    check_seed,
    check_some,
)
from culnig_tl.evaluation.answers import Mode, answers, check_answerable
from culnig_tl.evaluation.chance import chance_warning, correct_of_original
from culnig_tl.evaluation.conditions import Condition, Neurons, answers_under
from culnig_tl.evaluation.selectivity import with_selectivity
from culnig_tl.evaluation.summary import summarise
from culnig_tl.evaluation.trust import same_rows, warn
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import check_intervention
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Rows, prepare


def compare(
    model: HookedModel,
    benchmarks: Mapping[str, Rows],
    conditions: Mapping[str, Neurons | Condition] | Sequence[Condition],
    *,
    factor: float | Mapping[str, float] = 0.0,
    mode: Mode = "argmax",
    reference: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Accuracy and mean ``P(answer)`` of every condition on every benchmark.

    Args:
        model: any model with named hook points.
        benchmarks: questions, or prepared ones, by name.
        conditions: neurons to scale by name, None the model as it is, several sets averaged; or
            ``Condition`` values, each with its factor. Random sets (of ``random_neurons``, or in a
            condition called ``"random"`` or ``"layer-matched"``) are what the others must beat.
        factor: what their activations are multiplied by; or factors by the name of their condition
            (0 for those not named).
        mode: as in ``evaluate``.
        reference: the condition that a drop must beat (see ``p_value``), in place of the random
            sets.
        seed: seed of the bootstrap.
        progress: show a progress bar.

    Returns:
        The table of ``summarise`` with four more columns, where some benchmarks have a culture and
        others have none: selectivity (how much more ``P(answer)`` falls than on those without
        culture, 0 to 1), selectivity_low and selectivity_high by clusters, and p_selectivity among
        layer-matched sets, as in ``ct.selectivity``; NaN elsewhere.
        ``ct.tables.to_markdown(table)`` shows the table as the paper does.

    Raises:
        InvalidInputError: no benchmarks or conditions, a factor that is no finite number or for a
            condition that is not there, a reference that is not there, rows that cannot be used, or
            neurons outside the model; before the model runs.

    Warns:
        UserWarning: neurons that were found on a benchmark's very rows, or benchmarks at chance.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> key = ct.answer_key("general")
        >>> conditions = {"original": None, "planted": key}
        >>> table = compare(ct.load_model(), {"atlas": rows}, conditions, progress=False)
    """
    check_by_name("benchmarks", benchmarks)
    check_some("conditions", conditions)
    check_choice("mode", mode, get_args(Mode))
    check_seed(seed)
    listed = _listed(conditions, factor)
    if reference is not None:
        check_choice("reference", reference, [condition.name for condition in listed])
    tests = {name: prepare(model, rows, token_budget=16384) for name, rows in benchmarks.items()}
    sets = [each for condition in listed for each in condition.sets]
    answered = answers_under(tests, listed, mode=mode, progress="comparison" if progress else False)
    warn(same_rows(sets, tests), chance_warning(tests, correct_of_original(answered)))
    table = summarise(answered, reference=reference, seed=seed)
    return with_selectivity(table, answered, seed=seed)


def _listed(
    conditions: Mapping[str, Neurons | Condition] | Sequence[Condition],
    factor: float | Mapping[str, float],
) -> list[Condition]:
    """The conditions, those given by name with their factor."""
    if not isinstance(conditions, Mapping):
        for each in conditions:
            check_kind("a condition", each, Condition, "neurons by name, or Condition values")
        return list(conditions)
    check_by_name("conditions", conditions)
    factors = factor if isinstance(factor, Mapping) else dict.fromkeys(conditions, factor)
    if unknown := [name for name in factors if name not in conditions]:
        raise InvalidInputError(
            f"There is a factor for {', '.join(unknown)}, but the conditions are "
            f"{', '.join(conditions)}."
        )
    return [
        Condition.of(name, neurons, factors.get(name, 0.0)) for name, neurons in conditions.items()
    ]


def culture_effects(
    model: HookedModel,
    rows: Rows,
    sets: Mapping[str, NeuronSet],
    *,
    factor: float = 0.0,
    mode: Mode = "argmax",
    progress: bool = True,
) -> pd.DataFrame:
    """What scaling each culture's neurons does to every culture.

    Args:
        model: any model with named hook points.
        rows: questions of several cultures, or prepared ones.
        sets: neurons by the culture they were selected for.
        factor: what their activations are multiplied by.
        mode: as in ``evaluate``.
        progress: show a progress bar.

    Returns:
        One row per pair: masked, tested, change (of accuracy, in points), probability_change,
        n_neurons, n_prompts.

    Raises:
        InvalidInputError: no sets, a factor that is no finite number, an unknown mode, rows that
            cannot be used, or neurons outside the model; before the model runs.
    """
    check_by_name("sets", sets)
    check_number("factor", factor)
    prepared = prepare(model, rows)
    check_answerable(prepared, mode)
    check_intervention(model, sets.values(), factor)
    original = answers(prepared, mode=mode)
    masked = {
        culture: answers(prepared, neurons, factor, mode=mode)
        for culture, neurons in tqdm(sets.items(), desc="cultures", disable=not progress)
    }
    return effects_of(original, masked, sets)


def effects_of(
    original: pd.DataFrame, masked: Mapping[str, pd.DataFrame], sets: Mapping[str, NeuronSet]
) -> pd.DataFrame:
    """The frame of ``culture_effects`` from answers that are there.

    Args:
        original: the frame of ``evaluate`` of the model as it is.
        masked: the same under each culture's neurons.
        sets: neurons by the culture they were selected for.
    """
    before = _by_culture(original)
    n_prompts = original.groupby("culture", sort=False).size()
    effects = []
    for culture, answered in masked.items():
        change = _by_culture(answered) - before
        effects += [
            {
                "masked": culture,
                "tested": tested,
                "change": 100 * change.loc[tested, "correct"],
                "probability_change": change.loc[tested, "probability"],
                "n_neurons": len(sets[culture]),
                "n_prompts": int(n_prompts[tested]),
            }
            for tested in change.index
        ]
    return pd.DataFrame(effects)


def _by_culture(answered: pd.DataFrame) -> pd.DataFrame:
    return answered.groupby("culture", sort=False)[["correct", "probability"]].mean()
