r"""How a reply begins: what a chat template writes after a question, completed or refused.

The probability of a label is read where the reply's own text starts, so all that comes before that
text must be there:

| after the question | becomes |
|---|---|
| nothing that opens a reply | what the template itself writes before a reply |
| ``<think>``, ``[THINK]``, ``<|START_THINKING|>``, ... left open | the same, closed at once |
| ``<|start|>assistant`` without the channel that the template has | the channel ``final`` |

What the template writes between a question and a finished reply without reasoning counts first:
the model was trained on it. Where that does not tell, reasoning is closed as
``<think>\n\n</think>\n\n`` and the channel is ``<|channel|>final<|message|>``. A complete opening
stays to the letter.
"""

import re
from dataclasses import dataclass

from culnig_tl.errors import InvalidInputError

_REASONING = re.compile(
    r"(<\|?|\[|◁)(/?)((?:\w+[:-])?\w*(?:think|thought|reason|reflect|analysis|scratchpad|inner_)\w*)"
    r"(\|?>|\]|▷)|<\|channel>\w+|<channel\|>",
    re.IGNORECASE,
)
_HALF_A_TAG = re.compile(r"[<\[◁][^>\]▷]*\Z")
_WORDS_OF_AN_END = {
    "start": "end",
    "begin": "end",
    "prefix": "suffix",
    "START": "END",
    "BEGIN": "END",
    "PREFIX": "SUFFIX",
}
_CHANNEL = "<|channel|>"
_FINAL = f"{_CHANNEL}final<|message|>"


@dataclass(frozen=True)
class Ending:
    """What a chat template writes after a question.

    Attributes:
        turn: without a generation prompt.
        prompt: with one.
        reply: before a reply that the template is given to write; None where it writes none.
        end: after that reply.
    """

    turn: str
    prompt: str
    reply: str | None = None
    end: str = ""

    @property
    def start(self) -> int:
        """Where the generation prompt starts in ``prompt``; 0 where it is not set apart."""
        is_apart = self.prompt != self.turn and self.prompt.startswith(self.turn)
        return len(self.turn) if is_apart else 0


def opening(ending: Ending, *, source: str, end_token: str | None) -> str:
    """What the model reads between a question and its reply.

    Args:
        ending: what the template writes there.
        source: the template.
        end_token: the tokenizer's end token.

    Raises:
        InvalidInputError: the template opens no reply, or leaves it at reasoning or at an end
            token; half a sentence, which the caller completes.

    Example:
        >>> ending = Ending("</user>", "</user><bot><think>")
        >>> opening(ending, source="", end_token="</s>")
        '</user><bot><think>\\n\\n</think>\\n\\n'
    """
    candidates = _candidates(ending)
    has_channels = _CHANNEL in source and "<|message|>" in source
    candidates += [_completed(text, ending.start, has_channels) for text in candidates[::-1]]
    if candidates and ending.reply and ending.reply.startswith(ending.turn.rstrip()):
        candidates.append(ending.reply)
    faults = [_fault(text, ending.start, has_channels, end_token) for text in candidates]
    for text, fault in zip(candidates, faults, strict=True):
        if not fault:
            return text
    raise InvalidInputError(faults[0] if faults else "it opens no reply, no generation prompt")


def is_open(text: str) -> bool:
    """Whether reasoning is open at the end of ``text``.

    Example:
        >>> is_open("<think>\\n"), is_open("<think>\\n\\n</think>\\n\\n")
        (True, False)
    """
    return bool(_closing(text))


def _candidates(ending: Ending) -> list[str]:
    """What may open the reply, the likeliest first."""
    prompt, reply, has_prompt = ending.prompt, ending.reply, ending.prompt != ending.turn
    if reply is None:
        return [prompt] if has_prompt else []
    if not reply.startswith(prompt.rstrip()):
        return _of_unlike(ending, reply)
    if reply[len(prompt.rstrip()) :].strip():
        return [reply, prompt] if has_prompt else [reply]
    return [prompt] if has_prompt or prompt.strip() else []


def _of_unlike(ending: Ending, reply: str) -> list[str]:
    """What may open the reply where the template goes another way for a reply of its own.

    It may leave the reasoning out there, whose place is before all that a reply begins with.
    """
    prompt, turn = ending.prompt, ending.turn
    head = _common_start(prompt, reply)
    if prompt == turn and not (head.strip() and ending.end.endswith(prompt)):
        return []
    reasoning, rest = prompt[len(head) :], reply[len(head) :]
    has_header = prompt == turn or len(head) > len(turn)
    is_reasoning = not _REASONING.sub("", reasoning).strip()
    if has_header and is_reasoning and rest.strip() and not _REASONING.search(rest):
        return [prompt + _closing(reasoning) + rest, prompt]
    return [prompt]


def _common_start(one: str, other: str) -> str:
    """What both texts start with, up to a whole tag."""
    pairs = zip(one, other, strict=False)
    n = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    return _HALF_A_TAG.sub("", one[:n])


def _completed(text: str, start: int, has_channels: bool) -> str:
    """The opening with its reasoning closed and its channel named."""
    if closing := _closing(text[start:]):
        return text + closing
    if not has_channels or text.endswith(_FINAL):
        return text
    _, channel, name = text[start:].rpartition(_CHANNEL)
    if not channel:
        return text + _FINAL
    if _FINAL.startswith(channel + name):
        return text + _FINAL.removeprefix(channel + name)
    message = "" if name.endswith("<|message|>") else "<|message|>"
    return f"{text}{message}<|end|><|start|>assistant{_FINAL}"


def _closing(text: str) -> str:
    """What closes the reasoning that is open at the end of ``text``; ``""`` where none is."""
    *_, last = [None, *_REASONING.finditer(text)]
    if last is None or last.group().startswith("<channel|"):
        return ""
    left, slash, name, right = last.groups()
    if left is None:
        return "<channel|>"
    if slash or re.search(r"(^|_)(end|suffix|no|off)(_|$)|nothink", name, re.IGNORECASE):
        return ""
    for begun, ended in _WORDS_OF_AN_END.items():
        if begun in name:
            return left + name.replace(begun, ended) + right
    if left != "<":
        return f"{left}/{name}{right}"
    return ("\n" if text.endswith("\n") else "\n\n") + f"</{name}>\n\n"


def _fault(text: str, start: int, has_channels: bool, end_token: str | None) -> str:
    """What keeps a label from being read after ``text``; ``""`` where nothing does."""
    if is_open(text[start:]):
        return f"it leaves reasoning open at the end ({text[-20:]!r})"
    if has_channels and not text.endswith(_FINAL):
        return f"it has channels and does not end in {_FINAL} ({text[-20:]!r})"
    if end_token and text.rstrip().endswith(end_token):
        return f"it ends in the end token {end_token!r}, so that no reply is open"
    return ""
