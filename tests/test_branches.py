"One contract for all branches: what training, voting and pseudo-labelling rely on."
import hashlib
from dataclasses import replace
from urllib.error import URLError

import pytest, torch
from torchvision.models import WeightsEnum, get_model_weights
from torchvision.models.video import r2plus1d_18

from mgr_paper.branches.heatmap import HeatmapBranch
from mgr_paper.branches.joint import JointBranch
from mgr_paper.branches.video import VideoBranch, load_pretrained, make_backbone
from mgr_paper.config import tier_config
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.layouts import layout, rest_pose

K, N = 7, 4
LAYOUT = layout('kinect20')
NAMES = ('joint', 'joint3d', 'heatmap', 'swin', 'r2plus1d', 'depth')
SKELETON = ('joint', 'joint3d', 'heatmap')
VIDEO_CHANNELS = dict(swin=3, r2plus1d=3, depth=2)

def branch(name, seed=0):
    torch.manual_seed(seed)
    cfg = getattr(tier_config('smoke', 'utd-mhad'), name)
    if name == 'heatmap': return HeatmapBranch(cfg, LAYOUT, K)
    if name in VIDEO_CHANNELS: return VideoBranch(cfg, K, VIDEO_CHANNELS[name])
    return JointBranch(cfg, LAYOUT, K, channels=4 if name == 'joint3d' else 3)

def clips(name, net, seed=1): # as a store gives them: pixels or metres with confidence, or bytes
    g = torch.Generator().manual_seed(seed)
    if name in VIDEO_CHANNELS:
        return torch.randint(0, 256, (N, net.n_frames, net.size, net.size, VIDEO_CHANNELS[name]), generator=g, dtype=torch.uint8)
    d = 3 if name == 'joint3d' else 2
    unit, place = (.2, 2.) if d == 3 else (50., 300.)
    p = torch.zeros(N, net.n_frames, LAYOUT.V, d)
    p[..., :2] = torch.as_tensor(rest_pose(LAYOUT)[:, :2], dtype=torch.float32)
    p = (p + .2*torch.randn(p.shape, generator=g))*unit + place
    conf = .3 + .7*torch.rand(N, net.n_frames, LAYOUT.V, 1, generator=g)
    return torch.cat([p, conf], -1)

@pytest.fixture(scope='module', params=NAMES)
def case(request): # in eval mode, with batch statistics of its own
    net = branch(request.param); x = clips(request.param, net)
    with torch.no_grad(): net.train()(x)
    return request.param, net.eval(), x

def scores(net, x):
    with torch.no_grad(): return net(x)

def test_shapes_and_names(case):
    name, net, x = case; out = scores(net, x); cfg = getattr(tier_config('smoke', 'utd-mhad'), name)
    assert out.logits.shape == (N, K) and out.feat.shape == (N, net.D) and net.n_frames == cfg.frames
    assert net.input == ('video' if name in VIDEO_CHANNELS else 'joints3d' if name == 'joint3d' else 'joints')
    assert out.logits.isfinite().all() and out.feat.isfinite().all()
    assert out.logits.std(0).min() > 0 # clips are told apart
    torch.testing.assert_close(net.classifier(out.feat), out.logits)

@pytest.mark.parametrize('name', NAMES)
def test_every_parameter_learns(name):
    net = branch(name).train(); x = clips(name, net)
    torch.nn.functional.cross_entropy(net(x).logits, torch.arange(N)).backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all() or p.grad.abs().sum() == 0]
    assert not idle

def test_eval_is_determined_and_clips_are_independent(case):
    name, net, x = case; out = scores(net, x)
    assert torch.equal(scores(net, x).logits, out.logits)
    for i in range(N): torch.testing.assert_close(scores(net, x[i:i+1]).logits, out.logits[i:i+1], atol=1e-4, rtol=1e-4)

def test_input_is_left_alone(case):
    name, net, x = case; before = x.clone(); scores(net, x)
    assert torch.equal(x, before)

def test_half_precision_says_nearly_the_same(case):
    name, net, x = case; exact = scores(net, x)
    with torch.autocast('cpu', torch.bfloat16): out = scores(net, x)
    assert out.feat.dtype == torch.float32
    error = (out.feat - exact.feat).norm()/exact.feat.norm()
    assert 0 < error < .1 # it is in use, and harmless

def test_weights_travel(case, tmp_path):
    name, net, x = case; other = branch(name, seed=5).eval()
    assert not torch.allclose(scores(other, x).logits, scores(net, x).logits)
    torch.save(net.state_dict(), tmp_path/'w.pt')
    other.load_state_dict(torch.load(tmp_path/'w.pt', weights_only=True))
    assert torch.equal(scores(other, x).logits, scores(net, x).logits)

@pytest.mark.parametrize('case', SKELETON, indirect=True)
def test_place_and_size_of_the_person_do_not_matter(case):
    name, net, x = case; moved = x.clone(); moved[..., :-1] = moved[..., :-1]*2 + torch.arange(1., x.shape[-1])*10
    torch.testing.assert_close(scores(net, moved).logits, scores(net, x).logits, atol=2e-3, rtol=2e-3)

@pytest.mark.parametrize('case', SKELETON, indirect=True)
def test_missing_joints_are_masked(case):
    name, net, x = case
    some = x.clone(); some[:, 1:3] = 0.; some[:, :, LAYOUT.scale[0]] = 0.; some[0, :, LAYOUT.centre] = 0.; some[1] = 0. # clip 1 shows nobody
    out = scores(net, some)
    assert out.logits.isfinite().all() and out.feat.isfinite().all()
    elsewhere = some.clone(); elsewhere[..., :-1] += 900.*(some[..., -1:] == 0) # what is masked may stand anywhere
    torch.testing.assert_close(scores(net, elsewhere).logits, out.logits, atol=1e-4, rtol=1e-4)
    present = x.clone(); present[..., :-1] = elsewhere[..., :-1] # the same coordinates, believed
    assert not torch.allclose(scores(net, present).logits[0], out.logits[0], atol=1e-3)

@pytest.mark.parametrize('name', SKELETON)
def test_missing_joints_leave_gradients_finite(name):
    net = branch(name).train(); x = clips(name, net); x[0] = 0.; x[1:, ::2] = 0.
    torch.nn.functional.cross_entropy(net(x).logits, torch.arange(N)).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())

@pytest.mark.parametrize('name', VIDEO_CHANNELS)
def test_other_crop_sizes_are_resized_and_other_channels_refused(name):
    net = branch(name).eval()
    other = torch.randint(0, 256, (2, net.n_frames, net.size + 12, net.size + 12, VIDEO_CHANNELS[name]), dtype=torch.uint8)
    assert scores(net, other).logits.shape == (2, K)
    with pytest.raises(MgrError, match='channels'): VideoBranch(getattr(tier_config('smoke', 'utd-mhad'), name), K, 5)

# Pretrained weights: published ones or an error, never a random start by accident. No test touches the network.
def published(monkeypatch, state):
    kind = type(get_model_weights('r2plus1d_18').KINETICS400_V1)
    def get(self, *a, **k):
        if isinstance(state, Exception): raise state
        return dict(state)
    monkeypatch.setattr(kind, 'get_state_dict', get)
    return tier_config('paper', 'imigue').r2plus1d

@pytest.mark.parametrize('failure', [URLError('no route to host'), RuntimeError('invalid hash value')], ids=['offline', 'damaged'])
def test_weights_that_cannot_be_had_stop_the_run(monkeypatch, failure):
    cfg = published(monkeypatch, failure)
    with pytest.raises(MgrError, match='KINETICS400_V1'): load_pretrained(make_backbone(cfg, 3, K), cfg)

def test_published_weights_fill_all_but_the_classifier(monkeypatch):
    with torch.device('meta'): state = make_backbone(tier_config('paper', 'imigue').r2plus1d, 3, 400).state_dict()
    state = {k: torch.full(v.shape, 3, dtype=v.dtype) for k, v in state.items()}
    cfg = published(monkeypatch, state); net = make_backbone(cfg, 3, K)
    load_pretrained(net, cfg)
    assert all((v == 3).all() for k, v in net.state_dict().items() if not k.startswith('fc.'))
    assert not (net.fc.weight == 3).any()

@pytest.mark.parametrize('name, file', [('r2plus1d', 'r2plus1d_18-91a641e6.pth'), ('swin', 'swin3d_s-da41c237.pth')])
def test_without_a_network_the_missing_file_is_named(monkeypatch, tmp_path, name, file):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path)) # an empty cache
    monkeypatch.setattr(WeightsEnum, 'get_state_dict', lambda self, **k: (_ for _ in ()).throw(URLError('no route to host')))
    cfg = getattr(tier_config('paper', 'imigue'), name)
    with torch.device('meta'): net = make_backbone(cfg, 3, K)
    with pytest.raises(MgrError) as e: load_pretrained(net, cfg)
    for word in ('KINETICS400_V1', 'no route to host', f'put {file} into', str(tmp_path), 'from scratch'): assert word in str(e.value)

def cached(monkeypatch, tmp_path, write, stamp=None):
    "A file in torch's hub cache under the name of the published R(2+1)D, or under one with its own hash; nothing may be fetched."
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda *a, **k: pytest.fail('went to the network'))
    (tmp_path/'hub'/'checkpoints').mkdir(parents=True)
    write(tmp_path/'file')
    sha = hashlib.sha256((tmp_path/'file').read_bytes()).hexdigest()
    url = f'https://example.org/r2plus1d_18-{stamp or sha[:8]}.pth'
    monkeypatch.setattr(WeightsEnum, 'url', property(lambda self: url))
    (tmp_path/'file').rename(tmp_path/'hub'/'checkpoints'/url.rsplit('/', 1)[1])
    return tier_config('paper', 'imigue').r2plus1d

def test_a_file_put_into_the_cache_fills_a_full_size_network(monkeypatch, tmp_path):
    state = r2plus1d_18(weights=None).state_dict()
    cfg = cached(monkeypatch, tmp_path, lambda path: torch.save(state, path))
    net = make_backbone(cfg, 3, K)
    load_pretrained(net, cfg)
    same = [torch.equal(v, state[k]) for k, v in net.state_dict().items() if not k.startswith('fc.')]
    assert all(same) and len(same) == len(state) - 2 and net.fc.weight.shape == (K, 512)

def test_another_file_under_a_published_name_is_refused(monkeypatch, tmp_path):
    cfg = cached(monkeypatch, tmp_path, lambda path: torch.save({}, path), stamp='91a641e6')
    with torch.device('meta'): net = make_backbone(cfg, 3, K)
    with pytest.raises(MgrError, match='r2plus1d_18-91a641e6.pth.*not what was published'): load_pretrained(net, cfg)

def test_a_file_with_code_is_not_run(monkeypatch, tmp_path):
    class Bomb:
        def __reduce__(self): return open, (str(tmp_path/'ran'), 'w')
    cfg = cached(monkeypatch, tmp_path, lambda path: torch.save({'fc.weight': Bomb()}, path))
    with torch.device('meta'): net = make_backbone(cfg, 3, K)
    with pytest.raises(MgrError, match='cannot be had'): load_pretrained(net, cfg)
    assert not (tmp_path/'ran').exists()

@pytest.mark.parametrize('change', ['stem.0.weight', 'layer1.0.conv1.0.0.weight'])
def test_weights_of_another_shape_are_refused(monkeypatch, change):
    cfg = published(monkeypatch, {}); net = make_backbone(cfg, 3, K)
    state = net.state_dict(); state[change] = state[change][:, :1]
    published(monkeypatch, state)
    with pytest.raises(MgrError, match='fit'): load_pretrained(net, cfg)

# Lengths that do not match are an error with a name, not a smaller network.
@pytest.mark.parametrize('name, change', [('joint', dict(strides=(2,))), ('joint', dict(widths=(20, 30))), ('joint', dict(kernels=(3, 4))),
    ('heatmap', dict(inflate=(0,))), ('heatmap', dict(temporal_strides=(1,))), ('r2plus1d', dict(blocks=(1, 1))), ('swin', dict(heads=(1,)))])
def test_settings_that_do_not_fit_together_are_refused(name, change):
    cfg = replace(getattr(tier_config('smoke', 'utd-mhad'), name), **change)
    make = dict(joint=lambda: JointBranch(cfg, LAYOUT, K), heatmap=lambda: HeatmapBranch(cfg, LAYOUT, K)).get(name, lambda: VideoBranch(cfg, K))
    with pytest.raises(MgrError, match=next(iter(change))): make()
