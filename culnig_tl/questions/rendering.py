"""What the model reads of a row, and the tokens of its labels.

A tokenizer with a chat template writes the turns itself: thinking off, generation prompt added, and
no special token besides those of the template. A system turn that the template refuses or leaves
out is put at the head of the user's turn. Without a chat template the text is plain.

A label is read at the position after the text, as one token. What that token is depends on what it
follows: ``A`` after a chat template's generation prompt, after an opening quote or after a space,
but ``" A"`` after a word or ``Answer:``. ``adapted_rows`` brings rows whose labels are letters or
numbers into the form that fits a model, so that they can be written once for both kinds. Other
labels are literal. Where a number of a scale is not one token (10, in the many vocabularies whose
digits stand alone), the options of that row become letters, and a sentence before the prompt says
which letter stands for which number.

The text is tokenised up to its end, so a tokenizer that would merge its last character with the
label (``"`` and ``A`` into one token) cannot: the label is its own token, as in the published code.
"""

import re
from collections.abc import Iterable, Mapping
from string import ascii_uppercase
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooked_model import HookedModel
from culnig_tl.questions.schema import FEATURES, questions

_SHOWN_LABELS = 10
_LETTER_OR_NUMBER = re.compile("[A-Z]|[0-9]+")
_ENDS_A_WORD = ":.?!,;)"
# Some templates write today's date; every run shall read the same text.
_DATE = "26 Jul 2024"


def render(row: Mapping[str, Any], model: HookedModel) -> str:
    """The text that the model reads for ``row``: chat template, system turn and reply prefix
    included.

    Example:
        >>> import culnig_tl as ct
        >>> row = {"id": "q", "prompt": "Tea or rice? Answer:", "options": [" tea", " rice"],
        ...        "answer": " tea"}
        >>> render(row, ct.load_model())
        'Tea or rice? Answer:'
    """
    return text_of(adapted_rows(questions([row]), model)[0], model.tokenizer)


def adapted_rows(rows: Dataset, model: HookedModel) -> Dataset:
    """The rows as ``model`` is asked: letters and numbers after a word get their space.

    They become ``" A"`` where that is one token; else the text ends in a space. After a generation
    prompt, a quote or a space they stay, and so do all labels of other kinds. Numbers that are not
    all one token become letters first, in the same order.

    Args:
        rows: validated rows, as ``questions`` returns them.
        model: the model that is asked.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.questions([{"id": "q", "prompt": "Tea? Answer:", "options": ["A", "B"],
        ...                       "answer": "A"}])
        >>> adapted_rows(rows, ct.load_model())["reply_prefix"][0]  # atlas has no token " A"
        ' '
    """
    records = rows.to_list()
    fitted = [_fitted(row, model.tokenizer) for row in records]
    return rows if fitted == records else Dataset.from_list(fitted, features=FEATURES)


def label_tokens(tokenizer: Any, labels: Iterable[str]) -> dict[str, int]:
    """Token id of each label.

    Raises:
        InvalidInputError: labels that are not exactly one token, all of them listed.
    """
    ids = {label: _label_ids(tokenizer, label) for label in dict.fromkeys(labels)}
    pieces = {label: len(found) for label, found in ids.items() if len(found) != 1}
    if pieces:
        listed = ", ".join(
            f"{label!r} ({n} tokens)" for label, n in list(pieces.items())[:_SHOWN_LABELS]
        )
        raise InvalidInputError(
            f"{len(pieces)} labels are not exactly one token of this model: {listed}; "
            "use labels such as letters, with the leading space that the prompt leaves out."
        )
    return {label: found[0] for label, found in ids.items()}


def token_of_label(tokenizer: Any, label: str) -> int:
    """Token id of a label; -1 for one that is not exactly one token and has none of its own."""
    ids = _label_ids(tokenizer, label)
    return ids[0] if len(ids) == 1 else -1


def text_of(row: Mapping[str, Any], tokenizer: Any) -> str:
    """The text of a row that `adapted_rows` returned."""
    written = _chat_text(row, tokenizer) if _has_chat(tokenizer) else _folded(row)
    return written + row["reply_prefix"]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text``; a chat template brings its own special tokens, so none are added."""
    return tokenizer(text, add_special_tokens=not _has_chat(tokenizer))["input_ids"]


def _fitted(row: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    if all(option.isdecimal() for option in row["options"]) and not all(
        len(_label_ids(tokenizer, option)) == 1 for option in row["options"]
    ):
        row = _by_letters(row)
    read = row["reply_prefix"] if _has_chat(tokenizer) else row["prompt"] + row["reply_prefix"]
    after_a_word = read[-1:].isalnum() or read[-1:] in tuple(_ENDS_A_WORD)
    conventional = all(_LETTER_OR_NUMBER.fullmatch(option) for option in row["options"])
    if not after_a_word or not conventional or len(row["options"]) < 2:
        return row
    spaced = [f" {option}" for option in row["options"]]
    if all(len(_label_ids(tokenizer, label)) == 1 for label in spaced):
        return row | {"options": spaced, "answer": f" {row['answer']}"}
    return row | {"reply_prefix": row["reply_prefix"] + " "}


def _by_letters(row: dict[str, Any]) -> dict[str, Any]:
    letters = list(ascii_uppercase[: len(row["options"])])
    if len(letters) < len(row["options"]):
        return row
    listed = ", ".join(f"{a} for {n}" for a, n in zip(letters, row["options"], strict=True))
    return row | {
        "prompt": f"In your reply, write a letter for each number: {listed}.\n{row['prompt']}",
        "options": letters,
        "answer": letters[row["options"].index(row["answer"])],
    }


def _chat_text(row: Mapping[str, Any], tokenizer: Any) -> str:
    user = {"role": "user", "content": row["prompt"]}
    if not row["system"]:
        return _written([user], tokenizer)
    try:
        text = _written([{"role": "system", "content": row["system"]}, user], tokenizer)
    except TemplateError:  # a template's way to say that it has no system turn
        text = ""
    if row["system"].strip() in text:
        return text
    return _written([{"role": "user", "content": _folded(row)}], tokenizer)


def _folded(row: Mapping[str, Any]) -> str:
    return f"{row['system']}\n\n{row['prompt']}" if row["system"] else row["prompt"]


def _written(turns: list[dict[str, str]], tokenizer: Any) -> str:
    return tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string=_DATE,
    )


def _has_chat(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def _label_ids(tokenizer: Any, label: str) -> list[int]:
    """Token ids of a label on its own.

    A vocabulary's own entry counts first: a tokenizer that puts a space before every text would
    give another token.
    """
    entry = tokenizer.convert_tokens_to_ids(label)
    if entry is not None and tokenizer.decode([entry]) == label:
        return [entry]
    return tokenizer.encode(label, add_special_tokens=False)
