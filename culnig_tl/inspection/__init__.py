"""Everything known about one neuron, and which neurons carry one answer.

``inspect_neuron`` gives a card of one neuron, ``inspect_neurons`` those of several. Cards show
themselves in Jupyter and are written as pages of their own; they hold no script and ask for
nothing.
"""

from culnig_tl.inspection.card import Example, NeuronCard, inspect_neuron, inspect_neurons
from culnig_tl.inspection.pages import STYLE
from culnig_tl.inspection.prompt import Prompt, PromptView, inspect_prompt
from culnig_tl.inspection.tokens import ColouredTokens, Html, token_texts

__all__ = [
    "STYLE",
    "ColouredTokens",
    "Example",
    "Html",
    "NeuronCard",
    "Prompt",
    "PromptView",
    "inspect_neuron",
    "inspect_neurons",
    "inspect_prompt",
    "token_texts",
]
