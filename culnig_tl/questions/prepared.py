"""Questions made ready for a model, once: validated, rendered, tokenised, put into batches.

Everything that runs a model over questions takes rows or a ``PreparedQuestions``; rows become one.
It owns the token budget, and so the halving of it where memory runs out: every forward and backward
pass over questions goes through ``passes``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import pandas as pd
import torch
from datasets import Dataset
from jaxtyping import Int
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooked_model import HookedModel
from culnig_tl.questions.batching import Batch, padded
from culnig_tl.questions.memory import TokenBudget
from culnig_tl.questions.rendering import (
    adapted_rows,
    encode,
    label_tokens,
    text_of,
    token_of_label,
)
from culnig_tl.questions.schema import fingerprint, questions
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
    """

    model: HookedModel
    rows: Dataset
    adapted: Dataset
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[int, ...]
    budget: TokenBudget

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        n_questions = len(set(self.rows["id"]))
        return (
            f"{len(self)} prompts of {n_questions} questions for {self.model.cfg.model_name}, "
            f"{sum(map(len, self.prompts)):,} tokens"
        )

    @property
    def token_budget(self) -> int:
        """Tokens per pass, padding counted."""
        return self.budget.tokens

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change when any row changes."""
        return fingerprint(self.rows)

    @cached_property
    def cultures(self) -> tuple[str, ...]:
        """The cultures in order of first appearance."""
        return tuple(dict.fromkeys(self.rows["culture"]))

    @cached_property
    def batches(self) -> list[Batch]:
        """Left-padded batches within the token budget, longest prompts first."""
        order = sorted(range(len(self)), key=lambda row: -len(self.prompts[row]))
        groups: list[list[int]] = []
        for row in order:
            if not groups or (len(groups[-1]) + 1) * self._length(groups[-1]) > self.budget.initial:
                groups.append([])
            groups[-1].append(row)
        return [self._batch(group) for group in groups]

    @cached_property
    def option_tokens(self) -> Int[Tensor, "row option"]:
        """Token of every option; -1 for one that is not one token, and where a row has fewer."""
        options = self.adapted["options"][:]
        labels = dict.fromkeys(label for texts in options for label in texts)
        tokens = {label: token_of_label(self.model.tokenizer, label) for label in labels}
        table = torch.full((len(options), max(map(len, options))), -1)
        for row, texts in enumerate(options):
            table[row, : len(texts)] = torch.tensor([tokens[label] for label in texts])
        return table

    def select(self, rows: Sequence[int]) -> "PreparedQuestions":
        """Some of the questions, by number; nothing is encoded again."""
        return replace(
            self,
            rows=self.rows.select(rows),
            adapted=self.adapted.select(rows),
            prompts=tuple(self.prompts[row] for row in rows),
            answers=tuple(self.answers[row] for row in rows),
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

    def _length(self, group: Sequence[int]) -> int:
        return len(self.prompts[group[0]])

    def _batch(self, group: Sequence[int]) -> Batch:
        tokens, mask = padded(
            [self.prompts[row] for row in group], self.model.tokenizer.pad_token_id or 0
        )
        device = self.model.cfg.device
        rows = self.rows.select(group)
        return Batch(
            tokens=tokens.to(device),
            mask=mask.to(device),
            answers=torch.tensor([self.answers[row] for row in group]).to(device),
            cultures=tuple(rows["culture"]),
            ids=tuple(rows["id"]),
            rows=tuple(group),
        )


Rows = Dataset | PreparedQuestions | pd.DataFrame | Iterable[Mapping[str, Any]]
"""What is meant by rows: questions in the schema of ``questions``, or prepared ones."""


def prepare(model: HookedModel, rows: Rows, *, token_budget: int = 8192) -> PreparedQuestions:
    """Validate, render and tokenise questions for a model, once for all that is done with them.

    Args:
        model: a model with named hook points.
        rows: questions; prepared ones are returned as they are, with their own budget.
        token_budget: tokens per pass, padding counted; larger is faster and needs more memory.

    Raises:
        InvalidInputError: rows that cannot be used, a label that is not one token, a prompt longer
            than the model's context or than the budget, or questions prepared for another model.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> ct.prepare(model, ct.load_benchmark("atlas", split="test", limit=3))
        3 prompts of 3 questions for atlas, 119 tokens
    """
    if isinstance(rows, PreparedQuestions):
        if rows.model is not model:
            raise InvalidInputError(
                f"These questions were prepared for another model "
                f"({rows.model.cfg.model_name}); prepare the rows for this one "
                f"({model.cfg.model_name}), since tokens and prompts may differ."
            )
        return rows
    measure_sites(model)
    valid = questions(rows)
    adapted = adapted_rows(valid, model)
    prompts = tuple(
        tuple(encode(model.tokenizer, text_of(row, model.tokenizer))) for row in adapted.to_list()
    )
    _check_lengths(prompts, valid, model.cfg.n_ctx, token_budget)
    labels = adapted["answer"][:]
    tokens = label_tokens(model.tokenizer, labels)
    answers = tuple(tokens[label] for label in labels)
    return PreparedQuestions(model, valid, adapted, prompts, answers, TokenBudget(token_budget))


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
