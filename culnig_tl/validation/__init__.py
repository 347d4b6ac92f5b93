"""How far can a finding be trusted: grades against a known answer."""

from culnig_tl.validation.grading import Grade, ScoreGrade, grade, grade_scores

__all__ = ["Grade", "ScoreGrade", "grade", "grade_scores"]
