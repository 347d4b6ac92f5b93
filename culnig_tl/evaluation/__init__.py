"""What happens to answers when neurons are scaled.

| module | stage |
|---|---|
| answers | ``evaluate``: one row per prompt, with the model as it is or with neurons scaled |
| conditions | ``Condition``: which neurons are scaled by what; answers under several of them |
| bootstrap | intervals and p-values over questions and over clusters of them |
| summary | ``summarise``, ``accuracy_by``: measures in percent, with intervals |
| selectivity | ``selectivity``, ``verdict``: do cultural questions lose more than general ones? |
| breakers | ``breakers``: neurons of a set that break the model whatever it is asked |
| chance | ``chance_warning``: does the model as it is answer better than chance? |
| trust | sentences on what makes numbers misleading: shared rows, few questions, ... |
| effects | ``compare``, ``culture_effects``: several conditions side by side |
| doses | ``dose_response``: factors from 0 to 2 |
| ablation | ``ablation_effects``: each neuron by itself, the judge of every score |
| generation, open_answers | ``evaluate_open``: written answers against those of annotators |
| published | the paper's own figures, to stand beside one's own |
| tables | the paper's table as text, in Markdown and in LaTeX |

An answer is correct when the arg-max token at the last position, decoded, equals the label
(arXiv 2510.08284); beside it stands ``P(y|x)``, which moves before accuracy does.
"""

from culnig_tl.evaluation import tables
from culnig_tl.evaluation.ablation import Drops, ablation_drops, ablation_effects
from culnig_tl.evaluation.answers import NOTHING, Mode, answers, check_answerable, evaluate
from culnig_tl.evaluation.bootstrap import (
    STAR,
    interval,
    rank_p_value,
    relative_fall,
    resampled_falls,
)
from culnig_tl.evaluation.breakers import Breakers, breakers
from culnig_tl.evaluation.chance import asks_for_letters, chance_warning, correct_of_original
from culnig_tl.evaluation.conditions import (
    Condition,
    Design,
    Keep,
    Measurement,
    answers_under,
    check_conditions,
    measurements,
)
from culnig_tl.evaluation.doses import FACTORS, dose_response
from culnig_tl.evaluation.effects import compare, culture_effects, effects_of
from culnig_tl.evaluation.generation import greedy_replies
from culnig_tl.evaluation.open_answers import evaluate_open
from culnig_tl.evaluation.selectivity import (
    ENOUGH_SETS,
    general_by_topic,
    has_selectivity,
    selectivity,
    selectivity_of_sets,
    with_selectivity,
)
from culnig_tl.evaluation.summary import LAYER_MATCHED, accuracy_by, condition_labels, summarise
from culnig_tl.evaluation.trust import (
    control_exceeds,
    few_questions,
    no_general,
    one_culture,
    rows_in_common,
    same_rows,
    warn,
)
from culnig_tl.evaluation.verdict import verdict

__all__ = [
    "ENOUGH_SETS",
    "FACTORS",
    "LAYER_MATCHED",
    "NOTHING",
    "STAR",
    "Breakers",
    "Condition",
    "Design",
    "Drops",
    "Keep",
    "Measurement",
    "Mode",
    "ablation_drops",
    "ablation_effects",
    "accuracy_by",
    "answers",
    "answers_under",
    "asks_for_letters",
    "breakers",
    "chance_warning",
    "check_answerable",
    "check_conditions",
    "compare",
    "condition_labels",
    "control_exceeds",
    "correct_of_original",
    "culture_effects",
    "dose_response",
    "effects_of",
    "evaluate",
    "evaluate_open",
    "few_questions",
    "general_by_topic",
    "greedy_replies",
    "has_selectivity",
    "interval",
    "measurements",
    "no_general",
    "one_culture",
    "rank_p_value",
    "relative_fall",
    "resampled_falls",
    "rows_in_common",
    "same_rows",
    "selectivity",
    "selectivity_of_sets",
    "summarise",
    "tables",
    "verdict",
    "warn",
    "with_selectivity",
]
