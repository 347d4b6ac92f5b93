"""CulturalBench-Hard: is this the answer? (Chiu et al., arXiv 2410.02677, CC BY 4.0)

The questions of CulturalBench-Easy, each as four judgements: a suggested answer is right (1, the
file's TRUE) or wrong (0). Of some questions several suggestions are right. As on the dataset's card
a question counts as right only if all four judgements are (``MEASURE``, "all four right"): saying
the same to all four earns nothing, guessing 1 in 16. Accuracy and ``P(answer)`` of single
judgements are there beside it.

The four rows of a question share its id (``question_idx``) and are drawn together by ``limit`` and
``per_culture``. Identify: the first half of each country's questions, rounded down; test: the rest.

An option whose cell reads ``None``, which the hub's reader and pandas take for an empty cell, is an
option like the others and is shown as ``None``.
"""

from collections.abc import Sequence

from culnig_tl.benchmarks.definition import Benchmark, Measure
from culnig_tl.benchmarks.loading import Hub, Loaded, Source
from culnig_tl.benchmarks.records import Record, half_of_groups, text_fault
from culnig_tl.errors import InvalidInputError
from culnig_tl.questions import Item, Split, Template, rows_of

N_JUDGEMENTS = 4
TEMPLATES = (
    Template(
        "Someone suggests how to answer a question. Reply 1 if the suggestion is right and 0 if it "
        "is wrong, with the digit only.\nQuestion: {question}\nSuggestion: {candidate}\nAnswer:",
        labels="values",
        name="values-1",
    ),
    Template(
        "{question}\n\nSuggestion: {candidate}\nIs that how it is?\n{options}\n"
        "Reply with 0 or 1 and nothing else.\nAnswer:",
        labels="values",
        name="values-2",
    ),
    Template(
        "Judge how someone would answer a question.\nQuestion: {question}\n"
        "Suggestion: {candidate}\n{options}\nReply with A or B only.\nAnswer:",
        name="letters-1",
    ),
    Template(
        "{question}\n\nSuggestion: {candidate}\n\nPick what is true, by its letter.\n{options}\n"
        "Answer:",
        name="letters-2",
    ),
)
_HUB = Hub(
    "kellycyy/CulturalBench",
    "CulturalBench-Hard",
    "test",
    "996d62a55f6a49c13596f0a31b772812a1aacd67",
)
_COLUMNS = {
    name: (name,)
    for name in (
        "data_idx",
        "question_idx",
        "prompt_question",
        "prompt_option",
        "answer",
        "country",
    )
}
_TRUTH = ("false", "true")
_OPTIONS = ("The suggestion is wrong.", "The suggestion is right.")


def load(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """The judgements of every question, halved by questions within each country."""
    records = source.read(_HUB, _COLUMNS, key="data_idx")
    questions = _questions(records.each(_judgement))
    first = [judgements[0] for judgements in questions.values()]
    half = half_of_groups(first, split, lambda item: item.culture)
    items = [judgement for item in half for judgement in questions[item.id]]
    return Loaded(rows_of(items, templates, benchmark="culturalbench-hard"), records.origin)


def is_right(prediction: str, answer: str, options: Sequence[str]) -> float:
    """100 for the right judgement, 0 for any other reply.

    Example:
        >>> is_right("1", "1", ["0", "1"]), is_right("yes", "1", ["0", "1"])
        (100.0, 0.0)
    """
    return 100.0 * (prediction == answer)


def _judgement(record: Record) -> Item:
    record.check_texts(["question_idx", "prompt_question", "country"])
    candidate = record["prompt_option"] or "None"
    fault = text_fault(candidate)
    truth = str(record["answer"]).casefold()
    wrong = f"answer is {record['answer']!r}, expected TRUE or FALSE"
    record.refuse([fault and f"prompt_option {fault}", "" if truth in _TRUTH else wrong])
    return Item(
        id=record["question_idx"],
        culture=record.culture("country"),
        options=_OPTIONS,
        answer=_TRUTH.index(truth),
        fields={"question": record["prompt_question"], "candidate": candidate},
        values=("0", "1"),
    )


def _questions(judgements: Sequence[Item]) -> dict[str, list[Item]]:
    """The judgements of each question, by its id.

    Raises:
        InvalidInputError: questions of more or fewer than four judgements, or that go by several
            texts or countries.
    """
    questions: dict[str, list[Item]] = {}
    for item in judgements:
        questions.setdefault(item.id, []).append(item)
    broken = [name for name, items in questions.items() if not _is_whole(items)]
    if broken:
        raise InvalidInputError(
            f"{len(broken)} of {len(questions)} questions have not {N_JUDGEMENTS} judgements of "
            f"one text and one country (question_idx {', '.join(broken[:10])}"
            f"{', ...' if broken[10:] else ''}); get the file anew."
        )
    return questions


def _is_whole(items: Sequence[Item]) -> bool:
    of_one = {(item.culture, item.fields["question"]) for item in items}
    return len(items) == N_JUDGEMENTS and len(of_one) == 1


MEASURE = Measure("all four right", is_right)
CULTURALBENCH_HARD = Benchmark(
    "culturalbench-hard",
    load,
    TEMPLATES,
    measure=MEASURE,
    licence="CC-BY-4.0 (CulturalBench, Chiu et al. 2024, arXiv 2410.02677)",
    folder="culturalbench",
    judgements=N_JUDGEMENTS,
)
CONTROL = CULTURALBENCH_HARD.control()
