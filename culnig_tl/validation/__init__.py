"""How far can a finding be trusted: a known answer, thresholds, halves."""

from culnig_tl.validation.grading import Grade, ScoreGrade, grade, grade_scores
from culnig_tl.validation.membership import Membership, membership
from culnig_tl.validation.sensitivity import threshold_sweep
from culnig_tl.validation.stability import split_half

__all__ = [
    "Grade",
    "Membership",
    "ScoreGrade",
    "grade",
    "grade_scores",
    "membership",
    "split_half",
    "threshold_sweep",
]
