"""Texts and labels as tokens.

A text becomes the tokens that transformers makes of it, but for an end token that some tokenizers
append: the last token is the last of the text.

A label is the one token that tokenising text and label together gives after the text's own. That is
not always the token of the label on its own: a tokenizer that puts a space before every text reads
``A`` as ``▁A``, after a special token too, but not after ``Answer:``. Where the label would merge
with the last character of the text (``"`` and ``A`` into one token), the two stay apart, as in the
published code, and the label is its own token. The label of a cloze is the first of its tokens.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from culnig_tl.errors import InvalidInputError

_LISTED_LABELS = 10
_ENDING = re.compile(r"\s*\S*\s*\Z")
_ENDING_LENGTH = 16
_MERGED_TOKENS = 4
_PART_OF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"


def encode(tokenizer: Any, text: str, *, chat: bool = True) -> list[int]:
    """Token ids of ``text``; a chat template brings its own special tokens, so none are added.

    Args:
        tokenizer: the model's.
        text: what the model reads.
        chat: False for plain text whatever chat template the tokenizer has.

    Example:
        >>> import culnig_tl as ct
        >>> tokenizer = ct.load_model().tokenizer
        >>> tokenizer.decode(encode(tokenizer, "The usual food"))
        '<bos>The usual food'
    """
    in_chat = chat and bool(getattr(tokenizer, "chat_template", None))
    encoded = tokenizer(text, add_special_tokens=not in_chat, return_special_tokens_mask=True)
    ids, is_added = list(encoded["input_ids"]), list(encoded["special_tokens_mask"])
    while not all(is_added) and is_added[-1]:
        ids.pop()
        is_added.pop()
    return ids


def label_tokens(tokenizer: Any, labels: Iterable[str]) -> dict[str, int]:
    """Token id of each label on its own.

    Raises:
        InvalidInputError: labels that are not exactly one token, all of them listed.

    Example:
        >>> import culnig_tl as ct
        >>> tokenizer = ct.load_model().tokenizer
        >>> tokenizer.decode([label_tokens(tokenizer, [" tea"])[" tea"]])
        ' tea'
    """
    ids = {label: label_ids(tokenizer, label) for label in dict.fromkeys(labels)}
    refuse_labels({label: len(pieces) for label, pieces in ids.items() if len(pieces) != 1})
    return {label: token for label, (token,) in ids.items()}


def refuse_labels(n_tokens: Mapping[str, int], ids: Mapping[str, str] | None = None) -> None:
    """Name the labels that are not exactly one token.

    Args:
        n_tokens: how many tokens each of them is; 0 where it changes its prompt's own tokens.
        ids: a question that has the label.

    Raises:
        InvalidInputError: there is one.
    """
    if not n_tokens:
        return
    listed = ", ".join(
        f"{label!r} ({f'{n} tokens' if n else 'it changes the tokens of its prompt'}"
        + (f", question {ids[label]!r})" if ids else ")")
        for label, n in list(n_tokens.items())[:_LISTED_LABELS]
    )
    raise InvalidInputError(
        f"{len(n_tokens)} labels are not exactly one token of this model: {listed}; use labels "
        "such as letters, with the leading space that the prompt leaves out."
    )


def label_ids(tokenizer: Any, label: str) -> list[int]:
    """Token ids of a label on its own.

    A vocabulary's own entry counts first: a tokenizer that puts a space before every text would
    give another token.
    """
    entry = tokenizer.convert_tokens_to_ids(label)
    if entry is not None and tokenizer.decode([entry]) == label:
        return [entry]
    return tokenizer.encode(label, add_special_tokens=False)


@dataclass(frozen=True)
class LabelReader:
    """Tokens of labels after texts; each ending of a text is tokenised with each label once.

    Attributes:
        tokenizer: the model's.
        chat: whether the texts are written by its chat template.

    Example:
        >>> import culnig_tl as ct
        >>> reader = LabelReader(ct.load_model().tokenizer)
        >>> ids = reader.ids_after("Tea or rice? Answer:", " tea")
        >>> len(ids), reader.tokenizer.decode(ids)
        (1, ' tea')
    """

    tokenizer: Any
    chat: bool = True
    _ids: dict[tuple[str, str], list[int]] = field(default_factory=dict, repr=False)

    def ids_after(self, text: str, label: str, ids: Sequence[int] | None = None) -> list[int]:
        """Token ids of a label after a text; none where it changes the tokens of the text.

        Args:
            text: what the model reads before the label.
            label: what comes then.
            ids: of the text, where they are there already.
        """
        end = _ENDING.search(text[-_ENDING_LENGTH:])
        key = (end.group() if end else "", label)
        if key not in self._ids:
            before = encode(self.tokenizer, text, chat=self.chat) if ids is None else list(ids)
            self._ids[key] = self._read(text, label, before)
        return self._ids[key]

    def token_after(
        self, text: str, label: str, ids: Sequence[int] | None = None, *, is_cloze: bool = False
    ) -> int:
        """The one token of a label after a text, of a cloze the first; -1 where there is none."""
        tokens = self.ids_after(text, label, ids)
        return tokens[0] if len(tokens) == 1 or (is_cloze and tokens) else -1

    def tokens_after(
        self, prompts: Iterable[tuple[str, str, Sequence[int], str, bool]]
    ) -> list[int]:
        """The one token of each label after its text, of a cloze the first.

        Args:
            prompts: question id, text, token ids of the text, label, and whether it is a cloze.

        Raises:
            InvalidInputError: labels that are not exactly one token, all of them listed.
        """
        tokens, n_tokens, questions = [], {}, {}
        for question, text, ids, label, is_cloze in prompts:
            tokens.append(self.token_after(text, label, ids, is_cloze=is_cloze))
            if tokens[-1] < 0:
                n_tokens[label] = len(self.ids_after(text, label, ids))
                questions[label] = question
        refuse_labels(n_tokens, questions)
        return tokens

    def _read(self, text: str, label: str, before: list[int]) -> list[int]:
        joint = encode(self.tokenizer, text + label, chat=self.chat)
        n = len(before)
        if joint[:n] == before:
            return joint[n:]
        return label_ids(self.tokenizer, label) if self._is_merged(joint, before) else []

    def _is_merged(self, joint: list[int], before: list[int]) -> bool:
        """Whether one token of text and label together holds the end of the text and more."""
        text = self.tokenizer.decode(before)
        read = [
            self.tokenizer.decode(joint[:end]).rstrip(_PART_OF_A_CHARACTER)
            for end in range(max(0, len(before) - _MERGED_TOKENS), len(joint) + 1)
        ]
        return any(
            text.startswith(shorter) and len(text) < len(longer) and longer.startswith(text)
            for shorter, longer in pairwise(read)
        )
