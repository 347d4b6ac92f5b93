"""What fine-tuning changed, arm by arm, with intervals over questions and over seeds.

    change[seed, question] = after - before, of accuracy (points) and of P(answer)

A question is one id of one culture, its prompts averaged. The interval is a two-stage bootstrap:
each draw takes as many seeds and as many questions as there are, with replacement, independently,
and averages the table that they cut out. All arms see the same draws, so that what is common to
them cancels in the difference of two arms. With five seeds that part of the interval is rough, and
it says nothing of other topics, models or tasks.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import interval

BEFORE = "before"
"""The arm of the answers of the model as it was."""
PAIRS = (
    ("top", "bottom"),
    ("top", "random"),
    ("protect", "top"),
    ("protect all", "all"),
)
"""Arms whose difference is tabulated: what a claim of the paper, or of protection, would show."""
_DRAWS = 2000
_MEASURES = ("accuracy", "probability")
_NAMES = ("change", "probability_change")
_ENDS = ("", "_low", "_high")

Changes = Float[np.ndarray, "seed unit measure"]


def change_table(answers: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Accuracy and mean ``P(answer)`` before and after, and their change, by benchmark and arm.

    Args:
        answers: columns arm, seed, benchmark, id, culture, correct and probability; arm
            ``"before"`` is the model as it was.
        seed: seed of the bootstrap.

    Returns:
        One row per benchmark and arm: cultural (whether its questions have a culture), n_seeds,
        n_questions, accuracy_before and accuracy_after (%), change (points), probability_before,
        probability_after and probability_change, both changes with the ends ``_low`` and ``_high``
        of their 95 % intervals.

    Raises:
        InvalidInputError: no answers of the model as it was, or arms that answer different
            questions.

    Example:
        >>> answers = pd.DataFrame({"arm": ["before", "top"], "seed": 0, "benchmark": "task",
        ...     "id": "q", "culture": "", "correct": [False, True], "probability": [0.25, 0.75]})
        >>> change_table(answers)[["change", "probability_change"]].to_numpy().tolist()
        [[100.0, 0.5]]
    """
    rows = []
    for benchmark, group in answers.groupby("benchmark", sort=False):
        before, arms = _changes(group)
        for arm, changes in arms.items():
            after = before.to_numpy() + changes.mean(axis=0)
            row = {
                "benchmark": benchmark,
                "arm": arm,
                "cultural": bool((group["culture"] != "").any()),
                "n_seeds": len(changes),
                "n_questions": len(before),
            }
            for i, measure in enumerate(_MEASURES):
                row[f"{measure}_before"] = before.to_numpy()[:, i].mean()
                row[f"{measure}_after"] = after[:, i].mean()
            rows.append(row | _with_ends(changes.mean(axis=(0, 1)), _drawn(changes, seed)))
    return pd.DataFrame(rows)


def difference_table(answers: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """By how much one arm changes more than another, for the pairs of ``PAIRS`` that are there.

    Args:
        answers, seed: as in ``change_table``.

    Returns:
        One row per benchmark and pair: benchmark, arm, against, change (points) and
        probability_change (both the arm's less the other's), each with the ends ``_low`` and
        ``_high``; empty where no pair is there.

    Raises:
        InvalidInputError: as ``change_table``.

    Example:
        >>> answers = pd.DataFrame({"arm": ["before", "top", "bottom"], "seed": 0, "id": "q",
        ...     "benchmark": "facts", "culture": "Iran", "correct": [True, False, True],
        ...     "probability": [0.5, 0.25, 0.5]})
        >>> difference_table(answers)[["arm", "against", "change"]].to_numpy().tolist()
        [['top', 'bottom', -100.0]]
    """
    rows = []
    for benchmark, group in answers.groupby("benchmark", sort=False):
        _, arms = _changes(group)
        for arm, other in PAIRS:
            if arm in arms and other in arms:
                pair = [arms[arm], arms[other]]
                means = [each.mean(axis=(0, 1)) for each in pair]
                draws = [_drawn(each, seed) for each in pair]
                row = {"benchmark": benchmark, "arm": arm, "against": other}
                rows.append(row | _with_ends(means[0] - means[1], draws[0] - draws[1]))
    names = [f"{name}{end}" for name in _NAMES for end in _ENDS]
    return pd.DataFrame(rows, columns=["benchmark", "arm", "against", *names])


def _changes(group: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Changes]]:
    """Measures of each question before, and their changes by arm, of one benchmark."""
    scored = group.assign(accuracy=100.0 * group["correct"])
    means = scored.groupby(["arm", "seed", "id", "culture"], sort=True)[list(_MEASURES)].mean()
    by_run = {run: each.droplevel([0, 1]) for run, each in means.groupby(level=[0, 1])}
    before = [frame for (arm, _), frame in by_run.items() if arm == BEFORE]
    if len(before) != 1:
        raise InvalidInputError(
            f"There are {len(before)} sets of answers of the model as it was (arm {BEFORE!r}); "
            "give one."
        )
    if not all(frame.index.equals(before[0].index) for frame in by_run.values()):
        raise InvalidInputError(
            "The arms answer different questions; evaluate all of them on the same rows."
        )
    arms = [arm for arm in group["arm"].unique() if arm != BEFORE]
    base = before[0].to_numpy()
    return before[0], {
        name: np.stack([each.to_numpy() - base for (arm, _), each in by_run.items() if arm == name])
        for name in arms
    }


def _drawn(changes: Changes, seed: int) -> Float[np.ndarray, "draw measure"]:
    """Means over seeds and questions that are drawn with replacement."""
    of_seeds, of_units = (
        np.random.default_rng([seed, axis]).multinomial(n, np.full(n, 1 / n), size=_DRAWS) / n
        for axis, n in enumerate(changes.shape[:2])
    )
    by_seed = np.stack([of_units @ each for each in changes], axis=1)
    return np.einsum("ds,dsm->dm", of_seeds, by_seed)


def _with_ends(
    means: Float[np.ndarray, "measure"], draws: Float[np.ndarray, "draw measure"]
) -> dict[str, float]:
    ends = zip(_NAMES, means, *interval(draws), strict=True)
    return {
        f"{name}{end}": float(value)
        for name, *values in ends
        for end, value in zip(_ENDS, values, strict=True)
    }
