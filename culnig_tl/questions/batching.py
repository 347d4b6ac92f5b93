"""Token batches: prompts padded on the left, and a mask that says which positions are real."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooked_model import HookedModel
from culnig_tl.positions import sharing


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
        options: token id of every option of each prompt, -1 after the last one; -1 throughout where
            an option is not one token (None: nobody said).

    Raises:
        InvalidInputError: lengths differ, or a prompt is padded on the right.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    answers: Int[Tensor, "batch"]
    cultures: tuple[str, ...]
    ids: tuple[str, ...]
    rows: tuple[int, ...] = ()
    options: Int[Tensor, "batch option"] | None = None

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
            options=None if self.options is None else self.options[index],
        )


def padded(
    prompts: Sequence[Sequence[int]], padding_token: int
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Token ids of prompts of unequal length, padded on the left, and which positions are real.

    Example:
        >>> padded([[5, 6], [7]], 0)[0].tolist()
        [[5, 6], [0, 7]]
    """
    length = max(map(len, prompts))
    tokens = torch.full((len(prompts), length), padding_token)
    mask = torch.zeros((len(prompts), length), dtype=torch.bool)
    for line, prompt in enumerate(prompts):
        tokens[line, length - len(prompt) :] = torch.tensor(prompt)
        mask[line, length - len(prompt) :] = True
    return tokens, mask


def padding_token(model: HookedModel) -> int:
    """Token that stands on masked positions: the tokenizer's, or 0 where the model has no such.

    Example:
        >>> import culnig_tl as ct
        >>> padding_token(ct.load_model()) < ct.load_model().cfg.d_vocab
        True
    """
    token = model.tokenizer.pad_token_id
    return token if token is not None and 0 <= token < model.cfg.d_vocab else 0


def groups_within(
    lengths: Sequence[int], token_budget: int, *, model: HookedModel | None = None
) -> list[list[int]]:
    """Numbers of prompts that go into one pass, longest first, padding counted.

    Args:
        lengths: of each prompt, in tokens.
        token_budget: tokens per pass.
        model: what reads them; prompts that it would read otherwise beside longer ones do not
            share a pass with these.

    Example:
        >>> groups_within([3, 9, 4, 5], 10)
        [[1], [3, 2], [0]]
    """
    groups: list[list[int]] = []
    may_share = sharing(model)
    for prompt in sorted(range(len(lengths)), key=lambda prompt: -lengths[prompt]):
        longest = lengths[groups[-1][0]] if groups else token_budget
        is_full = not groups or (len(groups[-1]) + 1) * longest > token_budget
        if is_full or not may_share(longest, lengths[prompt]):
            groups.append([])
        groups[-1].append(prompt)
    return groups
