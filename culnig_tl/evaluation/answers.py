"""Answers to multiple-choice questions, one row a prompt.

Two ways to read an answer off the logits at the last position:

* ``mode="argmax"`` (published): the likeliest token of the whole vocabulary, decoded;
* ``mode="options"``: the likeliest of the question's options, since small models may say something
  that is no option at all.

Either way ``P(y|x)`` is the softmax over the whole vocabulary. Questions of WorldValuesBench are
also measured by *alignment*: how near the answer ``p`` lies to the gold answer ``g`` on its scale,

    100 * (1 - |p - g| / max(|min - g|, |max - g|)),    0 for no number in range.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.errors import InvalidInputError, check_choice
from culnig_tl.hooks import HookedModel, last_logits, scaled_neurons
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch, batches, for_model, label_tokens

Condition = NeuronSet | Sequence[NeuronSet] | None
"""Neurons to scale; several sets (random ones) are averaged; None leaves the model as it is."""

Mode = Literal["argmax", "options"]
"""What counts as the model's answer: its likeliest token, or the likeliest option."""

NOTHING = NeuronSet.of({})
"""No neurons: the model as it is."""

_GROUPS = ("id", "culture", "topic", "template", "benchmark")
_ON_A_SCALE = "worldvaluesbench"


def evaluate(
    model: HookedModel,
    rows: Dataset,
    *,
    neurons: NeuronSet | None = None,
    factor: float = 0.0,
    mode: Mode = "argmax",
    token_budget: int = 16384,
    progress: bool = False,
) -> pd.DataFrame:
    """The model's answers, one row a prompt in the order of ``rows``.

    Args:
        model: any model with named hook points.
        rows: questions.
        neurons: neurons to scale; None leaves the model as it is.
        factor: what their activations are multiplied by.
        mode: ``"argmax"`` takes the likeliest token as the answer, ``"options"`` the likeliest
            option.
        token_budget: tokens a batch, padding counted.
        progress: show a progress bar.

    Returns:
        Columns id, culture, topic, template, benchmark, answer, prediction, correct (bool),
        probability (of the answer, 0 to 1), probabilities (of the row's options in their order, NaN
        where an option is not one token), rank (of the answer among these options, 1 for the
        likeliest) and alignment (0 to 100, NaN but for WorldValuesBench).

    Raises:
        InvalidInputError: rows that cannot be used, neurons outside the model, or, with
            ``mode="options"``, an option that is not one token.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> accuracy = evaluate(ct.load_model(), rows)["correct"].mean()
    """
    rows = for_model(rows, model)
    prepared = batches(model, rows, token_budget=token_budget)
    return answers(model, rows, prepared, neurons or NOTHING, factor, mode=mode, progress=progress)


def condition_answers(
    model: HookedModel,
    benchmarks: Mapping[str, Dataset],
    condition: Condition,
    *,
    name: str,
    factor: float = 0.0,
    mode: Mode = "argmax",
    token_budget: int = 16384,
    progress: bool = True,
) -> pd.DataFrame:
    """Answers to every benchmark under one condition: the columns of ``evaluate``, and more.

    Returns:
        ``benchmark`` holds the name given here; ``condition``, ``draw`` (which of several sets),
        ``n_neurons`` and ``factor`` (1 without neurons) are added; ``probabilities`` is left out.
    """
    draws = [condition or NOTHING] if isinstance(condition, NeuronSet | None) else list(condition)
    scaled_by = 1.0 if condition is None else factor
    frames = []
    with tqdm(total=len(draws) * len(benchmarks), desc=name, disable=not progress) as bar:
        for benchmark, given in benchmarks.items():
            rows = for_model(given, model)
            prepared = batches(model, rows, token_budget=token_budget)
            for draw, neurons in enumerate(draws):
                found = answers(model, rows, prepared, neurons, factor, mode=mode)
                frames.append(
                    labelled(
                        found,
                        benchmark,
                        condition=name,
                        draw=draw,
                        neurons=neurons,
                        factor=scaled_by,
                    )
                )
                bar.update()
    return pd.concat(frames, ignore_index=True)


def labelled(
    found: pd.DataFrame,
    benchmark: str,
    *,
    condition: str,
    draw: int,
    neurons: NeuronSet,
    factor: float,
) -> pd.DataFrame:
    """Answers of one set with what ``summarise`` groups them by."""
    return found.drop(columns="probabilities").assign(
        benchmark=benchmark,
        condition=condition,
        draw=draw,
        n_neurons=len(neurons),
        factor=float(factor),
    )


def alignment(prediction: str, answer: str, options: Sequence[str]) -> float:
    """How near an answer on a scale lies to the gold one, 0 to 100 (WorldValuesBench).

    Args:
        prediction: what the model said; no number in range counts 0.
        answer: the gold answer, a number.
        options: the numbers of the scale.

    Raises:
        InvalidInputError: a gold answer or a scale that is no number.

    Example:
        >>> alignment("3", "1", ["1", "2", "3"]), alignment("often", "1", ["1", "2", "3"])
        (0.0, 0.0)
        >>> alignment("2", "1", ["1", "2", "3"])
        50.0
    """
    numbers = [_number(text) for text in (answer, *options)]
    if not options or None in numbers:
        raise InvalidInputError(
            f"Answer {answer!r} of the options {list(options)} lies on no scale; alignment needs "
            "whole numbers."
        )
    gold, *scale = [number for number in numbers if number is not None]
    said = _number(prediction)
    if said is None or not min(scale) <= said <= max(scale):
        return 0.0
    farthest = max(abs(min(scale) - gold), abs(max(scale) - gold))
    return 100 * (1 - abs(said - gold) / farthest) if farthest else 100.0


def answers(
    model: HookedModel,
    rows: Dataset,
    prepared: Sequence[Batch],
    neurons: NeuronSet,
    factor: float,
    *,
    mode: Mode = "argmax",
    progress: bool = False,
) -> pd.DataFrame:
    """The frame of ``evaluate`` for batches that were made from ``rows`` beforehand."""
    check_choice("mode", mode, get_args(Mode))
    options = _option_tokens(model.tokenizer, rows, strict=mode == "options")
    predicted = [""] * len(rows)
    probability = np.zeros(len(rows))
    chances = np.full(options.shape, np.nan)
    with (
        torch.no_grad(),
        scaled_neurons(model, neurons, factor=factor),
        tqdm(total=len(rows), unit="question", disable=not progress) as bar,
    ):
        for batch in prepared:
            logits = last_logits(model, batch.tokens, batch.mask).float()
            likely = logits.softmax(-1)
            places = list(batch.rows)
            probability[places] = likely.gather(1, batch.answers[:, None])[:, 0].cpu().numpy()
            chances[places] = _chances(likely, options[places]).cpu().numpy()
            for row, token in zip(places, logits.argmax(-1).tolist(), strict=True):
                predicted[row] = model.tokenizer.decode([token])
            bar.update(len(batch))
    shown = rows["options"][:]
    if mode == "options":
        best = np.nanargmax(chances, axis=1)
        predicted = [texts[index] for texts, index in zip(shown, best, strict=True)]
    return _frame(rows, predicted, probability, chances)


def _frame(
    rows: Dataset,
    predicted: list[str],
    probability: Float[np.ndarray, "row"],
    chances: Float[np.ndarray, "row option"],
) -> pd.DataFrame:
    frame = pd.DataFrame({name: rows[name][:] for name in (*_GROUPS, "answer")})
    frame["prediction"] = predicted
    frame["correct"] = frame["prediction"] == frame["answer"]
    frame["probability"] = probability
    frame["probabilities"] = [
        values[: len(texts)].tolist()
        for values, texts in zip(chances, rows["options"], strict=True)
    ]
    frame["rank"] = 1 + (chances > probability[:, None]).sum(axis=1)
    frame["alignment"] = [
        alignment(*_as_numbers(said, answer, texts)) if benchmark == _ON_A_SCALE else float("nan")
        for said, answer, texts, benchmark in zip(
            predicted, frame["answer"], rows["options"], frame["benchmark"], strict=True
        )
    ]
    return frame


def _as_numbers(said: str, answer: str, options: list[str]) -> tuple[str, str, list[str]]:
    """Letters that stand for the numbers of a scale (see ``for_model``) count by their places."""
    if not all(text.strip().isalpha() for text in options):
        return said, answer, options
    places = {text: str(place) for place, text in enumerate(options)}
    return places.get(said, said), places[answer], list(places.values())


def _option_tokens(tokenizer: Any, rows: Dataset, *, strict: bool) -> Int[Tensor, "row option"]:
    """Token of every option; -1 for one that is not one token, and where a row has fewer."""
    options = rows["options"][:]
    labels = dict.fromkeys(label for texts in options for label in texts)
    tokens = (
        label_tokens(tokenizer, labels)
        if strict
        else {label: _single_token(tokenizer, label) for label in labels}
    )
    found = torch.full((len(options), max(map(len, options))), -1)
    for row, texts in enumerate(options):
        found[row, : len(texts)] = torch.tensor([tokens[label] for label in texts])
    return found


def _single_token(tokenizer: Any, label: str) -> int:
    try:
        return label_tokens(tokenizer, [label])[label]
    except InvalidInputError:
        return -1  # what is not one token has no probability of its own


def _chances(
    likely: Float[Tensor, "batch vocab"], options: Int[Tensor, "batch option"]
) -> Float[Tensor, "batch option"]:
    """Probability of every option, NaN where there is none."""
    options = options.to(likely.device)
    chances = likely.gather(1, options.clamp(min=0))
    return chances.masked_fill(options < 0, float("nan"))


def _number(text: str) -> int | None:
    """The whole number that a label is, spaces around it allowed."""
    return int(text) if text.strip().isdecimal() else None
