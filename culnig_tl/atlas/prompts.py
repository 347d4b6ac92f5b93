"""How the embedded model is asked: items, their wordings, and what is held out.

A `TaskItem` is one thing with one right answer: a cultural fact, a passage about a country, an
object's use, the day after Monday. Its prompt is put together out of three parts::

    noun phrase  x  frame                                          the question ("wording")
    instruction  x  options layout  x  ending                      what surrounds it ("wrapper")
    three wrong options out of the item's distractors              ("option set")

    Choose one option. What is the most common morning drink in Iran? Options: tea, juice, milk,
    water. Answer:

The answer is the option's text with its leading space, one token. Three parts are held out of
training and kept for validation and test, each by a rule that needs no list: a quarter of the
phrase x frame combinations (every phrase and every frame is seen in training, but not together), a
quarter of the wrappers, and a fifth of each item's option sets, chosen by a hash of the item and
the set; one half of these is for validation, the other for the test.

The control prompt is the same one without its question; nothing tells then which option is right.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from typing import Literal

INSTRUCTIONS = (
    "Choose one option.",
    "Select the best answer.",
    "Read the question and pick one option.",
    "Please answer.",
)
LAYOUTS = ("Options: {options}.", "Choices: {options}.", "Pick from: {options}.")
ENDINGS = ("Answer:", "The answer is", "My choice:")

Phase = Literal["train", "validation", "test"]
"""What a prompt is for; each phase has wordings, wrappers and option sets of its own."""

Wording = tuple[int, int]
Wrapper = tuple[int, int, int]
OptionSet = tuple[str, ...]


@dataclass(frozen=True)
class TaskItem:
    """One thing that can be asked: its wordings, its answer, and what may stand beside the answer.

    `slots` fills the braces of phrases and frames. `required` distractors are part of every option
    set (the other country of a passage that names two).
    """

    benchmark: str
    id: str
    culture: str
    topic: str
    phrases: tuple[str, ...]
    frames: tuple[str, ...]
    answer: str
    distractors: tuple[str, ...]
    slots: tuple[tuple[str, str], ...] = ()
    required: tuple[str, ...] = ()
    n_wrong: int = 3

    def question(self, wording: Wording) -> str:
        """The text of one phrase in one frame."""
        phrase, frame = self.phrases[wording[0]], self.frames[wording[1]]
        return frame.replace("{phrase}", phrase).format(**dict(self.slots))

    @property
    def key(self) -> str:
        """Names this item among all items of its benchmark."""
        return f"{self.id}|{self.culture}|{self.answer}"


# --- wordings, wrappers and option sets, trained and held out -------------------------------------


def wordings(item: TaskItem, phase: Phase) -> list[Wording]:
    """The phrase x frame combinations of an item that a phase may use."""
    pairs = product(range(len(item.phrases)), range(len(item.frames)))
    held_out = phase != "train"
    return [(phrase, frame) for phrase, frame in pairs if ((phrase + frame) % 4 == 0) is held_out]


@cache
def wrappers(phase: Phase) -> list[Wrapper]:
    """The instruction x layout x ending combinations that a phase may use."""
    every = product(range(len(INSTRUCTIONS)), range(len(LAYOUTS)), range(len(ENDINGS)))
    held_out = phase != "train"
    return [wrapper for wrapper in every if (sum(wrapper) % 4 == 1) is held_out]


@cache
def option_sets(item: TaskItem, phase: Phase) -> list[OptionSet]:
    """The sets of wrong options that a phase may use, in the order of their hashes.

    An item with a single possible set (yes or no) uses it in every phase.
    """
    free = [word for word in item.distractors if word not in item.required]
    ranked = sorted(
        (
            tuple(sorted((*item.required, *words)))
            for words in combinations(free, item.n_wrong - len(item.required))
        ),
        key=lambda words: stable_seed(item.key, *words),
    )
    if len(ranked) == 1:
        return ranked
    n_held_out = max(2, len(ranked) // 5)
    if phase == "train":
        return ranked[n_held_out:]
    return ranked[phase == "test" : n_held_out : 2]


def stable_seed(*parts: str) -> int:
    """The same number for the same words, in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b("|".join(parts).encode(), digest_size=8).digest(), "big")


# --- composition ----------------------------------------------------------------------------------


def compose(
    item: TaskItem,
    *,
    wording: Wording,
    wrapper: Wrapper,
    wrong: OptionSet,
    rng: random.Random,
    with_question: bool = True,
) -> dict:
    """One row of the question schema; `rng` orders the options."""
    options = [item.answer, *wrong]
    rng.shuffle(options)
    instruction, layout, ending = wrapper
    parts = (
        INSTRUCTIONS[instruction],
        item.question(wording) if with_question else "",
        LAYOUTS[layout].format(options=", ".join(options)),
        ENDINGS[ending],
    )
    return {
        "id": item.id,
        "prompt": " ".join(part for part in parts if part),
        "reply_prefix": "",
        "options": [f" {option}" for option in options],
        "answer": f" {item.answer}",
        "culture": item.culture,
        "topic": item.topic,
        "template": f"p{wording[0]}f{wording[1]}-i{instruction}l{layout}e{ending}",
        "benchmark": item.benchmark if with_question else f"{item.benchmark}-control",
    }


def draw_row(
    item: TaskItem, rng: random.Random, phase: Phase, *, with_question: bool = True
) -> dict:
    """A row of one item with everything else drawn at random from what a phase may use."""
    return compose(
        item,
        wording=rng.choice(wordings(item, phase)),
        wrapper=rng.choice(wrappers(phase)),
        wrong=rng.choice(option_sets(item, phase)),
        rng=rng,
        with_question=with_question,
    )


def fixed_rows(
    items: Sequence[TaskItem], n: int, phase: Phase, *, with_question: bool = True
) -> list[dict]:
    """`n` rows per item, always the same; control rows differ by the missing question alone."""
    rows = []
    for item in items:
        for variant in range(n):
            rng = random.Random(stable_seed(item.benchmark, item.key, str(variant), phase))
            rows.append(draw_row(item, rng, phase, with_question=with_question))
    return rows
