"""How much a selection hangs on its thresholds.

One threshold moves at a time, the others stay at the published values (arXiv 2510.08284): ``t``,
the share that is kept; ``r``, the share that is dropped as reacting to a country's name; ``z``, the
least z-score of a culture-specific neuron. The Jaccard index with the default set says how much of
the finding would have been another; accuracy under masking says whether that matters.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import pandas as pd
from tqdm.auto import tqdm

from culnig_tl.errors import InvalidInputError, check_by_name, check_number, check_numbers
from culnig_tl.evaluation import answers
from culnig_tl.hooked_model import HookedModel
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import (
    SpecificRecipe,
    check_shares,
    culture_specific,
    select_general,
    usual_attention_top,
)

_GENERAL = {"mlp_top": 0.01, "attention_top": 0.002, "recognition_top": 0.01}
_SPECIFIC = {"top": 0.003, "recognition_top": 0.01, "min_z": 0.5}
_OF_SHARE_KEPT = (0.25, 0.5, 1.0, 2.0, 4.0)
_OF_SHARE_DROPPED = (0.0, 0.5, 1.0, 2.0, 4.0)
_FROM_Z = (-0.5, -0.25, 0.0, 0.5, 1.0)


def threshold_sweep(
    cultural: NeuronScores,
    control: NeuronScores | None = None,
    recognition: NeuronScores | None = None,
    general: NeuronScores | None = None,
    *,
    recipe: SpecificRecipe = "published",
    culture: str | None = None,
    t: Sequence[float] | None = None,
    r: Sequence[float] | None = None,
    z: Sequence[float] | None = None,
    thresholds: Mapping[str, float] | None = None,
    model: HookedModel | None = None,
    benchmarks: Mapping[str, Rows] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Sizes, overlaps and, if wanted, effects of the sets that other thresholds select.

    Args:
        cultural, control, recognition, general, recipe: scores and how they are compared, as
            ``culture_general`` and ``culture_specific`` take them; ``"contrast"`` is for one
            culture's neurons.
        culture: sweep the thresholds of this culture's specific neurons; None sweeps those of the
            culture-general ones, which have no z.
        t: shares to keep (of the MLP pool; the attention pool's share moves in proportion); by
            default a quarter of the default share to four times it.
        r: shares to drop by recognition score; by default none to four times the default share.
            Without ``recognition`` there is nothing to drop and no sweep.
        z: least z-scores; by default half a deviation below the default to one above it.
        thresholds: defaults other than the published ones, by the names of ``culture_general``
            or ``culture_specific``.
        model, benchmarks: also measure what masking each set does to these questions; both or
            neither.
        progress: show a progress bar.

    Returns:
        One row per threshold ("t", "r", "z") and value (and benchmark): threshold, value, default
        (the threshold's own), n_neurons, jaccard (with the set at the defaults, 0 to 1); with a
        model also benchmark, accuracy (%) and probability (0 to 1) when the set is masked.

    Raises:
        InvalidInputError: a contrast without a culture, a threshold's name that is unknown, a share
            outside 0 to 1, a z-score that is no finite number, a model without benchmarks or the
            other way round, or scores that cannot be compared or are not finite; before the model
            runs.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=8)
        >>> sweep = threshold_sweep(ct.attribute(model, rows, progress=False), progress=False)
        >>> sweep.loc[sweep["value"] == 0.01, "jaccard"].tolist()
        [1.0]
    """
    if (model is None) != (benchmarks is None):
        given, lacking = ("model", "benchmarks") if benchmarks is None else ("benchmarks", "model")
        raise InvalidInputError(
            f"{given} was given without {lacking}; give both to measure what masking does, or "
            "neither."
        )
    if benchmarks is not None:
        check_by_name("benchmarks", benchmarks)
    defaults = _defaults(culture, recipe, thresholds or {})
    scores = (cultural, control, recognition, general)
    select = _selection(scores, recipe, culture)
    usual = select(**defaults)
    steps = list(_steps(defaults, t, r if recognition is not None else (), z))
    for *_, changed in steps:
        _check_thresholds(**changed)
    prepared = {
        name: prepare(model, rows, token_budget=16384)
        for name, rows in (benchmarks or {}).items()
        if model is not None
    }
    rows = []
    for threshold, value, default, changed in tqdm(steps, desc="thresholds", disable=not progress):
        neurons = select(**{**defaults, **changed})
        row = {
            "threshold": threshold,
            "value": value,
            "default": default,
            "n_neurons": len(neurons),
            "jaccard": usual.jaccard(neurons),
        }
        rows += [{**row, **effect} for effect in _effects(prepared, neurons)]
    return pd.DataFrame(rows)


def _selection(
    scores: Sequence[NeuronScores | None], recipe: SpecificRecipe, culture: str | None
) -> Callable[..., NeuronSet]:
    """What makes a set at some thresholds."""
    if culture is not None:
        return partial(culture_specific, *scores, recipe=recipe, culture=culture)
    return partial(select_general, *scores, recipe=recipe)


def _defaults(
    culture: str | None, recipe: SpecificRecipe, given: Mapping[str, float]
) -> dict[str, float]:
    published = _SPECIFIC
    if culture is None:
        if recipe == "contrast":
            raise InvalidInputError(
                "recipe is 'contrast', which contrasts one culture with the others, and culture is "
                "None; name a culture, or take 'published' or 'selective'."
            )
        published = {**_GENERAL, "attention_top": usual_attention_top(recipe)}
    if unknown := [name for name in given if name not in published]:
        raise InvalidInputError(
            f"There is no threshold {', '.join(unknown)} here; the known ones are "
            f"{', '.join(published)}."
        )
    defaults = {**published, **given}
    _check_thresholds(**defaults)
    if not defaults.get("top", defaults.get("mlp_top")):
        raise InvalidInputError(
            f"The thresholds are {defaults}, and the share to keep is 0, of which there are no "
            "multiples; give a share above 0."
        )
    return defaults


def _check_thresholds(min_z: float = 0.0, **shares: float) -> None:
    """Refuse thresholds that ``culture_general`` and ``culture_specific`` refuse."""
    check_number("min_z", min_z)
    check_shares(**shares)


def _steps(
    defaults: Mapping[str, float],
    t: Sequence[float] | None,
    r: Sequence[float] | None,
    z: Sequence[float] | None,
) -> Iterator[tuple[str, float, float, dict[str, float]]]:
    """Threshold, its value, its default, and the arguments that it changes."""
    for name, values in (("t", t), ("r", r), ("z", z)):
        if values is not None and len(values):
            check_numbers(name, values)
    share = defaults["top"] if "top" in defaults else defaults["mlp_top"]
    for value in [min(1.0, share * each) for each in _OF_SHARE_KEPT] if t is None else t:
        shares = [name for name in ("top", "mlp_top", "attention_top") if name in defaults]
        yield "t", value, share, {name: defaults[name] * value / share for name in shares}
    dropped_share = defaults["recognition_top"]
    for value in [min(1.0, dropped_share * each) for each in _OF_SHARE_DROPPED] if r is None else r:
        yield "r", value, dropped_share, {"recognition_top": value}
    if "min_z" in defaults:
        least = defaults["min_z"]
        for value in [least + each for each in _FROM_Z] if z is None else z:
            yield "z", value, least, {"min_z": value}


def _effects(
    benchmarks: Mapping[str, PreparedQuestions], neurons: NeuronSet
) -> Iterator[dict[str, str | float]]:
    """What masking does to each benchmark; one empty row where nothing is measured."""
    if not benchmarks:
        yield {}
    for name, prepared in benchmarks.items():
        answered = answers(prepared, neurons)
        yield {
            "benchmark": name,
            "accuracy": 100 * float(answered["correct"].mean()),
            "probability": float(answered["probability"].mean()),
        }
