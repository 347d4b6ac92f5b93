"""Which neurons carry one answer: the prompt-centric view.

    attribution of neuron k = sum over positions i of a[k,i] * dP(y|x) / da[k,i]

estimates, to first order, the drop of ``P(y|x)`` when the neuron is set to zero; position by
position it says where in the prompt the neuron does its part. The neurons with the largest
attributions are listed, each beside a real ablation, and beside what setting all of them to zero
does together. Attributions of different layers overlap (a later neuron passes on what an earlier
one wrote), so their sum is no share of the answer. Position by position, an attribution is the
slope of ``P`` by a factor of its own for that neuron and position, at 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.attribution import answer_probability, gradient_x_activation
from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.hooked_model import HookedModel, check_model, hooked
from culnig_tl.hooks import scaled_neurons
from culnig_tl.html import ColouredTokens, fragment, token_texts, with_style, write_page
from culnig_tl.logits import last_logits
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import Batch, TokenBudget, encode, prepare, writer
from culnig_tl.sites import DEFAULT_SITES, hook_name

_N_LIKELIEST = 5

T = TypeVar("T")


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
    def of(
        cls,
        model: HookedModel,
        row: Mapping[str, Any] | str,
        *,
        chat: bool = True,
        template: str | None = None,
    ) -> "Prompt":
        """From a row with its options, or from plain text with the model's likeliest answers.

        Args:
            model: the model that is asked.
            row: a question, or a text.
            chat, template: how the model is asked, as in ``render``.

        Raises:
            InvalidInputError: a row that cannot be used, no text, or more than the model can read.
            UnknownNameError: there is no chat template of that name.
        """
        check_model(model)
        if isinstance(row, str):
            return _of_text(model, row, chat, template)
        prepared = prepare(model, [row], chat=chat, template=template, token_budget=model.cfg.n_ctx)
        prepared.check_options()
        tokens = prepared.option_tokens[0].tolist()
        labels = zip(prepared.adapted[0]["options"], tokens, strict=True)
        return cls(prepared.batches[0], tuple(labels))

    @property
    def ids(self) -> list[int]:
        """The prompt's tokens."""
        return self.batch.tokens[0].tolist()

    def probabilities(
        self, model: HookedModel, neurons: NeuronSet | None = None, *, factor: float = 0.0
    ) -> pd.DataFrame:
        """Columns answer, probability, right (the answer that is followed), with neurons scaled."""
        with torch.no_grad(), scaled_neurons(model, neurons or NeuronSet.of([]), factor=factor):
            probabilities = _next_token_probabilities(model, self.batch)
        right = self.batch.answers.item()
        rows = [(text, probabilities[token].item(), token == right) for text, token in self.answers]
        return pd.DataFrame(rows, columns=["answer", "probability", "right"])


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        return (
            f"{len(self.neurons)} neurons of {self.model} that carry {self.answer!r}: "
            f"P {self.probability:.3f}, {self.probability_off:.3f} with all of them off"
        )

    @property
    def limit(self) -> float:
        """The largest absolute attribution of a listed neuron at a token."""
        return max((tokens.limit for tokens in self.tokens), default=0.0)

    def fragment(self) -> str:
        """The view as a piece of HTML, to stand on a page that has ``html.FRAGMENT_STYLE``."""
        return fragment("prompt.html", view=self)

    def _repr_html_(self) -> str:
        return with_style(self.fragment())

    def to_html(self, path: str | Path) -> Path:
        """Write the view as a page of its own, whole or not at all; it needs no network.

        Raises:
            UnwritableError: the folder cannot be made or written.
        """
        return write_page(path, title=f"A prompt to {self.model}", body=self.fragment())


def inspect_prompt(
    model: HookedModel,
    row: Mapping[str, Any] | str,
    *,
    sites: Sequence[str] = DEFAULT_SITES,
    top: int = 12,
    chat: bool = True,
    template: str | None = None,
) -> PromptView:
    """Which neurons carry the answer to one prompt.

    Args:
        model: a frozen model with named hook points.
        row: a question, or plain text, whose answer is then the model's own.
        sites: where neurons are looked for.
        top: neurons listed.
        chat, template: how the model is asked, as in ``render``.

    Raises:
        UnknownNameError: a site that this model does not have, or no chat template of that name.
        InvalidInputError: a row that cannot be used, no text, or more than the model can read.

    Example:
        >>> import culnig_tl as ct
        >>> view = inspect_prompt(ct.load_model(), "The usual staple food in Iran is", top=2)
        >>> bool(view.neurons["drop"].max() > 0)
        True
    """
    check_number("top", top, low=1, whole=True)
    prompt = Prompt.of(model, row, chat=chat, template=template)
    neurons = _most_attributed(model, prompt.batch, sites, top)
    by_token = dict(zip(neurons, _attributions_by_token(model, prompt.batch, neurons), strict=True))
    before = prompt.probabilities(model)
    off = prompt.probabilities(model, NeuronSet.of(neurons))
    texts = token_texts(model.tokenizer, prompt.ids)
    return PromptView(
        model=model.cfg.model_name,
        answer=_right(before, "answer"),
        probability=_right(before, "probability"),
        probability_off=_right(off, "probability"),
        answers=before.assign(probability_off=off["probability"]),
        neurons=_table(model, prompt, by_token, texts, _right(before, "probability")),
        total=_coloured(texts, torch.stack(list(by_token.values())).sum(0)),
        tokens=tuple(_coloured(texts, attributions) for attributions in by_token.values()),
    )


def _of_text(model: HookedModel, text: str, chat: bool, template: str | None) -> Prompt:
    """A text as a user's turn, followed by the answer that the model thinks likeliest."""
    if not text:
        raise InvalidInputError("There is no text; write a prompt of at least one word.")
    row = {"prompt": text, "system": "", "reply_prefix": ""}
    read = writer(model.tokenizer, chat=chat, template=template)(row)
    ids = encode(model.tokenizer, read, chat=chat)
    if len(ids) > model.cfg.n_ctx:
        raise InvalidInputError(
            f"This prompt has {len(ids)} tokens and the model's context is {model.cfg.n_ctx}; "
            "shorten the prompt."
        )
    tokens = torch.tensor([ids], device=model.cfg.device)
    batch = Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), tokens[:, -1], ("",), ("",))
    with torch.no_grad():
        likeliest = _next_token_probabilities(model, batch).topk(_N_LIKELIEST).indices
    answers = [(model.tokenizer.decode([token]), token) for token in likeliest.tolist()]
    return Prompt(replace(batch, answers=likeliest[:1]), tuple(answers))


def _pass(batch: Batch, run: Callable[[Batch], T]) -> T:
    """What one pass makes of one prompt.

    Raises:
        InvalidInputError: it does not fit into memory.
    """
    ((_, result),) = TokenBudget(batch.tokens.numel()).passes([batch], run)
    return result


def _next_token_probabilities(model: HookedModel, batch: Batch) -> Float[Tensor, "vocab"]:
    logits = _pass(
        batch, lambda prompt: last_logits(model, prompt.tokens, prompt.mask, ids=prompt.ids)[0]
    )
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)


def _most_attributed(
    model: HookedModel, batch: Batch, sites: Sequence[str], top: int
) -> list[Neuron]:
    """The neurons with the largest attributions of one prompt, largest first."""
    score = partial(gradient_x_activation, model, sites=sites, pool="sum", weight="none")
    sums = _pass(batch, score)
    largest: list[tuple[float, Neuron]] = []
    for site, (values,) in sums.items():
        best = values.flatten().argsort(descending=True, stable=True)[:top].tolist()
        places = [divmod(place, values.shape[1]) for place in best]
        largest += [(values[place].item(), Neuron(site, *place)) for place in places]
    largest.sort(key=lambda entry: -entry[0])
    return [neuron for _, neuron in largest[:top]]


def _attributions_by_token(
    model: HookedModel, batch: Batch, neurons: Sequence[Neuron]
) -> Float[Tensor, "listed pos"]:
    """Attribution of each neuron at each position of one prompt."""

    def multiply(activation: Tensor, hook: object, *, index: int, line: int) -> Tensor:
        multiplier = torch.ones_like(activation.flatten(2))
        multiplier[0, :, index] = factors[line].to(activation)
        return activation * multiplier.view_as(activation)

    fwd_hooks = [
        (hook_name(site, layer), partial(multiply, index=index, line=line))
        for line, (site, layer, index) in enumerate(neurons)
    ]
    with hooked(model, fwd_hooks, gradients=True):
        factors = torch.ones(
            (len(neurons), batch.tokens.shape[1]),
            dtype=torch.promote_types(model.cfg.dtype, torch.float32),
            device=batch.tokens.device,
            requires_grad=True,
        )
        (slopes,) = _pass(
            batch,
            lambda prompt: torch.autograd.grad(answer_probability(model, prompt).sum(), factors),
        )
    return slopes.cpu()


def _table(
    model: HookedModel,
    prompt: Prompt,
    by_token: Mapping[Neuron, Float[Tensor, "pos"]],
    texts: Sequence[str],
    probability: float,
) -> pd.DataFrame:
    """The listed neurons, each switched off alone."""
    rows = []
    for neuron, attributions in by_token.items():
        off = _right(prompt.probabilities(model, NeuronSet.of([neuron])), "probability")
        rows.append(
            {
                "neuron": str(neuron),
                "site": neuron.site,
                "layer": neuron.layer,
                "index": neuron.index,
                "attribution": attributions.sum().item(),
                "score": probability * attributions.max().item(),
                "probability_off": off,
                "drop": probability - off,
                "token": texts[int(attributions.argmax())],
            }
        )
    return pd.DataFrame(rows)


def _coloured(texts: tuple[str, ...], values: Float[Tensor, "pos"]) -> ColouredTokens:
    return ColouredTokens(texts, tuple(values.tolist()), unit="attribution")


def _right(answers: pd.DataFrame, column: str) -> Any:
    return answers.loc[answers["right"], column].item()
