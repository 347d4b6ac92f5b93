"""Finding neurons: by a part of their name, or by the questions that they answer."""

from collections.abc import Mapping

import pandas as pd
import torch

from culnig_tl.errors import InvalidInputError
from culnig_tl.inspection import KeptScores
from culnig_tl.neurons import Neuron
from culnig_tl.scores import NeuronScores

_N_NAMES = 20_000


def neurons_named(text: str, scores: NeuronScores, top: int) -> pd.DataFrame:
    """The best neurons whose names hold a text, or the one whose name it is.

    Args:
        text: a name, or a part of one.
        scores: what they are ordered by; of these, names are read from the 20,000 best.
        top: neurons listed at most.

    Returns:
        Columns neuron, score, found.

    Example:
        >>> scores = NeuronScores({"mlp.hook_post": torch.eye(3)[None]}, ("Iran",), 1, (1,), {})
        >>> neurons_named("L2.mlp", scores, 1)["neuron"].tolist()
        ['L2.mlp.hook_post.2']
    """
    frame = scores.to_frame(top=sum(layers * width for layers, width in scores.shapes.values()))
    names = "L" + frame["layer"].astype(str) + "." + frame["site"] + "."
    names = (names + frame["neuron"].astype(str))[:_N_NAMES]
    is_same = names == text
    matches = is_same if is_same.any() else names.str.contains(text, regex=False)
    neurons = frame.assign(neuron=names, found="by its name")[
        matches.reindex(frame.index, fill_value=False)
    ]
    return neurons[["neuron", "score", "found"]].head(top).reset_index(drop=True)


def neurons_of_questions(text: str, kept: KeptScores, top: int) -> pd.DataFrame:
    """The neurons with the highest mean score on the prompts that, or whose answers, hold a text.

    Args:
        text: a part of a prompt or an answer, in capitals or not.
        kept: the scores of every prompt.
        top: neurons listed at most.

    Returns:
        Columns neuron, score (the mean), found.

    Raises:
        InvalidInputError: no prompt holds it.
    """
    rows, wanted = kept.prepared.rows, text.casefold()
    read = zip(rows["prompt"], rows["answer"], strict=True)
    places = [place for place, pair in enumerate(read) if any(wanted in t.casefold() for t in pair)]
    if not places:
        raise InvalidInputError(
            f"No neuron's name and none of these {len(kept.prepared)} questions or their answers "
            f"holds {text!r}; try a part of a word."
        )
    means = {site: scores[places].double().mean(0) for site, scores in kept.by_site.items()}
    listed = _largest(means, top)
    noun = "prompt" if len(places) == 1 else "prompts"
    found = f"in {len(places)} {noun} with {text!r}"
    return pd.DataFrame(
        [(str(neuron), score, found) for score, neuron in listed],
        columns=["neuron", "score", "found"],
    )


def _largest(values: Mapping[str, torch.Tensor], top: int) -> list[tuple[float, Neuron]]:
    """The largest values and whose they are, largest first."""
    listed: list[tuple[float, Neuron]] = []
    for site, of_site in values.items():
        best = of_site.flatten().topk(min(top, of_site.numel()))
        for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            listed.append((value, Neuron(site, *divmod(place, of_site.shape[1]))))
    return sorted(listed, key=lambda each: -each[0])[:top]
