"""Neurons by their activations alone: the rivals of attribution that need no gradient.

Over all real positions of a culture's prompts (padding never counts), ``T_c`` of them,

    p_c   = how often the neuron fires / T_c           activation probability
    mean  = sum of its activation / T_c                and its standard deviation over positions
    max   = mean over prompts of its greatest activation
    last  = mean over prompts of its activation at the last position, and standard deviation

A neuron *fires* where its activation is above 0. At ``mlp.hook_post`` that is asked of the
activation function, as the papers below do: in a gated MLP ``act(gate)`` is above 0 where
``mlp.hook_pre`` is, while the sign of ``act(gate) * up`` says nothing of the kind.

*LAPE* (arXiv 2402.16438; with cultures in the place of languages it is CAPE, arXiv 2508.02241):
``p'_c = p_c / sum of p``, entropy ``H = - sum of p'_c ln p'_c``. Neurons of which no ``p_c`` is
above the 95th percentile of all probabilities are left out; of all neurons, the 1 % of lowest
entropy are taken; each belongs to every culture whose ``p_c`` exceeds that percentile. As scores,

    S_c = p'_c ln(C p'_c),      S(D) = sum over c of S_c = ln C - H,      0 for those left out

so that ranking by ``S(D)`` is ranking by lowest entropy. (The authors' code fills up with left-out
neurons where fewer than 1 % are not, and assigns these to nobody; here they are not taken.)

*CAS* (arXiv 2510.24942, later ConAct; the formula as arXiv 2608.08772 restates it):
``S_c = p_c - the second highest p`` for the culture of the highest, 0 for all others. The paper
takes the best share of the neurons of each culture, as ``culture_specific`` does.

*Standardised difference* (this project's reading of contrasting means, no paper's formula):
``S_c = (mean of cultural - mean of control prompts) / pooled standard deviation``.

All of these are averages, not sums over prompts: ``S(D)`` gives every culture the same weight, and
``n_prompts`` of such scores is the number of questions for each (the source has the real numbers).
They have no sign of right or wrong, and no probability of an answer that they could be a share of:
``recipe="selective"`` refuses them.

Memory: six numbers per culture, layer and neuron, in float64, twice; of a batch, one layer's
activations at a time. CAPE's masks are published as pickles, which this package does not load. What
they hold are lists of indices by culture and layer, and such a list is a set:

>>> from culnig_tl.neurons import NeuronSet
>>> indices_by_layer = [[3, 7], [], [1]]
>>> places = [(layer, i) for layer, indices in enumerate(indices_by_layer) for i in indices]
>>> len(NeuronSet.of({"mlp.hook_post": places}))
3
"""

from culnig_tl.activations.contrast import cas, standardised_difference
from culnig_tl.activations.lape import Lape, lape
from culnig_tl.activations.statistics import ActivationStatistics, activation_statistics

__all__ = [
    "ActivationStatistics",
    "Lape",
    "activation_statistics",
    "cas",
    "lape",
    "standardised_difference",
]
