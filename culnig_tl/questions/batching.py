"""From rows to token batches.

Batches are formed by a token budget from length-sorted prompts, longest first, and padded on the
left; the mask says which positions are real.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from jaxtyping import Bool, Int
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooks import HookedModel
from culnig_tl.questions.rendering import encode, for_model, label_tokens, text_of


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts with their right labels.

    Attributes:
        tokens: token ids.
        mask: True at real tokens; the last position of every prompt is real.
        answers: token id of the right label of each prompt.
        cultures: culture of each prompt.
        ids: question id of each prompt.
        rows: index of each prompt in the rows it was made from (empty for ready-made batches).

    Raises:
        InvalidInputError: lengths differ, or a prompt is padded on the right.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    answers: Int[Tensor, "batch"]
    cultures: tuple[str, ...]
    ids: tuple[str, ...]
    rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n_prompts = len(self.tokens)
        lengths = {len(self.mask), len(self.answers), len(self.cultures), len(self.ids)}
        if lengths != {n_prompts} or self.mask.shape != self.tokens.shape:
            raise InvalidInputError(
                f"A batch of {n_prompts} prompts needs as many answers, cultures and ids and a "
                f"mask of shape {tuple(self.tokens.shape)}; got {len(self.answers)} answers, "
                f"{len(self.cultures)} cultures, {len(self.ids)} ids and a mask of shape "
                f"{tuple(self.mask.shape)}."
            )
        if not bool((self.mask[:, 1:] >= self.mask[:, :-1]).all() and self.mask[:, -1].all()):
            raise InvalidInputError(
                "A mask must be False on the padding at the left and True up to the last position; "
                "pad on the left, since the answer is read at the last position."
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, lines: Sequence[int]) -> "Batch":
        """The prompts at ``lines``, in that order, with the same padding; a line may repeat."""
        index = torch.tensor(lines, dtype=torch.long, device=self.tokens.device)
        return Batch(
            tokens=self.tokens[index],
            mask=self.mask[index],
            answers=self.answers[index],
            cultures=tuple(self.cultures[line] for line in lines),
            ids=tuple(self.ids[line] for line in lines),
            rows=tuple(self.rows[line] for line in lines) if self.rows else (),
        )


def batches(model: HookedModel, rows: Dataset, *, token_budget: int = 8192) -> list[Batch]:
    """Left-padded batches of at most ``token_budget`` tokens, padding counted, longest prompts
    first.

    Raises:
        InvalidInputError: no rows, a label that is not one token, a prompt longer than the model's
            context or than the budget.
    """
    rows = for_model(rows, model)
    prompts = [encode(model.tokenizer, text_of(row, model.tokenizer)) for row in rows.to_list()]
    tokens_of = label_tokens(model.tokenizer, rows["answer"])
    answers = [tokens_of[label] for label in rows["answer"]]
    _check_lengths(prompts, rows, model.cfg.n_ctx, token_budget)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    groups: list[list[int]] = []
    for index in order:
        if not groups or (len(groups[-1]) + 1) * len(prompts[groups[-1][0]]) > token_budget:
            groups.append([])
        groups[-1].append(index)
    return [_padded(model, rows, prompts, answers, group) for group in groups]


def _check_lengths(
    prompts: Sequence[Sequence[int]], rows: Dataset, context: int, token_budget: int
) -> None:
    longest = max(range(len(prompts)), key=lambda index: len(prompts[index]))
    length = len(prompts[longest])
    for limit, name in ((context, "the model's context"), (token_budget, "token_budget")):
        if length > limit:
            raise InvalidInputError(
                f"The prompt of question {rows[longest]['id']!r} has {length} tokens and {name} is "
                f"{limit}; shorten the prompt or take a larger {name.removeprefix('the ')}."
            )


def _padded(
    model: HookedModel,
    rows: Dataset,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[int],
    group: Sequence[int],
) -> Batch:
    length = len(prompts[group[0]])
    pad = model.tokenizer.pad_token_id or 0
    tokens = torch.full((len(group), length), pad)
    mask = torch.zeros((len(group), length), dtype=torch.bool)
    for line, index in enumerate(group):
        tokens[line, length - len(prompts[index]) :] = torch.tensor(prompts[index])
        mask[line, length - len(prompts[index]) :] = True
    chosen = rows.select(group)
    device = model.cfg.device
    return Batch(
        tokens=tokens.to(device),
        mask=mask.to(device),
        answers=torch.tensor([answers[index] for index in group]).to(device),
        cultures=tuple(chosen["culture"]),
        ids=tuple(chosen["id"]),
        rows=tuple(group),
    )
