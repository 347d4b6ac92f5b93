"""Whether the model as it is answers better than chance, without which accuracy can show nothing.

Chance is the mean of 1 / number of options. Accuracy is at chance if it does not lie above the 95 %
interval of as many guesses (normal approximation of the binomial, every prompt counted): the same
as a Wilson interval of the accuracy that holds chance, or lies below it.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from culnig_tl.questions import PreparedQuestions

_Z = 1.96


def chance_warning(tests: Mapping[str, PreparedQuestions], correct: Mapping[str, pd.Series]) -> str:
    """A sentence that names benchmarks at chance, and what to ask instead; "" where there are none.

    Args:
        tests: prepared questions by name.
        correct: whether the model as it is answers each of them rightly, in the same order.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=24)
        >>> prepared = ct.prepare(ct.load_model(), rows)
        >>> correct = ct.evaluate(prepared.model, prepared)["correct"]
        >>> chance_warning({"culture": prepared}, {"culture": correct})
        ''
    """
    levels = {name: _level(tests[name], values) for name, values in correct.items()}
    names = [name for name, (accuracy, _, most) in levels.items() if accuracy <= most]
    if not names:
        return ""
    listed = "; ".join(
        f"{name}: {100 * levels[name][0]:.0f} % of {len(correct[name])} prompts, chance "
        f"{100 * levels[name][1]:.0f} %"
        for name in names
    )
    are_letters = all(asks_for_letters(tests[name]) for name in names)
    advice = (
        "; what works on small models is cloze questions (ct.load_benchmark('cloze'), with "
        "mode='options' or mode='likelihood')"
    )
    return (
        f"{'Letter' if are_letters else 'Some'} questions are at chance for this model as far as "
        f"these prompts tell ({listed}), so that accuracy can show nothing"
        f"{advice if are_letters else ''}."
    )


def correct_of_original(answers: pd.DataFrame) -> dict[str, pd.Series]:
    """Whether the model as it is answers rightly, by benchmark, out of ``answers_under``; nothing
    where no condition is without neurons."""
    without = answers[answers["n_neurons"] == 0].groupby("benchmark", sort=False)
    return {
        str(name): rows.loc[rows["condition"] == rows["condition"].iloc[0], "correct"]
        for name, rows in without
    }


def asks_for_letters(prepared: PreparedQuestions) -> bool:
    """Whether every option is a single letter or digit.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=3)
        >>> asks_for_letters(ct.prepare(ct.load_model(), rows))
        False
    """
    return all(len(text.strip()) == 1 for texts in prepared.adapted["options"] for text in texts)


def _level(prepared: PreparedQuestions, correct: pd.Series) -> tuple[float, float, float]:
    """Accuracy, chance, and the upper end of what guesses may reach."""
    guess = 1 / np.array([len(texts) for texts in prepared.adapted["options"]])
    deviation = np.sqrt((guess * (1 - guess)).sum()) / len(guess)
    return float(np.mean(correct)), float(guess.mean()), float(guess.mean() + _Z * deviation)
