"""The embedded model: a tiny Llama whose culture neurons are known, because they were planted.

`ASSETS` is the folder with weights, tokenizer, answer key and model card; `answer_key` reads the
key. A finder of culture neurons can be graded against it. It says nothing about where large models
keep culture.
"""

from pathlib import Path

from culnig_tl.atlas.facts import CULTURES, KIN
from culnig_tl.errors import UnknownNameError
from culnig_tl.files import read_json
from culnig_tl.neurons import NeuronSet

__all__ = ["ASSETS", "CULTURES", "EMBEDDED", "KIN", "answer_key"]

ASSETS = Path(__file__).parent / "assets"
EMBEDDED = {"atlas": ASSETS}
"""The folder of each embedded model, by the name that `load_model` takes."""


def answer_key(name: str, *, verified: bool = False) -> NeuronSet:
    """The neurons planted in the embedded model under a name: "general", or a culture.

    Args:
        name: "general" (needed by every culture) or the name of a culture (needed by that one
        alone). verified: keep only neurons whose exact ablation lowers the mean probability of the
        answer;
            their scores are those drops.

    Raises:
        UnknownNameError: no set of that name was planted.

    Example:
        >>> len(answer_key("general"))
        16
    """
    key = read_json(ASSETS / "key.json")
    if name not in key["sets"]:
        known = ", ".join(key["sets"])
        raise UnknownNameError(
            f'There is no planted set "{name}" in the embedded model; known: {known}.'
        )
    planted, site = key["sets"][name], key["site"]
    effects = {
        (site, *neuron): effect
        for neuron, effect in zip(planted["planted"], planted["effects"], strict=True)
    }
    return NeuronSet.of(
        {site: [tuple(neuron) for neuron in planted["verified" if verified else "planted"]]},
        scores=effects or None,
        shapes={site: tuple(key["shape"])},
        source={"answer_key": name, "verified": verified},
    )
