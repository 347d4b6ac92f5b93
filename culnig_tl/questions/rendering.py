"""What the model reads of a row, and in which form its labels are read.

A tokenizer with a chat template writes the turns itself: thinking off, generation prompt added, and
no special token besides those of the template. What it writes is checked, completed or refused
(see ``chat`` and ``reply``). A system turn that the template refuses or leaves out is put at the
head of the user's turn. Without a chat template, or with ``chat=False``, the text is plain; so is
that of a cloze, which the model goes on with, unless it begins the reply (``reply_prefix``).

A label is read at the position after the text, as one token (see ``tokens``). What that token is
depends on what it follows: ``A`` after a chat template's generation prompt, after an opening quote
or after a space, but ``" A"`` after a word or ``Answer:``. ``adapted_rows`` brings rows whose
labels are letters or numbers into the form that fits a model, so that they can be written once for
both kinds. The options of a cloze get a space before them after a word. Other labels are literal.
Where a number of a scale is not one token (10, in the many vocabularies whose digits stand alone),
the options of that row become letters, and a sentence before the prompt says which letter stands
for which number.
"""

import re
from collections.abc import Callable, Mapping
from string import ascii_uppercase
from typing import Any

from datasets import Dataset

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooked_model import HookedModel, check_model
from culnig_tl.questions.chat import ChatTemplate, template_source
from culnig_tl.questions.schema import OFFSET, cloze_rows, dataset_of, is_cloze, questions
from culnig_tl.questions.tokens import LabelReader, label_ids

_LETTER_OR_NUMBER = re.compile("[A-Z]|[0-9]+")
_ENDS_A_WORD = ":.?!,;)"


def render(
    row: Mapping[str, Any],
    model: HookedModel,
    *,
    chat: bool = True,
    template: str | None = None,
) -> str:
    """The text that the model reads for ``row``: chat template, system turn and reply prefix
    included.

    Args:
        row: a question.
        model: the model that is asked.
        chat: False for plain text on a model that has a chat template.
        template: name of the chat template, where the tokenizer has several.

    Raises:
        InvalidInputError: a row that cannot be used, or a chat template that drops the question or
            opens no reply.
        UnknownNameError: there is no chat template of that name.

    Example:
        >>> import culnig_tl as ct
        >>> row = {"id": "q", "prompt": "Tea or rice? Answer:", "options": [" tea", " rice"],
        ...        "answer": " tea"}
        >>> render(row, ct.load_model())
        'Tea or rice? Answer:'
    """
    check_model(model)
    chat = reads_in_chat(questions([row]), chat=chat)
    text_of_row = writer(model.tokenizer, chat=chat, template=template)
    return text_of_row(adapted_rows(questions([row]), model, chat=chat)[0])


def writer(
    tokenizer: Any, *, chat: bool = True, template: str | None = None
) -> Callable[[Mapping[str, Any]], str]:
    """A function from rows that ``adapted_rows`` returned to the texts that the model reads.

    Args:
        tokenizer: the model's.
        chat, template: as in ``render``.

    Raises:
        UnknownNameError, InvalidInputError: as ``render``; what is wrong with a single row is
            raised when its text is written.

    Example:
        >>> import culnig_tl as ct
        >>> row = {"prompt": "Tea or rice?", "system": "Be brief.", "reply_prefix": " I say"}
        >>> writer(ct.load_model().tokenizer)(row)
        'Be brief.\\n\\nTea or rice? I say'
    """
    source = template_source(tokenizer, chat=chat, template=template)
    if source is None:
        return _plain_text
    in_template = ChatTemplate(tokenizer, source)
    return lambda row: in_template.text(row) + row["reply_prefix"]


def reads_in_chat(rows: Dataset, *, chat: bool = True) -> bool:
    """Whether rows go into a chat template, where there is one: clozes do not, unless they have a
    ``reply_prefix``.

    Raises:
        InvalidInputError: some rows do, and some do not.

    Example:
        >>> row = {"id": "q", "prompt": "In Iran, a bread is", "options": ["lavash", "injera"],
        ...        "answer": "lavash", "label_kind": "first token"}
        >>> reads_in_chat(questions([row]))
        False
    """
    if not chat:
        return False
    pairs = zip(cloze_rows(rows), rows["reply_prefix"], strict=True)
    plain = [is_cloze and not prefix for is_cloze, prefix in pairs]
    if any(plain) and not all(plain):
        raise InvalidInputError(
            f"{sum(plain)} of {len(plain)} rows are clozes, which are read as plain text, and the "
            "others go into the chat template; prepare the two apart, or all with chat=False."
        )
    return not any(plain)


def adapted_rows(rows: Dataset, model: HookedModel, *, chat: bool = True) -> Dataset:
    """The rows as ``model`` is asked: letters and numbers after a word get their space.

    They become ``" A"`` where that is one token; else the text ends in a space. After a generation
    prompt, a quote or a space they stay, and so do all labels of other kinds. Numbers that are not
    all one token become letters first, in the same order.

    Args:
        rows: validated rows, as ``questions`` returns them.
        model: the model that is asked.
        chat: False for plain text on a model that has a chat template.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.questions([{"id": "q", "prompt": "Tea? Answer:", "options": ["A", "B"],
        ...                       "answer": "A"}])
        >>> adapted_rows(rows, ct.load_model())["reply_prefix"][0]  # atlas has no token " A"
        ' '
    """
    in_chat = chat and bool(getattr(model.tokenizer, "chat_template", None))
    reader = LabelReader(model.tokenizer, chat=in_chat)
    records = [row | {OFFSET: None} for row in rows.to_list()]
    fitted = [_fitted(row, reader) for row in records]
    return rows if fitted == records else dataset_of(fitted)


def _fitted(row: dict[str, Any], reader: LabelReader) -> dict[str, Any]:
    if all(option.isdecimal() for option in row["options"]) and not all(
        len(label_ids(reader.tokenizer, option)) == 1 for option in row["options"]
    ):
        row = _by_letters(row)
    read = row["reply_prefix"] if reader.chat else row["prompt"] + row["reply_prefix"]
    after_a_word = read[-1:].isalnum() or read[-1:] in tuple(_ENDS_A_WORD)
    if is_cloze(row):
        return _spaced(row) if after_a_word else row
    conventional = all(_LETTER_OR_NUMBER.fullmatch(option) for option in row["options"])
    if not after_a_word or not conventional or len(row["options"]) < 2:
        return row
    spaced = _spaced(row)
    if all(reader.token_after(read, label) >= 0 for label in spaced["options"]):
        return spaced
    return row | {"reply_prefix": row["reply_prefix"] + " "}


def _spaced(row: dict[str, Any]) -> dict[str, Any]:
    """The row with a space before every option that has none."""
    spaced = {text: text if text[:1].isspace() else f" {text}" for text in row["options"]}
    return row | {"options": list(spaced.values()), "answer": spaced[row["answer"]]}


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


def _plain_text(row: Mapping[str, Any]) -> str:
    system = f"{row['system']}\n\n" if row["system"] else ""
    return system + row["prompt"] + row["reply_prefix"]
