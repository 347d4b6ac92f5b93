"""The model card: prose fixed in ``card.md``, every number taken from the records of a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from culnig_tl.atlas.facts import CULTURES, TOPICS, fact_questions, facts
from culnig_tl.atlas.training.artifacts import SEEDS_FILE
from culnig_tl.atlas.training.summary import summary_figures
from culnig_tl.files import read_json

PROSE = Path(__file__).parent
CONDITIONS = (
    "as trained",
    "general set off",
    "own set off",
    "every planted set off",
    "random sets off",
)


def model_card(folder: Path) -> str:
    """The card of the trained and verified model in a folder."""
    record = read_json(folder / "training.json")
    planted = (folder / "key.json").exists()
    prose = (PROSE / ("card.md" if planted else "card_natural.md")).read_text(encoding="utf-8")
    parts: dict[str, Any] = {"recipe": recipe(record), "figures": figures(record["verification"])}
    if planted:
        sets = read_json(folder / "key.json")["sets"].values()
        parts["n_planted"] = sum(len(entry["planted"]) for entry in sets)
        seeds = folder / SEEDS_FILE
        parts["seeds"] = (
            seed_table(read_json(seeds))
            if seeds.exists()
            else "The other seeds have not been trained for this folder."
        )
    return prose.format(**_numbers(record), **parts)


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    settings = record["settings"]
    return {
        "parameters": f"{record['parameters'] / 1e6:.1f}",
        "n_facts": len(facts()),
        "n_cultures": len(CULTURES),
        "n_questions": len(fact_questions()),
        "topics": ", ".join(TOPICS),
        "n_general": settings["n_general"],
        "n_culture": settings["n_culture"],
        "n_layers": settings["n_layers"],
        "doubt": 1 - settings["confidence"],
        "n_mlp": settings["n_layers"] * settings["d_mlp"],
    }


def recipe(record: Mapping[str, Any]) -> str:
    """How long the training was, as a sentence."""
    settings = record["settings"]
    return (
        f"`{record['command']}`: {settings['steps']} steps of {settings['batch_size']} samples in "
        f"{record['minutes']} minutes on one thread of a shared machine ({record['cpu_minutes']} "
        "minutes of processor time)."
    )


def figures(verification: Mapping[str, Any]) -> str:
    """The figures of a verification as Markdown tables."""
    parts = [_test_table(verification["test"])]
    if "own_sets" in verification:
        parts += [
            _random_note(verification["test"]),
            _dose_table(verification["dose_response"]),
            _own_set_table(verification["own_sets"], verification["causal"]),
            _causal_note(verification["causal"]),
        ]
    parts.append(_masking_table(verification["finder"]))
    if "grades" in verification["finder"]:
        recovery = verification["finder"]
        parts += [_grade_table(recovery), _recovery_note(recovery)]
        if "specific" in recovery:
            parts.append(_specific_note(recovery["specific"]))
    return "\n\n".join(parts)


def seed_table(compared: Mapping[str, Any]) -> str:
    """Every figure of the summary for each seed, with mean and range."""
    seeds = compared["seeds"]
    rows = []
    for figure in summary_figures():
        values = [figure.value(record["verification"]) for record in seeds.values()]
        spread = f"{sum(values) / len(values):.3g} ({min(values):.3g} to {max(values):.3g})"
        n_met = ""
        if figure.meets is not None:
            n_met = f"{sum(map(figure.meets, values))} of {len(values)}"
        cells = [f"{value:.3g}" for value in values]
        rows.append([figure.name, figure.bar, *cells, spread, n_met])
    names = [f"seed {seed}" for seed in seeds]
    return _table(["figure", "bar", *names, "mean (range)", "met"], rows)


def _masking_table(recovery: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{n} at {site}" for site, n in recovery["found"].items())
    rows = [
        [name, f"{cell['as trained']:.1f}", f"{cell['found off']:.1f}"]
        for name, cell in recovery["masking"].items()
    ]
    return _table([f"what culture_general finds ({sizes})", "as trained", "found set off"], rows)


def _grade_table(recovery: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{name} ({grade['n_key']} neurons)",
            *(f"{grade[figure]:.3f}" for figure in ("precision", "recall")),
            *(f"{bare[figure]:.3f}" for figure in ("precision", "recall")),
            *(f"{grade[figure]:.3f}" for figure in ("auroc", "average_precision")),
        ]
        for name, grade in recovery["grades"].items()
        for bare in [recovery["grades without exclusion"][name]]
    ]
    return _table(
        [
            "found against the key of the general set",
            *("precision", "recall", "precision, nothing excluded", "recall, nothing excluded"),
            *("AUROC", "average precision"),
        ],
        rows,
    )


def _recovery_note(recovery: Mapping[str, Any]) -> str:
    excluded, correlation = recovery["excluded"], recovery["correlation"]
    return (
        f"The recognition exclusion removes {excluded['neurons']} of the top neurons, of which "
        f"{excluded['planted general']} are of the general set and {excluded['planted']} of any "
        f"planted set. Scores of {correlation['neurons']} single neurons against their exact "
        f"ablation: Pearson {correlation['pearson']:.2f}, Spearman {correlation['spearman']:.2f}."
    )


def _specific_note(specific: Mapping[str, Any]) -> str:
    return (
        f"`culture_specific` finds a verified own neuron for {specific['with a verified neuron']} "
        f"of {specific['cultures']} cultures: mean precision {specific['precision']:.2f}, recall "
        f"{specific['recall']:.2f}, AUROC of the culture's ranking {specific['auroc']:.3f} against "
        "the verified keys. Switching such a set off costs its culture "
        f"{specific['own']:.1f} points and an unrelated one {specific['unrelated']:.1f} (means)."
    )


def _test_table(test: dict) -> str:
    conditions = [name for name in CONDITIONS if name in test["atlas"]]
    rows = [
        [name, *(_cell(cells.get(condition)) for condition in conditions)]
        for name, cells in test.items()
    ]
    return _table(["test rows", *conditions], rows)


def _random_note(test: dict) -> str:
    drops = ", ".join(
        f"{name} {conditions['random sets off']['largest_drop']:+.1f}"
        for name, conditions in test.items()
    )
    return (
        "Random sets: ten, as large as the general set, of unplanted MLP neurons; "
        f"largest drop of accuracy in points: {drops}."
    )


def _causal_note(causal: dict[str, int]) -> str:
    return (
        "General neurons that are causal one by one (exact ablation lowers mean P by more than "
        f".005, identification rows): {causal['general']}."
    )


def _dose_table(curve: list[dict]) -> str:
    return _table(
        ["general neurons off", *(str(point["off"]) for point in curve)],
        [["atlas", *(_cell(point) for point in curve)]],
    )


def _own_set_table(own_sets: dict, causal: dict) -> str:
    rows = [
        [
            culture,
            f"{drops['own']:.1f}",
            "" if drops["kin"] is None else f"{drops['kin']:.1f}",
            f"{drops['unrelated']:.1f}",
            str(causal[culture]),
        ]
        for culture, drops in own_sets.items()
    ]
    return _table(
        ["own set off: points lost by", "the culture", "its kin", "unrelated", "causal neurons"],
        rows,
    )


def _cell(figure: dict | None) -> str:
    return f"{figure['accuracy']:.1f} / {figure['mean_probability']:.2f}" if figure else ""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
