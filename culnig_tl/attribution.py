"""Score of one neuron on one question, by gradient x activation.

    s[l,k](q) = P(y|x) * max over real positions i of ( a[l,k,i] * dP(y|x) / da[l,k,i] )

``P(y|x)`` is the softmax probability of the right label's token at the last position, over the
whole vocabulary; ``a`` the activation at a site. To first order ``a * dP/da`` is the drop of ``P``
when the neuron is set to zero: it is the derivative of ``P`` by the factor of
``hooks.scaled_neurons`` at 1, so a positive score says that the neuron carries the right answer
(arXiv 2510.08284).

Departure from the published code: it fills padding with 0 before the maximum, so that a question's
score depends on the prompts that share its batch. Here padding is left out; ``padding="zero"``
gives the published numbers.

Memory: scores are reduced inside the backward pass, one hook point at a time, to one number a
neuron and question; no tensor of layer x batch x pos x neuron is ever held. Products and maxima are
taken in float32 (float64 in a float64 model). Parameters are not differentiated.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
from datasets import Dataset
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.errors import InvalidInputError, check_choice
from culnig_tl.hooks import DEFAULT_SITES, HookedModel, hook_name, last_logits, site_shape
from culnig_tl.models import model_fingerprint
from culnig_tl.questions import Batch, batches, fingerprint, questions
from culnig_tl.scores import NeuronScores, ScoreAccumulator

Method = Literal["gradient_x_activation"]
Pool = Literal["max", "sum", "mean", "last"]
Padding = Literal["ignore", "zero"]
Weight = Literal["probability", "none"]


def attribute(
    model: HookedModel,
    rows: Dataset | Sequence[Batch],
    *,
    sites: Sequence[str] = DEFAULT_SITES,
    method: Method = "gradient_x_activation",
    pool: Pool = "max",
    padding: Padding = "ignore",
    clamp: bool = False,
    weight: Weight = "probability",
    token_budget: int = 8192,
    progress: bool | str = True,
) -> NeuronScores:
    """Scores ``S_c(D)`` of every neuron at ``sites`` for every culture of ``rows``.

    Args:
        model: a frozen model with named hook points.
        rows: questions, or ready-made batches.
        sites: hook points of one layer, e.g. ``"mlp.hook_post"``.
        method: how a neuron's share in an answer is estimated.
        pool: how positions become one number; the paper takes the maximum.
        padding: ``"ignore"`` leaves padding out; ``"zero"`` counts it as 0, as the published code
            does.
        clamp: cut negative scores to 0 after weighting, as is done on control questions.
        weight: ``"probability"`` multiplies by ``P(y|x)``.
        token_budget: tokens a batch, padding counted; larger is faster and needs more memory.
        progress: show a progress bar; a text names it.

    Raises:
        InvalidInputError: no rows, a label that is not one token, a prompt that does not fit, or a
            score that is not finite (the question is named).
        UnknownNameError: a site that this model does not have.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=4)
        >>> scores = attribute(ct.load_model(), rows, progress=False)
        >>> scores.values["mlp.hook_post"].shape[1:]
        torch.Size([4, 512])
    """
    check_choice("method", method, get_args(Method))
    if isinstance(rows, Dataset):
        rows = questions(rows)
        cultures, data = rows.unique("culture"), fingerprint(rows)
        rows = batches(model, rows, token_budget=token_budget)
    else:
        cultures, data = (), "ready-made batches"
    accumulator = ScoreAccumulator(cultures)
    name = progress if isinstance(progress, str) else "attribution"
    n_prompts = sum(map(len, rows))
    with tqdm(total=n_prompts, desc=name, unit="question", disable=not progress) as bar:
        for batch in rows:
            scores = gradient_x_activation(
                model, batch, sites=sites, pool=pool, padding=padding, clamp=clamp, weight=weight
            )
            _check_finite(scores, batch)
            accumulator.update(scores, cultures=batch.cultures, ids=batch.ids)
            bar.update(len(batch))
    return accumulator.finish(
        method=method,
        pool=pool,
        padding=padding,
        clamp=clamp,
        weight=weight,
        model=model_fingerprint(model),
        data=data,
    )


def gradient_x_activation(
    model: HookedModel,
    batch: Batch,
    *,
    sites: Sequence[str] = DEFAULT_SITES,
    pool: Pool = "max",
    padding: Padding = "ignore",
    clamp: bool = False,
    weight: Weight = "probability",
) -> dict[str, Float[Tensor, "batch layer neuron"]]:
    """Score of every neuron on every question of a batch, by site; arguments as in ``attribute``.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=2)
        >>> scores = gradient_x_activation(model, ct.batches(model, rows)[0])
        >>> scores["attn.hook_q"].shape
        torch.Size([2, 4, 128])
    """
    check_choice("pool", pool, get_args(Pool))
    check_choice("padding", padding, get_args(Padding))
    check_choice("weight", weight, get_args(Weight))
    pooled: dict[str, dict[int, Tensor]] = {site: {} for site in sites}
    leaves: list[Tensor] = []

    def start_of_graph(residual: Tensor, hook: object) -> Tensor:
        leaves.append(residual.detach().requires_grad_())
        return leaves[-1]

    def watch(activation: Tensor, hook: object, *, site: str, layer: int) -> Tensor:
        # A view of our own: what a backend hands to a hook need not lie on the path to the logits.
        activation = activation.view_as(activation)
        activation.register_hook(partial(reduce, activation.detach(), site, layer))
        return activation

    def reduce(activation: Tensor, site: str, layer: int, gradient: Tensor) -> None:
        exact = torch.promote_types(gradient.dtype, torch.float32)
        product = (activation.to(exact) * gradient.to(exact)).flatten(2)
        pooled[site][layer] = _pool(product, batch.mask, pool, padding)

    fwd_hooks = [("blocks.0.hook_resid_pre", start_of_graph)] + [
        (hook_name(site, layer), partial(watch, site=site, layer=layer))
        for site in sites
        for layer in range(site_shape(model, site)[0])
    ]
    with torch.enable_grad(), model.hooks(fwd_hooks=fwd_hooks):
        probability = answer_probability(model, batch)
        torch.autograd.grad(probability.sum(), leaves)
    return {
        site: _weighted(layers, probability.detach(), weight, clamp)
        for site, layers in pooled.items()
    }


def answer_probability(model: HookedModel, batch: Batch) -> Float[Tensor, "batch"]:
    """``P(y|x)`` of every prompt of a batch, in float32 (float64 in a float64 model)."""
    logits = last_logits(model, batch.tokens, batch.mask)
    exact = torch.promote_types(logits.dtype, torch.float32)
    probabilities = logits.to(exact).softmax(-1)
    return probabilities.gather(1, batch.answers[:, None])[:, 0]


def _pool(
    product: Float[Tensor, "batch pos neuron"],
    mask: Bool[Tensor, "batch pos"],
    pool: Pool,
    padding: Padding,
) -> Float[Tensor, "batch neuron"]:
    absent = ~mask[:, :, None]
    match pool:
        case "max":
            filler = float("-inf") if padding == "ignore" else 0.0
            return product.masked_fill(absent, filler).amax(1)
        case "sum":
            return product.masked_fill(absent, 0.0).sum(1)
        case "mean":
            n_positions = mask.sum(1)[:, None] if padding == "ignore" else mask.shape[1]
            return product.masked_fill(absent, 0.0).sum(1) / n_positions
        case "last":
            return product[:, -1]


def _weighted(
    layers: dict[int, Tensor], probability: Tensor, weight: Weight, clamp: bool
) -> Float[Tensor, "batch layer neuron"]:
    scores = torch.stack([layers[layer] for layer in sorted(layers)], dim=1)
    if weight == "probability":
        scores = scores * probability[:, None, None]
    return scores.clamp(min=0) if clamp else scores


def _check_finite(scores: dict[str, Tensor], batch: Batch) -> None:
    for site, values in scores.items():
        broken = (~values.isfinite()).flatten(1).any(1)
        if broken.any():
            first = batch.ids[int(broken.nonzero()[0])]
            raise InvalidInputError(
                f"Question {first!r} has a score at {site} that is not a finite number; check the "
                "model's weights for NaN, or load it in float32 instead of float16."
            )
