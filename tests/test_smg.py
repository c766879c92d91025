"The SMG reader, on made-up files in the publishers' columns."
import numpy as np
import pytest
from mgr_paper.core import MgrError
from mgr_paper.preprocessing import smg
from mgr_paper.preprocessing.layouts import layout
from mgr_paper.preprocessing.store import ClipStore

@pytest.fixture
def raw(tmp_path):
    "Four sequences, one of them a test person's."
    for n in (1, 2, 35, 36): smg.write_example(tmp_path/'raw', n)
    return tmp_path/'raw'

def part(raw, kind, n=1): return raw/f'Sample{n:04d}'/f'Sample{n:04d}_{kind}.csv'

def test_store(raw, tmp_path):
    report = smg.prepare_smg(raw, tmp_path/'store')
    store = ClipStore(tmp_path/'store')
    assert (report['sequences'], report['clips'], report['by_split']) == (4, 8, dict(train=6, test=2)) and report['skipped'] == []
    assert store.meta.layout == 'kinect25' and store.K == 17 and store.meta.video_kind == 'none' and not store.meta.simulated
    assert (store.meta.height, store.meta.width, store.meta.fps) == (1080, 1920, 28)
    assert dict(zip(store.clip_ids, store.subjects))['Sample0035_1'] == 's35' and len(set(store.videos)) == 4

def test_numbers_land_where_they_belong(raw, tmp_path):
    "Each column by hand: joint 7, frame 5."
    path = part(raw, 'skeleton'); table = np.loadtxt(path, delimiter=',')
    table[5, 7*11:8*11] = 1, 2, 3, 9, 9, 9, 9, 700, 500, 77, 78
    np.savetxt(path, table, '%.4f', ',')
    joints, room = smg.read_skeleton(path)
    assert layout('kinect25').joints[7] == 'LHand'
    assert joints[5, 7].tolist() == [700, 500, 1] and room[5, 7].tolist() == [1, 2, 3, 1]
    smg.prepare_smg(raw, tmp_path/'store')
    assert ClipStore(tmp_path/'store').joints(0)[0, 7].tolist() == [700, 500, 1]          # its clip starts at frame 5

def test_the_end_is_not_part_of_the_clip(raw, tmp_path):
    part(raw, 'finelabels').write_text('1,5,6\n2,0,40\n')
    smg.prepare_smg(raw, tmp_path/'store'); store = ClipStore(tmp_path/'store')
    assert store.lengths()[:2].tolist() == [1, 40] and store.y[:2].tolist() == [0, 1]

def test_labels_one_to_seventeen(raw, tmp_path):
    part(raw, 'finelabels').write_text(''.join(f'{k},0,9\n' for k in range(1, 18)))
    smg.prepare_smg(raw, tmp_path/'store')
    assert ClipStore(tmp_path/'store').y[:17].tolist() == list(range(17))

@pytest.mark.parametrize('value', [0, np.nan, -np.inf])
def test_what_the_sensor_did_not_see_is_missing(raw, value):
    path = part(raw, 'skeleton'); table = np.loadtxt(path, delimiter=',')
    table[3, 11:14] = value; table[4, 11+7:11+9] = value; table[6, 11] = 0                # joint 1: room, pixels, one zero only
    np.savetxt(path, table, '%.4f', ',')
    joints, room = smg.read_skeleton(path)
    for a in (joints, room): assert not a[[3, 4], 1].any() and a[6, 1, -1] == 1 and a[5, 1, -1] == 1

def columns(n):
    def write(raw):
        table = np.loadtxt(part(raw, 'skeleton'), delimiter=',')
        np.savetxt(part(raw, 'skeleton'), np.tile(table, 2)[:, :n], '%.4f', ',')
    return write

def cut(raw): part(raw, 'skeleton').write_bytes(part(raw, 'skeleton').read_bytes()[:-600])
def words(raw): part(raw, 'skeleton').write_text(','.join(['x']*275)+'\n')
def empty(raw): part(raw, 'skeleton').write_text('')
def labels(text): return lambda raw: part(raw, 'finelabels').write_text(text)
def data(text): return lambda raw: part(raw, 'data').write_text(text)
def bytes_(raw): part(raw, 'finelabels').write_bytes(b'\xff\xfe1,2,3')
def names(raw): (raw/'label_name.txt').write_text('0\ta\n1\tb\n')
def latin(raw): (raw/'label_name.txt').write_bytes('0\tgeste tr\xe8s petit\n'.encode('latin-1'))

@pytest.mark.parametrize('spoil, say', [
    (columns(274), 'Sample0001_skeleton.csv, row 1 has 274 columns.*275'), (columns(276), 'row 1 has 276 columns'),
    (cut, r'Sample0001_skeleton.csv, row 40 has \d+ columns'), (words, 'cannot read.*Sample0001_skeleton.csv'),
    (empty, 'Sample0001_skeleton.csv is empty'), (labels('1,2,9\n18,2,9\n'), 'Sample0001_finelabels.csv, row 2: label 18'),
    (labels('0,2,9\n'), 'label 0'), (labels('1,2\n'), 'row 1 has 2 numbers'), (labels('1,2,x\n'), "row 1: '1,2,x'"),
    (labels('1.5,2,9\n'), 'whole numbers'), (bytes_, 'cannot read.*Sample0001_finelabels.csv'),
    (data(''), 'Sample0001_data.csv gives no frame rate'), (data('40,0,8000\n'), 'no frame rate'), (data('40,28\n'), '2 numbers'),
    (names, 'label_name.txt does not name the classes 0 to 16'), (latin, 'label_name.txt is not in UTF-8')])
def test_bad_files_are_refused_by_name(raw, tmp_path, spoil, say):
    spoil(raw)
    with pytest.raises(MgrError, match=say): smg.prepare_smg(raw, tmp_path/'store')
    assert not (tmp_path/'store').exists()

@pytest.mark.parametrize('row, why', [('3,30,41', 'ends at 41 in a sequence of 40 frames'), ('3,9,9', 'no frame'), ('3,9,5', 'no frame'),
                                      ('3,-1,5', 'before the first')])
def test_a_clip_that_leaves_its_sequence_is_left_out_and_listed(raw, tmp_path, row, why):
    part(raw, 'finelabels').write_text(f'1,0,9\n{row}\n2,9,40\n')
    report = smg.prepare_smg(raw, tmp_path/'store')
    assert [(s['file'], why in s['why'], row in s['why']) for s in report['skipped']] == [('Sample0001_finelabels.csv', True, True)]
    assert ClipStore(tmp_path/'store').clip_ids[:2].tolist() == ['Sample0001_0', 'Sample0001_2']      # row numbers stay

def test_a_clip_without_anybody(raw, tmp_path):
    table = np.loadtxt(part(raw, 'skeleton'), delimiter=','); table[5:15] = 0
    np.savetxt(part(raw, 'skeleton'), table, '%.4f', ',')
    assert 'row 1: no joint' in smg.prepare_smg(raw, tmp_path/'store')['skipped'][0]['why']

def test_left_out_and_why(raw, tmp_path):
    part(raw, 'finelabels', 2).unlink()
    (raw/'Sample1_skeleton.csv').touch(); (raw/'Sample0000_skeleton.csv').touch(); (raw/'notes.txt').touch()
    smg.write_example(raw/'more', 36)
    samples, left = smg.find_samples(raw)
    why = {row['file'].rpartition('/')[2]: row['why'] for row in left}
    assert [s.number for s in samples] == [1, 35, 36] and len(left) == 4
    assert 'Sample0002_finelabels.csv' in why['Sample0002_skeleton.csv'] and 'name' in why['Sample1_skeleton.csv']
    assert 'not in 1 to 40' in why['Sample0000_skeleton.csv'] and 'second' in why['Sample0036_skeleton.csv']

def test_nothing_there(tmp_path):
    with pytest.raises(MgrError, match='nowhere'): smg.find_samples(tmp_path/'nowhere')
    (tmp_path/'Sample0041_skeleton.csv').touch()
    with pytest.raises(MgrError, match='no complete sequence.*Sample0041_skeleton.csv'): smg.find_samples(tmp_path)

def test_other_numbers_of_frames_are_noted(raw, tmp_path):
    part(raw, 'data').write_text('44,28,8000\n')
    assert '40 rows, Sample0001_data.csv says 44' in smg.prepare_smg(raw, tmp_path/'store')['notes'][0]['why']

def test_picture_and_unit_are_found_out(tmp_path):
    smg.write_example(tmp_path/'raw', 1, size=(424, 512)); smg.write_example(tmp_path/'raw', 36, size=(424, 512))
    path = part(tmp_path/'raw', 'skeleton'); table = np.loadtxt(path, delimiter=',')
    x = table.reshape(-1, 25, 11); x[..., :3] *= 1000
    np.savetxt(path, table, '%.4f', ',')
    report = smg.prepare_smg(tmp_path/'raw', tmp_path/'store')
    assert report['size'] == (424, 512) and report['size_found'] and report['units'] == dict(millimetres=1, metres=1)
    store = ClipStore(tmp_path/'store')
    assert np.allclose(store.joints3d(0), store.joints3d(2), atol=1e-3)
    report = smg.prepare_smg(tmp_path/'raw', tmp_path/'store', size=(100, 200))
    assert report['outside'] > .5 and not report['size_found']

def test_protocol(raw, tmp_path):
    smg.prepare_smg(raw, tmp_path/'store'); store = ClipStore(tmp_path/'store')
    split = smg.protocol(store)
    assert set(store.subjects[split.source]) == {'s01', 's02', 's35'} and set(store.subjects[split.target]) == {'s36'} and not len(split.val)
    a, b = (smg.protocol(store, val=2, seed=s) for s in (0, 0))
    assert np.array_equal(a.val, b.val) and len(set(store.subjects[a.val])) == 2
    with pytest.raises(MgrError, match='val=3 of 3 people'): smg.protocol(store, val=3)
    with pytest.raises(MgrError, match='val=-1'): smg.protocol(store, val=-1)
