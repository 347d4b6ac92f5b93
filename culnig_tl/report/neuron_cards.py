"""A card for each of the best culture-general neurons, opened by a click or a link.

A card is open when the page's address ends in its neuron's name; without one, the best neuron's
is. Links therefore need no script; a click on a heatmap's cell sets the address. In print the open
card stands.
"""

from collections.abc import Mapping, Sequence
from html import escape

from culnig_tl.html import (
    FRAGMENT_STYLE,
    MINUS,
    Row,
    number,
    paragraph,
    script,
    section,
    style,
    table,
)
from culnig_tl.inspection import NeuronCard
from culnig_tl.neurons import Neuron
from culnig_tl.pipeline import Run
from culnig_tl.report.summary import best_neurons
from culnig_tl.scores import NeuronScores

MOST_CARDS = 100
_ROOM_FOR_CARDS = 2_000_000  # bytes; twelve of the embedded model take 0.6 million

_OPEN_BY_CLICK = """
const cards = [...document.querySelectorAll('.neuron')];
const links = document.getElementById('cell');
for (const plot of document.querySelectorAll('#general-neurons, #modules, #scores')) {
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
}
"""


def neuron_cards_section(run: Run, more_cards: Mapping[str, NeuronCard]) -> str:
    """Whole cards of the best neurons, and of the next best what their scores say.

    Args:
        run: a finished run.
        more_cards: whole cards by neuron, beside those of the run.
    """
    neurons = [neuron for neuron, _ in best_neurons(run, MOST_CARDS)]
    if not neurons:
        return ""
    whole = _whole_cards(neurons, {**run.cards, **more_cards})
    articles = [_article(run, neuron, whole.get(neuron, "")) for neuron in neurons]
    return section(
        "Neuron by neuron",
        paragraph(_lead(len(neurons), len(whole))),
        '<p id="cell" aria-live="polite"></p>\n',
        style(FRAGMENT_STYLE) if whole else "",
        f'<div class="neurons">\n{"".join(articles)}</div>\n',
        script(_OPEN_BY_CLICK),
    )


def _whole_cards(neurons: Sequence[Neuron], cards: Mapping[str, NeuronCard]) -> dict[Neuron, str]:
    """The cards of these neurons as HTML, as many as the page can carry."""
    fragments: dict[Neuron, str] = {}
    room = _ROOM_FOR_CARDS
    for neuron in neurons:
        if str(neuron) in cards:
            fragment = cards[str(neuron)].fragment()
            room -= len(fragment.encode())
            if room < 0:
                break
            fragments[neuron] = fragment
    return fragments


def _lead(n_cards: int, n_whole: int) -> str:
    kinds = (
        f"{n_whole} of them are whole: tokens, ablations and neighbours; the others say how their "
        "neurons score."
        if n_whole
        else "They say how their neurons score."
    )
    return (
        "Click a cell of a heatmap above, or a neuron's number in the table, to open its card. "
        f"There are cards of the {n_cards} best neurons by S(cultural) {MINUS} S(control). {kinds}"
    )


def _article(run: Run, neuron: Neuron, whole_card: str) -> str:
    name = escape(str(neuron))
    if whole_card:
        content = whole_card + paragraph(_specific_to(run, neuron)) + _breaker_note(run, neuron)
    else:
        content = f"<h3>{name}</h3>\n{_rank_table(run, neuron)}{_culture_table(run, neuron)}"
        content += _breaker_note(run, neuron)
    return (
        f'<article class="neuron" id="{name}" data-site="{escape(neuron.site)}" '
        f'data-layer="{neuron.layer}" data-neuron="{neuron.index}" aria-label="Neuron {name}">\n'
        f"{content}</article>\n"
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
    return table(("Scores", "S(D)", "Rank"), rows, caption=_specific_to(run, neuron))


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
