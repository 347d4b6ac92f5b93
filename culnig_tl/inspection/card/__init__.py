"""Everything known about one neuron, on one card.

| part | what it is |
|---|---|
| ranks | its place by ``S(D)`` in each data set's scores, in its pool (MLP; q, k and v) |
| activations | histogram over all text tokens of the rows |
| questions | the prompts in which it is most active, up and down, tokens coloured on one scale |
| off | what setting it to 0 does to ``P(answer)``: a real ablation, beside the scores before it |
| cultures, topics | means over prompts of activation, score and ablation |
| promoted, demoted | the tokens that its output direction writes (``directions``) |
| neighbours | the neurons whose scores rise and fall with its own over prompts |

A prompt's *peak* is the largest activation at its text tokens: special tokens (a BOS, the marks of
a chat template) are left out, since what happens there is the same in every prompt. Two numbers
predict an ablation: the method's score ``P * max_i(a * dP/da)``, and the first-order estimate of
the drop of ``P``, ``sum_i(a * dP/da)``. Drops are ``P(answer) - P(answer, neuron off)``.
"""

from culnig_tl.inspection.card.gathering import inspect_neuron, inspect_neurons
from culnig_tl.inspection.card.shown import Example, NeuronCard

__all__ = ["Example", "NeuronCard", "inspect_neuron", "inspect_neurons"]
