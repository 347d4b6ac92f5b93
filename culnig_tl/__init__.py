"""Find, look at and switch off the neurons that carry culture in a language model (CULNIG).

>>> import culnig_tl as ct
>>> model = ct.load_model()
>>> rows = ct.load_benchmark("atlas", split="identify")
>>> control = ct.load_benchmark("atlas-control", split="identify")
>>> scores = ct.attribute(model, rows, progress=False)
>>> general = ct.culture_general(scores, ct.attribute(model, control, clamp=True, progress=False))
>>> with ct.scaled_neurons(model, general, factor=0.0):
...     logits = model(rows[0]["prompt"])
"""

from culnig_tl import figures
from culnig_tl.atlas import answer_key
from culnig_tl.attribution import (
    QuestionScores,
    attribute,
    attribute_questions,
    gradient_x_activation,
    integrated_gradients,
)
from culnig_tl.benchmarks import load_benchmark
from culnig_tl.errors import CulnigError
from culnig_tl.estimate import estimate
from culnig_tl.evaluation import (
    accuracy_by,
    compare,
    culture_effects,
    evaluate,
    evaluate_open,
    paper_table,
    published,
    to_latex,
    to_markdown,
)
from culnig_tl.explore import Explorer, explore
from culnig_tl.hooks import DEFAULT_SITES, PAPER_SITES, scaled_neurons
from culnig_tl.inspection import (
    NeuronCard,
    PromptView,
    colored_tokens,
    inspect_neuron,
    inspect_neurons,
    inspect_prompt,
    text_neuron_activations,
    topk_tokens,
)
from culnig_tl.models import load_model
from culnig_tl.neurons import NeuronSet
from culnig_tl.pipeline import Run, culnig
from culnig_tl.questions import (
    Batch,
    Item,
    Template,
    batches,
    control_of,
    questions,
    questions_from_frame,
    render,
    rows_of,
)
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general, culture_specific, random_neurons
from culnig_tl.validation import (
    ablation_effects,
    dose_response,
    grade,
    grade_scores,
    split_half,
    threshold_sweep,
)

__all__ = [
    "DEFAULT_SITES",
    "PAPER_SITES",
    "Batch",
    "CulnigError",
    "Explorer",
    "Item",
    "NeuronCard",
    "NeuronScores",
    "NeuronSet",
    "PromptView",
    "QuestionScores",
    "Run",
    "Template",
    "ablation_effects",
    "accuracy_by",
    "answer_key",
    "attribute",
    "attribute_questions",
    "batches",
    "colored_tokens",
    "compare",
    "control_of",
    "culnig",
    "culture_effects",
    "culture_general",
    "culture_specific",
    "dose_response",
    "estimate",
    "evaluate",
    "evaluate_open",
    "explore",
    "figures",
    "grade",
    "grade_scores",
    "gradient_x_activation",
    "inspect_neuron",
    "inspect_neurons",
    "inspect_prompt",
    "integrated_gradients",
    "load_benchmark",
    "load_model",
    "paper_table",
    "published",
    "questions",
    "questions_from_frame",
    "random_neurons",
    "render",
    "rows_of",
    "scaled_neurons",
    "split_half",
    "text_neuron_activations",
    "threshold_sweep",
    "to_latex",
    "to_markdown",
    "topk_tokens",
]
