"""Questions as a language model is trained on them: their tokens, and which of them are the answer.

The prompt is what evaluation reads, token by token; the answer follows as evaluation reads it: a
letter is its one token, the answer of a cloze all of its tokens. The loss counts the answer alone.
Padding is on the right, where no earlier position sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooked_model import HookedModel
from culnig_tl.questions import PreparedQuestions, Rows, prepare

IGNORED = -100
"""The label of a position that the loss leaves out."""


@dataclass(frozen=True)
class Examples:
    """Prompts with their answers; indexing gives the tokens of one and how many are the answer.

    Attributes:
        prompts: token ids of each prompt.
        answers: token ids of each answer.
        fingerprint: of the rows, and of how they were rendered.
    """

    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.prompts[number], self.answers[number]


def examples_of(model: HookedModel, rows: Rows) -> Examples:
    """Rows as evaluation renders them for a model, with the tokens of their answers.

    Args:
        model: the loaded model that the prompts are for.
        rows: questions, clozes, or prepared questions, which keep their chat template.

    Raises:
        InvalidInputError: as ``prepare``, or a prompt that with its answer is longer than the
            model's context.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> examples = examples_of(model, ct.load_benchmark("atlas", split="identify", limit=1))
        >>> model.tokenizer.decode(examples[0][1]) in ct.prepare(model, ct.load_benchmark(
        ...     "atlas", split="identify", limit=1)).rows["options"][0]
        True
    """
    prepared = _prepared(model, rows)
    options, answers = prepared.adapted["options"][:], prepared.adapted["answer"][:]
    tokens = tuple(
        tuple(ids[labels.index(answer)])
        for ids, labels, answer in zip(prepared.option_ids, options, answers, strict=True)
    )
    longest = max(len(a) + len(b) for a, b in zip(prepared.prompts, tokens, strict=True))
    if longest > model.cfg.n_ctx:
        raise InvalidInputError(
            f"The longest prompt with its answer has {longest} tokens and the model's context is "
            f"{model.cfg.n_ctx}; shorten the prompt."
        )
    return Examples(prepared.prompts, tokens, prepared.fingerprint)


def collate(
    examples: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> dict[str, Int[Tensor, "batch pos"]]:
    """A batch in transformers' words: ``input_ids``, ``attention_mask`` and ``labels``.

    Example:
        >>> batch = collate([((5, 6), (7,)), ((8,), (9,))])
        >>> batch["input_ids"].tolist(), batch["labels"].tolist()
        ([[5, 6, 7], [8, 9, 0]], [[-100, -100, 7], [-100, 9, -100]])
    """
    length = max(len(prompt) + len(answer) for prompt, answer in examples)
    tokens = torch.zeros((len(examples), length), dtype=torch.long)
    mask, labels = torch.zeros_like(tokens), torch.full_like(tokens, IGNORED)
    for line, (prompt, answer) in enumerate(examples):
        end = len(prompt) + len(answer)
        tokens[line, :end] = torch.tensor([*prompt, *answer])
        mask[line, :end] = 1
        labels[line, len(prompt) : end] = torch.tensor(answer)
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def _prepared(model: HookedModel, rows: Rows) -> PreparedQuestions:
    """The rows for this model; every cloze is kept, since its whole answer is read."""
    if isinstance(rows, PreparedQuestions):
        given = {"chat": rows.chat, "template": rows.template, "token_budget": rows.token_budget}
        return prepare(model, rows.rows, shared_tokens="keep", **given)
    return prepare(model, rows, shared_tokens="keep")
