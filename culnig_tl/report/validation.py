"""The page of a validation: does the finding hold, and would another method have done better?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from culnig_tl import figures
from culnig_tl.html import (
    OLD_BROWSER,
    REPORT_STYLE,
    Row,
    figure,
    number,
    opening,
    paragraph,
    plotly_script,
    section,
    table,
    with_contents,
    write_page,
)
from culnig_tl.report.summary import own_name
from culnig_tl.validation import Validation

_SURE = 0.9


def write_validation(validation: Validation, path: str | Path, *, model_name: str) -> Path:
    """Write the page of a validation, whole or not at all.

    Args:
        validation: what ``validate`` found out.
        path: the HTML file; its folder is made if need be.
        model_name: what the model was loaded as.

    Returns:
        The path.

    Raises:
        UnwritableError: the folder cannot be made or written.
    """
    title = f"Do the culture neurons of {own_name(model_name)} hold?"
    sections = [
        _league(validation),
        _faithfulness(validation),
        _membership(validation),
    ]
    header = opening(title, _answers(validation))
    body = f"<main>\n{header}{OLD_BROWSER}{with_contents(''.join(sections))}\n</main>"
    return write_page(path, title=title, body=body, style=REPORT_STYLE, scripts=[plotly_script()])


def _answers(validation: Validation) -> dict[str, str]:
    """What the page shows, in answers to the questions of its three sections."""
    frame, areas = validation.league.frame, validation.faithfulness.areas
    first, selective, agreeing = (
        ordered.to_dict("records")[0]
        for ordered in (
            frame,
            frame.sort_values("selectivity", ascending=False),
            frame.sort_values("spearman", ascending=False),
        )
    )
    deletion = areas[areas["curve"] == "deletion"]
    beyond = deletion[deletion["area_low"] > 0].to_dict("records")
    curves = f": {'; '.join(map(_curve, beyond))}." if beyond else "."
    core = validation.membership.core(_SURE)
    return {
        "Would another method have done better?": f"Of {len(frame)} ways, {_named(selective)} is "
        f"the most selective for culture, with {_points(selective)}, and the scores of "
        f"{_named(agreeing)} agree best with what switching single neurons off does, with "
        f"{_spearman(agreeing)}. The first that was asked for, {_named(first)}, has "
        f"{_points(first)} and {_spearman(first)}.",
        "Do the best neurons matter most?": "Switching neurons off, the best first, lowers "
        "P(answer) further than switching off random ones, beyond the interval, for "
        f"{len(beyond)} of {len(deletion)} pairs of a ranking and a benchmark{curves}",
        "Would other questions have found them?": f"{len(core)} of the "
        f"{len(validation.membership.neurons)} neurons are in the set in at least "
        f"{100 * _SURE:.0f} % of {validation.membership.draws} resamples of the questions.",
    }


def _named(row: Mapping[Any, Any]) -> str:
    """A way of finding neurons, by its scores and its recipe."""
    return f"{row['scorer']} ({row['recipe']})"


def _points(row: Mapping[Any, Any]) -> str:
    return f"a selectivity of {_interval(row, 'selectivity', 100.0, '.0f')} points"


def _spearman(row: Mapping[Any, Any]) -> str:
    return f"a Spearman correlation of {_interval(row, 'spearman', 1.0, '.2f')}"


def _curve(row: Mapping[Any, Any]) -> str:
    points = _interval(row, "area", 100.0, ".0f")
    return f"{row['ranking']} on {row['benchmark']} by {points} points on average"


def _league(validation: Validation) -> str:
    """How every way of finding neurons did."""
    frame = validation.league.frame
    header = (
        *("Scores", "Recipe", "Spearman", "P falls, %", "Selectivity, points"),
        *("Halves", "CPU s"),
    )
    rows: list[Row] = [
        (
            row["scorer"],
            row["recipe"],
            _interval(row, "spearman", 1.0, ".2f"),
            " / ".join(number(100 * row[name], ".0f") for name in ("fall", "general_fall")),
            _interval(row, "selectivity", 100.0, ".0f"),
            number(row["jaccard"], ".2f"),
            number(row["seconds"], ".1f"),
        )
        for row in frame.to_dict("records")
    ]
    caption = (
        f"Spearman: agreement of scores with the exact ablation of "
        f"{len(validation.league.ablation)} single neurons. P falls: mean P(answer) on held-out "
        "cultural and general questions with the best 1 % of the MLP neurons switched off; "
        "selectivity is their difference. Halves: Jaccard index of the sets that two halves of the "
        "topics find, "
        f"{number(frame['by_chance'].max(), '.2f')} by chance. Brackets: 95 % intervals."
    )
    return section(
        "Would another method have done better?",
        paragraph(
            "Each way of scoring neurons is held against what switching single ones off really "
            "does, and each set that it selects against held-out questions."
        ),
        figure(
            figures.league(frame),
            name="league",
            label="Agreement with exact ablation and selectivity of every method; the table below "
            "has the numbers.",
            caption="To the right, scores agree better with ablation; higher up, the set is more "
            "selective. The larger a point, the more it costs.",
        ),
        table(header, rows, caption=caption),
    )


def _faithfulness(validation: Validation) -> str:
    """Deletion and insertion."""
    areas = validation.faithfulness.areas
    rows: list[Row] = [
        (
            f"{row['curve']}, {row['ranking']}",
            row["benchmark"],
            _interval(row, "area", 1.0, ".2f"),
            number(row["p_value"], ".2f"),
        )
        for row in areas.to_dict("records")
    ]
    return section(
        "Do the best neurons matter most, and for culture most?",
        figure(
            figures.faithfulness(validation.faithfulness.frame),
            name="faithfulness",
            label="Fall of P(answer) against the number of neurons switched off, or kept; the "
            "areas below have the numbers.",
            caption="Dotted and shaded: random rankings with as many neurons in each layer.",
        ),
        table(
            ("Curve", "Benchmark", "Area", "p"),
            rows,
            caption="Area between a ranking and random ones, over the logarithm of the number of "
            "neurons: positive is better. p: its rank among the random rankings, which with "
            f"{int(areas['n_random'].max())} of them cannot be below "
            f"{number(1 / (1 + areas['n_random'].max()), '.2f')}.",
        ),
    )


def _membership(validation: Validation) -> str:
    """How surely each neuron belongs to the set."""
    frame, core = validation.membership.frame, validation.membership.core(_SURE)
    rows: list[Row] = [
        (
            f"L{row['layer']}.{row['site']}.{row['neuron']}",
            number(100 * row["membership"], ".0f"),
            "yes" if row["selected"] else "no",
        )
        for row in frame.head(50).to_dict("records")
    ]
    return section(
        "Which neurons would other questions have found?",
        paragraph(
            f"{len(core)} of the {len(validation.membership.neurons)} neurons of the set are in it "
            f"in at least {100 * _SURE:.0f} % of {validation.membership.draws} resamples of the "
            "questions: the core set."
        ),
        table(
            ("Neuron", "In the set, % of the resamples", "Of all questions"),
            rows,
            caption="The 50 surest.",
        ),
    )


def _interval(row: Mapping[Any, Any], name: str, scale: float, form: str) -> str:
    ends = (number(scale * row[f"{name}{end}"], form) for end in ("", "_low", "_high"))
    return "{} [{}, {}]".format(*ends)
