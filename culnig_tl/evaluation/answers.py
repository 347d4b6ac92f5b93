"""Answers to multiple-choice questions, one row per prompt.

Ways to read an answer, the first two off the logits at the last position:

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

from culnig_tl.benchmarks import judged_together, measure_of
from culnig_tl.errors import check_choice, check_number
from culnig_tl.evaluation.likelihood import check_whole_options, option_log_probabilities
from culnig_tl.evaluation.trust import same_rows, warn
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import scaled_neurons
from culnig_tl.logits import last_logits
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch, PreparedQuestions, Rows, prepare

Mode = Literal["argmax", "options", "likelihood", "likelihood per character"]
"""What counts as the model's answer: its likeliest token, or the likeliest option by its token, by
the probability of its whole text, or by that per character."""

NOTHING = NeuronSet.of({})
"""No neurons: the model as it is."""

_WHOLE = ("likelihood", "likelihood per character")
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
            option, ``"likelihood"`` the option whose whole text is likeliest (of a cloze), and
            ``"likelihood per character"`` the same by length.
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
        InvalidInputError: a factor that is no finite number, an unknown mode, rows that cannot be
            used, neurons outside the model, with ``mode="options"`` an option that is not one
            token, or clozes whose options cannot be told apart by the first token that this mode
            reads.

    Warns:
        UserWarning: such clozes were left out (see ``prepare``), or the neurons were found on these
            very rows.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> accuracy = evaluate(ct.load_model(), rows)["correct"].mean()
    """
    check_choice("mode", mode, get_args(Mode))
    check_number("factor", factor)
    shared_tokens = "keep" if mode in _WHOLE else "drop"
    prepared = prepare(model, rows, token_budget=token_budget, shared_tokens=shared_tokens)
    neurons = NOTHING if neurons is None else NeuronSet.of(neurons)
    warn(same_rows([neurons], {"these rows": prepared}))
    return answers(prepared, neurons, factor, mode=mode, progress=progress)


def answers(
    prepared: PreparedQuestions,
    neurons: NeuronSet = NOTHING,
    factor: float = 0.0,
    *,
    mode: Mode = "argmax",
    progress: bool = False,
) -> pd.DataFrame:
    """The frame of ``evaluate`` for prepared questions."""
    check_answerable(prepared, mode)
    with torch.no_grad(), scaled_neurons(prepared.model, neurons, factor=factor):
        if mode in _WHOLE:
            logs = option_log_probabilities(prepared, progress=progress)
            return _by_likelihood(prepared, logs, per_character=mode != "likelihood")
        return _by_token(prepared, mode, progress)


def check_answerable(prepared: PreparedQuestions, mode: Mode) -> None:
    """Refuse options that an answer cannot be read from in this way, before the model runs.

    Raises:
        InvalidInputError: an unknown mode, clozes whose options cannot be told apart, an option
            that is not one token, or one that changes the tokens of its prompt.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=3)
        >>> check_answerable(ct.prepare(ct.load_model(), rows), "options")
    """
    check_choice("mode", mode, get_args(Mode))
    if mode in _WHOLE:
        check_whole_options(prepared)
        return
    prepared.check_told_apart()
    if mode == "options":
        prepared.check_options()


def _by_token(prepared: PreparedQuestions, mode: Mode, progress: bool) -> pd.DataFrame:
    """The frame for answers that are read off the logits at the last position."""
    model = prepared.model
    predictions = [""] * len(prepared)
    probability = np.zeros(len(prepared))
    of_options = np.full(prepared.option_tokens.shape, np.nan)

    def read(piece: Batch) -> tuple[Tensor, Tensor, Tensor]:
        logits = last_logits(model, piece.tokens, piece.mask, ids=piece.ids).float()
        likely = logits.softmax(-1)
        tokens = prepared.option_tokens[list(piece.rows)]
        right = likely.gather(1, piece.answers[:, None])[:, 0]
        return logits.argmax(-1), right, _option_probabilities(likely, tokens)

    with tqdm(total=len(prepared), unit="question", disable=not progress) as bar:
        for piece, (likeliest, right, options) in prepared.passes(read):
            places = list(piece.rows)
            probability[places] = right.cpu().numpy()
            of_options[places] = options.cpu().numpy()
            for row, token in zip(places, likeliest.tolist(), strict=True):
                predictions[row] = prepared.answer_text(row, token)
            bar.update(len(piece))
    if mode == "options":
        predictions = _best(prepared, of_options)
    return _frame(prepared, predictions, probability, of_options)


def _by_likelihood(
    prepared: PreparedQuestions, logs: Float[np.ndarray, "row option"], *, per_character: bool
) -> pd.DataFrame:
    """The frame for whole options."""
    adapted = prepared.adapted
    compared = logs.copy()
    if per_character:
        for row, texts in enumerate(adapted["options"]):
            compared[row, : len(texts)] /= [len(text.strip()) for text in texts]
    of_options = np.exp(logs)
    right = [
        texts.index(answer)
        for texts, answer in zip(adapted["options"], adapted["answer"], strict=True)
    ]
    frame = _frame(
        prepared, _best(prepared, compared), of_options[range(len(right)), right], of_options
    )
    if not per_character:
        return frame
    return frame.assign(rank=_rank(compared, compared[range(len(right)), right]))


def _best(prepared: PreparedQuestions, compared: Float[np.ndarray, "row option"]) -> list[str]:
    """The option of each row with the largest value."""
    best = np.nanargmax(compared, axis=1)
    return [texts[at] for texts, at in zip(prepared.adapted["options"], best, strict=True)]


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
    frame["rank"] = _rank(of_options, probability)
    return frame.assign(**_measures(prepared, predictions))


def _rank(
    compared: Float[np.ndarray, "row option"], right: Float[np.ndarray, "row"]
) -> Float[np.ndarray, "row"]:
    """Place of the right option of each row, ties counted by halves."""
    n_better = (compared > right[:, None]).sum(axis=1)
    n_tied = (compared == right[:, None]).sum(axis=1) - 1
    return 1 + n_better + n_tied / 2


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
    return judged_together(given, columns)


def _option_probabilities(
    likely: Float[Tensor, "batch vocab"], options: Int[Tensor, "batch option"]
) -> Float[Tensor, "batch option"]:
    """Probability of every option, NaN where there is none."""
    options = options.to(likely.device)
    probabilities = likely.gather(1, options.clamp(min=0))
    return probabilities.masked_fill(options < 0, float("nan"))
