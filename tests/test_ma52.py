"The MA-52 reader, on made-up pickles and lists of the published shape."
import re
import numpy as np
import pytest
from mgr_paper.core import MgrError
from mgr_paper.preprocessing import ma52
from mgr_paper.preprocessing.layouts import JOINTS
from mgr_paper.preprocessing.safe_pickle import dump_pickle, load_pickle
from mgr_paper.preprocessing.store import UNKNOWN, ClipStore

@pytest.fixture
def raw(tmp_path):
    "Four people, each in train and val; two test clips."
    ma52.write_example(tmp_path/'raw')
    return tmp_path/'raw'

def prepare(raw, **how):
    report = ma52.prepare_ma52(raw, raw.parent/'store', **how)
    return report, ClipStore(raw.parent/'store')

def published(raw): # name to label, of train and val
    return {k: v for p in ('train', 'val') for k, v in ma52.read_list(raw/f'{p}_list_videos.txt').items()}

def change(path, f):
    data = load_pickle(path); f(data); dump_pickle(data, path)

def test_store(raw):
    report, store = prepare(raw)
    assert report['by_part'] == dict(train=12, val=12, test=2) and report['clips'] == store.n == 26 and report['skipped'] == []
    assert store.meta.layout == 'openpose28' and store.K == 52 and store.meta.classes[51] == 'action 51'
    assert (store.meta.height, store.meta.width, store.meta.video_kind, store.meta.simulated) == (1080, 1920, 'none', False)
    old = {v: k for k, v in ma52.renumber(published(raw)).items()}
    for i in np.flatnonzero(store.manifest['split'] != 'test'):
        assert store.y[i] == published(raw)[old[store.clip_ids[i]]] and store.subjects[i] == 'p'+old[store.clip_ids[i]][:4]
        name, part = old[store.clip_ids[i]], store.manifest['split'][i]
        note = next(a for a in load_pickle(raw/f'MA52_{part}.pkl')['annotations'] if a['frame_dir'] == name)
        assert np.array_equal(store.joints(i)[..., :2], note['keypoint'][0].astype(np.float32))

def test_coarse_labels_follow_from_fine(raw):
    _, fine = prepare(raw); fine_y = fine.y.copy(); ids = fine.clip_ids.copy()
    report, coarse = prepare(raw, labels='coarse')
    known = (coarse.manifest['split'] != 'test').to_numpy()
    assert coarse.K == 7 and coarse.meta.classes[6] == 'leg-hand' and np.array_equal(ids, coarse.clip_ids)
    ends = [4, 10, 23, 31, 37, 47, 51]                                     # last fine class of each part, as published
    assert coarse.y[known].tolist() == [next(i for i, e in enumerate(ends) if y <= e) for y in fine_y[known]]
    with pytest.raises(MgrError, match='kind of labels.*medium'): prepare(raw, labels='medium')

def test_no_name_tells_the_label(raw):
    "No text of the store looks like a published name, and order is not that of the names either."
    report, store = prepare(raw)
    assert report['name_tells'] == 1
    texts = [(store.path/'store.json').read_text(), *store.manifest.astype(str).to_numpy().ravel()]
    assert '0001' in ' '.join(texts) and not re.search(r'\d{4}_\d{2}_\d{4}', ' '.join(texts))
    for part in ('train', 'val'):
        ids = store.clip_ids[store.manifest['split'] == part].tolist()
        new = ma52.renumber(published(raw)); mine = ma52.read_list(raw/f'{part}_list_videos.txt')
        assert ids == sorted(ids) and ids != [new[n] for n in sorted(mine)]

def test_numbers_do_not_follow_the_part():
    names = [f'{s:04d}_{e:02d}_{i:04d}' for s in range(60) for e in range(7) for i in range(6)]
    new = ma52.renumber(names)
    parts = np.array([int(n[5:7]) for n in sorted(names, key=new.get)])
    assert abs(np.corrcoef(parts, np.arange(len(parts)))[0, 1]) < .06 and ma52.renumber(reversed(names)) == new

def test_everybody_in_both_parts_is_reported(raw):
    assert (prepare(raw)[0]['people'], prepare(raw)[0]['in_both']) == (4, 4)
    rows = (raw/'val_list_videos.txt').read_text().splitlines()
    (raw/'val_list_videos.txt').write_text('\n'.join(r for r in rows if r[:4] in ('0001', '0002')))
    report = prepare(raw)[0]
    assert (report['people'], report['in_both'], len(report['skipped'])) == (4, 2, 6)

def test_test_clips_keep_their_names_and_have_no_label(raw):
    change(raw/'MA52_test.pkl', lambda d: [a.update(label=9) for a in d['annotations']])
    report, store = prepare(raw)
    test = store.manifest[store.manifest['split'] == 'test']
    assert test['clip_id'].tolist() == ['test0000', 'test0001'] and set(test['subject_id']) == {'unknown'}
    assert set(test['y']) == {UNKNOWN} and report['unlabelled'] == 2

def test_without_lists_the_pickles_rule(raw):
    want = published(raw)
    for p in ('train', 'val'): (raw/f'{p}_list_videos.txt').unlink()
    (raw/'label_name.txt').unlink(); (raw/'MA52_test.pkl').unlink()
    report, store = prepare(raw)
    assert sorted(store.y.tolist()) == sorted(want.values()) and report['unlabelled'] == 0 and store.meta.classes[3] == 'MA-52 class 3'

def test_only_one_part(raw):
    (raw/'MA52_val.pkl').unlink()
    assert prepare(raw)[0]['by_part'] == dict(train=12, test=2)

def test_list_and_pickle_differ(raw):
    path = raw/'train_list_videos.txt'; rows = path.read_text().splitlines()
    path.write_text('\n'.join([*rows[1:], '0009_00_0001.mp4 3']))
    why = {s['file']: s['why'] for s in prepare(raw)[0]['skipped']}
    assert why == {'0009_00_0001': 'in train_list_videos.txt, but not in MA52_train.pkl',
                   rows[0].split('.')[0]: 'in MA52_train.pkl, but not in train_list_videos.txt'}

@pytest.mark.parametrize('name', ['clip7', '1_00_0001', '0001_07_0001', '0001_00_0001_x', 'x0001_00_0001'])
def test_a_name_of_another_form_is_left_out(raw, name):
    def rename(d): d['annotations'][0]['frame_dir'] = d['split']['train'][0] = name
    change(raw/'MA52_train.pkl', rename)
    path = raw/'train_list_videos.txt'; rows = path.read_text().splitlines()
    path.write_text('\n'.join([f'{name}.mp4 {rows[0].split()[1]}', *rows[1:]]))
    report, store = prepare(raw)
    assert report['clips'] == 25 and [(s['file'], 'SSSS_EE_NNNN' in s['why']) for s in report['skipped']] == [(name, True)]

def test_a_clip_without_anybody(raw):
    change(raw/'MA52_val.pkl', lambda d: d['annotations'][2].update(keypoint_score=np.zeros((1, 5, 28), np.float32)))
    report, _ = prepare(raw)
    assert report['clips'] == 25 and 'nobody' in report['skipped'][0]['why']

def first(text): return lambda raw: (raw/'train_list_videos.txt').write_text(text)
def other_label(raw):
    rows = (raw/'train_list_videos.txt').read_text().splitlines(); name, y = rows[0].split()
    (raw/'train_list_videos.txt').write_text('\n'.join([f'{name} {(int(y)+1) % 52}', *rows[1:]]))
def in_both(raw):
    (raw/'MA52_val.pkl').write_bytes((raw/'MA52_train.pkl').read_bytes())
    change(raw/'MA52_val.pkl', lambda d: d['split'].update(val=d['split'].pop('train')))
    (raw/'val_list_videos.txt').unlink()
def twice(raw): (raw/'copy').mkdir(); (raw/'copy'/'MA52_train.pkl').write_bytes((raw/'MA52_train.pkl').read_bytes())
def wide(raw): change(raw/'MA52_train.pkl', lambda d: d['annotations'][1].update(label=52))
def nan(raw): change(raw/'MA52_train.pkl', lambda d: d['annotations'][1].update(keypoint=np.full((1, 5, 28, 2), np.nan, np.float32)))
def code(raw): (raw/'MA52_train.pkl').write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
def sizes(raw): change(raw/'MA52_val.pkl', lambda d: [a.update(img_shape=(720, 1280)) for a in d['annotations']])
def joints44(raw):
    for p in ('train', 'val', 'test'):
        change(raw/f'MA52_{p}.pkl', lambda d: [a.update(keypoint=np.ones((1, 5, 44, 2), np.float32)*9,
                                                        keypoint_score=np.ones((1, 5, 44), np.float32)) for a in d['annotations']])

@pytest.mark.parametrize('spoil, say', [
    (first('0001_01_0000.mp4 52\n'), 'train_list_videos.txt, row 1: label 52'), (first('0001_01_0000.mp4\n'), 'row 1'),
    (first('0001_01_0000.mp4 7\n0001_01_0000.mp4 7\n'), 'row 2: a second 0001_01_0000'), (first('0001_01_0000.mp4 -1\n'), "row 1: '0001"),
    (first(''), 'has no row'), (first('0001_01_0000.mp4 x\n'), 'row 1'), (other_label, '0001_01_0000 has label 8 in .*, 7 in'),
    (lambda raw: (raw/'train_list_videos.txt').write_bytes(b'\xff\xfe\x00'), 'cannot read.*train_list_videos.txt'),
    (in_both, 'is in train and in val'), (twice, 'MA52_train.pkl.*are both of train'), (wide, 'label 52'), (nan, 'NaN'),
    (code, 'MA52_train.pkl is refused.*os.system'), (sizes, 'MA52_val.pkl has 28 joints in .720, 1280.'),
    (joints44, '44 joints fit no layout'), (lambda raw: [p.unlink() for p in raw.glob('*.pkl')], 'no pickle of train or val'),
    (lambda raw: (raw/'label_name.txt').write_text('0\tx\n'), 'does not name the classes 0 to 51')])
def test_bad_files_are_refused_by_name(raw, spoil, say, monkeypatch):
    monkeypatch.chdir(raw.parent); spoil(raw)
    with pytest.raises(MgrError, match=say): prepare(raw)
    assert not (raw.parent/'store').exists() and not (raw.parent/'pwned').exists()

def test_44_joints_with_their_rows(raw):
    joints44(raw)
    rows = tuple(range(44))
    _, store = prepare(raw, layout='halpe136', rows=rows)
    assert store.layout.V == 136 == len(JOINTS['halpe136']) and not store.joints(0)[:, 44:].any() and store.joints(0)[:, :44].all()

def test_nowhere(tmp_path):
    with pytest.raises(MgrError, match='nowhere'): ma52.find_parts(tmp_path/'nowhere')

def test_resplit(tmp_path):
    ma52.write_example(tmp_path/'raw', people=10)
    _, store = prepare(tmp_path/'raw')
    split = ma52.resplit(store)
    people = {k: set(store.subjects[getattr(split, k)]) for k in ('source', 'val', 'target')}
    assert {k: len(v) for k, v in people.items()} == dict(source=6, val=1, target=3)
    every = np.sort(np.concatenate([split.source, split.val, split.target]))
    assert np.array_equal(every, np.flatnonzero(store.manifest['split'] != 'test'))   # both parts, never the test
    assert {frozenset(store.subjects[ma52.resplit(store, s).target]) for s in range(5)} != {frozenset(people['target'])}
    ma52.write_example(tmp_path/'two', people=2); ma52.prepare_ma52(tmp_path/'two', tmp_path/'small')
    with pytest.raises(MgrError, match='2 people cannot be split'): ma52.resplit(ClipStore(tmp_path/'small'))
