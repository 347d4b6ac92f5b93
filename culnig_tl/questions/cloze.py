"""A cloze without its culture: the country goes, with what binds it to the sentence.

``In Iran, a common bread is called`` becomes ``A common bread is called``: what is left is a whole
sentence's beginning. A name that is only blanked leaves broken grammar behind, and scores that
answer to that.

What binds a name is a preposition before it, the article, a comma after it, or a possessive:

| before | after |
|---|---|
| In Iran, a common bread is called | A common bread is called |
| People in the USA usually drink | People usually drink |
| The capital of Iran is | The capital is |
| Iran's capital is | The capital is |
"""

import re
from collections.abc import Iterable

_PREPOSITIONS = (
    *("across", "all over", "around", "at", "for", "from", "in", "inside", "of", "over", "to"),
    *("throughout", "within"),
)


def without_culture(prompt: str, names: Iterable[str]) -> str | None:
    """A cloze without the one place where it names its culture; None where it cannot be taken out.

    Args:
        prompt: the cloze.
        names: every spelling of the culture.

    Example:
        >>> without_culture("In Iran, a common bread is called", ["Iran"])
        'A common bread is called'
        >>> without_culture("The UK's capital is", ["United Kingdom", "UK"])
        'The capital is'
        >>> without_culture("Iran is", ["Iran"]) is None
        True
    """
    name = "|".join(re.escape(each) for each in sorted(names, key=len, reverse=True) if each)
    named = re.compile(rf"\b(?:the )?(?:{name})\b", re.IGNORECASE)
    places = list(named.finditer(prompt)) if name else []
    if len(places) != 1:
        return None
    before, after = prompt[: places[0].start()], prompt[places[0].end() :]
    if possessive := re.match(r"['\N{RIGHT SINGLE QUOTATION MARK}]s? ", after):
        return as_beginning(f"{before}the {after[possessive.end() :]}")
    bound = re.search(rf"(?:^|\s)(?:{'|'.join(_PREPOSITIONS)}) $", before, re.IGNORECASE)
    if bound is None:
        return None
    before = before[: bound.start()]
    return as_beginning(f"{before}{after}" if before else after.removeprefix(",").lstrip())


def as_beginning(text: str) -> str:
    """A text that begins with a capital letter.

    Example:
        >>> as_beginning("a common bread")
        'A common bread'
    """
    return text[:1].upper() + text[1:]
