"""How far can a finding be trusted: known answers, ablation, other questions, other methods."""

from culnig_tl.validation.contest import SCORERS, League, Scorer, league
from culnig_tl.validation.faithfulness import Faithfulness, faithfulness
from culnig_tl.validation.first_order import FirstOrder, first_order
from culnig_tl.validation.grading import Grade, ScoreGrade, grade, grade_ranking, grade_scores
from culnig_tl.validation.membership import Membership, membership
from culnig_tl.validation.sensitivity import threshold_sweep
from culnig_tl.validation.stability import compare_halves, split_half
from culnig_tl.validation.validate import Validation, validate

__all__ = [
    "SCORERS",
    "Faithfulness",
    "FirstOrder",
    "Grade",
    "League",
    "Membership",
    "ScoreGrade",
    "Scorer",
    "Validation",
    "compare_halves",
    "faithfulness",
    "first_order",
    "grade",
    "grade_ranking",
    "grade_scores",
    "league",
    "membership",
    "split_half",
    "threshold_sweep",
    "validate",
]
