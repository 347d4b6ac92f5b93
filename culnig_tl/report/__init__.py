"""One self-contained HTML page of a run.

Nothing on the page comes from elsewhere: styles, plotly.js (once) and data stand in the file, and
its content security policy forbids every request. All text is escaped, every figure has a text that
says what it shows, and tables hold the numbers, so that the page can be read without figures.
"""

from collections.abc import Mapping
from pathlib import Path

from culnig_tl.files import replacing
from culnig_tl.inspection import NeuronCard
from culnig_tl.pipeline import Run
from culnig_tl.report import graphics, sections, words
from culnig_tl.report.cards import neuron_cards
from culnig_tl.report.page import document

__all__ = ["write_report"]


def write_report(
    run: Run, path: str | Path, *, cards: Mapping[str, NeuronCard] | None = None
) -> Path:
    """Write the page of a run, whole or not at all.

    Args:
        run: a finished run.
        path: the HTML file to write, about 5 MB; its folder is made if need be.
        cards: whole cards by neuron, as ``inspect_neurons`` gives them, beside those of the run;
            without one, a neuron's card says how it scores.

    Returns:
        The path.

    Raises:
        UnwritableError: the folder cannot be made or written.

    Example:
        >>> import tempfile, culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=64)
        >>> run = ct.culnig(ct.load_model(), out=tempfile.mkdtemp(), cultural=rows, control=rows,
        ...                 benchmarks={"culture": rows}, n_random=1, progress=False)
        >>> write_report(run, run.out / "report.html").name
        'report.html'
    """
    path = Path(path)
    title = f"Culture neurons of {words.model_name(run)}"
    parts = [
        sections.opening(run, title),
        sections.embedded_model(run),
        sections.results(run),
        graphics.comparison(run),
        graphics.doses(run),
        graphics.neurons(run),
        graphics.modules(run),
        graphics.depth(run),
        graphics.scores(run),
        graphics.distribution(run),
        graphics.thresholds(run),
        sections.top_neurons(run),
        neuron_cards(run, cards or {}),
        graphics.cultures(run),
        graphics.overlaps(run),
        sections.layers(run),
        sections.culture_specific(run),
        sections.settings(run),
        sections.reproduction(run),
    ]
    with replacing(path) as part:
        part.write_text(document(title, parts), encoding="utf-8")
    return path
