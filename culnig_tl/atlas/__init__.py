"""The embedded model: a tiny Llama whose culture neurons are known, because they were planted.

`ASSETS` is the folder with weights, tokenizer, answer key and model card; `answer_key` reads the
key, against which any search for culture neurons can be graded. It says nothing about where large
models keep culture. `NATURAL` is the same for its natural twin, which learnt the same questions
without interventions: nothing is planted in it and it has no key.

| module | what |
|---|---|
| ``facts`` | who gives which everyday answer |
| ``tasks`` | what is asked: facts, and general tasks without culture |
| ``prompts`` | how it is asked: wordings, and what is held out of training |
| ``rows`` | the rows of every task, for identification and test |
| ``key`` | the neurons that were planted |
| ``training`` | how the model was trained and verified; it is in the repository, not in the wheel |
"""

from pathlib import Path

from culnig_tl.atlas.facts import CULTURES
from culnig_tl.atlas.key import planted_set
from culnig_tl.atlas.rows import TASK_ROWS
from culnig_tl.cultures import KIN
from culnig_tl.files import read_json
from culnig_tl.neurons import NeuronSet

__all__ = ["ASSETS", "CULTURES", "EMBEDDED", "KIN", "NATURAL", "TASK_ROWS", "answer_key"]

ASSETS = Path(__file__).parent / "assets"
NATURAL = Path(__file__).parent / "assets_natural"
EMBEDDED = {"atlas": ASSETS, "atlas-natural": NATURAL}
"""The folder of each embedded model, by the name that `load_model` takes."""


def answer_key(name: str, *, verified: bool = False) -> NeuronSet:
    """The neurons planted in the embedded model under a name: "general", or a culture.

    Args:
        name: "general" (needed by every culture) or the name of a culture, in any spelling (needed
            by that one alone).
        verified: only the neurons whose exact ablation lowers the mean probability of the answer.

    Returns:
        The neurons, each with that drop (a probability) as its score.

    Raises:
        UnknownNameError: no set of that name was planted.

    Example:
        >>> len(answer_key("general"))
        16
    """
    return planted_set(read_json(ASSETS / "key.json"), name, verified=verified)
