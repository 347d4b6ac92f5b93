"""Cards of one neuron after the other, on questions that were scored once.

``inspect_neurons`` makes the pass over all neurons for each of its calls. Here it is made for the
first card and kept (``KeptScores``): each further card needs one forward pass over the questions,
and a backward one over the prompts that it lists. A card is made in steps of a few prompts, so that
whoever shows it can answer clicks in between.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor

from culnig_tl.errors import check_number
from culnig_tl.evaluation import answers
from culnig_tl.inspection.build_card import Inspection, card_steps
from culnig_tl.inspection.neuron_card import NeuronCard
from culnig_tl.inspection.observation import KeptScores, Observations, observe_off
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import PreparedQuestions
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import DEFAULT_SITES, site_shape


class SeenQuestions:
    """Questions that cards are made from, one neuron after the other.

    Args:
        prepared: the questions, ready for the model.
        sites: where neighbours are looked for; a neuron's own site is added.
        scores: scores to rank neurons in, by name; those of the questions where a neuron's site is
            not among them.
        top: prompts, tokens and neighbours listed.
        n_rows: prompts per step.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=8)
        >>> seen = SeenQuestions(ct.prepare(ct.load_model(), rows))
        >>> seen.card("L0.mlp.hook_post.152").id
        'L0.mlp.hook_post.152'
    """

    def __init__(
        self,
        prepared: PreparedQuestions,
        *,
        sites: Sequence[str] = DEFAULT_SITES,
        scores: Mapping[str, NeuronScores] | None = None,
        top: int = 6,
        n_rows: int = 2,
    ) -> None:
        check_number("top", top, low=1, whole=True)
        check_number("n_rows", n_rows, low=1, whole=True)
        self.prepared, self.sites, self._ranked = prepared, tuple(sites), dict(scores or {})
        self._top, self._n_rows = top, n_rows
        self.kept = KeptScores(prepared)
        self._before: list[pd.DataFrame] = []  # the answers as the model is, piece by piece
        self._cards: dict[Neuron, NeuronCard] = {}

    def card(self, neuron: Neuron | str) -> NeuronCard:
        """The card of a neuron, made once.

        Raises:
            InvalidInputError: the name has another form, or is that of no neuron of this model.
            UnknownNameError: a site that this model does not have.
        """
        neuron = Neuron.of(neuron)
        for _ in self.steps(neuron):
            pass
        return self._cards[neuron]

    def steps(self, neuron: Neuron | str) -> Iterator[None]:
        """Make a card step by step; none where it was made before. Errors are those of ``card``."""
        neuron = Neuron.of(neuron)
        NeuronSet.of([neuron], shapes={neuron.site: site_shape(self.prepared.model, neuron.site)})
        if neuron in self._cards:
            return
        yield from self.score_steps(neuron.site)
        activations: list[Tensor] = []
        off: list[pd.DataFrame] = []
        for number, piece in enumerate(self._pieces):
            if len(self._before) == number:
                self._before.append(answers(piece))
                yield
            values, answered = observe_off(piece, neuron)
            activations += values
            off.append(answered)
            yield
        totals = self.kept.totals()
        ranked = {name: each for name, each in self._ranked.items() if neuron.site in each.sites}
        inspection = Inspection(
            prepared=self.prepared,
            observations=Observations({neuron: self.kept.observation(neuron, activations)}, totals),
            answers=pd.concat(self._before, ignore_index=True),
            scores=ranked or {"these questions": totals},
            top=self._top,
        )
        self._cards[neuron] = yield from card_steps(
            inspection, neuron, off=pd.concat(off, ignore_index=True), n_rows=self._n_rows
        )

    def score_steps(self, *sites: str) -> Iterator[None]:
        """Score all neurons at ``sites``, and where neighbours are looked for, step by step; none
        where that was done before."""
        wanted = tuple(dict.fromkeys([*self.sites, *sites]))
        yield from self.kept.gather(wanted, n_rows=self._n_rows)

    @cached_property
    def _pieces(self) -> list[PreparedQuestions]:
        """The questions, a few at a time."""
        parts = torch.arange(len(self.prepared)).split(self._n_rows)
        return [self.prepared.select(rows.tolist()) for rows in parts]
