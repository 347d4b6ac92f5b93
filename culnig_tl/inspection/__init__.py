"""Everything known about one neuron, and which neurons carry one answer.

``inspect_neuron`` gives a card of one neuron, ``inspect_neurons`` those of several. Cards show
themselves in Jupyter and are written as pages of their own; they hold no script and ask for
nothing. ``colored_tokens``, ``text_neuron_activations`` and ``topk_tokens`` are views of
CircuitsVis, whose script they bring along.
"""

from culnig_tl.inspection.card import Example, NeuronCard, inspect_neuron, inspect_neurons
from culnig_tl.inspection.circuitsvis import colored_tokens, text_neuron_activations, topk_tokens
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
    "colored_tokens",
    "inspect_neuron",
    "inspect_neurons",
    "inspect_prompt",
    "text_neuron_activations",
    "token_texts",
    "topk_tokens",
]
