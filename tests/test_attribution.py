"""Scores equal METHOD section 1, whatever the batch, and predict what a real ablation does."""

import itertools
from dataclasses import replace
from functools import cache

import pytest
import reference
import torch
from captum.attr import LayerGradientXActivation
from reference import SITES, NaiveLlama, PlainTransformers, max_error, norm_error

from culnig_tl.attribution import answer_probability, attribute, gradient_x_activation, methods
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.hooks import scaled_neurons
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch, batches

# Sums of a few hundred float64 products differ by their order only: about 1e-14; 1e-9 leaves room.
EXACT = 1e-9
# float32 rounds each product by 6e-8, a dozen layers of them: about 1e-6; 1e-5 leaves room.
SINGLE = 1e-5

# A bridge computes its attention in float32 whatever it is asked for, and has no float64.
PRECISIONS = [
    ("hooked", "float64", EXACT),
    ("hooked", "float32", SINGLE),
    ("bridge", "float32", SINGLE),
]


def unpadded(batch: Batch, line: int) -> list[int]:
    return batch.tokens[line][batch.mask[line]].tolist()


def alone(batch: Batch, line: int) -> Batch:
    """One prompt of a batch, without its padding."""
    tokens = batch.tokens[line][batch.mask[line]][None]
    return Batch(
        tokens=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        answers=batch.answers[line : line + 1],
        cultures=batch.cultures[line : line + 1],
        ids=batch.ids[line : line + 1],
    )


def more_padding(batch: Batch, n: int) -> Batch:
    """The same prompts with ``n`` more positions of padding, filled with an ordinary token."""
    filler = torch.full((len(batch), n), 7)
    return replace(
        batch,
        tokens=torch.cat([filler, batch.tokens], dim=1),
        mask=torch.cat([torch.zeros_like(filler, dtype=torch.bool), batch.mask], dim=1),
    )


@pytest.fixture(scope="session")
def traces(folders, loaded, rows):
    """``traces(backend, key_value_heads)``: the batch of all rows, and the twin's trace of each."""

    @cache
    def record(backend: str, key_value_heads: int):
        batch = batches(loaded(key_value_heads), rows)[0]
        twin_of = {"hooked": NaiveLlama, "bridge": PlainTransformers}[backend]
        twin = twin_of(folders[key_value_heads])
        seen = [
            reference.trace(twin, unpadded(batch, line), int(batch.answers[line]))
            for line in range(len(batch))
        ]
        return batch, seen

    return record


def expected(seen, site, **options):
    return torch.stack([reference.question_scores(one, site, 3, **options) for one in seen])


@pytest.mark.parametrize("key_value_heads", [2, 4])
@pytest.mark.parametrize(("backend", "dtype", "tolerance"), PRECISIONS)
def test_scores_equal_the_naive_loops_at_every_site(
    loaded, traces, backend, key_value_heads, dtype, tolerance
):
    batch, seen = traces(backend, key_value_heads)
    scores = gradient_x_activation(loaded(key_value_heads, backend, dtype), batch, sites=SITES)
    assert list(scores) == list(SITES)
    for site in SITES:
        naive = expected(seen, site)
        assert scores[site].shape == naive.shape
        assert max_error(scores[site], naive) < tolerance
        for line in range(len(batch)):  # prompts with small probabilities too
            assert norm_error(scores[site][line], naive[line]) < tolerance


def published_post(seen, batch):
    return expected(seen, "mlp.hook_post", batch_length=batch.tokens.shape[1])


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), PRECISIONS)
def test_zero_padding_gives_the_published_scores_of_a_batch(
    loaded, traces, backend, dtype, tolerance
):
    batch, seen = traces(backend, 2)
    scores = gradient_x_activation(loaded(2, backend, dtype), batch, sites=SITES, padding="zero")
    ours = gradient_x_activation(loaded(2, backend, dtype), batch, sites=SITES)
    for site in SITES:
        published = expected(seen, site, batch_length=batch.tokens.shape[1])
        assert norm_error(scores[site], published) < tolerance
    # the last prompt is the shortest: without its padding some neurons score below 0
    assert (ours["mlp.hook_post"][-1] < 0).any()
    assert norm_error(ours["mlp.hook_post"][-1], published_post(seen, batch)[-1]) > 0.01


def test_clamped_scores_are_cut_at_zero_after_weighting(model, traces):
    batch, seen = traces("hooked", 2)
    scores = gradient_x_activation(model, batch, sites=SITES, clamp=True)
    for site in SITES:
        assert max_error(scores[site], expected(seen, site, clamp=True)) < EXACT
    assert (expected(seen, "mlp.hook_post") < 0).any()


def test_captum_agrees_at_the_input_of_down_proj(folders, model, traces):
    batch, _ = traces("hooked", 2)
    plain = PlainTransformers(folders[2]).model
    scores = gradient_x_activation(model, batch, sites=["mlp.hook_post"])["mlp.hook_post"]
    for line in range(len(batch)):
        tokens, answer = alone(batch, line).tokens, int(batch.answers[line])

        def probability(ids, answer=answer):
            return plain(ids).logits[:, -1].softmax(-1)[:, answer]

        for layer in range(3):
            oracle = LayerGradientXActivation(probability, plain.model.layers[layer].mlp.down_proj)
            (product,) = oracle.attribute(tokens, attribute_to_layer_input=True)
            score = torch.as_tensor(product).amax(0) * probability(tokens)
            # transformers rounds norms and attention to float32 even in a float64 model
            assert norm_error(scores[line, layer], score.detach()) < SINGLE


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), PRECISIONS)
def test_a_score_does_not_depend_on_its_batch_or_on_padding(
    loaded, rows, backend, dtype, tolerance
):
    model = loaded(2, backend, dtype)
    (batch,) = batches(model, rows)
    together = gradient_x_activation(model, batch, sites=SITES)
    padded = gradient_x_activation(model, more_padding(batch, 5), sites=SITES)
    for line in range(len(batch)):
        single = gradient_x_activation(model, alone(batch, line), sites=SITES)
        for site in SITES:
            assert norm_error(together[site][line], single[site][0]) < tolerance
            assert norm_error(padded[site][line], single[site][0]) < tolerance


@pytest.mark.parametrize("pool", ["sum", "mean", "last"])
@pytest.mark.parametrize("padding", ["ignore", "zero"])
def test_other_pools_by_hand(model, traces, pool, padding):
    batch, seen = traces("hooked", 2)
    scores = gradient_x_activation(
        model, batch, sites=["mlp.hook_post"], pool=pool, padding=padding, weight="none"
    )["mlp.hook_post"]
    for line, one in enumerate(seen):
        length = len(one.activation["mlp.hook_post", 0])
        n_positions = length if padding == "ignore" else batch.tokens.shape[1]
        for layer, neuron in itertools.product(range(3), range(64)):
            a, g = one.activation["mlp.hook_post", layer], one.gradient["mlp.hook_post", layer]
            products = [a[i][neuron] * g[i][neuron] for i in range(length)]
            by_hand = {
                "sum": sum(products),
                "mean": sum(products) / n_positions,
                "last": products[-1],
            }[pool]
            assert scores[line, layer, neuron].item() == pytest.approx(by_hand, rel=1e-7, abs=1e-12)


def test_weighting_multiplies_by_the_answer_probability(model, traces):
    batch, seen = traces("hooked", 2)
    weighted = gradient_x_activation(model, batch)
    bare = gradient_x_activation(model, batch, weight="none")
    probability = torch.tensor([one.probability for one in seen], dtype=torch.float64)
    torch.testing.assert_close(answer_probability(model, batch), probability)
    for site, values in bare.items():
        torch.testing.assert_close(weighted[site], values * probability[:, None, None])


def test_hook_post_and_hook_pre_linear_score_alike(either, rows):
    (batch,) = batches(either, rows)
    scores = gradient_x_activation(either, batch, sites=["mlp.hook_post", "mlp.hook_pre_linear"])
    assert max_error(scores["mlp.hook_post"], scores["mlp.hook_pre_linear"]) < SINGLE


@pytest.mark.parametrize("site", SITES)
def test_a_score_predicts_a_small_ablation(either, rows, site):
    """Summed over positions and unweighted, the score is dP/dfactor at 1, so that P drops by
    (1 - factor) * score, up to a second-order term that shrinks with 1 - factor."""
    batch = alone(batches(either, rows)[0], 0)
    scores = gradient_x_activation(either, batch, sites=[site], pool="sum", weight="none")[site][0]
    strongest = scores.abs().flatten().argsort(descending=True)[:4]
    before = answer_probability(either, batch)
    for layer, neuron in (divmod(int(index), scores.shape[1]) for index in strongest):
        neurons = NeuronSet.of({site: [(layer, neuron)]})
        with torch.no_grad(), scaled_neurons(either, neurons, factor=0.99):
            drop = before - answer_probability(either, batch)
        # 5 %: the second-order term of a step of 1 %
        assert drop.item() == pytest.approx(0.01 * scores[layer, neuron].item(), rel=0.05)


def test_gradients_do_not_need_the_callers_grad_mode(model, rows):
    (batch,) = batches(model, rows)
    usual = gradient_x_activation(model, batch)
    with torch.no_grad():
        inside = gradient_x_activation(model, batch)
    for site, values in usual.items():
        assert torch.equal(values, inside[site])


def test_a_float64_model_keeps_float64_and_a_float32_model_float32(loaded, rows):
    for dtype in ("float64", "float32"):
        (batch,) = batches(loaded(dtype=dtype), rows)
        for values in gradient_x_activation(loaded(dtype=dtype), batch).values():
            assert values.dtype == getattr(torch, dtype)


def test_half_precision_scores_are_taken_in_float32(loaded, rows):
    model = loaded(dtype="bfloat16")
    (batch,) = batches(model, rows)
    for values in gradient_x_activation(model, batch).values():
        assert values.dtype == torch.float32


@pytest.mark.parametrize("token_budget", [8192, 20])
def test_culture_scores_of_a_data_set_equal_the_naive_sums(model, traces, rows, token_budget):
    batch, seen = traces("hooked", 2)
    of_data_set = attribute(model, rows, sites=SITES, token_budget=token_budget, progress=False)
    in_row_order = [seen[batch.rows.index(row)] for row in range(len(rows))]
    assert of_data_set.cultures == ("B", "A", "C")
    assert of_data_set.n_questions == 4
    assert of_data_set.n_prompts == (2, 3, 1)
    for site in SITES:
        scores = expected(in_row_order, site)
        for layer, neuron in itertools.product(range(3), range(scores.shape[2])):
            column = scores[:, layer, neuron].tolist()
            naive = reference.culture_scores(column, rows["culture"][:], rows["id"][:])
            stored = of_data_set.values[site][:, layer, neuron]
            # scores of a data set are kept in float32
            assert stored.tolist() == pytest.approx(list(naive.values()), rel=1e-6, abs=1e-12)


def test_ready_made_batches_are_accepted(model, rows):
    usual = attribute(model, rows, progress=False)
    ready = attribute(model, batches(model, rows, token_budget=20), progress=False)
    assert set(ready.cultures) == set(usual.cultures)
    for site in usual.sites:
        for culture in usual.cultures:
            torch.testing.assert_close(
                ready.of_culture(site, culture), usual.of_culture(site, culture)
            )


def test_a_result_says_how_it_came_about(model, rows):
    source = attribute(
        model, rows, pool="mean", padding="zero", clamp=True, weight="none", progress=False
    ).source
    assert {name: source[name] for name in ("pool", "padding", "clamp", "weight")} == {
        "pool": "mean",
        "padding": "zero",
        "clamp": True,
        "weight": "none",
    }
    assert source["method"] == "gradient_x_activation"


def test_a_score_that_is_not_finite_names_its_question(folders, rows):
    from culnig_tl.models import load_model

    broken = load_model(folders[2], backend="hooked")
    (batch,) = batches(broken, rows)
    of_q3 = set(unpadded(batch, batch.ids.index("q3")))
    of_others = {
        token
        for line, name in enumerate(batch.ids)
        if name != "q3"
        for token in unpadded(batch, line)
    }
    broken.W_E[min(of_q3 - of_others)] = float("nan")
    with pytest.raises(InvalidInputError, match=r"not finite numbers.*'q3'"):
        attribute(broken, rows, progress=False)


def test_an_unknown_site_lists_the_known_ones(either, rows):
    with pytest.raises(UnknownNameError, match=r"'mlp\.hook_nothing'.*mlp\.hook_post"):
        attribute(either, rows, sites=["mlp.hook_nothing"], progress=False)


@pytest.mark.parametrize(
    "choice",
    [
        {"method": "activation"},
        {"pool": "median"},
        {"padding": "left"},
        {"weight": "probabilities"},
    ],
)
@pytest.mark.usefixtures("as_for_a_user")
def test_an_unknown_choice_is_a_sentence_and_never_another_choice(model, rows, choice):
    ((name, value),) = choice.items()
    with pytest.raises(InvalidInputError, match=f"{name}.*{value}"):
        attribute(model, rows, progress=False, **choice)


@pytest.mark.parametrize("model_of", [("hooked", 2), ("bridge", 4)])
def test_no_hook_is_left_behind(loaded, rows, n_hooks, monkeypatch, model_of):
    backend, key_value_heads = model_of
    model = loaded(key_value_heads, backend, "float32")
    before = n_hooks(model)
    attribute(model, rows, progress=False)
    assert n_hooks(model) == before

    (batch,) = batches(model, rows)
    outside = replace(batch, tokens=torch.full_like(batch.tokens, 10**6))
    with pytest.raises(IndexError):
        gradient_x_activation(model, outside)
    assert n_hooks(model) == before

    def fail(*_args):
        raise RuntimeError("in the middle of the backward pass")

    monkeypatch.setattr(methods, "pooler", lambda *_: fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        gradient_x_activation(model, batch)
    assert n_hooks(model) == before


def test_the_naive_twin_is_the_model_that_transformers_runs(folders, rows, model):
    """The witness has a witness: NaiveLlama against transformers, up to the latter's float32."""
    (batch,) = batches(model, rows)
    for n, folder in folders.items():
        naive, plain = NaiveLlama(folder), PlainTransformers(folder)
        with torch.no_grad():
            for line in range(2):
                ids = unpadded(batch, line)
                assert norm_error(naive.logits(ids), plain.logits(ids)) < SINGLE, n
