"Joint layouts: what must hold for every layout, pose and conversion."
import hashlib, json
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from mgr_paper.config import SynthConfig
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.layouts import (JOINTS, MIDDLE, convert, flip_permutation, hand_distances, head_top, layout,
                                             rest_pose)
from mgr_paper.preprocessing.synth_motion import estimate, motion

NAMES = sorted(JOINTS)
CONVERSIONS = [('openpose137','halpe68'), ('openpose137','upper68'), ('openpose137','light35'), ('openpose137','openpose22'),
               ('light35','openpose22'), ('halpe68','light35'), ('openpose137','body25'), ('openpose137','imigue36'),
               ('openpose137','openpose28'), ('openpose137','halpe136'), ('openpose137','wholebody133'), ('halpe26','body25'),
               ('body25','halpe26'), ('halpe136','openpose137'), ('wholebody133','halpe68'), ('wholebody133','openpose137'),
               ('halpe68','coco17'), ('kinect25','kinect20'), ('holistic','coco17'), ('holistic','openpose28')]
HANDED = [n for n in NAMES if layout(n).parts['left_hand']]
any_layout = st.sampled_from(NAMES).map(layout)

@pytest.mark.parametrize('name', NAMES)
def test_counts_are_those_of_the_name(name):
    count = {'holistic': 543}.get(name) or int(name.lstrip('abcdefghijklmnopqrstuvwxyz'))
    assert layout(name).V == len(set(layout(name).joints)) == count

@pytest.fixture(scope='module')
def bench_clip(): # a clip of the simulated benchmark, in the 137 points
    return estimate(SynthConfig(), 5, motion(SynthConfig(), 5))

@pytest.mark.parametrize('name,mark', dict(openpose137='c32c12e6acc1', halpe68='f55a49a66eb8', upper68='3090c5d6313a', light35='ddd7877d45e1', openpose22='419b3ebc5c7c',
                                           kinect20='04681292fc4c').items())
def test_published_records_keep_their_layouts(name, mark):
    "Order, links, pairs and tree of the layouts that committed records stand on."
    l = layout(name)
    said = json.dumps([l.joints, l.edges, l.flip, l.parents, l.centre, l.scale, l.parts])
    assert hashlib.sha256(said.encode()).hexdigest()[:12] == mark

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
            assert frozenset((j, l.parents[j])) in edges or 'Mesh' in l.joints[j]
            j, steps = l.parents[j], steps+1
            assert steps < l.V

@pytest.mark.parametrize('name', NAMES)
def test_drawn_links_join_every_point(name):
    l = layout(name); drawn = {i for i, n in enumerate(l.joints) if 'Mesh' not in n}
    reached, todo = {l.centre}, [l.centre]
    while todo:
        i = todo.pop()
        for a, b in l.edges:
            for j in {a, b}-reached if i in (a, b) else ():
                reached.add(j); todo.append(j)
    assert reached == drawn

def test_the_root_is_on_the_middle_line():
    roots = {n: layout(n).joints[layout(n).centre] for n in NAMES}
    assert {n for n, r in roots.items() if r == 'Nose'} == {'coco17', 'wholebody133', 'holistic'}
    assert set(roots.values()) == {'Nose', 'Neck'}

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
    assert y.dtype == x.dtype and y.shape == (*x.shape[:-2], dst.V, 3) and not np.shares_memory(x, y)
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

@given(poses(133))
@settings(max_examples=30, deadline=None)
def test_middle_points_have_the_smallest_score(x):
    src, dst = layout('wholebody133'), layout('openpose137'); y = convert(x, src.name, dst.name)
    for name, of in MIDDLE.items():
        p, made = x[:, [src.index(n) for n in of]], y[:, dst.index(name)]
        score = p[...,-1].min(-1)
        np.testing.assert_array_equal(made[:,-1], score)
        np.testing.assert_allclose(made[:,:2], np.where(score[:,None] > 0, p[...,:2].mean(1), 0), rtol=1e-5)

def test_a_head_without_a_neck():
    "COCO's shoulders stand for the neck, so the body fills Halpe's head but not its feet."
    pose = rest_pose(layout('wholebody133')); h = convert(pose, 'wholebody133', 'halpe68')
    np.testing.assert_allclose(h[17], head_top(rest_pose(layout('halpe68')), layout('halpe68'))+np.float32([0,.03*(1-1.6),0]), atol=1e-6)
    with pytest.raises(MgrError, match='coco17 cannot become halpe26: no LBigToe'): convert(np.ones((17,3)), 'coco17', 'halpe26')

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

@given(st.sampled_from([n for n in HANDED if n not in ('kinect20', 'kinect25')]), st.floats(-180, 180), st.floats(.1, 300), st.integers(0, 9999))
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

@pytest.mark.parametrize('name', HANDED)
def test_fingertips_are_nearer_their_own_wrist_on_a_clip(name):
    "A synthetic person who moves the hands, as the benchmark draws it, in every layout that can be filled from it."
    g, l, T = np.random.default_rng(5), layout(name), 40
    clip = np.tile(rest_pose(l), (T,1,1)); t = np.linspace(0, 2*np.pi, T)
    for side, phase in (('L',0), ('R',1.5)):                              # the hand goes with its wrist, up to the chin
        ids = [i for i, n in enumerate(l.joints) if n == f'{side}Wrist' or i in l.parts['left_hand' if side == 'L' else 'right_hand']]
        clip[:,ids,:2] += np.stack([-.2*(side == 'L')*np.sin(t)+.2*(side == 'R')*np.sin(t), -.7+.7*np.cos(t+phase)], -1)[:,None]
    clip[...,:2] = 100*clip[...,:2]+300+g.normal(0, 2, clip[...,:2].shape)
    clip[g.random(clip.shape[:2]) < .1] = 0
    own, other = hand_distances(clip, l)
    assert own < .6*other

@pytest.mark.parametrize('name', ['halpe68','upper68','light35','openpose22','imigue36','openpose28','halpe136','wholebody133'])
def test_fingertips_on_a_clip_of_the_benchmark(name, bench_clip):
    own, other = hand_distances(convert(bench_clip, 'openpose137', name), layout(name))
    assert own < other

def test_imigue36_matches_its_published_list():
    "Indices into the 137 points, and pairs, as its authors give them."
    rows = [*range(8), *range(15,19), 27,29,33,37,39,44,49,52,73,76,79,82, 95,99,103,107,111,115, 116,120,124,128,132,136]
    pairs = [(17,18),(8,9),(10,11),(12,16),(13,15),(20,22),(2,5),(3,6),(4,7),(30,24),(31,25),(32,26),(33,27),(34,28),(35,29)]
    assert {frozenset(p) for p in layout('imigue36').flip} == {frozenset(p) for p in pairs}
    x = np.random.default_rng(0).uniform(1, 700, (3,137,3)).astype('float32')
    np.testing.assert_array_equal(convert(x, 'openpose137', 'imigue36'), x[:,rows])

def test_openpose28_hangs_each_tip_on_its_wrist():
    l = layout('openpose28')
    assert [l.parents[i] for i in range(18, 28)] == [7]*5+[4]*5 and l.joints[8] == 'RHip' and l.joints[14] == 'REye'

def test_wholebody_and_halpe136_order():
    w, h = layout('wholebody133').joints, layout('halpe136').joints
    assert w[17:23] == ('LBigToe','LSmallToe','LHeel','RBigToe','RSmallToe','RHeel') and w[23] == h[26] == 'RJaw0'
    assert (w[91], w[112], h[94], h[115]) == ('LPalm','RPalm','LPalm','RPalm') and w[5:7] == h[5:7] == ('LShoulder','RShoulder')

def test_kinect25_is_the_second_kinects_order():
    k = layout('kinect25').joints
    assert k[20] == 'Neck' and k[2] == 'UpperNeck' and k[7] == 'LHand' and k[21:] == ('LHandTip','LThumb4','RHandTip','RThumb4')

def test_mesh_pairs():
    "Points of the face mesh whose place is known: eye corners, mouth corners, cheekbones, brows, irises' neighbours."
    p = flip_permutation(layout('holistic'))-75
    for a, b in [(33,263), (133,362), (61,291), (78,308), (234,454), (70,300), (107,336), (159,386), (145,374), (50,280), (127,356), (172,397)]:
        assert p[75+a] == b and p[75+b] == a
    assert all(p[75+i] == i for i in (0, 1, 4, 6, 10, 13, 14, 17, 152, 168))

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
    (lambda: convert(np.ones((2,20,3)), 'kinect20', 'halpe68'), 'Nose'),
    (lambda: convert(np.ones((2,22,3)), 'openpose22', 'body25'), 'no Hip, RHip, RKnee, RAnkle and more'), (lambda: layout('light35').index('LThumb3'), 'LThumb3')])
def test_errors_name_the_value(call, named):
    with pytest.raises(MgrError, match=named.replace('(', r'\(').replace(')', r'\)')): call()
