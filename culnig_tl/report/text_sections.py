"""The sections of text and tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from culnig_tl.atlas import answer_key
from culnig_tl.attribution import METHODS
from culnig_tl.evaluation import condition_labels
from culnig_tl.html import (
    MINUS,
    Link,
    Row,
    Term,
    code,
    folded,
    grouped_table,
    number,
    paragraph,
    section,
    table,
    with_style,
)
from culnig_tl.inspection import GLOSSARY
from culnig_tl.pipeline import Run, Settings, given_rows
from culnig_tl.report import summary
from culnig_tl.validation import grade, grade_scores

_TOP_NEURONS = 20
_SCORING = ("method", "pool", "padding", "weight")
_INCOMPLETE = 0.05  # above it, attribution warns


def embedded_model_note(run: Run) -> str:
    """What a run of the embedded model shows and what it does not; nothing for other models."""
    if not summary.is_embedded(run):
        return ""
    note = (
        "The culture neurons of this small model were planted, by training it on interventions. "
        "It demonstrates the method and lets a finder be graded against a known answer; it is no "
        "evidence about where large models keep culture."
    )
    return f"<aside>\n{paragraph(note)}{paragraph(_grades(run))}</aside>\n"


def warnings_note(run: Run) -> str:
    """What a reader must know before the numbers; nothing where there is nothing."""
    if not run.warnings:
        return ""
    return f"<aside>\n{''.join(paragraph(f'Warning: {each}') for each in run.warnings)}</aside>\n"


def results_section(run: Run) -> str:
    """The table of benchmarks and conditions."""
    labels = condition_labels(run.table)
    groups: dict[str, list[Row]] = {}
    for label, row in zip(labels, run.table.to_dict("records"), strict=True):
        benchmark = f"{row['benchmark']} ({row['n_questions']:,} questions)"
        groups.setdefault(benchmark, []).append(_result_row(label, row))
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
    return section("What it does to answers", grouped_table(header, groups, caption=caption))


def completeness_section(run: Run) -> str:
    """How nearly integrated gradients add up, per site and role; nothing for other methods."""
    by_role = {role: scores.completeness_by_site for role, scores in run.scores.items()}
    sites = dict.fromkeys(site for figures in by_role.values() for site in figures)
    if not sites:
        return ""
    rows = [(site, *(_in_percent(each, site) for each in by_role.values())) for site in sites]
    caption = (
        "In %, summed over questions: how far the sum of all neurons' integrated gradients is from "
        "the change of P(answer) when their site is suppressed. 0 is perfect."
    )
    return section(
        "Whether scores add up",
        _incompleteness(by_role),
        table(("Site", *by_role), rows, caption=caption),
    )


def top_neurons_section(run: Run) -> str:
    """The culture-general neurons with the best scores."""
    best = summary.best_neurons(run, _TOP_NEURONS)
    if not best:
        return ""
    key = set(answer_key("general")) if summary.is_embedded(run) else None
    rows = []
    for rank, (neuron, score) in enumerate(best, start=1):
        link = Link(str(neuron.index), str(neuron))
        scores = [
            float(scores.total(neuron.site)[neuron.layer, neuron.index])
            for scores in run.scores.values()
        ]
        numbers = [number(each, ".3g") for each in (score, *scores)]
        planted = [] if key is None else ["yes" if neuron in key else "no"]
        rows.append((rank, neuron.site, neuron.layer, link, *numbers, *planted))
    of_roles = [Term(f"S({name})", GLOSSARY["S(D)"]) for name in run.scores]
    header = ["Rank", "Site", "Layer", "Neuron", "Score", *of_roles]
    caption = (
        f"Score: S(cultural) {MINUS} S(control), by which neurons are ranked. Recognition is the "
        "country-name control: neurons that score high there were left out."
    )
    return section(
        f"The top {len(best)} of {summary.count_of_neurons(len(run.general))}",
        table(header if key is None else [*header, "Planted"], rows, caption=caption),
    )


def replies_section(run: Run) -> str:
    """What the model writes with and without the neurons; nothing where nothing was written."""
    if run.replies is None:
        return ""
    n_changed = run.replies.n_changed
    return section(
        "What the model says",
        paragraph(
            f"{n_changed} of {len(run.replies.frame)} replies change, of the first questions of "
            "each culture, as they are asked. A reply is cut after some words, and greedy: where "
            "one word changes, those after it may follow."
        ),
        folded("All of them, side by side", with_style(run.replies.fragment())),
    )


def layers_section(run: Run) -> str:
    """Culture-general neurons by layer and site."""
    counts = run.general.per_layer()
    rows = [(n, *line, sum(line)) for n, line in enumerate(counts.to_numpy(dtype=int).tolist())]
    header = ["Layer", *map(str, counts.columns), "all"]
    return section("Culture-general neurons per layer", table(header, rows)) if rows else ""


def culture_specific_section(run: Run) -> str:
    """How many neurons each culture has for itself, and what they do to its own questions."""
    if not run.specific:
        return ""
    own_effects = {
        row["masked"]: row
        for row in run.effects.to_dict("records")
        if row["masked"] == row["tested"]
    }
    rows = []
    for culture, neurons in run.specific.items():
        effect = own_effects.get(culture, {})
        change = number(effect.get("change", float("nan")), "+.1f")
        probability = number(effect.get("probability_change", float("nan")), "+.3f")
        n_general = len(neurons & run.general)
        rows.append((culture, len(neurons), n_general, change, probability))
    header = ("Culture", "Neurons", "Also general", "Own accuracy, points", "Own mean P(answer)")
    caption = (
        "Also general: neurons that are culture-general too. Own: what scaling them does to "
        "questions of the same culture."
    )
    return section("Culture-specific neurons", table(header, rows, caption=caption))


def settings_section(run: Run) -> str:
    """Everything that the result depends on."""
    source = run.scores["cultural"].source
    n_random = run.settings["n_random"]
    rows: list[Row] = [
        *_flat({name: value for name, value in run.settings.items() if name not in _SCORING}),
        *((f"scores.{name}", str(source[name])) for name in _SCORING if name in source),
    ]
    if n_random:
        rows.append(("seeds of the random sets", f"0 to {n_random - 1}" if n_random > 1 else "0"))
    rows.append(("seed of the bootstrap", "0"))
    caption = "Values of 12 or 16 hexadecimal digits are fingerprints of the rows and of the model."
    return section("Settings", table(("Setting", "Value"), rows, caption=caption))


def reproduction_section(run: Run) -> str:
    """The lines of Python that make this run again."""
    note = (
        "The same model, rows and versions give the same neurons and the same table; fingerprints "
        "tell whether they are the same."
    )
    return section("How to reproduce", code(_code_of(run.settings)), paragraph(note))


def _result_row(label: str, row: Mapping[Any, Any]) -> Row:
    return (
        label,
        int(row["n_neurons"]),
        _interval(row, "accuracy", ".1f"),
        number(row["change"], "+.1f"),
        number(row["p_value"], ".4f"),
        number(row["accuracy_sd_of_draws"], ".1f"),
        _interval(row, "probability", ".3f"),
    )


def _in_percent(figures: Mapping[str, float], site: str) -> str:
    """The completeness of a site; a dash where these scores have none."""
    return number(100 * figures.get(site, float("nan")), ".1f")


def _incompleteness(by_role: Mapping[str, Mapping[str, float]]) -> str:
    """The sites whose scores do not add up, and what helps; nothing where all do."""
    failing = [
        f"{site} ({role}) by {_in_percent(figures, site)} %"
        for role, figures in by_role.items()
        for site, figure in figures.items()
        if figure > _INCOMPLETE
    ]
    if not failing:
        return ""
    return paragraph(
        f"These scores do not add up to what suppression changes: they are off at "
        f"{', '.join(failing)}, and above {100 * _INCOMPLETE:g} % they cannot be relied on. Score "
        "the same questions by ct.attribute with more steps, with nodes='geometric' or in float32, "
        "and see whether the same neurons come out."
    )


def _interval(row: Mapping[Any, Any], name: str, form: str) -> str:
    value, low, high = (number(row[f"{name}{end}"], form) for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def _grades(run: Run) -> str:
    """How the selected neurons and their ranking agree with the answer key."""
    key = answer_key("general")
    if missing := [site for site in key.sites if site not in run.scores["cultural"].sites]:
        return f"This run did not score {', '.join(missing)}, where the key is, so it has no grade."
    selection = grade(run.general, key)
    ranking = grade_scores(run.scores["cultural"], key, control=run.scores["control"])
    return (
        f"Graded against the {selection.n_key} planted culture-general neurons, "
        f"{selection.n_found} found at {', '.join(key.sites)}: precision "
        f"{number(selection.precision, '.2f')}, recall {selection.recall:.2f}, F1 "
        f"{selection.f1:.2f}; the ranking by score has AUROC {ranking.auroc:.3f} and average "
        f"precision {ranking.average_precision:.3f}."
    )


def _code_of(settings: Mapping[str, Any]) -> str:
    """A call of ``culnig`` with these settings."""
    arguments = Settings.from_json(settings).arguments()
    method = arguments.get("method", "gradient_x_activation")
    of_prompts = [f"{k}={v!r}" for k, v in settings.get("prompts", {}).items() if k != "date"]
    yours = f"your rows, ct.prepare(..., {', '.join(of_prompts)})" if of_prompts else "your rows"
    lines = [
        *(f"{name}={name},  # {yours}: {rows}" for name, rows in given_rows(settings).items()),
        *(f"{name}={value!r}," for name, value in arguments.items() if name != "method"),
    ]
    if method in METHODS and "method" in arguments:
        lines.append(f"method={method!r},")
    elif "method" in arguments:
        lines.append(f"method=method,  # your own: {method}")
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
    options = [] if name == "atlas" else [repr(name)]
    if dtype != "float32":
        options.append(f"dtype={dtype!r}")
    return f"ct.load_model({', '.join(options)})"


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names, with dots, and values of nested settings."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(map(str, value)) or "none"
        else:
            yield f"{prefix}{name}", str(value)
