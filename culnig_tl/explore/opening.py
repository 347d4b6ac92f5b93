"""From a model and questions to a live inspector."""

from collections.abc import Mapping

from culnig_tl.attribution import attribute
from culnig_tl.errors import check_number
from culnig_tl.explore.state import Explorer
from culnig_tl.hooked_model import HookedModel
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare, questions
from culnig_tl.scores import NeuronScores


def explore(
    model: HookedModel,
    rows: Rows,
    *,
    scores: NeuronScores | None = None,
    sets: Mapping[str, NeuronSet] | None = None,
    control: NeuronScores | None = None,
    n_seen: int = 64,
    progress: bool = True,
) -> Explorer:
    """Open the live inspector of a model; the last expression of a notebook cell shows it.

    Args:
        model: a frozen model with named hook points.
        rows: questions, or prepared ones; the first is the prompt to begin with.
        scores: what the heatmap shows; by default the scores of ``rows``.
        sets: neurons by name that can be drawn, and scaled together, e.g. ``{"general": general}``.
        control: scores of the same rows without the question, which the heatmap can subtract.
        n_seen: questions, spread over ``rows``, that cards are made from; more take longer.
        progress: show a progress bar while questions are scored.

    Raises:
        InvalidInputError: rows that cannot be used, no question for cards, or a control of other
            neurons than the scores.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> explore(ct.load_model(), rows, progress=False).targets
        ('this neuron', 'marked neurons')
    """
    check_number("n_seen", n_seen, low=1, whole=True)
    if scores is None:
        rows = prepare(model, rows)
        scores = attribute(model, rows, progress=progress)
    rows = rows if isinstance(rows, PreparedQuestions) else questions(rows)
    seen = rows.select(range(0, len(rows), -(-len(rows) // n_seen)))
    return Explorer(model, seen, scores=scores, sets=sets or {}, control=control)
