"""The contest of methods: which way of scoring and selecting finds the right neurons?

| module | what it has |
|---|---|
| entrants | what competes: a way of scoring, and a recipe that selects |
| scoring | what all entrants share, and their scores |
| agreement | scores against the exact ablation of single neurons |
| held_out | the selectivity of every set |
| table | ``league``, which holds them against each other |
"""

from culnig_tl.validation.contest.entrants import SCORERS, Scorer, selected
from culnig_tl.validation.contest.held_out import keep_answers
from culnig_tl.validation.contest.scoring import Data, check_data
from culnig_tl.validation.contest.table import League, league

__all__ = [
    "SCORERS",
    "Data",
    "League",
    "Scorer",
    "check_data",
    "keep_answers",
    "league",
    "selected",
]
