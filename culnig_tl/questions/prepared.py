"""Questions made ready for a model, once: validated, rendered, tokenised, put into batches.

Everything that runs a model over questions takes rows or a ``PreparedQuestions``; rows become one.
It owns the token budget, and so the halving of it where memory runs out: every forward and backward
pass over questions goes through ``passes``.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from jaxtyping import Bool, Int
from torch import Tensor

from culnig_tl.errors import InvalidInputError, check_choice, check_number
from culnig_tl.hooked_model import HookedModel, check_default_device
from culnig_tl.questions.batching import Batch, groups_within, padded, padding_token
from culnig_tl.questions.chat import template_source
from culnig_tl.questions.dates import prompt_date
from culnig_tl.questions.memory import TokenBudget
from culnig_tl.questions.rendering import adapted_rows, reads_in_chat, writer
from culnig_tl.questions.schema import cloze_rows, fingerprint, questions
from culnig_tl.questions.tokens import LabelReader, encode, refuse_labels
from culnig_tl.sites import measure_sites

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PreparedQuestions:
    """Questions ready for one model; made by ``prepare``.

    Attributes:
        model: the model that they are ready for.
        rows: the validated rows, as they were given.
        adapted: the same rows as the model is asked (see ``adapted_rows``).
        prompts: token ids of each prompt.
        answers: token id of each right label.
        budget: tokens per pass, padding counted; it shrinks where memory runs out.
        texts: what the model reads of each row.
        chat: False where the texts are plain although the model has a chat template.
        template: name of the chat template, where one was named.
    """

    model: HookedModel
    rows: Dataset
    adapted: Dataset
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[int, ...]
    budget: TokenBudget
    texts: tuple[str, ...]
    chat: bool = True
    template: str | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        n_questions = len(set(self.rows["id"]))
        return (
            f"{len(self)} prompts of {n_questions} questions for {self.model.cfg.model_name}, "
            f"{sum(map(len, self.prompts)):,} tokens"
            + (f", dated {self.date}" if self.date else "")
        )

    @property
    def token_budget(self) -> int:
        """Tokens per pass, padding counted."""
        return self.budget.tokens

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change when any row changes, or how rows are rendered."""
        of_rows = fingerprint(self.rows)
        if self.chat and self.template is None:
            return of_rows
        text = f"{of_rows}|{self.chat}|{self.template}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def date(self) -> str:
        """The date that the chat template writes in place of today's; ``""`` for none."""
        tokenizer = self.model.tokenizer
        return prompt_date(template_source(tokenizer, chat=self.chat, template=self.template))

    @cached_property
    def cultures(self) -> tuple[str, ...]:
        """The cultures in order of first appearance."""
        return tuple(dict.fromkeys(self.rows["culture"]))

    @cached_property
    def batches(self) -> list[Batch]:
        """Left-padded batches within the token budget, longest prompts first."""
        lengths = [len(prompt) for prompt in self.prompts]
        groups = groups_within(lengths, self.budget.initial, model=self.model)
        return [self._batch(group) for group in groups]

    @cached_property
    def option_tokens(self) -> Int[Tensor, "row option"]:
        """Token of every option; -1 for one that is not one token, and where a row has fewer."""
        options = self.adapted["options"][:]
        table = torch.full((len(options), max(map(len, options))), -1)
        for row, labels in enumerate(options):
            read = partial(
                self._reader.token_after,
                self.texts[row],
                ids=self.prompts[row],
                is_cloze=self._is_cloze[row],
            )
            table[row, : len(labels)] = torch.tensor([read(label) for label in labels])
        return table

    def check_options(self) -> None:
        """Refuse options that are not one token.

        Raises:
            InvalidInputError: there is one; all of them are listed.

        Example:
            >>> import culnig_tl as ct
            >>> rows = ct.load_benchmark("atlas", split="test", limit=3)
            >>> ct.prepare(ct.load_model(), rows).check_options()
        """
        self._reader.tokens_after(
            (name, text, ids, label, is_cloze)
            for name, text, ids, labels, is_cloze in zip(
                self.rows["id"],
                self.texts,
                self.prompts,
                self.adapted["options"],
                self._is_cloze,
                strict=True,
            )
            for label in labels
        )

    @cached_property
    def _options(self) -> list[list[str]]:
        """The options of every row: a data set takes a millisecond to give those of one."""
        return self.adapted["options"][:]

    def answer_text(self, row: int, token: int) -> str:
        """A token as the answer to a row: the option that it is the token of, or else its text.

        Example:
            >>> import culnig_tl as ct
            >>> rows = ct.load_benchmark("atlas", split="test", limit=1)
            >>> prepared = ct.prepare(ct.load_model(), rows)
            >>> prepared.answer_text(0, prepared.answers[0]) == prepared.rows["answer"][0]
            True
        """
        for label, option in zip(
            self._options[row], self.option_tokens[row].tolist(), strict=False
        ):
            if option == token:
                return label
        return self.model.tokenizer.decode([token])

    def select(self, rows: Sequence[int]) -> "PreparedQuestions":
        """Some of the questions, by number; nothing is encoded again."""
        return replace(
            self,
            rows=self.rows.select(rows),
            adapted=self.adapted.select(rows),
            prompts=tuple(self.prompts[row] for row in rows),
            answers=tuple(self.answers[row] for row in rows),
            texts=tuple(self.texts[row] for row in rows),
        )

    def passes(self, run: Callable[[Batch], T], *, n_copies: int = 1) -> Iterator[tuple[Batch, T]]:
        """Each batch with what ``run`` makes of it, in pieces where memory does not hold it.

        Raises:
            InvalidInputError: a single prompt does not fit into memory.

        Example:
            >>> import culnig_tl as ct
            >>> model = ct.load_model()
            >>> rows = ct.load_benchmark("atlas", split="test", limit=3)
            >>> [len(batch) for batch, _ in ct.prepare(model, rows).passes(len)]
            [3]
        """
        return self.budget.passes(self.batches, run, n_copies=n_copies)

    @property
    def shares_tokens(self) -> Bool[np.ndarray, "row"]:
        """Which rows are clozes whose options cannot be told apart by their first tokens."""
        if not any(self._is_cloze):
            return np.zeros(len(self), dtype=bool)
        tokens = np.sort(self.option_tokens.numpy(), axis=1)
        repeats = ((tokens[:, 1:] == tokens[:, :-1]) & (tokens[:, 1:] >= 0)).any(axis=1)
        return repeats & np.array(self._is_cloze)

    def check_told_apart(self) -> None:
        """Refuse clozes whose options begin with the same token.

        Raises:
            InvalidInputError: there is one; they are counted.
        """
        if self.shares_tokens.any():
            raise InvalidInputError(
                f"{self.describe_shared()}; give options that begin differently, leave such rows "
                "out with shared_tokens='drop', or compare whole options with mode='likelihood'."
            )

    def describe_shared(self) -> str:
        """How many clozes have options that begin with the same token, for a sentence."""
        shared = self.shares_tokens
        first = self.rows[int(shared.argmax())]
        return (
            f"{shared.sum()} of {len(self)} clozes have options that begin with the same token of "
            f"this model (question {first['id']!r}: {', '.join(map(repr, first['options']))})"
        )

    @cached_property
    def option_ids(self) -> list[list[list[int]]]:
        """Token ids of every option of every row, as they follow its prompt.

        Raises:
            InvalidInputError: an option that changes the tokens of its prompt.
        """
        names, options = self.rows["id"][:], self._options
        pieces = [
            [self._reader.ids_after(text, label, ids) for label in labels]
            for text, ids, labels in zip(self.texts, self.prompts, options, strict=True)
        ]
        lost = {
            label: name
            for name, labels, of_row in zip(names, options, pieces, strict=True)
            for label, tokens in zip(labels, of_row, strict=True)
            if not tokens
        }
        refuse_labels(dict.fromkeys(lost, 0), lost)
        return pieces

    @cached_property
    def _is_cloze(self) -> tuple[bool, ...]:
        return cloze_rows(self.rows)

    @cached_property
    def _reader(self) -> LabelReader:
        return LabelReader(self.model.tokenizer, chat=self.chat)

    def _batch(self, group: Sequence[int]) -> Batch:
        tokens, mask = padded([self.prompts[row] for row in group], padding_token(self.model))
        device = self.model.cfg.device
        rows = self.rows.select(group)
        return Batch(
            tokens=tokens.to(device),
            mask=mask.to(device),
            answers=torch.tensor([self.answers[row] for row in group]).to(device),
            cultures=tuple(rows["culture"]),
            ids=tuple(rows["id"]),
            rows=tuple(group),
            options=self._whole_options[group].to(device),
        )

    @cached_property
    def _whole_options(self) -> Int[Tensor, "row option"]:
        """``option_tokens``, -1 throughout where an option is not one token."""
        n_options = torch.tensor([len(texts) for texts in self.adapted["options"][:]])
        is_whole = (self.option_tokens >= 0).sum(1) == n_options
        return self.option_tokens.where(is_whole[:, None], -1)


Rows = Dataset | PreparedQuestions | pd.DataFrame | Iterable[Mapping[str, Any]]
"""What is meant by rows: questions in the schema of ``questions``, or prepared ones."""


def prepare(
    model: HookedModel,
    rows: Rows,
    *,
    chat: bool = True,
    template: str | None = None,
    token_budget: int = 8192,
    shared_tokens: Literal["drop", "refuse", "keep"] = "drop",
) -> PreparedQuestions:
    """Validate, render and tokenise questions for a model, once for all that is done with them.

    Args:
        model: a model with named hook points.
        rows: questions; prepared ones are returned as they are, with their own budget.
        chat: False for plain text on a model that has a chat template; clozes are plain anyway.
        template: name of the chat template, where the tokenizer has several.
        token_budget: tokens per pass, padding counted; larger is faster and needs more memory.
        shared_tokens: what becomes of clozes with options that begin with the same token, which
            depends on the tokenizer: left out, with a warning that counts them; refused; or kept,
            for ``evaluate(mode="likelihood")``, which reads whole options.

    Warns:
        UserWarning: clozes were left out.

    Raises:
        InvalidInputError: rows that cannot be used, a chat template that drops a question or opens
            no reply, a label that is not one token after its prompt, a prompt longer than the
            model's context or than the budget, a token beyond the model's vocabulary, questions
            prepared for another model or with another template, or another default device of
            torch than the CPU.
        UnknownNameError: there is no chat template of that name.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> ct.prepare(model, ct.load_benchmark("atlas", split="test", limit=3))
        3 prompts of 3 questions for atlas, 94 tokens
    """
    check_choice("shared_tokens", shared_tokens, ("drop", "refuse", "keep"))
    check_number("token_budget", token_budget, low=1, whole=True)
    check_default_device()
    if isinstance(rows, PreparedQuestions):
        return _checked(rows, model, chat, template)
    measure_sites(model)
    valid = questions(rows)
    chat = reads_in_chat(valid, chat=chat)
    write = writer(model.tokenizer, chat=chat, template=template)
    adapted = adapted_rows(valid, model, chat=chat)
    texts = tuple(write(row) for row in adapted.to_list())
    options = {} if chat else {"chat": False}
    prompts = tuple(tuple(encode(model.tokenizer, text, **options)) for text in texts)
    _check_lengths(prompts, valid, model.cfg.n_ctx, token_budget)
    _check_vocabulary(prompts, valid, model)
    reader = LabelReader(model.tokenizer, chat=chat)
    labels = zip(valid["id"], texts, prompts, adapted["answer"], cloze_rows(valid), strict=True)
    answers = tuple(reader.tokens_after(labels))
    budget = TokenBudget(token_budget)
    prepared = PreparedQuestions(
        model, valid, adapted, prompts, answers, budget, texts, chat=chat, template=template
    )
    return prepared if shared_tokens == "keep" else _told_apart(prepared, shared_tokens)


def batches(model: HookedModel, rows: Rows, *, token_budget: int = 8192) -> list[Batch]:
    """Left-padded batches of at most ``token_budget`` tokens, padding counted, longest prompts
    first.

    Raises:
        InvalidInputError: as ``prepare``.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=3)
        >>> [len(batch) for batch in batches(ct.load_model(), rows)]
        [3]
    """
    return prepare(model, rows, token_budget=token_budget).batches


def _checked(
    prepared: PreparedQuestions, model: HookedModel, chat: bool, template: str | None
) -> PreparedQuestions:
    """Prepared questions, if they are for this model and rendered in this way."""
    if prepared.model is not model:
        raise InvalidInputError(
            f"These questions were prepared for another model "
            f"({prepared.model.cfg.model_name}); prepare the rows for this one "
            f"({model.cfg.model_name}), since tokens and prompts may differ."
        )
    given = {"chat": chat, "template": template}
    if given not in (
        {"chat": True, "template": None},
        {name: getattr(prepared, name) for name in given},
    ):
        raise InvalidInputError(
            f"These questions were prepared with chat={prepared.chat} and "
            f"template={prepared.template!r}, not with chat={chat} and template={template!r}; "
            "prepare the rows anew."
        )
    return prepared


def _told_apart(
    prepared: PreparedQuestions, shared_tokens: Literal["drop", "refuse"]
) -> PreparedQuestions:
    """The questions whose options can be told apart."""
    shared = prepared.shares_tokens
    if shared_tokens == "refuse" or shared.all():
        prepared.check_told_apart()
    if not shared.any():
        return prepared
    warnings.warn(f"{prepared.describe_shared()}; these are left out.", UserWarning, stacklevel=3)
    return prepared.select(np.flatnonzero(~shared).tolist())


def _check_lengths(
    prompts: Sequence[Sequence[int]], rows: Dataset, context: int, token_budget: int
) -> None:
    longest = max(range(len(prompts)), key=lambda row: len(prompts[row]))
    length = len(prompts[longest])
    for limit, name in ((context, "the model's context"), (token_budget, "token_budget")):
        if length > limit:
            raise InvalidInputError(
                f"The prompt of question {rows[longest]['id']!r} has {length} tokens and {name} is "
                f"{limit}; shorten the prompt or take a larger {name.removeprefix('the ')}."
            )


def _check_vocabulary(prompts: Sequence[Sequence[int]], rows: Dataset, model: HookedModel) -> None:
    highest = max(range(len(prompts)), key=lambda row: max(prompts[row], default=0))
    token = max(prompts[highest], default=0)
    if token >= model.cfg.d_vocab:
        raise InvalidInputError(
            f"The prompt of question {rows[highest]['id']!r} holds the token "
            f"{model.tokenizer.decode([token])!r} with number {token}, and the model has "
            f"{model.cfg.d_vocab} tokens, numbered from 0; load it with the tokenizer that it was "
            "trained with, or leave that text out."
        )
