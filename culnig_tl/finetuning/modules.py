"""Modules ranked by the culture neurons that they hold, and a choice among them to a budget.

The paper (arXiv 2510.08284) updates the MLP projections of the seven layers with most or fewest
culture-general neurons, about 10 % of the parameters. Here modules are taken in the order of their
density (culture neurons per 1,000 neurons of the module, which for modules of one kind is the order
of their numbers) for as long as one more brings their parameters closer to the budget; at least one
is taken.
"""

import random
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from culnig_tl.errors import InvalidInputError, check_choice, check_kind, check_number, check_seed
from culnig_tl.finetuning.parameters import Kind, Module, modules_of
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import outline
from culnig_tl.neurons import NeuronSet
from culnig_tl.sites import SITES, measure_sites

Which = Literal["top", "bottom", "random"]
_COMPARED_TOKENS = 64
_COLUMNS = ("module", "layer", "kind", "neurons", "density", "parameters")


def rank_modules(
    neurons: NeuronSet, model: HookedModel | PreTrainedModel | str | Path
) -> pd.DataFrame:
    """How many of the neurons each layer's MLP and attention holds, densest module first.

    Args:
        neurons: culture-general neurons. ``mlp.hook_pre`` and ``mlp.hook_post`` of one number are
            one neuron.
        model: a loaded model, a transformers model, or a name or folder as ``load_model`` takes it
            (whose weights are not read).

    Returns:
        Columns module (``"L3.mlp"``, ``"L3.attn"``), layer, kind, neurons, density (neurons per
        1,000 of the module's neurons) and parameters (numbers in its weight matrices); ties by
        layer, MLP first. ``frame.attrs["parameters"]`` counts the whole model's, tied ones once.

    Raises:
        InvalidInputError: neurons that this model does not have, or a model whose linear layers are
            not known, such as a mixture of experts.

    Example:
        >>> import culnig_tl as ct
        >>> neurons = ct.NeuronSet.of(["L3.mlp.hook_post.17", "L1.attn.hook_q.4"])
        >>> rank_modules(neurons, "atlas").head(2)[["module", "neurons", "density"]].to_numpy()
        array([['L1.attn', 1, 2.6041...],
               ['L3.mlp', 1, 1.953125]], dtype=object)
    """
    modules, total = _modules_and_total(model)
    counts = _counts(neurons, modules)
    rows = [
        (each.name, each.layer, each.kind, n, 1000 * n / each.neurons, each.parameters)
        for each in modules
        for n in (counts[each.name],)
    ]
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    frame = frame.sort_values("density", ascending=False, kind="stable", ignore_index=True)
    frame.attrs["parameters"] = total
    return frame


def select_modules(
    ranking: pd.DataFrame,
    *,
    which: Which = "top",
    share: float = 0.10,
    kind: Literal["mlp", "attn", "both"] = "mlp",
    seed: int = 0,
) -> list[str]:
    """The modules with most culture neurons, with fewest, or random ones, to a budget.

    Args:
        ranking: what ``rank_modules`` returned.
        which: densest first, emptiest first, or in random order. Ties go to the lower layer, and to
            the MLP before the attention, both from the top and from the bottom.
        share: budget, as a share of the model's parameters, 0 to 1. Modules are taken for as long
            as one more brings their parameters closer to it; at least one is.
        kind: MLPs, attentions, or both.
        seed: of the random order.

    Returns:
        Names of modules, in the order in which they were taken.

    Raises:
        InvalidInputError: a frame that ``rank_modules`` did not make, no module of this kind, or a
            value that cannot be used.

    Example:
        >>> import culnig_tl as ct
        >>> ranking = rank_modules(ct.NeuronSet.of("L3.mlp.hook_post.17"), "atlas")
        >>> select_modules(ranking), select_modules(ranking, which="bottom", share=0.5)
        (['L3.mlp'], ['L0.mlp', 'L1.mlp', 'L2.mlp'])
    """
    check_choice("which", which, get_args(Which))
    check_choice("kind", kind, ("mlp", "attn", "both"))
    check_number("share", share, low=0, high=1)
    check_seed(seed)
    _check_ranking(ranking, kind)
    budget = share * ranking.attrs["parameters"]
    ordered = _ordered(ranking, which, kind, seed)
    chosen, n_parameters = [ordered[0][0]], ordered[0][1]
    for name, size in ordered[1:]:
        if abs(n_parameters + size - budget) >= abs(n_parameters - budget):
            break
        chosen.append(name)
        n_parameters += size
    return chosen


def _check_ranking(ranking: pd.DataFrame, kind: str) -> None:
    check_kind("ranking", ranking, pd.DataFrame, "the frame that rank_modules gives")
    missing = [name for name in _COLUMNS if name not in ranking]
    if missing or "parameters" not in ranking.attrs:
        raise InvalidInputError(
            f"The ranking has no {', '.join(missing) or 'attrs[parameters]'}; give the frame that "
            "rank_modules returned."
        )
    if kind != "both" and not (ranking["kind"] == kind).any():
        raise InvalidInputError(f"The ranking has no module of kind {kind!r}; choose another kind.")


def _ordered(ranking: pd.DataFrame, which: Which, kind: str, seed: int) -> list[tuple[str, int]]:
    """Name and parameters of each module of a kind, in the order in which they are taken."""
    rows = ranking if kind == "both" else ranking[ranking["kind"] == kind]
    rows = rows.sort_values(["layer", "kind"], ascending=[True, False])
    if which != "random":
        rows = rows.sort_values("density", ascending=which == "bottom", kind="stable")
    pairs = list(zip(rows["module"].tolist(), rows["parameters"].tolist(), strict=True))
    if which == "random":
        random.Random(seed).shuffle(pairs)
    return pairs


def _counts(neurons: NeuronSet, modules: list[Module]) -> dict[str, int]:
    """Different neurons of the set in each module.

    Raises:
        InvalidInputError: a neuron in a module that is not there.
    """
    kinds: dict[str, Kind] = {"mlp": "mlp", "attention": "attn"}
    check_kind("neurons", neurons, NeuronSet, "a NeuronSet")
    members: dict[str, set[tuple[str, int]]] = {module.name: set() for module in modules}
    for neuron in neurons:
        site = SITES.get(neuron.site)
        name = f"L{neuron.layer}.{kinds[site.pool]}" if site else ""
        if name not in members:
            raise InvalidInputError(
                f"{neuron} is in no module of this model, which has {len(members)} (the last is "
                f"{modules[-1].name}); give neurons that were found in this model."
            )
        same = "mlp" if name.endswith(".mlp") else neuron.site
        members[name].add((same, neuron.index))
    return {name: len(found) for name, found in members.items()}


def _modules_and_total(model: Any) -> tuple[list[Module], int]:
    """The modules of a model, and how many parameters it has."""
    wrapped = getattr(model, "original_model", None)
    if wrapped is not None:  # a bridge, whose linear layers have other names
        model = outline(wrapped.config)
    elif isinstance(model, HookedModel):
        return _of_hooked(model), _n_parameters(model)
    hf_model = model if isinstance(model, PreTrainedModel) else outline(model)
    return modules_of(hf_model), sum(weight.numel() for weight in hf_model.parameters())


def _of_hooked(model: Any) -> list[Module]:
    """The modules of a HookedTransformer, whose matrices are called W_in, W_Q, ..."""
    shapes = measure_sites(model)
    widths: dict[Kind, int] = {
        "mlp": shapes.get("mlp.hook_post", (0, 0))[1],
        "attn": sum(shapes[site][1] for site in shapes if SITES[site].pool == "attention"),
    }
    if not all(widths.values()):
        raise InvalidInputError(
            f"{model.cfg.model_name} has no neurons in its "
            f"{'MLPs' if not widths['mlp'] else 'attentions'} (its sites are "
            f"{', '.join(shapes) or 'none'}); modules of such a model cannot be ranked."
        )
    return [
        Module(layer, kind, width, sum(each.numel() for each in _matrices(block, kind)))
        for layer, block in enumerate(model.blocks)
        for kind, width in widths.items()
    ]


def _matrices(block: Any, kind: Kind) -> list[Any]:
    return [
        weight
        for name, weight in getattr(block, kind).named_parameters()
        if name.lstrip("_").startswith("W_")
    ]


def _n_parameters(model: Any) -> int:
    """Parameters as transformers counts them: without the zeros that a HookedTransformer adds for
    biases that a model does not have, and an unembedding that is the embedding once."""
    weights = model.named_parameters()
    counted = sum(each.numel() for name, each in weights if "W_" in name or bool(each.any()))
    return counted - _is_tied(model.embed.W_E, model.unembed.W_U.T) * model.unembed.W_U.numel()


def _is_tied(embedding: Float[Tensor, "vocab d_model"], unembedding: Float[Tensor, "..."]) -> bool:
    """Whether two matrices are the same but for one factor: Gemma's embedding is scaled."""
    if embedding.shape != unembedding.shape:
        return False
    pair = [each[:_COMPARED_TOKENS].float() for each in (embedding, unembedding)]
    return torch.allclose(*[each / each.norm() for each in pair], rtol=1e-2, atol=1e-6)
