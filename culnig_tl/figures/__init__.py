"""Plotly figures, returned and never shown.

Each function turns a result into a ``go.Figure``: the last expression of a notebook cell, or a
part of a report. Nothing global is touched. Backgrounds are transparent and text is mid-grey, so a
figure reads on light and on dark pages; colours are safe for colour-blind readers (Okabe and Ito's
for conditions, a scale that only brightens for amounts, red to blue through white for changes,
always centred on 0). Neurons are binned before plotting: 48 layers of 15,360 neurons stay below
300 kB of JSON. Layer 0, which reads the input, is the lowest row.

Names are drawn as they are written: Plotly's own markup (``<b>``) in them is escaped.

A figure of your own is a function that returns a ``go.Figure``; ``figures.style`` gives it this
look, and ``bin_scores`` the bins of the heatmap.
"""

from culnig_tl.figures import style
from culnig_tl.figures.bars import comparison_bars
from culnig_tl.figures.binning import SiteBins, bin_scores
from culnig_tl.figures.comparison import model_comparison
from culnig_tl.figures.curves import dose_response, threshold_sweep
from culnig_tl.figures.distribution import score_distribution
from culnig_tl.figures.faithfulness import faithfulness, first_order
from culnig_tl.figures.heatmap import layer_heatmap
from culnig_tl.figures.matrix import culture_matrix
from culnig_tl.figures.overlap import overlap_matrix
from culnig_tl.figures.profile import layer_profile
from culnig_tl.figures.saving import save_figure
from culnig_tl.figures.scatter import league, selectivity
from culnig_tl.figures.tokens import token_attribution
from culnig_tl.figures.trade_off import trade_off

__all__ = [
    "SiteBins",
    "bin_scores",
    "comparison_bars",
    "culture_matrix",
    "dose_response",
    "faithfulness",
    "first_order",
    "layer_heatmap",
    "layer_profile",
    "league",
    "model_comparison",
    "overlap_matrix",
    "save_figure",
    "score_distribution",
    "selectivity",
    "style",
    "threshold_sweep",
    "token_attribution",
    "trade_off",
]
