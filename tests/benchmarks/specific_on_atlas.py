"""Neurons of one culture: the published rule against the contrast with every other culture.

    python tests/benchmarks/specific_on_atlas.py [FOLDER ...] [--real] [--out docs/real-model.md]

On embedded models, against their keys: cultures with a verified own neuron among those selected,
and what switching each culture's set off costs on the test rows (points of accuracy, means over
cultures): the culture itself, cultures unrelated to it, its kin. Without a folder, the shipped
model (seed 0); ``make atlas-seeds`` trains the others into ``build/atlas/seed-1`` and ``seed-2``.

With ``--real``, on SmolLM2 instead: relations of split 0 of ``real_model.py``, those of one half in
the first wording to find with, those of the other in the second to test with. For each country's
set, the relative fall of its mean P(answer) minus the mean fall of the other countries'; 95 %
intervals by drawing relations. ``--folder`` holds the scores; about twenty minutes on one
core.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import results

import culnig_tl as ct
from culnig_tl.atlas import EMBEDDED
from culnig_tl.atlas.key import planted_set
from culnig_tl.cultures import kin_of
from culnig_tl.evaluation import answers
from culnig_tl.files import read_json
from culnig_tl.hooked_model import HookedModel
from culnig_tl.questions import Rows
from culnig_tl.selection import SpecificRecipe

ROLES = {"cultural": "atlas", "control": "atlas-control", "recognition": "atlas-countries"}
CONTROLS = ("control", "recognition", "general")
RULES: Mapping[str, tuple[SpecificRecipe, Sequence[str]]] = {
    "published": ("published", ("control", "recognition")),
    "selective": ("selective", CONTROLS),
    "contrast": ("contrast", ()),
    "contrast, with controls": ("contrast", ("control", "recognition")),
}
"""Recipes, and which scores they take beside those of cultural questions."""
ON_ATLAS = ("published", "contrast", "contrast, with controls")
ON_REAL = ("selective", "contrast", "contrast, with controls")
KEY = "the verified key itself"
N_DRAWS = 2000

Sets = Mapping[str, ct.NeuronSet]
"""Neurons by the culture they were selected for."""


def main() -> None:
    """The table of the embedded models, or of the real one."""
    parser = results.parser(__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[EMBEDDED["atlas"]])
    parser.add_argument("--real", action="store_true", help="the pretrained model instead")
    parser.add_argument("--folder", type=Path, default=Path("build/real-specific"))
    parser.add_argument("--split", choices=("test", "identify"), default="test")
    arguments = parser.parse_args()
    lines = real_lines(arguments.folder) if arguments.real else atlas_lines(arguments)
    results.show("\n".join(lines), arguments.out)


def sets_by(rule: str, scores: Mapping[str, ct.NeuronScores]) -> dict[str, ct.NeuronSet]:
    """Every culture's neurons by a rule."""
    recipe, controls = RULES[rule]
    given = [scores[role] if role in controls else None for role in CONTROLS]
    return {
        culture: ct.culture_specific(scores["cultural"], *given, culture=culture, recipe=recipe)
        for culture in scores["cultural"].cultures
    }


def atlas_lines(arguments: argparse.Namespace) -> list[str]:
    """One line per model and rule."""
    lines = [
        "# Neurons of one culture on the embedded model",
        "",
        f"`python tests/benchmarks/specific_on_atlas.py`; cost on the {arguments.split} rows, in "
        "points of accuracy, of each culture's set switched off; means over the cultures.",
        "",
        "| model | rule | with a verified own neuron | own cost | unrelated | kin | neurons |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for folder in arguments.folders:
        name = "seed 0" if folder.resolve() == EMBEDDED["atlas"].resolve() else folder.name
        model, key = ct.load_model(folder), read_json(folder / "key.json")
        rows = ct.load_benchmark("atlas", split=arguments.split)
        scores = atlas_scores(model)
        true = {each: planted_set(key, each, verified=True) for each in scores["cultural"].cultures}
        for rule in (*ON_ATLAS, KEY):
            sets = true if rule == KEY else sets_by(rule, scores)
            n_verified = sum(len(own & true[culture]) > 0 for culture, own in sets.items())
            cost = " | ".join(f"{each:.1f}" for each in costs(model, rows, sets))
            size = sum(map(len, sets.values())) / len(sets)
            lines.append(f"| {name} | {rule} | {n_verified} of {len(sets)} | {cost} | {size:.1f} |")
    return lines


def atlas_scores(model: HookedModel) -> dict[str, ct.NeuronScores]:
    """Scores of the identification rows and of the paper's controls, as published."""
    return {
        role: ct.attribute(
            model,
            ct.load_benchmark(name, split="identify"),
            clamp=role == "control",
            progress=False,
        )
        for role, name in ROLES.items()
    }


def costs(model: HookedModel, rows: Rows, sets: Sets) -> tuple[float, float, float]:
    """Mean cost of a set to its own culture, to unrelated ones and to kin, in points."""
    effects = ct.culture_effects(model, rows, sets, progress=False)
    cost = -effects.set_index(["masked", "tested"])["change"]
    pairs = list(permutations(sets, 2))
    kin = [(one, other) for one, other in pairs if other in kin_of(one)]
    unrelated = [pair for pair in pairs if pair not in kin]
    of_groups = [[(each, each) for each in sets], unrelated, kin]
    own, of_unrelated, of_kin = (float(cost[group].mean()) for group in of_groups)
    return own, of_unrelated, of_kin


def real_lines(folder: Path) -> list[str]:
    """One line per rule."""
    import real_model

    real_model.cached(folder / "known.parquet", real_model.known_topics)
    real_model.find(folder, 0)
    scores = {
        role: ct.NeuronScores.load(folder / "split-0" / f"{role}.safetensors")
        for role in ("cultural", *CONTROLS)
    }
    tests = [real_model.tests(folder, 0)[name] for name in real_model.CULTURAL]
    original = probabilities(tests, ct.NeuronSet.of({}))
    lines = [
        "# Neurons of one country in SmolLM2",
        "",
        "`python tests/benchmarks/specific_on_atlas.py --real`; split 0, held-out relations in "
        f"another wording ({original.shape[1]} relations); relative fall of mean P(answer), means "
        f"over {len(original)} countries; brackets: 95 % intervals over relations.",
        "",
        "| rule | neurons | own falls, % | others fall, % | difference, points | own further |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for rule in ON_REAL:
        sets = sets_by(rule, scores)
        masked = {culture: probabilities(tests, own) for culture, own in sets.items()}
        size = sum(map(len, sets.values())) / len(sets)
        lines.append(f"| {rule} | {size:.0f} | {' | '.join(falls(original, masked))} |")
        print(lines[-1], flush=True)
    return lines


def probabilities(tests: list[ct.PreparedQuestions], neurons: ct.NeuronSet) -> pd.DataFrame:
    """Mean P(answer) with neurons off: one row per country, one column per relation."""
    frame = pd.concat([answers(each, neurons, 0.0, mode="options") for each in tests])
    return frame.pivot_table(index="culture", columns="topic", values="probability")


def falls(original: pd.DataFrame, masked: Mapping[str, pd.DataFrame]) -> list[str]:
    """The cells of a rule: falls of own and others, their difference, and for how many it is
    above 0."""
    stacked = np.stack([masked[culture].to_numpy() for culture in original.index])
    own, others = own_and_others(original.to_numpy(), stacked)
    n_topics = original.shape[1]
    generator = np.random.default_rng(0)
    drawn = [
        own_and_others(original.to_numpy()[:, topics], stacked[:, :, topics])
        for topics in generator.integers(n_topics, size=(N_DRAWS, n_topics))
    ]
    pairs = {
        "own": (own.mean(), [one.mean() for one, _ in drawn]),
        "others": (others.mean(), [other.mean() for _, other in drawn]),
        "difference": ((own - others).mean(), [(one - other).mean() for one, other in drawn]),
    }
    cells = [with_interval(value, draws) for value, draws in pairs.values()]
    return [*cells, f"{(own > others).sum()} of {len(own)}"]


def own_and_others(original: np.ndarray, masked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each country's set, the fall of the country itself and the mean fall of the others.

    ``original`` is country by relation (NaN where a country has no such question), ``masked`` one
    such table per country's set.
    """
    fall = 1 - np.nanmean(masked, 2) / np.nanmean(original, 1)
    own = fall.diagonal()
    return own, (fall.sum(1) - own) / (len(own) - 1)


def with_interval(value: float, draws: list[float]) -> str:
    """A share in percent with its interval."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{100 * value:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


if __name__ == "__main__":
    main()
