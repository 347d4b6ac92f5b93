"""The state of the live inspector, without any widget."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.explore.first_look import FirstLook, RecordedQuestions
from culnig_tl.explore.recorded import RecordedPrompts
from culnig_tl.explore.score_views import ALL, ScoreViews, panels
from culnig_tl.explore.search import neurons_named, neurons_of_questions
from culnig_tl.explore.still import still_heatmap
from culnig_tl.explore.tray import Tray
from culnig_tl.figures import layer_heatmap
from culnig_tl.hooked_model import HookedModel
from culnig_tl.html import fragment, with_style
from culnig_tl.inspection import Continuations, NeuronCard, Prompt, SeenQuestions, generate
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import Rows, prepare
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import site_shape

THIS, MARKED = "this neuron", "marked neurons"
NO_SET = "none"
_N_RISING = 5


class Explorer:
    """A model, a neuron that is looked at, neurons that are scaled and a prompt that is answered.

    It opens on the MLP neuron that costs the answers most when it is off, of the few best of the
    first set, or of the scores where there is none.

    Attributes:
        rows: the questions that cards are made from, ready for the model.
        scores: the scores of all cultures.
        views: the scores that the heatmap can show.
        shown: which of them it shows: one of ``views.names``.
        sets: neurons by name that can be scaled together, and drawn.
        drawn: the set that the heatmap marks; ``"none"`` for none.
        neuron: the neuron that is looked at.
        target: which neurons are scaled: this one, those marked, or a named set.
        tray: neurons marked by hand.
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
        control: NeuronScores | None = None,
    ) -> None:
        self.model, self.rows, self.scores = model, prepare(model, rows), scores
        self.views, self.shown = ScoreViews(scores, control), ALL
        self.sets = dict(sets)
        self.drawn = next(iter(self.sets), NO_SET)
        origin = {"model": model_fingerprint(model), "model_name": model.cfg.model_name}
        self.tray = Tray(scores.shapes, {"kind": "marked", **origin})
        self.target, self.factor = THIS, 1.0
        self._seen = SeenQuestions(
            self.rows, sites=scores.sites, scores={"these questions": scores}
        )
        self._few = RecordedQuestions(self.rows, scores)
        self.read(self.rows.rows[0])
        self.neuron = self._few.worth_seeing(self.sets.values())

    def __repr__(self) -> str:
        noun = "neuron" if len(self.marked) == 1 else "neurons"
        return (
            f"Explorer of {self.model.cfg.model_name}: looking at {self.neuron}, "
            f"{len(self.marked)} {noun} marked, factor {self.factor:g}, {len(self.rows)} questions"
        )

    # --- the heatmap

    def heatmap(self) -> go.Figure:
        """The scores that are shown, as ``figures.layer_heatmap`` draws them."""
        return layer_heatmap(self.views.view(self.shown))

    def panels(self) -> list[dict[str, Any]]:
        """The same heatmap as lists that JSON can hold (see ``score_views.panels``)."""
        return panels(self.views.view(self.shown))

    def marks(self) -> dict[str, list[Neuron]]:
        """The neurons that the heatmap marks: those of the set that is drawn, those marked by hand,
        and the one that is looked at.

        Raises:
            UnknownNameError: ``drawn`` is no name of a set.
        """
        choices = {NO_SET: NeuronSet.of({})} | self.sets
        _check_name(self.drawn, choices)
        found = choices[self.drawn]
        return {"found": list(found), "marked": list(self.marked), "current": [self.neuron]}

    # --- the neuron that is looked at

    def point_at(self, neuron: Neuron | str) -> None:
        """Look at a neuron without making its card yet.

        Raises:
            InvalidInputError: the name has another form, or is that of no neuron of this model.
            UnknownNameError: a site that this model does not have.
        """
        neuron = Neuron.of(neuron)
        NeuronSet.of([neuron], shapes={neuron.site: site_shape(self.model, neuron.site)})
        self.neuron = neuron

    def first_look(self) -> FirstLook:
        """What switching the neuron off does to a few of the questions: a second's work."""
        return self._few.first_look(self.neuron)

    def card_steps(self, *neurons: Neuron | str) -> Iterator[None]:
        """Make the cards of some neurons, by default the one looked at, a few prompts per step."""
        for neuron in neurons or (self.neuron,):
            yield from self._seen.steps(neuron)

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
        self.point_at(neuron)
        return self._seen.card(self.neuron)

    def search(self, text: str, *, top: int = 8) -> pd.DataFrame:
        """Neurons by a part of their name, or else those that score highest on the questions whose
        text or answer holds ``text``.

        Returns:
            Columns neuron, score, found ("by its name", or in how many questions), best first.

        Raises:
            InvalidInputError: no text, or none that a name, a question or an answer holds.

        Example:
            >>> import culnig_tl as ct
            >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
            >>> explorer = ct.explore(ct.load_model(), rows, progress=False)
            >>> explorer.search("L0.mlp.hook_post.152")["neuron"].tolist()
            ['L0.mlp.hook_post.152']
        """
        if not text.strip():
            raise InvalidInputError(
                "There is nothing to search for; write a part of a neuron's name, of a question or "
                "of an answer."
            )
        named = neurons_named(text.strip(), self.scores, top)
        if len(named):
            return named
        for _ in self._seen.score_steps():
            pass
        return neurons_of_questions(text.strip(), self._seen.kept, top)

    def comparison_html(self, first: Neuron | str, second: Neuron | str) -> str:
        """The cards of two neurons side by side, as a piece of HTML."""
        cards = [self._seen.card(neuron).fragment() for neuron in (first, second)]
        return fragment("side_by_side.html", cards=cards)

    # --- neurons put aside

    @property
    def marked(self) -> NeuronSet:
        """The neurons marked by hand."""
        return self.tray.neurons

    def mark(self) -> None:
        """Put the neuron that is looked at among the marked ones."""
        self.tray.mark(self.neuron)

    def unmark(self, neuron: Neuron | str | None = None) -> None:
        """Mark one neuron no longer; without one, mark nothing."""
        self.tray.unmark(neuron)

    # --- the prompt

    def read(self, prompt: Mapping[str, Any] | str) -> None:
        """Ask another prompt: a row, or plain text, which is asked in the way the rows are.

        Raises:
            InvalidInputError: no text, or more than the model can read.
        """
        read = Prompt.of(self.model, prompt, chat=self.rows.chat, template=self.rows.template)
        (self._recorded_prompt,) = RecordedPrompts.each(self.model, [read.batch])
        self.prompt = read
        self.is_typed = isinstance(prompt, str)
        self.text = prompt if isinstance(prompt, str) else prompt["prompt"]

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
        _check_name(self.target, choices)
        return choices[self.target]

    def answers(self) -> pd.DataFrame:
        """Columns answer, probability (as the model is), scaled, right; one row per answer."""
        return self._answers()[0]

    def rising(self) -> pd.DataFrame:
        """The tokens whose probability rises most when scaled: columns token, probability, scaled;
        none where none rises."""
        return self._answers()[1]

    def _answers(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The answers, and the tokens that rise, out of one pass."""
        recorded = self._recorded_prompt
        (before,) = recorded.probabilities
        (after,) = recorded.scaled(self.scaled(), factor=self.factor)
        right = self.prompt.batch.answers.item()
        answers = [
            (text, before[token].item(), after[token].item(), token == right)
            for text, token in self.prompt.answers
        ]
        risen = [
            (self.model.tokenizer.decode([token]), before[token].item(), after[token].item())
            for token in (after - before).topk(_N_RISING).indices.tolist()
            if after[token] > before[token]
        ]
        return (
            pd.DataFrame(answers, columns=["answer", "probability", "scaled", "right"]),
            pd.DataFrame(risen, columns=["token", "probability", "scaled"]),
        )

    def answers_html(self) -> str:
        """The answers as a piece of HTML; below those to a typed prompt, the tokens that rise."""
        answers, rising = self._answers()
        return fragment(
            "answers.html",
            answers=answers,
            rising=rising if self.is_typed and self.factor != 1 else None,
            target=self.target,
            n_neurons=len(self.scaled()),
            factor=self.factor,
        )

    def write_on(self, *, max_new_tokens: int = 24) -> Continuations:
        """How the model goes on after the prompt, as it is and with the neurons scaled."""
        return generate(
            self.model,
            self.text,
            self.scaled(),
            factor=self.factor,
            max_new_tokens=max_new_tokens,
            chat=self.rows.chat,
            template=self.rows.template,
        )

    # --- as a page

    def static_html(self, *, with_card: bool = True) -> str:
        """Heatmap, answers and card as they are now, for where no widget runs; without the card,
        the first look stands in its place, which is sooner made."""
        heatmap = fragment("static.html") + still_heatmap(self.panels())
        neuron = self._seen.card(self.neuron) if with_card else self.first_look()
        return with_style(heatmap + self.answers_html() + neuron.fragment())

    def _repr_html_(self) -> str:
        return self.static_html()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        has_widgets = all(map(find_spec, ("ipywidgets", "anywidget")))
        static = {
            "text/html": self.static_html(with_card=not has_widgets),
            "text/plain": repr(self),
        }
        if not has_widgets:
            return static
        from culnig_tl.explore.widgets import ExplorerView

        return dict(ExplorerView(self)._repr_mimebundle_() or {}) | static


def _check_name(name: str, choices: Mapping[str, NeuronSet]) -> None:
    if name not in choices:
        raise UnknownNameError(
            f"There are no neurons named {name!r}; choose one of {', '.join(map(repr, choices))}."
        )
