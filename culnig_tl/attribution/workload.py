"""What is scored: batches on the model's device, checked, in an order that does not change, so that
a stopped run knows what is left."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooked_model import HookedModel
from culnig_tl.questions import Batch, Rows, TokenBudget, prepare

_NAMED_QUESTIONS = 5


@dataclass(frozen=True)
class Workload:
    """Batches to score.

    Attributes:
        batches: the prompts, on the model's device.
        cultures: in order of first appearance.
        fingerprint: twelve hexadecimal digits that change with any question.
        budget: tokens per pass.
    """

    batches: Sequence[Batch]
    cultures: Sequence[str]
    fingerprint: str
    budget: TokenBudget

    @classmethod
    def of(cls, model: HookedModel, rows: Rows | Sequence[Batch], token_budget: int) -> "Workload":
        """The batches of rows or prepared questions, or ready-made ones, which stay whole.

        Raises:
            InvalidInputError: no prompts, rows that cannot be used, or a row without culture among
                others with.
        """
        if not (isinstance(rows, Sequence) and all(isinstance(each, Batch) for each in rows)):
            prepared = prepare(model, cast(Rows, rows), token_budget=token_budget)
            _check_cultures(prepared.rows["culture"][:], prepared.rows["id"][:])
            return cls(prepared.batches, prepared.cultures, prepared.fingerprint, prepared.budget)
        ready = [
            _on_device(batch, model.cfg.device)
            for batch in cast(Sequence[Batch], rows)
            if len(batch)
        ]
        if not ready:
            raise InvalidInputError("There are no prompts in these batches; give at least one.")
        cultures = [culture for batch in ready for culture in batch.cultures]
        _check_cultures(cultures, [name for batch in ready for name in batch.ids])
        whole = max(batch.tokens.numel() for batch in ready)
        budget = TokenBudget(max(token_budget, whole))
        return cls(ready, tuple(dict.fromkeys(cultures)), _fingerprint(ready), budget)


def left_after(batches: Sequence[Batch], n_done: int) -> Iterator[Batch]:
    """What is left of the batches when their first ``n_done`` prompts are done."""
    for batch in batches:
        if n_done < len(batch):
            yield batch.select(range(n_done, len(batch))) if n_done else batch
        n_done = max(0, n_done - len(batch))


def _on_device(batch: Batch, device: Any) -> Batch:
    return replace(
        batch,
        tokens=batch.tokens.to(device),
        mask=batch.mask.to(device),
        answers=batch.answers.to(device),
    )


def _fingerprint(batches: Sequence[Batch]) -> str:
    """Twelve hexadecimal digits that change with any prompt, label, culture or id."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(repr((batch.tokens.shape, batch.cultures, batch.ids)).encode())
        for tensor in (batch.tokens, batch.mask, batch.answers):
            digest.update(tensor.long().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _check_cultures(cultures: Sequence[str], ids: Sequence[str]) -> None:
    without = [name for name, culture in zip(ids, cultures, strict=True) if not culture]
    if without and len(without) < len(cultures):
        listed = ", ".join(map(repr, dict.fromkeys(without[:_NAMED_QUESTIONS])))
        raise InvalidInputError(
            f"{len(without)} of {len(cultures)} rows have no culture (questions {listed}); give "
            "every row its culture, or leave it empty in all of them."
        )
