"Skeleton pickles: what peers write is read exactly, what is broken is named, and our own come back."
import os, pickle
import numpy as np, pytest
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.layouts import JOINTS, convert, hand_distances, layout, rest_pose
from mgr_paper.preprocessing.safe_pickle import dump_pickle
from mgr_paper.preprocessing.skeleton_files import clips_of_pyskl, layout_of, prepare_pickle, read_pyskl, write_pyskl
from mgr_paper.preprocessing.store import Clip, ClipStore, StoreMeta, StoreWriter

def note(name='0001_0', label=0, T=5, V=36, M=1, kind='f4', C=2, seed=0, **change):
    g = np.random.default_rng(seed)
    a = dict(frame_dir=name, label=label, total_frames=T, img_shape=(720, 1280), original_shape=(720, 1280),
             keypoint=g.uniform(1, 700, (M, T, V, 2)).astype(kind), keypoint_score=g.uniform(.1, 1, (M, T, V)).astype(kind))
    if C == 3: a['keypoint'] = np.concatenate([a['keypoint'], a.pop('keypoint_score')[..., None]], -1)
    return {k: v for k, v in {**a, **change}.items() if v is not None}

def file(tmp_path, notes, split=None, name='set.pkl'):
    split = {'train': [a['frame_dir'] for a in notes if isinstance(a, dict) and 'frame_dir' in a]} if split is None else split
    (tmp_path/name).write_bytes(pickle.dumps(dict(split=split, annotations=notes)))
    return tmp_path/name

@pytest.mark.parametrize('kind', ['f2', 'f4', 'f8'])
@pytest.mark.parametrize('C', [2, 3])
def test_joints_are_those_of_the_file(tmp_path, kind, C):
    a = note(kind=kind, C=C); data = read_pyskl(file(tmp_path, [a]))
    (clip, people), = clips_of_pyskl(data)
    score = a['keypoint'][0, ..., 2] if C == 3 else a['keypoint_score'][0]
    np.testing.assert_array_equal(clip.joints[..., :2], a['keypoint'][0, ..., :2].astype('f4'))
    np.testing.assert_array_equal(clip.joints[..., 2], score.astype('f4'))
    assert people == 1 and clip.joints.dtype == np.float32 and (clip.clip_id, clip.video_id, clip.subject_id, clip.split) == ('0001_0', '0001', '0001', 'train')
    assert data.size == (720, 1280) and data.size_said and data.V == 36

def test_the_person_seen_best_is_kept(tmp_path):
    a = note(M=3); a['keypoint_score'][0] *= .2; a['keypoint_score'][2] = 0; a['keypoint_score'][1, 0, 0] = 0; a['keypoint_score'][1, 1, 1] = 1.5
    (clip, people), = clips_of_pyskl(read_pyskl(file(tmp_path, [a])))
    assert people == 2 and not clip.joints[0, 0].any() and clip.joints[1, 1, 2] == 1          # missing is 0,0,0; scores end at 1
    np.testing.assert_array_equal(clip.joints[2:, :, :2], a['keypoint'][1, 2:])

def test_without_scores_the_origin_is_missing(tmp_path):
    a = note(keypoint_score=None); a['keypoint'][0, 0, 0] = 0; a['keypoint'][0, 0, 1, 0] = 0
    (clip, _), = clips_of_pyskl(read_pyskl(file(tmp_path, [a])))
    assert not clip.joints[0, 0].any() and clip.joints[0, 1, 2] == 1 and clip.joints[0, 1, 1] == a['keypoint'][0, 0, 1, 1]

def test_picture_size_from_the_largest_coordinate(tmp_path):
    a = note(img_shape=None); a['keypoint'][0, 2, 3] = (999.4, 480)
    data = read_pyskl(file(tmp_path, [a])); assert data.size == (int(a['keypoint'][..., 1].max())+1, 1000) and not data.size_said

def test_pictures_of_other_sizes_are_scaled(tmp_path):
    big = note('0002_0', img_shape=(1080, 1920), seed=1)
    clips = [c for c, _ in clips_of_pyskl(read_pyskl(file(tmp_path, [note(), note('0001_1'), big])))]
    np.testing.assert_allclose(clips[2].joints[..., :2], big['keypoint'][0]*(2/3), rtol=1e-6)
    with pytest.raises(MgrError, match=r'clip 0003_0 has pictures of \(720, 960\)'):
        list(clips_of_pyskl(read_pyskl(file(tmp_path, [note(), note('0001_1'), note('0003_0', img_shape=(720, 960))]))))

def broken(x, where, value): x = x.copy(); x[where] = value; return x
X, S = note()['keypoint'], note()['keypoint_score']

@pytest.mark.parametrize('change,said', [
    (dict(total_frames=6), 'clip 0001_1 says total_frames 6, its keypoint has 5'), (dict(label=32), 'clip 0001_1 has label 32, which is not in 0..31'),
    (dict(label=-1), 'label -1'), (dict(label=1.5), 'a label that is a float'), (dict(label=True), 'a label that is a bool'), (dict(label=None), 'has no label'),
    (dict(frame_dir=7), 'a frame_dir that is a int'), (dict(frame_dir='0001_0'), 'clip 0001_0 appears twice'), (dict(keypoint=None), 'has no keypoint'),
    (dict(keypoint=X.tolist()), 'a keypoint that is a list'), (dict(keypoint=X[0]), r'shape (5, 36, 2), not float (M,T,V,2 or 3)'),
    (dict(keypoint=X.astype(int)), 'keypoint of int64'), (dict(keypoint=X[:, :, :17]), 'has 17 joints where the first clip has 36'),
    (dict(keypoint=X[:0]), 'shape (0, 5, 36, 2)'), (dict(keypoint=broken(X, (0, 2, 7, 1), np.nan)), 'NaN or infinite keypoint, first at person 0, frame 2, joint 7'),
    (dict(keypoint_score=broken(S, (0, 3, 1), np.inf)), 'NaN or infinite keypoint_score, first at person 0, frame 3, joint 1'),
    (dict(keypoint_score=S[:, :4]), 'keypoint_score of shape (1, 4, 36)'), (dict(keypoint=np.concatenate([X, X[..., :1]], -1)), 'third channel'),
    (dict(keypoint=np.concatenate([X, X[..., :1]], -1), keypoint_score=None), 'third channel'), (dict(img_shape=(720,)), 'img_shape (720,)'),
    (dict(img_shape=(0, 5)), 'img_shape (0, 5)'), (dict(img_shape=720), 'img_shape 720')])
def test_a_broken_clip_is_named(tmp_path, change, said):
    with pytest.raises(MgrError) as e: read_pyskl(file(tmp_path, [note(), note(**{'name': '0001_1', **{k: v for k, v in change.items()}})], {}), 32)
    assert said in str(e.value) and 'set.pkl' in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('data,said', [
    ([1], 'has no split and annotations'), ({'split': {}}, 'has no split and annotations'), (dict(split={}, annotations=[]), 'no clips'),
    (dict(split=[], annotations=[note()]), 'a split that is no dict'), (dict(split={}, annotations=['a']), 'clip number 0 is a str'),
    (dict(split={'test': ['0009_3']}, annotations=[note()]), 'split test names 0009_3'),
    (dict(split={}, annotations=[note(keypoint=X/1000)]), 'no coordinate is above 0.70')])
def test_a_broken_file_is_named(tmp_path, data, said):
    (tmp_path/'set.pkl').write_bytes(pickle.dumps(data))
    with pytest.raises(MgrError) as e: read_pyskl(tmp_path/'set.pkl')
    assert said in str(e.value) and 'set.pkl' in str(e.value)

def test_code_in_the_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self): return os.system, (f'touch {tmp_path}/trapped',)
    with pytest.raises(MgrError, match='asks for posix.system'): read_pyskl(file(tmp_path, [note(label=Trap())]))
    assert not (tmp_path/'trapped').exists()

def test_splits_and_protocols(tmp_path):
    notes = [note(f'000{i}_0', seed=i) for i in range(4)]; ids = [a['frame_dir'] for a in notes]
    data = read_pyskl(file(tmp_path, notes, dict(xsub_train=ids[:2], xsub_val=ids[2:], xset_train=ids[2:], xset_test=ids[:2])))
    with pytest.raises(MgrError, match='xsub_train, xsub_val, xset_train, xset_test are not train, val and test'): list(clips_of_pyskl(data))
    assert [c.split for c, _ in clips_of_pyskl(data, protocol='xsub')] == ['train']*2+['val']*2
    assert [c.split for c, _ in clips_of_pyskl(data, protocol='xset')] == ['test']*2+['train']*2
    both = read_pyskl(file(tmp_path, notes, dict(train=ids[:2], test=ids[1:])))
    with pytest.raises(MgrError, match='clip 0001_0 is in train and test'): list(clips_of_pyskl(both))

def test_layout_by_number_or_by_name():
    assert {V: layout_of(V) for V in (17, 20, 22, 26, 28, 35, 36, 133, 136, 137, 543)} == {
        17: 'coco17', 20: 'kinect20', 22: 'openpose22', 26: 'halpe26', 28: 'openpose28', 35: 'light35', 36: 'imigue36', 133: 'wholebody133',
        136: 'halpe136', 137: 'openpose137', 543: 'holistic'}
    assert layout_of(68, 'upper68') == 'upper68'
    for args, said in [((68,), '68 joints fit several layouts. say which, by layout=...: halpe68, upper68'), ((25,), 'kinect25'), ((44,), '44 joints fit no layout'),
                       ((68, 'halpe26'), '68 joints are not halpe26, which has 26. layouts of 68 joints: halpe68, upper68'), ((28, 'openpose82'), 'did you mean')]:
        with pytest.raises(MgrError) as e: layout_of(*args)
        assert said in str(e.value)

def test_a_selection_fills_its_rows(tmp_path):
    "44 of Halpe's 136 points, as one peer stores them: the rows are said, the rest is missing."
    rows = [*range(26), *range(50, 56), 94, 98, 102, 106, 110, 114, 115, 119, 123, 127, 131, 135]; a = note(V=44)
    with pytest.raises(MgrError, match='44 joints fit no layout. give layout=... and rows'): prepare_pickle(file(tmp_path, [a]), tmp_path/'store')
    report = prepare_pickle(file(tmp_path, [a]), tmp_path/'store', 'halpe136', rows=rows)
    joints = ClipStore(tmp_path/'store').joints(0)
    np.testing.assert_array_equal(joints[:, rows, :2], a['keypoint'][0]); assert report['layout'] == 'halpe136'
    assert not joints[:, [i for i in range(136) if i not in rows]].any()
    for bad, name in ((rows[:-1], 'halpe136'), (rows[:-1]+[0], 'halpe136'), (rows[:-1]+[136], 'halpe136')):
        with pytest.raises(MgrError, match='do not name 44 different joints'): prepare_pickle(tmp_path/'set.pkl', tmp_path/'store', name, rows=bad)
    with pytest.raises(MgrError, match='without a layout'): prepare_pickle(tmp_path/'set.pkl', tmp_path/'store', rows=rows)

def test_report_and_skipped(tmp_path):
    notes = [note('0001_0', 3), note('0001_1', 1, M=2), note('0002_0', 0, keypoint_score=np.zeros((1, 5, 36), 'f4')), note('0003_0', 2)]
    report = prepare_pickle(file(tmp_path, notes, dict(train=['0001_0', '0001_1'], test=['0003_0'])), tmp_path/'store', subjects={'0001': 'a', '0002': 'a', '0003': 'b'})
    assert report.pop('seconds') >= 0
    assert report == dict(clips=3, frames=15, several_people=1, splits=dict(train=2, test=1), layout='imigue36', classes=4, height=720, width=1280, size_said=True,
                          files=['set.pkl'], skipped=[dict(file='0002_0', why='nobody is seen in any frame')])
    store = ClipStore(tmp_path/'store')
    assert list(store.subjects) == ['a', 'a', 'b'] and store.meta.video_kind == 'none' and store.meta.classes[3] == 'class 3'
    with pytest.raises(MgrError, match='no subject is given for video 0003'): prepare_pickle(tmp_path/'set.pkl', tmp_path/'other', subjects={'0001': 'a', '0002': 'a'})
    assert not (tmp_path/'other').exists() and [p.name for p in tmp_path.iterdir() if p.name.startswith('.')] == []

def test_a_folder_of_three_files(tmp_path):
    "As MA-52's pose files come: one for each split, 28 joints."
    folder = tmp_path/'poses'; folder.mkdir()
    for part, k in (('train', 2), ('val', 1), ('test', 1)):
        file(folder, [note(f'{part}{i:04}', i, V=28, seed=i) for i in range(k)], {part: [f'{part}{i:04}' for i in range(k)]}, f'MA52_{part}.pkl')
    report = prepare_pickle(folder, tmp_path/'store', classes=('one', 'two'))
    assert report['splits'] == dict(train=2, val=1, test=1) and report['layout'] == 'openpose28' and len(report['files']) == 3
    file(folder, [note('x_0')], name='Z.pkl')
    with pytest.raises(MgrError, match='Z.pkl has 36 joints'): prepare_pickle(folder, tmp_path/'store')
    with pytest.raises(MgrError, match='no .pkl file'): prepare_pickle(tmp_path/'store', tmp_path/'store2')

def test_a_store_goes_there_and_back(tmp_path):
    meta = StoreMeta('demo', 'light35', ('a', 'b', 'c'), fps=25, height=320, width=480, simulated=True, video_kind='none', source='test')
    g = np.random.default_rng(0)
    with StoreWriter(tmp_path/'store', meta) as w:
        for i in range(6):
            joints = np.concatenate([g.uniform(1, 300, (4+i, 35, 2)), g.uniform(.1, 1, (4+i, 35, 1))], -1).astype('f4'); joints[0, 3] = 0
            w.add(Clip(f'{i//2:04}_{i}', f'{i//2:04}', f'{i//2:04}', i % 3, joints, split=('train', 'val', 'test')[i//2]))
    assert write_pyskl(tmp_path/'store', tmp_path/'out.pkl') == 6
    prepare_pickle(tmp_path/'out.pkl', tmp_path/'again', classes=meta.classes)
    a, b = ClipStore(tmp_path/'store'), ClipStore(tmp_path/'again')
    for i in range(6): np.testing.assert_array_equal(a.joints(i), b.joints(i))
    for column in ('clip_id', 'video_id', 'subject_id', 'y', 'split'): assert list(a.manifest[column]) == list(b.manifest[column])
    assert (b.meta.height, b.meta.width, b.meta.layout, b.meta.classes) == (320, 480, 'light35', meta.classes)
    data = pickle.loads((tmp_path/'out.pkl').read_bytes())                                     # as a peer's program reads it
    assert set(data) == {'split', 'annotations'} and {k: len(v) for k, v in data['split'].items()} == dict(train=2, val=2, test=2)
    for n in data['annotations']:
        assert n['keypoint'].shape == (1, n['total_frames'], 35, 2) and n['keypoint_score'].shape == (1, n['total_frames'], 35)
        assert n['img_shape'] == n['original_shape'] == (320, 480) and n['keypoint'].dtype == np.float32 and type(n['label']) is int

def test_hands_of_the_28_points_hang_on_their_own_wrists(tmp_path):
    "Written in the order a peer documents: tips 18-22 on wrist 7, 23-27 on wrist 4."
    pose = np.tile(rest_pose(layout('openpose28'))*100+[500, 200, 0], (1, 4, 1, 1)); pose[..., 2] = .9
    prepare_pickle(file(tmp_path, [note(V=28, T=4, keypoint=pose[..., :2].astype('f4'), keypoint_score=pose[..., 2].astype('f4'))]), tmp_path/'store')
    store = ClipStore(tmp_path/'store'); own, other = hand_distances(store.joints(0), store.layout)
    assert own < other
