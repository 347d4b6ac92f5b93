"""The model card: prose fixed here, every number taken from training.json and key.json."""

from culnig_tl.atlas.facts import CULTURES, DATA, TOPICS, facts, questions

CONDITIONS = (
    "as trained",
    "general set off",
    "own set off",
    "every planted set off",
    "random sets off",
)


def model_card(record: dict, key: dict) -> str:
    """The card of a trained and verified model."""
    settings = record["settings"]
    planted = sum(len(entry["planted"]) for entry in key["sets"].values())
    return (
        (DATA / "card.md")
        .read_text(encoding="utf-8")
        .format(
            parameters=f"{record['parameters'] / 1e6:.1f}",
            n_facts=len(facts()),
            n_cultures=len(CULTURES),
            n_questions=len(questions()),
            topics=", ".join(TOPICS),
            command=record["command"],
            minutes=record["minutes"],
            cpu_minutes=record["cpu_minutes"],
            threads=record["threads"],
            steps=settings["steps"],
            batch=settings["batch_size"],
            n_general=settings["n_general"],
            n_culture=settings["n_culture"],
            n_layers=settings["n_layers"],
            doubt=1 - settings["confidence"],
            n_planted=planted,
            n_mlp=settings["n_layers"] * settings["d_mlp"],
            figures=figures(record["verification"]),
        )
    )


def figures(verification: dict) -> str:
    """The figures of a verification as Markdown tables."""
    return "\n\n".join(
        (
            _test_table(verification["test"]),
            _random_note(verification["test"]),
            _dose_table(verification["dose_response"]),
            _own_set_table(verification["own_sets"], verification["causal"]),
            _causal_note(verification["causal"]),
        )
    )


def _test_table(test: dict) -> str:
    rows = [
        [name, *(_cell(conditions.get(condition)) for condition in CONDITIONS)]
        for name, conditions in test.items()
    ]
    return _table(["test rows", *CONDITIONS], rows)


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
