"Packed frames behave like an array of frames, and a damaged file is named."
import json, pickle
import numpy as np, pytest
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.packed import PackedFrames, PackedStream
from mgr_paper.preprocessing.store import Clip, ClipStore, StoreMeta, StoreWriter

META = StoreMeta('t', 'openpose22', ('a', 'b'), 25., 72, 128, True, 'rgb', 'a test')
def smooth(T=7, n=32, k=0):
    t, y, x = np.mgrid[:T, :n, :n]
    return np.stack([y*6+t, x*5, 80+0*x+20*k], -1).clip(0, 255).astype(np.uint8)
def store(path, packing, n=3, **kw):
    with StoreWriter(path, META, packing) as w:
        for k in range(n): w.add(Clip(**{**dict(clip_id=f'c{k}', video_id='v', subject_id='s', y=k % 2, joints=np.full((5, 22, 3), .5), video=smooth(4+k, k=k)), **kw}))
    return ClipStore(path)

def test_indexing_like_an_array(tmp_path):
    s = PackedStream(tmp_path/'video.bin', smooth()); s.add(smooth()); s.close()
    p = PackedFrames(tmp_path/'video.bin', [7, 32, 32, 3]); whole = p[:]
    assert len(p) == 7 and whole.dtype == np.uint8 and abs(whole.astype(int)-smooth()).mean() < 2
    for key in (3, -1, slice(2, 5), slice(7, 7), np.array([6, 0]), np.array([[1, 2], [3, 3]])): assert (p[key] == whole[key]).all() and p[key].shape == whole[key].shape
    for key in (7, np.array([0, 7])):
        with pytest.raises(IndexError): p[key]

def test_colour_is_kept_at_full_size(tmp_path):
    "One red column between blue ones survives; with halved colour it would turn purple."
    x = np.zeros((1, 32, 32, 3), np.uint8); x[..., 2] = 220; x[:, :, 15] = 220, 0, 0
    s = PackedStream(tmp_path/'video.bin', x); s.add(x); s.close()
    assert abs(PackedFrames(tmp_path/'video.bin', [1, 32, 32, 3])[0].astype(int)-x[0])[:, 15].max() < 60

def test_store_reads_alike_but_smaller(tmp_path):
    raw, jpeg = (store(tmp_path/p, p) for p in ('raw', 'jpeg'))
    size = lambda s: sum(f.stat().st_size for f in s.path.glob('video*'))
    assert size(jpeg) < size(raw)/3 and (jpeg.lengths('video') == raw.lengths('video')).all()
    for i in range(3): assert abs(jpeg.video(i).astype(int)-raw.video(i)).mean() < 2
    a, b = (s.sample('video', [2, 0], 3) for s in (raw, jpeg))
    assert a.shape == b.shape == (2, 3, 32, 32, 3) and abs(a.astype(int)-b).mean() < 2
    assert (jpeg.joints(1) == raw.joints(1)).all() and (pickle.loads(pickle.dumps(jpeg)).video(0) == jpeg.video(0)).all()

def test_a_raw_store_says_nothing_of_packing_and_keeps_its_fingerprint(tmp_path):
    "Records name the fingerprints of raw stores: this one was computed before packing existed."
    s = store(tmp_path/'s', 'raw')
    assert 'packing' not in (tmp_path/'s'/'store.json').read_text() and s.fingerprint == '940ff87a40d2c26b'
    assert json.loads((store(tmp_path/'j', 'jpeg').path/'store.json').read_text())['arrays']['video']['packing'] == 'jpeg'

def test_same_frames_same_bytes(tmp_path):
    a, b = (store(tmp_path/n, 'jpeg') for n in 'ab')
    assert a.fingerprint == b.fingerprint and store(tmp_path/'c', 'jpeg', video=smooth(k=2)).fingerprint != a.fingerprint

@pytest.mark.parametrize('spoil', [lambda f: f.write_bytes(f.read_bytes()[:-3]), lambda f: f.unlink(), lambda f: f.with_name('video_offsets.npy').unlink()])
def test_incomplete_file(tmp_path, spoil):
    store(tmp_path/'s', 'jpeg'); spoil(tmp_path/'s'/'video.bin')
    with pytest.raises(MgrError, match='video.bin is missing or incomplete'): ClipStore(tmp_path/'s')

def test_damaged_picture(tmp_path):
    s = store(tmp_path/'s', 'jpeg'); f = tmp_path/'s'/'video.bin'; raw = bytearray(f.read_bytes())
    raw[int(s.arrays['video'].ends[5]):int(s.arrays['video'].ends[5])+20] = bytes(20); f.write_bytes(raw)
    s = ClipStore(tmp_path/'s'); s.video(0)
    with pytest.raises(MgrError, match='frame 5 is damaged'): s.video(1)

def test_refused(tmp_path):
    with pytest.raises(MgrError, match="unknown packing 'jpg'"): StoreWriter(tmp_path/'s', META, 'jpg')
    with pytest.raises(MgrError, match='2 channels'): store(tmp_path/'s', 'jpeg', video=smooth()[..., :2])
    assert not list(tmp_path.iterdir())
