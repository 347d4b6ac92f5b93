"""The section of a fine-tuning study: what training these modules gained and cost."""

from collections.abc import Mapping
from typing import Any

from culnig_tl.finetuning import FineTuningStudy
from culnig_tl.html import figure, paragraph, section, table


def finetuning_section(study: FineTuningStudy | None) -> str:
    """What each arm gained on the task and did to every benchmark; nothing without a study."""
    if study is None:
        return ""
    frame, n_seeds = study.frame, study.runs["seed"].nunique()
    rows = [
        (
            str(row["benchmark"]),
            str(row["arm"]),
            f"{row['accuracy_before']:.1f}",
            f"{row['accuracy_after']:.1f}",
            _change(row, "change", ".1f"),
            _change(row, "probability_change", ".3f"),
        )
        for row in frame.to_dict("records")
    ]
    header = ("Benchmark", "Arm", "Before, %", "After, %", "Change, points", "P(answer)")
    return section(
        "What fine-tuning costs",
        paragraph(
            "Chosen modules were trained on an ordinary task, all other weights held: those with "
            "most culture-general neurons (top), with fewest (bottom), drawn at random, all "
            "parameters, or top with the culture neurons' own weights held (protect). A task that "
            "one arm learns better than another is no fair match."
        ),
        figure(
            study.figure(),
            name="finetuning",
            label="Gain on the task against the change of each benchmark, one arrow per arm",
            caption="Arrows go from the model as it was; crosses are 95 % intervals over questions "
            "and seeds.",
        ),
        table(
            header,
            rows,
            caption=f"Accuracy and mean P(answer) before and after; {n_seeds} "
            f"{'seed' if n_seeds == 1 else 'seeds'} per arm, brackets: 95 % intervals over "
            "questions and seeds.",
        ),
    )


def _change(row: Mapping[Any, Any], name: str, form: str) -> str:
    value, low, high = (format(row[f"{name}{end}"], "+" + form) for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"
