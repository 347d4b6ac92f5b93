"""How far neurons moved in a fine-tuning: their own weights, and what they do on questions.

    weight change     = |w' - w| / |w|       w: the neuron's rows of gate and up, its column of down
    activation change = mean |a' - a| / mean |a|      over all positions of the prompts

``w'`` and ``a'`` are those of the fine-tuned model. A neuron of a module that was not trained has a
weight change of exactly 0, and its activations move with what it reads. MLP neurons only.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from culnig_tl.errors import InvalidInputError
from culnig_tl.finetuning.parameters import SITES_OF, known_places
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.logits import last_logits
from culnig_tl.models import load_model, read_plain
from culnig_tl.neurons import Listed, NeuronSet
from culnig_tl.questions import Batch, Rows, prepare
from culnig_tl.sites import hook_name, layers_of

SITE = "mlp.hook_post"


def drift(
    before: str | Path,
    after: str | Path,
    *,
    neurons: NeuronSet | Listed = (),
    rows: Rows | None = None,
    token_budget: int = 8192,
) -> pd.DataFrame:
    """How far every MLP neuron moved between two models of one shape.

    Args:
        before: the model as it was, by a name or folder that ``load_model`` takes.
        after: the fine-tuned model.
        neurons: a set to tell apart.
        rows: questions on whose prompts activations are compared; None leaves that out.
        token_budget: tokens per pass, padding counted.

    Returns:
        One row per neuron: site, layer, neuron, in_set (whether it is one of ``neurons``),
        weight_change (relative to the norm of its weights) and activation_change (relative to its
        mean absolute activation; NaN without rows).

    Raises:
        InvalidInputError: models of different shapes, neurons that they do not have, or rows that
            cannot be used.

    Example:
        >>> import culnig_tl as ct
        >>> drift("atlas", "atlas", neurons=ct.answer_key("general"))["in_set"].sum()
        np.int64(16)
    """
    moved = _weight_change(read_plain(before)[0], read_plain(after)[0])
    chosen = {(layer, index) for layer, index in NeuronSet.of(neurons)[SITE]}
    places = [(layer, index) for layer, row in enumerate(moved) for index in range(len(row))]
    if outside := chosen - set(places):
        raise InvalidInputError(
            f"{len(outside)} of these neurons are not in {before}, which has {len(moved)} layers "
            f"of {moved.shape[1]} MLP neurons; give neurons that were found in it."
        )
    active = torch.full_like(moved, torch.nan)
    if rows is not None:
        active = _activation_change(load_model(before), load_model(after), rows, token_budget)
    frame = pd.DataFrame(places, columns=["layer", "neuron"])
    frame.insert(0, "site", SITE)
    return frame.assign(
        in_set=[place in chosen for place in places],
        weight_change=moved.flatten().numpy(),
        activation_change=active.flatten().numpy(),
    )


def _weight_change(
    before: PreTrainedModel, after: PreTrainedModel
) -> Float[Tensor, "layer neuron"]:
    """Relative change of each neuron's own weights."""
    one, other = dict(before.named_parameters()), dict(after.named_parameters())
    shapes = [{name: weight.shape for name, weight in each.items()} for each in (one, other)]
    if shapes[0] != shapes[1]:
        raise InvalidInputError(
            f"The two models differ in shape ({len(one)} and {len(other)} weights); give a model "
            "and what it became by fine-tuning."
        )
    totals: dict[int, list[Tensor]] = {}
    for layers in known_places(before, SITES_OF["mlp"]).values():
        for layer, place in enumerate(layers):
            name = f"{place.module}.weight"
            old, new = (
                each[name].detach().double().index_select(place.axis, place.channels)
                for each in (one, other)
            )
            squares = [each.square().sum(1 - place.axis) for each in (new - old, old)]
            totals.setdefault(layer, []).append(torch.stack(squares))
    moved, size = torch.stack([sum(parts[1:], parts[0]) for parts in totals.values()], 1)
    return _ratio(moved.sqrt(), size.sqrt())


def _activation_change(
    before: HookedModel, after: HookedModel, rows: Rows, token_budget: int
) -> Float[Tensor, "layer neuron"]:
    """Mean absolute change of each neuron's activations, relative to their mean size."""
    prepared = prepare(before, rows, token_budget=token_budget)
    moved, size = 0.0, 0.0
    for _, (of_moved, of_size) in prepared.passes(partial(_sums, before, after)):
        moved, size = moved + of_moved, size + of_size
    return _ratio(torch.as_tensor(moved), torch.as_tensor(size))


def _sums(
    before: HookedModel, after: HookedModel, batch: Batch
) -> tuple[Float[Tensor, "layer neuron"], Float[Tensor, "layer neuron"]]:
    """Summed over the positions of a batch: sizes of the changes, and of the activations."""
    old, new = _activations(before, batch), _activations(after, batch)
    pairs = list(zip(old, new, strict=True))
    return (
        torch.stack([(b - a).abs().sum(0) for a, b in pairs]).cpu().double(),
        torch.stack([a.abs().sum(0) for a, _ in pairs]).cpu().double(),
    )


def _activations(model: HookedModel, batch: Batch) -> list[Float[Tensor, "pos neuron"]]:
    """Activations at the real positions of a batch, layer by layer."""
    seen: dict[int, Tensor] = {}

    def keep(activation: Tensor, hook: object, *, layer: int) -> None:
        seen[layer] = activation[batch.mask]

    layers = layers_of(model, (SITE,))[SITE]
    hooks: list[Any] = [(hook_name(SITE, layer), partial(keep, layer=layer)) for layer in layers]
    with hooked(model, hooks, gradients=False):
        last_logits(model, batch.tokens, batch.mask, ids=batch.ids)
    return [seen[layer] for layer in layers]


def _ratio(
    moved: Float[Tensor, "layer neuron"], size: Float[Tensor, "layer neuron"]
) -> Float[Tensor, "layer neuron"]:
    """A share of what there was; 0 where nothing moved, also from nothing."""
    return (moved / size).where(moved > 0, 0.0)
