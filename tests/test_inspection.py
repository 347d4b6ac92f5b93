"""Cards: every number has a witness of its own, and a prompt is shown as the model read it."""

import json
import math
import re
from dataclasses import fields, replace
from html import unescape
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from browser import keep_screenshot, opened
from hypothesis import given
from hypothesis import strategies as st
from reference import PlainTransformers, max_error, question_score, suppressed, trace
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel

from culnig_tl.attribution import attribute
from culnig_tl.errors import (
    InvalidInputError,
    MissingFileError,
    UnknownNameError,
    UnwritableError,
)
from culnig_tl.files import DamagedFileError, Format, read_record, write_record
from culnig_tl.html import ColouredTokens, as_html, colour, number, token_texts
from culnig_tl.inspection import (
    GLOSSARY,
    NeuronCard,
    inspect_neuron,
    inspect_neurons,
    inspect_prompt,
    logit_effects,
    output_direction,
)
from culnig_tl.models import load_model
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import label_tokens, prepare, questions
from culnig_tl.questions import prepared as prepared_module

SITES = ("mlp.hook_post", "attn.hook_q", "attn.hook_k", "attn.hook_v")
NEURON = Neuron("mlp.hook_post", 1, 17)


@pytest.fixture(scope="module")
def card(loaded, rows):
    return inspect_neuron(loaded(), rows, NEURON, top=4)


@pytest.fixture(scope="module")
def twin(folders):
    return PlainTransformers(folders[2])


@pytest.fixture(scope="module")
def traces(twin, loaded, rows):
    """Each prompt alone, in plain transformers: P, activations and gradients."""
    tokenizer = loaded().tokenizer
    label = label_tokens(tokenizer, rows["answer"])
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
    return [
        (ids, label[answer], trace(twin, ids, label[answer]))
        for ids, answer in zip(prompts, rows["answer"], strict=True)
    ]


# --- numbers, each against prompts run one by one in plain transformers ---------------------------
# transformers rounds norms and attention to float32 inside a float64 model: 1e-5 is that rounding.


def own(trace, name):
    site, layer, neuron = NEURON
    return [position[neuron] for position in getattr(trace, name)[site, layer]]


def test_activations_are_those_at_text_tokens(card, traces):
    """The first token is the BOS; it is coloured, but it is no text."""
    text = [own(seen, "activation")[1:] for _, _, seen in traces]
    assert (
        max_error(torch.tensor(card.questions["highest"]), torch.tensor(list(map(max, text))))
        < 1e-5
    )
    assert (
        max_error(torch.tensor(card.questions["lowest"]), torch.tensor(list(map(min, text)))) < 1e-5
    )
    everywhere = np.concatenate(text)
    assert card.limit == pytest.approx(np.abs(everywhere).max(), rel=1e-5)
    counts = [
        ((everywhere >= low) & (everywhere < high)).sum()
        for low, high in zip(
            card.histogram["low"] - 1e-6, card.histogram["high"] - 1e-6, strict=True
        )
    ]
    counts[-1] += 1  # the last bin holds its upper end
    assert card.histogram["tokens"].tolist() == counts


def test_scores_are_the_method_s(card, traces):
    expected = [question_score(seen, NEURON) for _, _, seen in traces]
    assert max_error(torch.tensor(card.questions["score"]), torch.tensor(expected)) < 1e-5


def test_a_drop_is_a_real_ablation(card, twin, traces):
    off = suppressed([NEURON])
    for (ids, answer, seen), row in zip(traces, card.questions.to_dict("records"), strict=True):
        ablated = torch.softmax(twin.logits(ids, off), 0)[answer].item()
        assert row["probability"] == pytest.approx(seen.probability, abs=1e-6)
        assert row["probability_off"] == pytest.approx(ablated, abs=1e-6)
        assert row["drop"] == pytest.approx(seen.probability - ablated, abs=2e-6)


def test_an_estimate_is_the_slope_by_the_factor(card, twin, traces, rows):
    """d P / d factor at 1, by a central difference: its error is of the order of step squared, and
    float32 rounds P by 3e-8, which is divided by twice the step."""
    step = 1e-2
    for example in (*card.strongest, *card.weakest):
        place = next(
            i
            for i, row in enumerate(rows)
            if (row["id"], row["culture"], row["answer"])
            == tuple(example.question[name] for name in ("id", "culture", "answer"))
        )
        ids, answer, _ = traces[place]
        up, down = (
            torch.softmax(twin.logits(ids, suppressed([NEURON], factor)), 0)[answer].item()
            for factor in (1 + step, 1 - step)
        )
        assert example.estimate == pytest.approx((up - down) / (2 * step), abs=1e-5)


def test_examples_are_the_extremes_one_a_question_and_culture(card, traces):
    table = card.questions
    assert [e.question["highest"] for e in card.strongest] == sorted(
        table.groupby(["id", "culture"])["highest"].max(), reverse=True
    )[:4]
    assert [e.question["lowest"] for e in card.weakest] == sorted(
        table.groupby(["id", "culture"])["lowest"].min()
    )[:4]
    for example in card.strongest:
        ids, _, seen = min(
            traces,
            key=lambda t: abs(max(own(t[2], "activation")[1:]) - example.question["highest"]),
        )
        assert len(example.tokens.tokens) == len(ids)
        numbers = list(example.tokens.values)
        assert numbers == pytest.approx(own(seen, "activation"), abs=1e-5)


def test_likeness_is_the_correlation_of_scores(card, traces):
    """Against numpy, over all neurons of all sites."""
    mine = [question_score(seen, NEURON) for _, _, seen in traces]
    found = {}
    for site in SITES:
        for layer in range(3):
            width = len(traces[0][2].activation[site, layer][0])
            for neuron in range(width):
                theirs = [question_score(seen, (site, layer, neuron)) for _, _, seen in traces]
                if any(theirs):  # queries and keys of the first token have no gradient
                    found[f"L{layer}.{site}.{neuron}"] = np.corrcoef(mine, theirs)[0, 1]
    del found[card.id]
    best = sorted(found.values(), reverse=True)[: len(card.neighbours)]
    named = [found[name] for name in card.neighbours["neuron"]]
    assert card.neighbours["correlation"].tolist() == pytest.approx(best, abs=1e-4)
    assert named == pytest.approx(best, abs=1e-4)  # of nearly equal ones either may be named


def test_a_rank_counts_the_better_neurons_of_the_pool(model, rows):
    scores = {"cultural": attribute(model, rows, progress=False)}
    for neuron in (NEURON, Neuron("attn.hook_k", 2, 3)):
        card = inspect_neuron(model, rows, neuron, scores=scores)
        (row,) = card.ranks.to_dict("records")
        pool = [neuron.site] if neuron.site.startswith("mlp") else SITES[1:]
        everyone = sorted(
            (v for s in pool for v in scores["cultural"].total(s).flatten().tolist()), reverse=True
        )
        value = scores["cultural"].total(neuron.site)[neuron.layer, neuron.index].item()
        assert (row["scores"], row["rank"], row["pool"]) == (
            "cultural",
            everyone.index(value) + 1,
            len(everyone),
        )
        assert row["share"] == row["rank"] / row["pool"]


def test_two_names_of_the_same_neurons_are_not_ranked_together(model, rows):
    sites = ("mlp.hook_post", "mlp.hook_pre_linear", *SITES[1:])
    scores = attribute(model, rows, sites=sites, progress=False)
    for site, pool in {
        "mlp.hook_post": 192,
        "mlp.hook_pre_linear": 192,
        "attn.hook_v": 192,
    }.items():
        assert scores.rank_of(Neuron(site, 1, 5))[1] == pool
    with pytest.raises(UnknownNameError, match=r"^There are no scores of mlp.hook_pre; these scor"):
        scores.rank_of("L0.mlp.hook_pre.1")


def test_without_scores_the_rows_are_scored_as_attribute_does(card, model, rows):
    value = attribute(model, rows, progress=False).total("mlp.hook_post")[1, 17].item()
    assert card.ranks["scores"].tolist() == ["these questions"]
    assert card.ranks["value"].item() == pytest.approx(value, rel=1e-6)


def test_cultures_and_topics_are_means_over_prompts(card):
    for column, table in (("culture", card.cultures), ("topic", card.topics)):
        assert table["drop"].is_monotonic_decreasing
        assert table["prompts"].sum() == len(card.questions)
        for row in table.to_dict("records"):
            group = card.questions[card.questions[column] == row[column]]
            for name in ("highest", "score", "drop"):
                assert row[name] == pytest.approx(group[name].mean())
            lost = group["correct"].sum() - group["correct_off"].sum()
            assert row["accuracy_drop"] == pytest.approx(100 * lost / len(group))


def test_many_cards_are_the_single_ones(model, rows, card):
    both = NeuronSet.of([NEURON, "L2.attn.hook_v.5"])
    cards = inspect_neurons(model, rows, both, top=4)
    assert list(cards) == ["L1.mlp.hook_post.17", "L2.attn.hook_v.5"]
    for name in ("ranks", "histogram", "questions", "cultures", "neighbours", "promoted"):
        pd.testing.assert_frame_equal(getattr(cards[card.id], name), getattr(card, name))


NAME = str(NEURON)
INDEX = {"layer": NEURON.layer, "neuron": NEURON.index}


@pytest.mark.parametrize(
    "named",
    [{"neuron": NAME}, {"neuron": tuple(NEURON)}, INDEX, {"site": NEURON.site, **INDEX}],
    ids=["text", "tuple", "index at the default site", "index"],
)
def test_a_neuron_is_named_in_any_way(model, rows, card, named):
    again = inspect_neuron(model, prepare(model, rows), **named, top=4)
    assert again.id == NAME
    assert again.fragment() == card.fragment()


def test_neurons_are_listed_in_any_way_and_stay_in_order(model, rows, card):
    cards = inspect_neurons(model, prepare(model, rows), ["L2.attn.hook_v.5", NEURON], top=4)
    assert list(cards) == ["L2.attn.hook_v.5", NAME]
    pd.testing.assert_frame_equal(cards[NAME].questions, card.questions)


def test_a_set_of_another_model_is_noticed(model, rows):
    other = NeuronSet.of([NEURON], source={"model": "0" * 12, "model_name": "other"})
    with pytest.warns(UserWarning, match="These neurons were chosen on other with other weights"):
        inspect_neurons(model, rows, other)
    shapes = {NEURON.site: (3, 128)}
    with pytest.raises(InvalidInputError, match=r"with 3 layers of 128 neurons .* 3 layers of 64"):
        inspect_neurons(model, rows, NeuronSet.of([NEURON], shapes=shapes))


def test_questions_are_encoded_once_for_all_cards(model, rows, monkeypatch):
    encoded: list[str] = []
    encode = prepared_module.encode
    monkeypatch.setattr(
        prepared_module,
        "encode",
        lambda tokenizer, text: encoded.append(text) or encode(tokenizer, text),
    )
    inspect_neurons(model, rows, [NEURON, "L2.attn.hook_v.5", "L0.attn.hook_q.1"], top=2)
    assert len(encoded) == len(rows)


def test_a_card_and_a_view_say_in_one_line_what_they_are(model, rows, card):
    assert repr(card) == f"{NAME} of {card.model}: " + (
        f"rank {card.ranks['rank'].item()} of 192 by “these questions”, seen on 6 prompts"
    )
    assert "\n" not in repr(inspect_prompt(model, rows[0], top=2))


def test_a_card_agrees_on_both_backends(either, rows, card):
    found = inspect_neuron(either, rows, NEURON, top=4)
    for name in ("highest", "score", "drop"):
        assert (
            max_error(torch.tensor(found.questions[name]), torch.tensor(card.questions[name]))
            < 1e-3
        )
    assert found.promoted["token"].tolist() == card.promoted["token"].tolist()


def test_a_card_leaves_the_model_as_it_was(model, rows, n_hooks):
    before = n_hooks(model)
    inspect_neuron(model, rows, NEURON)
    assert n_hooks(model) == before


def test_a_neuron_that_does_nothing_has_a_card(loaded, rows):
    """Its gradient is 0 where W_out is: no score, no drop, no neighbour, nothing written."""
    model = loaded(4)
    weights = model.blocks[1].mlp.W_out
    kept = weights[17].clone()
    try:
        weights[17] = 0.0
        card = inspect_neuron(model, rows, NEURON)
    finally:
        weights[17] = kept
    assert card.neighbours.empty
    assert (card.questions["drop"].abs() < 1e-12).all()
    assert card.promoted["effect"].tolist() == [0.0] * 6
    assert "None: its score is the same on every prompt." in card.fragment()


# --- what it writes: against an intervention with the norms' division held fixed ------------------


def save_model(hf_model, folder, tokenizer):
    with torch.no_grad():
        for name, weight in hf_model.named_parameters():
            if "norm" in name or "ln_" in name:  # as they start, norms would fold in nothing
                weight.add_(0.3 * torch.randn_like(weight))
    hf_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def architectures(folders, tmp_path_factory, make_tokenizer):
    """Grouped-query Llama; GPT-2 (LayerNorm, biases); Gemma 3 (norms after blocks, 1 + weight)."""
    root, tokenizer = tmp_path_factory.mktemp("architectures"), make_tokenizer()
    n_ctx: Any = {"n_ctx": 32}  # as on the hub; transformers 5 no longer knows it by name
    size: Any = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gpt2 = GPT2LMHeadModel(
            GPT2Config(**size, n_embd=16, n_layer=2, n_head=2, n_positions=32, **n_ctx)
        )
        gemma = Gemma3ForCausalLM(
            Gemma3TextConfig(
                **size,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                head_dim=8,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                sliding_window=32,
                initializer_range=0.3,
                pad_token_id=0,
            )
        )
        return {
            "llama": folders[2],
            "gpt2": save_model(gpt2, root / "small", tokenizer),
            "gemma": save_model(gemma, root / "third", tokenizer),
        }


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@pytest.mark.parametrize("site", ["mlp.hook_post", "attn.hook_v"])
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("llama", "hooked"),
        ("llama", "bridge"),
        ("gpt2", "hooked"),
        ("gpt2", "bridge"),
        ("gemma", "bridge"),
    ],
)
def test_an_effect_is_what_an_intervention_does_to_the_logits(architectures, name, backend, site):
    """In the last layer on one token, with every norm dividing by 1, logits are linear in a neuron.

    One token attends to itself only, so all heads read the value in full. The step of 8 keeps
    float32 rounding of the difference below 1e-4 of it.
    """
    model = load_model(architectures[name], backend=backend, device="cpu")
    last, step = model.cfg.n_layers - 1, 8.0
    direction, _ = output_direction(model, Neuron(site, last, 5))
    assert direction is not None
    effects = logit_effects(model, direction, site=site, layer=last)

    def move(activation, hook):
        activation = activation.clone()
        activation.flatten(2)[:, :, 5] += step
        return activation

    scales = [f"blocks.{last}.ln1_post.hook_scale", f"blocks.{last}.ln2_post.hook_scale"]
    if site == "attn.hook_v":  # the MLP reads what attention writes; it is not part of the effect
        silent = [(f"blocks.{last}.mlp.hook_post", lambda activation, hook: 0 * activation)]
    else:
        silent = []
    held: list[Any] = [
        (point, lambda scale, hook: torch.ones_like(scale))
        for point in ("ln_final.hook_scale", *scales)
        if point in model.hook_dict
    ] + silent
    with torch.no_grad(), model.hooks(fwd_hooks=held):
        before = model(torch.tensor([[7]]))[0, -1]
        with model.hooks(fwd_hooks=[(f"blocks.{last}.{site}", move)]):
            after = model(torch.tensor([[7]]))[0, -1]
    moved = (after - before) / step
    # logits are compared up to a shift of all of them, which no probability sees
    assert max_error(effects - effects.mean(), moved - moved.mean()) < 1e-4


def test_promoted_tokens_are_those_of_w_out_w_u(either, rows):
    card = inspect_neuron(either, rows, NEURON, top=5)
    norm = either.ln_final.w.double()
    effects = (either.blocks[1].mlp.W_out[17].double() * norm) @ either.W_U.double()
    order = effects.argsort(descending=True)
    decode = either.tokenizer.decode
    assert card.promoted["token"].tolist() == [decode([i]) for i in order[:5].tolist()]
    assert card.demoted["token"].tolist() == [decode([i]) for i in order.flip(0)[:5].tolist()]
    expected = [effects[i].item() for i in order[:5]]
    assert card.promoted["effect"].tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("site", "reason"), [("attn.hook_q", "a query steers"), ("attn.hook_k", "a key")]
)
def test_queries_and_keys_write_nothing_and_the_card_says_so(model, rows, site, reason):
    card = inspect_neuron(model, rows, f"L0.{site}.3")
    assert card.promoted.empty
    assert reason in card.direction
    assert card.direction in card.fragment()


def test_a_value_names_the_heads_that_read_it(loaded):
    neuron = "L0.attn.hook_v.9"
    assert output_direction(loaded(2), neuron)[1] == "W_O of heads 2 to 3, summed."
    assert output_direction(loaded(4), neuron)[1] == "W_O of head 1."


# --- one prompt -----------------------------------------------------------------------------------


def test_a_prompt_s_attributions_are_products_of_activation_and_gradient(model, rows, traces):
    ids, _, seen = traces[3]
    view = inspect_prompt(model, rows[3], top=5)
    everyone = {
        (site, layer, neuron): [
            a[neuron] * g[neuron]
            for a, g in zip(seen.activation[site, layer], seen.gradient[site, layer], strict=True)
        ]
        for site in SITES
        for layer in range(3)
        for neuron in range(len(seen.activation[site, layer][0]))
    }
    best = sorted(everyone, key=lambda neuron: -sum(everyone[neuron]))[:5]
    assert list(view.neurons[["site", "layer", "index"]].itertuples(index=False, name=None)) == best
    for neuron, row, tokens in zip(best, view.neurons.to_dict("records"), view.tokens, strict=True):
        part = everyone[neuron]
        assert max_error(torch.tensor(list(tokens.values)), torch.tensor(part)) < 1e-4
        assert row["attribution"] == pytest.approx(sum(part), rel=1e-4)
        assert row["score"] == pytest.approx(seen.probability * max(part), rel=1e-4)
        assert row["token"] == tokens.tokens[part.index(max(part))]
    total = torch.tensor([everyone[neuron] for neuron in best]).sum(0)
    assert max_error(torch.tensor(list(view.total.values)), total) < 1e-4
    assert view.total.text == "<s>" + rows[3]["prompt"]
    assert len(view.total.tokens) == len(ids)


def test_a_prompt_s_drops_are_real_ablations(either, rows, twin, traces):
    ids, answer, seen = traces[3]
    view = inspect_prompt(either, rows[3], top=3)
    listed = list(view.neurons[["site", "layer", "index"]].itertuples(index=False, name=None))

    def off(neurons):
        return torch.softmax(twin.logits(ids, suppressed(neurons)), 0)[answer].item()

    assert view.probability == pytest.approx(seen.probability, abs=1e-5)
    assert view.probability_off == pytest.approx(off(listed), abs=1e-5)
    for neuron, row in zip(listed, view.neurons.to_dict("records"), strict=True):
        assert row["probability_off"] == pytest.approx(off([neuron]), abs=1e-5)
        assert row["drop"] == pytest.approx(seen.probability - off([neuron]), abs=2e-5)


def test_plain_text_follows_the_model_s_own_answer(model, twin):
    view = inspect_prompt(model, "Which drink?", top=2)
    chances = torch.softmax(twin.logits(model.tokenizer("Which drink?")["input_ids"]), 0)
    best, order = chances.topk(5)
    assert view.answers["answer"].tolist() == [model.tokenizer.decode([i]) for i in order]
    assert view.answers["probability"].tolist() == pytest.approx(best.tolist(), abs=1e-5)
    assert view.answers["right"].tolist() == [True, False, False, False, False]


@pytest.mark.usefixtures("as_for_a_user")
def test_a_prompt_that_cannot_be_read_is_a_sentence(model):
    with pytest.raises(InvalidInputError, match=r"^There is no text; write a prompt"):
        inspect_prompt(model, "")
    with pytest.raises(InvalidInputError, match=r"has 181 tokens and the model's context is 64; "):
        inspect_prompt(model, "zq" * 90)


# --- what cannot be inspected ---------------------------------------------------------------------


@pytest.mark.usefixtures("as_for_a_user")
def test_what_cannot_be_inspected_is_a_sentence(model, rows, loaded):
    with pytest.raises(UnknownNameError, match=r"'mlp.hook_x' is not a site of this model; it has"):
        inspect_neuron(model, rows, site="mlp.hook_x", layer=0, neuron=0)
    with pytest.raises(InvalidInputError, match=r"^'L0' is no neuron; write layer, site and num"):
        inspect_neuron(model, rows, "L0")
    with pytest.raises(
        InvalidInputError, match=r"^Every layer has a neuron 5; give layer= .* name"
    ):
        inspect_neuron(model, rows, 5)
    with pytest.raises(InvalidInputError, match=r"^There are no neurons to inspect; give at least"):
        inspect_neurons(model, rows, [])
    with pytest.raises(InvalidInputError, match=r"layer is 2; leave these two out"):
        inspect_neuron(model, rows, NEURON, layer=2)
    with pytest.raises(
        InvalidInputError, match=r"Layer 3, neuron 64 .* 3 layers of 64; count from 0"
    ):
        inspect_neuron(model, rows, layer=3, neuron=64)
    with pytest.raises(InvalidInputError, match=r"^There are no rows; give at least one question"):
        inspect_neuron(model, rows.select([]), layer=0, neuron=0)
    queries = attribute(model, rows, sites=["attn.hook_q"], progress=False)
    with pytest.raises(
        InvalidInputError, match=r"'mine' do not rank .* mlp.hook_post; .* score this site"
    ):
        inspect_neuron(model, rows, layer=0, neuron=0, scores={"mine": queries})
    other = attribute(loaded(4), rows, progress=False)
    with pytest.raises(InvalidInputError, match=r"'mine' are those of another model; score this"):
        inspect_neuron(model, rows, layer=0, neuron=0, scores={"mine": other})


def test_a_page_that_cannot_be_written_is_a_sentence(card, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableError):
        card.to_html(tmp_path / "file" / "card.html")


def test_a_card_is_kept_in_a_file_as_it_is(card, tmp_path):
    kept = NeuronCard.load(card.save(tmp_path / "new" / "card.json"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["card.json"]
    assert kept.fragment() == card.fragment()
    for each in fields(NeuronCard):
        mine, theirs = getattr(card, each.name), getattr(kept, each.name)
        if isinstance(mine, pd.DataFrame):
            pd.testing.assert_frame_equal(theirs, mine)
        else:
            assert theirs == mine


def membership_frame(**changes):
    return pd.DataFrame(
        {"site": "mlp.hook_post", "layer": [1, 0], "neuron": [17, 3], "membership": [0.93, 1.0]}
        | {"selected": True}
        | changes
    )


def test_a_card_says_how_surely_its_neuron_is_in_the_set(model, rows, card, tmp_path):
    """A neuron that no resample selected is in it in none; of another site nothing is known."""
    sure, never, unknown = inspect_neurons(
        model,
        rows,
        [NEURON, "L2.mlp.hook_post.5", "L1.attn.hook_q.5"],
        membership=membership_frame(),
    ).values()
    assert (sure.membership, never.membership, unknown.membership) == (0.93, 0.0, None)
    assert "It is in the set in 93 % of resamples of the questions." in sure.fragment()
    assert "in the set in 0 % of resamples" in never.fragment()
    for without in (unknown, card):
        assert "resamples" not in without.fragment()
    kept = NeuronCard.load(sure.save(tmp_path / "card.json"))
    assert (kept.membership, kept.fragment()) == (0.93, sure.fragment())
    card.save(tmp_path / "old.json")
    assert "membership" not in read_record(tmp_path / "old.json", FORM)[0]


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (
            membership_frame().drop(columns="site"),
            "no column site; give the frame of ct.membership",
        ),
        (membership_frame(layer=1, neuron=17), "a neuron twice"),
        (membership_frame(membership=[0.5, 1.5]), r"membership is 1\.5; .* between 0 and 1"),
        (membership_frame(layer=[0.5, 1.0]), r"layer of membership is 0\.5; give a whole number"),
    ],
)
def test_what_is_no_membership_is_refused(model, rows, passes, frame, sentence):
    with pytest.raises(InvalidInputError, match=sentence):
        inspect_neurons(model, rows, [NEURON], membership=frame)
    assert passes == []


def with_drops(card, drop):
    """The card as it would be if switching its neuron off cost every prompt the same."""
    means = {name: getattr(card, name).assign(drop=drop) for name in ("cultures", "topics")}
    return replace(card, questions=card.questions.assign(drop=drop), **means)


def test_the_signs_of_a_card_are_words_and_its_bars_go_two_ways(card):
    falling, rising = (with_drops(card, drop) for drop in (0.46, -0.01))
    first = card.cultures["culture"][0] or "(none named)"
    assert (
        f"P(answer) falls by 0.46 on average over these prompts; it falls most for {first}, "
        in (falling.summary)
    )
    assert "P(answer) rises by 0.01 on average over these prompts; it falls for no culture." in (
        rising.summary
    )
    n_means = len(card.cultures) + len(card.topics)
    for turned, said, ends in ((falling, "falls by 0.4600", 0.0), (rising, "rises by 0.0100", 50)):
        page = turned.fragment()
        assert page.count(f'<td class="n">{said}<span class="zero">') == n_means
        bars = re.findall(r'class="bar" style="width:([\d.]+)%;margin-left:([\d.]+)%', page)
        assert {tuple(map(float, bar)) for bar in bars} == {(50.0, ends)}
    assert with_drops(card, 1e-9).fragment().count('<td class="n">stays<span') == n_means


def test_an_example_says_which_way_its_answer_goes(card):
    for drop, said in ((0.46, "falls by 0.4600"), (-0.01, "rises by 0.0100")):
        (example, *_) = card.strongest
        turned = replace(example, question={**example.question, "drop": drop})
        page = replace(card, strongest=(turned,), weakest=()).fragment()
        assert f"</code>) {said} when off, <b>" in page


def test_a_card_has_a_name_in_words_beside_that_of_its_hook_point(model, rows, card):
    assert card.plain_name == "MLP output, layer 1, neuron 17"
    page = Text(card.fragment())
    assert page.text.index(card.plain_name) < page.text.index(NAME)
    other = inspect_neuron(model, rows, "L1.attn.hook_v.3", top=1)
    assert other.plain_name == "v, layer 1, neuron 3"


def test_every_symbol_of_a_card_says_what_it_means(card):
    terms = re.findall(r'<abbr title="([^"]*)">([^<]+)</abbr>', card.fragment())
    assert {unescape(symbol) for _, symbol in terms} == GLOSSARY.keys()
    assert all(unescape(meaning) == GLOSSARY[symbol] for meaning, symbol in terms)


@pytest.mark.parametrize(
    ("tokens", "grey"),
    [
        ([" tea", "ocaust", "5", ".", "Tea", "\ufffd"], {"ocaust", "\ufffd"}),
        (["tea", "cup"], set()),  # a tokenizer that does not keep spaces tells nothing
    ],
)
def test_promoted_tokens_that_begin_inside_a_word_are_grey(card, tokens, grey):
    promoted = pd.DataFrame({"token": tokens, "effect": 1.0})
    page = replace(card, promoted=promoted, demoted=promoted[:0]).fragment()
    shown = re.findall(r'<td><code( class="fragment"[^>]*)?>([^<]*)</code>', page)
    assert [text for _, text in shown] == tokens
    assert {text for is_grey, text in shown if is_grey} == grey


def test_another_file_is_no_card(tmp_path):
    with pytest.raises(MissingFileError):
        NeuronCard.load(tmp_path / "card.json")
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(InvalidInputError, match=r"is no neuron's card; give a file that NeuronCa"):
        NeuronCard.load(tmp_path / "card.json")


def forged(card, path, change):
    """A card's file with a field changed, or an entry within one, and a checksum that is right."""
    card.save(path)
    content, _ = read_record(path, FORM)
    for field, value in change.items():
        first, _, inner = field.partition(".")
        if inner:
            content[first] = {**content[first], inner: value}
        else:
            content[first] = value
    content = {name: value for name, value in content.items() if value is not ...}
    write_record(path, FORM, content)
    return path


FORM = Format("culnig_tl.NeuronCard", 1, noun="neuron's card", writer="NeuronCard.save")


@pytest.mark.usefixtures("as_for_a_user")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ranks": ...}, "whose ranks is missing"),
        ({"ranks": None}, "whose ranks is None"),
        ({"ranks": []}, r"whose ranks is \[\]"),
        ({"ranks": {}}, "cannot be used"),
        ({"ranks.data": []}, "ranks has 0 rows"),
        ({"ranks.columns": ["scores"]}, "ranks has 1 rows of"),
        ({"ranks.data": [["these", 0.5, "1", 2, 0.5]]}, "ranks, rank has '1', which is no number"),
        ({"ranks.data": [["these", 0.5]]}, "cannot be used"),
        ({"questions": {"a": 1}}, "cannot be used"),
        ({"cultures.data": 5}, "cannot be used"),
        ({"promoted.data": [[5, 0.5]]}, "promoted, token has 5, which is no text"),
        ({"strongest": [{}]}, "cannot be used"),
        ({"strongest": [None]}, "cannot be used"),
        ({"weakest": "x"}, "whose weakest is 'x'"),
        ({"id": 5}, "whose id is 5"),
        ({"id": "a neuron"}, "'a neuron' is no neuron"),
        ({"limit": "9"}, "whose limit is '9'"),
        ({"limit": True}, "whose limit is True"),
        ({"direction": None}, "whose direction is None"),
        ({"more": 1}, "with a field 'more'"),
        ({"membership": "0.9"}, "whose membership is '0.9'"),
        ({"membership": 1.5}, r"membership is 1\.5; give a finite number between 0 and 1"),
    ],
)
def test_a_card_of_any_other_shape_is_refused_in_a_sentence(card, tmp_path, change, sentence):
    with pytest.raises(InvalidInputError, match=sentence):
        NeuronCard.load(forged(card, tmp_path / "card.json", change))


def test_a_card_that_was_changed_is_refused(card, tmp_path):
    path = card.save(tmp_path / "card.json", identity={"rows": "r"})
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["identity"] == {"rows": "r"}
    for change in ({"limit": content["limit"] + 1}, {"identity": {"rows": "s"}}):
        path.write_text(json.dumps(content | change), encoding="utf-8")
        with pytest.raises(DamagedFileError, match=r"changed after NeuronCard\.save wrote it"):
            NeuronCard.load(path)


# --- numbers ----------------------------------------------------------------------------------

FORMS = [
    f"{sign}{form}" for sign in ("", "+") for form in (".1f", ".4f", ".2g", ".3e", ",.2f", ".0%")
]


@given(st.floats(), st.sampled_from(FORMS))
def test_a_number_is_printed_with_a_true_minus_sign_and_without_a_sign_of_zero(value, form):
    text = number(value, form)
    assert "-" not in text
    if math.isnan(value):
        assert text == "\N{EN DASH}"
    elif not re.search("[1-9i]", re.sub("e.*", "", text)):
        assert text[0] == "0", "zero, and what rounds to it, has no sign"
    else:
        assert text.replace("\N{MINUS SIGN}", "-") == format(value, form)


@given(st.floats(allow_nan=False))
def test_a_number_can_be_read_again(value):
    text = number(value, ".17g")
    assert float(text.replace("\N{MINUS SIGN}", "-")) == value


# --- tokens ---------------------------------------------------------------------------------------

ODD = [
    "<bos>",
    "a<b & c>d",
    "</script><script>alert(1)</script>",
    "<!-- x",
    "&amp;&lt;",
    '"quoted\'"',
    "\u05e9\u05dc\u05d5\u05dd \u0627\u0644\u0634\u0627\u064a",
    "\u4e2d\u6587\u8336\u3001\ud55c\uad6d\uc5b4",
    "\U0001f375\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "two  spaces\n\n\ttab\r\nreturn\r",
    "\ufffd literal",
    "e\u0301 \u0e01\u0e33 \u0928\u092e\u0938\u094d\u0924\u0947",
    "{{ 7 * 7 }} {% raw %}",
    "\u202eoverride",
    "style='x' onclick=alert(1)",
]


class Text(HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.text, self.spans = "", 0
        self.feed(source)
        self.close()

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        self.spans += tag == "span"


@pytest.mark.parametrize("text", ODD)
def test_tokens_joined_are_the_text(model, text):
    ids = model.tokenizer(text)["input_ids"]
    tokens = token_texts(model.tokenizer, ids)
    assert len(tokens) == len(ids)
    assert "".join(tokens) == "<s>" + text
    shown = Text(str(ColouredTokens(tokens, (0.5,) * len(ids)).html()))
    assert shown.text == "<s>" + text
    assert shown.spans == sum(map(bool, tokens))


@given(st.text(max_size=40))
def test_any_text_is_given_back(loaded, text):
    tokenizer = loaded().tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(token_texts(tokenizer, ids)) == tokenizer.decode(ids)
    assert Text(as_html(text)).text == text.replace("\0", "\N{SYMBOL FOR NULL}")


def test_tokens_that_never_complete_a_character_are_shown_as_such(model):
    ids = model.tokenizer("\u8336", add_special_tokens=False)["input_ids"][:2]
    assert "".join(token_texts(model.tokenizer, ids)) == "\N{REPLACEMENT CHARACTER}"
    shown = ColouredTokens(("tea", "", ""), (1.0, 2.0, -3.0)).html()
    assert "activation 1, 2, -3, tokens 0 to 2" in shown


def test_a_character_of_several_tokens_shows_the_strongest(model):
    html = str(ColouredTokens(("a", "", "", "\u8336"), (0.0, 0.1, -0.9, 0.2)).html(limit=1.0))
    assert html.count("<span") == 2
    assert colour(-0.9, 1.0) in html
    assert "activation 0.1, -0.9, 0.2, tokens 1 to 3" in html


def test_colours_share_one_scale():
    assert colour(0.0, 1.0).endswith(",0)")
    assert colour(2.0, 2.0) == colour(9.0, 2.0) != colour(1.0, 2.0)
    assert colour(1.0, 2.0).split(",")[:3] != colour(-1.0, 2.0).split(",")[:3]
    assert colour(0.0, 0.0).endswith(",0)")


def test_tokens_need_a_number_each():
    with pytest.raises(
        InvalidInputError, match="There are 2 tokens and 1 numbers; give one number"
    ):
        ColouredTokens(("a", "b"), (1.0,))


# --- in a real browser ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd_card(loaded):
    """A card whose prompts, ids, cultures and topics hold what breaks pages."""
    model = loaded()
    rows = questions(
        [
            {
                "id": f"q{i} {text}",
                "prompt": text[:18],
                "options": [" A", " B"],
                "answer": " A",
                "culture": ("", "<b>Ü</b> & </style>")[i % 2],
                "topic": text[:20],
            }
            for i, text in enumerate(ODD)
        ]
    )
    return inspect_neuron(model, rows, NEURON, top=len(rows)), rows


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_a_card_exactly_and_asks_for_nothing(odd_card, tmp_path, scheme):
    card, rows = odd_card
    with opened(card.to_html(tmp_path / "card.html"), scheme) as page:
        examples = (*card.strongest, *card.weakest)
        blocks = page.locator(".tokens")
        assert blocks.count() == len(examples) == 2 * len(rows)
        texts = blocks.evaluate_all("blocks => blocks.map(block => block.textContent)")
        assert texts == [example.tokens.text for example in examples]
        assert {text.removeprefix("<s>") for text in texts} == set(rows["prompt"])
        shown = page.locator(".tokens span").count()
        assert shown == sum(sum(map(bool, e.tokens.tokens)) for e in examples)
        colours = page.locator(".tokens span").evaluate_all(
            "spans => new Set(spans.map(span => getComputedStyle(span).backgroundColor)).size"
        )
        assert colours > 20
        cultures = page.locator("table.means").first.locator("tbody th").all_text_contents()
        assert set(cultures) == {"(none named)", "<b>Ü</b> & </style>"}
        assert page.locator("svg rect").count() == 41
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        keep_screenshot(page, f"card_{scheme}")


@pytest.fixture(scope="module")
def long_model(tmp_path_factory, make_tokenizer):
    """A model that reads 2,048 tokens."""
    tokenizer = make_tokenizer()
    config: Any = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gpt2 = GPT2LMHeadModel(
            GPT2Config(**config, n_embd=8, n_layer=1, n_head=1, n_positions=2048)
        )
    folder = save_model(gpt2, tmp_path_factory.mktemp("long") / "small", tokenizer)
    return load_model(folder, backend="bridge", device="cpu")


@pytest.mark.browser
def test_a_browser_shows_a_prompt_of_2000_tokens_exactly(long_model, tmp_path):
    text = " ".join(ODD)
    text += " tea" * (2000 - len(long_model.tokenizer(text)["input_ids"]))
    view = inspect_prompt(long_model, text, sites=["mlp.hook_post", "attn.hook_v"], top=2)
    assert len(view.total.tokens) == 2000
    with opened(view.to_html(tmp_path / "prompt.html")) as page:
        texts = page.locator(".tokens").evaluate_all("all => all.map(one => one.textContent)")
        assert texts == ["<s>" + text] * 3
        assert page.locator(".tokens").first.locator("span").count() == sum(
            map(bool, view.total.tokens)
        )
        assert page.locator("h3").count() == 3
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        keep_screenshot(page, "prompt")
