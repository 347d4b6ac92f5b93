"""What a model writes with neurons scaled, beside what it writes as it is.

Both replies are greedy, so they part where the scaling changed which token is first; from there
each goes on from its own words. Tokens of one reply that the other does not have at that place
(longest matching runs, as ``difflib`` finds them) are coloured.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pandas as pd

from culnig_tl.errors import InvalidInputError, check_kind, check_number
from culnig_tl.evaluation import greedy_replies
from culnig_tl.hooked_model import HookedModel, check_model
from culnig_tl.hooks import scaled_neurons
from culnig_tl.html import ColouredTokens, fragment, token_texts, with_style, write_page
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import PreparedQuestions, writer

Pair = tuple[ColouredTokens, ColouredTokens]


@dataclass(frozen=True, repr=False)
class Continuations:
    """Texts with what the model writes after each, before and after scaling; shown in Jupyter.

    Attributes:
        model: the model's name.
        neurons, factor: what was scaled, and by what.
        frame: one row per text: text (without the chat template), before, after, changed (share of
            the two replies' tokens that the other does not have).
        pairs: the two replies to each text as tokens, changed ones -1 (only before) and 1 (only
            after).
    """

    model: str
    neurons: NeuronSet
    factor: float
    frame: pd.DataFrame
    pairs: tuple[Pair, ...]

    @classmethod
    def of(
        cls, model: HookedModel, neurons: NeuronSet, factor: float, replies: pd.DataFrame
    ) -> "Continuations":
        """Replies that were written before: a frame with text, before and after."""
        both = zip(replies["before"], replies["after"], strict=True)
        pairs = tuple(_pair(model.tokenizer, before, after) for before, after in both)
        changed = [_share_changed(pair) for pair in pairs]
        frame = replies[["text", "before", "after"]].assign(changed=changed)
        return cls(model.cfg.model_name, neurons, factor, frame, pairs)

    def __repr__(self) -> str:
        return f"{self.sentence}: {self.n_changed} of {len(self.frame)} replies change"

    @property
    def n_changed(self) -> int:
        """How many replies are not the same after scaling."""
        return int((self.frame["before"] != self.frame["after"]).sum())

    @property
    def sentence(self) -> str:
        """What was done, in words."""
        if not len(self.neurons):
            return f"{self.model} as it is"
        n = len(self.neurons)
        some = f"{n} neuron{'' if n == 1 else 's'}"
        return f"{self.model} as it is, and with {some} times {self.factor:g}"

    @property
    def replies(self) -> list[tuple[str, float, Pair]]:
        """Each text with the share of tokens that changed, and its replies as tokens."""
        return [*zip(self.frame["text"], self.frame["changed"], self.pairs, strict=True)]

    def fragment(self) -> str:
        """The replies as a piece of HTML, to stand on a page that has ``html.FRAGMENT_STYLE``."""
        return fragment("continuations.html", view=self)

    def _repr_html_(self) -> str:
        return with_style(self.fragment())

    def to_html(self, path: str | Path) -> Path:
        """Write the replies as a page of their own, whole or not at all; it needs no network.

        Raises:
            UnwritableError: the folder cannot be made or written.
        """
        return write_page(path, title=f"What {self.model} writes", body=self.fragment())


def generate(
    model: HookedModel,
    texts: str | Sequence[str],
    neurons: NeuronSet | Neuron | str | None = None,
    *,
    factor: float = 0.0,
    max_new_tokens: int = 60,
    chat: bool = True,
    template: str | None = None,
    token_budget: int = 8192,
) -> Continuations:
    """What the model writes after each text, as it is and with neurons scaled, side by side.

    Args:
        model: a frozen model with named hook points.
        texts: a text, or several; each is put into the model's chat template as a user's turn.
        neurons: what is scaled, on the text and on every generated token; None: the model as it is.
        factor: what activations are multiplied by; 0 suppresses, 2 enhances.
        max_new_tokens: at most so many tokens per reply.
        chat, template: how the model is asked, as in ``render``.
        token_budget: tokens per pass, padding and new tokens counted.

    Raises:
        InvalidInputError: no text, numbers out of range, or a text that does not fit into the
            model's context with its reply.
        UnknownNameError: a neuron that the model does not have, or no chat template of that name.

    Example:
        >>> import culnig_tl as ct
        >>> replies = ct.generate(ct.load_model(), "The usual staple food in Iran is",
        ...                       ct.answer_key("general"), max_new_tokens=2)
        >>> list(replies.frame)
        ['text', 'before', 'after', 'changed']
    """
    check_model(model)
    check_number("factor", factor)
    check_kind("texts", texts, Iterable, "a text or a list of texts")
    asked = [texts] if isinstance(texts, str) else list(texts)
    if not asked or not all(isinstance(text, str) and text for text in asked):
        raise InvalidInputError(
            "generate takes a text or a list of texts, none of them empty, such as "
            f"'Breakfast in Greece is'; this is {texts!r:.80}."
        )
    chosen = _as_set(neurons)
    write = writer(model.tokenizer, chat=chat, template=template)
    read = [write({"prompt": text, "system": "", "reply_prefix": ""}) for text in asked]

    frame = _written(
        model,
        read,
        chosen,
        factor,
        chat=chat,
        max_new_tokens=max_new_tokens,
        token_budget=token_budget,
    )
    return Continuations.of(model, chosen, factor, frame.assign(text=asked))


def replies_to(
    questions: PreparedQuestions,
    neurons: NeuronSet,
    *,
    factor: float = 0.0,
    max_new_tokens: int = 60,
) -> Continuations:
    """What the model writes after each question, as it is asked, before and after scaling.

    Args:
        questions: prepared questions.
        neurons: what is scaled, on the prompt and on every generated token.
        factor: what activations are multiplied by.
        max_new_tokens: at most so many tokens per reply.

    Raises:
        InvalidInputError: a question that does not fit into the model's context with its reply.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> rows = ct.prepare(model, ct.load_benchmark("atlas", split="test", limit=3))
        >>> len(replies_to(rows, ct.answer_key("general"), max_new_tokens=1).frame)
        3
    """
    frame = _written(
        questions.model,
        questions.texts,
        neurons,
        factor,
        chat=questions.chat,
        max_new_tokens=max_new_tokens,
        token_budget=questions.token_budget,
    )
    asked = frame.assign(text=questions.adapted["prompt"][:])
    return Continuations.of(questions.model, neurons, factor, asked)


def _written(
    model: HookedModel, texts: Sequence[str], neurons: NeuronSet, factor: float, **how: Any
) -> pd.DataFrame:
    """The replies to texts as the model reads them, before and after."""
    with scaled_neurons(model, neurons, factor=factor):
        after = greedy_replies(model, texts, **how)
    before = greedy_replies(model, texts, **how) if len(neurons) else after
    return pd.DataFrame({"before": before, "after": after})


def _as_set(neurons: NeuronSet | Neuron | str | None) -> NeuronSet:
    if isinstance(neurons, NeuronSet):
        return neurons
    return NeuronSet.of([] if neurons is None else [neurons])


def _pair(tokenizer: Any, before: str, after: str) -> Pair:
    """Both replies as tokens, with those that the other does not have marked."""
    left, right = _tokens(tokenizer, before), _tokens(tokenizer, after)
    gone, new = [0.0] * len(left), [0.0] * len(right)
    for tag, *ends in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag != "equal":
            gone[ends[0] : ends[1]] = [-1.0] * (ends[1] - ends[0])
            new[ends[2] : ends[3]] = [1.0] * (ends[3] - ends[2])
    return (
        ColouredTokens(left, tuple(gone), unit="changed"),
        ColouredTokens(right, tuple(new), unit="changed"),
    )


def _tokens(tokenizer: Any, reply: str) -> tuple[str, ...]:
    return token_texts(tokenizer, tokenizer(reply, add_special_tokens=False)["input_ids"])


def _share_changed(pair: Pair) -> float:
    values = [value for tokens in pair for value in tokens.values]
    return sum(map(abs, values)) / len(values) if values else 0.0
