"""The paper's table out of a tidy one: one row per condition, one column per benchmark.

A cell is the measure in percent, a star where the drop beats random neurons of the same number
(p < 0.05, paired bootstrap), and in brackets the change in points. The tidy table itself goes to a
file with ``table.to_csv(path, index=False)``.
"""

import pandas as pd

from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation.bootstrap import STAR
from culnig_tl.evaluation.published import published
from culnig_tl.evaluation.summary import condition_labels

__all__ = ["paper_table", "published", "to_latex", "to_markdown"]

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
    if missing := [name for name in _NEEDED if name not in table]:
        raise InvalidInputError(
            f"This frame has no column {', '.join(missing)}; give a table of compare or published."
        )
    rows = []
    table = table.assign(condition=condition_labels(table))
    for condition, group in table.groupby("condition", sort=False):
        cells = {row["benchmark"]: _cell(row, digits) for row in group.to_dict("records")}
        rows.append(
            {"condition": condition, "neurons": f"{int(group['n_neurons'].max()):,}"} | cells
        )
    return pd.DataFrame(rows).fillna("")


def to_markdown(table: pd.DataFrame, *, digits: int = 2) -> str:
    """The paper's table in Markdown, with a line that says what its cells are.

    Example:
        >>> import culnig_tl as ct
        >>> print(to_markdown(ct.tables.published("Qwen3-14B")).splitlines()[0][:37])
        | condition | neurons | blend | cultu
    """
    wide = paper_table(table, digits=digits)
    lines = [
        list(wide.columns),
        ["---", *["---:"] * (wide.shape[1] - 1)],
        *wide.to_numpy().tolist(),
    ]
    body = "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
    return f"{body}\n\n{_note(table)}\n"


def to_latex(table: pd.DataFrame, *, digits: int = 2, label: str = "tab:culnig") -> str:
    """The paper's table in LaTeX (needs the package booktabs), its cells explained in the caption.

    Example:
        >>> import culnig_tl as ct
        >>> print(to_latex(ct.tables.published("Qwen3-14B")).splitlines()[0])
        \\begin{table}
    """
    wide = paper_table(table, digits=digits)
    escaped = wide.map(_escaped).rename(columns=_escaped)
    return escaped.to_latex(
        index=False,
        column_format="l" + "r" * (wide.shape[1] - 1),
        caption=_escaped(_note(table)),
        label=label,
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


def _escaped(text: str) -> str:
    """Text with LaTeX's own characters escaped."""
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("×", "$\\times$")
