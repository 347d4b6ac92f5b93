"""What is scored: rows or ready-made batches become batches on the model's device, checked, in an
order that does not change, so that a stopped run knows what is left."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooks import HookedModel
from culnig_tl.questions import Batch, batches, fingerprint, questions

_SHOWN = 5


def prepared_from(
    model: HookedModel, rows: Dataset | Sequence[Batch], token_budget: int
) -> tuple[list[Batch], list[str], str]:
    """Batches on the model's device, cultures in order of first appearance, and a fingerprint.

    Raises:
        InvalidInputError: no prompts, or a row without culture among others with.
    """
    if isinstance(rows, Dataset):
        rows = questions(rows)
        _check_cultures(rows["culture"][:], rows["id"][:])
        prepared = batches(model, rows, token_budget=token_budget)
        return prepared, list(dict.fromkeys(rows["culture"])), fingerprint(rows)
    prepared = [_on_device(batch, model.cfg.device) for batch in rows if len(batch)]
    if not prepared:
        raise InvalidInputError("There are no prompts in these batches; give at least one.")
    cultures = [culture for batch in prepared for culture in batch.cultures]
    _check_cultures(cultures, [name for batch in prepared for name in batch.ids])
    return prepared, list(dict.fromkeys(cultures)), _fingerprint(prepared)


def left_after(prepared: Sequence[Batch], n_done: int) -> Iterator[Batch]:
    """What is left of the batches when their first ``n_done`` prompts are done."""
    for batch in prepared:
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


def _fingerprint(prepared: Sequence[Batch]) -> str:
    """Twelve hexadecimal digits that change with any prompt, label, culture or id."""
    digest = hashlib.sha256()
    for batch in prepared:
        digest.update(repr((batch.tokens.shape, batch.cultures, batch.ids)).encode())
        for tensor in (batch.tokens, batch.mask, batch.answers):
            digest.update(tensor.long().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _check_cultures(cultures: Sequence[str], ids: Sequence[str]) -> None:
    without = [name for name, culture in zip(ids, cultures, strict=True) if not culture]
    if without and len(without) < len(cultures):
        named = ", ".join(map(repr, dict.fromkeys(without[:_SHOWN])))
        raise InvalidInputError(
            f"{len(without)} of {len(cultures)} rows have no culture (questions {named}); give "
            "every row its culture, or leave it empty in all of them."
        )
