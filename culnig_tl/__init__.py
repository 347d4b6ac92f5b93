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

from importlib import import_module
from importlib.metadata import version
from typing import Any

from culnig_tl import figures
from culnig_tl.activations import activation_statistics, cas, lape, standardised_difference
from culnig_tl.atlas import answer_key
from culnig_tl.attribution import (
    attribute,
    attribute_questions,
    gradient_x_activation,
    integrated_gradients,
)
from culnig_tl.benchmarks import load_benchmark
from culnig_tl.errors import CulnigError
from culnig_tl.evaluation import (
    Condition,
    ablation_effects,
    accuracy_by,
    compare,
    culture_effects,
    dose_response,
    evaluate,
    evaluate_open,
    selectivity,
    tables,
)
from culnig_tl.explore import explore
from culnig_tl.export import bake
from culnig_tl.figures import save_figure
from culnig_tl.finetuning import (
    finetune,
    finetuning_study,
    parameter_names,
    protect,
    rank_modules,
    select_modules,
)
from culnig_tl.hooks import scaled_neurons
from culnig_tl.html import circuitsvis
from culnig_tl.inspection import generate, inspect_neuron, inspect_neurons, inspect_prompt
from culnig_tl.models import load_model
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.pipeline import OnRay, Run, culnig, estimate
from culnig_tl.questions import (
    PreparedQuestions,
    control_of,
    prepare,
    questions,
    questions_from_frame,
    render,
    split,
)
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general, culture_specific, random_neurons
from culnig_tl.sites import DEFAULT_SITES, PAPER_SITES
from culnig_tl.validation import (
    compare_contents,
    compare_models,
    conditional_use,
    culture_probe,
    faithfulness,
    first_order,
    grade,
    grade_scores,
    league,
    membership,
    split_half,
    threshold_sweep,
    tune_factors,
)

__version__ = version("culnig-tl")

__all__ = [
    "DEFAULT_SITES",
    "PAPER_SITES",
    "Condition",
    "CulnigError",
    "Neuron",
    "NeuronScores",
    "NeuronSet",
    "OnRay",
    "PreparedQuestions",
    "Run",
    "ablation_effects",
    "accuracy_by",
    "activation_statistics",
    "answer_key",
    "attribute",
    "attribute_questions",
    "bake",
    "cas",
    "circuitsvis",
    "compare",
    "compare_contents",
    "compare_models",
    "conditional_use",
    "control_of",
    "culnig",
    "culture_effects",
    "culture_general",
    "culture_probe",
    "culture_specific",
    "dose_response",
    "estimate",
    "evaluate",
    "evaluate_open",
    "explore",
    "faithfulness",
    "figures",
    "finetune",
    "finetuning_study",
    "first_order",
    "generate",
    "grade",
    "grade_scores",
    "gradient_x_activation",
    "inspect_neuron",
    "inspect_neurons",
    "inspect_prompt",
    "integrated_gradients",
    "lape",
    "league",
    "load_benchmark",
    "load_model",
    "membership",
    "parameter_names",
    "prepare",
    "protect",
    "questions",
    "questions_from_frame",
    "random_neurons",
    "rank_modules",
    "render",
    "save_figure",
    "scaled_neurons",
    "select_modules",
    "selectivity",
    "split",
    "split_half",
    "standardised_difference",
    "tables",
    "threshold_sweep",
    "tune_factors",
]

_IN_ROOMS = {
    "Batch": "questions",
    "Explorer": "explore",
    "Item": "questions",
    "NeuronCard": "inspection",
    "PromptView": "inspection",
    "QuestionScores": "attribution",
    "Template": "questions",
    "batches": "questions",
    "colored_tokens": "html.circuitsvis",
    "harness": "export",
    "paper_table": "evaluation.tables",
    "published": "evaluation.tables",
    "rows_of": "questions",
    "text_neuron_activations": "html.circuitsvis",
    "to_latex": "evaluation.tables",
    "to_markdown": "evaluation.tables",
    "topk_tokens": "html.circuitsvis",
}
"""Names of version 0.1 that live in a room now; ``ct.NAME`` still finds them."""


def __getattr__(name: str) -> Any:
    if name not in _IN_ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_IN_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
