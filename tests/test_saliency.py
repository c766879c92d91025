"The saliency crop: where the box may lie and what the crop shows."
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.layouts import JOINTS, layout, rest_pose
from mgr_paper.preprocessing.saliency import SaliencyConfig, crop_box, crop_frames, crop_joints, saliency_map, smallest_square

def person(name, size, scale, at, seed=0, T=5):
    l, g = layout(name), np.random.default_rng(seed); j = np.tile(rest_pose(l).astype(float), (T,1,1))
    j[...,:2] = j[...,:2]*scale+at+g.normal(0, scale/50, (T,l.V,2))
    gone = (g.random((T,l.V)) < .2) | (j[...,0] < 0) | (j[...,1] < 0) | (j[...,0] >= size[1]) | (j[...,1] >= size[0])
    j[gone] = 0
    return l, j

@given(st.sampled_from(sorted(JOINTS)), st.integers(40, 200), st.integers(40, 300), st.floats(5, 60), st.floats(0, 300), st.floats(0, 200),
       st.sampled_from(['saliency','person','full']), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_box_is_a_square_inside_or_centred(name, H, W, scale, x, y, mode, seed):
    l, j = person(name, (H,W), scale, [x,y], seed)
    x0, y0, x1, y1 = crop_box(j, None, l, (H,W), mode=mode); side = x1-x0
    assert side == y1-y0 and 1 <= side <= max(H,W)
    for a, b, n in ((x0,x1,W), (y0,y1,H)): assert (0 <= a and b <= n) if side <= n else (a <= 0 and b >= n)
    if mode == 'saliency' and side < min(H,W):
        pts = j[:, list(sum((l.parts[p] for p in ('head','left_hand','right_hand')), ()))]; pts = pts[pts[...,2] > 0]
        assert ((pts[:,0] >= x0-1) & (pts[:,0] <= x1+1) & (pts[:,1] >= y0-1) & (pts[:,1] <= y1+1)).all()

@given(st.integers(3, 14), st.integers(3, 14), st.floats(.2, 1), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_square_is_the_smallest(h, w, mass, seed):
    S = np.random.default_rng(seed).random((h,w))**4; i, j, n = smallest_square(S, mass)
    assert S[i:i+n, j:j+n].sum() >= mass*S.sum()*(1-1e-6)
    if n > 1: assert max(S[a:a+n-1, b:b+n-1].sum() for a in range(h) for b in range(w)) < mass*S.sum()

@given(st.integers(-40, 60), st.integers(-40, 60), st.integers(20, 120), st.integers(12, 40), st.sampled_from([1,2,3]))
@settings(max_examples=40, deadline=None)
def test_crop_and_its_joints_agree(x0, y0, side, size, C): # a blurred spot is found where crop_joints says
    yy, xx = np.mgrid[:80,:100]; p = np.array([x0+side*.55, y0+side*.45])
    if not (12 <= p[0] <= 87 and 12 <= p[1] <= 67): return
    spot = (255*np.exp(-((xx-p[0])**2+(yy-p[1])**2)/(2*3**2))).astype(np.uint8)
    crop = crop_frames(np.repeat(spot[None,...,None], C, -1), (x0,y0,x0+side,y0+side), size)
    assert crop.shape == (1,size,size,C) and crop.dtype == np.uint8
    got = crop[0,...,0].astype(float); cy, cx = (np.average(g, weights=got) for g in np.mgrid[:size,:size])
    want = crop_joints(np.array([[*p, 1.]]), (x0,y0,x0+side,y0+side), size)[0,:2]
    if side > 60: np.testing.assert_allclose([cx,cy], want, atol=.35)   # the spot lies wholly in the box

def test_a_still_background_does_not_draw_the_box():
    g = np.random.default_rng(0); f = np.repeat(g.integers(0, 256, (1,90,160,1)), 12, 0).astype(float)
    for t in range(12): f[t,20+t:32+t,100:112] = 255
    f = np.clip(f+g.normal(0, 2, f.shape), 0, 255).astype(np.uint8); l = layout('halpe68')
    x0, y0, x1, y1 = crop_box(np.zeros((12,68,3)), f, l, (90,160)); assert 60 < x0 <= 100 and 112 <= x1 and x1-x0 < 70 and y0 <= 20 and y1 >= 43

def test_one_jump_does_not_decide(): # an estimator that throws a hand away for one frame
    l, j = person('halpe68', (120,200), 20, [60,40], T=40); j[...,:2] = np.where(j[...,2:] > 0, j[...,:2], 0)
    S, _ = saliency_map(j, None, l, (120,200)); thrown = j.copy(); hand = list(l.parts['left_hand']); thrown[20,hand] = [180,100,.9]
    T, step = saliency_map(thrown, None, l, (120,200)); far = np.s_[int(90/step):, int(160/step):]
    loud, _ = saliency_map(thrown, None, l, (120,200), SaliencyConfig(top=.01))
    assert T[far].max() < .2*loud[far].max()

def test_fallbacks_and_errors():
    l, nothing = layout('halpe68'), np.zeros((4,68,3)); still = np.full((4,60,80,3), 90, np.uint8)
    full = crop_box(nothing, None, l, (60,80), mode='full')
    assert crop_box(nothing, None, l, (60,80)) == crop_box(nothing, still, l, (60,80)) == crop_box(nothing, None, l, (60,80), mode='person') == full == (0,-10,80,70)
    with pytest.raises(MgrError, match="crop mode 'face'"): crop_box(nothing, None, l, (60,80), mode='face')
    with pytest.raises(MgrError, match='float64'): crop_frames(still/255, full, 32)
    with pytest.raises(MgrError, match=r'\(60, 80, 3\)'): crop_frames(still[0], full, 32)
