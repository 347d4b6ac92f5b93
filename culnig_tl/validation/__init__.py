"""How far can a finding be trusted: known answers, ablation, other questions, other methods."""

from culnig_tl.validation.checkpoints import ModelComparison, compare_models
from culnig_tl.validation.conditional import (
    ConditionalUse,
    CultureProbe,
    conditional_use,
    culture_probe,
)
from culnig_tl.validation.contents import Contents, compare_contents
from culnig_tl.validation.contest import SCORERS, League, Scorer, league
from culnig_tl.validation.faithfulness import Faithfulness, faithfulness
from culnig_tl.validation.first_order import FirstOrder, first_order
from culnig_tl.validation.grading import Grade, ScoreGrade, grade, grade_ranking, grade_scores
from culnig_tl.validation.improvement import TunedFactors, scaled_layers, tune_factors
from culnig_tl.validation.membership import Membership, membership
from culnig_tl.validation.sensitivity import threshold_sweep
from culnig_tl.validation.stability import compare_halves, split_half
from culnig_tl.validation.validate import Validation, validate

__all__ = [
    "SCORERS",
    "ConditionalUse",
    "Contents",
    "CultureProbe",
    "Faithfulness",
    "FirstOrder",
    "Grade",
    "League",
    "Membership",
    "ModelComparison",
    "ScoreGrade",
    "Scorer",
    "TunedFactors",
    "Validation",
    "compare_contents",
    "compare_halves",
    "compare_models",
    "conditional_use",
    "culture_probe",
    "faithfulness",
    "first_order",
    "grade",
    "grade_ranking",
    "grade_scores",
    "league",
    "membership",
    "scaled_layers",
    "split_half",
    "threshold_sweep",
    "tune_factors",
    "validate",
]
