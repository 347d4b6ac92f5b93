"""What is said of a neuron at once: its place, and its ablation on a few of the questions.

    drop = P(answer) - P(answer, neuron off)

The few questions are spread over all of them and recorded once (``recorded``), so that a neuron
costs the layers above it. The card has all questions, and takes longer.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch

from culnig_tl.explore.recorded import RecordedPrompts
from culnig_tl.html import fragment
from culnig_tl.inspection import plain_name
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import PreparedQuestions
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import SITES

_N_FEW, _N_CANDIDATES = 8, 6


@dataclass(frozen=True)
class FirstLook:
    """What switching one neuron off does to a few questions.

    Attributes:
        neuron: the neuron.
        frame: one row per prompt, largest drop first: id, culture, answer, probability,
            probability_off, drop.
        n_questions: prompts that the card is made from.
        place: its rank and how many neurons are ranked; None where its site was not scored.
    """

    neuron: Neuron
    frame: pd.DataFrame
    n_questions: int
    place: tuple[int, int] | None

    @property
    def mean_drop(self) -> float:
        """What ``P(answer)`` loses on average; below 0, it gains."""
        return float(self.frame["drop"].mean())

    @property
    def standard_error(self) -> float:
        """Of the mean drop, over prompts; NaN for one prompt."""
        return float(self.frame["drop"].std(ddof=1) / math.sqrt(len(self.frame)))

    def fragment(self) -> str:
        """As a piece of HTML, to stand on a page that has ``html.FRAGMENT_STYLE``."""
        return fragment("first_look.html", look=self, name=plain_name(self.neuron))


class RecordedQuestions:
    """A few questions, run once as the model is.

    Args:
        prepared: all questions, of which a few are taken.
        scores: what neurons are ranked by.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="test", limit=16)
        >>> few = RecordedQuestions(ct.prepare(model, rows), ct.attribute(model, rows))
        >>> len(few.first_look(Neuron.parse("L0.mlp.hook_post.152")).frame)
        8
    """

    def __init__(self, prepared: PreparedQuestions, scores: NeuronScores) -> None:
        self._n_questions, self._scores = len(prepared), scores
        self._few = prepared.select(range(0, len(prepared), -(-len(prepared) // _N_FEW)))

    @cached_property
    def _recorded(self) -> list[RecordedPrompts]:
        return RecordedPrompts.each(self._few.model, self._few.batches)

    def first_look(self, neuron: Neuron) -> FirstLook:
        """What switching a neuron off does to them.

        Raises:
            UnknownNameError: a site that this model does not have.
            InvalidInputError: a neuron outside this model.
        """
        before, after = torch.zeros(2, len(self._few), dtype=torch.float64)
        for recorded in self._recorded:
            off = recorded.scaled(NeuronSet.of(neuron), factor=0.0)
            places = list(recorded.batch.rows)
            before[places] = recorded.of_answers(recorded.probabilities).cpu().double()
            after[places] = recorded.of_answers(off).cpu().double()
        rows = self._few.rows
        frame = pd.DataFrame(
            {
                **{name: rows[name][:] for name in ("id", "culture", "answer")},
                "probability": before,
                "probability_off": after,
                "drop": before - after,
            }
        ).sort_values("drop", ascending=False, kind="stable", ignore_index=True)
        is_ranked = neuron.site in self._scores.sites
        place = self._scores.rank_of(neuron) if is_ranked else None
        return FirstLook(neuron, frame, self._n_questions, place)

    def worth_seeing(self, sets: Iterable[NeuronSet]) -> Neuron:
        """The MLP neuron with the largest measured drop among the few best by score: of the first
        set that has any, or of all neurons that were scored; of attention where no MLP was."""
        pools = [*map(list, sets), None]
        for pool in pools:
            if candidates := self._best_of_mlp(pool):
                return max(candidates, key=lambda each: self.first_look(each).mean_drop)
        (best,) = NeuronSet.of(self._scores.to_frame(top=1))
        return best

    def _best_of_mlp(self, pool: Iterable[Neuron] | None) -> list[Neuron]:
        """The few best MLP neurons of a pool, by score; None: of all."""
        totals = {
            site: self._scores.total(site)
            for site in self._scores.sites
            if site in SITES and SITES[site].pool == "mlp"
        }
        if pool is None:
            pool = [
                Neuron(site, *divmod(place, total.shape[1]))
                for site, total in totals.items()
                for place in total.flatten()
                .topk(min(_N_CANDIDATES, total.numel()))
                .indices.tolist()
            ]
        scored = [neuron for neuron in pool if neuron.site in totals]
        scored.sort(key=lambda each: -totals[each.site][each.layer, each.index].item())
        return scored[:_N_CANDIDATES]
