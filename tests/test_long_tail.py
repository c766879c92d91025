"Losses for the long tail on arbitrary numbers: limits, symmetries, refusals; what a training makes of them."
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from mgr_paper.config import LossConfig, tier_config
from mgr_paper.core import MgrError
from mgr_paper.losses.class_weights import class_weights
from mgr_paper.losses.long_tail import (CosineClassifier, balanced_softmax_loss, focal_loss, ldam_loss, ldam_margins,
                                        log_prior, logit_adjusted_loss, pick_loss, present_counts, weighs_now)
from mgr_paper.losses.semantic import class_loss
from mgr_paper.training.train import Objective

KINDS = ('ce', 'focal', 'ldam-drw', 'logit-adjust', 'balanced-softmax')
COUNTS = np.array([40, 10, 3, 1])
counts = st.lists(st.integers(0, 5000), min_size=2, max_size=40).filter(any)


def batch(seed=0, N=9, K=4):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(N, K, generator=g), torch.randint(K, (N,), generator=g), torch.rand(K, generator=g) + .1


@given(counts)
def test_margins_and_priors_follow_the_counts(n):
    n = np.array(n)
    margins, prior, order = ldam_margins(n), log_prior(n), np.argsort(n, kind='stable')
    assert np.isfinite(margins).all() and margins.max() == pytest.approx(.5) and (margins > 0).all()
    assert (np.diff(margins[order]) <= 1e-12).all() and (np.diff(prior[order]) >= -1e-12).all()
    missing, rare = n == 0, n == n[n > 0].min()
    if missing.any(): assert np.allclose(margins[missing], margins[rare][0]) and np.allclose(prior[missing], prior[rare][0])
    np.testing.assert_allclose(present_counts(n)[n > 0], n[n > 0])


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0, .5), st.sampled_from(KINDS))
def test_every_kind_keeps_weights_smoothing_and_trust(seed, smoothing, kind):
    "Half the trust is half the loss; the scale of the class weights cancels; all are finite and differentiable."
    z, y, w = batch(seed)
    loss = pick_loss(LossConfig(kind=kind), COUNTS)
    whole = loss(z, y, w, smoothing, torch.ones(9))
    assert_close(loss(z, y, w, smoothing, None), whole)
    assert_close(loss(z, y, 7*w, smoothing, None), whole)
    assert_close(loss(z, y, w, smoothing, torch.full((9,), .5)), whole/2)
    z.requires_grad_()
    loss(z, y, w, smoothing, None).backward()
    assert torch.isfinite(whole) and torch.isfinite(z.grad).all() and z.grad.abs().sum() > 0


@pytest.mark.parametrize('off', [dict(kind='focal', gamma=0.), dict(kind='logit-adjust', tau=0.),
                                 dict(kind='ldam-drw', margin=0.), dict(kind='ce')])
def test_switched_off_each_is_cross_entropy(off):
    z, y, w = batch()
    assert_close(pick_loss(LossConfig(**off), COUNTS)(z, y, w, .1, None), class_loss(z, y, w, .1))


@given(st.integers(0, 1000))
def test_balanced_softmax_is_logit_adjustment(seed):
    z, y, w = batch(seed)
    both = [pick_loss(LossConfig(kind=k), COUNTS)(z, y, w, .1, None) for k in ('logit-adjust', 'balanced-softmax')]
    assert_close(*both)


def test_margins_beyond_the_true_class_do_not_matter():
    z, y, _ = batch()
    y = torch.zeros_like(y)
    a, b = (ldam_loss(z, y, margins=torch.tensor(m)) for m in ([.2, .1, .1, .1], [.2, .5, .5, .5]))
    assert_close(a, b)


@pytest.mark.parametrize('call, says', [
    (lambda z, y: focal_loss(z, y, gamma=-.1), 'gamma=-0.1'),
    (lambda z, y: focal_loss(z, y, gamma=float('nan')), 'gamma=nan'),
    (lambda z, y: focal_loss(z, y.float()), 'labels are torch.float32'),
    (lambda z, y: focal_loss(z, y, torch.ones(3)), 'each of the 4 classes'),
    (lambda z, y: ldam_margins([]), r'shape \(0,\)'),
    (lambda z, y: ldam_margins([0, 0]), 'every class count is 0'),
    (lambda z, y: ldam_margins([3, 1], float('nan')), 'margin nan'),
    (lambda z, y: ldam_loss(z, y, margins=torch.ones(5)), 'one a class'),
    (lambda z, y: ldam_loss(z, y, margins=torch.ones(4), scale=-1), 'scale=-1'),
    (lambda z, y: ldam_loss(z, y[:3], margins=torch.ones(4)), 'do not fit'),
    (lambda z, y: log_prior([2, float('nan')]), 'count of class 1 is nan'),
    (lambda z, y: logit_adjusted_loss(z, y, log_prior=torch.zeros(3)), 'does not fit'),
    (lambda z, y: logit_adjusted_loss(z, y, log_prior=torch.full((4,), -torch.inf)), 'finite'),
    (lambda z, y: logit_adjusted_loss(z, y, log_prior=torch.zeros(4), tau=-1), 'tau=-1'),
    (lambda z, y: balanced_softmax_loss(z, y, counts=torch.tensor([1., 0, 2, 3])), '0 or less'),
    (lambda z, y: LossConfig(kind='margin'), 'LossConfig.kind'),
    (lambda z, y: LossConfig(drw=1.5), 'out of range'),
])
def test_bad_input_is_refused(call, says):
    z, y, _ = batch()
    with pytest.raises(MgrError, match=says) as e: call(z, y)
    assert '\n' not in str(e.value)


def test_the_default_objective_is_what_it_was():
    "Bit for bit: weighted cross-entropy with smoothing, whatever the progress."
    z, y, _ = batch()
    source = np.repeat(np.arange(4), COUNTS)
    cfg = LossConfig(ose_lambda=0.)
    w = torch.from_numpy(class_weights(COUNTS).astype(np.float32))
    want = class_loss(z, y, w, .1, torch.ones(9))
    for progress in (0., .5, 1.): assert torch.equal(Objective(cfg, source, 4)(None, z, z, y, torch.ones(9), progress)[0], want)


def test_weights_of_ldam_come_late_and_stay_for_a_student():
    z, y, _ = batch()
    source = np.repeat(np.arange(4), COUNTS)
    cfg = LossConfig(kind='ldam-drw', weights='effective', beta=.99, drw=.5, ose_lambda=0.)
    objective = Objective(cfg, source, 4)
    late, early = (objective(None, z, z, y, torch.ones(9), p)[0] for p in (.5, .49))
    plain = Objective(dataclasses.replace(cfg, weights='none'), source, 4)(None, z, z, y, torch.ones(9), .49)[0]
    assert_close(early, plain)
    assert late != early and objective(None, z, z, y, torch.ones(9))[0] == late
    assert not weighs_now(cfg, .49) and weighs_now(LossConfig(), 0.)


def test_beta_reaches_the_weights():
    source = np.repeat(np.arange(4), COUNTS)
    a, b = (Objective(LossConfig(weights='effective', beta=beta), source, 4).w for beta in (.5, .999))
    assert a[-1]/a[0] < 2.1 < 30 < b[-1]/b[0]


def test_cosine_classifier_is_bounded_and_scale_free():
    net, x = CosineClassifier(6, 4, 30.), torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    assert net(1e4*x).abs().max() <= 30.001 and torch.isfinite(net(torch.zeros(2, 6))).all()
    assert_close(net(1e3*x), net(x), atol=1e-3, rtol=0)
    net(x).sum().backward()
    assert net.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('tier', ['smoke', 'bench'])
def test_default_kind_in_every_tier(tier):
    assert tier_config(tier, 'utd-mhad').loss == LossConfig()
