"""How far can a finding be trusted: grades against a known answer, doses, thresholds."""

from culnig_tl.validation.dose import dose_response
from culnig_tl.validation.grading import Grade, ScoreGrade, grade, grade_scores
from culnig_tl.validation.sensitivity import threshold_sweep

__all__ = ["Grade", "ScoreGrade", "dose_response", "grade", "grade_scores", "threshold_sweep"]
