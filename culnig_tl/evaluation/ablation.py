"""The judge of every score: what switching off one neuron, and nothing else, really does.

    drop = mean over prompts of  P(y) - P(y, neuron scaled)

One forward pass over the rows per neuron, so it is for a few neurons, not for a whole model. Scores
estimate this drop; ablations of single neurons do not add up to the ablation of their set.
"""

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.evaluation.answers import answers
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import check_intervention
from culnig_tl.neurons import Listed, NeuronSet
from culnig_tl.questions import Rows, prepare


def ablation_effects(
    model: HookedModel,
    rows: Rows,
    neurons: NeuronSet | Listed,
    *,
    factor: float = 0.0,
    token_budget: int = 16384,
    progress: bool = True,
) -> pd.DataFrame:
    """What scaling each neuron alone does to the answers.

    Args:
        model: any model with named hook points.
        rows: questions, or prepared ones.
        neurons: a set, or neurons by value or name; one after the other.
        factor: what the neuron's activation is multiplied by; 0 switches it off.
        token_budget: tokens per pass, padding counted; prepared questions have their own.
        progress: show a progress bar.

    Returns:
        One row per neuron in the order of the set: site, layer, neuron, drop (of mean
        ``P(answer)``, positive if the neuron carries the answers), standard_error (of that mean
        over prompts) and accuracy_drop (points).

    Raises:
        InvalidInputError: no neurons, a factor that is no finite number, rows that cannot be used,
            or neurons outside the model; before the model runs.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=16)
        >>> pair = ["L3.mlp.hook_post.17", "L1.mlp.hook_post.5"]
        >>> ablation_effects(ct.load_model(), rows, pair, progress=False)["neuron"].tolist()
        [5, 17]
    """
    neurons = NeuronSet.of(neurons)
    if not len(neurons):
        raise InvalidInputError("There are no neurons to switch off; give at least one.")
    check_number("factor", factor)
    prepared = prepare(model, rows, token_budget=token_budget)
    check_intervention(model, [neurons], factor)
    before = answers(prepared)
    effects = []
    for neuron in tqdm(list(neurons), desc="ablation", disable=not progress):
        after = answers(prepared, NeuronSet.of(neuron), factor)
        drops = (before["probability"] - after["probability"]).to_numpy()
        lost = before["correct"].mean() - after["correct"].mean()
        effects.append((*neuron, drops.mean(), _standard_error(drops), 100 * lost))
    columns = ["site", "layer", "neuron", "drop", "standard_error", "accuracy_drop"]
    return pd.DataFrame(effects, columns=columns)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
