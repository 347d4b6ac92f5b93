"""Fine-tuning where culture lives, and where it does not.

    neurons -> rank_modules: how many of them each layer's MLP and attention holds
            -> select_modules: the densest or emptiest modules, to a budget of parameters
            -> finetune: exactly those parameters move; the result is a Hugging Face folder
    protect: these neurons' own weights stay as they are inside otherwise trained modules

| module | what |
|---|---|
| ``modules`` | the ranking of modules, and the choice among them |
| ``parameters`` | the weight matrices of a module, by the names that transformers gives them |
| ``protection`` | neurons whose weights no optimizer moves |
| ``examples`` | rows as token ids with the answer's tokens marked |
| ``training`` | the training itself, by transformers' Trainer and peft |
| ``finished`` | the folder of a fine-tuned model, and the record of what made it |
| ``study``, ``pieces``, ``changes`` | what each arm gains and costs, over seeds |
| ``drift`` | how far neurons' weights and activations moved |
"""

from culnig_tl.finetuning.drift import drift
from culnig_tl.finetuning.finished import FineTuned
from culnig_tl.finetuning.modules import rank_modules, select_modules
from culnig_tl.finetuning.parameters import parameter_names
from culnig_tl.finetuning.protection import MovedWeightsError, Protection, protect
from culnig_tl.finetuning.study import ARMS, Arm, FineTuningStudy, finetuning_study
from culnig_tl.finetuning.training import finetune

__all__ = [
    "ARMS",
    "Arm",
    "FineTuned",
    "FineTuningStudy",
    "MovedWeightsError",
    "Protection",
    "drift",
    "finetune",
    "finetuning_study",
    "parameter_names",
    "protect",
    "rank_modules",
    "select_modules",
]
