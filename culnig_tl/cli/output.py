"""The results of a run, as tables in the terminal."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

import culnig_tl as ct
from culnig_tl.cli.options import OUT
from culnig_tl.evaluation import condition_labels, verdict


def print_run(run: ct.Run) -> None:
    """The table of a run: accuracy and mean P(answer), one row per benchmark and condition."""
    factor, n_random = run.settings["factor"], run.settings["n_random"]
    OUT.print(
        f"\n{len(run.general)} culture-general neurons, multiplied by {factor:g} (scaled), and "
        f"{n_random} random {'set' if n_random == 1 else 'sets'} of as many (random)."
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("benchmark", "neurons"):
        table.add_column(heading, no_wrap=True)
    for heading in ("accuracy, %", "change", "p", "mean P(answer)"):
        table.add_column(heading, justify="right", no_wrap=True)
    labelled = run.table.assign(condition=condition_labels(run.table))
    for benchmark, rows in labelled.groupby("benchmark", sort=False):
        for number, row in enumerate(rows.to_dict("records")):
            table.add_row(
                "" if number else str(benchmark),
                row["condition"].replace("general", "scaled"),
                _interval(row, "accuracy", ".1f"),
                "" if row["condition"] == "original" else f"{row['change']:+.1f}",
                "" if pd.isna(row["p_value"]) else f"{row['p_value']:.2g}".removeprefix("0"),
                _interval(row, "probability", ".3f"),
                end_section=number == len(rows) - 1,
            )
    OUT.print(table)
    OUT.print(
        "[dim]In brackets, 95 % bootstrap intervals over questions. p: paired bootstrap, that "
        "accuracy drops no more than with random sets.[/dim]\n"
    )
    print_warnings(run.warnings)


def print_warnings(sentences: Iterable[str]) -> None:
    """Sentences that a reader must know, one paragraph each."""
    for sentence in sentences:
        OUT.print(f"Warning: {escape(sentence)}\n", style="yellow", highlight=False, soft_wrap=True)


def _interval(row: Mapping[Hashable, Any], measure: str, digits: str) -> str:
    """A value with its interval; probabilities without their leading zero, to fit 80 columns."""
    value, low, high = (
        f"{row[measure + end]:{digits}}".removeprefix("0") for end in ("", "_low", "_high")
    )
    return f"{value} \\[{low},{high}]"


def print_selectivity(run: ct.Run) -> None:
    """How much more P(answer) falls on cultural questions than on general ones, and what that
    says."""
    frame = ct.selectivity(run.answers)
    table = Table(
        title="How far P(answer) falls, and how much further than on general questions",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    printed = ct.tables.selectivity_table(frame)
    for number, heading in enumerate(printed):
        table.add_column(str(heading), justify="right" if number else "left")
    for line in printed.to_numpy().tolist():
        table.add_row(*(str(cell).replace("[", "\\[") for cell in line))
    OUT.print(table)
    for condition, sentence in verdict(frame).items():
        OUT.print(f"{condition}: {sentence}")
    OUT.print()


def print_grade(run: ct.Run) -> None:
    """How the found culture-general neurons agree with the embedded model's answer key."""
    ranked = ct.grade_scores(
        run.scores["cultural"], ct.answer_key("general"), control=run.scores["control"]
    )
    table = Table(
        title="MLP neurons found, against the answer key", title_justify="left", box=SIMPLE_HEAD
    )
    for heading in ("key", "neurons", "found", "precision", "recall", "F1"):
        table.add_column(heading, justify="right")
    for name, verified in (("planted", False), ("verified by ablation", True)):
        result = ct.grade(run.general, ct.answer_key("general", verified=verified))
        table.add_row(
            name,
            str(result.n_key),
            str(result.n_found),
            *(f"{value:.2f}" for value in (result.precision, result.recall, result.f1)),
        )
    OUT.print(table)
    OUT.print(
        f"Ranking by score against the planted key: AUROC {ranked.auroc:.3f}, "
        f"average precision {ranked.average_precision:.3f}"
    )
