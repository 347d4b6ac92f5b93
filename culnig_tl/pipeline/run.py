"""What a run found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from culnig_tl.inspection import NeuronCard
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores


@dataclass(frozen=True)
class Run:
    """What a run found, and where it is kept.

    Attributes:
        out: the folder.
        settings: everything that the result depends on.
        scores: ``cultural``, ``control`` and ``recognition`` scores.
        general: culture-general neurons.
        specific: culture-specific neurons by culture.
        answers: one row a prompt and condition.
        table: accuracy and mean P(answer) by benchmark and condition (see ``summarise``).
        effects: culture x culture effects of the specific neurons (see ``culture_effects``).
        cards: everything about the best culture-general neurons, by their names.
        doses: what factors from 0 to 2 on the culture-general neurons do (see ``dose_response``).
    """

    out: Path
    settings: Mapping[str, Any]
    scores: Mapping[str, NeuronScores]
    general: NeuronSet
    specific: Mapping[str, NeuronSet]
    answers: pd.DataFrame
    table: pd.DataFrame
    effects: pd.DataFrame
    cards: Mapping[str, NeuronCard] = field(default_factory=dict)
    doses: pd.DataFrame = field(default_factory=pd.DataFrame)

    def report(
        self, path: str | Path | None = None, *, cards: Mapping[str, NeuronCard] | None = None
    ) -> Path:
        """Write one offline HTML page (``report.html`` in the run's folder by default).

        ``cards``, as ``inspect_neurons`` gives them, tell the whole story of more neurons than the
        run's own cards do.
        """
        from culnig_tl.report import write_report

        path = Path(path) if path is not None else self.out / "report.html"
        return write_report(self, path, cards=cards)
