"""The section on selectivity: is it culture, or any fact?"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from culnig_tl import figures
from culnig_tl.evaluation import (
    LAYER_MATCHED,
    condition_labels,
    general_by_topic,
    has_selectivity,
    selectivity,
    selectivity_of_sets,
    tables,
    verdict,
)
from culnig_tl.html import MINUS, Row, figure, grouped_table, number, paragraph, section, table
from culnig_tl.pipeline import Run


def measure_selectivity(run: Run) -> pd.DataFrame | None:
    """The frame of ``selectivity``; None without general questions."""
    return selectivity(run.answers) if has_selectivity(run.answers) else None


def selectivity_section(run: Run) -> str:
    """How much more cultural questions lose than general ones; nothing without general ones."""
    frame = measure_selectivity(run)
    if frame is None:
        return ""
    wide = tables.selectivity_table(frame)
    rows: list[Row] = [
        (name, *(cell.replace("-", MINUS) for cell in numbers))
        for name, *numbers in wide.to_numpy().tolist()
    ]
    return section(
        "Is it culture?",
        paragraph(
            "Neurons that any fact needs lower P(answer) on general questions as well; those of "
            "culture lower it on cultural questions alone. Selectivity is the difference."
        ),
        *(paragraph(f"“{label}”: {text}") for label, text in verdict(frame).items()),
        table([*map(str, wide)], rows, caption=tables.selectivity_note(frame)),
        _falls(run, frame),
        _topics(run),
    )


def _falls(run: Run, frame: pd.DataFrame) -> str:
    """The figure of falls on cultural against general questions."""
    points = "; ".join(
        f"{row['benchmark']}, {label}: {_percent(row['fall'])}, general "
        f"{_percent(row['general_fall'])}"
        for label, row in zip(condition_labels(frame), frame.to_dict("records"), strict=True)
    )
    return figure(
        figures.selectivity(frame, sets=selectivity_of_sets(run.answers)),
        name="selectivity",
        label=f"Falls of P(answer) on cultural against general questions. {points}.",
        caption="On the dashed line cultural and general questions fall alike, which is no sign of "
        "culture; above it, cultural ones fall further. Crosses are 95 % intervals over clusters, "
        "small grey points single layer-matched random sets.",
    )


def _topics(run: Run) -> str:
    """The general categories one by one, since an average hides what cancels."""
    falls = general_by_topic(run.answers)
    falls = falls[~falls["condition"].str.startswith(LAYER_MATCHED)]
    falls = falls.assign(label=condition_labels(falls))
    groups: dict[str, list[Row]] = {}
    for row in falls.to_dict("records"):
        groups.setdefault(f"{row['benchmark']}: {row['topic'] or 'no topic'}", []).append(
            (row["label"], row["n_questions"], _interval(row))
        )
    caption = (
        "How far the mean P(answer) falls on each category of general questions, in % of that of "
        "the model as it is. Brackets: 95 % intervals over its questions. Below 0: it rises."
    )
    header = ("General category", "Condition", "Questions", "P falls by, %")
    return grouped_table(header, groups, caption=caption)


def _interval(row: Mapping[Any, Any]) -> str:
    ends = (number(100 * row[f"fall{end}"], ".0f") for end in ("", "_low", "_high"))
    return "{} [{}, {}]".format(*ends)


def _percent(share: float) -> str:
    return f"{number(100 * share, '.0f')} %"
