"""Random neurons: the same number out of all pools together, without replacement."""

from collections import Counter
from collections.abc import Mapping

import torch

from culnig_tl.errors import InvalidInputError, check_flag, check_kind, check_seed
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.selection.ranking import location
from culnig_tl.sites import DEFAULT_SITES, site_named, site_shape


def random_neurons(
    model: HookedModel, *, like: NeuronSet, seed: int = 0, layer_matched: bool = False
) -> NeuronSet:
    """As many neurons as ``like`` has, drawn without replacement from MLP and attention together.

    Args:
        model: the model to draw from.
        like: the set to match; drawn from the sites it was chosen from (by hand: the sites it
            names).
        seed: seed of the draw.
        layer_matched: also match the number in each layer of each site.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: more neurons than there are to draw from, or a seed that is no whole
            number from 0 up.

    Example:
        >>> import culnig_tl as ct
        >>> one = ct.NeuronSet.of({"mlp.hook_post": [(3, 17)]})
        >>> len(random_neurons(ct.load_model(), like=one, seed=1))
        1
    """
    check_seed(seed)
    check_flag("layer_matched", layer_matched)
    check_kind("like", like, NeuronSet, "a NeuronSet")
    sites = tuple(like.shapes) or like.sites or DEFAULT_SITES
    sites = tuple(site for site in sites if site_named(site).selectable)
    shapes = {site: site_shape(model, site) for site in sites}
    _check_pool(like, shapes, layer_matched=layer_matched)
    generator = torch.Generator().manual_seed(seed)
    if layer_matched:
        counts = like.per_layer()
        drawn = [
            Neuron(site, layer, int(index))
            for site, (_, width) in shapes.items()
            for layer in counts.index
            for index in torch.randperm(width, generator=generator)[: counts.loc[layer, site]]
        ]
    else:
        pool_size = sum(n_layers * width for n_layers, width in shapes.values())
        flat = torch.randperm(pool_size, generator=generator)[: len(like)]
        drawn = [location(place, shapes) for place in flat.tolist()]
    return NeuronSet.of(
        drawn,
        shapes=shapes,
        source={
            "kind": "random",
            "seed": seed,
            "layer_matched": layer_matched,
            "model": model_fingerprint(model),
            "model_name": model.cfg.model_name,
        },
    )


def _check_pool(
    like: NeuronSet, shapes: Mapping[str, tuple[int, int]], *, layer_matched: bool
) -> None:
    """Refuse a set with more neurons than there are to draw from, in all or in one layer."""
    pools = {"these sites": (len(like), sum(layers * width for layers, width in shapes.values()))}
    if layer_matched:
        for site in like.sites:
            n_layers, width = shapes.get(site, (0, 0))
            for layer, count in Counter(layer for layer, _ in like[site]).items():
                pools[f"layer {layer} of {site}"] = (count, width if layer < n_layers else 0)
    for place, (n_neurons, n_pool) in pools.items():
        if n_neurons > n_pool:
            raise InvalidInputError(
                f"{n_neurons} neurons cannot be drawn from {place}, where this model has {n_pool} "
                "that are selected; give a set of this model, at sites that are selected."
            )
