"""Files as an accident or a stranger leaves them: bytes changed, JSON with any value anywhere.

What is changed follows from a generator of random numbers, which a test draws with Hypothesis: one
draw makes many files, so that thousands of them cost seconds.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

FRAGMENTS = [b"0", b",", b"}", b"[", b"\xff", b'"', b"-", b"null", b"\n", b"\t", b"\0", b"9" * 20]
VALUES: list[Any] = [
    *(0, -1, 1, 2, 3, 10**6, 10**9, 10**12, 10**30, -(10**9)),
    *(0.5, 1e-30, float("nan"), float("inf"), True, False, None),
    *("", " ", "x", "A", "../x", "a/b", "llama", "float16", "\0", "\ud800"),
    *([], {}, [1, 2], ["x"], ["x", "x"], {"a": 1}, [[]]),
]


def typos(random: Random, content: bytes) -> bytes:
    """The content with up to three places changed: a bit, bytes out or in, or the end cut."""
    for _ in range(random.choice([1, 2, 3])):
        at = random.randrange(max(1, len(content)))
        kind = random.randrange(7)
        if kind <= 1 and content:
            flipped = bytes([content[at] ^ 1 << random.randrange(8)])
            content = content[:at] + flipped + content[at + 1 :]
        elif kind <= 3:
            content = content[:at] + content[at + random.choice([1, 1, 5, 50]) :]
        elif kind <= 5:
            content = content[:at] + random.choice(FRAGMENTS) + content[at:]
        else:
            content = content[:at]
    return content


def other_json(random: Random, content: bytes, *, more: Sequence[str | int] = ()) -> bytes:
    """JSON with one or two values exchanged, put in under a key of ``more``, or gone."""
    whole = json.loads(content)
    for _ in range(random.choice([1, 1, 2])):
        holder, key = random.choice([*_places(whole), *((whole, name) for name in more)])
        if random.randrange(6):
            holder[key] = deepcopy(random.choice(VALUES))
        elif isinstance(holder, dict):
            holder.pop(key, None)
    return json.dumps(whole).encode()


def either(random: Random, content: bytes, *, more: Sequence[str | int] = ()) -> bytes:
    """Bytes changed as often as values."""
    return typos(random, content) if random.randrange(2) else other_json(random, content, more=more)


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Every object or list within the content, with each of its keys; the first three of lists."""
    if not isinstance(content, dict | list):
        return []
    keys = list(content) if isinstance(content, dict) else list(range(min(3, len(content))))
    deeper = [place for key in keys for place in _places(content[key])]
    return [(content, key) for key in keys] + deeper
