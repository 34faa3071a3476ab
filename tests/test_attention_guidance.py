"""Normalized attention guidance against its definition, token by token, and in LongCat's text cross-attention."""
import golden
import pytest
import torch
from lodestar.networks.longcat.config import LongCatConfig
from lodestar.networks.longcat.network import LongCat
from lodestar.techniques.attention_guidance import AttentionGuidance


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(positive, negative, scale, tau, alpha):
    made = torch.empty_like(positive)
    for place in range(positive.shape[1]):
        plus, minus = positive[0, place], negative[0, place]
        guided = plus + (scale - 1) * (plus - minus)
        ratio = guided.abs().sum() / plus.abs().sum()
        if ratio > tau:
            guided = guided * tau / ratio
        made[0, place] = alpha * guided + (1 - alpha) * plus
    return made


@pytest.mark.parametrize("values", [(11.0, 2.5, 0.25), (5.0, 1.5, 0.5), (2.0, 10.0, 1.0)])
def test_it_is_the_definition(values):
    """Some tokens are cut to tau, some are not."""
    positive, negative = draw(1, 40, 12, seed=1), draw(1, 40, 12, seed=1) + 0.3 * draw(1, 40, 12, seed=2)
    found = AttentionGuidance(*values).guide(positive, negative)
    torch.testing.assert_close(found, by_hand(positive, negative, *values), atol=1e-4, rtol=0)


@pytest.mark.parametrize("values", [(1.0, 2.5, 1.0), (11.0, 2.5, 0.0)])
def test_nothing_asked_is_nothing_done(values):
    positive = draw(1, 4, 12, seed=1)
    torch.testing.assert_close(AttentionGuidance(*values).guide(positive, draw(1, 4, 12, seed=2)), positive)


@pytest.fixture(scope="module", params=[True, False])
def network(request):
    torch.manual_seed(0)
    config = LongCatConfig(hidden=48, depth=2, heads=2, ffn=64, caption=24, adaln=20, keep_padding=request.param)
    return LongCat(config, torch.nn, golden.plain_attention).eval().requires_grad_(False)


def prompt(seed):
    text = draw(1, 9, 24, seed=seed)
    text[:, 6:] = 0
    return text


def call(batch=1):
    timestep = torch.full((batch, 3), 700.0)
    timestep[:, :1] = 0
    text = prompt(8).expand(batch, -1, -1)
    return {"x": draw(1, 16, 3, 4, 6, seed=7).expand(batch, -1, -1, -1, -1), "timestep": timestep, "text": text,
            "text_mask": (text != 0).any(-1), "clean": (1,)}


def test_both_texts_are_attended_to_by_the_same_queries_in_every_block(network, monkeypatch):
    """By the definition, with the two attentions of the plain network."""
    guidance, seen = AttentionGuidance(3.0, 1.2, 0.5), []

    def guide(self, positive, negative):
        seen.append((positive, negative))
        return by_hand(positive, negative, 3.0, 1.2, 0.5)

    found = network(**call(), negative=prompt(9), guidance=guidance)
    assert not torch.allclose(found, network(**call()), atol=1e-3)
    monkeypatch.setattr(AttentionGuidance, "guide", guide)
    torch.testing.assert_close(network(**call(), negative=prompt(9), guidance=guidance), found, atol=1e-4, rtol=0)
    assert len(seen) == 2 and all(part.shape == (1, 12, 48) for pair in seen for part in pair)     # the noise alone
    same = [network.blocks[0].cross_attn.attend(network.blocks[0].cross_attn.queries(draw(1, 12, 48, seed=3)),
                                                network.y_embedder(prompt(seed)[:, :6]), {}) for seed in (8, 9)]
    assert not torch.allclose(*same)


def test_the_prompt_itself_as_negative_changes_nothing(network):
    found = network(**call(), negative=prompt(8), guidance=AttentionGuidance())
    torch.testing.assert_close(found, network(**call()), atol=1e-5, rtol=0)


def test_every_row_of_a_batch_is_guided_alike(network):
    one, two = (network(**call(batch), negative=prompt(9), guidance=AttentionGuidance()) for batch in (1, 2))
    torch.testing.assert_close(two, one.expand_as(two), atol=1e-5, rtol=0)
