"""Statistics of activations against literal loops over plain models; LAPE, CAS and contrasts
against loops, and against statistics whose answer is known."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import NaiveLlama, PlainTransformers

import culnig_tl as ct
from culnig_tl.activations import ActivationStatistics
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.questions import prepare

SITES = ("mlp.hook_post", "mlp.hook_pre", "attn.hook_q", "attn.hook_v")
NAMES = ("probability", "mean", "deviation", "maximum", "last", "last_deviation")
TOLERANCE = {"hooked": 1e-10, "bridge": 2e-4}  # float64; float32 through transformers' own forward


def statistics_of(model, rows, **options) -> ActivationStatistics:
    return ct.activation_statistics(model, rows, **{"sites": SITES, "progress": False, **options})


def toy(probability, *, site: str = "mlp.hook_post", **changes) -> ActivationStatistics:
    """Statistics that say so of the probabilities, [culture][neuron] in one layer."""
    values = {site: torch.tensor(probability, dtype=torch.float64)[:, None]}
    n = len(probability)
    toy_statistics = ActivationStatistics(
        **dict.fromkeys(NAMES, values),
        cultures=tuple("ABCDEFGH"[:n]),
        n_positions=(100,) * n,
        n_prompts=(10,) * n,
        n_questions=10,
        source={"sites": [site], "model": "m", "model_name": "toy", "data": "d"},
    )
    return replace(toy_statistics, **changes)


def naive_statistics(twin, prompts, cultures, place):
    """By culture, then by name, a list over neurons: every position of every prompt, one by one."""
    site, layer = place
    fires_at = "mlp.hook_pre" if site == "mlp.hook_post" else site
    seen = {culture: {"fires": [], "all": [], "max": [], "last": []} for culture in cultures}
    for ids, culture in zip(prompts, cultures, strict=True):
        recorded = {}

        def watch(at, in_layer, activation, recorded=recorded):
            recorded[at, in_layer] = activation.tolist()
            return activation

        with torch.no_grad():
            twin.logits(ids, watch)
        of_prompt = recorded[site, layer]
        for values, gates in zip(of_prompt, recorded[fires_at, layer], strict=True):
            seen[culture]["all"].append(values)
            seen[culture]["fires"].append([float(gate > 0) for gate in gates])
        seen[culture]["max"].append([max(column) for column in zip(*of_prompt, strict=True)])
        seen[culture]["last"].append(of_prompt[-1])
    return {
        culture: {
            "probability": columns(lists["fires"], mean),
            "mean": columns(lists["all"], mean),
            "deviation": columns(lists["all"], deviation),
            "maximum": columns(lists["max"], mean),
            "last": columns(lists["last"], mean),
            "last_deviation": columns(lists["last"], deviation),
        }
        for culture, lists in seen.items()
    }


def columns(lines, reduce):
    return [reduce(column) for column in zip(*lines, strict=True)]


def mean(values):
    return math.fsum(values) / len(values)


def deviation(values):
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / len(values))


def naive_lape(probability, *, top, quantile):
    """[culture][neuron] -> entropies, the threshold, and the neurons of each culture."""
    n_cultures, n_neurons = len(probability), len(probability[0])
    ordered = sorted(p for line in probability for p in line)
    threshold = ordered[max(1, round(quantile * len(ordered))) - 1]
    entropies = []
    for neuron in range(n_neurons):
        total = sum(probability[c][neuron] for c in range(n_cultures))
        shares = [probability[c][neuron] / total for c in range(n_cultures)] if total else []
        entropies.append(-sum(share * math.log(share) for share in shares if share))
    eligible = [n for n in range(n_neurons) if max(line[n] for line in probability) > threshold]
    best = sorted(eligible, key=lambda n: entropies[n])[: round(top * n_neurons)]
    return entropies, threshold, [[n for n in best if line[n] > threshold] for line in probability]


def is_tied(entropies, members):
    """Whether a neuron inside has the entropy of one outside, so that rounding decides."""
    outside = [value for n, value in enumerate(entropies) if n not in members]
    return any(abs(entropies[n] - other) < 1e-9 for n in members for other in outside)


# ---------------------------------------------------------------- statistics


@pytest.fixture(scope="module")
def naive(folders):
    return {"hooked": NaiveLlama(folders[2]), "bridge": PlainTransformers(folders[2])}


@pytest.mark.parametrize("place", [("mlp.hook_post", 1), ("mlp.hook_pre", 0), ("attn.hook_q", 2)])
def test_every_average_is_that_of_a_loop_over_positions(either, naive, rows, place):
    backend = "hooked" if either.cfg.dtype == torch.float64 else "bridge"
    prepared = prepare(either, rows)
    statistics = statistics_of(either, prepared)
    expected = naive_statistics(naive[backend], prepared.prompts, rows["culture"], place)
    site, layer = place
    for i, culture in enumerate(statistics.cultures):
        for name in NAMES:
            values = getattr(statistics, name)[site][i, layer]
            wanted = torch.tensor(expected[culture][name], dtype=torch.float64)
            error = (values - wanted).abs().max().item()
            assert error < TOLERANCE[backend], (culture, name, error)


def test_a_gated_neuron_fires_where_its_gate_is_open(model, rows):
    statistics = statistics_of(model, rows)
    fires = statistics.probability["mlp.hook_post"]
    assert fires.equal(statistics.probability["mlp.hook_pre"])
    above_zero = []
    for prompt in prepare(model, rows).prompts:
        _, cache = model.run_with_cache(torch.tensor([prompt]))
        above_zero.append((cache["blocks.1.mlp.hook_post"][0] > 0).double())
    overall = torch.cat(above_zero).mean(0)
    weights = torch.tensor(statistics.n_positions).double()
    of_all = (fires[:, 1] * weights[:, None]).sum(0) / weights.sum()
    assert (of_all - overall).abs().max() > 0.1, "the sign of the output says something else"


def test_counts_are_those_of_real_positions(model, rows):
    prepared = prepare(model, rows)
    statistics = statistics_of(model, prepared)
    lengths = dict.fromkeys(statistics.cultures, 0)
    for prompt, culture in zip(prepared.prompts, rows["culture"], strict=True):
        lengths[culture] += len(prompt)
    assert statistics.cultures == ("B", "A", "C")
    assert statistics.n_positions == tuple(lengths.values())
    assert statistics.n_prompts == (2, 3, 1)
    assert statistics.n_questions == 4
    assert repr(statistics).endswith(f"3 cultures, 6 prompts, {sum(lengths.values())} positions")


def test_neither_padding_nor_order_counts(model, rows):
    together = statistics_of(model, rows)
    longest = max(map(len, prepare(model, rows).prompts))
    alone = statistics_of(model, rows, token_budget=longest)
    turned = statistics_of(model, rows.select(range(len(rows))[::-1]))
    for name in NAMES:
        for site, values in getattr(together, name).items():
            torch.testing.assert_close(getattr(alone, name)[site], values, rtol=0, atol=1e-10)
            other = getattr(turned, name)[site]
            lines = [turned.cultures.index(culture) for culture in together.cultures]
            torch.testing.assert_close(other[lines], values, rtol=0, atol=1e-10)


def test_a_pass_that_ran_out_of_memory_is_not_counted_twice(model, rows, monkeypatch):
    expected = statistics_of(model, rows)
    forward, calls = type(model).forward, []

    def forward_until_full(self, *args, **options):
        output = forward(self, *args, **options)
        calls.append(len(output))
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return output

    monkeypatch.setattr(type(model), "forward", forward_until_full)
    statistics = statistics_of(model, rows)
    assert len(calls) > 2
    assert statistics.n_prompts == expected.n_prompts
    torch.testing.assert_close(statistics.mean, expected.mean, rtol=0, atol=1e-10)


def test_rows_without_culture_are_one_group(model, rows):
    nameless = rows.map(lambda row: {**row, "culture": ""})
    whole, by_culture = statistics_of(model, nameless), statistics_of(model, rows)
    assert (whole.cultures, whole.n_prompts) == (("",), (6,))
    weights = torch.tensor(by_culture.n_positions).double() / sum(by_culture.n_positions)
    for site in SITES:
        pooled = torch.einsum("c,cln->ln", weights, by_culture.mean[site])
        torch.testing.assert_close(whole.mean[site][0], pooled, rtol=0, atol=1e-12)


def test_half_precision_is_summed_up_exactly(loaded, rows):
    statistics = statistics_of(loaded(2, "hooked", "bfloat16"), rows)
    exact = statistics_of(loaded(2, "hooked", "float64"), rows)
    for site in SITES:
        assert statistics.mean[site].dtype == torch.float64
        assert (statistics.mean[site] - exact.mean[site]).abs().max() < 0.1
        counts = statistics.probability[site] * torch.tensor(statistics.n_positions)[:, None, None]
        torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)


def test_everything_is_checked_before_the_model_runs(model, rows, monkeypatch):
    prepare(model, rows)
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("the model was run"))
    with pytest.raises(UnknownNameError, match=r"'mlp\.typo' is not a site of this model"):
        statistics_of(model, [], sites=["mlp.hook_post", "mlp.typo"])
    with pytest.raises(InvalidInputError, match=r"^sites is \(\); give a list of at least one"):
        statistics_of(model, rows, sites=())
    with pytest.raises(InvalidInputError, match="is 3; shorten the prompt or take a larger"):
        statistics_of(model, rows, token_budget=3)
    with pytest.raises(InvalidInputError):
        statistics_of(model, [])


def test_a_failure_leaves_no_hook_behind(model, rows, monkeypatch, n_hooks):
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: 1 / 0)
    before = n_hooks(model)
    with pytest.raises(ZeroDivisionError):
        statistics_of(model, rows)
    assert n_hooks(model) == before


# ---------------------------------------------------------------- LAPE


def test_planted_neurons_have_the_entropies_that_they_were_given():
    statistics = toy(
        [
            # one culture, two of four, all alike, never, little but of one culture alone
            [0.9, 0.8, 0.7, 0.0, 0.1],
            [0.0, 0.8, 0.7, 0.0, 0.0],
            [0.0, 0.0, 0.7, 0.0, 0.0],
            [0.0, 0.0, 0.7, 0.0, 0.0],
        ]
    )
    result = ct.lape(statistics, top=0.4, quantile=0.5)
    entropy = [0.0, math.log(2), math.log(4), 0.0, 0.0]
    assert result.entropy["mlp.hook_post"][0].tolist() == pytest.approx(entropy)
    assert result.threshold == 0.0
    result = ct.lape(statistics, top=0.4, quantile=0.65)
    assert result.threshold == 0.1, "the 13th of 20"
    assert result.neurons["mlp.hook_post"] == ((0, 0), (0, 1)), "neuron 4 is not above it"
    assert result.neurons.scores["mlp.hook_post"] == pytest.approx((math.log(4), math.log(2)))
    assert list(map(len, result.sets.values())) == [2, 1, 0, 0]
    total = [math.log(4), math.log(2), 0.0, 0.0, 0.0]
    assert result.scores.total("mlp.hook_post")[0].tolist() == pytest.approx(total)
    assert repr(result) == "2 neurons above probability 0.100: A 2, B 1, C 0, D 0"
    assert repr(result.sets["B"]) == "1 LAPE neuron (B) of toy: MLP output 1; layer 0"


@given(
    st.integers(2, 5).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, 20), min_size=n, max_size=n), min_size=4, max_size=30
        )
    ),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_lape_is_the_loop_written_out(counts, top, quantile):
    probability = [[count / 20 for count in line] for line in zip(*counts, strict=True)]
    result = ct.lape(toy(probability), top=top, quantile=quantile)
    entropies, threshold, sets = naive_lape(probability, top=top, quantile=quantile)
    assert result.entropy["mlp.hook_post"][0].tolist() == pytest.approx(entropies, abs=1e-12)
    assert result.threshold == threshold
    members = {n for each in sets for n in each}
    assert len(result.neurons) == len(members), "none that no culture fires often enough"
    assume(not is_tied(entropies, members))
    for neurons, expected in zip(result.sets.values(), sets, strict=True):
        assert len(neurons) == len(expected)
        found = sorted(entropies[index] for _, index in neurons["mlp.hook_post"])
        assert found == pytest.approx(sorted(entropies[n] for n in expected), abs=1e-12)


def test_lape_of_a_model_is_the_loop_over_its_prompts(model, naive, rows):
    prepared = prepare(model, rows)
    statistics = statistics_of(model, prepared, sites=["mlp.hook_post"])
    probability = [[], [], []]
    for layer in range(3):
        place = ("mlp.hook_post", layer)
        by_culture = naive_statistics(naive["hooked"], prepared.prompts, rows["culture"], place)
        for line, culture in zip(probability, statistics.cultures, strict=True):
            line.extend(by_culture[culture]["probability"])
    result = ct.lape(statistics, top=0.1, quantile=0.8)
    entropies, threshold, sets = naive_lape(probability, top=0.1, quantile=0.8)
    flat = result.entropy["mlp.hook_post"].flatten().tolist()
    assert flat == pytest.approx(entropies, abs=1e-9)
    assert result.threshold == pytest.approx(threshold, abs=1e-12)
    places = {
        culture: [layer * 64 + index for layer, index in neurons["mlp.hook_post"]]
        for culture, neurons in result.sets.items()
    }
    assert places == {c: sorted(each) for c, each in zip(statistics.cultures, sets, strict=True)}
    assert sum(map(len, sets)) >= len(result.neurons) == round(0.1 * 192)
    ranked = ct.culture_general(result.scores, mlp_top=0.1)
    assert set(ranked) == set(result.neurons.top(int(0.1 * 192)))


def test_the_same_neurons_under_two_names_are_not_ranked_together(model, rows):
    message = "the same neurons at mlp.hook_post and mlp.hook_pre, which would be ranked"
    with pytest.raises(InvalidInputError, match=message):
        ct.lape(statistics_of(model, rows))


@pytest.mark.parametrize(
    ("names", "said"), [(("Iran",), r"\(Iran\)"), (("",), r"\(without a culture\)")]
)
def test_one_culture_has_no_entropy_and_no_margin(names, said):
    one = toy([[0.1, 0.2]], cultures=names)
    with pytest.raises(InvalidInputError, match=f"{said}, and an entropy over cultures compares"):
        ct.lape(one)
    with pytest.raises(InvalidInputError, match=f"{said}, and a margin over the second culture"):
        ct.cas(one)
    assert one.scores("probability").total("mlp.hook_post").tolist() == [[0.1, 0.2]]


@pytest.mark.parametrize("settings", [{"top": 1.1}, {"quantile": -0.1}, {"top": math.nan}])
def test_shares_lie_between_0_and_1(settings):
    with pytest.raises(InvalidInputError, match="; give a finite number between 0 and 1"):
        ct.lape(toy([[0.1], [0.2]]), **settings)


# ---------------------------------------------------------------- CAS and contrasts


def test_a_margin_belongs_to_the_first_culture_alone():
    scores = ct.cas(toy([[0.9, 0.25, 0.5], [0.5, 0.75, 0.5], [0.0, 0.125, 0.5]]))
    expected = [[0.4, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]]
    assert scores.values["mlp.hook_post"][:, 0].tolist() == [pytest.approx(e) for e in expected]
    best = ct.culture_specific(scores, culture="B", top=0.4)
    assert best["mlp.hook_post"] == ((0, 1),)


def test_a_standardised_difference_is_in_pooled_standard_deviations(model, rows):
    control = rows.map(lambda row: {**row, "prompt": row["prompt"].replace("tea", "rice soup")})
    mine, other = statistics_of(model, rows), statistics_of(model, control)
    for scores, n_of, *names in (
        (ct.standardised_difference(mine, other), "n_positions", "mean", "deviation"),
        (
            ct.standardised_difference(mine, other, positions="last"),
            *("n_prompts", "last", "last_deviation"),
        ),
    ):
        (m, s), (k, r) = (
            tuple(getattr(each, name)["attn.hook_q"][1, 2, 5].item() for name in names)
            for each in (mine, other)
        )
        n, o = getattr(mine, n_of)[1], getattr(other, n_of)[1]
        expected = (m - k) / math.sqrt((n * s**2 + o * r**2) / (n + o))
        value = scores.values["attn.hook_q"][1, 2, 5].item()
        assert value == pytest.approx(expected, rel=1e-9) != 0
        assert scores.source["control_data"] == other.source["data"] != scores.source["data"]


def test_a_neuron_that_never_changes_differs_by_0(model, rows):
    same = statistics_of(model, rows)
    for values in ct.standardised_difference(same, same).values.values():
        assert not values.any()
    mine, other = (
        statistics_of(model, [{**rows[i], "id": f"q{n}"} for n in range(7)]) for i in (1, 3)
    )
    assert not any(values.any() for values in mine.last_deviation.values()), "not even rounding"
    assert mine.last["mlp.hook_post"].abs().min() > 0
    between = ct.standardised_difference(mine, other, positions="last")
    assert not any(values.any() for values in between.values.values())
    constant = {"mlp.hook_post": torch.zeros(2, 1, 1).double()}
    still = toy([[1.0], [3.0]], deviation=constant)
    scores = ct.standardised_difference(still, toy([[0.5], [0.5]], deviation=constant))
    assert scores.values["mlp.hook_post"].tolist() == [[[0.0]], [[0.0]]]


def test_a_control_is_matched_by_culture_or_is_one_group():
    unit = {"mlp.hook_post": torch.ones(2, 1, 1).double()}
    mine = toy([[1.0], [3.0]], deviation=unit)
    turned = toy([[2.0], [1.0]], deviation=unit, cultures=("B", "A"))
    by_culture = ct.standardised_difference(mine, turned)
    assert by_culture.values["mlp.hook_post"].flatten().tolist() == [0.0, 1.0]
    one = {"mlp.hook_post": torch.ones(1, 1, 1).double()}
    group = toy([[0.5]], deviation=one, cultures=("",))
    with_group = ct.standardised_difference(mine, group)
    assert with_group.values["mlp.hook_post"].flatten().tolist() == [0.5, 2.5]
    other = replace(turned, cultures=("B", "C"))
    with pytest.raises(InvalidInputError, match="these are not in both: A, C; take the control"):
        ct.standardised_difference(mine, other)
    elsewhere = replace(turned, source={**turned.source, "model": "n"})
    with pytest.raises(InvalidInputError, match="model is 'm' in one and 'n' in the other; take"):
        ct.standardised_difference(mine, elsewhere)
    at_gates = toy([[1.0], [3.0]], site="mlp.hook_pre")
    with pytest.raises(InvalidInputError, match=r"sites is \('mlp.hook_post',\) in one and"):
        ct.standardised_difference(mine, at_gates)


@pytest.mark.usefixtures("as_for_a_user")
def test_choices_are_refused_in_a_sentence():
    statistics: Any = toy([[0.1], [0.2]])
    unknown: Any = "first"
    with pytest.raises(InvalidInputError, match="quantity is 'median'; choose one of 'probability"):
        statistics.scores("median")
    with pytest.raises(
        InvalidInputError, match="positions is 'first'; choose one of 'all', 'last'"
    ):
        ct.standardised_difference(statistics, statistics, positions=unknown)


# ---------------------------------------------------------------- as scores


@pytest.mark.parametrize("quantity", ["probability", "mean", "maximum", "last"])
def test_averages_are_scores_that_everything_takes(model, rows, tmp_path, quantity):
    statistics = statistics_of(model, rows, sites=["mlp.hook_post"])
    scores = statistics.scores(quantity)
    assert scores.source["method"] == f"activation_{quantity}"
    assert scores.source["n_prompts"] == [2, 3, 1]
    average = getattr(statistics, quantity)["mlp.hook_post"]
    assert scores.per_prompt("mlp.hook_post", "A").equal(average[1])
    torch.testing.assert_close(scores.per_prompt("mlp.hook_post"), average.mean(0))
    best = ct.culture_general(scores, mlp_top=0.05)
    assert len(best) == int(0.05 * 192)
    assert set(best) <= set(best | ct.culture_specific(scores, culture="A", min_z=-9.0))
    assert 0 <= ct.grade_scores(scores, best).auroc <= 1
    scores.save(tmp_path / "scores.safetensors")
    saved = ct.NeuronScores.load(tmp_path / "scores.safetensors")
    assert saved.values["mlp.hook_post"].equal(average)
    assert saved.source == scores.source
    ct.figures.score_distribution(scores)


def test_a_share_of_the_answer_is_refused_in_a_sentence(model, rows):
    scores = statistics_of(model, rows, sites=["mlp.hook_post"]).scores("mean")
    with pytest.raises(InvalidInputError, match=r"The general scores are not clamped.*\.$"):
        ct.culture_general(scores, general=scores, recipe="selective")
    clamped = replace(scores, source={**scores.source, "clamp": True})
    with pytest.raises(InvalidInputError, match="do not say what they are a share of"):
        ct.culture_general(scores, general=clamped, recipe="selective")
    gradients = ct.attribute(model, rows, sites=["mlp.hook_post"], progress=False)
    with pytest.raises(InvalidInputError, match="method is 'activation_mean' in one"):
        ct.culture_general(scores, control=gradients)
