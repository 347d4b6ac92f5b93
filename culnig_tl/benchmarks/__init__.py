"""Benchmarks by name, each as rows of the schema in ``questions``.

One module a benchmark; this one only finds them. The embedded model's own questions need no file
and no network.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from datasets import Dataset

from culnig_tl.benchmarks import (
    atlas,
    blend,
    blend_open,
    commonsenseqa,
    countryrc,
    culturalbench,
    glue,
    normad,
    worldvaluesbench,
)
from culnig_tl.benchmarks.cultures import culture_name
from culnig_tl.benchmarks.sources import Loaded, Source
from culnig_tl.errors import InvalidInputError, UnknownNameError, check_choice
from culnig_tl.questions import Split, Template, control_of, questions
from culnig_tl.questions.prompts import as_templates

_ATLAS: dict[str, Callable[[Split], list[dict[str, Any]]]] = {
    "atlas": atlas.cultural,
    "atlas-control": atlas.control,
    "atlas-countries": atlas.countries,
    "atlas-commonsense": atlas.commonsense,
    "atlas-ordering": atlas.ordering,
    "atlas-entailment": atlas.entailment,
}
_LOADERS: dict[str, Callable[[Split, Source, Sequence[Template]], Loaded]] = {
    "blend": blend.load,
    "blend-open": blend_open.load,
    "countryrc": countryrc.load,
    "culturalbench": culturalbench.load,
    "normad": normad.load,
    "normad-control": normad.load_control,
    "worldvaluesbench": worldvaluesbench.load,
    "commonsenseqa": commonsenseqa.load,
    "qnli": glue.load_qnli,
    "mrpc": glue.load_mrpc,
}
TEMPLATES: Mapping[str, tuple[Template, ...]] = {
    "blend": blend.OWN_PROMPT,
    "blend-open": blend_open.TEMPLATES,
    "countryrc": countryrc.TEMPLATES,
    "culturalbench": culturalbench.TEMPLATES,
    "normad": normad.TEMPLATES,
    "normad-control": normad.CONTROL_TEMPLATES,
    "worldvaluesbench": worldvaluesbench.TEMPLATES,
    "commonsenseqa": commonsenseqa.TEMPLATES,
    "qnli": glue.QNLI_TEMPLATES,
    "mrpc": glue.MRPC_TEMPLATES,
}
"""The wordings that ``load_benchmark`` takes of its own accord."""
_CONTROLS = {"blend-control": "blend", "culturalbench-control": "culturalbench"}
_WITHOUT_CULTURE = ("commonsenseqa", "qnli", "mrpc")
BENCHMARKS = (*_ATLAS, *_LOADERS, *_CONTROLS)


def load_benchmark(
    name: str,
    *,
    split: Split,
    data_dir: str | Path | None = None,
    cultures: Sequence[str] | None = None,
    topics: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    templates: Template | str | Sequence[Template | str] | None = None,
) -> Dataset:
    """Rows of a benchmark.

    Args:
        name: ``"atlas"`` (culture), ``"atlas-control"`` (the same without the question),
            ``"atlas-countries"`` (country names), ``"atlas-commonsense"``, ``"atlas-ordering"``,
            ``"atlas-entailment"`` (pairs of sentences);
            ``"blend"``, ``"culturalbench"``, ``"normad"``, the same with ``"-control"``,
            ``"blend-open"`` (written answers, for ``evaluate_open`` alone);
            ``"worldvaluesbench"`` (from local files only), ``"countryrc"`` (country names, with
            passages of this package); ``"commonsenseqa"``, ``"qnli"``, ``"mrpc"``.
        split: ``"identify"`` to find neurons, ``"test"`` (the other rows) to measure them,
            ``"all"`` for both. The last three benchmarks have no part to identify with, and their
            ``"test"`` is ``"all"``.
        data_dir: the folder of that benchmark's files; None fetches them from the hub.
        cultures: only these, in any benchmark's spelling; None takes all.
        topics: only these, as the benchmark names them; None takes all.
        limit: at most so many rows, drawn with ``seed`` and kept in their order.
        seed: seed of the draw.
        revision: commit, branch or tag of the hub's repository; None takes the pinned commit where
            one is known, else the main branch. What was read stands in ``rows.info.description``.
        templates: wordings in place of ``TEMPLATES[name]``. A text is a template of letters, or of
            digits where it lists ``1. {option_a}``.

    Returns:
        Every question in every wording, in the schema of ``questions``, or for ``"blend-open"`` in
        that of ``blend_open``.

    Raises:
        UnknownNameError: an unknown benchmark, culture or topic; the known ones are listed.
        MissingFileError: files that are not in ``data_dir``, or a hub out of reach.
        InvalidInputError: a limit below 1, a record that cannot be used, no templates in the list,
            or templates for atlas.

    Example:
        >>> load_benchmark("atlas", split="test", cultures=["Iran"], limit=3)["culture"][:]
        ['Iran', 'Iran', 'Iran']
    """
    if name not in BENCHMARKS:
        raise UnknownNameError(
            f"There is no benchmark {name!r}; the known ones are {', '.join(BENCHMARKS)}."
        )
    check_choice("split", split, get_args(Split))
    if name in _WITHOUT_CULTURE and (split == "identify" or cultures is not None):
        raise InvalidInputError(
            f"{name} has no culture to identify neurons with; "
            "take split='test' or 'all', and leave cultures out."
        )
    source = Source(None if data_dir is None else Path(data_dir).expanduser(), revision)
    rows = _rows(name, split, source, templates)
    if cultures is not None:
        rows = _only(
            rows, "culture", {culture_name(culture): culture for culture in cultures}, name
        )
    if topics is not None:
        rows = _only(rows, "topic", {topic: topic for topic in topics}, name)
    return rows if limit is None else drawn(rows, limit, seed)


def _rows(
    name: str,
    split: Split,
    source: Source,
    templates: Template | str | Sequence[Template | str] | None,
) -> Dataset:
    if name in _ATLAS:
        if source != Source() or templates is not None:
            raise InvalidInputError(
                f"{name} is part of the package, with its own wordings; "
                "leave data_dir, revision and templates out."
            )
        return questions(_ATLAS[name](split))
    asked = _CONTROLS.get(name, name)
    usual = TEMPLATES[asked]
    chosen = usual if templates is None else as_templates(templates, usual[0])
    loaded = _LOADERS[asked](split, source, chosen)
    make = blend_open.dataset if asked == "blend-open" else questions
    rows = make(loaded.rows)
    rows = control_of(rows) if name in _CONTROLS else rows
    rows.info.description = f"{name}, {split}: {loaded.origin}"
    return rows


def _only(rows: Dataset, column: str, asked: Mapping[str, str], name: str) -> Dataset:
    """The rows that have one of the values asked for, each by its name and as the user spelt it."""
    known = list(dict.fromkeys(rows[column]))
    if unknown := [spelling for value, spelling in asked.items() if value not in known]:
        raise UnknownNameError(
            f"{name} has no {column} {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(filter(None, known)) or 'none'}."
        )
    return rows.select([i for i, value in enumerate(rows[column]) if value in asked])


def drawn(rows: Dataset, limit: int, seed: int) -> Dataset:
    """At most ``limit`` rows, drawn with ``seed`` and kept in their order.

    Raises:
        InvalidInputError: a limit below 1.
    """
    if limit < 1:
        raise InvalidInputError(
            f"limit is {limit}; give a number of rows from 1 up, or None for all."
        )
    if limit >= len(rows):
        return rows
    drawn = np.random.default_rng(seed).permutation(len(rows))[:limit]
    return rows.select(sorted(drawn.tolist()))
