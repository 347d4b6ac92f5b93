"""Grade what a finder found against an answer key.

The key of the embedded model lists MLP neurons, so only the sites of the key are graded: neurons
found at other sites are neither right nor wrong, since nothing is known about them.

    precision = |found and key| / |found|      recall = |found and key| / |key|

For scores, every neuron at the sites of the key is ranked: AUROC is the chance that a neuron of the
key ranks above one outside it (ties count half), average precision the mean precision at each key
neuron.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError, check_kind
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores


@dataclass(frozen=True)
class Grade:
    """Agreement of a set with a key, each figure 0 to 1.

    Attributes:
        precision: share of the found neurons that are in the key (NaN if none was found).
        recall: share of the key that was found.
        f1: harmonic mean of the two.
        n_found: neurons found at the sites of the key.
        n_key: neurons of the key.
    """

    precision: float
    recall: float
    f1: float
    n_found: int
    n_key: int


@dataclass(frozen=True)
class ScoreGrade:
    """Agreement of a ranking with a key, each figure 0 to 1."""

    average_precision: float
    auroc: float


def grade(found: NeuronSet, key: NeuronSet) -> Grade:
    """Precision, recall and F1 of ``found`` against ``key``, at the sites of the key.

    Raises:
        InvalidInputError: an empty key.

    Example:
        >>> found = NeuronSet.of({"mlp.hook_post": [(0, 1), (0, 2)]})
        >>> grade(found, NeuronSet.of({"mlp.hook_post": [(0, 2), (1, 3), (1, 4)]})).precision
        0.5
    """
    _check_key(key)
    check_kind("found", found, NeuronSet, "a NeuronSet")
    n_found = sum(len(found[site]) for site in key.sites)
    right = len(found & key)
    precision = right / n_found if n_found else float("nan")
    return Grade(
        precision=precision,
        recall=right / len(key),
        f1=2 * right / (n_found + len(key)),
        n_found=n_found,
        n_key=len(key),
    )


def grade_scores(
    scores: NeuronScores,
    key: NeuronSet,
    *,
    control: NeuronScores | None = None,
    culture: str | None = None,
) -> ScoreGrade:
    """Average precision and AUROC of ``S(D)``, less the control's, against ``key``.

    With ``culture`` the scores of its questions alone are ranked.

    Raises:
        InvalidInputError: an empty key, one with sites that were not scored, or scores that are not
            finite.
        UnknownNameError: scores without this culture.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=64)
        >>> scores = ct.attribute(ct.load_model(), rows, progress=False)
        >>> grade_scores(scores, ct.answer_key("general")).auroc > 0.5
        True
    """
    _check_key(key)
    check_kind("scores", scores, NeuronScores, "NeuronScores, as attribute(...)")
    check_kind("control", control, NeuronScores | None, "NeuronScores, or None")
    for each in filter(None, (scores, control)):
        each.check_finite()
    if missing := [site for site in key.sites if site not in scores.sites]:
        raise InvalidInputError(
            f"The key lists neurons at {', '.join(missing)} and the scores are of "
            f"{', '.join(scores.sites)}; attribute at the sites of the key."
        )
    ranks, members = [], []
    for site in key.sites:
        total = _rank(scores, site, culture)
        if control is not None:
            total = total - _rank(control, site, culture)
        ranks.append(total.flatten())
        members.append(_members(key, site, total.shape).flatten())
    rank, member = torch.cat(ranks), torch.cat(members)
    return ScoreGrade(
        average_precision=_average_precision(rank, member), auroc=_auroc(rank, member)
    )


def grade_ranking(ranking: NeuronSet, key: NeuronSet) -> ScoreGrade:
    """Average precision and AUROC of a scored set against ``key``; neurons that the set does not
    have come last, together.

    Raises:
        InvalidInputError: an empty key, or one with sites that the set was not selected from.

    Example:
        >>> names = ["L0.mlp.hook_post.1", "L0.mlp.hook_post.2"]
        >>> ranking = NeuronSet.of(names, scores={("mlp.hook_post", 0, 2): 0.5},
        ...     shapes={"mlp.hook_post": (1, 4)})
        >>> grade_ranking(ranking, NeuronSet.of(names[1:])).auroc
        1.0
    """
    _check_key(key)
    if missing := [site for site in key.sites if site not in ranking.shapes]:
        raise InvalidInputError(
            f"The key lists neurons at {', '.join(missing)} and the ranking is of "
            f"{', '.join(ranking.shapes)}; rank neurons at the sites of the key."
        )
    ranks, members = [], []
    for site in key.sites:
        rank = torch.full(ranking.shapes[site], float("-inf"))
        for (layer, index), score in zip(ranking[site], ranking.scores[site], strict=True):
            rank[layer, index] = score
        rank[rank.isnan()] = float("-inf")  # of neurons without a score
        ranks.append(rank.flatten())
        members.append(_members(key, site, rank.shape).flatten())
    rank, member = torch.cat(ranks), torch.cat(members)
    return ScoreGrade(
        average_precision=_average_precision(rank, member), auroc=_auroc(rank, member)
    )


def _members(key: NeuronSet, site: str, shape: torch.Size) -> Bool[Tensor, "layer neuron"]:
    member = torch.zeros(shape, dtype=torch.bool)
    for layer, neuron in key[site]:
        member[layer, neuron] = True
    return member


def _rank(scores: NeuronScores, site: str, culture: str | None) -> Float[Tensor, "layer neuron"]:
    return scores.total(site) if culture is None else scores.of_culture(site, culture)


def _check_key(key: NeuronSet) -> None:
    check_kind("key", key, NeuronSet, "a NeuronSet, as answer_key(name)")
    if len(key) == 0:
        raise InvalidInputError("The key has no neurons; grade against a set with at least one.")


def _average_precision(rank: Float[Tensor, "neuron"], member: Bool[Tensor, "neuron"]) -> float:
    hits = member[rank.argsort(descending=True, stable=True)]
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return precision[hits].mean().item()


def _auroc(rank: Float[Tensor, "neuron"], member: Bool[Tensor, "neuron"]) -> float:
    inside, outside = rank[member][:, None], rank[~member][None]
    return ((inside > outside).double() + 0.5 * (inside == outside)).mean().item()
