"""The live inspector: look at neurons, scale them, watch the answer move.

``explore`` gives an ``Explorer``, the state behind what is seen: methods change it, and everything
it shows can be had without a browser. In JupyterLab, Notebook 7 and VS Code it shows itself as
widgets (``pip install culnig-tl[notebooks]``); where none run it shows what it knows as plain HTML
and says so. Nothing is fetched from a network.
"""

from culnig_tl.explore.state import Explorer, explore

__all__ = ["Explorer", "explore"]
