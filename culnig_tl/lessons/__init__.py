"""What the lessons in notebooks/ need beside the package: checks of exercises, the real model.

    answer = ...                       # the student's
    lessons.check_cost(answer, table)  # not yet, right, or wrong and why

| module | what |
|---|---|
| ``verdict`` | what is said of an answer, and how answers are read |
| ``mechanics`` | checks of lessons 0 and 2 |
| ``sets`` | checks of lessons 1, 3, 4 and 5 |
| ``evidence`` | checks of lessons 6, 7 and 8 |
| ``real`` | the real model, or a sentence |
"""

from culnig_tl.lessons.evidence import (
    check_auroc,
    check_columns,
    check_held,
    check_own_rows,
    check_saved,
    check_shared_by_chance,
    check_smallest_p,
    check_wording,
    check_yardstick,
)
from culnig_tl.lessons.mechanics import (
    check_estimate,
    check_missing_shares,
    check_residual_stream,
    check_slope_and_ablation,
    check_switched_off,
    check_underestimated,
)
from culnig_tl.lessons.real import real_model
from culnig_tl.lessons.sets import (
    check_came_in,
    check_carriers,
    check_cost,
    check_difference,
    check_format_neurons,
    check_parts,
    check_precision,
    check_share_of_one,
    check_union,
    check_worst_neighbour,
    check_z_score,
)
from culnig_tl.lessons.verdict import Verdict

__all__ = [
    "Verdict",
    "check_auroc",
    "check_came_in",
    "check_carriers",
    "check_columns",
    "check_cost",
    "check_difference",
    "check_estimate",
    "check_format_neurons",
    "check_held",
    "check_missing_shares",
    "check_own_rows",
    "check_parts",
    "check_precision",
    "check_residual_stream",
    "check_saved",
    "check_share_of_one",
    "check_shared_by_chance",
    "check_slope_and_ablation",
    "check_smallest_p",
    "check_switched_off",
    "check_underestimated",
    "check_union",
    "check_wording",
    "check_worst_neighbour",
    "check_yardstick",
    "check_z_score",
    "real_model",
]
