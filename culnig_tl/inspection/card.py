"""Everything known about one neuron, on one card.

| part | what it is |
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from jaxtyping import Float

from culnig_tl.attribution import gradient_x_activation
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import evaluate
from culnig_tl.hooks import (
    ATTENTION_SITES,
    DEFAULT_SITES,
    MLP_SITES,
    HookedModel,
    site_shape,
)
from culnig_tl.inspection import pages
from culnig_tl.inspection.directions import logit_effects, output_direction
from culnig_tl.inspection.observation import Located, Observation, Observations, observe
from culnig_tl.inspection.tokens import ColouredTokens, token_texts
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import NeuronSet, neuron_id
from culnig_tl.questions import batches, questions
from culnig_tl.scores import NeuronScores

_BINS = 41


@dataclass(frozen=True)
class Example:
    """A prompt in which a neuron is active.

    Attributes:
        tokens: the prompt's tokens with the neuron's activation at each.
        question: what ``NeuronCard.questions`` says of this prompt.
        estimate: first-order estimate of the drop of ``P(answer)``, ``sum_i(a * dP/da)``.
    """

    tokens: ColouredTokens
    question: Mapping[Any, Any]
    estimate: float


@dataclass(frozen=True)
class NeuronCard:
    """Everything known about one neuron; it shows itself in Jupyter.

    Attributes:
        id: the neuron's name, e.g. ``L3.mlp.hook_post.17``.
        model: the model's name.
        ranks: columns scores, value (``S(D)``), rank, pool (neurons ranked), share (0 to 1).
        histogram: columns low, high, tokens: activations at text tokens.
        limit: the largest absolute activation at a text token; ends of the colour scale.
        questions: one row a prompt: id, culture, topic, template, answer, highest and lowest
            activation, score, probability, probability_off, drop, correct, correct_off.
        strongest, weakest: the prompts with the highest and the lowest activation, one a question
            and culture.
        cultures, topics: one row each: prompts, highest (mean of the prompts' peaks), score, drop
            (means), accuracy_drop (points).
        direction: what its output direction is, or why it has none.
        promoted, demoted: columns token, effect (on the logit, a unit of activation).
        neighbours: columns neuron, correlation (of scores over prompts), score (``S(D)``).

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=32)
        >>> card = ct.inspect_neuron(ct.load_model(), rows, layer=3, neuron=17)
        >>> card.id, len(card.questions)
        ('L3.mlp.hook_post.17', 32)
    """

    id: str
    model: str
    ranks: pd.DataFrame
    histogram: pd.DataFrame
    limit: float
    questions: pd.DataFrame
    strongest: tuple[Example, ...]
    weakest: tuple[Example, ...]
    cultures: pd.DataFrame
    topics: pd.DataFrame
    direction: str
    promoted: pd.DataFrame
    demoted: pd.DataFrame
    neighbours: pd.DataFrame

    @property
    def summary(self) -> str:
        """Two sentences: where it ranks, and what switching it off does."""
        best = self.ranks.sort_values("rank", kind="stable").iloc[0]
        most = self.cultures.iloc[0]
        mean = self.questions["drop"].mean()
        return (
            f"It ranks {best['rank']:,} of {best['pool']:,} by “{best['scores']}” (top "
            f"{100 * best['share']:.2g} %). Switching it off {pages.moves(mean)} P(answer) by "
            f"{abs(mean):.2g} on average over these prompts; the largest drop is that of "
            f"{pages.named(most['culture'])}, {pages.number(most['drop'], '+.2g')}."
        )

    def fragment(self) -> str:
        """The card as a piece of HTML, to stand on a page that has ``inspection.STYLE``."""
        return pages.fragment("card.html", card=self, summary=self.summary)

    def _repr_html_(self) -> str:
        return pages.with_style(self.fragment())

    def to_html(self, path: str | Path) -> Path:
        """Write the card as a page of its own, whole or not at all; nothing on it needs a network.

        Raises:
            UnwritableError: the folder cannot be made or written.
        """
        return pages.write(path, title=f"{self.id} of {self.model}", body=self.fragment())


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
        progress: show a progress bar.

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
    original = evaluate(model, rows, token_budget=token_budget)
    return {
        neuron_id(*neuron): _card(
            model, rows, neuron, seen, original, scores or {"these questions": seen.scores}, top
        )
        for neuron in neurons
    }


def _card(
    model: HookedModel,
    rows: Dataset,
    neuron: Located,
    seen: Observations,
    original: pd.DataFrame,
    scores: Mapping[str, NeuronScores],
    top: int,
) -> NeuronCard:
    site, layer, index = neuron
    mine = seen.neurons[neuron]
    at_text = _at_text(model, seen, mine)
    table = _questions(model, rows, neuron, mine, at_text, original)
    strongest = _one_a_question(table, "highest", ascending=False)[:top]
    weakest = _one_a_question(table, "lowest", ascending=True)[:top]
    examples = _examples(model, rows, neuron, seen, table, [*strongest, *weakest])
    direction, said = output_direction(model, site=site, layer=layer, neuron=index)
    promoted, demoted = (
        _written(model, logit_effects(model, direction, site=site, layer=layer), top)
        if direction is not None
        else (_written_nothing(), _written_nothing())
    )
    everywhere = np.concatenate(at_text)
    return NeuronCard(
        id=neuron_id(*neuron),
        model=model.cfg.model_name,
        ranks=_ranks(neuron, scores),
        histogram=_histogram(everywhere),
        limit=float(np.abs(everywhere).max()),
        questions=table,
        strongest=tuple(examples[: len(strongest)]),
        weakest=tuple(examples[len(strongest) :]),
        cultures=_by(table, "culture"),
        topics=_by(table, "topic"),
        direction=said,
        promoted=promoted,
        demoted=demoted,
        neighbours=_neighbours(neuron, mine, seen.scores, top),
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
    rows: Dataset,
    neuron: Located,
    mine: Observation,
    at_text: Sequence[Float[np.ndarray, "_pos"]],
    original: pd.DataFrame,
) -> pd.DataFrame:
    site, layer, index = neuron
    off = evaluate(model, rows, neurons=NeuronSet.of({site: [(layer, index)]}), factor=0.0)
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


def _one_a_question(table: pd.DataFrame, column: str, *, ascending: bool) -> list[int]:
    """Rows in the order of ``column``, only the first of each question and culture."""
    ordered = table.sort_values(column, ascending=ascending, kind="stable")
    return ordered.index[~ordered.duplicated(["id", "culture"])].tolist()


def _examples(
    model: HookedModel,
    rows: Dataset,
    neuron: Located,
    seen: Observations,
    table: pd.DataFrame,
    chosen: Sequence[int],
) -> list[Example]:
    """The chosen prompts, with the first-order estimate of what switching off does to each."""
    site, layer, index = neuron
    estimates = np.zeros(len(chosen))
    for batch in batches(model, rows.select(chosen)):
        total = gradient_x_activation(model, batch, sites=[site], pool="sum", weight="none")
        estimates[list(batch.rows)] = total[site][:, layer, index].float().cpu().numpy()
    activations = seen.neurons[neuron].activations
    return [
        Example(
            tokens=ColouredTokens(
                token_texts(model.tokenizer, seen.tokens[row]), tuple(activations[row].tolist())
            ),
            question=table.loc[row].to_dict(),
            estimate=float(estimate),
        )
        for row, estimate in zip(chosen, estimates, strict=True)
    ]


def _ranks(neuron: Located, scores: Mapping[str, NeuronScores]) -> pd.DataFrame:
    """Place among the neurons of the same pool; equal scores share the better rank."""
    site, layer, index = neuron
    found = []
    for name, given in scores.items():
        pool = [site] if site in MLP_SITES else [s for s in given.sites if s in ATTENTION_SITES]
        totals = torch.cat([given.total(s).flatten() for s in pool])
        value = given.total(site)[layer, index]
        rank = int((totals > value).sum()) + 1
        found.append((name, float(value), rank, len(totals), rank / len(totals)))
    return pd.DataFrame(found, columns=["scores", "value", "rank", "pool", "share"])


def _histogram(activations: Float[np.ndarray, "_pos"]) -> pd.DataFrame:
    counts, edges = np.histogram(activations, bins=_BINS)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "tokens": counts})


def _by(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Means over the prompts of each culture or topic, largest drop first."""
    table = table.assign(accuracy_drop=100.0 * table["correct"] - 100.0 * table["correct_off"])
    groups = table.groupby(column, sort=False)
    means = groups[["highest", "score", "drop", "accuracy_drop"]].mean()
    means.insert(0, "prompts", groups.size())
    return means.sort_values("drop", ascending=False, kind="stable").reset_index()


def _written(
    model: HookedModel, effects: Float[torch.Tensor, "vocab"], top: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    order = effects.argsort(descending=True, stable=True)
    return _named(model, effects, order[:top]), _named(model, effects, order.flip(0)[:top])


def _named(model: HookedModel, effects: torch.Tensor, chosen: torch.Tensor) -> pd.DataFrame:
    tokens = [model.tokenizer.decode([token]) for token in chosen.tolist()]
    return pd.DataFrame({"token": tokens, "effect": effects[chosen].tolist()})


def _written_nothing() -> pd.DataFrame:
    return pd.DataFrame({"token": [], "effect": []})


def _neighbours(neuron: Located, mine: Observation, scores: NeuronScores, top: int) -> pd.DataFrame:
    """The neurons whose scores go most with this one's; none where its own never change."""
    found = []
    for site, likeness in mine.likeness.items():
        flat = likeness.nan_to_num(nan=float("-inf")).flatten()
        for place in flat.argsort(descending=True, stable=True)[: top + 1].tolist():
            layer, index = divmod(place, likeness.shape[1])
            if (site, layer, index) != neuron and flat[place].isfinite():
                score = float(scores.total(site)[layer, index])
                found.append((neuron_id(site, layer, index), float(flat[place]), score))
    frame = pd.DataFrame(found, columns=["neuron", "correlation", "score"])
    return frame.sort_values("correlation", ascending=False, kind="stable", ignore_index=True)[:top]
