"""One self-contained HTML page of a run.

Nothing on the page comes from elsewhere: styles, plotly.js (once) and data stand in the file, and
its content security policy forbids every request. All text is escaped, every figure has a text that
says what it shows, and tables hold the numbers, so that the page can be read without figures.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from culnig_tl.finetuning import FineTuningStudy
from culnig_tl.html import (
    OLD_BROWSER,
    REPORT_STYLE,
    opening,
    plotly_script,
    with_contents,
    write_page,
)
from culnig_tl.inspection import NeuronCard
from culnig_tl.pipeline import Run
from culnig_tl.report import figure_sections, text_sections
from culnig_tl.report.finetuning import finetuning_section
from culnig_tl.report.neuron_cards import neuron_cards_section
from culnig_tl.report.selectivity import measure_selectivity, selectivity_section
from culnig_tl.report.summary import model_name, three_answers
from culnig_tl.report.validation import write_validation

__all__ = ["write_report", "write_validation"]


def write_report(
    run: Run,
    path: str | Path,
    *,
    cards: Mapping[str, NeuronCard] | None = None,
    membership: pd.DataFrame | None = None,
    finetuning: FineTuningStudy | None = None,
) -> Path:
    """Write the page of a run, whole or not at all.

    Args:
        run: a finished run.
        path: the HTML file to write, at most 3 MB; its folder is made if need be.
        cards: whole cards by neuron, as ``inspect_neurons`` gives them, beside those of the run;
            without one, a neuron's card says how it scores.
        membership: the frame of ``ct.membership``; the cards then say how surely each neuron is in
            the set.
        finetuning: a study of this run's neurons, which gets a section.

    Returns:
        The path.

    Raises:
        InvalidInputError: a frame that is no membership.
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
    top = [
        opening(title, three_answers(run, measure_selectivity(run))),
        text_sections.warnings_note(run),
        text_sections.embedded_model_note(run),
    ]
    sections = [
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
        neuron_cards_section(run, cards or {}, membership),
        text_sections.replies_section(run),
        figure_sections.culture_matrices(run),
        figure_sections.overlap_matrix(run),
        text_sections.layers_section(run),
        text_sections.culture_specific_section(run),
        finetuning_section(finetuning),
        text_sections.settings_section(run),
        text_sections.reproduction_section(run),
    ]
    body = f"<main>\n{''.join(top)}{OLD_BROWSER}{with_contents(''.join(sections))}\n</main>"
    return write_page(path, title=title, body=body, style=REPORT_STYLE, scripts=[plotly_script()])
