"""Everything known about one neuron, and which neurons carry one answer.

| module | what |
|---|---|
| ``observation`` | one pass over questions: scores of all neurons, activations of a few |
| ``directions`` | what a neuron writes into the residual stream, and what that does to logits |
| ``build_card``, ``card_tables`` | from questions to cards: ``inspect_neuron(s)`` |
| ``seen_questions`` | cards of one neuron after the other, on questions scored once |
| ``neuron_card`` | the card, which shows itself in Jupyter, as a page and in a file |
| ``continuations`` | ``generate``, ``replies_to``: what the model writes before and after scaling |
| ``prompt`` | ``inspect_prompt``: the neurons that carry the answer to one prompt |
"""

from culnig_tl.inspection.build_card import inspect_neuron, inspect_neurons
from culnig_tl.inspection.card_tables import (
    GLOSSARY,
    check_membership,
    membership_sentence,
    plain_name,
    share_of_resamples,
)
from culnig_tl.inspection.continuations import Continuations, generate, replies_to
from culnig_tl.inspection.directions import logit_effects, output_direction
from culnig_tl.inspection.neuron_card import Example, NeuronCard
from culnig_tl.inspection.observation import KeptScores
from culnig_tl.inspection.prompt import Prompt, PromptView, inspect_prompt
from culnig_tl.inspection.seen_questions import SeenQuestions

__all__ = [
    "GLOSSARY",
    "Continuations",
    "Example",
    "KeptScores",
    "NeuronCard",
    "Prompt",
    "PromptView",
    "SeenQuestions",
    "check_membership",
    "generate",
    "inspect_neuron",
    "inspect_neurons",
    "inspect_prompt",
    "logit_effects",
    "membership_sentence",
    "output_direction",
    "plain_name",
    "replies_to",
    "share_of_resamples",
]
