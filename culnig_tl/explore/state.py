"""The state of the live inspector, without any widget."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from culnig_tl.attribution import attribute
from culnig_tl.errors import UnknownNameError, check_number
from culnig_tl.figures import bin_scores, layer_heatmap
from culnig_tl.hooked_model import HookedModel
from culnig_tl.html import fragment, with_style
from culnig_tl.inspection import NeuronCard, Prompt, inspect_neuron
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare, questions
from culnig_tl.scores import NeuronScores

THIS, MARKED = "this neuron", "marked neurons"


class Explorer:
    """A model, a neuron that is looked at, neurons that are scaled and a prompt that is answered.

    Attributes:
        rows: the questions that cards are made from, ready for the model.
        scores: what the heatmap shows.
        sets: neurons by name that can be scaled together.
        neuron: the neuron that is looked at.
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
        rows: Rows,
        *,
        scores: NeuronScores,
        sets: Mapping[str, NeuronSet],
    ) -> None:
        self.model, self.rows, self.scores = model, prepare(model, rows), scores
        self.sets = dict(sets)
        self.marked = NeuronSet.of({})
        self.target = THIS
        self.factor = 1.0
        (self.neuron,) = NeuronSet.of(scores.to_frame(top=1))
        self._cards: dict[Neuron, NeuronCard] = {}
        self.read(self.rows.rows[0])

    def __repr__(self) -> str:
        noun = "neuron" if len(self.marked) == 1 else "neurons"
        return (
            f"Explorer of {self.model.cfg.model_name}: looking at {self.neuron}, "
            f"{len(self.marked)} {noun} marked, factor {self.factor:g}, {len(self.rows)} questions"
        )

    def heatmap(self) -> go.Figure:
        """The scores by layer, as ``figures.layer_heatmap`` draws them."""
        return layer_heatmap(self.scores)

    def panels(self) -> list[dict[str, Any]]:
        """The same heatmap as lists that JSON can hold, one entry per site.

        Returns:
            ``site``, ``values`` (layers by bins: the largest score) and ``neurons`` (whose it is).
        """
        return [
            {"site": bins.site, "values": bins.amounts.tolist(), "neurons": bins.neurons.tolist()}
            for bins in bin_scores(self.scores)
        ]

    def look_at(self, neuron: Neuron | str) -> NeuronCard:
        """Look at a neuron, given by value or name; its card is made once.

        Raises:
            InvalidInputError: the name has another form, or is that of no neuron of this model.
            UnknownNameError: a site that this model does not have.

        Example:
            >>> import culnig_tl as ct
            >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
            >>> explorer = ct.explore(ct.load_model(), rows, progress=False)
            >>> card = explorer.look_at("L0.mlp.hook_post.152")
            >>> print(explorer.neuron)
            L0.mlp.hook_post.152
        """
        neuron = Neuron.of(neuron)
        if neuron not in self._cards:
            is_scored = neuron.site in self.scores.sites
            self._cards[neuron] = inspect_neuron(
                self.model,
                self.rows,
                neuron,
                scores={"these questions": self.scores} if is_scored else None,
                sites=self.scores.sites,
            )
        self.neuron = neuron
        return self._cards[neuron]

    def read(self, prompt: Mapping[str, Any] | str) -> None:
        """Ask another prompt: a row, or plain text.

        Raises:
            InvalidInputError: no text, or more than the model can read.
        """
        self.prompt = Prompt.of(self.model, prompt)
        self.text = prompt if isinstance(prompt, str) else prompt["prompt"]

    def mark(self) -> None:
        """Put the neuron that is looked at among the marked ones."""
        self.marked |= NeuronSet.of(self.neuron)

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
        choices = {THIS: NeuronSet.of(self.neuron), MARKED: self.marked} | self.sets
        if self.target not in choices:
            raise UnknownNameError(
                f"There are no neurons named {self.target!r}; choose one of "
                f"{', '.join(map(repr, self.targets))}."
            )
        return choices[self.target]

    def answers(self) -> pd.DataFrame:
        """Columns answer, probability (as the model is), scaled, right; one row per answer."""
        before = self.prompt.probabilities(self.model)
        after = self.prompt.probabilities(self.model, self.scaled(), factor=self.factor)
        before.insert(2, "scaled", after["probability"])
        return before

    def answers_html(self) -> str:
        """The answers as a piece of HTML."""
        return fragment(
            "answers.html",
            answers=self.answers(),
            target=self.target,
            n_neurons=len(self.scaled()),
            factor=self.factor,
        )

    def static_html(self) -> str:
        """Heatmap, answers and card as they are now, for where no widget runs."""
        heatmap = fragment("static.html") + fragment("panels.html", panels=self.panels())
        card = self.look_at(self.neuron).fragment()
        return with_style(heatmap + self.answers_html() + card)

    def _repr_html_(self) -> str:
        return self.static_html()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        static = {"text/html": self.static_html(), "text/plain": repr(self)}
        if find_spec("ipywidgets") is None or find_spec("anywidget") is None:
            return static
        from culnig_tl.explore.widgets import ExplorerView

        return dict(ExplorerView(self)._repr_mimebundle_() or {}) | static


def explore(
    model: HookedModel,
    rows: Rows,
    *,
    scores: NeuronScores | None = None,
    sets: Mapping[str, NeuronSet] | None = None,
    n_seen: int = 64,
    progress: bool = True,
) -> Explorer:
    """Open the live inspector of a model; the last expression of a notebook cell shows it.

    Args:
        model: a frozen model with named hook points.
        rows: questions, or prepared ones; the first is the prompt to begin with.
        scores: what the heatmap shows; by default the scores of ``rows``.
        sets: neurons by name that can be scaled together, e.g. ``{"general": general}``.
        n_seen: questions, spread over ``rows``, that cards are made from; more take longer.
        progress: show a progress bar while questions are scored.

    Raises:
        InvalidInputError: rows that cannot be used, or no question for cards.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> explore(ct.load_model(), rows, progress=False).targets
        ('this neuron', 'marked neurons')
    """
    check_number("n_seen", n_seen, low=1, whole=True)
    if scores is None:
        rows = prepare(model, rows)
        scores = attribute(model, rows, progress=progress)
    rows = rows if isinstance(rows, PreparedQuestions) else questions(rows)
    seen = rows.select(range(0, len(rows), -(-len(rows) // n_seen)))
    return Explorer(model, seen, scores=scores, sets=sets or {})
