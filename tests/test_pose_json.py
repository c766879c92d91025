"Pose files: every point in its row, one person throughout, gaps as gaps, and broken files named."
import json
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.layouts import hand_distances, layout, rest_pose
from mgr_paper.preprocessing.pose_json import ALPHAPOSE, frame_number, link, main_track, read_alphapose_json, read_openpose_json, triples

PARTS = dict(pose_keypoints_2d=(0, 25), face_keypoints_2d=(25, 95), hand_left_keypoints_2d=(95, 116), hand_right_keypoints_2d=(116, 137))

def person(x=320., y=200., size=60., name='openpose137', seed=None):
    p = rest_pose(layout(name)).astype('f4'); p[:, :2] = p[:, :2]*size+np.float32([x, y]); p[:, 2] = .5
    if seed is not None: p[:, :2] += np.random.default_rng(seed).normal(0, size/30, (len(p), 2)).astype('f4')
    return p

def openpose(folder, frames, parts=PARTS, name='talk_{:012}_keypoints.json'):
    folder.mkdir(exist_ok=True)
    for t, people in frames.items():
        people = [{'person_id': [-1], **{k: (p[a:b].ravel().tolist() if k in parts else []) for k, (a, b) in PARTS.items()}} for p in people]
        (folder/name.format(t)).write_text(json.dumps(dict(version=1.3, people=people)))
    return folder

def alphapose(tmp_path, entries, name='alphapose-results.json'):
    (tmp_path/name).write_text(json.dumps(entries))
    return tmp_path/name

def entry(t, p, **more): return dict(dict(image_id=f'{t}.jpg', category_id=1, keypoints=p.ravel().tolist(), score=3.1, box=[0, 0, 9, 9]), **more)

def test_openpose_points_are_in_their_rows(tmp_path):
    p = np.random.default_rng(0).uniform(1, 500, (137, 3)).astype('f4'); p[:, 2] = np.arange(1, 138)/138
    x = read_openpose_json(openpose(tmp_path/'v', {0: [p]}))
    np.testing.assert_array_equal(x, p[None]); assert x.dtype == np.float32

def test_openpose_hands_are_on_their_own_wrists(tmp_path):
    x = read_openpose_json(openpose(tmp_path/'v', {t: [person(seed=t)] for t in range(3)}))
    own, other = hand_distances(x, layout('openpose137')); assert own < other

@pytest.mark.parametrize('parts,V', [((), 25), (('hand_left_keypoints_2d',), 137), (('face_keypoints_2d',), 137)])
def test_openpose_with_and_without_face_and_hands(tmp_path, parts, V):
    x = read_openpose_json(openpose(tmp_path/'v', {0: [person()]}, {'pose_keypoints_2d', *parts}), report := {})
    assert x.shape == (1, V, 3) and report['joints'] == V
    for k, (a, b) in PARTS.items():
        if b <= V: assert x[0, a:b].any() == (k in parts or a == 0)

def test_gaps_are_zeros(tmp_path):
    x = read_openpose_json(openpose(tmp_path/'v', {5: [person()], 6: [], 9: [person()]}), report := {})
    assert len(x) == 5 and [bool(f.any()) for f in x] == [True, False, False, False, True]
    assert report == dict(frames=5, first=5, joints=137, people=1, most_at_once=1, frames_with_person=2, files=3, frames_without_file=2)

def test_missing_points_are_zero_and_confidence_ends_at_one(tmp_path):
    p = person(); p[3] = (7, 8, 0); p[4, 2] = 1.3; p[5, 2] = -.1
    x = read_openpose_json(openpose(tmp_path/'v', {0: [p]}))
    assert not x[0, 3].any() and not x[0, 5].any() and x[0, 4, 2] == 1

@given(st.integers(0, 9999))
@settings(max_examples=25, deadline=None)
def test_the_same_person_in_any_order(seed):
    g = np.random.default_rng(seed); frames = {}
    for t in range(15):
        people = [person(300+2*t, 200, 60, seed=t), person(90+25*t, 190, 40, seed=100+t), person(560, 210, 45, seed=200+t)]
        frames[t] = [people[i] for i in g.permutation(3) if i == 0 or g.random() > .2]
    tracks = link(frames); kept = tracks[main_track(frames, tracks)]
    assert len(kept) == 15 and all(abs(frames[t][i][1, 0]-300-2*t) < 15 for t, i in kept.items())
    used = [(t, i) for track in tracks for t, i in track.items()]
    assert len(used) == len(set(used)) == sum(map(len, frames.values()))             # everybody in exactly one track

def test_a_large_passer_by_does_not_win(tmp_path):
    frames = {t: [person(320, 200, 50)]+([person(100+90*(t-8), 200, 90)] if 8 <= t < 12 else []) for t in range(20)}
    x = read_openpose_json(openpose(tmp_path/'v', {t: ps[::-1] for t, ps in frames.items()}), report := {})
    assert (abs(x[:, 1, 0]-320) < 1).all() and report['people'] > 1 and report['most_at_once'] == 2

def test_of_two_equal_people_the_central_one_is_kept(tmp_path):
    frames = {t: [person(80, 200, 50), person(320, 200, 50), person(700, 200, 50)] for t in range(4)}
    assert (read_openpose_json(openpose(tmp_path/'v', frames))[:, 1, 0] == 320).all()

def test_nobody_jumps_across_the_picture():
    assert len(link({0: [person(100)], 1: [person(1000)]})) == 2 and len(link({0: [person(100)], 1: [person(110)]})) == 1
    assert len(link({0: [person(100)], 500: [person(1000)]})) == 2

def test_openpose_refusals(tmp_path):
    good = {0: [person()], 1: [person()]}
    def fails(said, change=None, folder='v', **kw):
        f = openpose(tmp_path/folder, good, **kw)
        if change is not None: (f/'talk_000000000001_keypoints.json').write_text(change if isinstance(change, str) else json.dumps(change))
        with pytest.raises(MgrError) as e: read_openpose_json(f)
        assert said in str(e.value) and '\n' not in str(e.value)
        return str(e.value)
    for text in ('', '{"people": [', 'a,b\n1,2', '['*100_000):
        assert 'talk_000000000001' in fails('is no JSON, or cut short', text)
    fails('talk_000000000001_keypoints.json has no list of people', []); fails('has no list of people', {'people': {}})
    fails('person 0 has no pose_keypoints_2d', {'people': [{'pose_keypoints': [0]*54}]}); fails('person 0 has no pose_keypoints_2d', {'people': ['a']})
    fails('has 18 points in pose_keypoints_2d, not 25', {'people': [{'pose_keypoints_2d': [1]*54}]})
    fails('person 1, face_keypoints_2d is no flat list', {'people': [{'pose_keypoints_2d': [1]*75}, {'pose_keypoints_2d': [1]*75, 'face_keypoints_2d': [1, 2]}]})
    fails('is no flat list', {'people': [{'pose_keypoints_2d': [[1, 2, 3]]*25}]}); fails('is no flat list', {'people': [{'pose_keypoints_2d': ['x']*75}]})
    fails('NaN or infinite', '{"people": [{"pose_keypoints_2d": ['+'NaN,'*74+'1]}]}')
    fails('a second file for frame 1', folder='two', change={'people': []}, name='other_{}.json')
    with pytest.raises(MgrError, match='no .json file in'): read_openpose_json(tmp_path/'empty')
    with pytest.raises(MgrError, match='nobody is seen in any frame'): read_openpose_json(openpose(tmp_path/'none', {0: [], 1: []}))
    with pytest.raises(MgrError, match='frames 0 to 99999999 are 100000000'): read_openpose_json(openpose(tmp_path/'far', {0: [person()], 99999999: [person()]}))
    with pytest.raises(MgrError, match='has no frame number'): read_openpose_json(openpose(tmp_path/'un', {0: [person()]}, name='talk.json'))

@pytest.mark.parametrize('name', sorted(ALPHAPOSE.values()))
def test_alphapose_points_and_layout(tmp_path, name):
    people = {t: person(300+t, 200, 60, name, seed=t) for t in (0, 1, 3)}
    f = alphapose(tmp_path, [entry(t, p) for t, p in people.items()])
    x = read_alphapose_json(f, 6, report=(report := {}))
    for t, p in people.items(): np.testing.assert_array_equal(x[t], p)
    assert x.shape == (6, layout(name).V, 3) and not x[[2, 4, 5]].any() and report['layout'] == name and report['frames_with_person'] == 3
    assert len(read_alphapose_json(f)) == 4
    own, other = hand_distances(x, layout(name))
    assert own < other or not layout(name).parts['left_hand']

def test_alphapose_keeps_its_own_tracks(tmp_path):
    "Two people change places in one frame: the program's own numbers tell, positions would not."
    entries = [entry(t, person(300 if (k == 0) == (t < 5) else 380, 200, 60 if k == 0 else 58, 'halpe26', seed=t), idx=k+1) for t in range(10) for k in range(2)]
    x = read_alphapose_json(alphapose(tmp_path, entries), report=(report := {}))
    assert report['followed_by_alphapose'] and report['people'] == 2 and abs(x[0, 18, 0]-300) < 12 and abs(x[9, 18, 0]-380) < 12
    for e in entries: e['idx'] = 0                                          # not followed: everyone is number 0
    read_alphapose_json(alphapose(tmp_path, entries), report=report); assert not report['followed_by_alphapose']

def test_alphapose_numbers_that_start_at_one(tmp_path):
    f = alphapose(tmp_path, [entry(t, person(name='coco17'), image_id=f'v_{t:05}.png') for t in (1, 2)])
    assert read_alphapose_json(f, 2, first=1).shape == (2, 17, 3) and len(read_alphapose_json(f)) == 3
    with pytest.raises(MgrError, match=r'frame 2 is not in 0..1'): read_alphapose_json(f, 2)

@pytest.mark.parametrize('entries,said', [
    ({'0.jpg': {}}, 'is no list'), ([], 'people of no points'), ([5], 'entry 0 has no image_id'), ([{'image_id': '0.jpg'}], 'entry 0 has no image_id and keypoints'),
    ([entry(0, np.ones((25, 3)))], 'people of 25 points'), ([entry(0, np.ones((17, 3))), entry(1, np.ones((26, 3)))], 'people of 17, 26 points'),
    ([entry(0, np.ones((17, 3)), keypoints=[1, 2])], 'entry 0 is no flat list'), ([entry(0, np.ones((17, 3)), image_id='last.jpg')], 'last.jpg has no frame number'),
    ([entry(0, np.zeros((17, 3)))], 'nobody is seen'), ([entry(99999999, np.ones((17, 3)))], 'frames 0 to 99999999')])
def test_alphapose_refusals(tmp_path, entries, said):
    with pytest.raises(MgrError) as e: read_alphapose_json(alphapose(tmp_path, entries))
    assert said in str(e.value) and '\n' not in str(e.value)

def test_alphapose_file_that_is_cut_short(tmp_path):
    f = alphapose(tmp_path, [entry(0, person(name='coco17'))]); f.write_bytes(f.read_bytes()[:-9])
    with pytest.raises(MgrError, match='alphapose-results.json is no JSON, or cut short'): read_alphapose_json(f)
    with pytest.raises(MgrError, match='cannot read'): read_alphapose_json(tmp_path/'none.json')

def test_small_helpers():
    assert [frame_number(n) for n in ('a1_000000000007_keypoints.json', '12.jpg', 'x/000123.png')] == [7, 12, 123]
    with pytest.raises(MgrError, match='digits'): frame_number('1'*20+'.jpg')
    assert triples([1, 2, .5, 3, 4, 0], 'x').tolist() == [[1, 2, .5], [0, 0, 0]]
