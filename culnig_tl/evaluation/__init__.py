"""What happens to answers when neurons are scaled.

| module | stage |
|---|---|
| answers | ``evaluate``: one row a prompt, with the model as it is or with neurons scaled |
| bootstrap | intervals and p-values over questions |
| summary | ``summarise``, ``accuracy_by``: measures in percent, with intervals |
| comparison | ``compare``, ``culture_effects``: several conditions side by side |
| generation, open_answers | ``evaluate_open``: written answers against those of annotators |
| published | the paper's own figures, to stand beside one's own |
| tables | the paper's table as text, in Markdown and in LaTeX |

An answer is correct when the arg-max token at the last position, decoded, equals the label
(arXiv 2510.08284); beside it stands ``P(y|x)``, which moves before accuracy does.
"""

from culnig_tl.evaluation.answers import Condition, Mode, alignment, condition_answers, evaluate
from culnig_tl.evaluation.comparison import compare, culture_effects
from culnig_tl.evaluation.open_answers import evaluate_open
from culnig_tl.evaluation.published import published
from culnig_tl.evaluation.summary import accuracy_by, summarise
from culnig_tl.evaluation.tables import paper_table, to_latex, to_markdown

__all__ = [
    "Condition",
    "Mode",
    "accuracy_by",
    "alignment",
    "compare",
    "condition_answers",
    "culture_effects",
    "evaluate",
    "evaluate_open",
    "paper_table",
    "published",
    "summarise",
    "to_latex",
    "to_markdown",
]
