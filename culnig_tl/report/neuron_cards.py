"""A card for each of the best culture-general neurons, opened by a click or a link.

Whole cards come first, the largest measured drop of P(answer) before all; then compact ones, by
score. A card is open when the page's address ends in its neuron's name; without one, the first
is. Links therefore need no script; a click on a heatmap's cell sets the address. In print the open
card stands.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

import pandas as pd

from culnig_tl.html import (
    FRAGMENT_STYLE,
    MINUS,
    Link,
    Row,
    Term,
    fall,
    number,
    paragraph,
    script,
    section,
    style,
    table,
)
from culnig_tl.inspection import (
    GLOSSARY,
    NeuronCard,
    check_membership,
    membership_sentence,
    plain_name,
    share_of_resamples,
)
from culnig_tl.neurons import Neuron
from culnig_tl.pipeline import Run
from culnig_tl.report.summary import best_neurons
from culnig_tl.scores import NeuronScores

MOST_CARDS = 100
_ROOM_FOR_CARDS = 700_000  # bytes; twelve of the embedded model take 0.6 million

_NO_MEMBERSHIP = (
    "How surely each neuron is in the set this run cannot say, since it keeps sums over questions: "
    "ct.membership, or culnig-tl validate, scores each question once more, which takes as long as "
    "this run's scoring, and run.report(membership=...) shows what it finds."
)
_OPEN_BY_CLICK = """
const cards = [...document.querySelectorAll('.neuron')];
const links = document.getElementById('cell');
const openCard = plot => {
  plot.on('plotly_click', ({points: [point]}) => {
    const binned = point.data.name !== 'module';
    const site = binned ? point.data.name : point.x;
    const [low, high] = binned ? [...point.fullData.x].slice(point.pointIndex[1]) : [0, Infinity];
    const matching = cards.filter(({dataset}) => dataset.site === site
      && Number(dataset.layer) === point.y && low <= dataset.neuron && dataset.neuron < high);
    const none = matching.length ? '' : 'no neuron with a card';
    links.textContent = `Layer ${point.y}, ${site}: ${none}`;
    for (const {id} of matching) {
      const link = Object.assign(document.createElement('a'), {href: `#${id}`, textContent: id});
      links.append(link, ' ');
    }
    if (matching.length) { location.hash = matching[0].id; }
    links.scrollIntoView({block: 'start'});
  });
};
const heatmaps = document.querySelectorAll('#general-neurons, #modules, #scores');
plotly.then(() => heatmaps.forEach(openCard), () => {});
"""


def neuron_cards_section(
    run: Run, more_cards: Mapping[str, NeuronCard], membership: pd.DataFrame | None = None
) -> str:
    """Whole cards of the best neurons, and of the next best what their scores say.

    Args:
        run: a finished run.
        more_cards: whole cards by neuron, beside those of the run.
        membership: the frame of ``ct.membership``.

    Raises:
        InvalidInputError: a frame that is no membership.
    """
    if membership is not None:
        check_membership(membership)
    neurons = [neuron for neuron, _ in best_neurons(run, MOST_CARDS)]
    if not neurons:
        return ""
    share_of = {} if membership is None else _shares(neurons, membership)
    cards = {**run.cards, **more_cards}
    whole = _whole_cards(neurons, cards, share_of)
    drops = {neuron: cards[str(neuron)].mean_drop for neuron in whole}
    ordered = sorted(neurons, key=lambda neuron: -drops.get(neuron, -math.inf))
    articles = [
        _article(run, neuron, whole.get(neuron, ""), share_of.get(neuron)) for neuron in ordered
    ]
    return section(
        "Neuron by neuron",
        paragraph(_lead(len(neurons), len(whole))),
        paragraph(_NO_MEMBERSHIP) if membership is None else "",
        '<p id="cell" aria-live="polite"></p>\n',
        _drop_table({neuron: drops[neuron] for neuron in ordered if neuron in drops}),
        style(FRAGMENT_STYLE) if whole else "",
        f'<div class="neurons">\n{"".join(articles)}</div>\n',
        script(_OPEN_BY_CLICK),
    )


def _shares(neurons: Sequence[Neuron], membership: pd.DataFrame) -> dict[Neuron, float]:
    """In what share of resamples each neuron is in the set, where that is known."""
    shares = {neuron: share_of_resamples(neuron, membership) for neuron in neurons}
    return {neuron: share for neuron, share in shares.items() if share is not None}


def _whole_cards(
    neurons: Sequence[Neuron], cards: Mapping[str, NeuronCard], share_of: Mapping[Neuron, float]
) -> dict[Neuron, str]:
    """The cards of these neurons as HTML, as many as the page can carry."""
    fragments: dict[Neuron, str] = {}
    room = _ROOM_FOR_CARDS
    for neuron in neurons:
        if str(neuron) in cards:
            card = cards[str(neuron)]
            fragment = replace(card, membership=share_of.get(neuron, card.membership)).fragment()
            room -= len(fragment.encode())
            if room < 0:
                break
            fragments[neuron] = fragment
    return fragments


def _drop_table(drops: Mapping[Neuron, float]) -> str:
    """What switching off does, one line per whole card."""
    rows = [
        (Link(plain_name(each), str(each)), str(each), fall(drop)) for each, drop in drops.items()
    ]
    header = ("Neuron", "Hook point", _term("P(answer)", "P(answer) when it is off"))
    caption = "Means over the prompts of its card, largest drop first."
    return table(header, rows, caption=caption) if rows else ""


def _term(symbol: str, text: str = "") -> Term:
    """A symbol, or a text about it, that says what the symbol means."""
    return Term(text or symbol, GLOSSARY[symbol])


def _lead(n_cards: int, n_whole: int) -> str:
    kinds = (
        f"{n_whole} of them are whole: tokens, ablations and neighbours; the others, after them, "
        "say how their neurons score."
        if n_whole
        else "They say how their neurons score."
    )
    return (
        "Click a cell of a heatmap above, or a neuron's number in the table, to open its card. "
        f"There are cards of the {n_cards} best neurons by S(cultural) {MINUS} S(control). {kinds}"
    )


def _article(run: Run, neuron: Neuron, whole_card: str, share: float | None) -> str:
    name, in_words = escape(str(neuron)), escape(plain_name(neuron))
    if whole_card:
        content = whole_card + paragraph(_specific_to(run, neuron))
    else:
        sure = "" if share is None else paragraph(membership_sentence(share))
        content = (
            f"<h3>{in_words}</h3>\n<p><code>{name}</code></p>\n{sure}"
            f"{_rank_table(run, neuron)}{_culture_table(run, neuron)}"
        )
    return (
        f'<article class="neuron" id="{name}" data-site="{escape(neuron.site)}" '
        f'data-layer="{neuron.layer}" data-neuron="{neuron.index}" '
        f'aria-label="{in_words}, {name}">\n{content}{_breaker_note(run, neuron)}</article>\n'
    )


def _breaker_note(run: Run, neuron: Neuron) -> str:
    """The warning on a card of a neuron that breaks the model, alone or with others."""
    warnings = {each.warning for each in run.breakers.values() if neuron in each.neurons}
    return "".join(paragraph(f"Warning: {each}") for each in sorted(warnings))


def _rank_table(run: Run, neuron: Neuron) -> str:
    rows = []
    for name, scores in run.scores.items():
        rank, pool = scores.rank_of(neuron)
        value = float(scores.total(neuron.site)[neuron.layer, neuron.index])
        rows.append((name, number(value, ".3g"), f"{rank:,} of {pool:,}"))
    header = ("Scores", _term("S(D)"), _term("rank", "Rank"))
    return table(header, rows, caption=_specific_to(run, neuron))


def _specific_to(run: Run, neuron: Neuron) -> str:
    cultures = [culture for culture, neurons in run.specific.items() if neuron in neurons]
    return (
        f"Also specific to: {', '.join(cultures)}."
        if cultures
        else "Specific to no single culture."
    )


def _culture_table(run: Run, neuron: Neuron) -> str:
    """Score of each culture, largest difference first."""
    rows: list[tuple[float, Row]] = []
    for culture in run.scores["cultural"].cultures:
        cultural, control = (
            _culture_score(run.scores[name], neuron, culture) for name in ("cultural", "control")
        )
        numbers = [number(each, ".3g") for each in (cultural, control, cultural - control)]
        rows.append((cultural - control, (culture, *numbers)))
    rows.sort(key=lambda row: -row[0])
    header = ("Culture", "Cultural", "Control", "Difference")
    return table(header, [row for _, row in rows], caption="S of each culture.")


def _culture_score(scores: NeuronScores, neuron: Neuron, culture: str) -> float:
    return float(scores.of_culture(neuron.site, culture)[neuron.layer, neuron.index])
