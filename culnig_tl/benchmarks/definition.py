"""A benchmark as a value: everything that this package knows about it stands in one place.

A benchmark's module makes its items out of files and exports a ``Benchmark``; a benchmark of one's
own is made in the same way and given to ``load_benchmark``, which then knows it by its name:

>>> from culnig_tl.questions import Item, rows_of
>>> def load(split, source, templates):
...     item = Item("tea", options=("hot", "iced"), answer=0, ordered=True,
...                 fields={"question": "How do people drink tea?"})
...     return Loaded(rows_of([item], templates, benchmark="drinks"))
>>> drinks = Benchmark("drinks", load, templates=(Template("{question} {option_a}? Answer:"),))
>>> drinks.rows("test")["prompt"][0]
'How do people drink tea? hot? Answer:'
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from datasets import Dataset

from culnig_tl.benchmarks.loading import Loaded, Source
from culnig_tl.errors import InvalidInputError
from culnig_tl.questions import Split, Template, as_templates, control_of, questions

Use = Literal["cultural", "control", "recognition", "general", "open"]
"""What rows are good for: culture, the same without the question, names of countries, tasks without
culture, answers written by the model."""


@dataclass(frozen=True)
class Measure:
    """How near an answer comes to the right one, beside whether it is the right one.

    Attributes:
        name: heads a column of results.
        score: from the model's answer, the right answer and the options, 0 (worst) to 100.

    Example:
        >>> Measure("first letter", lambda said, answer, _: 100.0 * (said[:1] == answer[:1])).name
        'first letter'
    """

    name: str
    score: Callable[[str, str, Sequence[str]], float]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: what it is loaded by; its rows have it in their column ``benchmark``.
        load: the rows of a half, from a folder or the hub, in these wordings, and where they were
            read. Both halves are ``"all"``.
        templates: the wordings that it is asked in by default; none where its rows come finished.
        measure: beside accuracy, which every benchmark has.
        licence: of its questions, by its SPDX name where it has one, and whom they are owed to.
        uses: what its rows are good for.
        folder: where its files lie within a folder of all benchmarks; ``""`` is its name.
        packaged: its questions are part of the package, no files or hub needed.
        has_culture: False for a task that has no culture, and so no half to identify neurons with.
        judgements: rows that each question has in each wording, one after the other, where only all
            of them together count: they are drawn together, and each has the lowest score of them.
        dataset: makes a Dataset of what ``load`` returns.
    """

    name: str
    load: Callable[[Split, Source, Sequence[Template]], Loaded]
    templates: tuple[Template, ...] = ()
    measure: Measure | None = None
    licence: str = ""
    uses: tuple[Use, ...] = ("cultural",)
    folder: str = ""
    packaged: bool = False
    has_culture: bool = True
    judgements: int = 1
    dataset: Callable[[Sequence[Mapping[str, Any]]], Dataset] = questions

    def rows(
        self,
        split: Split,
        source: Source | None = None,
        templates: Template | str | Sequence[Template | str] | None = None,
    ) -> Dataset:
        """Every question of a half in every wording.

        Raises:
            InvalidInputError: a half that it does not have, files or wordings that it does not
                take, records that cannot be used, or rows under another benchmark's name.
            MissingFileError: files that are not there, or a hub out of reach.
        """
        source = source or Source()
        if split == "identify":
            self.check_culture()
        self._check_wordings(source, templates)
        wordings = (
            self.templates if templates is None else as_templates(templates, self.templates[0])
        )
        loaded = self.load(split, source, wordings)
        rows = self.dataset(loaded.rows)
        if others := set(rows["benchmark"]) - {self.name}:
            raise InvalidInputError(
                f"The rows of {self.name} have {', '.join(map(repr, sorted(others)))} in their "
                f"column benchmark; let its load write {self.name!r} there."
            )
        rows.info.license = self.licence
        rows.info.description = f"{self.name}, {split}: {loaded.origin}" if loaded.origin else ""
        return rows

    def control(self) -> "Benchmark":
        """The same benchmark with its questions left out of its prompts (see ``control_of``)."""
        return replace(
            self,
            name=f"{self.name}-control",
            measure=None,
            uses=("control",),
            folder=self.folder or self.name,
            dataset=lambda rows: control_of(self.dataset(rows)),
        )

    def check_culture(self) -> None:
        """Refuse a benchmark without culture.

        Raises:
            InvalidInputError: it has none.
        """
        if not self.has_culture:
            raise InvalidInputError(
                f"{self.name} has no culture to identify neurons with; "
                "take split='test' or 'all', and leave cultures out."
            )

    def _check_wordings(self, source: Source, templates: Any) -> None:
        """Refuse files or wordings that a benchmark does not take."""
        if self.templates:
            return
        if self.packaged and (source != Source() or templates is not None):
            raise InvalidInputError(
                f"{self.name} is part of the package, with its own wordings; "
                "leave data_dir, revision and templates out."
            )
        if templates is not None:
            raise InvalidInputError(f"{self.name} comes in its own wordings; leave templates out.")
