"""What is gathered for a card: one pass that scores and records, then one ablation a neuron."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from jaxtyping import Float
from tqdm.auto import tqdm

from culnig_tl.attribution import gradient_x_activation
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation.answers import NOTHING, answers
from culnig_tl.hooks import DEFAULT_SITES, HookedModel, site_shape
from culnig_tl.inspection.card.shown import Example, NeuronCard
from culnig_tl.inspection.card.tables import (
    histogram_of,
    means_by,
    neighbours_of,
    nothing_written,
    one_a_question,
    ranks_of,
    written_by,
)
from culnig_tl.inspection.directions import logit_effects, output_direction
from culnig_tl.inspection.observation import Located, Observation, Observations, observe
from culnig_tl.inspection.tokens import ColouredTokens, token_texts
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import NeuronSet, neuron_id
from culnig_tl.questions import Batch, batches, for_model, questions
from culnig_tl.scores import NeuronScores

Asked = tuple[Dataset, Sequence[Batch]]
"""Rows as the model is asked, and their batches."""


def inspect_neuron(
    model: HookedModel,
    rows: Dataset,
    *,
    site: str = "mlp.hook_post",
    layer: int,
    neuron: int,
    scores: Mapping[str, NeuronScores] | None = None,
    sites: Sequence[str] = DEFAULT_SITES,
    top: int = 6,
    token_budget: int = 8192,
    progress: bool = False,
) -> NeuronCard:
    """Everything known about one neuron, by one backward and three forward passes over ``rows``.

    Args:
        model: a frozen model with named hook points.
        rows: questions to look at it with; a few hundred are plenty.
        site: the hook point, e.g. ``"mlp.hook_post"``.
        layer, neuron: which one, counted from 0.
        scores: scores to rank it in, by name, e.g. ``run.scores``; by default those of ``rows``.
        sites: where its neighbours are looked for; ``site`` is added.
        top: prompts, tokens and neighbours listed.
        token_budget: tokens a batch, padding counted.
        progress: show progress bars.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: a neuron outside the model, rows that cannot be used, or scores of
            another model or without ``site``.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=32)
        >>> card = inspect_neuron(ct.load_model(), rows, site="mlp.hook_post", layer=3, neuron=17)
        >>> card.ranks["pool"].tolist()
        [2048]
    """
    one = NeuronSet.of({site: [(layer, neuron)]}, shapes={site: site_shape(model, site)})
    (card,) = inspect_neurons(
        model,
        rows,
        one,
        scores=scores,
        sites=sites,
        top=top,
        token_budget=token_budget,
        progress=progress,
    ).values()
    return card


def inspect_neurons(
    model: HookedModel,
    rows: Dataset,
    neurons: NeuronSet,
    *,
    scores: Mapping[str, NeuronScores] | None = None,
    sites: Sequence[str] = DEFAULT_SITES,
    top: int = 6,
    token_budget: int = 8192,
    progress: bool = False,
) -> dict[str, NeuronCard]:
    """Cards of several neurons by their names; one backward pass serves all of them.

    Arguments and errors are those of ``inspect_neuron``.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=16)
        >>> pair = ct.NeuronSet.of({"mlp.hook_post": [(3, 17)], "attn.hook_v": [(0, 5)]})
        >>> list(inspect_neurons(ct.load_model(), rows, pair))
        ['L3.mlp.hook_post.17', 'L0.attn.hook_v.5']
    """
    rows = questions(rows)
    NeuronSet.of(neurons.neurons, shapes={site: site_shape(model, site) for site in neurons.sites})
    _check_scores(model, neurons, scores or {})
    sites = tuple(dict.fromkeys([*neurons.sites, *sites]))
    seen = observe(
        model, rows, list(neurons), sites=sites, token_budget=token_budget, progress=progress
    )
    fitted = for_model(rows, model)
    asked = fitted, batches(model, fitted, token_budget=token_budget)
    original = answers(model, *asked, NOTHING, 0.0)
    ranked = scores or {"these questions": seen.scores}
    return {
        neuron_id(*neuron): _card(model, asked, neuron, seen, original, ranked, top, token_budget)
        for neuron in tqdm(list(neurons), desc="cards", disable=not progress)
    }


def _card(
    model: HookedModel,
    asked: Asked,
    neuron: Located,
    seen: Observations,
    original: pd.DataFrame,
    scores: Mapping[str, NeuronScores],
    top: int,
    token_budget: int,
) -> NeuronCard:
    site, layer, index = neuron
    mine = seen.neurons[neuron]
    at_text = _at_text(model, seen, mine)
    table = _questions(model, asked, neuron, mine, at_text, original)
    strongest = one_a_question(table, "highest", ascending=False)[:top]
    weakest = one_a_question(table, "lowest", ascending=True)[:top]
    shown = [*strongest, *weakest]
    prepared = batches(model, asked[0].select(shown), token_budget=token_budget)
    examples = _examples(model, prepared, neuron, seen, table, shown)
    direction, said = output_direction(model, site=site, layer=layer, neuron=index)
    promoted, demoted = (
        written_by(model, logit_effects(model, direction, site=site, layer=layer), top)
        if direction is not None
        else (nothing_written(), nothing_written())
    )
    everywhere = np.concatenate(at_text)
    return NeuronCard(
        id=neuron_id(*neuron),
        model=model.cfg.model_name,
        ranks=ranks_of(neuron, scores),
        histogram=histogram_of(everywhere),
        limit=float(np.abs(everywhere).max()),
        questions=table,
        strongest=tuple(examples[: len(strongest)]),
        weakest=tuple(examples[len(strongest) :]),
        cultures=means_by(table, "culture"),
        topics=means_by(table, "topic"),
        direction=said,
        promoted=promoted,
        demoted=demoted,
        neighbours=neighbours_of(neuron, mine, seen.scores, top),
    )


def _check_scores(
    model: HookedModel, neurons: NeuronSet, scores: Mapping[str, NeuronScores]
) -> None:
    known = model_fingerprint(model) if scores else ""
    for name, given in scores.items():
        if given.source.get("model", known) != known:
            raise InvalidInputError(
                f"The scores {name!r} are those of another model; score this model, or load the "
                "one they were made with."
            )
        for site in neurons.sites:
            if given.shapes.get(site) != site_shape(model, site):
                raise InvalidInputError(
                    f"The scores {name!r} do not rank the neurons of {site}; they have "
                    f"{', '.join(given.sites)}, so score this site too."
                )


def _at_text(
    model: HookedModel, seen: Observations, mine: Observation
) -> list[Float[np.ndarray, "_pos"]]:
    """Activations at the text tokens of each prompt (at all of them where it has no text)."""
    special = torch.tensor(model.tokenizer.all_special_ids)
    found = []
    for ids, activation in zip(seen.tokens, mine.activations, strict=True):
        text = ~torch.isin(torch.tensor(ids), special)
        found.append(activation[text if text.any() else slice(None)].double().numpy())
    return found


def _questions(
    model: HookedModel,
    asked: Asked,
    neuron: Located,
    mine: Observation,
    at_text: Sequence[Float[np.ndarray, "_pos"]],
    original: pd.DataFrame,
) -> pd.DataFrame:
    site, layer, index = neuron
    off = answers(model, *asked, NeuronSet.of({site: [(layer, index)]}), 0.0)
    named = original[["id", "culture", "topic", "template", "answer"]]
    return named.assign(
        highest=[float(activation.max()) for activation in at_text],
        lowest=[float(activation.min()) for activation in at_text],
        score=mine.scores.numpy(),
        probability=original["probability"],
        probability_off=off["probability"],
        drop=original["probability"] - off["probability"],
        correct=original["correct"],
        correct_off=off["correct"],
    )


def _examples(
    model: HookedModel,
    prepared: Sequence[Batch],
    neuron: Located,
    seen: Observations,
    table: pd.DataFrame,
    chosen: Sequence[int],
) -> list[Example]:
    """The chosen prompts, with the first-order estimate of what switching off does to each."""
    site, layer, index = neuron
    estimates = np.zeros(len(chosen))
    for batch in prepared:
        total = gradient_x_activation(model, batch, sites=[site], pool="sum", weight="none")
        estimates[list(batch.rows)] = total[site][:, layer, index].float().cpu().numpy()
    activations = seen.neurons[neuron].activations
    records = table.to_dict("records")
    return [
        Example(
            tokens=ColouredTokens(
                token_texts(model.tokenizer, seen.tokens[row]), tuple(activations[row].tolist())
            ),
            question=records[row],
            estimate=float(estimate),
        )
        for row, estimate in zip(chosen, estimates, strict=True)
    ]
