"""Benchmarks by name: those of this package, and any that is registered.

Every ``Benchmark`` that a module of this package has is in the catalogue, so that a new benchmark
is one new module. A benchmark of one's own is given to ``load_benchmark`` or to ``register``.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from math import nan
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, get_args

from datasets import Dataset

from culnig_tl.benchmarks.definition import Benchmark, Measure
from culnig_tl.benchmarks.loading import Source
from culnig_tl.benchmarks.sample import drawn, drawn_per_culture, with_values
from culnig_tl.cultures import culture_key
from culnig_tl.errors import (
    InvalidInputError,
    UnknownNameError,
    check_choice,
    check_number,
    check_seed,
    check_some,
)
from culnig_tl.questions import Split, Template


def load_benchmark(
    name: str | Benchmark,
    *,
    split: Split,
    data_dir: str | Path | None = None,
    cultures: Sequence[str] | None = None,
    topics: Sequence[str] | None = None,
    limit: int | None = None,
    per_culture: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    templates: Template | str | Sequence[Template | str] | None = None,
) -> Dataset:
    """Rows of a benchmark.

    Args:
        name: ``"atlas"`` (culture), ``"atlas-control"`` (the same without the question),
            ``"atlas-countries"`` (country names), ``"atlas-commonsense"``, ``"atlas-ordering"``,
            ``"atlas-entailment"`` (pairs of sentences), ``"atlas-sums"`` (which the embedded model
            was not trained on: to fine-tune on);
            ``"blend"``, ``"culturalbench"``, ``"normad"``, the same with ``"-control"``,
            ``"blend-open"`` (written answers, for ``evaluate_open`` alone);
            ``"worldvaluesbench"`` (from local files only), ``"countryrc"`` (country names, with
            passages of this package); ``"culturalbench-hard"``, ``"include"`` and
            ``"global-mmlu-lite-sensitive"``, the same with ``"-control"``;
            ``"include-agnostic"``, ``"global-mmlu-lite-agnostic"`` (exam questions without
            culture), ``"commonsenseqa"``, ``"qnli"``, ``"mrpc"``.
            Or a ``Benchmark`` of your own, which is then registered under its name.
        split: ``"identify"`` to find neurons, ``"test"`` (the other rows) to measure them,
            ``"all"`` for both. The last five benchmarks have no part to identify with, and their
            ``"test"`` is ``"all"``.
        data_dir: the folder of that benchmark's files; None fetches them from the hub.
        cultures: only these, in any benchmark's spelling; None takes all.
        topics: only these, as the benchmark names them; None takes all.
        limit: at most so many rows, drawn with ``seed`` from each culture in turn, in their order;
            of ``"culturalbench-hard"`` whole questions, four rows each.
        per_culture: at most so many rows of each culture, drawn with ``seed``, in their order;
            ``limit`` counts what is left.
        seed: seed of the draws.
        revision: commit, branch or tag of the hub's repository; None takes the pinned commit where
            there is one, else the main branch. What was read stands in ``rows.info.description``.
        templates: wordings in place of the benchmark's own. A text is a template of letters, or of
            digits where it lists ``1. {option_a}``.

    Returns:
        Every question in every wording, in the schema of ``questions``, or for ``"blend-open"`` in
        that of ``blend_open``.

    Raises:
        UnknownNameError: an unknown benchmark, culture or topic; those that there are are listed.
        MissingFileError: files that are not in ``data_dir``, or a hub out of reach.
        InvalidInputError: a limit below 1 (or below the rows of one question), an empty list, a
            record that cannot be used, templates for atlas, or a Benchmark under another's name.

    Example:
        >>> load_benchmark("atlas", split="test", cultures=["Iran"], limit=3)["culture"][:]
        ['Iran', 'Iran', 'Iran']
        >>> len(load_benchmark("atlas", split="test", cultures=["UK", "Assam"], per_culture=3))
        6
    """
    value = register(name) if isinstance(name, Benchmark) else benchmark(name)
    check_choice("split", split, get_args(Split))
    for argument, number in (("limit", limit), ("per_culture", per_culture)):
        if number is not None:
            check_number(argument, number, low=value.judgements, whole=True)
    for argument, names in (("cultures", cultures), ("topics", topics)):
        if names is not None:
            check_some(argument, names)
    check_seed(seed)
    if cultures is not None:
        value.check_culture()
    source = Source(None if data_dir is None else Path(data_dir).expanduser(), revision)
    rows = value.rows(split, source, templates)
    if cultures is not None:
        rows = with_values(rows, "culture", cultures, name=value.name, key=culture_key)
    if topics is not None:
        rows = with_values(rows, "topic", topics, name=value.name)
    if per_culture is not None:
        rows = drawn_per_culture(rows, per_culture, seed, together=value.judgements)
    return rows if limit is None else drawn(rows, limit, seed, together=value.judgements)


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        UnknownNameError: there is none; the names that there are are listed.

    Example:
        >>> benchmark("worldvaluesbench").measure.name
        'alignment'
    """
    if name not in _benchmarks():
        raise UnknownNameError(
            f"There is no benchmark {name!r}; the known ones are {', '.join(benchmark_names())}."
        )
    return _benchmarks()[name]


def benchmark_names() -> tuple[str, ...]:
    """The names of all benchmarks, registered ones last.

    Example:
        >>> "blend-control" in benchmark_names()
        True
    """
    return tuple(_benchmarks())


def measure_of(name: str) -> Measure | None:
    """What a benchmark's rows are measured by beside accuracy, by their column ``benchmark``.

    None for accuracy alone, for a control, and for a name that is none of a benchmark.

    Example:
        >>> measure_of("blend"), measure_of("my own rows")
        (None, None)
    """
    return _benchmarks()[name].measure if name in _benchmarks() else None


def judged_together(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Sequence[Any]]
) -> dict[str, list[Any]]:
    """Columns of measures in which a question of several judgements counts as one.

    Args:
        rows: the rows that were answered.
        columns: one value per row; a benchmark's own measure is in the column of its name.

    Returns:
        The columns; every judgement of a question in one wording has the lowest score of them (see
        ``Benchmark``), NaN where not all of them were asked.

    Example:
        >>> row = {"benchmark": "culturalbench-hard", "id": "7", "culture": "Iran", "template": ""}
        >>> judged_together([row] * 4, {"all four right": [100.0, 100.0, 0.0, 100.0]})
        {'all four right': [0.0, 0.0, 0.0, 0.0]}
    """
    scores = {name: list(values) for name, values in columns.items()}
    questions: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(rows):
        key = tuple(row[name] for name in ("benchmark", "id", "culture", "template"))
        questions.setdefault(key, []).append(number)
    for (name, *_), numbers in questions.items():
        value = _benchmarks().get(name)
        if value is None or value.measure is None or value.judgements == 1:
            continue
        column = scores[value.measure.name]
        is_whole = len(numbers) == value.judgements
        lowest = min(column[number] for number in numbers) if is_whole else nan
        for number in numbers:
            column[number] = lowest
    return scores


def register(value: Benchmark) -> Benchmark:
    """Put a benchmark of one's own into the catalogue, until Python ends.

    In a notebook a cell can be run again: what a notebook itself defines takes the place of what it
    defined before.

    Raises:
        InvalidInputError: another benchmark has its name.

    Example:
        >>> register(benchmark("blend")).name
        'blend'
    """
    holder = _benchmarks().get(value.name, value)
    if holder != value and not (_of_notebook(holder) and _of_notebook(value)):
        raise InvalidInputError(
            f"There is another benchmark called {value.name!r}; give yours another name."
        )
    _benchmarks()[value.name] = value
    return value


@cache
def _benchmarks() -> dict[str, Benchmark]:
    """Every Benchmark of this package's modules, by name."""
    package = import_module("culnig_tl.benchmarks")
    modules = [
        import_module(f"{package.__name__}.{module.name}")
        for module in iter_modules(package.__path__)
    ]
    return {
        value.name: value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Benchmark)
    }


def _of_notebook(value: Benchmark) -> bool:
    return getattr(value.load, "__module__", "") == "__main__"
