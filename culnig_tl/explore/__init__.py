"""The live inspector: look at neurons, scale them, watch the answer move.

``explore`` gives an ``Explorer``: the state behind the widgets, whose methods change it. Everything
it shows can be had without a browser.

| module | what |
|---|---|
| ``opening`` | ``explore``: questions scored, where need be, and an ``Explorer`` of them |
| ``state`` | ``Explorer``: what is looked at, scaled and asked, and the HTML of all three |
| ``first_look``, ``recorded`` | an ablation within a second, from the layer of the neuron on |
| ``score_views``, ``search``, ``tray`` | scores shown, neurons found, neurons put aside |
| ``widgets`` | controls that call an ``Explorer`` and show what it answers |
| ``canvas``, ``still`` | the heatmap that takes clicks, and the one that does not |

The pass over all neurons is made once and kept; cards are those of ``inspect_neuron``, made a few
prompts at a time while clicks and the slider are answered in between.

JupyterLab, Notebook 7 and VS Code show the widgets (``pip install culnig-tl[notebooks]``); where
none run, heatmap, answers and card stand as plain HTML. Nothing is fetched from a network.
"""

from culnig_tl.explore.opening import explore
from culnig_tl.explore.state import Explorer

__all__ = ["Explorer", "explore"]
