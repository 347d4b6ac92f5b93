"""From scores to neurons: culture-general, culture-specific, random.

| module | rule |
|---|---|
| general | ``culture_general``: what cultural questions need whatever the culture |
| specific | ``culture_specific``: what one culture's questions need |
| at_random | ``random_neurons``: as many, drawn |
| ranking | what all rules share: recipes, pools, ties, and which scores can be compared |

Ties keep layer-then-neuron order, so the same scores always give the same set.
``mlp.hook_pre_linear`` (the published ``up_proj``) is scored but never selected; a site of your own
is ranked in the pool that it names (see ``sites``).
"""

from culnig_tl.selection.at_random import random_neurons
from culnig_tl.selection.general import culture_general, select_general, usual_attention_top
from culnig_tl.selection.ranking import (
    Normalise,
    Recipe,
    SpecificRecipe,
    check_shares,
    location,
)
from culnig_tl.selection.specific import check_several_cultures, culture_specific

__all__ = [
    "Normalise",
    "Recipe",
    "SpecificRecipe",
    "check_several_cultures",
    "check_shares",
    "culture_general",
    "culture_specific",
    "location",
    "random_neurons",
    "select_general",
    "usual_attention_top",
]
