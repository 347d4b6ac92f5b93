"""A question in a model's chat template, and what is checked of the text that the template writes.

A template is a program that somebody else wrote; a text that lacks the question or ends inside the
model's reasoning still looks like a prompt, and its scores like scores. So the template is first
given a word that stands nowhere else. What it writes before and after this word is the frame of
every question with the same system turn:

* The word must be there once. A template that leaves it out is given the turn as a list of parts,
  ``[{"type": "text", "text": ...}]``; a system turn that it refuses or leaves out goes to the head
  of the user's turn.
* What comes after the word must open a reply (see ``reply``).

A question's own text must then be its frame with the question in place of the word, white space at
its ends aside. Thinking is off, and today's date is always the same (see ``dates``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import TemplateError

from culnig_tl.errors import InvalidInputError, UnknownNameError, first_line
from culnig_tl.questions.dates import DATE, with_fixed_date
from culnig_tl.questions.reply import Ending, is_open, opening

_QUESTION, _REPLY = "CulnigQuestion7043", "CulnigReply2916"
# Names under which templates take the switch that turns reasoning off, beside enable_thinking.
_QUIET = dict.fromkeys(("thinking", "think", "reasoning", "enable_reasoning"), False)
_DUMPED_PART = re.compile("type.{1,16}text")
_TEMPLATE_ERRORS = (  # what a program in Jinja can raise, or transformers on its way there
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    SyntaxError,
)


def template_source(
    tokenizer: Any, *, chat: bool = True, template: str | None = None
) -> str | None:
    """The chat template that a question is put into; None for plain text.

    Args:
        tokenizer: the model's.
        chat: False for plain text whatever the tokenizer has.
        template: name of one of several templates; None for the one called ``default``.

    Raises:
        UnknownNameError: there is no template of that name; the names are listed.
        InvalidInputError: several templates, none of them called ``default``, and no name; or a
            name for plain text.

    Example:
        >>> import culnig_tl as ct
        >>> template_source(ct.load_model().tokenizer) is None
        True
    """
    templates = getattr(tokenizer, "chat_template", None) or {}
    if not isinstance(templates, Mapping):
        templates = {"default": templates}
    names = ", ".join(map(repr, templates))
    if template is not None and not chat:
        raise InvalidInputError(
            f"chat=False asks for plain text, and template={template!r} for a chat template; "
            "give one of the two."
        )
    if template is not None and template not in templates:
        raise UnknownNameError(
            f"There is no chat template {template!r}; this model has {names or 'none'}. "
            + ("Give one of these names." if names else "Leave template out.")
        )
    if not templates or not chat:
        return None
    if template is None and "default" not in templates:
        raise InvalidInputError(
            f"This model has the chat templates {names} and none called 'default'; say "
            "which one with template=, or chat=False for plain text."
        )
    return templates[template or "default"]


@dataclass(frozen=True)
class Layout:
    """How a question is handed to a template.

    Attributes:
        in_parts: a turn's content is a list of parts, not a text.
        is_folded: the system turn stands at the head of the user's turn.
        is_quiet: reasoning is also switched off by the names that few templates take.
    """

    in_parts: bool = False
    is_folded: bool = False
    is_quiet: bool = False

    def turns(self, system: str, prompt: str, *replies: str) -> list[dict[str, Any]]:
        """The conversation, for ``apply_chat_template``."""
        if self.is_folded:
            system, prompt = "", f"{system}\n\n{prompt}"
        turns = [("system", system)] if system else []
        turns += [("user", prompt), *(("assistant", reply) for reply in replies)]
        return [{"role": role, "content": self._content(text)} for role, text in turns]

    def _content(self, text: str) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": text}] if self.in_parts else text


@dataclass(frozen=True)
class Frame:
    """What a chat template writes around a question.

    Attributes:
        layout: how the question is handed over.
        before, after: what stands before and after it, to the letter.
        opening: ``after``, with all that comes before the reply's own text.
    """

    layout: Layout
    before: str
    after: str
    opening: str

    def holds(self, text: str, prompt: str) -> bool:
        """Whether ``text`` is this frame around ``prompt``, white space at its ends aside."""
        middle = text[len(self.before) : len(text) - len(self.after)]
        return text == self.before + middle + self.after and middle.strip() == prompt.strip()

    def before_reply(self, prefix: str) -> str:
        """``opening``, without what a row's own ``prefix`` of the reply already holds of it."""
        added = self.opening.removeprefix(self.after).strip()
        return self.after if added and added in prefix else self.opening


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template, which writes the texts of many questions.

    Attributes:
        tokenizer: the model's.
        source: the template.
    """

    tokenizer: Any
    source: str
    _frames: dict[str, Frame] = field(default_factory=dict, repr=False)

    def text(self, row: Mapping[str, Any]) -> str:
        """All that the model reads of a row before its ``reply_prefix``.

        Raises:
            InvalidInputError: the template drops, repeats or changes the question, or opens no
                reply; the sentence names the question.
        """
        system, prompt = row["system"], row["prompt"]
        try:
            return self._text(system, prompt, row["reply_prefix"])
        except InvalidInputError as fault:
            name = f"question {row['id']!r}" if row.get("id") else "this prompt"
            raise InvalidInputError(
                f"The model's chat template cannot be given {name}: {fault}; expected the question "
                "once, then the start of a reply. Take chat=False for plain text, or a tokenizer "
                "with another chat template."
            ) from fault

    def _text(self, system: str, prompt: str, prefix: str) -> str:
        if system not in self._frames:
            self._frames[system] = self._frame(system, _QUESTION)
        frame = self._frames[system]
        text = self._written(frame.layout.turns(system, prompt), frame.layout)
        if not frame.holds(text, prompt):  # a template may look at the question itself
            frame = self._framed(system, prompt.strip(), frame.layout)
            text = self._written(frame.layout.turns(system, prompt.strip()), frame.layout)
        return text[: len(text) - len(frame.after)] + frame.before_reply(prefix)

    def _frame(self, system: str, mark: str) -> Frame:
        """The first frame that can be made, however the question is handed over."""
        faults = []
        for in_parts in (False, True):
            for is_folded in (False, True) if system else (False,):
                frame = self._attempt(system, mark, Layout(in_parts, is_folded))
                if isinstance(frame, Frame):
                    return frame
                faults.append(frame)
        raise faults[0]

    def _attempt(self, system: str, mark: str, layout: Layout) -> Frame | InvalidInputError:
        try:
            return self._quiet(system, mark, layout)
        except InvalidInputError as fault:
            return fault

    def _quiet(self, system: str, mark: str, layout: Layout) -> Frame:
        """The frame; with more of the switches for reasoning, where these close it."""
        frame = self._framed(system, mark, layout)
        if layout.is_quiet or not is_open(frame.after):
            return frame
        quiet = self._attempt(system, mark, replace(layout, is_quiet=True))
        return quiet if isinstance(quiet, Frame) and not is_open(quiet.after) else frame

    def _framed(self, system: str, mark: str, layout: Layout) -> Frame:
        turns = layout.turns(system, mark)
        before, after = _halves(self._written(turns, layout), mark)
        if system.strip() not in before + after:
            raise InvalidInputError("it leaves the system turn out")
        if layout.in_parts and _DUMPED_PART.search(before):
            raise InvalidInputError("it prints a list of parts as it is")
        _, turn = _halves(self._written(turns, layout, with_prompt=False), mark)
        ending = Ending(turn, after, *self._around_reply(system, mark, layout))
        end_token = self.tokenizer.eos_token
        return Frame(
            layout, before, after, opening(ending, source=self.source, end_token=end_token)
        )

    def _around_reply(self, system: str, mark: str, layout: Layout) -> tuple[str, str] | tuple[()]:
        """What the template writes before and after a reply to the question; nothing for none."""
        turns = layout.turns(system, mark, _REPLY)
        try:
            _, after = _halves(self._written(turns, layout, with_prompt=False), mark)
            return _halves(after, _REPLY)
        except InvalidInputError:
            return ()

    def _written(
        self, turns: list[dict[str, Any]], layout: Layout, *, with_prompt: bool = True
    ) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                turns,
                chat_template=with_fixed_date(self.source),
                tokenize=False,
                add_generation_prompt=with_prompt,
                enable_thinking=False,
                date_string=DATE,
                **(_QUIET if layout.is_quiet else {}),
            )
        except _TEMPLATE_ERRORS as error:
            raise InvalidInputError(f"it stops with {first_line(error)!r}") from error


def _halves(text: str, mark: str) -> tuple[str, str]:
    """What stands before and after the one place where ``mark`` stands."""
    n_places = text.count(mark) if mark else 0
    if n_places != 1:
        times = "leaves the question out" if not n_places else f"writes it {n_places} times"
        raise InvalidInputError(f"it {times}")
    before, _, after = text.partition(mark)
    return before, after
