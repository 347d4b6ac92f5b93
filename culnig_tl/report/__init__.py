"""One self-contained HTML page of a run.

Nothing on the page comes from elsewhere: styles, plotly.js (once) and data stand in the file, and
its content security policy forbids every request. All text is escaped, every figure has a text that
says what it shows, and tables hold the numbers, so that the page can be read without figures.
"""

from collections.abc import Mapping
from pathlib import Path

from plotly.offline import get_plotlyjs

from culnig_tl.html import REPORT_STYLE, write_page
from culnig_tl.inspection import NeuronCard
from culnig_tl.pipeline import Run
from culnig_tl.report import figure_sections, text_sections
from culnig_tl.report.neuron_cards import neuron_cards_section
from culnig_tl.report.selectivity import selectivity_section
from culnig_tl.report.summary import model_name
from culnig_tl.report.validation import write_validation

__all__ = ["write_report", "write_validation"]

_NO_SCRIPT = "<noscript><p>The figures need JavaScript; text and tables do not.</p></noscript>\n"


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
        >>> rows, control = (ct.load_benchmark(name, split="identify", limit=64)
        ...                  for name in ("atlas", "atlas-control"))
        >>> test = ct.load_benchmark("atlas", split="test", limit=64)
        >>> run = ct.culnig(ct.load_model(), out=tempfile.mkdtemp(), cultural=rows, control=control,
        ...                 benchmarks={"culture": test}, n_random=1, progress=False)
        >>> write_report(run, run.out / "report.html").name
        'report.html'
    """
    title = f"Culture neurons of {model_name(run)}"
    parts = [
        text_sections.title_and_summary(run, title),
        text_sections.embedded_model_note(run),
        text_sections.warnings_note(run),
        selectivity_section(run),
        text_sections.results_section(run),
        figure_sections.accuracy_bars(run),
        figure_sections.dose_curves(run),
        figure_sections.neuron_heatmap(run),
        figure_sections.module_heatmap(run),
        figure_sections.layer_profile(run),
        text_sections.completeness_section(run),
        figure_sections.score_heatmap(run),
        figure_sections.score_histograms(run),
        figure_sections.threshold_curves(run),
        text_sections.top_neurons_section(run),
        neuron_cards_section(run, cards or {}),
        figure_sections.culture_matrices(run),
        figure_sections.overlap_matrix(run),
        text_sections.layers_section(run),
        text_sections.culture_specific_section(run),
        text_sections.settings_section(run),
        text_sections.reproduction_section(run),
    ]
    body = f"<main>\n{_NO_SCRIPT}{''.join(parts)}\n</main>"
    return write_page(path, title=title, body=body, style=REPORT_STYLE, scripts=[get_plotlyjs()])
