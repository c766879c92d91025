"Augmentation: what must hold for every layout, dimension and strength."
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from mgr_paper.config import AugmentConfig
from mgr_paper.preprocessing.augment import augment_joints, augment_video, change_speed, clip_frame, flip_joints
from mgr_paper.preprocessing.layouts import JOINTS, flip_permutation, layout, rest_pose

REST = dict(flip=0., rotate_deg=0., scale=0., jitter=0., drop=0., speed=1., shift=0., crop=1.)
def gen(seed=0): return torch.Generator().manual_seed(seed)
def only(**kw): return AugmentConfig(**{**REST, **kw})

def clips(name, C, N=3, T=7, missing=.2, seed=0): # people who move, with holes
    l, g = layout(name), gen(seed); pose = torch.tensor(rest_pose(l))
    x = torch.zeros(N, T, l.V, C); x[...,:2] = pose[:,:2]*50+torch.tensor([200.,150.])
    x[...,:-1] += torch.randn(N, T, l.V, C-1, generator=g)*3
    x[...,-1] = .2+.8*torch.rand(N, T, l.V, generator=g)
    hole = torch.rand(N, T, l.V, generator=g) < missing; hole[:,:,list(l.scale)] = False; x[hole] = 0
    return l, x

any_case = given(st.sampled_from(sorted(JOINTS)), st.sampled_from([3,4]), st.integers(0, 99))

@any_case
@settings(max_examples=25, deadline=None)
def test_full_strength_keeps_missing_missing_and_is_determined(name, C, seed):
    l, x = clips(name, C, seed=seed); before = x.clone()
    y = augment_joints(x, l, AugmentConfig(), gen(seed))
    assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all() and torch.equal(x, before)
    assert (y[y[...,-1] == 0] == 0).all() and (y[...,-1] <= 1).all()
    assert torch.equal(y, augment_joints(x, l, AugmentConfig(), gen(seed))) and not torch.equal(y, augment_joints(x, l, AugmentConfig(), gen(seed+1)))

@pytest.mark.parametrize('name', sorted(JOINTS))
@pytest.mark.parametrize('C', [3, 4])
def test_at_rest_nothing_changes(name, C):
    l, x = clips(name, C)
    assert torch.equal(augment_joints(x, l, only(), gen()), x)

@any_case
@settings(max_examples=15, deadline=None)
def test_flip_twice_and_sides(name, C, seed):
    l, x = clips(name, C, seed=seed); y = flip_joints(x, l, 160.)
    torch.testing.assert_close(flip_joints(y, l, 160.), x, atol=1e-3, rtol=0)
    p = torch.as_tensor(flip_permutation(l)); assert torch.equal(y[...,1:], x[...,p,:][...,1:])
    torch.testing.assert_close(augment_joints(x, l, only(flip=1.), gen()), flip_joints(x, l, clip_frame(x, l)[0][:,:1,None]))

@pytest.mark.parametrize('W', [9, 10])
def test_mirrored_joints_are_the_mirrored_picture(W): # odd and even widths: x -> W-1-x
    l, p = layout('openpose22'), torch.as_tensor(flip_permutation(layout('openpose22')))
    x = torch.ones(l.V, 3); x[:,0] = torch.arange(l.V)%W; x[:,1] = torch.arange(l.V)//W
    def picture(j):
        f = torch.zeros(l.V, 6, W); f[torch.arange(l.V), j[:,1].long(), j[:,0].long()] = 1
        return f
    assert torch.equal(picture(flip_joints(x, l, (W-1)/2)), picture(x).flip(-1)[p])
    film = (picture(x)*255).to(torch.uint8)[None,...,None]
    assert torch.equal(augment_video(film, only(flip=1.), gen())[0,...,0][p], (picture(flip_joints(x, l, (W-1)/2))*255).to(torch.uint8))

def test_half_of_the_clips_are_mirrored():
    l, x = clips('kinect20', 3, N=1, missing=0); y = augment_joints(x.repeat(2000,1,1,1), l, only(flip=.5), gen())
    turned = (y != x).flatten(1).any(1).float().mean(); assert .45 < turned < .55

@pytest.mark.parametrize('C', [3, 4])
def test_rotation_keeps_shape_and_centre(C):
    l, x = clips('halpe68', C, missing=0); y = augment_joints(x, l, only(rotate_deg=30.), gen())
    d = lambda z: torch.cdist(z[0,0,:,:-1].double(), z[0,0,:,:-1].double())
    torch.testing.assert_close(d(y), d(x), atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(clip_frame(y, l)[0], clip_frame(x, l)[0], atol=1e-2, rtol=0)
    assert not torch.allclose(y, x, atol=1.)

def test_jitter_and_scale_are_in_shoulder_widths(): # the same noise, relative to the person, near and far
    l, x = clips('halpe68', 3, N=40, missing=0); far = x.clone(); far[...,:2] *= .1
    for c in (only(jitter=.05), only(shift=.2), only(scale=.3)):
        near_change, far_change = ((augment_joints(z, l, c, gen())-z)[...,:2] for z in (x, far))
        torch.testing.assert_close(near_change*.1, far_change, atol=2e-3, rtol=1e-3)
    noise = (augment_joints(x, l, only(jitter=.05), gen())-x)[...,:2].std()/clip_frame(x, l)[1].mean()
    assert .045 < noise < .055

@given(st.floats(.4, 2.5), st.floats(0, 1), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_tempo_stays_between_the_frames_it_read(rate, offset, T):
    l, x = clips('kinect20', 3, N=1, T=T, missing=.3)
    y = change_speed(x, torch.tensor([rate]), torch.tensor([offset]))
    seen = y[...,-1] > 0; assert y.shape == x.shape and (y[~seen] == 0).all()
    for v in range(l.V):
        have = x[0,x[0,:,v,-1] > 0,v,:2]; got = y[0,seen[0,:,v],v,:2]
        if len(got): assert (got >= have.min(0).values-1e-3).all() and (got <= have.max(0).values+1e-3).all()

@given(st.integers(1, 3), st.integers(1, 4), st.integers(8, 33), st.integers(8, 33), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_video_any_shape(N, T, H, W, C, seed):
    x = torch.randint(0, 256, (N,T,H,W,C), dtype=torch.uint8, generator=gen(seed)); y = augment_video(x, AugmentConfig(), gen(seed))
    assert y.shape == x.shape and y.dtype == torch.uint8 and y.is_contiguous() and torch.equal(y, augment_video(x, AugmentConfig(), gen(seed)))
    assert torch.equal(augment_video(x, only(), gen(), colour=0), x) and torch.equal(augment_video(x, only(flip=1.), gen(), colour=0), x.flip(3))
    z = augment_video(x, AugmentConfig(), gen(seed), colour=0)          # interpolation never leaves the range of the clip
    for n in range(N): assert z[n].min() >= x[n].min() and z[n].max() <= x[n].max()

def test_colour_is_for_colour_video():
    for C, changes in ((1, False), (2, False), (3, True)):
        x = torch.full((4,2,8,8,C), 100, dtype=torch.uint8)
        assert (augment_video(x, only(), gen()) != x).any() == changes
