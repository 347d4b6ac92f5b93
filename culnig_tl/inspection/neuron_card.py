"""The card of a neuron: what it holds, how it shows itself, and how a file holds it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from culnig_tl.errors import check_number
from culnig_tl.files import Format, read_record, write_record
from culnig_tl.html import ColouredTokens, fall, fragment, named, number, with_style, write_page
from culnig_tl.inspection.card_tables import (
    COLUMNS,
    GLOSSARY,
    check_cells,
    fragments_of_words,
    membership_sentence,
    plain_name,
    table_from_json,
)
from culnig_tl.neurons import Neuron

_FORMAT = Format("culnig_tl.NeuronCard", 1, noun="neuron's card", writer="NeuronCard.save")
_OTHERS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "model": str,
    "limit": (int, float),
    "strongest": list,
    "weakest": list,
    "direction": str,
    "membership": (int, float, type(None)),
}


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


@dataclass(frozen=True, repr=False)
class NeuronCard:
    """Everything known about one neuron; it shows itself in Jupyter.

    Attributes:
        id: the neuron's name, e.g. ``L3.mlp.hook_post.17``.
        model: the model's name.
        ranks: columns scores, value (``S(D)``), rank, pool (neurons ranked), share (0 to 1).
        histogram: columns low, high, tokens: activations at text tokens.
        limit: the largest absolute activation at a text token; ends of the colour scale.
        questions: one row per prompt: id, culture, topic, template, answer, highest and lowest
            activation, score, probability, probability_off, drop, correct, correct_off.
        strongest, weakest: the prompts with the highest and the lowest activation, one per
            question and culture.
        cultures, topics: one row each: prompts, highest (mean of the prompts' peaks), score, drop
            (means), accuracy_drop (points).
        direction: what its output direction is, or why it has none.
        promoted, demoted: columns token, effect (on the logit, per unit of activation).
        neighbours: columns neuron, correlation (of scores over prompts), score (``S(D)``).
        membership: in what share of resamples of the questions the neuron is in its set, 0 to 1
            (see ``ct.membership``); None where nobody said.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=32)
        >>> card = ct.inspect_neuron(ct.load_model(), rows, "L0.mlp.hook_post.152")
        >>> card
        L0.mlp.hook_post.152 of atlas: rank 4 of 2,048 by “these questions”, seen on 32 prompts
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
    membership: float | None = None

    def __repr__(self) -> str:
        place = self._best_rank
        return (
            f"{self.id} of {self.model}: rank {place['rank']:,} of {place['pool']:,} by "
            f"“{place['scores']}”, seen on {len(self.questions)} prompts"
        )

    @property
    def summary(self) -> str:
        """Two sentences: where it ranks, and what switching it off does; and where it is known, how
        surely it is in its set."""
        place = self._best_rank
        culture = self.cultures.iloc[0]
        most = (
            f"falls most for {named(culture['culture'])}, by {number(culture['drop'], '.2g')}"
            if culture["drop"] > 0
            else "falls for no culture"
        )
        sure = "" if self.membership is None else f" {membership_sentence(self.membership)}"
        return (
            f"It ranks {place['rank']:,} of {place['pool']:,} by “{place['scores']}” (top "
            f"{100 * place['share']:.2g} %). When it is off, P(answer) "
            f"{fall(self.mean_drop, '.2g')} on average over these prompts; it {most}.{sure}"
        )

    @property
    def plain_name(self) -> str:
        """Its name in words, e.g. "MLP output, layer 0, neuron 152"."""
        return plain_name(Neuron.parse(self.id))

    @property
    def mean_drop(self) -> float:
        """What P(answer) loses on average over the prompts when it is off; below 0, it gains."""
        return float(self.questions["drop"].mean())

    @property
    def fragments(self) -> frozenset[str]:
        """Promoted and demoted tokens that begin inside a word."""
        return fragments_of_words([*self.promoted["token"], *self.demoted["token"]])

    @property
    def _best_rank(self) -> Mapping[Any, Any]:
        """The row of ``ranks`` where it ranks best."""
        return self.ranks.sort_values("rank", kind="stable").iloc[0].to_dict()

    def fragment(self) -> str:
        """The card as a piece of HTML, to stand on a page that has ``html.FRAGMENT_STYLE``."""
        return fragment("card.html", card=self, summary=self.summary, glossary=GLOSSARY)

    def _repr_html_(self) -> str:
        return with_style(self.fragment())

    def to_html(self, path: str | Path) -> Path:
        """Write the card as a page of its own, whole or not at all; nothing on it needs a network.

        Raises:
            UnwritableError: the folder cannot be made or written.
        """
        return write_page(path, title=f"{self.plain_name} of {self.model}", body=self.fragment())

    def save(self, path: str | Path, *, identity: Mapping[str, Any] | None = None) -> Path:
        """Write the card as JSON with a checksum, whole or not at all, for ``load`` to read again.

        Args:
            path: the file.
            identity: what it was made of, for whoever has to know whether it still holds.

        Raises:
            UnwritableError: the folder cannot be made or written.
        """
        content = {each.name: _to_json(getattr(self, each.name)) for each in fields(self)}
        if self.membership is None:  # as before there was such a field
            del content["membership"]
        write_record(path, _FORMAT, content, identity=identity)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "NeuronCard":
        """Read a card that ``save`` wrote.

        Raises:
            MissingFileError: there is no such file.
            InvalidInputError: the file holds something else, or a card of a newer version.
            DamagedFileError: the file was changed after it was written.
        """
        path = Path(path)
        content: dict[str, Any] = {"membership": None}
        content |= read_record(path, _FORMAT)[0]
        _FORMAT.check_fields(path, content, **_OTHERS, **dict.fromkeys(COLUMNS, dict))
        try:
            Neuron.parse(content["id"])
            if content["membership"] is not None:
                check_number("membership", content["membership"], low=0, high=1)
            return cls(**{name: _from_json(name, value) for name, value in content.items()})
        except (KeyError, TypeError, ValueError) as error:
            raise _FORMAT.unusable(path, error) from error


def _to_json(value: Any) -> Any:
    """A field of a card as JSON has it."""
    if isinstance(value, pd.DataFrame):
        return value.to_dict("split", index=False)
    return [asdict(example) for example in value] if isinstance(value, tuple) else value


def _from_json(name: str, value: Any) -> Any:
    """The field that ``_to_json`` wrote."""
    if name in COLUMNS:
        return table_from_json(name, value)
    return tuple(map(_example_from_json, value)) if isinstance(value, list) else value


def _example_from_json(stored: Mapping[str, Any]) -> Example:
    tokens, question = stored["tokens"], stored["question"]
    check_cells("tokens", "text", tokens["tokens"])
    check_cells("tokens", "number", [*tokens["values"], stored["estimate"]])
    check_cells("tokens", "text", [tokens["unit"]])
    for name, kind in COLUMNS["questions"].items():
        check_cells(name, kind, [question[name]])
    coloured = ColouredTokens(tuple(tokens["tokens"]), tuple(tokens["values"]), tokens["unit"])
    return Example(coloured, question, stored["estimate"])
