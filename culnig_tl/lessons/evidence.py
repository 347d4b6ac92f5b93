"""Checks of lessons 6, 7 and 8: chance, own questions, fine-tuning."""

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd
from datasets import Dataset

from culnig_tl.errors import CulnigError
from culnig_tl.hooked_model import HookedModel
from culnig_tl.lessons.verdict import (
    Verdict,
    WrongKindError,
    exercise,
    first_of,
    near,
    neuron_set,
    number,
    right,
    wrong,
)
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Template, prepare, questions_from_frame
from culnig_tl.scores import NeuronScores
from culnig_tl.validation import grade_scores


@exercise
def check_shared_by_chance(shared: Any, n_selected: int, n_neurons: int) -> Verdict:
    """Lesson 6: how many neurons two random sets of a size share on average."""
    value, expected = number(shared), n_selected**2 / n_neurons
    if near(value, expected):
        return right(
            f"{expected:.3f} of {n_selected}: what two halves of the questions share is no chance."
        )
    mistakes = [
        (near(value, n_selected / n_neurons), "That is one neuron's chance to be in a set."),
        (
            near(value, (n_selected / n_neurons) ** 2),
            "That is one neuron's chance to be in both sets; there are many neurons.",
        ),
        (near(value, expected / (2 * n_selected - expected)), "That is the index; count neurons."),
    ]
    return first_of(
        mistakes, "Each of the first set's neurons is in the second with probability n / N."
    )


@exercise
def check_smallest_p(p: Any, n_sets: int) -> Verdict:
    """Lesson 6: the smallest p-value that a number of random sets can give."""
    value, expected = number(p), 1 / (n_sets + 1)
    if near(value, expected):
        needed = 19
        return right(
            f"With {n_sets} sets it is {expected:.3f}, whatever the neurons do; below .05 needs "
            f"more than {needed}."
        )
    mistakes = [
        (value == 0, "Never 0: the selected set is one of the sets that are ranked."),
        (near(value, 1 / n_sets), "The selected set counts too: there is one more to rank."),
    ]
    return first_of(mistakes, "The best of n + 1 sets: what share of them does as much harm?")


@exercise
def check_auroc(auroc: Any, scores: NeuronScores, key: NeuronSet) -> Verdict:
    """Lesson 6: how often a planted neuron ranks above another one."""
    value, expected = number(auroc), grade_scores(scores, key).auroc
    if abs(value - expected) < 0.002:
        return right(f"In {expected:.1%} of pairs; .5 is what a coin gets.")
    mistakes = [
        (abs(value - (1 - expected)) < 0.002, "The pairs are the wrong way round."),
        (value > 1, "A share of pairs is at most 1: take the mean, not the sum."),
    ]
    return first_of(
        mistakes, "Every planted neuron against every other one: the mean of planted > other."
    )


@exercise
def check_own_rows(rows: Any, model: HookedModel) -> Verdict:
    """Lesson 7: questions of one's own, of two cultures, in two wordings."""
    if not isinstance(rows, Dataset):
        raise WrongKindError("Rows are asked for: what ct.questions_from_frame(...) returns.")
    try:
        n_prompts = len(prepare(model, rows))
    except CulnigError as error:
        return wrong(str(error))
    frame = rows.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    worded = frame.groupby(["id", "culture"])["template"].nunique()
    mistakes = [
        (frame["culture"].nunique() < 2, "All are of one culture: ask about two."),
        (frame["template"].nunique() < 2, "There is one wording: give each its `template`."),
        (bool((worded < 2).any()), "Wordings of one question share its `id` and `culture`."),
    ]
    if not any(holds for holds, _ in mistakes):
        return right(f"{n_prompts} prompts of {len(worded)} questions, each in two wordings.")
    return first_of(mistakes, "")


@exercise
def check_columns(columns: Any, theirs: pd.DataFrame, rows: Dataset) -> Verdict:
    """Lesson 7: which of one's own columns is which of the schema."""
    if not isinstance(columns, Mapping):
        raise WrongKindError("A dict is asked for: the schema's name for yours.")
    try:
        built = questions_from_frame(theirs, columns=columns)
    except CulnigError as error:
        is_reversed = set(columns) & set(theirs.columns) and not set(columns.values()) & set(
            theirs.columns
        )
        return wrong("The other way round: {ours: yours}." if is_reversed else str(error))
    if built.to_list() == rows.to_list():
        return right("The same rows out of columns with other names.")
    return wrong("It builds rows, but not the same ones: compare their prompt, answer, culture.")


@exercise
def check_wording(wording: Any, plain: pd.DataFrame) -> Verdict:
    """Lesson 7: a template that names the culture, asks, and lists the options."""
    if not isinstance(wording, Template):
        raise WrongKindError("A Template is asked for: Template(text, name=...).")
    mistakes = [
        (f"{{{name}}}" not in wording.text, f"{{{name}}} is missing in its text.")
        for name in ("culture", "question", "options")
    ]
    if any(holds for holds, _ in mistakes):
        return first_of(mistakes, "")
    try:
        rows = questions_from_frame(plain, templates=wording)
    except CulnigError as error:
        return wrong(str(error))
    first = rows["prompt"][0]
    if first.endswith((" ", "\n")):
        return wrong("It ends with a blank: the label's token begins with its own.")
    return right(f"The first prompt begins {first.splitlines()[0]!r}.")


@exercise
def check_held(share: Any, ranking: pd.DataFrame, modules: Collection[str]) -> Verdict:
    """Lesson 8: the share of the MLP's culture neurons that some modules hold."""
    mlp = ranking[ranking["kind"] == "mlp"]
    value, n_held = number(share), mlp.loc[mlp["module"].isin(modules), "neurons"].sum()
    if near(value, n_held / mlp["neurons"].sum()):
        return right(f"{n_held} of {mlp['neurons'].sum()}.")
    mistakes = [
        (near(value, n_held), "That is how many; divide by all of the MLPs'."),
        (near(value, 100 * n_held / mlp["neurons"].sum()), "That is in percent; 1 is all of them."),
        (near(value, len(modules) / len(mlp)), "That is the share of modules: count neurons."),
        (near(value, 1 - n_held / mlp["neurons"].sum()), "That is what the other modules hold."),
    ]
    return first_of(mistakes, "Sum `neurons` over these modules, over the sum of all MLPs.")


@exercise
def check_saved(points: Any, after: pd.DataFrame) -> Verdict:
    """Lesson 8: points of cultural accuracy that protecting saves.

    Args:
        points: percentage points.
        after: accuracy (0 to 1) by test and arm.
    """
    value, of_culture, of_sums = (
        number(points),
        *({arm: 100 * float(after[arm][test]) for arm in after} for test in ("culture", "sums")),
    )
    saved = of_culture["protect"] - of_culture["top"]
    if near(value, saved):
        return right(f"{saved:.1f} points, from one seed.")
    mistakes = [
        (near(value, saved / 100), "That is a share; a point is a hundredth."),
        (near(value, -saved), "The sign: what is saved is positive."),
        (
            near(value, of_culture["bottom"] - of_culture["top"]),
            "That is what training elsewhere saves.",
        ),
        (
            near(value, of_sums["protect"] - of_sums["top"]),
            "That is what protecting does to the task.",
        ),
    ]
    return first_of(mistakes, "Accuracy on culture of `protect` less that of `top`, times 100.")


@exercise
def check_yardstick(neurons: Any, general: NeuronSet) -> Verdict:
    """Lesson 8: what protecting the culture neurons is to be compared with."""
    given = neuron_set(neurons)

    def places(neurons: NeuronSet) -> list[tuple[str, int]]:
        return sorted((each.site, each.layer) for each in neurons)

    if given == general:
        return wrong("Those are the culture neurons themselves.")
    if places(given) == places(general):
        return right("As many in each layer, drawn without looking at what they do.")
    mistakes = [
        (len(given) != len(general), f"{len(given)} neurons; take as many as there are."),
        (True, "As many, but of other layers: layer_matched=True."),
    ]
    return first_of(mistakes, "")
