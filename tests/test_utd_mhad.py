"""The UTD-MHAD reader: on made-up files always, on the recordings where they are."""
import os
from pathlib import Path
import numpy as np
import pytest
from scipy.io import loadmat, savemat
from mgr_paper.core import MgrError
from mgr_paper.preprocessing import utd_mhad as utd
from mgr_paper.preprocessing.layouts import layout
from mgr_paper.preprocessing.store import ClipStore

recordings = pytest.mark.skipif(not os.environ.get('MGR_UTD_ROOT') and not utd.utd_root().is_dir(),
                                reason='needs the UTD-MHAD recordings: set MGR_UTD_ROOT')

@pytest.fixture
def raw(tmp_path):
    "A made-up folder: 3 actions, 4 people, 2 trials."
    utd.write_example(tmp_path/'raw', actions=(1, 2, 27), people=(1, 2, 7, 8), trials=(1, 2))
    return tmp_path/'raw'

def test_store_of_made_up_files(raw, tmp_path):
    report = utd.prepare_utd(raw, tmp_path/'store', size=20)
    store = ClipStore(tmp_path/'store')
    assert report['clips'] == store.n == 24 and report['frames'] == 24*6 and report['skipped'] == []
    assert store.meta.video_kind == 'depth' and not store.meta.simulated and store.meta.layout == 'kinect20'
    assert (store.meta.height, store.meta.width) == (60, 80) and store.K == 27 == len(store.meta.classes)
    assert sorted(set(store.y.tolist())) == [0, 1, 26] and set(store.subjects) == {'s1', 's2', 's7', 's8'}
    assert len(set(store.videos)) == store.n                       # a recording is a video of its own
    xyz = loadmat(raw/'Skeleton'/'a2_s7_t1_skeleton.mat')['d_skel'].transpose(2, 0, 1)
    i = list(store.clip_ids).index('a2_s7_t1')
    assert np.allclose(store.joints3d(i)[..., :3], xyz, atol=1e-5) and (store.joints3d(i)[..., 3] == 1).all()
    assert np.allclose(store.joints(i), utd.project(xyz, 60, 80)) and store.joints(i).dtype == np.float32

def test_joint_order_is_the_layout():
    "Left is left, and the hand hangs below the shoulder, by the layout's own names."
    kinect = layout('kinect20')
    at = {name: utd.STANDING[i] for i, name in enumerate(kinect.joints)}
    assert kinect.V == 20 and np.argmax(utd.STANDING[:, 1]) == kinect.joints.index('Head')
    for a, b in kinect.flip: assert np.allclose(utd.STANDING[a] * (-1, 1), utd.STANDING[b])
    assert utd.STANDING[kinect.centre, 1] > utd.STANDING[kinect.scale, 1].min() and len(at) == 20

def test_picture_size_comes_from_the_array(tmp_path):
    utd.write_example(tmp_path/'small', size=(60, 80)); utd.write_example(tmp_path/'big', size=(240, 320))
    small, big = (utd.read_clip(utd.find_trials(tmp_path/n)[0][0], 16)[0] for n in ('small', 'big'))
    assert np.allclose(big.joints[..., :2], 4*small.joints[..., :2], atol=1e-3)
    assert big.video.shape == small.video.shape == (6, 16, 16, 2)
    assert abs(big.video[..., 1].mean() - small.video[..., 1].mean()) < 12    # the same person fills the same share

def test_two_resolutions_are_refused(raw, tmp_path):
    utd.write_example(raw, actions=(3,), people=(1,), size=(120, 160))
    with pytest.raises(MgrError, match='a3_s1_t1_depth.mat.*120, 160'): utd.prepare_utd(raw, tmp_path/'store')
    assert not (tmp_path/'store').exists()

@pytest.mark.parametrize('stored', [3, 5, 7, 12])
def test_depth_follows_the_skeleton(tmp_path, stored):
    "Other numbers of depth frames: first and last stay, order stays, the report counts it."
    utd.write_example(tmp_path/'raw', actions=(1,), people=(1,), depth_frames=stored)
    path = tmp_path/'raw'/'Depth'/'a1_s1_t1_depth.mat'
    depth = np.zeros((60, 80, stored), np.uint16); depth[20:40, 30:50] = 2000 + np.arange(stored)
    savemat(path, {'d_depth': depth})
    _, got, n = utd.read_trial(utd.find_trials(tmp_path/'raw')[0][0])
    order = got[:, 30, 40].astype(int) - 2000
    assert n == stored and len(got) == 6 and (order[0], order[-1]) == (0, stored-1) and (np.diff(order) >= 0).all()
    assert utd.prepare_utd(tmp_path/'raw', tmp_path/'store')['resampled'] == 1

def test_left_out_and_why(raw):
    (raw/'Depth'/'a1_s1_t1_depth.mat').unlink(); (raw/'Skeleton'/'a2_s2_t2_skeleton.mat').unlink()
    (raw/'Depth'/'notes.mat').touch(); (raw/'Depth'/'a1_s9_t1_depth.mat').touch(); (raw/'readme.txt').touch()
    trials, left, _ = utd.find_trials(raw)
    why = {row['file']: row['why'] for row in left}
    assert len(trials) == 22
    assert set(why) == {'a1_s1_t1_skeleton.mat', 'a2_s2_t2_depth.mat', 'notes.mat', 'a1_s9_t1_depth.mat'}
    assert 'no depth' in why['a1_s1_t1_skeleton.mat'] and 'no skeleton' in why['a2_s2_t2_depth.mat']
    assert 'range' in why['a1_s9_t1_depth.mat'] and 'name' in why['notes.mat']

def truncated(path): path.write_bytes(path.read_bytes()[:150])
def other_variable(path): savemat(path, {'something': np.zeros((20, 3, 4))})
def other_shape(path): savemat(path, {'d_skel': np.zeros((25, 3, 4))})
def no_frame(path): savemat(path, {'d_skel': np.zeros((20, 3, 0))})

@pytest.mark.parametrize('spoil', [truncated, other_variable, other_shape, no_frame], ids=lambda f: f.__name__)
def test_corrupt_file_is_named_and_nothing_is_left(raw, tmp_path, spoil):
    spoil(raw/'Skeleton'/'a2_s7_t1_skeleton.mat')
    with pytest.raises(MgrError, match=r'a2_s7_t1_skeleton\.mat') as e: utd.prepare_utd(raw, tmp_path/'store')
    assert '\n' not in str(e.value) and sorted(p.name for p in tmp_path.iterdir()) == ['raw']

def test_folders_without_recordings(tmp_path):
    with pytest.raises(MgrError, match='nowhere'): utd.prepare_utd(tmp_path/'nowhere', tmp_path/'store')
    (tmp_path/'empty').mkdir()
    with pytest.raises(MgrError, match='empty'): utd.prepare_utd(tmp_path/'empty', tmp_path/'store')
    utd.write_example(tmp_path/'half')
    for f in (tmp_path/'half'/'Depth').iterdir(): f.unlink()
    with pytest.raises(MgrError, match='half'): utd.prepare_utd(tmp_path/'half', tmp_path/'store')
    assert not (tmp_path/'store').exists()

def test_crop_keeps_person_and_ignores_background():
    "Mean depth under the mask survives the crop; a background pixel never enters it."
    depth = np.zeros((2, 60, 80), np.uint16); depth[:, 11:48, 21:38] = 2500; depth[1, 11:20, 30:38] = 2100
    box = utd.person_box(depth, np.zeros((2, 20, 3)))
    out = utd.crop_depth(depth, box, 31)
    near, mask = out[..., 0].astype(float), out[..., 1]
    assert set(np.unique(near[0])) == {0., 128.} and (near[mask == 0] == 0).all() and (near[mask > 0] > 0).all()
    assert near[1].max() == 128 + round(127*.4/utd.REACH)
    assert np.isclose(mask.mean()/255, (depth > 0).sum()/2/box[2]**2, rtol=.01)

def test_nobody_in_the_depth():
    "An empty depth still gives a crop, all background."
    depth, joints = np.zeros((2, 60, 80), np.uint16), np.zeros((2, 20, 3))
    assert not utd.crop_depth(depth, utd.person_box(depth, joints), 8).any()

def test_box_holds_joints_beyond_the_mask():
    depth = np.zeros((1, 60, 80), np.uint16); depth[:, 30:40, 30:40] = 2000
    joints = np.zeros((1, 20, 3)); joints[0, 0] = 70, 10, 1; joints[0, 1] = 500, 500, 0     # the second is not seen
    left, top, side = utd.person_box(depth, joints)
    assert left < 30 and top < 10 and left+side > 70 and side < 60

def test_protocols(raw, tmp_path):
    utd.prepare_utd(raw, tmp_path/'store', size=8)
    store = ClipStore(tmp_path/'store')
    split = utd.protocol(store, 'few-12')
    assert set(store.subjects[split.source]) == {'s1', 's2'} and set(store.subjects[split.target]) == {'s7', 's8'}
    assert len(split.val) == 0 and len(split.source) + len(split.target) == store.n
    with pytest.raises(MgrError, match='odd-even'): utd.protocol(store, 'odd')
    with pytest.raises(MgrError, match='few-34.*source'): utd.protocol(store, 'few-34')

@recordings
def test_the_recordings(tmp_path):
    "A person's recordings of every action: what the documentation says of the set."
    trials, left, _ = utd.find_trials(utd.utd_root())
    assert len(trials) == 861 and left == [] and len({(t.action, t.person) for t in trials}) == 27*8
    for trial in trials[::97]:
        xyz, depth, stored = utd.read_trial(trial)
        clip, row = utd.read_clip(trial, 56)
        assert stored == len(xyz) == len(clip.video) and depth.dtype == np.uint16 and row['on_body'] > .8
        assert 2 < xyz[..., 2].mean() < 4 and np.allclose(depth[depth > 0].mean()/1000, xyz[..., 2].mean(), atol=.25)
        assert clip.video[..., 1].max() == 255 and .05 < (clip.video[..., 1] > 127).mean() < .6
