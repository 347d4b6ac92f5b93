"""The live inspector: look at neurons, scale them, watch the answer move.

``explore`` gives an ``Explorer``: the state behind the widgets, whose methods change it. Everything
it shows can be had without a browser.

| module | what |
|---|---|
| ``state`` | ``Explorer``: what is looked at, scaled and asked, and the HTML of all three |
| ``widgets`` | controls that call an ``Explorer`` and show what it answers |
| ``canvas`` | the heatmap that takes clicks |

JupyterLab, Notebook 7 and VS Code show the widgets (``pip install culnig-tl[notebooks]``); where
none run, heatmap, answers and card stand as plain HTML. Nothing is fetched from a network.
"""

from culnig_tl.explore.state import Explorer, explore

__all__ = ["Explorer", "explore"]
