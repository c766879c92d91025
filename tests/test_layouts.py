"Joint layouts: what must hold for every layout, pose and conversion."
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.layouts import JOINTS, convert, flip_permutation, hand_distances, head_top, layout, rest_pose

NAMES = sorted(JOINTS)
CONVERSIONS = [('openpose137','halpe68'), ('openpose137','upper68'), ('openpose137','light35'), ('openpose137','openpose22'),
               ('light35','openpose22'), ('halpe68','light35')]
any_layout = st.sampled_from(NAMES).map(layout)

def poses(V, T=2): # random joints, some of them missing
    coords = arrays(np.float32, (T,V,3), elements=st.floats(0.125, 1000, width=32))
    return st.tuples(coords, arrays(bool, (T,V))).map(lambda a: a[0]*a[1][...,None]*np.float32([1,1,1/1000]))

@given(any_layout)
def test_flip_twice_is_identity(l):
    p = flip_permutation(l)
    assert (p[p] == np.arange(l.V)).all() and (p != np.arange(l.V)).sum() == 2*len(l.flip)

@given(any_layout)
def test_pairs_are_left_right(l):
    for a, b in l.flip: assert (l.joints[a][0], l.joints[b][0]) == ('L','R') and l.joints[a][1:] == l.joints[b][1:]
    paired = {i for p in l.flip for i in p}
    assert not [n for i, n in enumerate(l.joints) if i not in paired and n[0] in 'LR']

@given(any_layout)
def test_edges_stay_on_their_side(l):
    side = np.array([{'L':1, 'R':-1}.get(n[0], 0) for n in l.joints]); p = flip_permutation(l)
    assert all(side[a]*side[b] >= 0 for a, b in l.edges)
    assert {frozenset(e) for e in l.edges} == {frozenset((int(p[a]), int(p[b]))) for a, b in l.edges}
    assert len({frozenset(e) for e in l.edges}) == len(l.edges)

@given(any_layout)
def test_parents_are_one_tree(l):
    edges = {frozenset(e) for e in l.edges}
    assert [j for j in range(l.V) if l.parents[j] == j] == [l.centre]
    for j in range(l.V):
        steps = 0
        while j != l.centre:
            assert frozenset((j, l.parents[j])) in edges
            j, steps = l.parents[j], steps+1
            assert steps < l.V

@given(any_layout)
def test_bones_mirror(l):
    p, parents = flip_permutation(l), np.array(l.parents)
    assert (parents[p] == p[parents]).all()

@given(any_layout)
def test_parts_split_the_joints(l):
    assert sorted(i for v in l.parts.values() for i in v) == list(range(l.V))
    p = flip_permutation(l)
    for part in ('hand', 'arm'): assert {int(p[i]) for i in l.parts[f'left_{part}']} == set(l.parts[f'right_{part}'])

@pytest.mark.parametrize('source,target', CONVERSIONS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_conversion_keeps_shared_points(source, target, data):
    src, dst = layout(source), layout(target)
    x = data.draw(poses(src.V))
    y = convert(x, source, target)
    assert y.dtype == x.dtype and y.shape == (*x.shape[:-2], dst.V, 3)
    for i, n in enumerate(dst.joints):
        if n in src.joints: np.testing.assert_array_equal(y[:,i], x[:,src.index(n)])
    missing = y[...,-1] == 0
    assert not y[missing].any()                                        # missing stays missing, in every channel

@pytest.mark.parametrize('source,target', CONVERSIONS)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_conversion_commutes_with_the_mirror(source, target, data):
    src, dst = layout(source), layout(target); x = data.draw(poses(src.V))
    np.testing.assert_allclose(convert(x[:, flip_permutation(src)], source, target), convert(x, source, target)[:, flip_permutation(dst)], rtol=1e-6)

@given(poses(137))
@settings(max_examples=30, deadline=None)
def test_head_top_score_is_the_smallest_used(x):
    l = layout('openpose137'); y = head_top(x, l)
    nose, neck, le, re = (x[:, l.index(n), -1] for n in ('Nose','Neck','LEar','REar'))
    both = (le > 0) & (re > 0)
    np.testing.assert_array_equal(y[:,-1], np.where(both, np.minimum(neck, np.minimum(le, re)), np.minimum(neck, nose)))

def test_head_top_lies_beyond_the_ears():
    l = layout('openpose137'); pose = rest_pose(l); top = head_top(pose, l)
    neck, ears = pose[l.index('Neck'),:2], pose[[l.index('LEar'), l.index('REar')],:2].mean(0)
    np.testing.assert_allclose(np.linalg.norm(top[:2]-neck), 1.6*np.linalg.norm(ears-neck), rtol=1e-6)
    assert top[1] < pose[:,1].min()

@given(st.sampled_from(['openpose137','halpe68','upper68','light35','openpose22']), st.floats(-180, 180), st.floats(.1, 300), st.integers(0, 9999))
@settings(max_examples=40, deadline=None)
def test_fingertips_are_nearer_their_own_wrist(name, degrees, size, seed):
    l, a = layout(name), np.radians(degrees); pose = rest_pose(l).astype(float)
    pose[:,:2] = pose[:,:2] @ np.array([[np.cos(a),-np.sin(a)],[np.sin(a),np.cos(a)]])*size
    pose[:,:2] += np.random.default_rng(seed).normal(0, .03*size, (l.V,2))
    own, other = hand_distances(pose, l)
    assert own < other
    swapped = pose.copy(); swapped[list(l.parts['left_hand']+l.parts['right_hand'])] = pose[list(l.parts['right_hand']+l.parts['left_hand'])]
    own, other = hand_distances(swapped, l)
    assert own > other                                                 # the check sees exchanged hands

def test_face_pairs_match_the_published_ones():
    p = flip_permutation(layout('openpose137'))
    for a, b in [(27,39), (29,37), (44,49), (73,79), (93,94), (2,5), (3,6), (4,7), (15,16), (17,18)] + [(95+i,116+i) for i in range(21)]:
        assert p[a] == b and p[b] == a
    assert all(p[i] == i for i in (0, 1, 8, 33, 52, 76, 82))

def test_halpe_pairs_match_the_published_ones():
    pairs = [(1,2),(3,4),(5,6),(7,8),(9,10),(11,12),(13,14),(15,16),(20,21),(22,23),(24,25)] + [(26+k,47+k) for k in range(21)]
    assert {frozenset(p) for p in layout('halpe68').flip} == {frozenset(p) for p in pairs}
    l = layout('halpe68')
    assert l.parents[26] == 9 and l.parents[47] == 10 and [l.parents[k] for k in (27,31,35,39,43)] == [26]*5

@pytest.mark.parametrize('call,named', [
    (lambda: layout('halpe86'), 'halpe86'), (lambda: convert(np.ones((2,137,3)), 'openpose138', 'halpe68'), 'openpose138'),
    (lambda: convert(np.ones((2,136,3)), 'openpose137', 'halpe68'), '(2, 136, 3)'),
    (lambda: convert(np.ones((2,20,3)), 'kinect20', 'halpe68'), 'Nose'), (lambda: layout('light35').index('LThumb3'), 'LThumb3')])
def test_errors_name_the_value(call, named):
    with pytest.raises(MgrError, match=named.replace('(', r'\(').replace(')', r'\)')): call()
