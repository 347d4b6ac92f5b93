"""A closer look at what a run found: whole cards of its best neurons, and dose and response.

The cost does not grow with the questions of the run: draws of a fixed size are looked at.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from datasets import Dataset

from culnig_tl.benchmarks import drawn
from culnig_tl.evaluation import Mode
from culnig_tl.hooks import HookedModel
from culnig_tl.inspection import NeuronCard, inspect_neurons
from culnig_tl.neurons import NeuronSet, neuron_id
from culnig_tl.pipeline.stages import file_name, kept
from culnig_tl.questions import questions
from culnig_tl.scores import NeuronScores
from culnig_tl.validation import dose_response

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_CARD_PROMPTS = 96
_DOSE_PROMPTS = 48
_SEED = 0


def cards_of(
    folder: Path,
    model: HookedModel,
    rows: Dataset,
    neurons: Sequence[tuple[str, int, int]],
    *,
    scores: Mapping[str, NeuronScores],
    sites: Sequence[str],
    token_budget: int,
    progress: bool,
) -> dict[str, NeuronCard]:
    """Cards by name: read where they are kept, made together where they are not."""
    paths = {each: folder / f"{file_name(neuron_id(*each))}.json" for each in neurons}
    missing = [neuron for neuron, path in paths.items() if not path.exists()]
    if missing:
        made = inspect_neurons(
            model,
            questions(drawn(rows, _CARD_PROMPTS, _SEED).to_list()),  # a part would be copied aloud
            _set_of(missing),
            scores=scores,
            sites=sites,
            token_budget=token_budget,
            progress=progress,
        )
        for neuron in missing:
            made[neuron_id(*neuron)].save(paths[neuron])
    return {neuron_id(*neuron): NeuronCard.load(path) for neuron, path in paths.items()}


def best_of(neurons: NeuronSet, number: int) -> list[tuple[str, int, int]]:
    """Site, layer and index of the neurons with the highest scores, best first."""
    best = neurons.to_frame().head(number)
    return [
        (site, int(layer), int(index)) for site, layer, index, _ in best.itertuples(index=False)
    ]


def doses_of(
    path: Path,
    model: HookedModel,
    benchmarks: Mapping[str, Dataset],
    neurons: NeuronSet,
    *,
    mode: Mode,
    token_budget: int,
    progress: bool,
) -> pd.DataFrame:
    """The frame of ``dose_response`` on a draw of each benchmark."""
    few = {name: drawn(rows, _DOSE_PROMPTS, _SEED) for name, rows in benchmarks.items()}
    options = {"mode": mode, "token_budget": token_budget, "progress": progress}
    return kept(path, partial(dose_response, model, few, neurons, factors=FACTORS, **options))


def _set_of(neurons: Sequence[tuple[str, int, int]]) -> NeuronSet:
    found: dict[str, list[tuple[int, int]]] = {}
    for site, layer, index in neurons:
        found.setdefault(site, []).append((layer, index))
    return NeuronSet.of(found)
