"""RelP and GIM equal their equations written out, and change no answer."""

from functools import cache, partial

import pytest
import reference
import torch
from reference import SITES, GimLlama, RelpLlama, max_error
from test_attribution import EXACT, unpadded

from culnig_tl.attribution import attribute
from culnig_tl.attribution.methods import METHODS
from culnig_tl.attribution.pooling import Reduction, pooler
from culnig_tl.attribution.rules import RULES
from culnig_tl.errors import InvalidInputError
from culnig_tl.questions import batches

PUBLISHED = Reduction(pool="max", padding="ignore", clamp=False, weight="probability")
TWINS = {
    "relp": RelpLlama,
    "relp_frozen_attention": partial(RelpLlama, freeze_attention=True),
    "gim": GimLlama,
}


@pytest.fixture(scope="module")
def scores_of(loaded, rows):
    """``scores_of(method, key_value_heads)``: the batch of all rows and its scores."""

    @cache
    def score(method: str, key_value_heads: int):
        model = loaded(key_value_heads)
        batch = batches(model, rows)[0]
        return batch, METHODS[method](model, batch, SITES, PUBLISHED, "probability")

    return score


@pytest.mark.parametrize("key_value_heads", [2, 4])
@pytest.mark.parametrize("method", TWINS)
def test_scores_equal_the_equations(scores_of, folders, method, key_value_heads):
    batch, scored = scores_of(method, key_value_heads)
    twin = TWINS[method](folders[key_value_heads])
    for line in range(2):
        seen = reference.trace(twin, unpadded(batch, line), int(batch.answers[line]))
        assert float(scored.probability[line]) == pytest.approx(seen.probability, rel=EXACT)
        for (site, layer), activation in seen.activation.items():
            if (site, layer) not in seen.gradient:  # behind a frozen pattern
                assert not scored.scores[site][line, layer].any()
                continue
            naive = [
                reference.question_score(seen, (site, layer, k)) for k in range(len(activation[0]))
            ]
            assert (
                max_error(
                    scored.scores[site][line, layer], torch.tensor(naive, dtype=torch.float64)
                )
                < EXACT
            )


@pytest.mark.parametrize("method", RULES)
def test_rules_leave_answers_as_they_are(scores_of, method):
    _, plain = scores_of("gradient_x_activation", 2)
    _, ruled = scores_of(method, 2)
    assert torch.allclose(ruled.probability, plain.probability, rtol=EXACT, atol=0)
    for site in ("mlp.hook_post", "attn.hook_v"):
        assert max_error(ruled.scores[site], plain.scores[site]) > 0.01


@pytest.mark.parametrize("method", RULES)
def test_a_data_set_is_scored_by_rules(model, rows, method):
    scores = attribute(model, rows, method=method, sites=["mlp.hook_post"], progress=False)
    assert scores.source["method"] == method


def test_a_bridge_is_refused(loaded, rows):
    with pytest.raises(
        InvalidInputError, match=r"'relp', whose rules stand at hook points .* backend='hooked'"
    ):
        attribute(loaded(2, "bridge", "float32"), rows, method="relp", progress=False)


def test_a_frozen_pattern_leaves_queries_and_keys_without_score(scores_of):
    _, frozen = scores_of("relp_frozen_attention", 2)
    assert not frozen.scores["attn.hook_q"].any()
    assert not frozen.scores["attn.hook_k"].any()
    assert frozen.scores["attn.hook_v"].any()


def test_absmax_keeps_the_sign():
    product = torch.tensor([[[9.0, 1.0], [1.0, 0.5], [-2.0, 0.2]]])
    mask = torch.tensor([[False, True, True]])
    assert pooler(mask, "absmax", "ignore")(product).tolist() == [[-2.0, 0.5]]
