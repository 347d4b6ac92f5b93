"""A card for each of the best culture-general neurons, opened by a click or a link.

A card is shown when the page's address ends in its neuron's name; without one, the best neuron's
is. Links therefore need no script; a click on a heatmap's cell sets the address. In print the open
card stands.
"""

from collections.abc import Mapping, Sequence
from html import escape

import torch

from culnig_tl.hooks import ATTENTION_SITES, MLP_SITES
from culnig_tl.inspection import STYLE, NeuronCard
from culnig_tl.neurons import neuron_id
from culnig_tl.pipeline import Run
from culnig_tl.report.page import (
    MINUS,
    Row,
    number,
    paragraph,
    plain_table,
    script,
    section,
    style,
)
from culnig_tl.scores import NeuronScores

MOST_CARDS = 100
_ROOM_FOR_CARDS = 2_000_000  # bytes; twelve of the embedded model take 0.6 million

_CLICK = """
const cards = [...document.querySelectorAll('.neuron')];
const said = document.getElementById('cell');
for (const plot of document.querySelectorAll('#general-neurons, #modules, #scores')) {
  plot.on('plotly_click', ({points: [point]}) => {
    const binned = point.data.name !== 'module';
    const site = binned ? point.data.name : point.x;
    const [low, high] = binned ? [...point.fullData.x].slice(point.pointIndex[1]) : [0, Infinity];
    const found = cards.filter(({dataset}) => dataset.site === site
      && Number(dataset.layer) === point.y && low <= dataset.neuron && dataset.neuron < high);
    said.textContent = `Layer ${point.y}, ${site}: ${found.length ? '' : 'no neuron with a card'}`;
    for (const {id} of found) {
      const link = Object.assign(document.createElement('a'), {href: `#${id}`, textContent: id});
      said.append(link, ' ');
    }
    if (found.length) { location.hash = found[0].id; }
    said.scrollIntoView({block: 'start'});
  });
}
"""


def neuron_cards(run: Run, given: Mapping[str, NeuronCard]) -> str:
    """Whole cards of the best neurons, and of the next best what their scores say."""
    best = [
        (site, int(layer), int(neuron))
        for site, layer, neuron, _ in run.general.to_frame()
        .head(MOST_CARDS)
        .itertuples(index=False)
    ]
    if not best:
        return ""
    whole = _whole([neuron_id(*neuron) for neuron in best], {**run.cards, **given})
    articles = [_article(run, *neuron, whole.get(neuron_id(*neuron), "")) for neuron in best]
    return section(
        "Neuron by neuron",
        paragraph(_lead(len(best), len(whole))),
        '<p id="cell" aria-live="polite"></p>\n',
        style(STYLE) if whole else "",
        f'<div class="neurons">\n{"".join(articles)}</div>\n',
        script(_CLICK),
    )


def _whole(names: Sequence[str], cards: Mapping[str, NeuronCard]) -> dict[str, str]:
    """The whole cards among these, as many as the page can carry."""
    found: dict[str, str] = {}
    room = _ROOM_FOR_CARDS
    for name in names:
        if name in cards:
            found[name] = cards[name].fragment()
            room -= len(found[name].encode())
        if room < 0:
            del found[name]
            break
    return found


def _lead(n_cards: int, n_whole: int) -> str:
    told = (
        f"{n_whole} of them are whole: tokens, ablations and neighbours; the others say how their "
        "neurons score."
        if n_whole
        else "They say how their neurons score."
    )
    return (
        "Click a cell of a heatmap above, or a neuron's number in the table, to open its card. "
        f"There are cards of the {n_cards} best neurons by S(cultural) {MINUS} S(control). {told}"
    )


def _article(run: Run, site: str, layer: int, neuron: int, whole: str) -> str:
    name = escape(neuron_id(site, layer, neuron))
    if whole:
        content = whole + paragraph(_specific_to(run, site, layer, neuron))
    else:
        tables = _ranks(run, site, layer, neuron) + _cultures(run, site, layer, neuron)
        content = f"<h3>{name}</h3>\n{tables}"
    return (
        f'<article class="neuron" id="{name}" data-site="{escape(site)}" '
        f'data-layer="{layer}" data-neuron="{neuron}" aria-label="Neuron {name}">\n'
        f"{content}</article>\n"
    )


def _ranks(run: Run, site: str, layer: int, neuron: int) -> str:
    rows = []
    for name, scores in run.scores.items():
        rank, pool = _rank(scores, site, layer, neuron)
        value = float(scores.total(site)[layer, neuron])
        rows.append((name, number(value, ".3g"), f"{rank:,} of {pool:,}"))
    said = _specific_to(run, site, layer, neuron)
    return plain_table(("Scores", "S(D)", "Rank"), rows, caption=said)


def _specific_to(run: Run, site: str, layer: int, neuron: int) -> str:
    named = [c for c, found in run.specific.items() if (layer, neuron) in found[site]]
    return f"Also specific to: {', '.join(named)}." if named else "Specific to no single culture."


def _cultures(run: Run, site: str, layer: int, neuron: int) -> str:
    """Score of each culture, largest difference first."""
    cultural, control = run.scores["cultural"], run.scores["control"]
    rows: list[tuple[float, Row]] = []
    for culture in cultural.cultures:
        mine = float(cultural.of_culture(site, culture)[layer, neuron])
        other = float(control.of_culture(site, culture)[layer, neuron])
        difference = mine - other
        shown = (culture, *(number(each, ".3g") for each in (mine, other, difference)))
        rows.append((difference, shown))
    rows.sort(key=lambda row: -row[0])
    header = ("Culture", "Cultural", "Control", "Difference")
    return plain_table(header, [row for _, row in rows], caption="S of each culture.")


def _rank(scores: NeuronScores, site: str, layer: int, neuron: int) -> tuple[int, int]:
    """Place by ``S(D)`` in the neuron's pool, and the pool's size; equal scores share a place."""
    family = MLP_SITES if site in MLP_SITES else ATTENTION_SITES
    pool = torch.cat([scores.total(each).flatten() for each in scores.sites if each in family])
    value = scores.total(site)[layer, neuron]
    return int((pool > value).sum()) + 1, len(pool)
