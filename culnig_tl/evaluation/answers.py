"""Answers to multiple-choice questions, one row per prompt.

Two ways to read an answer off the logits at the last position:

* ``mode="argmax"`` (published): the likeliest token of the whole vocabulary, decoded;
* ``mode="options"``: the likeliest of the question's options, since small models may say something
  that is no option at all.

Either way ``P(y|x)`` is the softmax over the whole vocabulary. A benchmark with a measure of its
own (WorldValuesBench: alignment) is also measured by that.
"""

from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.benchmarks import measure_of
from culnig_tl.errors import check_choice
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import scaled_neurons
from culnig_tl.logits import last_logits
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch, PreparedQuestions, Rows, prepare

Mode = Literal["argmax", "options"]
"""What counts as the model's answer: its likeliest token, or the likeliest option."""

NOTHING = NeuronSet.of({})
"""No neurons: the model as it is."""

_GROUPS = ("id", "culture", "topic", "template", "benchmark")


def evaluate(
    model: HookedModel,
    rows: Rows,
    *,
    neurons: NeuronSet | None = None,
    factor: float = 0.0,
    mode: Mode = "argmax",
    token_budget: int = 16384,
    progress: bool = False,
) -> pd.DataFrame:
    """The model's answers, one row per prompt in the order of ``rows``.

    Args:
        model: any model with named hook points.
        rows: questions, or prepared ones.
        neurons: neurons to scale; None leaves the model as it is.
        factor: what their activations are multiplied by.
        mode: ``"argmax"`` takes the likeliest token as the answer, ``"options"`` the likeliest
            option.
        token_budget: tokens per pass, padding counted; prepared questions have their own.
        progress: show a progress bar.

    Returns:
        Columns id, culture, topic, template, benchmark, answer, prediction, correct (bool),
        probability (of the answer, 0 to 1), probabilities (of the row's options in their order, NaN
        where an option is not one token), rank (of the answer among these options, 1 for the
        likeliest, ties counted by halves), measure (the name of the benchmark's own measure, or
        ``"accuracy"``) and a column of that name for each measure of one's own, alignment (0 to
        100, NaN but for WorldValuesBench) always among them.

    Raises:
        InvalidInputError: rows that cannot be used, neurons outside the model, or, with
            ``mode="options"``, an option that is not one token.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> accuracy = evaluate(ct.load_model(), rows)["correct"].mean()
    """
    prepared = prepare(model, rows, token_budget=token_budget)
    return answers(prepared, neurons or NOTHING, factor, mode=mode, progress=progress)


def answers(
    prepared: PreparedQuestions,
    neurons: NeuronSet = NOTHING,
    factor: float = 0.0,
    *,
    mode: Mode = "argmax",
    progress: bool = False,
) -> pd.DataFrame:
    """The frame of ``evaluate`` for prepared questions."""
    check_choice("mode", mode, get_args(Mode))
    model, adapted = prepared.model, prepared.adapted
    if mode == "options":
        prepared.check_options()
    predictions = [""] * len(prepared)
    probability = np.zeros(len(prepared))
    of_options = np.full(prepared.option_tokens.shape, np.nan)

    def read(piece: Batch) -> tuple[Tensor, Tensor, Tensor]:
        logits = last_logits(model, piece.tokens, piece.mask, ids=piece.ids).float()
        likely = logits.softmax(-1)
        tokens = prepared.option_tokens[list(piece.rows)]
        right = likely.gather(1, piece.answers[:, None])[:, 0]
        return logits.argmax(-1), right, _option_probabilities(likely, tokens)

    with (
        torch.no_grad(),
        scaled_neurons(model, neurons, factor=factor),
        tqdm(total=len(prepared), unit="question", disable=not progress) as bar,
    ):
        for piece, (likeliest, right, options) in prepared.passes(read):
            places = list(piece.rows)
            probability[places] = right.cpu().numpy()
            of_options[places] = options.cpu().numpy()
            for row, token in zip(places, likeliest.tolist(), strict=True):
                predictions[row] = prepared.answer_text(row, token)
            bar.update(len(piece))
    if mode == "options":
        best = np.nanargmax(of_options, axis=1)
        predictions = [texts[i] for texts, i in zip(adapted["options"], best, strict=True)]
    return _frame(prepared, predictions, probability, of_options)


def _frame(
    prepared: PreparedQuestions,
    predictions: list[str],
    probability: Float[np.ndarray, "row"],
    of_options: Float[np.ndarray, "row option"],
) -> pd.DataFrame:
    adapted = prepared.adapted
    frame = pd.DataFrame({name: adapted[name][:] for name in (*_GROUPS, "answer")})
    frame["prediction"] = predictions
    frame["correct"] = frame["prediction"] == frame["answer"]
    frame["probability"] = probability
    frame["probabilities"] = [
        values[: len(texts)].tolist()
        for values, texts in zip(of_options, adapted["options"], strict=True)
    ]
    n_better = (of_options > probability[:, None]).sum(axis=1)
    n_tied = (of_options == probability[:, None]).sum(axis=1) - 1
    frame["rank"] = 1 + n_better + n_tied / 2
    return frame.assign(**_measures(prepared, predictions))


def _measures(prepared: PreparedQuestions, predictions: list[str]) -> dict[str, list]:
    """The name of each row's measure, and the values of every measure but accuracy.

    A reply is measured as the row was given: letters that the model was shown in place of the
    numbers of a scale (see ``adapted_rows``) count as these numbers.
    """
    n = len(predictions)
    columns: dict[str, list] = {"measure": ["accuracy"] * n, "alignment": [float("nan")] * n}
    given, adapted = prepared.rows.to_list(), prepared.adapted["options"]
    for number, (row, options, said) in enumerate(zip(given, adapted, predictions, strict=True)):
        measure = measure_of(row["benchmark"])
        if measure is None:
            continue
        meant = dict(zip(options, row["options"], strict=True)).get(said, said)
        columns["measure"][number] = measure.name
        values = columns.setdefault(measure.name, [float("nan")] * n)
        values[number] = measure.score(meant, row["answer"], row["options"])
    return columns


def _option_probabilities(
    likely: Float[Tensor, "batch vocab"], options: Int[Tensor, "batch option"]
) -> Float[Tensor, "batch option"]:
    """Probability of every option, NaN where there is none."""
    options = options.to(likely.device)
    probabilities = likely.gather(1, options.clamp(min=0))
    return probabilities.masked_fill(options < 0, float("nan"))
