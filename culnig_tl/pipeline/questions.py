"""The questions of a run, each validated, rendered and tokenised once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from culnig_tl.benchmarks import load_benchmark
from culnig_tl.errors import InvalidInputError, check_by_name
from culnig_tl.hooked_model import HookedModel
from culnig_tl.questions import PreparedQuestions, Rows, prepare

ROLES = ("cultural", "control", "recognition")
"""What questions are always scored for; a selective run scores general ones too."""

_IDENTIFICATION = {
    "cultural": "atlas",
    "control": "atlas-control",
    "recognition": "atlas-countries",
}
_TESTS = {
    "culture": "atlas",
    "country names": "atlas-countries",
    "common sense": "atlas-commonsense",
    "ordering": "atlas-ordering",
    "entailment": "atlas-entailment",
}


@dataclass(frozen=True)
class RunQuestions:
    """The questions of a run.

    Attributes:
        data: questions to identify with, by role: cultural, control, recognition and, where they
            are given, general.
        tests: questions to measure with, by name.
        culture_test: questions for the culture x culture effects.
    """

    data: Mapping[str, PreparedQuestions]
    tests: Mapping[str, PreparedQuestions]
    culture_test: PreparedQuestions

    @property
    def test_of_cultures(self) -> str | None:
        """The name of the benchmark that the culture x culture effects are measured with, where
        they have no questions of their own."""
        name, first = next(iter(self.tests.items()))
        return name if first is self.culture_test else None

    @classmethod
    def of(
        cls,
        model: HookedModel,
        *,
        cultural: Rows | None = None,
        control: Rows | None = None,
        recognition: Rows | None = None,
        general: Rows | None = None,
        benchmarks: Mapping[str, Rows] | None = None,
        culture_test: Rows | None = None,
        token_budget: int = 8192,
    ) -> "RunQuestions":
        """Prepared questions; the embedded model's where none are given.

        Raises:
            InvalidInputError: rows that cannot be used, a control of other cultures, or no
                benchmarks.
        """
        if benchmarks is not None:
            check_by_name("benchmarks", benchmarks)

        def ready(rows: Rows) -> PreparedQuestions:
            return prepare(model, rows, token_budget=token_budget)

        given = zip(ROLES, (cultural, control, recognition), strict=True)
        data = {role: ready(atlas_rows(role) if rows is None else rows) for role, rows in given}
        if general is not None:
            data["general"] = ready(general)
        _check_cultures(data)
        benchmarks = atlas_benchmarks() if benchmarks is None else benchmarks
        tests = {name: ready(rows) for name, rows in benchmarks.items()}
        return cls(
            data=data,
            tests=tests,
            culture_test=next(iter(tests.values()))
            if culture_test is None
            else ready(culture_test),
        )


@dataclass(frozen=True)
class GivenQuestions:
    """The questions of a run as they were given, to be prepared for the same model elsewhere.

    Attributes:
        data, tests: what ``prepare`` takes, by name.
        culture_test: the same; None where it is the first of the tests.
    """

    data: Mapping[str, Mapping[str, Any]]
    tests: Mapping[str, Mapping[str, Any]]
    culture_test: Mapping[str, Any] | None

    @classmethod
    def of(cls, questions: RunQuestions) -> "GivenQuestions":
        return cls(
            data={role: _given(prepared) for role, prepared in questions.data.items()},
            tests={name: _given(prepared) for name, prepared in questions.tests.items()},
            culture_test=None
            if questions.test_of_cultures is not None
            else _given(questions.culture_test),
        )

    def on(self, model: HookedModel) -> RunQuestions:
        """The questions ready for a model."""
        data, tests = (
            {name: prepare(model, **given) for name, given in named.items()}
            for named in (self.data, self.tests)
        )
        first = next(iter(tests.values()))
        given = self.culture_test
        return RunQuestions(data, tests, first if given is None else prepare(model, **given))


def _given(prepared: PreparedQuestions) -> dict[str, Any]:
    return {
        "rows": prepared.rows.to_list(),
        "chat": prepared.chat,
        "template": prepared.template,
        "token_budget": prepared.budget.initial,
        "shared_tokens": "keep",  # what was to be left out is
    }


def _check_cultures(data: Mapping[str, PreparedQuestions]) -> None:
    """Refuse what scoring and selection would refuse when all is scored."""
    for role, prepared in data.items():
        if "" in prepared.cultures and len(prepared.cultures) > 1:
            raise InvalidInputError(
                f"Some {role} questions have a culture and some have none; give every row its "
                "culture, or leave it empty in all of them."
            )
    if different := set(data["cultural"].cultures) ^ set(data["control"].cultures):
        raise InvalidInputError(
            "The control is subtracted culture by culture, and these are not in both: "
            f"{', '.join(sorted(different))}; give the same rows without their question."
        )


def atlas_rows(role: str) -> Dataset:
    """The embedded model's questions to identify with, by the role that they have."""
    return load_benchmark(_IDENTIFICATION[role], split="identify")


def atlas_benchmarks() -> dict[str, Dataset]:
    """The embedded model's test questions, none of them used for identification, by name.

    Example:
        >>> list(atlas_benchmarks())[0]
        'culture'
    """
    return {name: load_benchmark(rows, split="test") for name, rows in _TESTS.items()}
