"""The mask, pair by pair, against the paper's rule written out."""

import itertools

import pytest
import torch

from gem_rag.compute.attention import Role, Rule, Tokens, positions_of, span_mask, visible

P, S, X, PAD = Role.PREFIX, Role.SPECIAL, Role.SUFFIX, Role.PADDING
SHAPES = [(p, k, s) for p in range(4) for k in range(4) for s in range(4) if p + k + s]


def sequence(p, k, s):
    roles = [P] * p + [S] * k + [X] * s
    n = len(roles)
    return roles, Tokens(torch.arange(n)[None], torch.tensor([roles]))


def paper_rule(i, j, roles):
    return (
        j <= i
        and not (roles[i] == X and roles[j] == P)
        and not (roles[i] == S and roles[j] == S and i != j)
    )


@pytest.mark.parametrize(("p", "k", "s"), SHAPES)
def test_every_pair_follows_the_papers_rule(p, k, s):
    roles, tokens = sequence(p, k, s)
    mask = visible(tokens, tokens)[0, 0]
    for i, j in itertools.product(range(len(roles)), repeat=2):
        assert bool(mask[i, j]) == paper_rule(i, j, roles), (i, j, roles)


@pytest.mark.parametrize("window", [1, 2, 3, 10])
def test_a_window_closes_what_is_further_back(window):
    roles, tokens = sequence(3, 2, 3)
    mask = visible(tokens, tokens, window=window)[0, 0]
    for i, j in itertools.product(range(len(roles)), repeat=2):
        assert bool(mask[i, j]) == (paper_rule(i, j, roles) and i - j < window)


def test_without_specials_the_mask_is_plain_causal():
    _, tokens = sequence(5, 0, 0)
    assert torch.equal(visible(tokens, tokens)[0, 0], torch.ones(5, 5).tril().bool())


def test_controls_open_the_bottleneck_or_close_the_prefix():
    roles, tokens = sequence(3, 2, 2)
    n = len(roles)
    causal = visible(tokens, tokens, rule=Rule.CAUSAL)[0, 0]
    assert torch.equal(causal, torch.ones(n, n).tril().bool())
    blind = visible(tokens, tokens, rule=Rule.BLIND)[0, 0]
    for i, j in itertools.product(range(n), repeat=2):
        hidden = roles[i] == S and roles[j] == P
        assert bool(blind[i, j]) == (paper_rule(i, j, roles) and not hidden)


def test_one_pass_and_two_passes_see_the_same():
    _, tokens = sequence(4, 3, 0)
    whole = visible(tokens, tokens)
    specials = Tokens(tokens.positions[:, 4:], tokens.roles[:, 4:])
    assert torch.equal(visible(specials, tokens), whole[:, :, 4:])


@pytest.mark.parametrize("left", [True, False])
def test_padding_is_seen_by_nobody_and_no_row_is_empty(left):
    valid = torch.tensor([[False, False, True, True, True]])
    valid = valid if left else valid.flip(1)
    tokens = Tokens(positions_of(valid), torch.where(valid, P, PAD))
    mask = visible(tokens, tokens)[0, 0]
    assert mask.any(1).all()
    real = valid[0]
    assert not mask[real][:, ~real].any()
    assert torch.equal(mask[real][:, real], torch.ones(3, 3).tril().bool())


def test_positions_count_real_tokens_only():
    valid = torch.tensor([[True, True, False], [False, True, True]])
    positions = positions_of(valid, start=7)
    assert positions[0, :2].tolist() == positions[1, 1:].tolist() == [7, 8]


def test_spans_side_by_side_do_not_see_each_other():
    own = torch.ones(2, 1, 3, 4 + 3, dtype=torch.bool)
    own[1, :, :, :2] = False
    mask = span_mask(own, width=4)[0, 0]
    assert mask.shape == (6, 10)
    assert not mask[:3, 7:].any()
    assert not mask[3:, 4:7].any()
    assert not mask[3:, :2].any()
    assert mask[:3, :7].all()
