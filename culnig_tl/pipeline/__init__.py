"""The whole method in one call: score, select, mask, compare; resumable.

Stages, in order, each a file that is written whole or not at all:

| stage | file |
|---|---|
| settings, with fingerprints of model and data | settings.json |
| scores of cultural questions, control, country names, general ones | scores/*.safetensors |
| culture-general and culture-specific neurons | neurons/general.json, neurons/specific/*.json |
| which of the selected neurons break the model (where a benchmark is general) | breakers.json |
| answers, one file per benchmark, condition and set | answers/BENCHMARK/CONDITION-SET.parquet |
| the same at further factors | answers/BENCHMARK/CONDITION@FACTOR-SET.parquet |
| the same in slices of a large benchmark | answers/BENCHMARK/CONDITION-SET.SLICE.parquet |
| answers under each culture's neurons | answers_of_cultures/specific/CULTURE.parquet |
| accuracy and mean P(answer) by benchmark and condition | table.csv |
| culture x culture effects of the specific neurons | culture_effects.csv |
| whole cards of the best culture-general neurons | cards/NEURON.json |
| dose and response of the culture-general neurons | doses.csv |

Conditions: ``original``, ``general`` (culture-general neurons scaled), in a selective run
``published`` (those of the published rule), where a set has breakers the set ``without breakers``
(see ``evaluation.breakers``), ``random`` and, where asked for, ``layer-matched``
(random sets of the same number, the latter layer by layer), each at every factor; files of other
factors than the first are called CONDITION@FACTOR-SET.

A run that was stopped goes on where it was when it is called again with the same settings; other
settings in the same folder are an error, never a mixture. Every file says what made it and is used
only by a run that would make the same; a damaged one is set aside and made again, with a warning.
One run at a time writes into a folder; a finished run opens without writing anything.

The work of a run is shared among processes and machines: see ``pipeline.work``. What it finds does
not depend on how many there were. Scores may also be made beforehand, as ``culnig-tl score`` does,
into ``scores/`` of the run's folder: ``cultural``, ``control`` (clamped) and ``recognition``; a run
checks that they are what it would make itself, and goes on from there.
"""

from culnig_tl.pipeline.estimate import Plan, estimate
from culnig_tl.pipeline.on_ray import OnRay
from culnig_tl.pipeline.questions import atlas_benchmarks
from culnig_tl.pipeline.run import Run, culnig
from culnig_tl.pipeline.settings import Settings, given_rows
from culnig_tl.pipeline.work import Engine

__all__ = [
    "Engine",
    "OnRay",
    "Plan",
    "Run",
    "Settings",
    "atlas_benchmarks",
    "culnig",
    "estimate",
    "given_rows",
]
