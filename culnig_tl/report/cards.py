"""A card for each of the best culture-general neurons, opened by a click or a link.

A card is shown when the page's address ends in its neuron's name; without one, the best neuron's
is. Links therefore need no script; a click on a heatmap's cell sets the address. In print the open
card stands.
"""

from collections.abc import Mapping
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
    """Cards of what the run knows about its best neurons, with the whole story where given."""
    best = run.general.to_frame().head(MOST_CARDS)
    if best.empty:
        return ""
    key = f"{MINUS} S(control)"
    lead = paragraph(
        "Click a cell of a heatmap above, or a neuron's number in the table, to open its card. "
        f"There are cards of the {len(best)} best neurons by S(cultural) {key}."
    )
    articles = [
        _article(run, site, int(layer), int(neuron), given)
        for site, layer, neuron, _ in best.itertuples(index=False)
    ]
    return section(
        "Neuron by neuron",
        lead,
        '<p id="cell" aria-live="polite"></p>\n',
        style(STYLE) if given else "",
        f'<div class="neurons">\n{"".join(articles)}</div>\n',
        script(_CLICK),
    )


def _article(run: Run, site: str, layer: int, neuron: int, given: Mapping[str, NeuronCard]) -> str:
    name = neuron_id(site, layer, neuron)
    whole = given[name].fragment() if name in given else ""
    return (
        f'<article class="neuron" id="{escape(name)}" data-site="{escape(site)}" '
        f'data-layer="{layer}" data-neuron="{neuron}" aria-label="Neuron {escape(name)}">\n'
        f"<h3>{escape(name)}</h3>\n{_ranks(run, site, layer, neuron)}"
        f"{_cultures(run, site, layer, neuron)}{whole}</article>\n"
    )


def _ranks(run: Run, site: str, layer: int, neuron: int) -> str:
    rows = []
    for name, scores in run.scores.items():
        rank, pool = _rank(scores, site, layer, neuron)
        value = float(scores.total(site)[layer, neuron])
        rows.append((name, number(value, ".3g"), f"{rank:,} of {pool:,}"))
    named = [c for c, found in run.specific.items() if (layer, neuron) in found[site]]
    said = f"Also specific to: {', '.join(named)}." if named else "Specific to no single culture."
    return plain_table(("Scores", "S(D)", "Rank"), rows, caption=said)


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
