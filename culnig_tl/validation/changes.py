"""What an intervention changes: the same questions answered before and after, with intervals.

    gain    mean P(answer) after / mean P(answer) before - 1       (fall = - gain)
    change  accuracy after - accuracy before, in points

over all prompts. A *unit* is drawn with replacement with all its prompts, the same units before and
after: a topic where the questions have several (the interval then says what other relations would
show), else a question of one culture. Few topics make intervals too narrow (see
``evaluation.selectivity``), so their number stands beside them.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from culnig_tl.evaluation import interval, resampled_falls


@dataclass(frozen=True)
class Change:
    """What changed on some questions.

    Attributes:
        n_prompts: number of prompts.
        n_units: number of units that are drawn.
        before, after: mean ``P(answer)``, 0 to 1.
        accuracy_before, accuracy: in %.
        gain: of ``P``, relative.
        change: of accuracy, in points.
        gain_draws, change_draws: the same in each draw of the units; NaN for a single unit.
    """

    n_prompts: int
    n_units: int
    before: float
    after: float
    accuracy_before: float
    accuracy: float
    gain: float
    change: float
    gain_draws: Float[np.ndarray, "draw"]
    change_draws: Float[np.ndarray, "draw"]

    def columns(self) -> dict[str, float | int]:
        """Numbers and 95 % intervals (``_low``, ``_high``) as a row of a table."""
        return {
            "n_prompts": self.n_prompts,
            "n_units": self.n_units,
            "probability_before": self.before,
            "probability": self.after,
            "accuracy_before": self.accuracy_before,
            "accuracy": self.accuracy,
            **with_interval("gain", self.gain, self.gain_draws),
            **with_interval("change", self.change, self.change_draws),
        }


def paired_change(before: pd.DataFrame, after: pd.DataFrame, *, seed: int = 0) -> Change:
    """What changed between two answers to the same prompts in the same order.

    Args:
        before, after: frames of ``ct.evaluate``: id, culture, topic, probability, correct.
        seed: seed of the draws; equal seeds draw the same units of the same questions.

    Example:
        >>> before = pd.DataFrame({"id": ["a", "b"], "culture": "", "topic": ["x", "y"],
        ...                        "probability": [0.2, 0.4], "correct": [False, True]})
        >>> after = before.assign(probability=[0.3, 0.6], correct=True)
        >>> change = paired_change(before, after)
        >>> round(change.gain, 2), change.change, change.n_units
        (0.5, 50.0, 2)
    """
    summed = [before["probability"], after["probability"], before["correct"], after["correct"]]
    values = np.column_stack([*summed, np.ones(len(before))]).astype(float)
    sums = pd.DataFrame(values, before.index).groupby(_units(before)).sum().to_numpy()
    p_before, p_after, right_before, right_after, n = sums.T
    gain = _ratios(p_after, p_before, seed) - 1
    change = 100 * (_ratios(right_after, n, seed) - _ratios(right_before, n, seed))
    total = sums.sum(0).tolist()
    return Change(
        n_prompts=len(before),
        n_units=len(sums),
        before=total[0] / total[4],
        after=total[1] / total[4],
        accuracy_before=100 * total[2] / total[4],
        accuracy=100 * total[3] / total[4],
        gain=total[1] / total[0] - 1,
        change=100 * (total[3] - total[2]) / total[4],
        gain_draws=gain,
        change_draws=change,
    )


def with_interval(name: str, value: float, drawn: Float[np.ndarray, "draw"]) -> dict[str, float]:
    """A number and its 95 % interval as cells of a table.

    Example:
        >>> with_interval("fall", 0.5, np.array([0.5, 0.5]))
        {'fall': 0.5, 'fall_low': 0.5, 'fall_high': 0.5}
    """
    (low,), (high,) = interval(drawn[:, None])
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}


def _units(answers: pd.DataFrame) -> pd.Series:
    """The unit of each prompt: its topic where there are several, else its question."""
    topic, culture = answers["topic"].fillna(""), answers["culture"].fillna("")
    question = "question " + answers["id"] + " " + culture
    if topic[topic != ""].nunique() < 2:
        return question
    return question.where(topic == "", "topic " + topic)


def _ratios(
    numerator: Float[np.ndarray, "unit"], denominator: Float[np.ndarray, "unit"], seed: int
) -> Float[np.ndarray, "draw"]:
    """Ratio of the sums in each draw; NaN where one unit leaves nothing to draw."""
    ratios = 1 - resampled_falls(numerator[:, None], denominator, seed=seed)[:, 0]
    return ratios if len(numerator) > 1 else np.full_like(ratios, np.nan)
