"""What the live inspector knows and does, without any widget."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from datasets import Dataset

from culnig_tl.attribution import attribute
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.figures import layer_heatmap
from culnig_tl.hooks import HookedModel
from culnig_tl.inspection import NeuronCard, Prompt, inspect_neuron, pages
from culnig_tl.neurons import NeuronSet, neuron_id, parse_neuron_id
from culnig_tl.questions import questions
from culnig_tl.scores import NeuronScores

THIS, MARKED = "this neuron", "marked neurons"
_BINS = 64


@dataclass(frozen=True)
class Panel:
    """The scores of one site, for a heatmap: the largest of each bin and whose it is."""

    site: str
    values: list[list[float]]
    neurons: list[list[int]]


class Explorer:
    """A model, a neuron that is looked at, neurons that are scaled and a prompt that is answered.

    Attributes:
        neuron: name of the neuron that is looked at.
        target: which neurons are scaled: this one, those marked, or a named set.
        marked: neurons marked by hand.
        factor: what their activations are multiplied by.
        text: the prompt.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=16)
        >>> explorer = ct.explore(ct.load_model(), rows, progress=False)
        >>> explorer.factor = 0.0
        >>> list(explorer.answers())
        ['answer', 'probability', 'scaled', 'right']
    """

    def __init__(
        self,
        model: HookedModel,
        rows: Dataset,
        *,
        scores: NeuronScores,
        sets: Mapping[str, NeuronSet],
    ) -> None:
        self.model, self.rows, self.scores = model, rows, scores
        self.sets = dict(sets)
        self.marked = NeuronSet.of({})
        self.target = THIS
        self.factor = 1.0
        best = scores.to_frame(top=1).iloc[0]
        self.neuron = neuron_id(best["site"], int(best["layer"]), int(best["neuron"]))
        self._cards: dict[str, NeuronCard] = {}
        self.read(rows[0])

    def heatmap(self) -> go.Figure:
        """The scores by layer, as ``figures.layer_heatmap`` draws them."""
        return layer_heatmap(self.scores, bins=_BINS)

    def panels(self) -> list[Panel]:
        """The cells of the heatmap, each with the neuron that a click on it shows."""
        panels = []
        for site in self.scores.sites:
            total = self.scores.total(site)
            chunks = total.tensor_split(min(_BINS, total.shape[1]), dim=1)
            starts = [0]
            for chunk in chunks:
                starts.append(starts[-1] + chunk.shape[1])
            best = [chunk.max(1) for chunk in chunks]
            panels.append(
                Panel(
                    site,
                    [list(line) for line in zip(*(b[0].tolist() for b in best), strict=True)],
                    [
                        [start + place for start, place in zip(starts, line, strict=False)]
                        for line in zip(*(b[1].tolist() for b in best), strict=True)
                    ],
                )
            )
        return panels

    def look_at(self, neuron: str) -> NeuronCard:
        """Look at a neuron by its name.

        Raises:
            InvalidInputError: the name has another form, or is that of no neuron of this model.
            UnknownNameError: a site that this model does not have.
        """
        site, layer, index = parse_neuron_id(neuron)
        if neuron not in self._cards:
            self._cards[neuron] = inspect_neuron(
                self.model,
                self.rows,
                site=site,
                layer=layer,
                neuron=index,
                scores={"these questions": self.scores} if site in self.scores.sites else None,
                sites=self.scores.sites,
            )
        self.neuron = neuron
        return self._cards[neuron]

    def read(self, prompt: Mapping[str, Any] | str) -> None:
        """Try a prompt: a row, or plain text.

        Raises:
            InvalidInputError: no text, or more than the model can read.
        """
        self.prompt = Prompt.of(self.model, prompt)
        self.text = prompt if isinstance(prompt, str) else prompt["prompt"]

    def mark(self) -> None:
        """Put the neuron that is looked at among the marked ones."""
        site, layer, neuron = parse_neuron_id(self.neuron)
        self.marked = self.marked | NeuronSet.of({site: [(layer, neuron)]})

    def unmark(self) -> None:
        """Mark nothing."""
        self.marked = NeuronSet.of({})

    @property
    def targets(self) -> tuple[str, ...]:
        """What can be scaled."""
        return (THIS, MARKED, *self.sets)

    def scaled(self) -> NeuronSet:
        """The neurons that are scaled.

        Raises:
            UnknownNameError: ``target`` is none of ``targets``.
        """
        if self.target == THIS:
            site, layer, neuron = parse_neuron_id(self.neuron)
            return NeuronSet.of({site: [(layer, neuron)]})
        if self.target == MARKED:
            return self.marked
        if self.target not in self.sets:
            raise UnknownNameError(
                f"There are no neurons named {self.target!r}; choose one of "
                f"{', '.join(map(repr, self.targets))}."
            )
        return self.sets[self.target]

    def answers(self) -> pd.DataFrame:
        """Columns answer, probability (as the model is), scaled, right."""
        before = self.prompt.probabilities(self.model)
        after = self.prompt.probabilities(self.model, self.scaled(), factor=self.factor)
        before.insert(2, "scaled", after["probability"])
        return before

    def answers_html(self) -> str:
        """The answers as a piece of HTML."""
        return pages.fragment(
            "answers.html",
            answers=self.answers(),
            target=self.target,
            n_neurons=len(self.scaled()),
            factor=self.factor,
        )

    def still(self) -> str:
        """What is shown where no widget runs: heatmap, answers and card, as they are now."""
        said = pages.fragment("static.html") + pages.fragment("panels.html", panels=self.panels())
        card = self.look_at(self.neuron).fragment()
        return pages.with_style(said + self.answers_html() + card)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        still = {"text/html": self.still(), "text/plain": repr(self)}
        if find_spec("ipywidgets") is None or find_spec("anywidget") is None:
            return still
        from culnig_tl.explore.widgets import view

        return dict(view(self)._repr_mimebundle_() or {}) | still


def explore(
    model: HookedModel,
    rows: Dataset,
    *,
    scores: NeuronScores | None = None,
    sets: Mapping[str, NeuronSet] | None = None,
    n_seen: int = 64,
    progress: bool = True,
) -> Explorer:
    """The live inspector of a model.

    Args:
        model: a frozen model with named hook points.
        rows: questions; the first is the prompt to begin with.
        scores: what the heatmap shows; by default the scores of ``rows``.
        sets: neurons by name that can be scaled together, e.g. ``{"general": general}``.
        n_seen: questions, spread over ``rows``, that cards are made from; more take longer.
        progress: show a progress bar while scores are made.

    Raises:
        InvalidInputError: rows that cannot be used, or no question for cards.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> explore(ct.load_model(), rows, progress=False).targets
        ('this neuron', 'marked neurons')
    """
    rows = questions(rows)
    if n_seen < 1:
        raise InvalidInputError(f"n_seen is {n_seen}; give at least 1 question for the cards.")
    if scores is None:
        scores = attribute(model, rows, progress=progress)
    seen = rows.select(range(0, len(rows), -(-len(rows) // n_seen)))
    return Explorer(model, seen, scores=scores, sets=sets or {})
