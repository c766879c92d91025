"The clip store: what it refuses, what it leaves behind, what it costs."
import hashlib, json, os, pickle, re, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.store import Clip, ClipStore, Split, StoreMeta, StoreWriter, segment_frames

META = StoreMeta('t', 'openpose22', ('a','b','c'), 25., 72, 128, True, 'none', 'a test')

def joints(T=6, C=3, seed=0): return np.random.default_rng(seed).uniform(.1, 1, (T,22,C)).astype('float32')
def clip(k=0, **kw): return Clip(**{**dict(clip_id=f'c{k}', video_id=f'v{k}', subject_id=f's{k%2}', y=k%3, joints=joints(3+k, seed=k)), **kw})
def spoil(**at):
    x = joints()
    for value in at.values(): x[2,3,0] = value
    return x

BAD = dict(
    empty=(dict(joints=joints(0)), 'empty clip'), no_joint=(dict(joints=joints()*0), 'no joint in any frame'),
    nan=(dict(joints=spoil(v=np.nan)), 'NaN'), inf=(dict(joints=spoil(v=np.inf)), 'infinite'),
    negative_class=(dict(y=-2), 'class -2'), unknown_class=(dict(y=-1), 'only test clips'), large_class=(dict(y=3), 'class 3'), half_class=(dict(y=.5), 'class 0.5'),
    joint_count=(dict(joints=np.ones((4,21,3))), '(4, 21, 3)'), channels=(dict(joints=np.ones((4,22,2))), '(4, 22, 2)'),
    confidence=(dict(joints=joints()*2), 'confidence'), twice=(dict(clip_id='c0'), 'in the store already'), split=(dict(split='dev'), "'dev'"),
    video=(dict(video=np.zeros((4,8,8,1), 'uint8')), 'video'), more=(dict(joints3d=joints(4, 4)), 'joints3d'),
    nan3d=(dict(joints3d=joints(4, 4)*np.nan), 'NaN'))

@pytest.mark.parametrize('case', BAD)
def test_bad_clip_is_named_and_leaves_nothing(tmp_path, case):
    kw, message = BAD[case]
    bad = clip(1, **kw)
    with pytest.raises(MgrError, match=f'clip {bad.clip_id}: .*{re.escape(message)}'):
        with StoreWriter(tmp_path/'s', META) as w: w.add(clip(0)); w.add(bad)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('video,message', [(np.zeros((4,8,8,1)), 'float64'), (np.zeros((4,8,9,1), 'uint8'), '(8, 9, 1)'), (None, 'no video'),
                                           (np.zeros((0,8,8,1), 'uint8'), 'empty clip'), (np.zeros((4,8,8), 'uint8'), '(4, 8, 8)')])
def test_bad_video(tmp_path, video, message):
    meta = StoreMeta(**{**META.__dict__, 'video_kind': 'depth'})
    with pytest.raises(MgrError, match=re.escape(message)):
        with StoreWriter(tmp_path/'s', meta) as w:
            w.add(clip(0, video=np.zeros((4,8,8,1), 'uint8'))); w.add(clip(1, video=video))
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_any_exception_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        with StoreWriter(tmp_path/'s', META) as w:
            w.add(clip(0)); raise error('stop')
    assert not list(tmp_path.iterdir())

def test_store_without_clips(tmp_path):
    with pytest.raises(MgrError, match='no clip for the store'):
        with StoreWriter(tmp_path/'s', META): pass
    assert not list(tmp_path.iterdir())

def test_a_failed_rewrite_keeps_the_old_store(tmp_path):
    with StoreWriter(tmp_path/'s', META) as w: w.add(clip(0))
    before = ClipStore(tmp_path/'s').fingerprint
    with pytest.raises(MgrError):
        with StoreWriter(tmp_path/'s', META) as w: w.add(clip(0, y=9))
    assert ClipStore(tmp_path/'s').fingerprint == before
    with StoreWriter(tmp_path/'s', META) as w: w.add(clip(0)); w.add(clip(1))
    assert ClipStore(tmp_path/'s').n == 2 and [p.name for p in tmp_path.iterdir()] == ['s']

def test_refused_clips_can_be_skipped(tmp_path):
    with StoreWriter(tmp_path/'s', META) as w:
        w.add(clip(0))
        with pytest.raises(MgrError): w.add(clip(1, y=7))
        w.add(clip(2))
    s = ClipStore(tmp_path/'s')
    assert list(s.clip_ids) == ['c0','c2']
    np.testing.assert_array_equal(s.joints(1), clip(2).joints)

def test_a_foreign_folder_is_not_replaced(tmp_path):
    (tmp_path/'s').mkdir(); (tmp_path/'s'/'mine.txt').write_text('keep')
    with pytest.raises(MgrError, match='no clip store'): StoreWriter(tmp_path/'s', META)
    assert (tmp_path/'s'/'mine.txt').read_text() == 'keep'

@pytest.fixture
def store(tmp_path):
    meta = StoreMeta(**{**META.__dict__, 'video_kind': 'rgb'}); g = np.random.default_rng(0)
    with StoreWriter(tmp_path/'s', meta) as w:
        for k in range(5):
            w.add(clip(k, video=g.integers(0, 256, (2+k,6,8,3), dtype='uint8'), joints3d=joints(4+k, 4, seed=k), split=('train','test')[k%2]))
    return ClipStore(tmp_path/'s')

def test_what_was_written_is_read(store):
    for k in range(5):
        np.testing.assert_array_equal(store.joints(k), clip(k).joints)
        np.testing.assert_array_equal(store.joints3d(k), joints(4+k, 4, seed=k))
        assert store.video(k).shape == (2+k,6,8,3) and store.video(k).dtype == np.uint8
    assert store.y.tolist() == [0,1,2,0,1] and store.subjects.tolist() == ['s0','s1','s0','s1','s0'] and store.K == 3
    assert store.layout.name == 'openpose22' and store.meta.classes == ('a','b','c') and list(store.manifest.split) == ['train','test']*2+['train']
    with pytest.raises(ValueError): store.joints(0)[0] = 0           # views of the file cannot be written to

@pytest.mark.parametrize('kind', ['joints', 'video', 'joints3d'])
@pytest.mark.parametrize('seed', [None, 3])
def test_sample_equals_a_loop(store, kind, seed):
    idx = [4,0,3,3]; make = lambda: None if seed is None else np.random.default_rng(seed)
    x = store.sample(kind, idx, 5, make())
    frames = segment_frames(store.lengths(kind)[idx], 5, make())
    for n, (i, f) in enumerate(zip(idx, frames)): np.testing.assert_array_equal(x[n], store.clip(kind, i)[f])

def test_sampling_leaves_the_global_generator_alone(store):
    np.random.seed(1); a = np.random.get_state()[1].copy(); store.sample('joints', [0], 4, np.random.default_rng(0)); store.sample('joints', [0], 4)
    assert (a == np.random.get_state()[1]).all()

@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.integers(1, 80), st.integers(0, 99))
@settings(deadline=None)
def test_frames_ascend_within_the_clip(lengths, T, seed):
    for rng in (None, np.random.default_rng(seed)):
        f = segment_frames(np.array(lengths), T, rng)
        assert f.shape == (len(lengths), T) and (f >= 0).all() and (f < np.array(lengths)[:,None]).all()
        for L, row in zip(lengths, f): assert (np.diff(row) > 0).all() if L >= T else set(row) == set(range(L))

@given(st.integers(2, 10), st.integers(1, 12), st.integers(0, 9999))
@settings(deadline=None)
def test_long_clips_follow_the_published_bins(factor, T, seed): # one frame in [floor(iL/T), floor((i+1)L/T)) when L >= 2T
    L = factor*T+seed%T; f = segment_frames([L], T, np.random.default_rng(seed))[0]; edges = np.arange(T+1)*L//T
    assert (f >= edges[:-1]).all() and (f < edges[1:]).all()

def test_fingerprint_follows_content_only(tmp_path):
    def make(name, meta=META, **kw):
        with StoreWriter(tmp_path/name, meta) as w: w.add(clip(0)); w.add(clip(1, **kw))
        return ClipStore(tmp_path/name).fingerprint
    same, x = make('a'), clip(1).joints.copy()
    assert make('b') == same == make('c', StoreMeta(**{**META.__dict__, 'source': 'elsewhere'}))
    x[0,0,0] += .01
    others = [make('d', joints=x), make('e', y=2), make('f', subject_id='z'), make('g', StoreMeta(**{**META.__dict__, 'fps': 30.}))]
    assert len({same, *others}) == 5

def test_fingerprint_of_the_bytes(store):
    info = json.loads((store.path/'store.json').read_text())
    for k, a in store.arrays.items(): assert info['arrays'][k]['sha256'] == hashlib.sha256(a).hexdigest()

def test_other_version_and_damage(store):
    f = store.path/'store.json'; info = json.loads(f.read_text())
    f.write_text(json.dumps({**info, 'schema': info['schema']+1}))
    with pytest.raises(MgrError, match=f"version {info['schema']+1}, this program reads version {info['schema']}"): ClipStore(store.path)
    f.write_text('{')
    with pytest.raises(MgrError, match='no clip store'): ClipStore(store.path)
    info['arrays']['joints']['shape'][0] += 1; f.write_text(json.dumps(info))
    with pytest.raises(MgrError, match='joints.npy is missing or incomplete'): ClipStore(store.path)

def test_damaged_array_file(store):
    with open(store.path/'video.npy', 'r+b') as f: f.truncate((store.path/'video.npy').stat().st_size-100)
    with pytest.raises(MgrError, match='video.npy is missing or incomplete'): ClipStore(store.path)

def test_missing_store_and_kind(tmp_path):
    with pytest.raises(MgrError, match='nowhere'): ClipStore(tmp_path/'nowhere')
    with StoreWriter(tmp_path/'s', META) as w: w.add(clip(0))
    with pytest.raises(MgrError, match='holds no video'): ClipStore(tmp_path/'s').sample('video', [0], 3)

def test_workers_map_the_files_themselves(store):
    assert len(pickle.dumps(store)) < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).joints(2), store.joints(2))

def test_split_keeps_people_apart(store):
    assert Split('ok', [0,2], [], [1,3]).check(store).source.dtype == np.int64
    with pytest.raises(MgrError, match='split x: subject s0 is in source and target'): Split('x', [0], [1], [2]).check(store)
    with pytest.raises(MgrError, match='no source clips'): Split('x', [], [1], [2]).check(store)

SCRIPT = '''
import re, sys, numpy as np
from pathlib import Path
from mgr_paper.preprocessing.store import Clip, ClipStore, StoreMeta, StoreWriter
def rss(): return int(re.search(r'VmRSS:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])*1024
path, g = Path(sys.argv[1]), np.random.default_rng(0); frames = g.random((16,68,3), 'float32')
def write(path, n):
    with StoreWriter(path, StoreMeta('many', 'halpe68', ('a','b'), 25., 72, 128, True, 'none', 'noise')) as w:
        for k in range(n): w.add(Clip(str(k), str(k//50), str(k//250), k%2, frames))
write(path.with_name('warm'), 10); ClipStore(path.with_name('warm')).sample('joints', [0], 8, g)
before = rss(); write(path, 18000); wrote = rss()
s = ClipStore(path)
for _ in range(20): x = s.sample('joints', g.integers(0, s.n, 64), 16, g)
print(s.n, wrote-before, rss()-before, (path/'joints.npy').stat().st_size)
'''

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_18000_clips_in_bounded_memory(tmp_path):
    out = subprocess.run([sys.executable, '-c', SCRIPT, str(tmp_path/'s')], capture_output=True, text=True, check=True,
                         env={**os.environ, 'OMP_NUM_THREADS': '1'})
    n, wrote, sampled, size = map(int, out.stdout.split())
    print(f'{n} clips, joints.npy {size/1e6:.0f} MB: resident memory grew by {wrote/1e6:.0f} MB in writing, {sampled/1e6:.0f} MB after sampling')
    assert n == 18000 and wrote < size/4 and sampled < size         # mapped pages count as resident until somebody needs the memory

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
@pytest.mark.parametrize('packing', ['raw', 'jpeg'])
def test_what_has_been_read_is_given_back(tmp_path, monkeypatch, packing):
    "A pass over a store does not end with all of it in memory, and nothing that was read changes."
    def in_files(): return int(re.search(r'RssFile:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024
    g = np.random.default_rng(0); noise = g.integers(0, 256, (20,64,64,3), dtype='uint8')
    with StoreWriter(tmp_path/'s', StoreMeta(**{**META.__dict__, 'video_kind': 'rgb'}), packing) as w:
        for k in range(100): w.add(clip(k, joints=joints(400, seed=k), video=noise))
    size = sum(f.stat().st_size for f in (tmp_path/'s').glob('*.*')); assert size > 15e6
    def grown(held): # MB by which a pass over all clips adds to what is resident of files
        monkeypatch.setattr('mgr_paper.reading.HELD', held); s = ClipStore(tmp_path/'s'); first = s.joints(0); s.sample('video', [0], 4)
        before, seen = in_files(), []
        for i in range(s.n):
            x, v = s.sample('joints', [i], 48, g), s.sample('video', [i], 20) if packing == 'raw' or i % 4 == 0 else s.video(i)
            assert (x >= .1).all() and v.shape[-3:] == (64,64,3)
            seen.append(in_files())
        np.testing.assert_array_equal(first, joints(400, seed=0)) # a view of pages that were given back
        return max(seen)-before
    few, all_ = grown(1 << 21), grown(1 << 40)
    print(f'{packing}: {size/1e6:.0f} MB read, {all_:.0f} MB more in memory; {few:.0f} MB where they are given back')
    assert few < 6 and all_ > 10
