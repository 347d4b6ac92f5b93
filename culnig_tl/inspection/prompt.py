"""Which neurons carry one answer: the prompt-centric view.

    attribution of neuron k = sum over positions i of a[k,i] * dP(y|x) / da[k,i]

estimates, to first order, the drop of ``P(y|x)`` when the neuron is set to zero; position by
position it says where in the prompt the neuron does its part. The neurons with the largest
attributions are listed, each beside a real ablation, and beside what setting all of them to zero
does together. Attributions of different layers overlap (a later neuron passes on what an earlier
one wrote), so their sum is no share of the answer. Position by position, an attribution is the
slope of ``P`` by a factor of its own for that neuron and position, at 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.attribution import answer_probability, gradient_x_activation
from culnig_tl.errors import InvalidInputError
from culnig_tl.hooks import DEFAULT_SITES, HookedModel, hook_name, last_logits, scaled_neurons
from culnig_tl.inspection import pages
from culnig_tl.inspection.tokens import ColouredTokens, token_texts
from culnig_tl.neurons import NeuronSet, by_site, neuron_id
from culnig_tl.questions import Batch, batches, for_model, label_tokens, questions
from culnig_tl.questions.rendering import encode, text_of

Located = tuple[str, int, int]
_LIKELY = 5


@dataclass(frozen=True)
class Prompt:
    """One prompt, ready for a model.

    Attributes:
        batch: the prompt, alone in its batch, with the answer that is followed.
        answers: text and token id of each answer to show; parts of characters may share a text.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> prompt = Prompt.of(model, "The usual staple food in Iran is")
        >>> prompt.probabilities(model)["right"].tolist()
        [True, False, False, False, False]
    """

    batch: Batch
    answers: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, model: HookedModel, row: Mapping[str, Any] | str) -> "Prompt":
        """From a row with its options, or from plain text with the model's likeliest answers.

        Raises:
            InvalidInputError: a row that cannot be used, no text, or more than the model can read.
        """
        if isinstance(row, str):
            return _of_text(model, row)
        rows = for_model(questions([row]), model)
        (batch,) = batches(model, rows, token_budget=model.cfg.n_ctx)
        labels = label_tokens(model.tokenizer, rows[0]["options"])
        return cls(batch, tuple(labels.items()))

    @property
    def ids(self) -> list[int]:
        """The prompt's tokens."""
        return self.batch.tokens[0].tolist()

    def probabilities(
        self, model: HookedModel, neurons: NeuronSet | None = None, *, factor: float = 0.0
    ) -> pd.DataFrame:
        """Columns answer, probability, right (the answer that is followed), with neurons scaled."""
        scaled = neurons or NeuronSet.of({})
        with torch.no_grad(), scaled_neurons(model, scaled, factor=factor):
            chances = _chances(model, self.batch)
        right = self.batch.answers.item()
        found = [(text, chances[token].item(), token == right) for text, token in self.answers]
        return pd.DataFrame(found, columns=["answer", "probability", "right"])


@dataclass(frozen=True)
class PromptView:
    """Which neurons carry one answer; it shows itself in Jupyter.

    Attributes:
        model: the model's name.
        answer: the answer that is followed: the row's, or the model's own for plain text.
        probability, probability_off: ``P(answer)`` as the model is, and with all listed neurons
            off together.
        answers: columns answer, probability, probability_off, right.
        neurons: columns neuron, site, layer, index, attribution, score (``P * max_i``),
            probability_off, drop (this neuron off, alone), token (where its part is largest).
        total: the prompt's tokens with the attributions of the listed neurons, summed.
        tokens: the prompt's tokens with the attribution of each listed neuron.

    Example:
        >>> import culnig_tl as ct
        >>> row = ct.load_benchmark("atlas", split="test", limit=1)[0]
        >>> view = ct.inspect_prompt(ct.load_model(), row, top=3)
        >>> len(view.neurons), view.answer == row["answer"]
        (3, True)
    """

    model: str
    answer: str
    probability: float
    probability_off: float
    answers: pd.DataFrame
    neurons: pd.DataFrame
    total: ColouredTokens
    tokens: tuple[ColouredTokens, ...]

    @property
    def limit(self) -> float:
        """The largest absolute attribution of a listed neuron at a token."""
        return max((tokens.limit for tokens in self.tokens), default=0.0)

    def fragment(self) -> str:
        """The view as a piece of HTML, to stand on a page that has ``inspection.STYLE``."""
        return pages.fragment("prompt.html", view=self)

    def _repr_html_(self) -> str:
        return pages.with_style(self.fragment())

    def to_html(self, path: str | Path) -> Path:
        """Write the view as a page of its own, whole or not at all; it needs no network.

        Raises:
            UnwritableError: the folder cannot be made or written.
        """
        return pages.write(path, title=f"A prompt to {self.model}", body=self.fragment())


def inspect_prompt(
    model: HookedModel,
    row: Mapping[str, Any] | str,
    *,
    sites: Sequence[str] = DEFAULT_SITES,
    top: int = 12,
) -> PromptView:
    """Which neurons carry the answer to one prompt.

    Args:
        model: a frozen model with named hook points.
        row: a question, or plain text, whose answer is then the model's own.
        sites: where neurons are looked for.
        top: neurons listed.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: a row that cannot be used, no text, or more than the model can read.

    Example:
        >>> import culnig_tl as ct
        >>> view = inspect_prompt(ct.load_model(), "The usual staple food in Iran is", top=2)
        >>> bool(view.neurons["drop"].max() > 0)
        True
    """
    prompt = Prompt.of(model, row)
    total = gradient_x_activation(model, prompt.batch, sites=sites, pool="sum", weight="none")
    found = _strongest({site: values[0] for site, values in total.items()}, top)
    parts = dict(zip(found, _by_token(model, prompt.batch, found), strict=True))
    before = prompt.probabilities(model)
    off = prompt.probabilities(model, NeuronSet.of(by_site(found)))
    texts = token_texts(model.tokenizer, prompt.ids)
    return PromptView(
        model=model.cfg.model_name,
        answer=_right(before, "answer"),
        probability=_right(before, "probability"),
        probability_off=_right(off, "probability"),
        answers=before.assign(probability_off=off["probability"]),
        neurons=_table(model, prompt, parts, texts, _right(before, "probability")),
        total=_coloured(texts, torch.stack(list(parts.values())).sum(0)),
        tokens=tuple(_coloured(texts, part) for part in parts.values()),
    )


def _of_text(model: HookedModel, text: str) -> Prompt:
    """Plain text as a user's turn, followed by the answer that the model thinks likeliest."""
    if not text:
        raise InvalidInputError("There is no text; write a prompt of at least one word.")
    row = {"prompt": text, "system": "", "reply_prefix": ""}
    ids = encode(model.tokenizer, text_of(row, model.tokenizer))
    if len(ids) > model.cfg.n_ctx:
        raise InvalidInputError(
            f"This prompt has {len(ids)} tokens and the model's context is {model.cfg.n_ctx}; "
            "shorten the prompt."
        )
    tokens = torch.tensor([ids], device=model.cfg.device)
    batch = Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), tokens[:, -1], ("",), ("",))
    with torch.no_grad():
        likely = _chances(model, batch).topk(_LIKELY).indices
    answers = [(model.tokenizer.decode([token]), token) for token in likely.tolist()]
    return Prompt(replace(batch, answers=likely[:1]), tuple(answers))


def _chances(model: HookedModel, batch: Batch) -> Float[Tensor, "vocab"]:
    logits = last_logits(model, batch.tokens, batch.mask)[0]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)


def _strongest(
    attributions: Mapping[str, Float[Tensor, "_layer _neuron"]], top: int
) -> list[Located]:
    """The neurons with the largest attributions, largest first."""
    found: list[tuple[float, Located]] = []
    for site, values in attributions.items():
        best = values.flatten().argsort(descending=True, stable=True)[:top].tolist()
        places = [divmod(place, values.shape[1]) for place in best]
        found += [(values[place].item(), (site, *place)) for place in places]
    found.sort(key=lambda entry: -entry[0])
    return [neuron for _, neuron in found[:top]]


def _by_token(
    model: HookedModel, batch: Batch, neurons: Sequence[Located]
) -> Float[Tensor, "found pos"]:
    """Attribution of each neuron at each position of one prompt."""
    factors = torch.ones(len(neurons), batch.tokens.shape[1], device=batch.tokens.device)
    factors.requires_grad_()

    def multiply(activation: Tensor, hook: object, *, neuron: int, which: int) -> Tensor:
        multiplier = torch.ones_like(activation.flatten(2))
        multiplier[0, :, neuron] = factors[which].to(activation)
        return activation * multiplier.view_as(activation)

    fwd_hooks = [
        (hook_name(site, layer), partial(multiply, neuron=neuron, which=which))
        for which, (site, layer, neuron) in enumerate(neurons)
    ]
    with torch.enable_grad(), model.hooks(fwd_hooks=fwd_hooks):
        (slopes,) = torch.autograd.grad(answer_probability(model, batch).sum(), factors)
    return slopes.cpu()


def _table(
    model: HookedModel,
    prompt: Prompt,
    parts: Mapping[Located, Float[Tensor, "pos"]],
    texts: Sequence[str],
    probability: float,
) -> pd.DataFrame:
    rows = []
    for (site, layer, neuron), part in parts.items():
        one = NeuronSet.of({site: [(layer, neuron)]})
        off = _right(prompt.probabilities(model, one), "probability")
        rows.append(
            {
                "neuron": neuron_id(site, layer, neuron),
                "site": site,
                "layer": layer,
                "index": neuron,
                "attribution": part.sum().item(),
                "score": probability * part.max().item(),
                "probability_off": off,
                "drop": probability - off,
                "token": texts[int(part.argmax())],
            }
        )
    return pd.DataFrame(rows)


def _coloured(texts: tuple[str, ...], values: Float[Tensor, "pos"]) -> ColouredTokens:
    return ColouredTokens(texts, tuple(values.tolist()), unit="attribution")


def _right(answers: pd.DataFrame, column: str) -> Any:
    return answers.loc[answers["right"], column].item()
