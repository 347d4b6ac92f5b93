"""Score of every neuron on every question, and of a data set, by one of several methods.

    s[l,k](q) = P(y|x) * max over real positions i of share[l,k,i]

    gradient_x_activation       share = a * dP/da
    integrated_gradients        share = mean over factors f of  a * dP / d(f a)
    relp, relp_frozen_attention, gim
                                share = a * dP/da, by the rules of another backward pass (``rules``)
    atp_star                    share = a * dP/da; at queries and keys the fall of P where their
                                softmax is recomputed without the neuron (``attention``)
    gradient                    share = dP/da
    activation_x_weight_norm    share = a * length of the output weights (``methods``)

``P(y|x)`` is the softmax probability of the right label's token at the last position, over the
whole vocabulary; ``a`` the activation ``a[l,k,i]`` at a site. Multiply a neuron by a factor, as
``scaled_neurons`` does: ``a * dP/da`` is the derivative of ``P`` by that factor at 1, and its mean
over factors from 0 to 1 is integrated gradients (arXiv 1703.01365). A positive score says that the
neuron carries the right answer: to first order it is the drop of ``P`` when the neuron is set to
zero (arXiv 2510.08284). With ``target`` another number stands in the place of ``P`` in the share:
its logarithm, or a difference of logits (see ``targets``).

Departures from the published code:

* It fills padding with 0 before the maximum, so that a question's score depends on the prompts that
  share its batch. Here padding is left out; ``padding="zero"`` gives the published numbers.
* Integrated gradients, which it does not have, take the midpoints ``(j + 1/2) / steps`` of the
  factor, on one of two paths. ``path="layer"`` scales one layer of a site at a time (arXiv
  2104.08696); ``path="joint"`` scales all its layers by the same factor, and the activations of
  upper layers are those that follow from the scaled lower ones. Every site has its own path, the
  others left as they are. Where a norm follows the site, factors crowd towards 0 instead, where the
  whole change is (see ``quadrature``).
* Along a path the scores of all neurons and positions add up to ``P(factor 1) - P(factor 0)``; how
  nearly they do is measured in every run (see ``completeness``), and a warning says where they do
  not.

Memory: scores are reduced inside the backward pass, one hook point at a time, to one number per
neuron and question; no tensor of layer x batch x pos x neuron is ever held. Products and maxima are
taken in float32 (float64 in a float64 model), sums over questions in float64. Only the last
position is unembedded, and parameters are not differentiated.

Long runs show questions per second and the time left, keep a checkpoint, take smaller batches where
memory runs out, and share questions among processes (see ``attribute``).
"""

from culnig_tl.attribution.checkpoint import read_sums, write_sums
from culnig_tl.attribution.dataset import (
    QuestionScores,
    Scoring,
    attribute,
    attribute_questions,
    partial_sums,
    scores_of_sums,
)
from culnig_tl.attribution.distributed import launched, require_single_process
from culnig_tl.attribution.gradients import (
    Residuals,
    StartPoint,
    last_mlp_trimmed,
    recording,
    starting_at,
)
from culnig_tl.attribution.methods import (
    METHODS,
    OwnMethod,
    gradient_x_activation,
    integrated_gradients,
    method_name,
)
from culnig_tl.attribution.targets import Target, answer_probability, check_target

__all__ = [
    "METHODS",
    "OwnMethod",
    "QuestionScores",
    "Residuals",
    "Scoring",
    "StartPoint",
    "Target",
    "answer_probability",
    "attribute",
    "attribute_questions",
    "check_target",
    "gradient_x_activation",
    "integrated_gradients",
    "last_mlp_trimmed",
    "launched",
    "method_name",
    "partial_sums",
    "read_sums",
    "recording",
    "require_single_process",
    "scores_of_sums",
    "starting_at",
    "write_sums",
]
