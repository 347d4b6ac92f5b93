"""In what share of resamples of the questions is a neuron in the set?

A set is a list without doubt in it: a neuron is in, or not, though other questions of the same kind
would have put some of them elsewhere. The bootstrap asks that: questions are drawn with
replacement, as many as there are, the set is selected anew, and a neuron's *membership* is the
share of draws that select it. Prompts of one question are drawn together, and a control question as
often as its cultural question.

Every row is scored once; a draw is a weighted sum. Memory: one score table (cultures x layers x
neurons per site, float32) per draw and data set.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.attribution import OwnMethod, Scoring, attribute_questions
from culnig_tl.errors import check_number, check_seed
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general
from culnig_tl.sites import DEFAULT_SITES

_ROLES = ("cultural", "control", "recognition", "general")
_CLAMPED = ("control", "general")


@dataclass(frozen=True)
class Membership:
    """How surely each neuron belongs to a set.

    Attributes:
        frame: one row per neuron that some draw selected, the surest first: site, layer, neuron,
            membership (0 to 1) and selected (whether all questions together select it).
        neurons: the set that all questions together select.
        draws: number of resamples.
    """

    frame: pd.DataFrame
    neurons: NeuronSet
    draws: int

    def core(self, share: float = 0.9) -> NeuronSet:
        """The neurons that at least this share of the draws selects, scored by it.

        Raises:
            InvalidInputError: a share outside 0 to 1.

        Example:
            >>> frame = pd.DataFrame([("mlp.hook_post", 0, 5, 1.0, True)],
            ...     columns=["site", "layer", "neuron", "membership", "selected"])
            >>> Membership(frame, NeuronSet.of({}), 10).core()
            1 core neuron: MLP output 1; layer 0
        """
        check_number("share", share, low=0, high=1)
        sure = self.frame[self.frame["membership"] >= share]
        return NeuronSet.from_frame(
            sure.rename(columns={"membership": "score"}),
            shapes=self.neurons.shapes,
            source={**self.neurons.source, "kind": "core", "membership": share},
        )


def membership(
    model: HookedModel,
    cultural: Rows,
    control: Rows | None = None,
    recognition: Rows | None = None,
    general: Rows | None = None,
    *,
    select: Callable[..., NeuronSet] = culture_general,
    draws: int = 100,
    seed: int = 0,
    sites: Sequence[str] = DEFAULT_SITES,
    method: str | OwnMethod = "gradient_x_activation",
    token_budget: int = 8192,
    progress: bool = True,
) -> Membership:
    """In what share of bootstrap resamples of the questions each neuron is selected.

    Args:
        model: a model with named hook points.
        cultural, control, recognition, general: questions, as for ``culture_general``; scores of
            control and general questions are clamped.
        select: makes a set of scores, e.g. ``partial(culture_general, recipe="selective")``.
        draws: number of resamples.
        seed: seed of the resamples.
        sites, method, token_budget, progress: as in ``attribute``.

    Raises:
        InvalidInputError: numbers that are no whole numbers from 1 (a seed: from 0) up, an unknown
            method, or rows that cannot be used.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=64)
        >>> sure = membership(ct.load_model(), rows, draws=5, progress=False)
        >>> len(sure.core()) <= len(sure.frame)
        True
    """
    check_number("draws", draws, low=1, whole=True)
    check_seed(seed)
    Scoring(sites=tuple(sites), method=method).check(model)
    given = zip(_ROLES, (cultural, control, recognition, general), strict=True)
    data = {
        role: prepare(model, rows, token_budget=token_budget)
        for role, rows in given
        if rows is not None
    }
    weights = resampled({role: each.rows["id"][:] for role, each in data.items()}, draws, seed)
    scores = {
        role: scores_by_draw(
            prepared,
            weights[role],
            clamp=role in _CLAMPED,
            progress=role if progress else False,
            sites=sites,
            method=method,
        )
        for role, prepared in data.items()
    }
    whole, *resamples = (
        select(**{role: of_draws[draw] for role, of_draws in scores.items()})
        for draw in range(draws + 1)
    )
    return Membership(_counted(whole, resamples), whole, draws)


def resampled(
    ids: Mapping[str, Sequence[str]], draws: int, seed: int
) -> dict[str, Float[Tensor, "draw row"]]:
    """How often each row of each data set is drawn; 1 each in a first draw of all questions.

    Args:
        ids: question id of each row, by data set; an id counts alike wherever it stands.
        draws: number of resamples.
        seed: their seed.

    Example:
        >>> resampled({"cultural": ["a", "b"], "control": ["a", "b"]}, 1, 0)["control"].shape
        torch.Size([2, 2])
    """
    generator = np.random.default_rng(seed)
    counts: dict[str, np.ndarray] = {}
    for of_data_set in ids.values():
        new = sorted(set(of_data_set) - counts.keys())
        if new:
            drawn = generator.multinomial(len(new), np.full(len(new), 1 / len(new)), size=draws)
            counts |= dict(zip(new, drawn.T, strict=True))
    return {name: _of_rows(of_data_set, counts) for name, of_data_set in ids.items()}


def _of_rows(ids: Iterable[str], counts: Mapping[str, np.ndarray]) -> Tensor:
    drawn = torch.tensor(np.stack([counts[each] for each in ids], axis=1), dtype=torch.float32)
    return torch.cat([torch.ones(1, drawn.shape[1]), drawn])


def scores_by_draw(
    prepared: PreparedQuestions, weights: Float[Tensor, "draw row"], **options: Any
) -> list[NeuronScores]:
    """Scores of a data set for every draw, out of one pass over its rows.

    Args:
        prepared: the questions.
        weights: how often each row counts in each draw, as ``resampled`` gives it.
        options: of ``attribute_questions``, with ``clamp``.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=4)
        >>> prepared = ct.prepare(ct.load_model(), rows)
        >>> len(scores_by_draw(prepared, torch.ones(2, 4), clamp=False, progress=False))
        2
    """
    cultures = prepared.cultures
    place = torch.tensor([cultures.index(culture) for culture in prepared.rows["culture"]])
    of_culture = torch.nn.functional.one_hot(place, len(cultures)).float()
    sums: dict[str, Tensor] = {}
    likely = torch.zeros(len(prepared))
    for chunk in attribute_questions(prepared.model, prepared, **options):
        rows = list(chunk.rows)
        likely[rows] = chunk.probability.float()
        counted = torch.einsum("dr,rc->dcr", weights[:, rows], of_culture[rows])
        for site, values in chunk.values.items():
            added = torch.einsum("dcr,rln->dcln", counted, values.float())
            sums[site] = sums[site] + added if site in sums else added
    n_prompts = weights @ of_culture
    moments = torch.stack([likely, likely.square()], dim=1)
    means = torch.einsum("dr,rc,rm->dcm", weights, of_culture, moments) / n_prompts[:, :, None]
    source = {
        "sites": list(sums),
        "clamp": options["clamp"],
        "weight": options.get("weight", "probability"),
        "model": model_fingerprint(prepared.model),
        "model_name": prepared.model.cfg.model_name,
    }
    n_questions = len(set(prepared.rows["id"]))
    return [
        NeuronScores(
            values={site: of_site[draw] / n_questions for site, of_site in sums.items()},
            cultures=tuple(cultures),
            n_questions=n_questions,
            n_prompts=tuple(int(number) for number in n_prompts[draw]),
            source={**source, "mean_probability": means[draw].nan_to_num().tolist()},
        )
        for draw in range(len(weights))
    ]


def _counted(whole: NeuronSet, resamples: Sequence[NeuronSet]) -> pd.DataFrame:
    counts: dict[Neuron, int] = dict.fromkeys(whole, 0)
    for neurons in resamples:
        for neuron in neurons:
            counts[neuron] = counts.get(neuron, 0) + 1
    rows = [(*neuron, n / len(resamples), neuron in whole) for neuron, n in counts.items()]
    frame = pd.DataFrame(rows, columns=["site", "layer", "neuron", "membership", "selected"])
    return frame.sort_values("membership", ascending=False, kind="stable", ignore_index=True)
