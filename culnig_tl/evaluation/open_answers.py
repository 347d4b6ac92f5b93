"""Open answers: what the model writes, against what annotators of a culture wrote.

A reply is right when it holds an annotator's answer: word by word after normalising (Unicode NFKC,
case, punctuation; one spelling of Arabic and Persian letters that look alike; joiners dropped) and
lemmatising, as a run of whole words. By language of BLEnD:

| language | words are lemmatised by | what is missing |
|---|---|---|
| en, es, el, fa, id, ar | simplemma (extra ``open``) | rare forms; in Arabic most verbs |
| Chinese (zh) | nothing; the answer may stand anywhere | no inflection to undo |
| Korean (ko) | nothing; the answer may stand anywhere | endings inside an answer |
| su, az, as, am, ha | nothing: simplemma does not know them | every form is another word |

su, az, as, am and ha are Sundanese, Azerbaijani, Assamese, Amharic and Hausa.

The paper has a lemmatiser of its own for every language, so that accuracies of the lower rows can
come out below its own.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from datasets import Dataset

from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.evaluation.generation import greedy_replies
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import scaled_neurons
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import read_rows, writer

LEMMATISED = ("en", "es", "el", "fa", "id", "ar")
_ANYWHERE = ("zh", "ko")
# Persian is also written with the Arabic letters that look alike; tatweel only stretches a word.
_LETTERS = {"fa": str.maketrans({"ي": "ی", "ى": "ی", "ك": "ک"})}
_JOINER = "\N{ZERO WIDTH NON-JOINER}"
_TATWEEL = "\N{ARABIC TATWEEL}"
_COLUMNS = ("id", "culture", "language", "topic", "template", "benchmark")
_NEEDED = ("id", "prompt", "answers", "culture", "language")


def evaluate_open(
    model: HookedModel,
    rows: Dataset | pd.DataFrame | Sequence[Mapping[str, Any]],
    *,
    neurons: NeuronSet | None = None,
    factor: float = 0.0,
    max_new_tokens: int = 32,
    chat: bool = True,
    template: str | None = None,
    token_budget: int = 8192,
) -> pd.DataFrame:
    """Written answers, one row per question in the order of ``rows``.

    Args:
        model: a frozen model with named hook points.
        rows: questions with id, prompt, answers (list of texts), culture and language (a code such
            as ``"es"``), as ``load_benchmark("blend-open", ...)`` gives them; system and
            reply_prefix where there are any.
        neurons: neurons to scale, on the prompt and on every generated token; None leaves the model
            as it is.
        factor: what their activations are multiplied by.
        max_new_tokens: at most so many tokens per answer.
        chat, template: how the model is asked, as in ``render``.
        token_budget: tokens per pass, padding and new tokens counted.

    Returns:
        Columns id, culture and language (topic, template and benchmark too, where the rows have
        them), prediction, matched (the first answer that the prediction holds, or ``""``) and
        correct (bool).

    Raises:
        InvalidInputError: a factor that is no finite number, numbers of tokens that are no whole
            numbers from 1 up, no rows, rows that lack something, a chat template that drops a
            question or opens no reply, logits that are not finite, or no simplemma for a language
            that needs it.
        UnknownNameError: there is no chat template of that name.

    Example:
        >>> import culnig_tl as ct
        >>> rows = [{"id": "q", "prompt": "Breakfast in Greece?", "answers": ["bread"],
        ...          "culture": "Greece", "language": "en"}]
        >>> ct.evaluate_open(ct.load_model(), rows, max_new_tokens=2)["id"].tolist()
        ['q']
    """
    check_number("factor", factor)
    check_number("max_new_tokens", max_new_tokens, low=1, whole=True)
    check_number("token_budget", token_budget, low=1, whole=True)
    records = read_rows(rows)
    _check(records)
    write = writer(model.tokenizer, chat=chat, template=template)
    with scaled_neurons(model, neurons or NeuronSet.of({}), factor=factor):
        written = greedy_replies(
            model,
            [write({"reply_prefix": "", "system": "", **row}) for row in records],
            ids=[row["id"] for row in records],
            chat=chat,
            max_new_tokens=max_new_tokens,
            token_budget=token_budget,
        )
    columns = [name for name in _COLUMNS if all(name in row for row in records)]
    frame = pd.DataFrame({name: [row[name] for row in records] for name in columns})
    frame["prediction"] = written
    frame["matched"] = [
        matched_answer(said, row["answers"], row["language"])
        for said, row in zip(written, records, strict=True)
    ]
    return frame.assign(correct=frame["matched"] != "")


def matched_answer(said: str, answers: Iterable[str], language: str) -> str:
    """The first of ``answers`` that ``said`` holds, or ``""``.

    Example:
        >>> matched_answer("They eat Cakes, mostly.", ["rice", "cake"], "en")
        'cake'
    """
    words = lemmas(said, language)
    return next((each for each in answers if _holds(words, lemmas(each, language), language)), "")


def lemmas(text: str, language: str) -> list[str]:
    """The words of a text, normalised and, where a lemmatiser is known, in their basic form.

    Raises:
        InvalidInputError: the language needs simplemma, which is not installed.
    """
    words = _normalised(text, language).split()
    if language not in LEMMATISED:
        return [word.replace(_JOINER, "") for word in words]
    try:
        import simplemma
    except ImportError as error:
        raise InvalidInputError(
            f"Answers in {language!r} are lemmatised by simplemma, which is not installed; "
            "install culnig-tl[open]."
        ) from error
    lemmatised = (simplemma.lemmatize(word, lang=language).casefold() for word in words)
    return [word.replace(_JOINER, "") for word in lemmatised]  # Persian plurals are known by theirs


def _normalised(text: str, language: str) -> str:
    """NFKC, lower case; punctuation and symbols become spaces."""
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_LETTERS.get(language, {}))
    return "".join(_kept_or_space(character) for character in plain)


def _kept_or_space(character: str) -> str:
    kind = unicodedata.category(character)
    if character == _JOINER:
        return character
    if kind == "Cf" or character == _TATWEEL:
        return ""
    return " " if kind[0] in "PSZC" else character


def _holds(words: Sequence[str], answer: Sequence[str], language: str) -> bool:
    if not answer:
        return False
    if language in _ANYWHERE:
        return "".join(answer) in "".join(words)
    n = len(answer)
    return any(list(words[i : i + n]) == list(answer) for i in range(len(words) - n + 1))


def _check(records: Sequence[Mapping[str, Any]]) -> None:
    faults = [
        f"row {number}: no {', '.join(missing)}"
        for number, row in enumerate(records)
        if (missing := [name for name in _NEEDED if name not in row])
    ]
    faults += [
        f"row {number}: answers must be a list of texts"
        for number, row in enumerate(records)
        if "answers" in row and (isinstance(row["answers"], str) or not len(row["answers"]))
    ]
    if faults:
        raise InvalidInputError(
            f"{len(faults)} faults in {len(records)} rows: {'; '.join(faults[:10])}. "
            f"A row needs {', '.join(_NEEDED)}."
        )
