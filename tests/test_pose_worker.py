"The stand-alone pose program, with a film and a tracker of our own in place of the packages it needs."
import json
import subprocess
import sys
from pathlib import Path
import numpy as np
import pytest
from mgr_paper.preprocessing import pose_worker as worker
from mgr_paper.preprocessing.layouts import flip_permutation, layout, rest_pose

BODY = layout('openpose137')

def person(): # -> what MediaPipe would say of our rest pose, and where that is in the picture
    at = rest_pose(BODY)[:, :2]/8+.5
    pose, face = np.zeros((33, 3)), np.full((478, 2), .5)
    for i, b in enumerate(worker.BODY):
        if b is not None: pose[b] = *at[i], .9
    face[list(worker.FACE)] = at[25:95]
    return dict(pose=pose, face=face, left=at[95:116].copy(), right=at[116:].copy()), at

def test_every_point_lands_on_its_name():
    marks, at = person()
    got = worker.to_openpose137(marks, 300, 500)
    assert got.shape == (137, 3) and got.dtype == np.float32
    assert {BODY.joints[i] for i in np.flatnonzero(got[:, 2] == 0)} == {'LSmallToe', 'RSmallToe'}
    same = np.setdiff1d(np.flatnonzero(got[:, 2]), list(worker.MIDDLES))
    assert np.allclose(got[same, :2], at[same]*(500, 300)-.5, atol=1e-3)
    assert (got[25:, 2] == 1).all() and np.allclose(got[0, 2], .9)

def test_mediapipe_names():
    "The tables, by MediaPipe's published numbers."
    by_name = dict(Nose=0, LEye=2, REye=5, LEar=7, REar=8, LShoulder=11, RShoulder=12, LElbow=13, RElbow=14, LWrist=15, RWrist=16,
                   LHip=23, RHip=24, LKnee=25, RKnee=26, LAnkle=27, RAnkle=28, LHeel=29, RHeel=30, LBigToe=31, RBigToe=32)
    assert {BODY.joints[i]: b for i, b in enumerate(worker.BODY) if b is not None} == by_name
    face = dict(zip(BODY.joints[25:95], worker.FACE))
    assert (face['Chin'], face['NoseTip'], face['RPupil'], face['LPupil']) == (152, 4, 468, 473)
    assert (face['RLid0'], face['LLid0'], face['RLip0'], face['LLip0'], face['TopLip']) == (33, 263, 61, 291, 0)
    assert len(set(worker.FACE)) == 70

def test_mirror_image_is_the_mirrored_skeleton():
    marks, _ = person()
    marks['pose'][15, :2] += .02                                           # not symmetric any more
    got = worker.to_openpose137(marks, 300, 500)
    mirror = {k: np.concatenate([1-v[:, :1], v[:, 1:]], 1) for k, v in marks.items()}
    sides = [0, 4, 5, 6, 1, 2, 3, *(i+1 if i % 2 else i-1 for i in range(7, 33))]  # eyes, then odd left and even right
    face = np.arange(478)
    for a, b in flip_pairs_of_face(): face[[a, b]] = b, a
    mirror = dict(pose=mirror['pose'][sides], face=mirror['face'][face], left=mirror['right'], right=mirror['left'])
    flipped = got[flip_permutation(BODY)]
    flipped[:, 0] = np.where(flipped[:, 2] > 0, 499-flipped[:, 0], 0)
    assert np.allclose(worker.to_openpose137(mirror, 300, 500), flipped, atol=1e-3)

def flip_pairs_of_face():
    return [(worker.FACE[a-25], worker.FACE[b-25]) for a, b in BODY.flip if 25 <= a < 95]

@pytest.mark.parametrize('part, rows', [('pose', slice(0, 25)), ('face', slice(25, 95)), ('left', slice(95, 116)), ('right', slice(116, 137))])
def test_a_missing_part_is_zeros(part, rows):
    marks, _ = person()
    whole = worker.to_openpose137(marks, 300, 500)
    for lack in ({k: v for k, v in marks.items() if k != part}, marks | {part: None}):
        got = worker.to_openpose137(lack, 300, 500)
        assert not got[rows].any()
        others = np.setdiff1d(np.arange(137), np.arange(137)[rows])
        assert np.array_equal(got[others], whole[others])

@pytest.mark.parametrize('x, y, seen', [(0, 0, True), (1, 1, True), (-.001, .5, False), (.5, 1.001, False), (np.nan, .5, False)])
def test_a_point_outside_is_missing(x, y, seen):
    marks, _ = person()
    marks['pose'][15, :2] = x, y; marks['left'][8] = x, y
    got = worker.to_openpose137(marks, 300, 500)
    for row in (7, 95+8):
        assert bool(got[row, 2]) == seen
        assert np.allclose(got[row, :2], (x*500-.5, y*300-.5)) if seen else not got[row].any()

def test_derived_points_need_both_of_theirs():
    marks, _ = person()
    marks['pose'][11, 2], marks['pose'][12, 2] = .7, .8
    assert np.isclose(worker.to_openpose137(marks, 300, 500)[1, 2], .7)
    marks['pose'][12, 2] = .4
    got = worker.to_openpose137(marks, 300, 500)
    assert not got[[1, 2]].any() and got[8].any()

# ---- pieces

class Film:
    def __init__(self, n, size=(4, 8)): self.n, self.size = n, size
    def __call__(self, video, start=0):
        for i in range(start, self.n): yield np.full((*self.size, 3), i, np.uint8)

def tracker(stop=None):
    "A tracker that drifts with each frame it has seen; stops the run at one frame."
    class Drift:
        def __init__(self): self.n = 0
        def __call__(self, picture):
            if picture[0, 0, 0] == stop: raise KeyboardInterrupt
            self.n += 1
            return dict(left=np.full((21, 2), self.n/100))
        def close(self): pass
    return Drift

def run(video, out, n=25, stop=None, chunk=10, **changes):
    parts = dict(make=tracker(stop), read=Film(n), look=lambda v: dict(fps=25., frames_said=26), name=lambda: 'none')
    return worker.track(video, out, chunk, **parts | changes)

@pytest.fixture
def video(tmp_path):
    (tmp_path/'v.mp4').write_bytes(b'a film')
    return tmp_path/'v.mp4'

@pytest.mark.parametrize('stop, kept', [(0, 0), (9, 0), (10, 1), (17, 1), (24, 2)])
def test_stopped_and_resumed_is_the_same_file(video, tmp_path, stop, kept):
    run(video, tmp_path/'whole.npz')
    with pytest.raises(KeyboardInterrupt): run(video, tmp_path/'b.npz', stop=stop)
    assert not (tmp_path/'b.npz').exists() and len(list((tmp_path/'b.npz.part').glob('*.npz'))) == kept
    assert run(video, tmp_path/'b.npz')['kept'] == kept
    assert (tmp_path/'b.npz').read_bytes() == (tmp_path/'whole.npz').read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['b.npz', 'v.mp4', 'whole.npz']

@pytest.mark.parametrize('change', [dict(chunk=9), dict(name=lambda: 'another version')])
def test_pieces_of_another_kind_are_not_used(video, tmp_path, change):
    with pytest.raises(KeyboardInterrupt): run(video, tmp_path/'b.npz', stop=22)
    assert run(video, tmp_path/'b.npz', **change)['kept'] == 0

def test_pieces_of_another_video_are_not_used(video, tmp_path):
    with pytest.raises(KeyboardInterrupt): run(video, tmp_path/'b.npz', stop=22)
    video.write_bytes(b'another film')
    assert run(video, tmp_path/'b.npz')['kept'] == 0

def test_all_that_decodes_is_counted(video, tmp_path):
    for n in (1, 9, 10, 20, 25):
        assert run(video, tmp_path/'b.npz', n=n)['frames'] == n
        info = json.loads(str(np.load(tmp_path/'b.npz')['info']))
        assert (info['frames'], info['frames_said'], info['height'], info['width']) == (n, 26, 4, 8)

def test_no_frame_is_refused(video, tmp_path):
    with pytest.raises(worker.Refused, match='no frame'): run(video, tmp_path/'b.npz', n=0)
    assert not (tmp_path/'b.npz').exists()

def test_a_change_of_size_is_refused(video, tmp_path):
    def read(video, start=0):
        yield from Film(10)(video, start)
        yield from Film(5, (6, 8))(video, 0)
    with pytest.raises(worker.Refused, match='change their size'): run(video, tmp_path/'b.npz', read=read)

def test_it_stands_alone(tmp_path):
    "By its path, isolated, it loads nothing of ours; without its packages it says so with code 4."
    source = Path(worker.__file__).read_text()
    assert 'mgr_paper' not in source.replace('mgr_paper.preprocessing.pose_worker', '')
    code = ("import runpy, sys; sys.modules['cv2'] = None; sys.argv = [sys.argv[1], 'v.mp4', 'o.npz']; "
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    done = subprocess.run([sys.executable, '-I', '-c', code, worker.__file__], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4 and 'cv2' in json.loads(done.stdout)['missing'] and not list(tmp_path.iterdir())
    done = subprocess.run([sys.executable, '-I', worker.__file__], capture_output=True, text=True)
    assert done.returncode == 2 and 'usage' in done.stderr
