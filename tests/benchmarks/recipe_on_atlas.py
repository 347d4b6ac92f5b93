"""The selective recipe on the embedded model, against its key, each step of it off once.

    python tests/benchmarks/recipe_on_atlas.py [FOLDER ...] [--out docs/real-model.md]

Without a folder, the shipped model (seed 0); ``make atlas-seeds`` trains the others into
``build/atlas/seed-0``, ``seed-1`` and ``seed-2``. The general questions are the identification half
of common sense, ordering and entailment; precision and recall are of MLP neurons against the
sixteen planted general ones.
"""

from pathlib import Path

import results

import culnig_tl as ct
from culnig_tl.atlas import EMBEDDED
from culnig_tl.atlas.key import planted_set
from culnig_tl.files import read_json

GENERAL = ("atlas-commonsense", "atlas-ordering", "atlas-entailment")
ROLES = {"cultural": "atlas", "control": "atlas-control", "recognition": "atlas-countries"}
STEPS = ("selective", "no control", "no country names", "no shares", "no general")


def scores_of(folder: Path) -> dict[str, ct.NeuronScores]:
    """Scores of cultural questions and of every control."""
    model = ct.load_model(folder)
    rows = {role: ct.load_benchmark(name, split="identify") for role, name in ROLES.items()}
    rows["general"] = ct.questions(
        [row for name in GENERAL for row in ct.load_benchmark(name, split="identify").to_list()]
    )
    clamped = ("control", "general")
    return {
        role: ct.attribute(model, each, clamp=role in clamped, progress=False)
        for role, each in rows.items()
    }


def selected(scores: dict[str, ct.NeuronScores], step: str) -> ct.NeuronSet:
    """The MLP neurons of the selective recipe, one step off."""
    control = None if step == "no control" else scores["control"]
    recognition = None if step == "no country names" else scores["recognition"]
    paper = (scores["cultural"], control, recognition)
    if step == "no general":
        return ct.culture_general(*paper, attention_top=0.0)
    normalise = "none" if step == "no shares" else "share"
    return ct.culture_general(*paper, scores["general"], recipe="selective", normalise=normalise)


def main() -> None:
    """One line per step, one pair of columns per model."""
    parser = results.parser(__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[EMBEDDED["atlas"]])
    arguments = parser.parse_args()
    found = {}
    for folder in arguments.folders:
        scores, key = scores_of(folder), read_json(folder / "key.json")
        for step in STEPS:
            grade = ct.grade(selected(scores, step), planted_set(key, "general"))
            found[step, folder] = f"{grade.n_found}: {grade.precision:.2f}, {grade.recall:.2f}"
    names = [
        "seed 0" if folder.resolve() == EMBEDDED["atlas"].resolve() else folder.name
        for folder in arguments.folders
    ]
    lines = [
        "# The recipe on the embedded model",
        "",
        "`python tests/benchmarks/recipe_on_atlas.py`; MLP neurons found: precision and recall "
        "against the planted general ones. Without general questions it is the published rule.",
        "",
        f"| step off | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
        *(
            f"| {'nothing' if step == 'selective' else step} | "
            f"{' | '.join(found[step, folder] for folder in arguments.folders)} |"
            for step in STEPS
        ),
    ]
    results.show("\n".join(lines), arguments.out)


if __name__ == "__main__":
    main()
