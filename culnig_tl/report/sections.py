"""The sections of text and tables, in the order of the page."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from culnig_tl.atlas import answer_key
from culnig_tl.neurons import neuron_id
from culnig_tl.pipeline import Run
from culnig_tl.pipeline.settings import arguments, given_rows
from culnig_tl.report import words
from culnig_tl.report.page import (
    MINUS,
    Link,
    Row,
    code,
    number,
    paragraph,
    plain_table,
    section,
    table,
)
from culnig_tl.validation import grade, grade_scores

_TOP_NEURONS = 20


def opening(run: Run, title: str) -> str:
    """The title, and what was found in two sentences."""
    lead = paragraph(words.summary(run), style="lead")
    return f"<header>\n<h1>{escape(title)}</h1>\n{lead}</header>\n"


def embedded_model(run: Run) -> str:
    """What a run of the embedded model shows and what it does not; nothing for other models."""
    if not words.is_embedded(run):
        return ""
    note = (
        "The culture neurons of this small model were planted, by training it on interventions. "
        "It demonstrates the method and lets a finder be graded against a known answer; it is no "
        "evidence about where large models keep culture."
    )
    return f"<aside>\n{paragraph(note)}{paragraph(_grades(run))}</aside>\n"


def results(run: Run) -> str:
    """The table of benchmarks and conditions."""
    groups: dict[str, list[Row]] = {}
    for row in run.table.to_dict("records"):
        questions = f"{row['benchmark']} ({row['n_questions']:,} questions)"
        groups.setdefault(questions, []).append(
            (
                row["condition"],
                int(row["n_neurons"]),
                _interval(row, "accuracy", ".1f"),
                number(row["change"], "+.1f"),
                number(row["p_value"], ".4f"),
                number(row["accuracy_sd_of_draws"], ".1f"),
                _interval(row, "probability", ".3f"),
            )
        )
    header = (
        "Benchmark",
        "Condition",
        "Neurons",
        "Accuracy, %",
        "Change",
        "p",
        "SD of sets",
        "Mean P(answer)",
    )
    caption = (
        "Original: the model as it is; general: culture-general neurons scaled by "
        f"{run.settings['factor']:g}; random: as many random neurons, mean of the sets, with "
        "the standard deviation of accuracy between them. Change: accuracy against the original, "
        "in points. p: share of paired bootstrap draws over questions in which the drop is no "
        "larger than that of random neurons. Brackets: 95 % intervals."
    )
    return section("What it does to answers", table(header, groups, caption=caption))


def top_neurons(run: Run) -> str:
    """The culture-general neurons with the best scores."""
    best = run.general.to_frame().head(_TOP_NEURONS)
    if best.empty:
        return ""
    key = set(answer_key("general")) if words.is_embedded(run) else None
    rows = []
    for place, (site, layer, neuron, score) in enumerate(best.itertuples(index=False), start=1):
        parts = [
            number(float(scores.total(site)[layer, neuron]), ".3g")
            for scores in run.scores.values()
        ]
        planted = [] if key is None else ["yes" if (site, layer, neuron) in key else "no"]
        rows.append(
            (
                place,
                site,
                layer,
                Link(str(neuron), neuron_id(site, layer, neuron)),
                number(score, ".3g"),
                *parts,
                *planted,
            )
        )
    header = ["Rank", "Site", "Layer", "Neuron", "Score", *(f"S({name})" for name in run.scores)]
    return section(
        f"The top {len(best)} of {words.neurons(len(run.general))}",
        plain_table(
            header if key is None else [*header, "Planted"],
            rows,
            caption=f"Score: S(cultural) {MINUS} S(control), by which neurons are ranked. "
            "Recognition is the country-name control: neurons that score high there were left out.",
        ),
    )


def layers(run: Run) -> str:
    """Culture-general neurons by layer and site."""
    counts = run.general.per_layer()
    rows = [(n, *line, sum(line)) for n, line in enumerate(counts.to_numpy(dtype=int).tolist())]
    header = ["Layer", *map(str, counts.columns), "all"]
    return section("Culture-general neurons per layer", plain_table(header, rows)) if rows else ""


def culture_specific(run: Run) -> str:
    """How many neurons each culture has for itself."""
    if not run.specific:
        return ""
    own = {
        row["masked"]: row
        for row in run.effects.to_dict("records")
        if row["masked"] == row["tested"]  # a culture's neurons and its own questions
    }
    rows = []
    for culture, neurons in run.specific.items():
        change, probability = (
            (own[culture]["change"], own[culture]["probability_change"])
            if culture in own
            else (float("nan"), float("nan"))
        )
        shared = len(neurons & run.general)
        rows.append(
            (culture, len(neurons), shared, number(change, "+.1f"), number(probability, "+.3f"))
        )
    header = ("Culture", "Neurons", "Also general", "Own accuracy, points", "Own mean P(answer)")
    caption = (
        "Also general: neurons that are culture-general too. Own: what scaling them does to "
        "questions of the same culture."
    )
    return section("Culture-specific neurons", plain_table(header, rows, caption=caption))


def settings(run: Run) -> str:
    """Everything that the result depends on."""
    rows: list[Row] = list(_flat(run.settings))
    scoring = run.scores["cultural"].source
    rows += [
        (f"scores.{name}", str(scoring[name]))
        for name in ("method", "pool", "padding", "weight")
        if name in scoring
    ]
    if n_random := run.settings["n_random"]:
        rows.append(("seeds of the random sets", f"0 to {n_random - 1}" if n_random > 1 else "0"))
    rows.append(("seed of the bootstrap", "0"))
    caption = (
        "Values of twelve hexadecimal digits are fingerprints: they change with model or rows."
    )
    return section("Settings", plain_table(("Setting", "Value"), rows, caption=caption))


def reproduction(run: Run) -> str:
    """The lines of Python that make this run again."""
    said = (
        "The same model, rows and versions give the same neurons and the same table; fingerprints "
        "tell whether they are the same."
    )
    return section("How to reproduce", code(_reproducing(run.settings)), paragraph(said))


def _reproducing(settings: Mapping[str, Any]) -> str:
    lines = [
        *(f"{name}={name},  # your rows: {known}" for name, known in given_rows(settings).items()),
        *(f"{name}={value!r}," for name, value in arguments(settings).items()),
    ]
    return "\n".join(
        [
            "import culnig_tl as ct",
            "",
            f"model = {_loading(settings)}  # fingerprint {settings['model']['fingerprint']}",
            "run = ct.culnig(",
            "    model,",
            "    out='runs/again',",
            *(f"    {line}" for line in lines),
            ")",
            "run.report()",
        ]
    )


def _loading(settings: Mapping[str, Any]) -> str:
    """How the model is loaded, as far as the run knows."""
    name, dtype = settings["model"]["name"], settings["dtype"]
    named = [] if name == "atlas" else [repr(name)]
    typed = [] if dtype == "float32" else [f"dtype={dtype!r}"]
    return f"ct.load_model({', '.join([*named, *typed])})"


def _grades(run: Run) -> str:
    """The found neurons and their ranking against the answer key."""
    key = answer_key("general")
    if missing := [site for site in key.sites if site not in run.scores["cultural"].sites]:
        return f"This run did not score {', '.join(missing)}, where the key is, so it has no grade."
    found = grade(run.general, key)
    ranking = grade_scores(run.scores["cultural"], key, control=run.scores["control"])
    return (
        f"Graded against the {found.n_key} planted culture-general neurons, {found.n_found} found "
        f"at {', '.join(key.sites)}: precision {number(found.precision, '.2f')}, recall "
        f"{found.recall:.2f}, F1 {found.f1:.2f}; the ranking by score has AUROC "
        f"{ranking.auroc:.3f} and average precision {ranking.average_precision:.3f}."
    )


def _interval(row: Mapping[Any, Any], name: str, form: str) -> str:
    value, low, high = (number(row[f"{name}{end}"], form) for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            listed = isinstance(value, list | tuple)
            yield (
                f"{prefix}{name}",
                (", ".join(map(str, value)) or "none") if listed else str(value),
            )
