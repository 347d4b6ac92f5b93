"""Culture-specific neurons of a culture ``c`` (arXiv 2510.08284), and a stricter rule.

*Published.* One pool of MLP and attention neurons. Rank by ``S_c(cultural) - S_c(control)``, keep
the top, drop the top by ``S_c(recognition)``, and drop neurons whose difference for c lies less
than ``min_z`` population standard deviations above its mean over all cultures (a deviation of 0
counts as z = 0). ``recipe="selective"`` ranks MLP neurons by what ``culture_general`` ranks by.

*Contrast* (this project's, not in the paper). Most of what ranks high for one culture ranks high
for all, and a z-score of 0.5 does not tell: it lets through what two kin share. With ``X_c`` the
mean score of a prompt of culture c as a share of the answer, ``(C - K) / p(cultural)`` (see
``selection.general``), a neuron is c's own if it carries more than twice what it carries for any
other culture. Rank by

    X_c - 2 max(0, X_d)    with d the other culture for which X is highest

and also drop neurons for which that is 0 or less, so that no neuron is the own of two cultures.
Scores of cultural questions are enough; a control, country names and general questions do what
they do elsewhere where they are given. (Twice, not once: a neuron that every culture needs is
needed most by one of them.)
"""

from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError, check_choice, check_number
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.selection.ranking import (
    Normalise,
    Ranking,
    SpecificRecipe,
    as_set,
    check_comparable,
    check_shares,
    located,
    of_culture,
    pool_sites,
    selectable_sites,
    settled_normalise,
    top_places,
)

_TIMES = 2.0
"""How many times as much as for any other culture a neuron must count to be a culture's own."""


def culture_specific(
    cultural: NeuronScores,
    control: NeuronScores | None = None,
    recognition: NeuronScores | None = None,
    general: NeuronScores | None = None,
    *,
    culture: str,
    recipe: SpecificRecipe = "published",
    top: float = 0.003,
    recognition_top: float = 0.01,
    min_z: float = 0.5,
    normalise: Normalise | None = None,
    general_weight: float = 1.0,
) -> NeuronSet:
    """Neurons tied to one culture.

    Args:
        cultural: scores of cultural questions.
        control: scores of the same rows without the question; None subtracts nothing.
        recognition: scores of the country-name control, with this culture; None drops nothing.
        general: scores of general questions, as in ``culture_general``.
        culture: the culture.
        recipe: ``"published"``; ``"selective"``, which needs ``general``; or ``"contrast"``, which
            takes what counts for this culture more than twice what it counts for any other, and
            needs ``cultural`` alone. Take it where a set must be one culture's own: what kin share,
            it leaves out.
        normalise: as in ``culture_general``; ``"contrast"`` takes ``"share"``.
        general_weight: as in ``culture_general``.
        top: share of all neurons to keep.
        recognition_top: share of all neurons to drop by recognition score.
        min_z: least z-score of this culture among all cultures.

    Raises:
        UnknownNameError: scores without this culture.
        InvalidInputError: scores of one culture alone, of different models, sites or cultures, or
            that are not finite; a share outside 0 to 1, or a ``min_z`` that is no finite number.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=32)
        >>> scores = ct.attribute(model, rows, progress=False)
        >>> usa = culture_specific(scores, culture="USA", recipe="contrast")
    """
    check_shares(top=top, recognition_top=recognition_top)
    check_number("min_z", min_z)
    check_number("general_weight", general_weight, low=0)
    check_choice("recipe", recipe, get_args(SpecificRecipe))
    check_comparable(cultural, control, recognition, general)
    check_several_cultures(cultural.cultures)
    normalise = settled_normalise(recipe, normalise, general)
    ranking = Ranking(cultural, control, general, normalise, general_weight)
    sites = pool_sites(cultural, "mlp") if recipe == "selective" else selectable_sites(cultural)
    own = ranking.of(sites, culture)
    by_culture = torch.stack([ranking.of(sites, each) for each in cultural.cultures])
    is_contrast = recipe == "contrast"
    rank = own
    if is_contrast:
        rank = own - _TIMES * _most_of_others(by_culture, cultural.cultures.index(culture))
    best = top_places(rank, top)
    if recognition is not None:
        names = top_places(of_culture(recognition, sites, culture), recognition_top)
        best = best[~torch.isin(best, names)]
    best = best[_z_scores(own, by_culture)[best] >= min_z]
    if is_contrast:
        best = best[rank[best] > 0]
    return as_set(
        located(best, rank, sites, cultural),
        cultural,
        kind="culture-specific",
        culture=culture,
        top=top,
        recognition_top=recognition_top if recognition is not None else None,
        min_z=min_z,
        control=control is not None,
        **({"recipe": recipe} if is_contrast else {}),
        **ranking.provenance,
    )


def check_several_cultures(cultures: Sequence[str]) -> None:
    """Refuse scores in which no culture can be told from others.

    Raises:
        InvalidInputError: there is one culture, or none.

    Example:
        >>> check_several_cultures(["Iran", "Spain"])
    """
    if len(cultures) < 2:
        raise InvalidInputError(
            f"These scores are of one culture alone ({', '.join(cultures) or 'without a name'}), "
            "and a z-score compares at least two; score questions of several cultures, or select "
            "culture-general neurons."
        )


def _most_of_others(
    by_culture: Float[Tensor, "culture neuron"], index: int
) -> Float[Tensor, "neuron"]:
    """The highest value of each neuron among the other cultures, or 0."""
    return torch.cat([by_culture[:index], by_culture[index + 1 :]]).amax(0).clamp(min=0)


def _z_scores(
    own: Float[Tensor, "neuron"], by_culture: Float[Tensor, "culture neuron"]
) -> Float[Tensor, "neuron"]:
    """How far one culture lies above the mean of all, in population standard deviations."""
    exact = by_culture.double()
    mean = exact.mean(0)
    deviation = (exact - mean).square().mean(0).sqrt()
    z = (own - mean) / deviation
    return torch.where(deviation == 0, 0.0, z)
