"""The published figures, to stand beside one's own (arXiv 2510.08284).

Accuracy in % (WorldValuesBench: alignment) as the model is, with culture-general neurons
suppressed, and with as many random ones suppressed.
"""

import pandas as pd

from culnig_tl.benchmarks import measure_of
from culnig_tl.errors import UnknownNameError
from culnig_tl.evaluation.summary import COLUMNS

_BENCHMARKS = (
    "blend",
    "culturalbench",
    "normad",
    "worldvaluesbench",
    "commonsenseqa",
    "qnli",
    "mrpc",
)
_FIGURES: dict[str, dict[str, tuple[int, tuple[float, ...]]]] = {
    "gemma-3-12b-it": {
        "original": (0, (64.22, 78.08, 58.54, 64.08, 79.71, 75.37, 78.04)),
        "general": (8087, (37.93, 62.00, 52.02, 58.46, 75.10, 72.77, 78.65)),
        "random": (8087, (63.57, 77.31, 57.55, 64.03, 79.18, 75.46, 78.22)),
    },
    "Qwen3-14B": {
        "original": (0, (65.96, 76.92, 56.85, 65.22, 81.76, 71.31, 79.91)),
        "general": (7340, (35.84, 57.07, 49.02, 60.70, 75.23, 76.20, 78.70)),
    },
    "Llama-3.1-8B-Instruct": {
        "original": (0, (60.18, 70.54, 47.71, 64.05, 76.74, 64.43, 73.93)),
        "general": (4268, (32.19, 36.94, 37.65, 51.68, 51.97, 48.64, 69.35)),
    },
}


def published(model: str, beside: pd.DataFrame | None = None) -> pd.DataFrame:
    """The paper's rows for a model, in the columns of ``compare``.

    Args:
        model: the model's name, with or without its organisation.
        beside: one's own table, which is put above the paper's rows.

    Returns:
        Conditions ``"original (published)"``, ``"general (published)"`` and, where it is known,
        ``"random (published)"``; benchmarks under the names of ``load_benchmark``. What the paper
        does not say is NaN.

    Raises:
        UnknownNameError: a model without published figures; the known ones are listed.

    Example:
        >>> table = published("gemma-3-12b-it")
        >>> table.loc[table["benchmark"] == "blend", "accuracy"].tolist()
        [64.22, 37.93, 63.57]
    """
    by_lower_case = {name.lower(): name for name in _FIGURES}
    name = by_lower_case.get(model.rsplit("/", 1)[-1].lower())
    if name is None:
        raise UnknownNameError(
            f"There are no published figures for {model!r}; there are some for "
            f"{', '.join(_FIGURES)}."
        )
    figures = _FIGURES[name]
    rows = [
        {
            "benchmark": benchmark,
            "condition": f"{condition} (published)",
            "n_neurons": n_neurons,
            "factor": 0.0 if n_neurons else 1.0,
            "measure": getattr(measure_of(benchmark), "name", "accuracy"),
            "accuracy": values[i],
            "change": round(values[i] - figures["original"][1][i], 2),
        }
        for i, benchmark in enumerate(_BENCHMARKS)
        for condition, (n_neurons, values) in figures.items()
    ]
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    return table if beside is None else pd.concat([beside, table], ignore_index=True)
