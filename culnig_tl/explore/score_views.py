"""What the heatmap of the explorer colours: all cultures, the same without the control, or one."""

from typing import Any

from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.figures import bin_scores
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import SITES

ALL, MINUS_CONTROL = "all cultures", "minus control"


class ScoreViews:
    """Scores, and the scores of their control where there are any, seen in one way at a time.

    Args:
        scores: scores of every neuron.
        control: those of the same rows without the question, to be subtracted.

    Raises:
        InvalidInputError: a control of other sites or of another model's shape.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", cultures=["Iran"], limit=8)
        >>> ScoreViews(ct.attribute(ct.load_model(), rows, progress=False)).names
        ('all cultures', 'Iran')
    """

    def __init__(self, scores: NeuronScores, control: NeuronScores | None = None) -> None:
        self.scores, self.control = scores, control
        if control is not None and control.shapes != scores.shapes:
            raise InvalidInputError(
                f"The control's scores are of {control.shapes} and the scores of {scores.shapes} "
                "(layers, neurons by site); score both on one model, at the same sites."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The views there are."""
        minus = () if self.control is None else (MINUS_CONTROL,)
        return (ALL, *minus, *self.scores.cultures)

    def view(self, name: str) -> NeuronScores:
        """The scores of one view.

        Raises:
            UnknownNameError: there is no such view.
        """
        if name == ALL:
            return self.scores
        if name == MINUS_CONTROL and self.control is not None:
            control = self.control
            return self._summed(
                {site: self.scores.total(site) - control.total(site) for site in control.sites}
            )
        if name not in self.scores.cultures:
            raise UnknownNameError(
                f"There are no scores named {name!r}; choose one of "
                f"{', '.join(map(repr, self.names))}."
            )
        sites = self.scores.sites
        return self._summed({site: self.scores.of_culture(site, name) for site in sites}, name)

    def _summed(self, values: dict[str, Any], culture: str = MINUS_CONTROL) -> NeuronScores:
        return NeuronScores(
            {site: of_site[None] for site, of_site in values.items()},
            cultures=(culture,),
            n_questions=self.scores.n_questions,
            n_prompts=(sum(self.scores.n_prompts),),
            source=self.scores.source,
        )


def panels(scores: NeuronScores) -> list[dict[str, Any]]:
    """The heatmap as lists that JSON can hold, one entry per site.

    Returns:
        ``site``, ``name`` (in words), ``edges`` (first neuron of each bin, and the end of the
        last), ``values`` (layers by bins: the largest score) and ``neurons`` (whose it is).
    """
    return [
        {
            "site": bins.site,
            "name": SITES[bins.site].plain_name if bins.site in SITES else bins.site,
            "edges": bins.edges.tolist(),
            "values": bins.amounts.tolist(),
            "neurons": bins.neurons.tolist(),
        }
        for bins in bin_scores(scores)
    ]
