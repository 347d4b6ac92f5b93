"""Integrated gradients equal naive loops and captum, and add up to what scaling to 0 changes, or
say by how much they do not."""

import math
import warnings
from collections import OrderedDict
from functools import cache
from typing import Any

import families
import pytest
import reference
import torch
from captum.attr import LayerIntegratedGradients
from conftest import tiny_tokenizer
from reference import SITES, NaiveLlama, PlainTransformers, max_error, norm_error

from culnig_tl.attribution import (
    answer_probability,
    attribute,
    attribute_questions,
    dataset,
    gradient_x_activation,
    gradients,
    integrated_gradients,
    quadrature,
)
from culnig_tl.errors import InvalidInputError
from culnig_tl.hooks import scaled_neurons
from culnig_tl.models import load_model
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import batches
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import DEFAULT_SITES, site_shape

PATHS = ["joint", "layer"]
# Sums of a few thousand float64 products differ by their order only: about 1e-13
EXACT = 1e-9
# float32 rounds each product by 6e-8, a dozen layers of them
SINGLE = 1e-5
FEW_STEPS = pytest.mark.filterwarnings("ignore:Integrated gradients do not add up")
METHOD: dict[str, Any] = {"method": "integrated_gradients", "progress": False}


@pytest.fixture(scope="module")
def calm(tmp_path_factory, make_llama):
    """A model with usual weights, whose P is smooth in the factor; in the others it has cliffs."""
    folder = make_llama(tmp_path_factory.mktemp("calm"), initializer_range=0.02)
    return load_model(folder, backend="hooked", dtype="float64", device="cpu")


def groups(path, n_layers=3):
    """The layers that are scaled together on a path."""
    return [range(n_layers)] if path == "joint" else [[layer] for layer in range(n_layers)]


def whole_layers(model, site, layers):
    width = site_shape(model, site)[1]
    return NeuronSet.of({site: [(layer, k) for layer in layers for k in range(width)]})


def change(model, batch, site, layers):
    """P(full) - P(all neurons of these layers scaled to 0), by a real intervention."""
    with torch.no_grad(), scaled_neurons(model, whole_layers(model, site, layers), factor=0.0):
        without = answer_probability(model, batch)
    return answer_probability(model, batch) - without


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("hooked", "float64", EXACT), ("bridge", "float32", SINGLE)],
)
def test_scores_equal_the_naive_loops(folders, loaded, rows, backend, dtype, tolerance, site, path):
    """Two questions of unequal length in one batch, the shorter one padded."""
    model = loaded(2, backend, dtype)
    batch = batches(model, rows)[0].select([1, 4])
    scores = integrated_gradients(model, batch, sites=[site], steps=3, path=path)[site]
    twin = {"hooked": NaiveLlama, "bridge": PlainTransformers}[backend](folders[2])
    for line in range(2):
        ids, answer = batch.tokens[line][batch.mask[line]].tolist(), int(batch.answers[line])
        probability = reference.trace(twin, ids, answer).probability
        for group in groups(path):
            shares = reference.integrated_shares(
                twin, ids, answer, site, group, nodes=reference.midpoint_nodes(3)
            )
            for layer in group:
                naive = [probability * max(column) for column in zip(*shares[layer], strict=True)]
                expected = torch.tensor(naive, dtype=torch.float64)
                assert norm_error(scores[line, layer], expected) < tolerance


@pytest.mark.parametrize("path", PATHS)
def test_scores_add_up_to_what_scaling_to_zero_changes(calm, rows, path):
    """Completeness, within 0.1 % of the change at 20 steps, for every site and layer."""
    (batch,) = batches(calm, rows)
    options = {"path": path, "pool": "sum", "weight": "none"}
    scores = integrated_gradients(calm, batch, sites=SITES, **options)
    for site in SITES:
        for group in groups(path):
            total = scores[site][:, list(group)].sum((1, 2))
            assert norm_error(total, change(calm, batch, site, group)) < 1e-3


def test_the_midpoint_rule_converges_with_the_square_of_the_steps(model, rows):
    """Also where P is anything but smooth: four times the steps, a sixteenth of the error."""
    (batch,) = batches(model, rows)
    real = change(model, batch, "attn.hook_v", range(3))
    errors = [
        norm_error(
            integrated_gradients(
                model, batch, sites=["attn.hook_v"], steps=steps, pool="sum", weight="none"
            )["attn.hook_v"].sum((1, 2)),
            real,
        )
        for steps in (60, 240)
    ]
    assert 12 < errors[0] / errors[1] < 20


@FEW_STEPS
def test_captum_agrees_at_the_input_of_down_proj(folders, model, rows):
    batch = batches(model, rows)[0].select([0])  # the longest: no padding
    scores = integrated_gradients(model, batch, sites=["mlp.hook_post"], path="layer", steps=10)
    plain = PlainTransformers(folders[2]).model
    answer = int(batch.answers[0])
    options: dict[str, Any] = {"sites": ["mlp.hook_post"], "path": "layer", "steps": 10}
    of_data_set = attribute(
        model, [batch], method="integrated_gradients", progress=False, **options
    )

    class Scale(torch.nn.Module):
        factor = torch.ones(1, 1, dtype=torch.float64)

        def forward(self, activation):
            return activation * self.factor[:, :, None]

    def probability(factor):
        """Captum moves from factor 0 to 1, so the watched layer moves from 0 to its activation."""
        Scale.factor = factor
        return plain(batch.tokens.repeat(len(factor), 1)).logits[:, -1].softmax(-1)[:, answer]

    one = torch.ones(1, 1, dtype=torch.float64)
    for layer in range(3):
        mlp: Any = plain.model.layers[layer].mlp
        at, projection = torch.nn.Identity(), mlp.down_proj
        mlp.down_proj = torch.nn.Sequential(
            OrderedDict(scale=Scale(), at=at, projection=projection)
        )
        oracle = LayerIntegratedGradients(probability, at)
        share, delta = map(
            torch.as_tensor,
            oracle.attribute(
                one,
                baselines=0 * one,
                n_steps=10,
                method="riemann_middle",
                return_convergence_delta=True,
            ),
        )
        with torch.no_grad():
            change = float(probability(one) - probability(0 * one))
        mlp.down_proj = projection
        missing = of_data_set.source["completeness"]["mlp.hook_post"][layer] * abs(change)
        assert missing == pytest.approx(abs(float(delta)), rel=1e-4, abs=1e-7)
        score = share.amax(1)[0] * probability(one).item()
        # transformers rounds norms and attention to float32 even in a float64 model
        assert norm_error(scores["mlp.hook_post"][0, layer], score.detach()) < SINGLE


@pytest.mark.parametrize("path", PATHS)
def test_queries_and_keys_add_up_alike(model, rows, path):
    """Attention scores are a product of the two: scaling either is the same path."""
    (batch,) = batches(model, rows)
    scores = integrated_gradients(
        model, batch, sites=["attn.hook_q", "attn.hook_k"], path=path, pool="sum", weight="none"
    )
    sums = [scores[site].sum(2) for site in ("attn.hook_q", "attn.hook_k")]
    assert max_error(*sums) < EXACT


def test_one_step_at_one_half_is_a_gradient_there(model, rows):
    """With one step the factor is 1/2; hook_post is scaled, so is its product with the gradient."""
    (batch,) = batches(model, rows)
    site = "mlp.hook_post"
    scores = integrated_gradients(model, batch, sites=[site], steps=1, weight="none")
    with scaled_neurons(model, whole_layers(model, site, range(3)), factor=0.5):
        halved = gradient_x_activation(model, batch, sites=[site], weight="none")
    assert max_error(scores[site], 2 * halved[site]) < EXACT


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("pool", ["max", "mean", None])
def test_neither_the_batch_nor_the_budget_nor_other_sites_change_a_score(model, rows, path, pool):
    """Steps of one question in one pass, over several, and several questions in one pass."""
    (batch,) = batches(model, rows)
    length = batch.tokens.shape[1]
    options = {"steps": 6, "path": path, "pool": pool}
    together = integrated_gradients(model, batch, **options)
    for site in ("mlp.hook_post", "attn.hook_k"):
        for budget in (1, 4 * length, 6 * length, 13 * length):
            scores = integrated_gradients(
                model, batch, sites=[site], token_budget=budget, **options
            )
            assert max_error(scores[site], together[site]) < EXACT
    for line in (0, len(batch) - 1):
        single = integrated_gradients(model, batch.select([line]), **options)
        for site in DEFAULT_SITES:
            assert max_error(single[site][0], together[site][line]) < EXACT


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_by_layer_the_layers_below_are_not_run_again(loaded, rows, monkeypatch, n_hooks, backend):
    model = loaded(2, backend, "float32")
    (batch,) = batches(model, rows)
    before = n_hooks(model)
    runs = [0, 0, 0]

    def count(layer):
        def counted(*_):
            runs[layer] += 1

        return counted

    handles = [
        block.ln2.register_forward_hook(count(layer)) for layer, block in enumerate(model.blocks)
    ]
    options: dict[str, Any] = {"path": "layer", "steps": 1, "nodes": "midpoint"}
    integrated_gradients(model, batch, sites=["mlp.hook_post"], **options)
    for handle in handles:
        handle.remove()
    # once for the residual streams; at factors 1/2 and 0, once each for each layer at or below
    assert runs == [3, 5, 7]

    def fail(*_):
        raise RuntimeError("in the middle of a pass")

    monkeypatch.setattr(gradients, "read_answer", fail)
    with pytest.raises(RuntimeError, match="in the middle"), torch.no_grad():
        gradients.residuals(model, batch)
    recorded = gradients.Residuals([batch.tokens[..., None].float()] * 3, [None] * 3)
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        gradients.starting_at(model, 2, recorded, n_copies=1),
    ):
        fail()
    assert n_hooks(model) == before
    assert all("forward" not in vars(block) for block in model.blocks)


@FEW_STEPS
def test_a_data_set_is_scored_alike(model, rows):
    options: dict[str, Any] = {"steps": 4, "path": "layer"}
    scores = attribute(model, rows, method="integrated_gradients", progress=False, **options)
    (batch,) = batches(model, rows)
    of_batch = integrated_gradients(model, batch, **options)
    of_a = [line for line, culture in enumerate(batch.cultures) if culture == "A"]
    for site in DEFAULT_SITES:
        expected = of_batch[site][of_a].sum(0) / 4
        assert max_error(scores.of_culture(site, "A"), expected) < EXACT
    assert {name: scores.source[name] for name in options} == options
    assert scores.source["method"] == "integrated_gradients"


@pytest.mark.parametrize("choice", [{"steps": 0}, {"path": "all"}, {"nodes": "gauss"}])
@pytest.mark.usefixtures("as_for_a_user")
def test_an_impossible_path_is_a_sentence(model, rows, choice):
    ((name, value),) = choice.items()
    for score in (
        lambda: integrated_gradients(model, batches(model, rows)[0], **choice),
        lambda: attribute(model, rows, method="integrated_gradients", progress=False, **choice),
    ):
        with pytest.raises(InvalidInputError, match=f"{name}.*{value}"):
            score()


# ---------------------------------------------------------------- where the factors lie

NORMED_MLP = ("mlp.hook_post", "mlp.hook_pre", "mlp.hook_pre_linear")
NORMED_QK = ("attn.hook_q", "attn.hook_k")
BEHIND_A_NORM = {
    "llama": (),
    "gpt2": (),
    "qwen2": (),
    "gemma": (),
    "qwen3": NORMED_QK,
    "stablelm-2-12b": NORMED_QK,
    "nanochat": NORMED_QK,  # a norm without a module
    "gemma-2": (*NORMED_MLP, "attn.hook_v"),
    "glm-4": (*NORMED_MLP, "attn.hook_v"),
    "gemma-3": SITES,
    "olmo-2": SITES,
    # norms inside the MLP and before W_O
    "bitnet": ("mlp.hook_pre", "mlp.hook_pre_linear", "attn.hook_v"),
}
ROWS = [
    {"id": f"q{number}", "answer": answer, "prompt": prompt, "options": [" A", " B", " C"]}
    for number, (answer, prompt) in enumerate(
        {
            " A": "Which drink?",
            " B": "Which drink? Answer:",
            " C": "Which drink? tea rice Answer:",
        }.items()
    )
]


@pytest.fixture(scope="module")
def of_family(tmp_path_factory):
    """``of_family(name, backend, dtype)``: a small random model of a family."""

    @cache
    def load(name: str, backend: Any, dtype: Any = "float32") -> Any:
        folder = tmp_path_factory.mktemp(name)
        families.save(name, folder, tiny_tokenizer())
        return load_model(folder, backend=backend, dtype=dtype, device="cpu")

    return load


@pytest.mark.parametrize("steps", [3, 4, 5, 20, 60])
@pytest.mark.parametrize("ends", [(1 / 32, 1.0), (2.0**-20, 1.0), (2.0**-20, 2.0**-11)])
def test_geometric_nodes_are_those_of_the_naive_loop(steps, ends):
    rule = quadrature.geometric(steps, *ends)
    naive = reference.geometric_nodes(steps, *ends)
    assert rule.factors.tolist() == pytest.approx([factor for factor, _ in naive], rel=1e-12)
    weights = [steps * weight for _, weight in naive]
    assert rule.weights.tolist() == pytest.approx(weights, rel=1e-12)


@pytest.mark.parametrize(
    ("rule", "degree"),
    [
        (quadrature.midpoints(7), 1),
        (quadrature.geometric(1, 0.01, 1.0), 1),
        (quadrature.geometric(2, 0.01, 0.5), 3),
        (quadrature.geometric(7, 0.01, 0.5), 1),
        (quadrature.geometric(60, 0.01, 0.5), 3),
    ],
)
def test_a_rule_is_exact_for_polynomials(rule, degree):
    """The mean of f^k over factors from 0 to 1 is 1 / (k + 1); of f^0, the weights' own mean."""
    for power in range(degree + 1):
        mean = float((rule.weights * rule.factors**power).mean())
        assert mean == pytest.approx(1 / (power + 1), abs=1e-12)


def test_geometric_nodes_resolve_a_norm_of_any_epsilon():
    """f / sqrt(f^2 + e) rises from 0 to 1 about f = sqrt(e)."""
    for epsilon in (1e-3, 1e-6, 1e-9):
        scale = math.sqrt(epsilon)
        for steps, tolerance in ((20, 0.02), (60, 1e-3)):
            factors, weights = quadrature.geometric(steps, scale / 32, min(1, 8 * scale))
            slope = epsilon / (factors**2 + epsilon) ** 1.5
            assert float((weights * slope).mean()) == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize(
    ("family", "backend"),
    [(name, backend) for name in BEHIND_A_NORM for backend in families.FAMILIES[name].backends],
)
def test_a_norm_behind_a_site_is_seen(of_family, n_hooks, family, backend):
    model = of_family(family, backend)
    before = n_hooks(model)
    for site in families.FAMILIES[family].sites:
        assert quadrature.norm_follows(model, site) == (site in BEHIND_A_NORM[family]), site
    assert n_hooks(model) == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_norm_is_seen_in_the_embedded_model(dtype):
    model = load_model(dtype=dtype)
    assert not any(quadrature.norm_follows(model, site) for site in SITES)


def test_the_model_is_asked_once(of_family, monkeypatch):
    model = of_family("qwen3", "bridge")
    first = quadrature.undone_factors(model, "attn.hook_q")
    monkeypatch.setattr(quadrature, "_recorded", None)
    assert quadrature.undone_factors(model, "attn.hook_q") == first < (1 / 32, 1)


def test_a_model_without_residual_hooks_takes_midpoints(model, monkeypatch):
    monkeypatch.setattr(quadrature, "_MEASURED", {})
    hooks = {name: it for name, it in model.hook_dict.items() if "hook_resid_post" not in name}
    monkeypatch.setattr(model, "hook_dict", hooks)
    assert quadrature.undone_factors(model, "mlp.hook_post") == (1, 1)
    rule = quadrature.quadrature(model, "mlp.hook_post", 5, "auto")
    assert torch.equal(rule.factors, quadrature.midpoints(5).factors)


@pytest.mark.parametrize("path", PATHS)
def test_geometric_scores_equal_the_naive_loops(folders, model, rows, path):
    batch = batches(model, rows)[0].select([1, 4])
    options: dict[str, Any] = {"sites": ["attn.hook_v"], "steps": 5, "nodes": "geometric"}
    whole = integrated_gradients(model, batch, path=path, **options)["attn.hook_v"]
    in_passes = integrated_gradients(model, batch, path=path, token_budget=20, **options)
    assert max_error(in_passes["attn.hook_v"], whole) < EXACT
    least, greatest = quadrature.undone_factors(model, "attn.hook_v")
    nodes = reference.geometric_nodes(5, least / 32, min(1.0, 8 * greatest))
    twin = NaiveLlama(folders[2])
    for line in range(2):
        ids, answer = batch.tokens[line][batch.mask[line]].tolist(), int(batch.answers[line])
        probability = reference.trace(twin, ids, answer).probability
        for group in groups(path):
            shares = reference.integrated_shares(
                twin, ids, answer, "attn.hook_v", group, nodes=nodes
            )
            for layer in group:
                naive = [probability * max(column) for column in zip(*shares[layer], strict=True)]
                assert (
                    norm_error(whole[line, layer], torch.tensor(naive, dtype=torch.float64)) < EXACT
                )


@pytest.mark.parametrize(
    ("family", "sites"),
    [("gemma-3", NORMED_MLP + NORMED_QK), ("olmo-2", NORMED_MLP), ("qwen3", NORMED_QK)],
)
@pytest.mark.parametrize("backend", ["hooked", "bridge"])
@pytest.mark.parametrize("path", PATHS)
@FEW_STEPS
def test_geometric_nodes_add_up_where_midpoints_are_far_off(
    of_family, family, sites, backend, path
):
    model = of_family(family, backend)
    options: dict[str, Any] = {"sites": sites, "path": path, **METHOD}
    for steps, least, most in ((20, 0.4, 0.2), (60, 0.3, 0.02)):
        midpoint = attribute(model, ROWS, steps=steps, nodes="midpoint", **options)
        auto = attribute(model, ROWS, steps=steps, **options)
        assert auto.source["geometric_sites"] == list(sites)
        assert min(midpoint.completeness_by_site.values()) > least
        assert max(auto.completeness_by_site.values()) < most


@pytest.mark.parametrize(
    ("family", "sites"),
    [("gemma-3", ("mlp.hook_post", *NORMED_QK)), ("olmo-2", NORMED_MLP), ("qwen3", NORMED_QK)],
)
def test_geometric_nodes_add_up_in_half_precision(of_family, family, sites):
    model = of_family(family, "bridge", "bfloat16")
    scores = attribute(model, ROWS, sites=sites, steps=60, **METHOD)
    # the sums themselves are rounded: to 1 % or 2 %
    assert max(scores.completeness_by_site.values()) < 0.05


@pytest.mark.parametrize("family", [family for family, sites in BEHIND_A_NORM.items() if sites])
@pytest.mark.parametrize("path", PATHS)
def test_every_site_adds_up_in_60_steps(of_family, family, path):
    """Values behind a sandwich norm need the most of them."""
    model = of_family(family, families.FAMILIES[family].backends[0])
    sites = families.FAMILIES[family].sites
    scores = attribute(model, ROWS, sites=sites, path=path, steps=60, **METHOD)
    assert max(scores.completeness_by_site.values()) < 0.05


# ---------------------------------------------------------------- completeness


@pytest.mark.parametrize("path", PATHS)
@FEW_STEPS
def test_completeness_is_what_the_naive_loops_miss(folders, model, rows, path):
    """Sums of errors over sums of changes, worst of the layers."""
    (batch,) = batches(model, rows)
    scores = attribute(model, [batch], sites=["attn.hook_q"], steps=2, path=path, **METHOD)
    twin, nodes = NaiveLlama(folders[2]), reference.midpoint_nodes(2)
    figures = []
    for group in groups(path):
        gaps = [
            reference.gap(
                twin,
                batch.tokens[line][batch.mask[line]].tolist(),
                int(batch.answers[line]),
                "attn.hook_q",
                group,
                nodes=nodes,
            )
            for line in range(len(batch))
        ]
        figures.append(sum(error for error, _ in gaps) / sum(change for _, change in gaps))
    assert scores.source["completeness"]["attn.hook_q"] == pytest.approx(figures, rel=1e-6)
    assert scores.completeness == pytest.approx(max(figures), rel=1e-6)


def test_completeness_does_not_depend_on_what_becomes_of_the_scores(calm, rows):
    usual = attribute(calm, rows, steps=4, **METHOD).completeness_by_site
    assert list(usual) == list(DEFAULT_SITES)
    assert max(usual.values()) < 0.05
    choices: list[dict[str, Any]] = [
        {"pool": "sum", "weight": "none", "clamp": True},
        {"pool": "last", "padding": "zero"},
        {"token_budget": 20},
    ]
    for choice in choices:
        other = attribute(calm, rows, steps=4, **choice, **METHOD).completeness_by_site
        assert other == pytest.approx(usual, rel=1e-6)


def test_completeness_is_shown_and_kept(calm, rows, tmp_path):
    scores = attribute(calm, rows, steps=4, **METHOD)
    assert scores.completeness is not None
    assert scores.completeness == max(scores.completeness_by_site.values())
    said = f"; sums of integrated gradients are {100 * scores.completeness:.1f} % off"
    assert repr(scores).endswith(said)
    assert said in scores._repr_html_()
    scores.save(tmp_path / "scores.safetensors")
    again = NeuronScores.load(tmp_path / "scores.safetensors")
    assert again.completeness_by_site == scores.completeness_by_site
    assert again.source == scores.source


def test_other_methods_have_no_completeness(calm, rows):
    scores = attribute(calm, rows, progress=False)
    assert scores.completeness is None
    assert scores.completeness_by_site == {}
    assert "completeness" not in scores.source
    assert "integrated" not in repr(scores)


def test_a_site_without_effect_is_complete():
    from culnig_tl.scores import completeness_of

    sums = {"here": torch.tensor([[0.0, 0.0], [1.0, 0.0]])}
    assert completeness_of(sums) == {"here": [0.0, math.inf]}


def test_what_does_not_add_up_is_said_with_layer_and_remedy(of_family):
    model = of_family("qwen3", "bridge", "bfloat16")
    options: dict[str, Any] = {"sites": ["mlp.hook_post", "attn.hook_k"], **METHOD}
    with pytest.warns(UserWarning, match="Integrated gradients do not add up") as record:
        scores = attribute(model, ROWS, nodes="midpoint", **options)
    (said,) = {str(warning.message) for warning in record}
    assert f"off by {100 * scores.completeness_by_site['attn.hook_k']:.1f} % at attn.hook_k" in said
    assert "attn.hook_k (all layers together). Do not rely" in said
    assert "nodes='geometric' or more steps than 20 or a model in float32" in said
    with pytest.warns(UserWarning, match=r"% at attn\.hook_k \(layer [01]\)"):
        attribute(model, ROWS, nodes="midpoint", path="layer", **options)


def test_what_adds_up_is_not_warned_of(of_family):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = attribute(of_family("qwen3", "hooked"), ROWS, **METHOD)
    assert scores.completeness is not None
    assert scores.completeness < 0.05
    assert scores.source["geometric_sites"] == list(NORMED_QK)


@FEW_STEPS
def test_chunks_have_the_gaps_of_their_rows(model, rows):
    options: dict[str, Any] = {"steps": 2, "path": "layer", "token_budget": 40, **METHOD}
    chunks = list(attribute_questions(model, rows, chunk=4, **options))
    whole = attribute(model, rows, **options)
    for site in DEFAULT_SITES:
        gaps = torch.cat([chunk.gaps[site] for chunk in chunks])
        assert gaps.shape == (6, 3, 2)
        errors, changes = gaps.sum(0).T
        assert (errors / changes).tolist() == pytest.approx(whole.source["completeness"][site])
        for row in (0, 3):
            alone = attribute(model, rows.select([row]), **options)
            errors, changes = gaps[row].T
            assert (errors / changes).tolist() == pytest.approx(alone.source["completeness"][site])
    assert all(not chunk.gaps for chunk in attribute_questions(model, rows, progress=False))


def test_chunks_that_do_not_add_up_are_said_at_the_end(model, rows):
    chunks = attribute_questions(model, rows, chunk=4, steps=2, **METHOD)
    assert [len(next(chunks).rows) for _ in range(2)] == [4, 2]
    with pytest.warns(UserWarning, match="do not add up"):
        assert not list(chunks)


@FEW_STEPS
def test_a_stopped_run_goes_on_to_the_same_figure(model, rows, tmp_path, monkeypatch):
    options: dict[str, Any] = {"steps": 3, "path": "layer", "token_budget": 40, **METHOD}
    path, calls, integrate = tmp_path / "checkpoint", [], dataset.integrate

    def stops(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("the disk is gone")
        return integrate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "integrate", stops)
        with pytest.raises(OSError, match="the disk is gone"):
            attribute(model, rows, checkpoint=path, checkpoint_minutes=0.0, **options)
    resumed = attribute(model, rows, checkpoint=path, **options)
    whole = attribute(model, rows, **options)
    assert resumed.source == whole.source
    assert all(torch.equal(resumed.values[site], whole.values[site]) for site in whole.sites)
