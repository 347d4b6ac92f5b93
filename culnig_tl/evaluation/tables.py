"""The paper's table out of a tidy one: one row per condition, one column per benchmark.

A cell is the measure in percent, a star where the drop beats random neurons of the same number
(p < 0.05, paired bootstrap), and in brackets the change in points. The tidy table itself goes to a
file with ``spreadsheet_safe(table).to_csv(path, index=False)``.

Names of benchmarks, conditions and measures are anyone's: whatever Markdown, HTML or LaTeX would
take for its own is escaped in both.

A table of ``ct.selectivity`` is printed by the same writers, in percent and points: how far
``P(answer)`` falls on each benchmark, and how much further than on general questions.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.evaluation.bootstrap import STAR
from culnig_tl.evaluation.published import published
from culnig_tl.evaluation.selectivity import ENOUGH_CLUSTERS, ENOUGH_SETS
from culnig_tl.evaluation.summary import condition_labels
from culnig_tl.files import spreadsheet_safe

__all__ = [
    "paper_table",
    "published",
    "rounded",
    "selectivity_note",
    "selectivity_table",
    "spreadsheet_safe",
    "to_latex",
    "to_markdown",
]

_MOST_DIGITS = 15
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    | {"×": r"$\times$"}
)
_MARKDOWN = str.maketrans({"\\": r"\\", "|": r"\|", "`": r"\`", "&": "&amp;"})
_LABEL = re.compile(r"[\w:;.,+/ -]+")
_ENDS = ("", "_cluster_low", "_cluster_high")
_NEEDED = (
    "benchmark",
    "condition",
    "factor",
    "n_neurons",
    "measure",
    "accuracy",
    "change",
    "p_value",
)
_NEEDED_FOR_SELECTIVITY = (
    *("benchmark", "condition", "factor", "n_neurons", "n_sets", "n_clusters"),
    *("n_general_clusters", "n_matched", "beats_matched"),
    *(f"{name}{end}" for name in ("fall", "general_fall", "selectivity") for end in _ENDS),
)


def rounded(table: pd.DataFrame, *, digits: int = 3) -> pd.DataFrame:
    """A table for reading: numbers to so many decimals, p-values as text that is never "0.0".

    Args:
        table: any table; its columns that begin with ``p_`` are p-values.
        digits: after the point.

    Raises:
        InvalidInputError: digits that are no whole number from 1 to 15.

    Example:
        >>> rounded(pd.DataFrame({"change": [-67.3611], "p_value": [0.0005]}))
           change p_value
        0 -67.361  < .001
    """
    check_number("digits", digits, low=1, high=_MOST_DIGITS, whole=True)
    p_values = [name for name in table.columns if str(name).startswith("p_")]
    texts = {name: [_p_text(value, digits) for value in table[name]] for name in p_values}
    return table.round(digits).assign(**texts)


def paper_table(table: pd.DataFrame, *, digits: int = 2) -> pd.DataFrame:
    """The table of ``compare`` as the paper prints it, all cells text.

    Args:
        table: the table of ``compare``, ``summarise`` or ``published``.
        digits: decimals of a percentage.

    Returns:
        Columns condition, neurons, then one per benchmark.

    Raises:
        InvalidInputError: a frame that is no such table.

    Example:
        >>> import culnig_tl as ct
        >>> wide = paper_table(ct.tables.published("gemma-3-12b-it"))
        >>> wide[["condition", "neurons", "blend"]].to_numpy().tolist()[1]
        ['general (published)', '8,087', '37.93 (-26.29)']
    """
    check_number("digits", digits, low=0, high=_MOST_DIGITS, whole=True)
    _check(table, _NEEDED, "compare or published")
    rows = []
    table = table.assign(condition=condition_labels(table))
    for condition, group in table.groupby("condition", sort=False):
        cells = {row["benchmark"]: _cell(row, digits) for row in group.to_dict("records")}
        rows.append(
            {"condition": condition, "neurons": f"{int(group['n_neurons'].max()):,}"} | cells
        )
    return pd.DataFrame(rows).fillna("")


def selectivity_table(table: pd.DataFrame, *, digits: int = 0) -> pd.DataFrame:
    """The table of ``ct.selectivity`` in print, all cells text.

    Args:
        table: the frame of ``ct.selectivity``.
        digits: decimals of a percentage.

    Returns:
        Columns condition and neurons, how far ``P(answer)`` falls on each benchmark and on general
        questions (%), and the selectivity on each benchmark (points), with 95 % intervals by
        clusters, and a star where it is above that of all of at least 19 layer-matched sets.

    Raises:
        InvalidInputError: a frame that is no such table.

    Example:
        >>> import culnig_tl as ct
        >>> rows = {name: ct.load_benchmark(name, split="test", limit=16)
        ...         for name in ("atlas", "atlas-ordering")}
        >>> key = ct.answer_key("general")
        >>> conditions = [ct.Condition("original"), ct.Condition.of("planted", key)]
        >>> model = ct.load_model()
        >>> answers = ct.evaluation.answers_under(
        ...     {name: ct.prepare(model, each) for name, each in rows.items()}, conditions)
        >>> list(selectivity_table(ct.selectivity(answers)))[2:]
        ['P falls, atlas', 'P falls, general', 'selectivity, atlas']
    """
    check_number("digits", digits, low=0, high=_MOST_DIGITS, whole=True)
    _check(table, _NEEDED_FOR_SELECTIVITY, "ct.selectivity")
    rows = []
    table = table.assign(condition=condition_labels(table))
    for condition, group in table.groupby("condition", sort=False):
        by_benchmark = group.to_dict("records")
        falls = {f"P falls, {r['benchmark']}": _percent(r, "fall", digits) for r in by_benchmark}
        general = {"P falls, general": _percent(by_benchmark[0], "general_fall", digits)}
        more = {f"selectivity, {r['benchmark']}": _selectivity(r, digits) for r in by_benchmark}
        neurons = {"condition": condition, "neurons": f"{int(group['n_neurons'].max()):,}"}
        rows.append(neurons | falls | general | more)
    return pd.DataFrame(rows).fillna("")


def to_markdown(table: pd.DataFrame, *, digits: int | None = None) -> str:
    """The paper's table, or that of selectivity, in Markdown, with a line that explains its cells.

    What names hold of Markdown's tables and code, of links and of HTML is escaped.

    Args:
        table: a table of ``compare``, ``summarise``, ``published`` or ``ct.selectivity``.
        digits: decimals of a percentage; by default 2, of selectivity 0.

    Example:
        >>> import culnig_tl as ct
        >>> print(to_markdown(ct.tables.published("Qwen3-14B")).splitlines()[0][:37])
        | condition | neurons | blend | cultu
    """
    wide, note = _printed(table, digits)
    lines = [
        list(wide.columns),
        ["---", *["---:"] * (wide.shape[1] - 1)],
        *wide.to_numpy().tolist(),
    ]
    body = "\n".join(f"| {' | '.join(map(_markdown, line))} |" for line in lines)
    return f"{body}\n\n{_markdown(note)}\n"


def to_latex(table: pd.DataFrame, *, digits: int | None = None, label: str = "tab:culnig") -> str:
    """The same in LaTeX (needs the package booktabs), the cells explained in the caption.

    All that LaTeX would take for its own is escaped.

    Args:
        table: as in ``to_markdown``.
        digits: as in ``to_markdown``.
        label: what ``\\ref`` calls the table; it cannot be escaped.

    Raises:
        InvalidInputError: a label that LaTeX cannot read, or a frame that is no such table.

    Example:
        >>> import culnig_tl as ct
        >>> print(to_latex(ct.tables.published("Qwen3-14B")).splitlines()[0])
        \\begin{table}
    """
    if not _LABEL.fullmatch(label):
        raise InvalidInputError(
            f"label is {label!r}, which LaTeX cannot read as one; give letters, digits and any of "
            ": ; . , + / _ - as in 'tab:culnig'."
        )
    wide, note = _printed(table, digits)
    escaped = wide.map(_latex).rename(columns=_latex)
    return escaped.to_latex(
        index=False,
        column_format="l" + "r" * (wide.shape[1] - 1),
        caption=_latex(note),
        label=label,
    )


def _printed(table: pd.DataFrame, digits: int | None) -> tuple[pd.DataFrame, str]:
    """The cells of a table, and the line that explains them."""
    if "general_fall" in table:
        return selectivity_table(table, digits=0 if digits is None else digits), selectivity_note(
            table
        )
    return paper_table(table, digits=2 if digits is None else digits), _note(table)


def _p_text(value: float, digits: int) -> str:
    """A p-value without its leading 0; "" where there is none."""
    if pd.isna(value):
        return ""
    least = f"{10**-digits:.{digits}f}"
    return f"< {least[1:]}" if value < float(least) else f"{value:.{digits}f}".removeprefix("0")


def _check(table: pd.DataFrame, needed: Sequence[str], makers: str) -> None:
    if missing := [name for name in needed if name not in table]:
        raise InvalidInputError(
            f"This frame has no column {', '.join(missing)}; give a table of {makers}."
        )


def _cell(row: dict, digits: int) -> str:
    star = "*" if row["p_value"] < STAR else ""
    change = f" ({row['change']:+.{digits}f})" if row["n_neurons"] else ""
    return f"{row['accuracy']:.{digits}f}{star}{change}"


def _note(table: pd.DataFrame) -> str:
    others = table.loc[table["measure"] != "accuracy"].groupby("measure")["benchmark"].unique()
    listed = "; ".join(f"{measure} for {', '.join(names)}" for measure, names in others.items())
    measure = f"Accuracy in % ({listed})" if listed else "Accuracy in %"
    return (
        f"{measure}; in brackets the change in points. *: p < {STAR:g}, paired bootstrap, against "
        "random neurons of the same number."
    )


def _percent(row: Mapping[Hashable, Any], name: str, digits: int) -> str:
    """A share in percent with its interval by clusters, where there is one."""
    value, low, high = (
        f"{round(100 * row[name + end], digits) + 0.0:.{digits}f}"
        for end in _ENDS  # no "-0"
    )
    return value if pd.isna(row[f"{name}_cluster_low"]) else f"{value} [{low}, {high}]"


def _selectivity(row: Mapping[Hashable, Any], digits: int) -> str:
    star = "*" if row["beats_matched"] and row["n_matched"] >= ENOUGH_SETS else ""
    return f"{_percent(row, 'selectivity', digits)}{star}"


def selectivity_note(table: pd.DataFrame) -> str:
    """What the cells of ``selectivity_table`` are, and what its intervals and stars cannot show."""
    n_clusters = dict(zip(table["benchmark"], table["n_clusters"], strict=True))
    n_clusters["general"] = table["n_general_clusters"].iloc[0]
    few = [f"{name} {number}" for name, number in n_clusters.items() if number < ENOUGH_CLUSTERS]
    return (
        "P falls: how far the mean P(answer) falls, in % of that of the model as it is; "
        "selectivity: how much further than on general questions, in points. Brackets: 95 % "
        "intervals over clusters (relations or categories)"
        + (f", which are too narrow for so few ({', '.join(few)})" if few else "")
        + f". {_note_on_sets(table)}"
    )


def _note_on_sets(table: pd.DataFrame) -> str:
    """How many layer-matched sets there are, and whether that is enough for a star."""
    n_sets = int(table["n_matched"].max())
    if n_sets >= ENOUGH_SETS:
        return f"*: more than each of {n_sets} layer-matched random sets."
    lowest = (
        f"with {n_sets} p cannot fall below {1 / (n_sets + 1):.2g}" if n_sets else "there is none"
    )
    return f"No star without {ENOUGH_SETS} layer-matched random sets: {lowest}."


def _latex(text: str) -> str:
    """Text in one line with LaTeX's own characters escaped.

    An asterisk or a bracket at the start would belong to the ``\\\\`` that ends the line before.
    """
    line = " ".join(text.split()).translate(_LATEX)
    return f"{{}}{line}" if line.startswith(("*", "[")) else line


def _markdown(text: str) -> str:
    """Text in one line with Markdown's own characters, and HTML, escaped."""
    line = " ".join(text.split()).translate(_MARKDOWN)
    return re.sub(r"<(?! )", "&lt;", line).replace("](", r"]\(")
