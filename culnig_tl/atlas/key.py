"""The answer key: what was planted in an embedded model, and which of it works."""

from collections.abc import Mapping
from typing import Any

from culnig_tl.cultures import culture_key
from culnig_tl.errors import UnknownNameError
from culnig_tl.neurons import NeuronSet


def planted_set(key: Mapping[str, Any], name: str, *, verified: bool = False) -> NeuronSet:
    """A set of ``key.json``, with the exact effect of each neuron as its score.

    Raises:
        UnknownNameError: no set of that name was planted.
    """
    names = {culture_key(planted): planted for planted in key["sets"]}
    if culture_key(name) not in names:
        kin = " (no sets were planted for pairs of kin)" if name.startswith("kin") else ""
        raise UnknownNameError(
            f'There is no planted set "{name}" in the embedded model atlas{kin}; known: '
            f"{', '.join(key['sets'])}."
        )
    planted_name, site = names[culture_key(name)], key["site"]
    entry = key["sets"][planted_name]
    effects = {
        (site, *neuron): effect
        for neuron, effect in zip(entry["planted"], entry["effects"], strict=True)
    }
    return NeuronSet.of(
        {site: [tuple(neuron) for neuron in entry["verified" if verified else "planted"]]},
        scores=effects,
        shapes={site: tuple(key["shape"])},
        source={"answer_key": planted_name, "verified": verified},
    )
