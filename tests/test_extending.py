"""A site, a method and a benchmark of somebody else's module work everywhere, without a change to
the package. (A figure from outside is in test_figures.)"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from registries import restored
from transformers import AutoModelForCausalLM

import culnig_tl as ct
from culnig_tl.benchmarks import Benchmark, Loaded, Measure
from culnig_tl.questions import Item, Template, prepare, rows_of
from culnig_tl.sites import Site, hook_name, register

MLP = "mlp.hook_post"
SITE = "attn.hook_z"  # what the heads hand to W_O


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    with restored():
        yield


def loudness(model, batch, sites):
    """|activation|, as [batch layer pos neuron] by site."""
    names = [hook_name(site, layer) for site in sites for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        _, cache = model.run_with_cache(
            batch.tokens, attention_mask=batch.mask.long(), names_filter=names
        )
    return {
        site: torch.stack(
            [cache[hook_name(site, layer)].flatten(2).abs() for layer in range(model.cfg.n_layers)],
            dim=1,
        )
        for site in sites
    }


def one_by_one(model, batch, sites):
    """The same, a layer at a time."""
    for site, layers in loudness(model, batch, sites).items():
        for layer in range(layers.shape[1]):
            yield site, layer, layers[:, layer]


def load_drinks(split, source, templates):
    items = [
        Item(
            f"{half}-{number}-{culture}",
            ("tea", "kvass", "sake"),
            answer=number % 3,
            culture=culture,
            fields={"question": f"What is the drink number {number} in {culture}?"},
        )
        for half in ("identify", "test")
        if split in (half, "all")
        for culture in ("Iran", "UK", "China")
        for number in range(3)
    ]
    return Loaded(rows_of(items, templates, benchmark="drinks"))


DRINKS = Benchmark(
    "drinks",
    load_drinks,
    templates=(Template("{question}\n{options}\nAnswer:"),),
    measure=Measure("steps", lambda said, right, options: 100.0 * (said == right)),
)


def attention_outputs(folder: Path, ids: list[int], answer: int) -> torch.Tensor:
    """The published score by transformers alone: P * max over positions of z * dP/dz, by layer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    inputs: list[torch.Tensor] = []
    for block in model.model.layers:
        block.self_attn.o_proj.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    probability = model(torch.tensor([ids])).logits[0, -1].softmax(-1)[answer]
    gradients = torch.autograd.grad(probability, inputs)
    products = [(z * gradient)[0].amax(0) for z, gradient in zip(inputs, gradients, strict=True)]
    return (probability * torch.stack(products)).detach()


def test_a_registered_site_is_scored_as_plain_transformers_says(either, folders, rows):
    register(
        Site(
            SITE,
            pool="attention",
            plain_name="attention output",
            width=lambda config: config.n_heads * config.d_head,
            output_direction=lambda model, layer, neuron: (None, "Not asked for here."),
        )
    )
    prepared = prepare(either, rows)
    (scores,) = ct.attribute_questions(either, prepared, sites=[SITE], progress=False)
    twins = [
        attention_outputs(folders[2], list(ids), answer)
        for ids, answer in zip(prepared.prompts, prepared.answers, strict=True)
    ]
    expected = torch.stack(twins).to(scores.values[SITE])
    # float64 against transformers, which rounds norms and attention to float32; see reference.py
    torch.testing.assert_close(scores.values[SITE], expected, rtol=1e-3, atol=1e-6)


def test_a_registered_site_is_masked_looked_at_and_drawn(rows):
    def direction(model, layer, neuron):
        head, index = divmod(neuron, model.cfg.d_head)
        return model.blocks[layer].attn.W_O[head, index], f"W_O of head {head}."

    model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", per_culture=1)
    width = model.cfg.n_heads * model.cfg.d_head
    register(Site(SITE, "attention", "attention output", lambda config: width, direction))
    scores = ct.attribute(model, rows, sites=[MLP, SITE], progress=False)
    general = ct.culture_general(scores, attention_top=0.02)
    assert {neuron.site for neuron in general} == {MLP, SITE}
    everything = [ct.Neuron(SITE, layer, index) for layer in range(4) for index in range(width)]
    with ct.scaled_neurons(model, everything, factor=0.0):
        _, cache = model.run_with_cache(rows[0]["prompt"])
    assert not any(cache[f"blocks.{layer}.hook_attn_out"].any() for layer in range(4))
    assert "W_O of head 1." in ct.inspect_neuron(model, rows, f"L0.{SITE}.40")._repr_html_()


@pytest.mark.parametrize("method", [loudness, one_by_one])
def test_a_method_of_one_s_own_is_pooled_and_summed_as_others_are(either, rows, method):
    prepared = prepare(either, rows, token_budget=64)
    scores = ct.attribute(
        either, prepared, sites=[MLP, "attn.hook_q"], method=method, weight="none", progress=False
    )
    assert scores.source["method"] == f"{__name__}.{method.__name__}"
    for site, total in ((site, scores.total(site)) for site in scores.sites):
        expected = torch.zeros_like(total)
        for ids in prepared.prompts:
            _, cache = either.run_with_cache(torch.tensor([ids]))
            for layer in range(either.cfg.n_layers):
                activation = cache[hook_name(site, layer)].flatten(2)[0].detach()
                expected[layer] += activation.abs().amax(0).to(total)
        # alone and left-padded agree to float32's rounding in the bridge
        torch.testing.assert_close(
            total, expected / len(set(prepared.rows["id"])), rtol=1e-4, atol=1e-6
        )


@pytest.mark.filterwarnings(
    "ignore:Rows that test are among", "ignore:(Letter|Some) questions are at chance"
)
def test_a_method_and_a_benchmark_of_one_s_own_make_a_whole_run_with_its_report(tmp_path):
    model = ct.load_model()
    questions = ct.load_benchmark(DRINKS, split="identify")
    options = {
        "cultural": questions,
        "control": ct.load_benchmark(DRINKS.control(), split="identify"),
        "recognition": ct.load_benchmark("atlas-countries", split="identify", per_culture=1),
        "benchmarks": {"drinks": ct.load_benchmark("drinks", split="test")},
        "sites": [MLP],
        "method": loudness,
        "n_random": 2,
        "n_cards": 1,
        "progress": False,
    }
    run = ct.culnig(model, out=tmp_path / "run", **options)
    assert len(run.general)
    assert set(run.table["benchmark"]) == {"drinks"}
    assert "steps" in run.answers
    page = run.report().read_text(encoding="utf-8")
    assert "drinks" in page
    assert f"{__name__}.loudness" in page
    again = ct.culnig(model, out=tmp_path / "run", **options)
    assert list(again.general) == list(run.general)
