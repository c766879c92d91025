"Numbers at the edges: gradients, empty and short clips, one class, two classes, extreme temperatures, half precision, seeds."
import hashlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from mgr_paper.adaptation.choices import choose_from
from mgr_paper.adaptation.cmpl import class_thresholds, diagnose, diversity, oracle, select, self_select
from mgr_paper.adaptation.noise import confusion_of, noisy
from mgr_paper.adaptation.references import Dann, Reverse, Shot, centroid_labels, fixed_threshold, strength
from mgr_paper.branches.heatmaps import Output
from mgr_paper.config import CmplConfig, LossConfig, override, tier_config
from mgr_paper.core import MgrError, rng
from mgr_paper.evidence.metrics import measured, metrics, per_class
from mgr_paper.evidence.stats import bootstrap, by_person, draw_weights, effect_size, paired_difference, sign_flip
from mgr_paper.fusion.baselines import RULES, HeldOut, combine
from mgr_paper.fusion.calibrate import BOUNDS, ece, fit_temperature, nll, reliability, softmax
from mgr_paper.fusion.vote import fit_vote, grid_nll, hard_vote, logit_vote, tune_weights, vote
from mgr_paper.losses.class_weights import KINDS as WEIGHTS, class_weights
from mgr_paper.losses.long_tail import CosineClassifier, pick_loss
from mgr_paper.losses.semantic import (SemanticHead, class_loss, learned_ose_loss, lowdin, make_head, mse_loss, ose_loss, targets,
                                       total_loss)
from mgr_paper.preprocessing import utd_mhad
from mgr_paper.preprocessing.augment import augment_joints, augment_video
from mgr_paper.preprocessing.layouts import layout
from mgr_paper.preprocessing.store import ClipStore
from mgr_paper.training import devices, train
from mgr_paper.training.train import Labelled, Objective, fit, make_network, predict

KINDS = ('ce', 'focal', 'ldam-drw', 'logit-adjust', 'balanced-softmax')
HEADS = ('none', 'text', 'text-raw', 'random', 'learned', 'mse')
COUNTS = np.array([40, 10, 3, 1])
WORDS = ('wave', 'clap', 'throw', 'push')


def doubles(*shape, seed=0, grad=True):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_(grad)


# --- gradients

W, TRUST = torch.tensor([.5, 1., 2., 4.], dtype=torch.float64), torch.linspace(.1, 1, 6, dtype=torch.float64)
CASES = list(itertools.product(('many', 'one'), (None, W), (0., .1), (None, TRUST)))
LABELS = dict(many=torch.tensor([0, 1, 2, 3, 1, 0]), one=torch.full((6,), 2))


@pytest.mark.parametrize('kind', KINDS)
def test_gradient_of_every_classification_loss(kind):
    loss = pick_loss(LossConfig(kind=kind, tau=.7, gamma=1.5), COUNTS)
    for y, w, smoothing, trust in CASES:
        for scale in (1., 6.):  # unsure and sure
            assert gradcheck(lambda z: loss(scale*z, LABELS[y], w, smoothing, trust), doubles(6, 4))


@pytest.mark.parametrize('form', ['fixed', 'learned', 'mse'])
def test_gradient_of_every_semantic_loss(form):
    e = torch.from_numpy(lowdin(doubles(4, 5, seed=1, grad=False).numpy())) if form == 'fixed' else doubles(4, 5, seed=1)
    unit = lambda f: torch.nn.functional.normalize(f, dim=-1)
    for y, w, mu, trust in itertools.product(LABELS.values(), (None, W), (0., .5), (None, TRUST)):
        loss = dict(fixed=lambda f, e: ose_loss(unit(f), y, e, w, mu, trust)[0],
                    learned=lambda f, e: learned_ose_loss(unit(f), y, e, w, mu, trust)[0],
                    mse=lambda f, e: mse_loss(f, y, e, w, trust)[0])[form]
        assert gradcheck(loss, (doubles(6, 5), e))


@pytest.mark.parametrize('variant', HEADS)
def test_gradient_of_the_whole_objective(variant):
    "Logits and features together, through the head, for every classification loss."
    torch.manual_seed(0)
    head = make_head(variant, 5, WORDS)
    if head is not None: head.double()
    for kind in KINDS:
        cfg = LossConfig(kind=kind, ose_lambda=.7, ose_mu=.3)
        whole = lambda z, f: total_loss(z, LABELS['many'], W, None if head is None else head(f), head, cfg, TRUST,
                                        pick_loss(cfg, COUNTS))[0] + 0*f.sum()
        assert gradcheck(whole, (doubles(6, 4), doubles(6, 5, seed=2)))


def test_gradient_of_the_cosine_classifier():
    net = CosineClassifier(5, 4).double()
    assert gradcheck(net, doubles(3, 5))
    assert gradcheck(lambda w: torch.func.functional_call(net, {'weight': w}, doubles(3, 5, grad=False)), doubles(4, 5, seed=1))


def test_gradient_of_information_maximisation():
    y = [torch.tensor([0, 1, 2, 3, 1, 0])]
    assert gradcheck(lambda z: Shot()(Output(z, None), [slice(0, 6)], y, 0.)[0], doubles(6, 4))


def test_gradient_of_the_domain_loss():
    "Its classifier follows the loss; the features get the same gradient backwards, times the strength."
    net, halves = Dann(5, 0, hidden=7).double(), [slice(0, 3), slice(3, 6)]
    names = [k for k, _ in net.named_parameters()]
    def loss(done, f, *values): return torch.func.functional_call(net, dict(zip(names, values)), (Output(None, f), halves, [], done))[0]
    weights = [p.detach().clone().requires_grad_() for p in net.parameters()]
    assert gradcheck(lambda *v: loss(.4, doubles(6, 5, grad=False), *v), weights)
    f = doubles(6, 5)
    back, = torch.autograd.grad(loss(.4, f, *weights), f)
    step, towards = 1e-6, doubles(6, 5, seed=3, grad=False)
    with torch.no_grad(): slope = (loss(.4, f + step*towards, *weights) - loss(.4, f - step*towards, *weights))/(2*step)
    assert_close((back*towards).sum(), -strength(.4)*slope, atol=1e-7, rtol=1e-6)


def test_a_wrong_gradient_is_noticed():
    "The checks above can fail: a gradient turned round, and a loss of which a part is cut off from its gradient."
    with pytest.raises(RuntimeError, match='Jacobian mismatch'): gradcheck(lambda x: Reverse.apply(x, .5), doubles(3))
    loss = pick_loss(LossConfig(kind='focal'), COUNTS)
    with pytest.raises(RuntimeError, match='Jacobian mismatch'):
        gradcheck(lambda z: loss(z, LABELS['many'], W, 0., 1 - z.softmax(-1).amax(-1).detach()), doubles(6, 4))


# --- losses at the edges

EDGES = {  # logits (N,K), labels, source clips of each class
    'one class in the batch': (torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), [1]*5, [9, 5, 3, 1]),
    'a class without source clips': (torch.randn(4, 4, generator=torch.Generator().manual_seed(1)), [0, 1, 2, 3], [9, 0, 3, 0]),
    'one class in the source': (torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), [2, 2, 2], [0, 0, 7, 0]),
    'two classes': (torch.randn(4, 2, generator=torch.Generator().manual_seed(2)), [0, 1, 1, 0], [2, 1]),
    'one clip': (torch.randn(1, 4, generator=torch.Generator().manual_seed(3)), [3], [1, 1, 1, 1]),
    'sure and right': (1e4*torch.eye(4), [0, 1, 2, 3], [40, 10, 3, 1]),
    'sure and wrong': (1e4*torch.eye(4), [1, 2, 3, 0], [40, 10, 3, 1]),
    'no opinion': (torch.zeros(4, 4), [0, 1, 2, 3], [40, 10, 3, 1]),
    'a million of one class': (torch.randn(4, 4, generator=torch.Generator().manual_seed(4)), [0, 1, 2, 3], [10**6, 1, 1, 0]),
}


@pytest.mark.parametrize('edge', EDGES)
@pytest.mark.parametrize('kind', KINDS)
def test_losses_and_gradients_stay_finite(edge, kind):
    "With every head, every weighting, features of zero length, and labels of no trust."
    z, y, counts = EDGES[edge]
    y, K = torch.tensor(y), z.shape[1]
    source = np.repeat(np.arange(K), counts)
    ways = [*itertools.product(HEADS, ('none', 'sqrt'), (torch.float32,)), *itertools.product(('text',), WEIGHTS, (torch.bfloat16,))]
    for variant, weights, dtype in ways:
        torch.manual_seed(0)
        head = make_head(variant, 6, WORDS[:K])
        objective = Objective(LossConfig(kind=kind, weights=weights, ose_targets=variant), source, K)
        logits, feat = z.to(dtype, copy=True).requires_grad_(), torch.randn(len(y), 6).to(dtype)
        feat[0] = 0
        feat.requires_grad_()
        for trust in (torch.ones(len(y)), torch.zeros(len(y))):
            loss, parts = objective(head, logits, feat, y, trust)
            logits.grad = feat.grad = None
            loss.backward()
            found = [loss, *parts.values(), logits.grad, *([] if head is None else [feat.grad, *(p.grad for p in head.parameters())])]
            assert all(v.isfinite().all() for v in found), (variant, weights, dtype)
            if not trust.any(): assert parts['cls'] == 0 and not logits.grad.any()


def test_learned_targets_of_a_single_class_have_no_angle_between_them():
    loss, parts = learned_ose_loss(doubles(3, 5), torch.zeros(3, dtype=torch.int64), doubles(1, 5, seed=1))
    assert parts['orth'] < 1e-12 and parts['align'] == 0 and loss.isfinite()


@pytest.mark.parametrize('kind', WEIGHTS)
@pytest.mark.parametrize('norm', ['sample', 'class'])
def test_class_weights_stay_finite(kind, norm):
    for counts in ([1, 0], [1, 1], [5, 0, 0, 2], [1, 10**9], [10**9, 10**9], [0, 1]):
        for clip, smooth in itertools.product((None, 1., 3.), (0., 1., 1e9)):
            w = class_weights(counts, kind, smooth, clip, .9999, norm)
            assert np.isfinite(w).all() and (w > 0).all() and w.shape == (len(counts),)


def test_dann_and_shot_stay_finite():
    torch.manual_seed(0)
    for n, m in ((1, 1), (1, 5), (4, 4)):
        feat = torch.cat([torch.zeros(n, 6), 1e4*torch.randn(m, 6)]).requires_grad_()
        loss, parts = Dann(6, 0)(Output(None, feat), [slice(0, n), slice(n, n + m)], [], 1.)
        loss.backward()
        assert all(v.isfinite().all() for v in (loss, feat.grad, *parts.values()))
    for z in (torch.zeros(3, 2), 1e4*torch.eye(2), 1e4*torch.ones(1, 2), torch.tensor([[1e4, 0.]]*4)):
        for dtype in (torch.float32, torch.bfloat16):
            for c in (0, 1):
                x = z.to(dtype, copy=True).requires_grad_()
                loss, parts = Shot()(Output(x, None), [slice(0, len(z))], [torch.full((len(z),), c)], 0.)
                loss.backward()
                assert all(v.isfinite().all() for v in (loss, x.grad, *parts.values()))


# --- networks at the edges

K, LAYOUT = 5, layout('kinect20')
NAMES = ('joint', 'joint3d', 'heatmap', 'swin', 'r2plus1d', 'depth')
CHANNELS = dict(swin=3, r2plus1d=3, depth=2)


def network(name, K=K, seed=0):
    from mgr_paper.branches.heatmap import HeatmapBranch
    from mgr_paper.branches.joint import JointBranch
    from mgr_paper.branches.video import VideoBranch
    torch.manual_seed(seed)
    cfg = getattr(tier_config('smoke', 'utd-mhad'), name)
    if name == 'heatmap': return HeatmapBranch(cfg, LAYOUT, K)
    return VideoBranch(cfg, K, CHANNELS[name]) if name in CHANNELS else JointBranch(cfg, LAYOUT, K, 4 if name == 'joint3d' else 3)


def clips(name, net, N=4, seed=1):
    "Pixels or metres with confidence, or bytes, as a store gives them."
    g = torch.Generator().manual_seed(seed)
    if name in CHANNELS:
        return torch.randint(0, 256, (N, net.n_frames, net.size, net.size, CHANNELS[name]), generator=g, dtype=torch.uint8)
    d = 3 if name == 'joint3d' else 2
    return torch.cat([50*torch.randn(N, net.n_frames, LAYOUT.V, d, generator=g) + 300,
                      .3 + .7*torch.rand(N, net.n_frames, LAYOUT.V, 1, generator=g)], -1)


def emptied(x, how):
    x = x.clone()
    if how == 'one frame': return x[:, :1].expand_as(x).contiguous()  # what a store makes of a clip of one frame
    if how == 'nothing': return torch.zeros_like(x)
    if how == 'one joint' and x.dtype != torch.uint8:
        keep = torch.zeros(x.shape[2], dtype=torch.bool)
        keep[3] = True
        return x*keep[:, None]
    x[:, 1:] = 0  # 'first frame only'
    return x


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('how', ['nothing', 'one frame', 'first frame only', 'one joint'])
def test_networks_stay_finite_on_empty_and_still_clips(name, how):
    "All clips of a batch, augmented, forward and back; two classes; every number that learns stays finite."
    cfg = tier_config('smoke', 'utd-mhad').augment
    net, g = network(name, 2).train(), torch.Generator().manual_seed(0)
    x = emptied(clips(name, net), how)
    x = augment_video(x, cfg, g) if name in CHANNELS else augment_joints(x, LAYOUT, cfg, g)
    out = net(x)
    loss, _ = Objective(LossConfig(ose_lambda=0.), np.array([0, 0, 1]), 2)(None, out.logits, out.feat, torch.tensor([0, 1, 0, 0]), torch.ones(4))
    loss.backward()
    assert x.float().isfinite().all() and loss.isfinite()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    with torch.no_grad(): assert net.eval()(x[:1]).logits.isfinite().all()


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    "Made-up recordings of two actions by three people; the clips of one action have a single frame."
    folder = tmp_path_factory.mktemp('numerics')
    utd_mhad.write_example(folder/'raw', actions=(1, 2), people=(1, 2, 3), trials=(1, 2))
    utd_mhad.write_example(folder/'raw', actions=(3,), people=(1, 2, 3), trials=(1, 2), frames=1)
    utd_mhad.prepare_utd(folder/'raw', folder/'store')
    return ClipStore(folder/'store')


SMALL = tier_config('smoke', 'utd-mhad', {'split': 'odd-even', 'train.batch': 6})
TRAINED = ('joint', 'heatmap', 'depth', 'mmtm')


def trained(store, name, seed, cfg=SMALL, **more):
    "Everything a short training leaves: its weights, its history, its scores."
    net = make_network(name, store, cfg, seed)
    rows = fit(net, name, store, Labelled.of(store, np.arange(store.n)), cfg, seed, steps=2, **more)
    return net.state_dict(), rows, predict(net, name, store, np.arange(store.n), cfg)


@pytest.mark.parametrize('name', TRAINED)
def test_same_seed_same_result_other_seed_other_result(store, name):
    (a, rows, scores), (b, again, same), (c, others, different) = (trained(store, name, s) for s in (0, 0, 1))
    assert rows == again and np.array_equal(scores, same) and all(torch.equal(v, b[k]) for k, v in a.items())
    assert np.isfinite(scores).all() and all(np.isfinite(v) for r in rows for v in r.values())
    assert rows != others and not np.allclose(scores, different)
    assert sum(torch.equal(v, c[k]) for k, v in a.items()) < len(a)/2


def test_same_seed_same_result_in_another_process(store):
    "Also where Python orders its sets in another way."
    code = ('import sys, hashlib, numpy as np; sys.path.insert(0, sys.argv[2]); import test_numerics as t; '
            'print(hashlib.sha256(t.trained(t.ClipStore(sys.argv[1]), "joint", 0)[2].tobytes()).hexdigest())')
    env = os.environ | {'PYTHONHASHSEED': '7'}
    said = subprocess.run([sys.executable, '-c', code, str(store.path), os.path.dirname(__file__)], env=env, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.split()[-1] == hashlib.sha256(trained(store, 'joint', 0)[2].tobytes()).hexdigest()


def test_every_draw_follows_its_seed():
    draws = [lambda s: targets('imigue', 'random', seed=s), lambda s: draw_weights(np.arange(6), 20, s),
             lambda s: noisy(np.arange(50) % 5, .5, 'uniform', s, 5).y, lambda s: next(Dann(4, s).parameters()).detach().numpy(),
             lambda s: rng(s, 'a').random(5)]
    for draw in draws:
        assert np.array_equal(draw(3), draw(3)) and not np.array_equal(draw(3), draw(4))
    assert not np.array_equal(rng(3, 'a').random(5), rng(3, 'b').random(5))


# --- half precision

@pytest.mark.parametrize('name', NAMES)
def test_half_precision_forward_and_back(name):
    "The loss is close to that in full precision, every gradient finite, and a step along it helps."
    x, y, found = None, torch.tensor([0, 1, 2, 3]), {}
    for half in (False, True):
        net = network(name).train()
        x = clips(name, net) if x is None else x
        for m in net.modules():
            if isinstance(m, torch.nn.modules.dropout._DropoutNd): m.p = 0.
        objective = Objective(LossConfig(), np.array([0, 0, 1, 2, 3]), K)
        torch.manual_seed(0)
        head = make_head('text', net.D, (*WORDS, 'walk'))
        def loss():
            torch.manual_seed(1)
            with torch.autocast('cpu', torch.bfloat16, enabled=half): out = net(x)
            return objective(head, out.logits, out.feat, y, torch.ones(4))[0]
        before = loss()
        before.backward()
        params = [p for p in (*net.parameters(), *head.parameters()) if p.grad is not None]
        assert before.dtype == torch.float32 and all(p.grad.isfinite().all() for p in params)
        assert sum(bool(p.grad.any()) for p in params) > .9*len(params)
        size = torch.stack([p.grad.norm() for p in params]).norm()
        with torch.no_grad():
            for p in params: p -= 1e-2*p.grad/size
        found[half] = before.item()
        if half: assert loss() < before
    assert abs(found[True] - found[False]) < .05*abs(found[False])


@pytest.mark.parametrize('name', ['joint', 'depth', 'concat'])
def test_training_in_half_precision(store, name, monkeypatch):
    "The path a recipe with bf16 takes on a device that has it; most processors imitate it here."
    cfg = override(SMALL, {'train.precision': 'bf16'})
    full = trained(store, name, 0, override(cfg, {'train.precision': 'fp32'}))
    monkeypatch.setattr(devices, 'computes_bf16', lambda device: True)
    half = trained(store, name, 0, cfg)
    assert all(np.isfinite(v) for r in half[1] for v in r.values()) and np.isfinite(half[2]).all()
    assert half[1] != full[1] and half[1][0]['loss'] == pytest.approx(full[1][0]['loss'], rel=.05)
    assert all(v.dtype == full[0][k].dtype for k, v in half[0].items())  # weights stay in full precision


# --- temperatures, votes, selection

@pytest.mark.parametrize('T', [1e-320, 1e-300, 1e-9, *BOUNDS, 1e9, 1e300])
def test_softmax_at_every_temperature(T):
    z = np.array([[1000., 0, -1000], [1e308, -1e308, 0], [3, 3, 3], [-1e308, -1e308, -1e308], [0, 1e-300, -1e-300]])
    with np.errstate(all='raise', under='ignore'): p = softmax(z, T)
    assert np.isfinite(p).all() and (p >= 0).all()
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(p[2:4], 1/3)
    assert (p.argmax(1)[:2] == 0).all()
    assert np.array_equal(softmax(np.stack([z, z]), [T, T]), np.stack([p, p]))


def test_temperatures_end_within_their_bounds():
    right, wrong = np.eye(3)[[0, 1, 2]], np.eye(3)[[1, 2, 0]]
    for size in (1e-300, 1e-6, 1., 1e6, 1e200):
        for z in (size*right, size*wrong, size*np.ones((3, 3)), np.zeros((3, 3))):
            T = fit_temperature(z, [0, 1, 2])
            assert BOUNDS[0] <= T <= BOUNDS[1] and np.isfinite(nll(softmax(z, T), [0, 1, 2]))
    assert fit_temperature(right, [0, 1, 2]) == BOUNDS[0] and fit_temperature(wrong, [0, 1, 2]) == BOUNDS[1]
    assert fit_temperature(right, [0, 1, 2], (.5, 1.)) == .5 and fit_temperature(right, [0, 0, 0], (2., 4.)) == 4


SURE = np.stack([np.eye(2)[[0, 1, 1]], np.eye(2)[[1, 1, 0]], np.full((3, 2), .5)])  # (M,N,K): sure, of another opinion, without one


def test_votes_of_two_classes_and_of_sure_streams():
    y = np.array([0, 1, 0])
    for p in (SURE, SURE[:1], SURE[:, :1]):
        t = y[:p.shape[1]]
        for q in (vote(p), hard_vote(p), logit_vote(1e4*p), logit_vote(np.log(np.maximum(p, 1e-300)))):
            assert np.isfinite(q).all() and np.allclose(q.sum(1), 1)
        for recalibrate in (False, True):
            w = tune_weights(p, t, recalibrate=recalibrate)
            assert w.sum() == pytest.approx(1) and np.isfinite(grid_nll(p, t, w[None], recalibrate)).all()
    T, w = fit_vote(list(1e3*SURE), y)
    assert np.isfinite(T).all() and w.sum() == pytest.approx(1)
    held = HeldOut(1e3*SURE, y, np.array(['a', 'b', 'c']))
    for rule in set(RULES) - {'stacked'}:
        q = combine(rule, 1e3*SURE, held, T, w)
        assert np.isfinite(q).all() and np.allclose(q.sum(1), 1)
    four = HeldOut(1e3*SURE[:, [0, 1, 2, 0]], np.array([0, 1, 0, 1]), np.array(['a', 'a', 'b', 'b']))
    assert np.isfinite(combine('stacked', 1e3*SURE, four)).all()
    chosen = choose_from(dict(a=(1e3*SURE[0], y), b=(SURE[1], y)), SMALL, np.array([5, 0]))  # a class the source does not have
    assert all(BOUNDS[0] <= t <= BOUNDS[1] for t in chosen.temperature.values()) and np.isfinite(chosen.confusion).all()


@pytest.mark.parametrize('prior', [[.5, .5], [1., 0.]])
def test_selections_of_two_classes_of_which_the_source_may_lack_one(prior):
    y = np.array([0, 1, 0])
    for cfg in (CmplConfig(), CmplConfig(adaptive=False), CmplConfig(cap=0.), CmplConfig(tau=(0.,)), CmplConfig(tau=(1.,)),
                CmplConfig(agree=(1,), confidence_weight=False)):
        found = [select(SURE, cfg, 1, prior), select(SURE, cfg, 1, prior, exclude=0), select(SURE[:, :1], cfg, 1, prior),
                 self_select(SURE[0], cfg, 1, prior), self_select(SURE[2], cfg, 1, prior), fixed_threshold(SURE[0]),
                 centroid_labels(np.zeros((3, 4)), SURE[0]), centroid_labels(1e6*np.eye(3), SURE[2]), oracle(y, 2),
                 noisy(y, 0., 'uniform', 0, 2), noisy(y, 0., 'confusable', 0, 2, confusion_of(SURE, y))]
        for pl in found:
            assert all(np.isfinite(v).all() for v in (pl.conf, pl.weight, pl.threshold)) and (pl.weight[~pl.keep] == 0).all()
            assert ((0 <= pl.y) & (pl.y < 2)).all() and (pl.weight >= 0).all() and (pl.weight <= 1).all()
            if cfg.cap and prior[1] == 0 and pl.streams in ((0, 1, 2), (1, 2)): assert not (pl.keep & (pl.y == 1)).any()
            d = diagnose(pl, y[:len(pl.y)], prior)
            assert all(np.isfinite(v) for v in (d['kl_true'], d['kl_prior'], d['coverage'], *d['threshold']))
    assert (noisy(y, 0., 'uniform', 0, 2).y == 1 - y).all()  # of two classes there is one wrong label


def test_thresholds_of_a_class_that_nobody_names():
    np.testing.assert_array_equal(class_thresholds(np.array([.5]), np.array([1]), 3, .9), [.9, .9, .9])


# --- measures and statistics

def test_measures_of_one_class_two_classes_and_one_clip():
    for z, y in ((np.eye(2)[[0, 0, 1]], [0, 0, 0]), (np.eye(2)[[1]], [0]), (np.full((4, 2), -3.), [1, 1, 1, 1]), (1e4*np.eye(3), [2, 1, 0])):
        for counts in (None, np.array([4, 0, 1])[:z.shape[1]]):
            m = metrics(z, y, counts)
            assert all(v is None or np.isfinite(v) for v in m.values())
            assert all(v is None or isinstance(v, str) or np.isfinite(v) for r in per_class(z, y, counts) for v in r.values())
            assert measured(z, y, counts)['n'] == len(y)
    assert ece(np.eye(2), [0, 0]) == .5 and all(np.isfinite(r['low']) for r in reliability(np.eye(2), [0, 0]))
    d = diversity(SURE, np.array([0, 0, 0]))
    assert all(v is None or np.isfinite(v) for v in d.values())


@pytest.mark.parametrize('stat', ['accuracy', 'f1_macro', 'mean_class_acc'])
def test_intervals_of_one_class_and_of_two_people(stat):
    who, y = np.array(['a', 'a', 'b']), np.zeros(3, int)
    for pred in (y, y + 1, np.array([0, 1, 0])):
        i = bootstrap(stat, y, pred, groups=who, n=50)
        assert 0 <= i.low <= i.value <= i.high <= 1 and i.people == 2 and i.clips == 3
        d = paired_difference(y, pred, y, who, stat, n=50)
        assert np.isfinite([d.value, d.low, d.high]).all() and d.value == i.value - 1
        assert all(np.isfinite(v) for v in by_person(stat, [(y, pred, who)]).values())
    assert bootstrap(stat, y, y, groups=who, n=50, seed=1) == bootstrap(stat, y, y, groups=who, n=50, seed=1)


def test_tests_of_no_difference_and_of_a_huge_one():
    assert sign_flip([0., 0.])['p'] == 1 and sign_flip([1e300, 1e300])['p'] == .5 == sign_flip([1e-300, 1e-300])['p']
    e = effect_size([1., 1. + 1e-2, 1.])
    assert np.isfinite([e.value, e.low, e.high]).all() and e.low < e.value < e.high
    assert np.isnan(effect_size([.5]).value) and np.isnan(effect_size([0., 0.]).value)
