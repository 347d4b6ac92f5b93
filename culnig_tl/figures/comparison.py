"""Sets of several checkpoints: what they share, and where they lie."""

from collections.abc import Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from culnig_tl.figures.overlap import overlap_matrix
from culnig_tl.figures.profile import layer_profile
from culnig_tl.figures.style import LEGEND, TEXT, axis, layout
from culnig_tl.neurons import NeuronSet


def model_comparison(sets: Mapping[str, NeuronSet], *, seed: int = 0) -> go.Figure:
    """What the sets of several checkpoints share, and in which layers each has its neurons.

    Args:
        sets: the set of each checkpoint by name, as ``compare_models`` gives them.
        seed: seed of the random sets behind the bands.

    Returns:
        ``overlap_matrix`` and ``layer_profile`` side by side.

    Raises:
        InvalidInputError: fewer than two sets, or one without neurons.

    Example:
        >>> base = NeuronSet.of({"mlp.hook_post": [(3, 17), (3, 18)]})
        >>> tuned = NeuronSet.of({"mlp.hook_post": [(3, 18), (1, 5)]})
        >>> [trace.type for trace in model_comparison({"base": base, "tuned": tuned}).data]
        ['heatmap', 'scatter', 'scatter']
    """
    figure = make_subplots(
        1, 2, column_widths=[0.4, 0.6], subplot_titles=["Jaccard index", "Share by layer"]
    )
    figure.add_traces(overlap_matrix(sets).update_traces(showscale=False).data, rows=1, cols=1)
    figure.add_traces(layer_profile(sets, seed=seed).data, rows=1, cols=2)
    figure.update_layout(layout("Culture neurons of checkpoints"), height=420, legend=LEGEND)
    figure.update_layout(legend={"y": -0.25, "yanchor": "top"}, margin={"t": 90, "b": 110})
    figure.update_annotations(font={"size": 13, "color": TEXT})
    figure.update_xaxes(axis(None), row=1, col=1, type="category", showgrid=False)
    figure.update_yaxes(
        axis(None), row=1, col=1, type="category", autorange="reversed", showgrid=False
    )
    figure.update_xaxes(axis("layer"), row=1, col=2, zeroline=False)
    return figure.update_yaxes(axis("share of the set, %"), row=1, col=2, rangemode="tozero")
