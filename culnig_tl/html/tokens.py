"""A prompt's tokens, coloured by one number each: escaped HTML without scripts.

The text stands on the page exactly as the model read it. A character that byte-level BPE spread
over several tokens is shown once, with the numbers of all its tokens. Tokens stay inline, without
boxes or margins, so that right-to-left text keeps its order and joined scripts stay joined.

Every colour is a share of ``limit``, the same for all prompts that are to be compared: blue above
zero, red below, clear at zero, as in the figures. Colours are translucent and read on light and on
dark pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from culnig_tl.errors import InvalidInputError

ABOVE, BELOW = "67,147,195", "214,96,77"  # of the figures' red to blue scale
_STRONGEST = 0.62  # more would leave text illegible on dark pages
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
# An HTML file cannot hold these: parsers drop NUL and make a carriage return a newline.
_AS_HTML = {"\r": Markup("&#13;"), "\0": "\N{SYMBOL FOR NULL}"}


@dataclass(frozen=True)
class Html:
    """A piece of HTML that shows itself in Jupyter."""

    source: str = field(repr=False)  # long; a notebook stores both

    def _repr_html_(self) -> str:
        return self.source


@dataclass(frozen=True, repr=False)
class ColouredTokens:
    """A prompt's tokens with one number each; they show themselves in Jupyter.

    Attributes:
        tokens: text of each token; a character spread over several stands in the last of them.
        values: number of each token.
        unit: what the numbers are, for whoever points at a token.

    Raises:
        InvalidInputError: as many tokens as numbers are needed.
    """

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    unit: str = "activation"

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.values):
            raise InvalidInputError(
                f"There are {len(self.tokens)} tokens and {len(self.values)} numbers; give one "
                "number per token."
            )

    @property
    def text(self) -> str:
        """The prompt."""
        return "".join(self.tokens)

    @property
    def limit(self) -> float:
        """The largest absolute number."""
        return max(map(abs, self.values), default=0.0)

    def html(self, *, limit: float | None = None) -> Markup:
        """One span per token with a text, in colours of a scale from ``-limit`` to ``limit``."""
        limit = self.limit if limit is None else limit
        spans = [self._span(start, stop, limit) for start, stop in self._groups()]
        return Markup('<div class="tokens" dir="auto">{}</div>').format(Markup("").join(spans))

    def __repr__(self) -> str:
        return f"{len(self.tokens)} tokens with {self.unit} of at most {self.limit:.3g}"

    def _repr_html_(self) -> str:
        return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{self.html()}</div>'

    def _groups(self) -> list[tuple[int, int]]:
        """Runs of tokens that end in one with text."""
        ends = [i + 1 for i, token in enumerate(self.tokens) if token]
        if ends and ends[-1] < len(self.tokens):
            ends[-1] = len(self.tokens)
        return list(pairwise([0, *ends]))

    def _span(self, start: int, stop: int, limit: float) -> Markup:
        values = self.values[start:stop]
        numbers = ", ".join(f"{value or 0.0:.3g}" for value in values)  # no -0
        place = f"token {start}" if len(values) == 1 else f"tokens {start} to {stop - 1}"
        return Markup('<span style="background:{}" title="{}">{}</span>').format(
            colour(max(values, key=abs), limit),
            f"{self.unit} {numbers}, {place}",
            as_html("".join(self.tokens[start:stop])),
        )


def colour(value: float, limit: float) -> str:
    """The CSS colour of ``value`` on the scale from ``-limit`` to ``limit``.

    Example:
        >>> colour(0.5, 1.0), colour(-9.0, 1.0)
        ('rgba(67,147,195,0.31)', 'rgba(214,96,77,0.62)')
    """
    share = min(abs(value) / limit, 1.0) if limit else 0.0
    return f"rgba({ABOVE if value > 0 else BELOW},{_STRONGEST * share:.3g})"


def as_html(text: str) -> Markup:
    """``text`` escaped, so that a page's text content is ``text`` (NUL becomes its symbol)."""
    return Markup("").join(_AS_HTML.get(character, escape(character)) for character in text)


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Text of each token; joined they are the decoded text.

    A token that ends within a character has an empty text; the one that completes the character
    has all of it.

    Example:
        >>> import culnig_tl as ct
        >>> tokenizer = ct.load_model().tokenizer
        >>> token_texts(tokenizer, tokenizer("usual tea: \u8336")["input_ids"])[-4:]
        (' ', '', '', '\u8336')
    """
    texts: list[str] = []
    context: list[int] = []
    pending: list[int] = []  # since the last token with a text
    for token in ids:
        pending.append(token)
        text = _added_text(tokenizer, context, pending)
        if _ends_within_a_character(text):
            texts.append("")
        else:
            texts.append(text)
            context, pending = pending, []
    if pending:  # a character that nothing completes
        texts[-1] = _added_text(tokenizer, context, pending)
    return tuple(texts)


def _added_text(tokenizer: Any, context: list[int], tokens: list[int]) -> str:
    """What tokens add to the text of those before them; decoded alone, some lose their space."""
    before = _decoded(tokenizer, context)
    return _decoded(tokenizer, context + tokens)[len(before) :]


def _ends_within_a_character(text: str) -> bool:
    return text.endswith(_INCOMPLETE)


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
