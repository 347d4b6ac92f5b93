"""Checks of lessons 0 and 2: residual stream, hooks, gradients, attribution."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.evaluation import evaluate
from culnig_tl.hooked_model import HookedModel
from culnig_tl.lessons.verdict import (
    Verdict,
    entries,
    exercise,
    first_of,
    near,
    neuron,
    number,
    right,
    tensor,
)
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import Rows

_ESTIMATES = ("gradient x activation", "integrated gradients")


@exercise
def check_residual_stream(rebuilt: Any, cache: Any, n_layers: int) -> Verdict:
    """Lesson 0: the stream after the last block is the sum of what was written into it.

    Args:
        rebuilt: ``[pos, d_model]``, with or without a batch axis of one.
        cache: the activations of one prompt, by hook name.
        n_layers: blocks of the model.
    """
    last = cache[f"blocks.{n_layers - 1}.hook_resid_post"][0].detach().float().cpu()
    answer = tensor(rebuilt, tuple(last.shape))

    def is_close(other: Tensor) -> bool:
        return torch.allclose(answer, other, atol=1e-3)

    if is_close(last):
        return right("The stream is nothing but this sum: each block reads it and adds to it.")
    missing = {
        "What attention writes": _written(cache, "hook_attn_out", n_layers),
        "What the MLPs write": _written(cache, "hook_mlp_out", n_layers),
        "The embedding": cache["hook_embed"][0].detach().float().cpu(),
    }
    mistakes = [(is_close(last - part), f"{name} is missing.") for name, part in missing.items()]
    return first_of(mistakes, "Add hook_embed and, of every block, hook_attn_out and hook_mlp_out.")


def _written(cache: Any, name: str, n_layers: int) -> Float[Tensor, "pos d_model"]:
    parts = [cache[f"blocks.{layer}.{name}"][0].detach().float().cpu() for layer in range(n_layers)]
    return torch.stack(parts).sum(0)


@exercise
def check_switched_off(
    p_without: Any, model: HookedModel, row: Rows, strongest: Neuron | str
) -> Verdict:
    """Lesson 0: ``P(answer)`` of one prompt while one neuron is multiplied by 0."""
    value = number(p_without)
    p, p_off, p_doubled = (
        _probability(model, row, strongest, factor) for factor in (1.0, 0.0, 2.0)
    )
    if near(value, p_off):
        return right(f"P(answer) goes from {p:.3f} to {p_off:.3f}: an ablation of one neuron.")
    mistakes = [
        (near(value, p), "That is P(answer) of the model as it is: run the model inside `with`."),
        (near(value, p_doubled), "That is the neuron doubled; 0 switches it off."),
        (near(value, p - p_off), "That is what P(answer) loses; what is left is asked for."),
        (not 0 <= value <= 1, "A probability is between 0 and 1: take the softmax of the logits."),
    ]
    return first_of(mistakes, "Multiply this neuron alone by 0, and read the last position.")


def _probability(
    model: HookedModel, row: Rows, neurons: NeuronSet | Neuron | str, factor: float
) -> float:
    """``P(answer)`` of one question with neurons scaled."""
    answers = evaluate(model, row, neurons=NeuronSet.of(neurons), factor=factor)
    return answers["probability"].item()


@exercise
def check_estimate(
    estimate: Any, activation: Float[Tensor, "pos"], gradient: Float[Tensor, "pos"]
) -> Verdict:
    """Lesson 0: the first-order estimate of a drop, ``sum_i(a_i * dP/da_i)``."""
    value, products = number(estimate), activation * gradient
    if near(value, products.sum().item()):
        return right("That is gradient x activation, summed over positions.")
    mistakes = [
        (near(value, -products.sum().item()), "The sign: a neuron that helps has a positive drop."),
        (
            near(value, gradient.sum().item()),
            "That is the gradient alone, what one unit more would do: multiply by the activation, "
            "which is how far the neuron is from 0.",
        ),
        (near(value, products[-1].item()), "That is the last position alone: sum over all."),
        (
            near(value, products.max().item()),
            "That is the largest position, as the published score has it; sum over all.",
        ),
        (
            near(value, (activation.sum() * gradient.sum()).item()),
            "Multiply position by position, and sum afterwards.",
        ),
    ]
    return first_of(mistakes, "Multiply activation and gradient at each position, and sum.")


@exercise
def check_slope_and_ablation(
    answer: Any, model: HookedModel, row: Rows, strongest: NeuronSet, slope: float
) -> Verdict:
    """Lesson 2: what the slope at factor 1 foretells of factor 0, and what happens there.

    Args:
        answer: ``{"foretold": ..., "measured": ...}``, drops of ``P(y)``.
        slope: the derivative of ``P(y)`` by the neuron's factor, at 1.
    """
    values = {k: number(v) for k, v in entries(answer, ("foretold", "measured")).items()}
    p, p_off = (_probability(model, row, strongest, factor) for factor in (1.0, 0.0))
    if not near(values["foretold"], slope):
        return first_of(
            [(near(values["foretold"], -slope), "A drop is P(y) before minus P(y) after.")],
            f"From factor 1 to 0 is one whole step down a line of slope {slope:.3f}.",
        )
    if near(values["measured"], p - p_off):
        return right(
            f"The line says {slope:.3f}, the model {p - p_off:.3f}: the slope at 1 does not know "
            "what happens on the way to 0."
        )
    mistakes = [
        (near(values["measured"], p_off), "That is P(y) with the neuron off, not what it loses."),
        (near(values["measured"], p_off - p), "A drop is P(y) before minus P(y) after."),
    ]
    return first_of(mistakes, "Evaluate with factor=0.0 and subtract from P(y) as it is.")


@exercise
def check_missing_shares(answer: Any, difference: float, sums: Mapping[str, float]) -> Verdict:
    """Lesson 2: how much of a change each estimate's sum misses, as a share of the change.

    Args:
        answer: a share by estimate.
        difference: ``P(y)`` with the layer minus ``P(y)`` without.
        sums: the sum over the layer's neurons, by estimate.
    """
    values = {k: number(v) for k, v in entries(answer, _ESTIMATES).items()}
    gaps = {name: abs(sums[name] - difference) for name in _ESTIMATES}
    size = abs(difference)

    def is_all(expected: Mapping[str, float]) -> bool:
        return all(near(values[name], expected[name]) for name in _ESTIMATES)

    if is_all({name: gap / size for name, gap in gaps.items()}):
        return right(
            f"{gaps[_ESTIMATES[0]] / size:.0%} of the change is missed by the slopes, "
            f"{gaps[_ESTIMATES[1]] / size:.1%} by their average over the path."
        )
    mistakes = [
        (is_all(gaps), "That is in units of probability: divide by the change itself."),
        (
            is_all({name: 100 * gap / size for name, gap in gaps.items()}),
            "That is in percent; a share of 1 is all of it.",
        ),
        (
            is_all({name: sums[name] / difference for name in _ESTIMATES}),
            "That is what each sum holds of the change; what it misses is asked for.",
        ),
        (any(value < 0 for value in values.values()), "How far off, whichever way: take abs()."),
    ]
    return first_of(mistakes, "abs(sum - difference) / abs(difference), for each of the two.")


@exercise
def check_underestimated(answer: Any, judged: pd.DataFrame) -> Verdict:
    """Lesson 2: the neuron whose drop exceeds its gradient x activation most.

    Args:
        answer: the neuron, as value or name.
        judged: columns layer, neuron, drop, gradient_x_activation.
    """
    given = neuron(answer)
    drops = judged["drop"].to_numpy()
    error = drops - judged["gradient_x_activation"].to_numpy()
    places = list(zip(judged["layer"].tolist(), judged["neuron"].tolist(), strict=True))
    place = (given.layer, given.index)
    if place == places[error.argmax()]:
        return right(
            f"It costs {drops[error.argmax()]:.3f} and its slope says "
            f"{drops[error.argmax()] - error.max():.3f}."
        )
    mistakes = [
        (place not in places, f"{given} is not among the neurons of `judged`."),
        (
            place == places[error.argmin()],
            "That one is overestimated most: drop minus estimate, not the reverse.",
        ),
        (place == places[drops.argmax()], "It has the largest drop; is its slope so far off?"),
    ]
    return first_of(mistakes, "Subtract the estimate from the drop, and take the largest.")
