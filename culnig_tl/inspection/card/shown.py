"""The card itself: what it holds, how it shows itself, and how it is kept in a file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from culnig_tl.errors import InvalidInputError
from culnig_tl.files import read_json, replacing
from culnig_tl.inspection import pages
from culnig_tl.inspection.tokens import ColouredTokens

_FORMAT = "culnig_tl neuron card 1"


@dataclass(frozen=True)
class Example:
    """A prompt in which a neuron is active.

    Attributes:
        tokens: the prompt's tokens with the neuron's activation at each.
        question: what ``NeuronCard.questions`` says of this prompt.
        estimate: first-order estimate of the drop of ``P(answer)``, ``sum_i(a * dP/da)``.
    """

    tokens: ColouredTokens
    question: Mapping[Any, Any]
    estimate: float


@dataclass(frozen=True)
class NeuronCard:
    """Everything known about one neuron; it shows itself in Jupyter.

    Attributes:
        id: the neuron's name, e.g. ``L3.mlp.hook_post.17``.
        model: the model's name.
        ranks: columns scores, value (``S(D)``), rank, pool (neurons ranked), share (0 to 1).
        histogram: columns low, high, tokens: activations at text tokens.
        limit: the largest absolute activation at a text token; ends of the colour scale.
        questions: one row a prompt: id, culture, topic, template, answer, highest and lowest
            activation, score, probability, probability_off, drop, correct, correct_off.
        strongest, weakest: the prompts with the highest and the lowest activation, one a question
            and culture.
        cultures, topics: one row each: prompts, highest (mean of the prompts' peaks), score, drop
            (means), accuracy_drop (points).
        direction: what its output direction is, or why it has none.
        promoted, demoted: columns token, effect (on the logit, a unit of activation).
        neighbours: columns neuron, correlation (of scores over prompts), score (``S(D)``).

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=32)
        >>> card = ct.inspect_neuron(ct.load_model(), rows, layer=3, neuron=17)
        >>> card.id, len(card.questions)
        ('L3.mlp.hook_post.17', 32)
    """

    id: str
    model: str
    ranks: pd.DataFrame
    histogram: pd.DataFrame
    limit: float
    questions: pd.DataFrame
    strongest: tuple[Example, ...]
    weakest: tuple[Example, ...]
    cultures: pd.DataFrame
    topics: pd.DataFrame
    direction: str
    promoted: pd.DataFrame
    demoted: pd.DataFrame
    neighbours: pd.DataFrame

    @property
    def summary(self) -> str:
        """Two sentences: where it ranks, and what switching it off does."""
        best = self.ranks.sort_values("rank", kind="stable").iloc[0]
        most = self.cultures.iloc[0]
        mean = self.questions["drop"].mean()
        return (
            f"It ranks {best['rank']:,} of {best['pool']:,} by “{best['scores']}” (top "
            f"{100 * best['share']:.2g} %). Switching it off {pages.moves(mean)} P(answer) by "
            f"{pages.number(abs(mean), '.2g')} on average over these prompts; the largest drop is "
            "that of "
            f"{pages.named(most['culture'])}, {pages.number(most['drop'], '+.2g')}."
        )

    def fragment(self) -> str:
        """The card as a piece of HTML, to stand on a page that has ``inspection.STYLE``."""
        return pages.fragment("card.html", card=self, summary=self.summary)

    def _repr_html_(self) -> str:
        return pages.with_style(self.fragment())

    def to_html(self, path: str | Path) -> Path:
        """Write the card as a page of its own, whole or not at all; nothing on it needs a network.

        Raises:
            UnwritableError: the folder cannot be made or written.
        """
        return pages.write(path, title=f"{self.id} of {self.model}", body=self.fragment())

    def save(self, path: str | Path) -> Path:
        """Write the card as JSON, whole or not at all, for ``load`` to read again.

        Raises:
            UnwritableError: the folder cannot be made or written.
        """
        content = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        with replacing(path) as part:
            text = json.dumps({"format": _FORMAT, **content}, ensure_ascii=False)
            part.write_text(text, encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "NeuronCard":
        """Read a card that ``save`` wrote.

        Raises:
            MissingFileError: there is no such file.
            InvalidInputError: the file holds something else.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise InvalidInputError(
                f"{path} is no neuron's card; give a file that NeuronCard.save wrote."
            )
        return cls(**{each.name: _back(content[each.name]) for each in fields(cls)})


def _plain(value: Any) -> Any:
    """A field of a card as JSON has it."""
    if isinstance(value, pd.DataFrame):
        return value.to_dict("split", index=False)
    return [asdict(example) for example in value] if isinstance(value, tuple) else value


def _back(value: Any) -> Any:
    """The field that ``_plain`` wrote."""
    if isinstance(value, dict):
        return pd.DataFrame(**value)
    return tuple(map(_example, value)) if isinstance(value, list) else value


def _example(stored: Mapping[str, Any]) -> Example:
    tokens = {name: _tuple(value) for name, value in stored["tokens"].items()}
    return Example(ColouredTokens(**tokens), stored["question"], stored["estimate"])


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
