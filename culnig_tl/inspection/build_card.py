"""From questions to cards: one pass that scores and records, then one ablation per neuron.

| part of a card | what it is |
|---|---|
| ranks | its place by ``S(D)`` in each data set's scores, in its pool (MLP; q, k and v) |
| activations | histogram over all text tokens of the rows |
| questions | the prompts in which it is most active, up and down, tokens coloured on one scale |
| off | what setting it to 0 does to ``P(answer)``: a real ablation, beside the scores before it |
| cultures, topics | means over prompts of activation, score and ablation |
| promoted, demoted | the tokens that its output direction writes (``directions``) |
| neighbours | the neurons whose scores rise and fall with its own over prompts |

A prompt's *peak* is the largest activation at its text tokens: special tokens (a BOS, the marks of
a chat template) are left out, since what happens there is the same in every prompt. Two numbers
predict an ablation: the method's score ``P * max_i(a * dP/da)``, and the first-order estimate of
the drop of ``P``, ``sum_i(a * dP/da)``. Drops are ``P(answer) - P(answer, neuron off)``.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.attribution import gradient_x_activation
from culnig_tl.errors import InvalidInputError, check_kind, check_number
from culnig_tl.evaluation import answers
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import check_same_model
from culnig_tl.html import ColouredTokens, token_texts
from culnig_tl.inspection.card_tables import (
    check_membership,
    first_per_question,
    histogram,
    means_by,
    neighbour_table,
    rank_table,
    share_of_resamples,
)
from culnig_tl.inspection.directions import logit_effects, output_direction
from culnig_tl.inspection.neuron_card import Example, NeuronCard
from culnig_tl.inspection.observation import Observations, observe
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import DEFAULT_SITES, site_shape

_DEFAULT_SITE = "mlp.hook_post"


def inspect_neuron(
    model: HookedModel,
    rows: Rows,
    neuron: Neuron | str | tuple[str, int, int] | int,
    *,
    site: str | None = None,
    layer: int | None = None,
    scores: Mapping[str, NeuronScores] | None = None,
    membership: pd.DataFrame | None = None,
    sites: Sequence[str] = DEFAULT_SITES,
    top: int = 6,
    token_budget: int = 8192,
    progress: bool = False,
) -> NeuronCard:
    """Everything known about one neuron, by one backward and three forward passes over ``rows``.

    Args:
        model: a frozen model with named hook points.
        rows: questions to look at it with, or prepared ones; a few hundred are plenty.
        neuron: a neuron or its name, or its index within ``layer``, counted from 0.
        site, layer: where an index counts; the site is ``"mlp.hook_post"`` by default.
        scores: scores to rank it in, by name, e.g. ``run.scores``; by default those of ``rows``.
        membership: the frame of ``ct.membership``, so that the card says in what share of resamples
            of the questions the neuron is in the set; scores, being sums, cannot tell.
        sites: where its neighbours are looked for; that of the neuron is added.
        top: prompts, tokens and neighbours listed.
        token_budget: tokens per batch, padding counted.
        progress: show progress bars.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: what is no neuron, or one outside the model, rows that cannot be used, or
            scores of another model or without its site, or a frame that is no membership.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=32)
        >>> card = inspect_neuron(ct.load_model(), rows, "L3.mlp.hook_post.17")
        >>> card.ranks["pool"].tolist()
        [2048]
    """
    (card,) = inspect_neurons(
        model,
        rows,
        [_neuron_at(neuron, site, layer)],
        scores=scores,
        membership=membership,
        sites=sites,
        top=top,
        token_budget=token_budget,
        progress=progress,
    ).values()
    return card


def inspect_neurons(
    model: HookedModel,
    rows: Rows,
    neurons: NeuronSet | Iterable[Neuron | str | tuple[str, int, int]],
    *,
    scores: Mapping[str, NeuronScores] | None = None,
    membership: pd.DataFrame | None = None,
    sites: Sequence[str] = DEFAULT_SITES,
    top: int = 6,
    token_budget: int = 8192,
    progress: bool = False,
) -> dict[str, NeuronCard]:
    """Cards of several neurons by their names; one pass over ``rows`` serves all of them.

    Further passes: one forward per neuron, and a backward one over its listed prompts. Arguments
    and errors are those of ``inspect_neuron``.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=8)
        >>> list(inspect_neurons(ct.load_model(), rows, ["L3.mlp.hook_post.17"]))
        ['L3.mlp.hook_post.17']
    """
    check_number("top", top, low=1, whole=True)
    check_kind("neurons", neurons, Iterable, "their names, or a NeuronSet")
    check_kind("sites", sites, Sequence, "a list of sites")
    if isinstance(neurons, NeuronSet):
        check_same_model(model, neurons)
    listed = list(dict.fromkeys(map(Neuron.of, neurons)))
    _check_neurons(model, listed)
    _check_scores(model, listed, {} if scores is None else scores)
    if membership is not None:
        check_membership(membership)
    prepared = prepare(model, rows, token_budget=token_budget)
    sites = tuple(dict.fromkeys([*(neuron.site for neuron in listed), *sites]))
    observations = observe(model, prepared, listed, sites=sites, progress=progress)
    inspection = Inspection(
        prepared=prepared,
        observations=observations,
        answers=answers(prepared),
        scores=scores or {"these questions": observations.scores},
        top=top,
        membership=membership,
    )
    return {
        str(neuron): build_card(inspection, neuron, off=answers(prepared, NeuronSet.of([neuron])))
        for neuron in tqdm(listed, desc="cards", disable=not progress)
    }


@dataclass(frozen=True)
class Inspection:
    """What the cards of one call have in common.

    Attributes:
        prepared: the questions, ready for the model.
        observations: what one pass over them shows.
        answers: the frame of ``evaluate``, of the model as it is.
        scores: scores to rank neurons in, by name.
        top: prompts, tokens and neighbours listed.
        membership: the frame of ``ct.membership``, where there is one.
    """

    prepared: PreparedQuestions
    observations: Observations
    answers: pd.DataFrame
    scores: Mapping[str, NeuronScores]
    top: int
    membership: pd.DataFrame | None = None

    @property
    def model(self) -> HookedModel:
        return self.prepared.model

    @cached_property
    def text_positions(self) -> tuple[Bool[Tensor, "_pos"], ...]:
        """Which tokens of each prompt are text; all of them where none is."""
        special = torch.tensor(self.model.tokenizer.all_special_ids)
        masks = [~torch.isin(torch.tensor(ids), special) for ids in self.prepared.prompts]
        return tuple(mask if mask.any() else torch.ones_like(mask) for mask in masks)

    def text_activations(self, neuron: Neuron) -> list[Float[np.ndarray, "_pos"]]:
        """A neuron's activations at the text tokens of each prompt."""
        activations = self.observations.neurons[neuron].activations
        return [
            values[mask].double().numpy()
            for values, mask in zip(activations, self.text_positions, strict=True)
        ]


def build_card(inspection: Inspection, neuron: Neuron, *, off: pd.DataFrame) -> NeuronCard:
    """The card of an observed neuron: where it ranks, when it is active, what its ablation does,
    what it writes, and which neurons score like it; ``off`` has the answers while it is off, with
    columns probability and correct."""
    cards: list[NeuronCard] = []

    def steps() -> Iterator[None]:
        n_rows = len(inspection.prepared)
        cards.append((yield from card_steps(inspection, neuron, off=off, n_rows=n_rows)))

    for _ in steps():
        pass
    return cards[0]


def card_steps(
    inspection: Inspection, neuron: Neuron, *, off: pd.DataFrame, n_rows: int
) -> Generator[None, None, NeuronCard]:
    """``build_card`` in steps: passes over ``n_rows`` of the listed prompts at a time."""
    activations = np.concatenate(inspection.text_activations(neuron))
    questions = _question_table(inspection, neuron, off)
    strongest, weakest = yield from _extreme_examples(inspection, neuron, questions, n_rows)
    direction, promoted, demoted = _written_tokens(inspection, neuron)
    frame = inspection.membership
    return NeuronCard(
        id=str(neuron),
        model=inspection.model.cfg.model_name,
        ranks=rank_table(neuron, inspection.scores),
        histogram=histogram(activations),
        limit=float(np.abs(activations).max()),
        questions=questions,
        strongest=strongest,
        weakest=weakest,
        cultures=means_by(questions, "culture"),
        topics=means_by(questions, "topic"),
        direction=direction,
        promoted=promoted,
        demoted=demoted,
        neighbours=neighbour_table(neuron, inspection.observations, inspection.top),
        membership=None if frame is None else share_of_resamples(neuron, frame),
    )


def _neuron_at(
    neuron: Neuron | str | tuple[str, int, int] | int, site: str | None, layer: int | None
) -> Neuron:
    """The neuron that the arguments of ``inspect_neuron`` mean."""
    if layer is not None:
        check_number("layer", layer, low=0, whole=True)
    if isinstance(neuron, int | np.integer):
        if layer is None:
            raise InvalidInputError(
                f"Every layer has a neuron {neuron}; give layer= (and site=) too, or a name such "
                f"as 'L0.{_DEFAULT_SITE}.{neuron}'."
            )
        return Neuron.of((site or _DEFAULT_SITE, layer, neuron))
    named = Neuron.of(neuron)
    if site not in (None, named.site) or layer not in (None, named.layer):
        raise InvalidInputError(
            f"{named} has its site and layer already, and site is {site!r}, layer is {layer!r}; "
            "leave these two out."
        )
    return named


def _check_neurons(model: HookedModel, neurons: Sequence[Neuron]) -> None:
    """Refuse no neurons, and neurons that this model does not have."""
    if not neurons:
        raise InvalidInputError("There are no neurons to inspect; give at least one.")
    shapes = {neuron.site: site_shape(model, neuron.site) for neuron in neurons}
    NeuronSet.of(neurons, shapes=shapes)


def _check_scores(
    model: HookedModel, neurons: Sequence[Neuron], scores: Mapping[str, NeuronScores]
) -> None:
    """Refuse scores in which these neurons cannot be ranked."""
    check_kind("scores", scores, Mapping, "NeuronScores by name, as in {'cultural': scores}")
    fingerprint = model_fingerprint(model) if scores else ""
    for name, ranking in scores.items():
        check_kind(f"scores[{name!r}]", ranking, NeuronScores, "NeuronScores")
        if ranking.source.get("model", fingerprint) != fingerprint:
            raise InvalidInputError(
                f"The scores {name!r} are those of another model; score this model, or load the "
                "one they were made with."
            )
        for site in dict.fromkeys(neuron.site for neuron in neurons):
            if ranking.shapes.get(site) != site_shape(model, site):
                raise InvalidInputError(
                    f"The scores {name!r} do not rank the neurons of {site}; they have "
                    f"{', '.join(ranking.sites)}, so score this site too."
                )


def _question_table(inspection: Inspection, neuron: Neuron, off: pd.DataFrame) -> pd.DataFrame:
    """One row per prompt: how active the neuron is, how it scores, what its ablation does."""
    before = inspection.answers
    activations = inspection.text_activations(neuron)
    return before[["id", "culture", "topic", "template", "answer"]].assign(
        highest=[float(values.max()) for values in activations],
        lowest=[float(values.min()) for values in activations],
        score=inspection.observations.neurons[neuron].scores.numpy(),
        probability=before["probability"],
        probability_off=off["probability"],
        drop=before["probability"] - off["probability"],
        correct=before["correct"],
        correct_off=off["correct"],
    )


def _extreme_examples(
    inspection: Inspection, neuron: Neuron, questions: pd.DataFrame, n_rows: int
) -> Generator[None, None, tuple[tuple[Example, ...], tuple[Example, ...]]]:
    """The prompts with the highest and with the lowest activation."""
    highest = first_per_question(questions, "highest", ascending=False)[: inspection.top]
    lowest = first_per_question(questions, "lowest", ascending=True)[: inspection.top]
    listed, estimates = [*highest, *lowest], []
    for start in range(0, len(listed), n_rows):
        estimates += _estimates(inspection, neuron, listed[start : start + n_rows])
        yield
    examples = _examples(inspection, neuron, questions, listed, estimates)
    return tuple(examples[: len(highest)]), tuple(examples[len(highest) :])


def _examples(
    inspection: Inspection,
    neuron: Neuron,
    questions: pd.DataFrame,
    rows: Sequence[int],
    estimates: Sequence[float],
) -> list[Example]:
    """Some prompts, with the first-order estimate of what switching off does to each."""
    tokenizer, prompts = inspection.model.tokenizer, inspection.prepared.prompts
    activations = inspection.observations.neurons[neuron].activations
    records = questions.to_dict("records")
    return [
        Example(
            tokens=ColouredTokens(
                token_texts(tokenizer, prompts[row]), tuple(activations[row].tolist())
            ),
            question=records[row],
            estimate=estimate,
        )
        for row, estimate in zip(rows, estimates, strict=True)
    ]


def _estimates(inspection: Inspection, neuron: Neuron, rows: Sequence[int]) -> list[float]:
    """``sum_i(a * dP/da)`` of a neuron on some prompts."""
    run = partial(
        gradient_x_activation, inspection.model, sites=[neuron.site], pool="sum", weight="none"
    )
    estimates = [0.0] * len(rows)
    for batch, sums in inspection.prepared.select(rows).passes(run):
        values = sums[neuron.site][:, neuron.layer, neuron.index].float().tolist()
        for row, value in zip(batch.rows, values, strict=True):
            estimates[row] = value
    return estimates


def _written_tokens(
    inspection: Inspection, neuron: Neuron
) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """What the output direction is, and the tokens that it promotes and demotes."""
    model, top = inspection.model, inspection.top
    direction, sentence = output_direction(model, neuron)
    effects = (
        torch.empty(0)
        if direction is None
        else logit_effects(model, direction, site=neuron.site, layer=neuron.layer)
    )
    order = effects.argsort(descending=True, stable=True)
    promoted, demoted = order[:top], order.flip(0)[:top]
    return (
        sentence,
        _token_effects(model, effects, promoted),
        _token_effects(model, effects, demoted),
    )


def _token_effects(
    model: HookedModel, effects: Float[Tensor, "_vocab"], tokens: Int[Tensor, "_token"]
) -> pd.DataFrame:
    texts = [model.tokenizer.decode([token]) for token in tokens.tolist()]
    return pd.DataFrame({"token": texts, "effect": effects[tokens].tolist()})
