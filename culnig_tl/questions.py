"""From rows to token batches.

A *row* is one multiple-choice prompt with its right label:

| column | type | meaning |
|---|---|---|
| id | str | the question; its variants and cultures share it, ``N(D)`` counts these ids |
| prompt | str | the text that the model reads (the user's turn, where it has a chat template) |
| reply_prefix | str | start of the reply, appended after the prompt; usually empty |
| options | list[str] | the labels in the order shown |
| answer | str | the right label: exactly one token, as it follows the prompt |
| culture, topic, template, benchmark | str | what results are grouped by; ``""`` for none |

Labels are literal: after ``"... Answer:"`` the label of most tokenizers is ``" tea"``, with its
space.

Batches are formed by a token budget from length-sorted prompts, longest first, and padded on the
left; the mask says which positions are real.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from datasets import Dataset, Features, List, Value
from jaxtyping import Bool, Int
from torch import Tensor

from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.hooks import HookedModel

_TEXT_COLUMNS = (
    "id",
    "prompt",
    "reply_prefix",
    "answer",
    "culture",
    "topic",
    "template",
    "benchmark",
)
_REQUIRED = ("id", "prompt", "options", "answer")
Split = Literal["identify", "test", "all"]
"""Part of a benchmark: to find neurons, to measure them, or both."""

FEATURES = Features(
    {name: Value("string") for name in _TEXT_COLUMNS} | {"options": List(Value("string"))}
)
_SHOWN_FAULTS = 10


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


def questions(rows: Dataset | pd.DataFrame | Iterable[Mapping[str, Any]]) -> Dataset:
    """Validated rows in the schema of this module; missing optional columns become empty.

    Raises:
        InvalidInputError: no rows, a missing column, or rows that cannot be used (listed by
        number).

    Example:
        >>> len(questions([{"id": "q1", "prompt": "Tea or rice? Answer:",
        ...                 "options": [" tea", " rice"], "answer": " rice", "culture": "China"}]))
        1
    """
    records: list[Any]
    if isinstance(rows, Dataset):
        records = rows.to_list()
    elif isinstance(rows, pd.DataFrame):
        records = rows.astype(object).where(rows.notna(), None).to_dict("records")
    else:
        records = [dict(row) for row in rows]
    _check_records(records)
    if isinstance(rows, Dataset) and rows.features == FEATURES:
        return rows
    filled = [
        {name: row.get(name) or "" for name in _TEXT_COLUMNS} | {"options": list(row["options"])}
        for row in records
    ]
    return Dataset.from_list(filled, features=FEATURES)


def questions_from_frame(source: pd.DataFrame | str | Path) -> Dataset:
    """Rows from a DataFrame or a ``.csv``, ``.json``, ``.jsonl`` or ``.parquet`` file.

    In a CSV the column ``options`` holds a JSON list, e.g. ``["A", "B"]``.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: another kind of file, or rows that cannot be used.

    Example:
        >>> frame = pd.DataFrame({"id": ["q1"], "prompt": ["A or B? Answer:"],
        ...                       "options": [[" A", " B"]], "answer": [" A"]})
        >>> questions_from_frame(frame)["answer"][0]
        ' A'
    """
    return questions(source if isinstance(source, pd.DataFrame) else _read_frame(Path(source)))


def batches(model: HookedModel, rows: Dataset, *, token_budget: int = 8192) -> list[Batch]:
    """Left-padded batches of at most ``token_budget`` tokens, padding counted, longest prompts
    first.

    Raises:
        InvalidInputError: no rows, a label that is not one token, a prompt longer than the model's
            context or than the budget.
    """
    rows = questions(rows)
    prompts = [_encode(model.tokenizer, render(row, model)) for row in rows.to_list()]
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


def render(row: Mapping[str, Any], model: HookedModel) -> str:
    """The text that the model reads for ``row``, chat template and reply prefix included."""
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        return row["prompt"] + row["reply_prefix"]
    turn = [{"role": "user", "content": row["prompt"]}]
    text = tokenizer.apply_chat_template(
        turn, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return text + row["reply_prefix"]


def fingerprint(rows: Dataset) -> str:
    """Twelve hexadecimal digits that change when any row changes."""
    text = json.dumps(rows.to_list(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read_frame(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}; give a csv, json, jsonl or parquet file.")
    readers = {
        ".csv": _read_csv,
        ".json": lambda path: pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))),
        ".jsonl": _read_json_lines,
        ".parquet": pd.read_parquet,
    }
    if path.suffix not in readers:
        raise InvalidInputError(
            f"{path.name} ends in {path.suffix!r}; "
            "rows are read from .csv, .json, .jsonl or .parquet."
        )
    try:
        return readers[path.suffix](path)
    except ValueError as error:
        raise InvalidInputError(
            f"{path} cannot be read as {path.suffix} ({error}); write the file anew."
        ) from error


def _read_csv(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    if "options" in frame:
        frame["options"] = [_parsed_options(text) for text in frame["options"]]
    return frame


def _read_json_lines(path: Path) -> pd.DataFrame:
    lines = path.read_text(encoding="utf-8").split("\n")
    return pd.DataFrame([json.loads(line) for line in lines if line.strip()])


def _parsed_options(text: str) -> Any:
    """The list in a CSV cell; what is no JSON stays as it is, for the check to name its row."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_records(records: Sequence[Mapping[str, Any]]) -> None:
    if not records:
        raise InvalidInputError("There are no rows; give at least one question.")
    faults = [
        f"row {number}: {fault}" for number, row in enumerate(records) if (fault := _fault(row))
    ]
    if faults:
        more = f"; and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        raise InvalidInputError(
            f"{len(faults)} of {len(records)} rows cannot be used: "
            + "; ".join(faults[:_SHOWN_FAULTS])
            + f"{more}. A row needs {', '.join(_REQUIRED)}, and its answer among its options."
        )


def _fault(row: Mapping[str, Any]) -> str | None:
    """What is wrong with one row, or None."""
    if missing := [name for name in _REQUIRED if name not in row]:
        return f"no {', '.join(missing)}"
    wrong = [name for name in _TEXT_COLUMNS if not isinstance(row.get(name, "") or "", str)]
    if wrong:
        return f"{', '.join(wrong)} must be text"
    if isinstance(row["options"], str | Mapping) or not isinstance(row["options"], Iterable):
        return "options must be a list of texts"
    options = list(row["options"])
    if not all(isinstance(option, str) for option in options):
        return "options must be a list of texts"
    if not row["id"] or not row["prompt"]:
        return "id and prompt must not be empty"
    if len(set(options)) < len(options):
        return "options repeat"
    if row["answer"] not in options:
        return f"answer {row['answer']!r} is not among the options {options}"
    return None


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text``; a chat template brings its own special tokens, so none are added."""
    return tokenizer(text, add_special_tokens=not getattr(tokenizer, "chat_template", None))[
        "input_ids"
    ]


def label_tokens(tokenizer: Any, labels: Iterable[str]) -> dict[str, int]:
    """Token id of each label.

    Raises:
        InvalidInputError: labels that are not exactly one token, all of them listed.
    """
    vocabulary = tokenizer.get_vocab()
    found, pieces = {}, {}
    for label in dict.fromkeys(labels):
        ids = tokenizer.encode(label, add_special_tokens=False)
        if label in vocabulary and tokenizer.decode([vocabulary[label]]) == label:
            ids = [vocabulary[label]]
        if len(ids) == 1:
            found[label] = ids[0]
        else:
            pieces[label] = len(ids)
    if pieces:
        listed = ", ".join(
            f"{label!r} ({n} tokens)" for label, n in list(pieces.items())[:_SHOWN_FAULTS]
        )
        raise InvalidInputError(
            f"{len(pieces)} labels are not exactly one token of this model: {listed}; "
            "use labels such as letters, with the leading space that the prompt leaves out."
        )
    return found


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
