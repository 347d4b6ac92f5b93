"""What a reader must know before the numbers, one function per reason: a sentence, or "".

| function | it says that |
|---|---|
| ``same_rows`` | the very data set that found a set of neurons also tests it |
| ``rows_in_common`` | rows that test are among the rows that found |
| ``control_exceeds`` | the control scores higher than the questions themselves |
| ``few_questions`` | a benchmark has so few questions that little can be seen |
| ``no_general`` | nothing without a culture is measured, so that no fall is one of culture alone |
| ``one_culture`` | there is one culture, and so no culture-specific neurons |

``chance.chance_warning`` is one more. A run keeps all of them (``Run.warnings``); calls by hand
warn of what they can see.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence

from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions
from culnig_tl.scores import NeuronScores

ENOUGH_QUESTIONS = 50
"""Questions (one per culture) below which a benchmark is called small."""

Tests = Mapping[str, PreparedQuestions]
"""Prepared questions by the name of their benchmark."""


def warn(*sentences: str) -> None:
    """Warn of each sentence that is not empty, at the line that called the public function."""
    for sentence in filter(None, sentences):
        warnings.warn(sentence, UserWarning, stacklevel=3)


def same_rows(sets: Iterable[NeuronSet], tests: Tests) -> str:
    """Whether the data set that a set was found on, by its fingerprint, also tests it.

    Example:
        >>> same_rows([NeuronSet.of("L3.mlp.hook_post.17")], {})
        ''
    """
    found_on = {each.source.get("data") for each in sets} - {None}
    names = [name for name, prepared in tests.items() if found_on & {prepared.fingerprint}]
    if not names:
        return ""
    return (
        f"The neurons were found on {_listed(names)}, so what they do to these answers says "
        "nothing about other questions; test them on rows that did not find them (split='test', or "
        "ct.split)."
    )


def rows_in_common(cultural: PreparedQuestions, tests: Tests) -> str:
    """Whether benchmarks share rows with those that find neurons: the same prompt and answer, or
    the same question of the same culture in another wording."""
    texts, questions = set(_texts(cultural)), set(_questions(cultural))
    shared = {
        name: sum(
            text in texts or question in questions
            for text, question in zip(_texts(prepared), _questions(prepared), strict=True)
        )
        for name, prepared in tests.items()
    }
    if not any(shared.values()):
        return ""
    counted = [
        f"{name}: {number} of {len(tests[name])}" for name, number in shared.items() if number
    ]
    return (
        f"Rows that test are among the rows that found the neurons ({'; '.join(counted)}; the same "
        "prompt, or the same question id and culture), so what is measured there says nothing "
        "about other questions; keep them apart (split='test', or ct.split)."
    )


def control_exceeds(cultural: NeuronScores, control: NeuronScores | None) -> str:
    """Whether the control's scores, summed over all neurons, exceed those of the questions."""
    if control is None:
        return ""
    pairs = [
        (float(of_layer), float(of_control))
        for site in cultural.sites
        for of_layer, of_control in zip(
            cultural.total(site).double().sum(1), control.total(site).double().sum(1), strict=True
        )
    ]
    sums = [sum(each) for each in zip(*pairs, strict=True)]
    if sums[1] <= sums[0]:
        return ""
    n_places = sum(of_control > of_layer for of_layer, of_control in pairs)
    return (
        f"The control scores higher than the cultural questions (sums over all neurons "
        f"{sums[1]:.4g} and {sums[0]:.4g}; in {n_places} of {len(pairs)} layers of the sites), so "
        "that answers do not hang on what is asked; check that the control is the same rows "
        "without their question."
    )


def few_questions(tests: Tests) -> str:
    """Which benchmarks have fewer than ``ENOUGH_QUESTIONS`` questions."""
    counts = {name: len(set(_questions(prepared))) for name, prepared in tests.items()}
    few = [f"{name} has {n}" for name, n in counts.items() if n < ENOUGH_QUESTIONS]
    if not few:
        return ""
    return (
        f"Fewer than {ENOUGH_QUESTIONS} questions show little: {_listed(few)}; intervals are wide "
        "there, and a drop that is not clear is no sign that there is none."
    )


def no_general(tests: Tests) -> str:
    """Whether every benchmark has cultures."""
    if not all(any(prepared.cultures) for prepared in tests.values()):
        return ""
    return (
        "No general benchmark is measured (one whose rows have no culture), so that nothing tells "
        "neurons of culture from those that any answer needs; add one, such as "
        "ct.load_benchmark('cloze-general', split='test')."
    )


def one_culture(cultures: Sequence[str]) -> str:
    """Whether cultural questions are of one culture.

    Example:
        >>> one_culture(["Iran", "Spain"])
        ''
    """
    if len(cultures) > 1:
        return ""
    name = cultures[0] if cultures and cultures[0] else "none named"
    return (
        f"The cultural questions are of one culture ({name}), so there are no culture-specific "
        "neurons: their z-score compares at least two."
    )


def _texts(prepared: PreparedQuestions) -> list[tuple[str, str]]:
    return list(zip(prepared.texts, prepared.rows["answer"], strict=True))


def _questions(prepared: PreparedQuestions) -> list[tuple[str, str, str]]:
    rows = prepared.rows
    return list(zip(rows["benchmark"], rows["id"], rows["culture"], strict=True))


def _listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
