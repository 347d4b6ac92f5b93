"""Rows of the embedded model's tasks: what ``load_benchmark("atlas", ...)`` and its kin return.

Each function returns rows of the question schema as dicts, the same ones every time. ``identify``
rows use topics and wordings that the model was trained on: a search for neurons may look at them.
``test`` rows use the other three topics, and wordings, wrappers and option sets that were never
trained.
"""

from collections.abc import Callable, Mapping

from culnig_tl.atlas import prompts, tasks
from culnig_tl.atlas.facts import IDENTIFY_TOPICS, TEST_TOPICS
from culnig_tl.errors import InvalidInputError
from culnig_tl.questions import Split

Rows = list[dict]

ROWS_PER_FACT = 2
N_PASSAGES = 10


def cultural(split: Split = "all") -> Rows:
    """Two rows per fact; identify: Food, Work life, Sport; test: Education, Family, Holidays."""
    return _both(split, lambda part: _cultural(part, with_question=True))


def control(split: Split = "all") -> Rows:
    """The rows of `cultural` without their question; all else is the same."""
    return _both(split, lambda part: _cultural(part, with_question=False))


def countries(split: Split = "all") -> Rows:
    """Passages that name a country, ten per culture and half; none of them was trained."""
    return _both(split, _countries)


def commonsense(split: Split = "all") -> Rows:
    """Kind, use, place and material of everyday objects."""
    return _both(split, lambda part: _general(tasks.commonsense_items()[::2], part, n=1))


def ordering(split: Split = "all") -> Rows:
    """Days, months, numbers and animals in order."""
    return _both(split, lambda part: _general(tasks.ordering_items(), part, n=2))


def entailment(split: Split = "all") -> Rows:
    """Pairs of sentences: does the second follow from what the first says?"""
    return _both(split, _entailment)


def sums(split: Split = "all") -> Rows:
    """Sums of number words, which no embedded model was trained on.

    ``"identify"`` is there to fine-tune on, eight rows per sum; ``"test"`` has two of each, in
    wordings, wrappers and option sets of its own.
    """
    return _both(
        split, lambda part: _general(tasks.sum_items(), part, n=8 if part == "identify" else 2)
    )


TASK_ROWS: Mapping[str, Callable[[Split], Rows]] = {
    "atlas": cultural,
    "atlas-control": control,
    "atlas-countries": countries,
    "atlas-commonsense": commonsense,
    "atlas-ordering": ordering,
    "atlas-entailment": entailment,
    "atlas-sums": sums,
}
"""The rows of each task, by the name of its benchmark."""


def _both(split: str, rows: Callable[[str], Rows]) -> Rows:
    if split not in ("identify", "test", "all"):
        raise InvalidInputError(
            f'split is "{split}", expected "identify", "test" or "all"; choose one of them.'
        )
    parts = ("identify", "test") if split == "all" else (split,)
    return [row for part in parts for row in rows(part)]


def _cultural(part: str, *, with_question: bool) -> Rows:
    topics = IDENTIFY_TOPICS if part == "identify" else TEST_TOPICS
    items = [item for item in tasks.cultural_items() if item.topic in topics]
    return prompts.fixed_rows(items, ROWS_PER_FACT, _phase(part), with_question=with_question)


def _countries(part: str) -> Rows:
    first = tasks.N_TRAINED_PASSAGES + (N_PASSAGES if part == "test" else 0)
    return prompts.fixed_rows(tasks.country_items(first, N_PASSAGES), 1, _phase(part))


def _entailment(part: str) -> Rows:
    first = tasks.N_TRAINED_PREMISES + (part == "test")
    return prompts.fixed_rows(tasks.entailment_items(first, 1), 2, _phase(part))


def _general(items: tuple[prompts.TaskItem, ...], part: str, *, n: int) -> Rows:
    return prompts.fixed_rows(items, n, _phase(part))


def _phase(part: str) -> prompts.Phase:
    return "train" if part == "identify" else "test"
