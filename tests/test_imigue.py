"The files of the iMiGUE release: which are found, what is read from them, and each fault with its message."
import io, os, re, zipfile
import numpy as np, pytest
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.imigue import (CLASSES, PARTS, TRAIN_PEOPLE, files_of, find_videos, folders, read_hand_csv,
                                            read_labels, read_sheet, read_subjects, read_table, read_text, write_sheet)
from mgr_paper.preprocessing.layouts import layout

def points(T=6, V=137, seed=0):
    x = np.random.default_rng(seed).uniform(.05, 1, (T, V, 3)).astype('float32')*np.float32([1280, 720, 1])
    x[1, 3] = 0
    return x
def touch(root, *names):
    for n in names: (root/n).parent.mkdir(parents=True, exist_ok=True); (root/n).touch()
    return root
P1, P2 = 'imigue_data_phase1/datasets/imigue_skeleton_', 'imigue_data_phase2/imigue_skeleton_test'

# ---- finding files
def test_the_release_as_it_is_handed_out(tmp_path):
    touch(tmp_path, f'{P1}train/0001/0001_openpose.xlsx', f'{P1}train/0001/0001_light_hand.csv', f'{P1}train/0001/0001_light.csv', f'{P1}train/0001/0001_label.csv',
          f'{P1}validate/0002/0002_openpose.xlsx', f'{P2}/0003/0003_openpose.xlsx', 'imigue_rgb_phase1/train_data/0001/0001.mp4',
          'imigue_rgb_phase1/validation_data/0002/0002.mp4', 'imigue_rgb_phase2/0003/0003.mp4')
    report = {}; got = find_videos(tmp_path, report)
    assert [(v.video_id, v.part, bool(v.skeleton), bool(v.video)) for v in got] == [('0001', 'train', True, True), ('0002', 'val', True, True), ('0003', 'test', True, True)]
    assert got[0].hand.name == '0001_light_hand.csv' and got[0].labels.name == '0001_label.csv' and report['skipped'] == []

@pytest.mark.parametrize('part', PARTS)
def test_every_candidate_folder_works_and_is_tried_in_order(tmp_path, part):
    for i, (kind, end) in enumerate((('skeleton', '_openpose.xlsx'), ('rgb', '.mp4'))):
        for j, name in enumerate(folders(part)[kind]):
            root = touch(tmp_path/f'{i}{j}', f'{name}/0001/0001{end}')
            report = {}; (video,) = find_videos(root, report)
            assert (video.video_id, video.part) == ('0001', part)
            assert (name, True) in report['tried'] and all((n, False) in report['tried'] for n in folders(part)[kind][:j])
            assert (video.skeleton if kind == 'skeleton' else video.video) == root.resolve()/name/'0001'/f'0001{end}'

def test_repacked_clips(tmp_path):
    d = 'imigue_rgb_phase1/train_data/0001'
    touch(tmp_path, f'{d}/0001_label.csv', f'{d}/0001_10.mp4', f'{d}/0001_2.mp4')
    (v,) = find_videos(tmp_path)
    assert [k for k, _ in v.clips] == [2, 10] and v.video is None and v.labels.name == '0001_label.csv'

def test_odd_names_and_second_files_are_listed(tmp_path):
    touch(tmp_path, f'{P1}train/0001/0001_openpose.xlsx', f'{P1}train/0001/0002_openpose.xlsx', f'{P1}train/0001/notes.txt', f'{P1}train/0001/.DS_Store',
          f'{P1}train/0001/0001.mp4', f'{P1}train/0001/0001.avi', f'{P1}train/__MACOSX/0001/x')
    report = {}; find_videos(tmp_path, report)
    assert {r['file'].rsplit('/', 1)[1]: r['why'] for r in report['skipped']} == {
        '0002_openpose.xlsx': 'its name is none of those the release has', 'notes.txt': 'its name is none of those the release has', '0001.mp4': 'a second video file'}

def test_a_video_in_two_parts(tmp_path):
    touch(tmp_path, f'{P1}train/0001/0001_openpose.xlsx', f'{P2}/0001/0001_openpose.xlsx')
    report = {}; (v,) = find_videos(tmp_path, report)
    assert v.part == 'train' and report['skipped'] == [dict(file=f'{P2}/0001', why='video 0001 is in train already')]

def test_path_that_leaves_the_root(tmp_path):
    out = touch(tmp_path/'elsewhere', '0002/0002_openpose.xlsx', '0001_openpose.xlsx')
    root = touch(tmp_path/'root', f'{P1}train/0001/0001_label.csv')
    os.symlink(out/'0001_openpose.xlsx', root/f'{P1}train/0001/0001_openpose.xlsx'); os.symlink(out/'0002', root/f'{P1}train/0002')
    report = {}; (v,) = find_videos(root, report)
    assert v.video_id == '0001' and v.skeleton is None
    assert sorted((r['file'], r['why']) for r in report['skipped']) == [(f'{P1}train/0001/0001_openpose.xlsx', 'the link leads out of the root'), (f'{P1}train/0002', 'the link leads out of the root')]
    os.symlink(root, tmp_path/'link'); assert find_videos(tmp_path/'link') == [v]      # the root itself may be a link

def test_nothing_there(tmp_path):
    with pytest.raises(MgrError, match='no iMiGUE video in .*looked for folders with four-digit names in: .*imigue_skeleton_train'): find_videos(tmp_path)
    with pytest.raises(MgrError, match='no folder'): find_videos(tmp_path/'none')

# ---- sheets
def test_sheet_comes_back_to_the_last_bit(tmp_path):
    x = points(); write_sheet(tmp_path/'a.xlsx', x.reshape(6, -1))
    assert (read_sheet(tmp_path/'a.xlsx') == x).all() and read_sheet(tmp_path/'a.xlsx').dtype == np.float32
    write_sheet(tmp_path/'b.xlsx', x.reshape(6, -1)); assert (tmp_path/'a.xlsx').read_bytes() == (tmp_path/'b.xlsx').read_bytes()
    write_sheet(tmp_path/'one.xlsx', x[:1].reshape(1, -1)); assert read_sheet(tmp_path/'one.xlsx').shape == (1, 137, 3)

def test_another_reader_agrees(tmp_path):
    openpyxl = pytest.importorskip('openpyxl')
    x = points(3); write_sheet(tmp_path/'a.xlsx', x.reshape(3, -1))
    rows = list(openpyxl.load_workbook(tmp_path/'a.xlsx').active.iter_rows(values_only=True))
    assert (np.array(rows, 'float32') == x.reshape(3, -1)).all()
    book = openpyxl.Workbook(); book.active.append([f'c{i}' for i in range(411)])            # and it may have a header
    for r in x.reshape(3, -1): book.active.append(r.astype(float).tolist())
    book.save(tmp_path/'b.xlsx'); assert (read_sheet(tmp_path/'b.xlsx') == x).all()
    book.active.cell(3, 7).value = 'x'; book.save(tmp_path/'c.xlsx')
    with pytest.raises(MgrError, match="c.xlsx: row 3, column 7 is 'x', no number"): read_sheet(tmp_path/'c.xlsx')
    book.active.cell(3, 7).value = None; book.save(tmp_path/'d.xlsx')
    with pytest.raises(MgrError, match="d.xlsx: row 3, column 7 is '', no number"): read_sheet(tmp_path/'d.xlsx')
    openpyxl.Workbook().save(tmp_path/'e.xlsx')
    with pytest.raises(MgrError, match='e.xlsx has no row'): read_sheet(tmp_path/'e.xlsx')

def test_numbered_header_of_a_sheet(tmp_path):
    x = points(3); write_sheet(tmp_path/'a.xlsx', np.concatenate([np.arange(411)[None], x.reshape(3, -1)]))
    assert (read_sheet(tmp_path/'a.xlsx') == x).all()

@pytest.mark.parametrize('n', [410, 412])
def test_sheet_of_410_columns(tmp_path, n):
    write_sheet(tmp_path/'a.xlsx', np.ones((2, n)))
    with pytest.raises(MgrError, match=f'a.xlsx has {n} columns, not 411'): read_sheet(tmp_path/'a.xlsx')

def test_scores_are_clipped_and_missing_is_zero(tmp_path):
    x = points(2); x[0, 0, 2], x[0, 1] = 1.04, (5, 5, 0)
    write_sheet(tmp_path/'a.xlsx', x.reshape(2, -1)); y = read_sheet(tmp_path/'a.xlsx')
    assert y[0, 0, 2] == 1 and (y[0, 1] == 0).all() and (y[1] == x[1]).all()

def test_not_a_sheet(tmp_path):
    (tmp_path/'a.xlsx').write_bytes(b'PK\x03\x04 cut off')
    for name in ('a.xlsx', 'none.xlsx'):
        with pytest.raises(MgrError, match=f'{name} is no sheet that can be read'): read_sheet(tmp_path/name)

# ---- tables
def hand(tmp_path, head='', x=None, first=0, sep=',', encoding='utf-8', name='h.csv'):
    x = points(5, 35) if x is None else x
    table = np.concatenate([np.arange(first, first+len(x))[:, None], x.reshape(len(x), -1)], 1)
    (tmp_path/name).write_bytes((head+'\n'.join(sep.join(map(repr, r)) for r in table.tolist())+'\n').encode(encoding))
    return tmp_path/name

@pytest.mark.parametrize('head', ['', ','.join(map(str, range(106)))+'\n', 'frame'+',x'*105+'\n', '"Bild Nr. \u00e4"'+',x'*105+'\n'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'latin-1'])
def test_hand_table_with_and_without_header_in_any_encoding(tmp_path, head, encoding):
    notes = []; got = read_hand_csv(hand(tmp_path, head, encoding=encoding), notes)
    assert (got == points(5, 35)).all() and got.shape == (5, 35, 3)
    said = [n['why'] for n in notes]
    assert ('the first row is a header' in said) == bool(head)
    assert ('read as utf-16' in said) == (encoding == 'utf-16') and ('read as latin-1' in said) == (encoding == 'latin-1' and 'ä' in head)

def test_semicolons_and_frames_from_one(tmp_path): assert (read_hand_csv(hand(tmp_path, sep=';', first=1)) == points(5, 35)).all()

def test_first_frame_with_small_numbers_is_no_header(tmp_path):
    x = points(3, 35); x[0] = 0
    assert len(read_hand_csv(hand(tmp_path, x=x))) == 3

@pytest.mark.parametrize('text,message', [
    ('', 'has no row'), ('a,b\n', 'has no row'), ('1,2\n3,4\n', 'has 2 columns, not 3'), ('1,2,3\n4,5\n', 'columns changed from 3 to 2'), ('1,2,3\n4,x,6\n', "'x'"), ('1,2,3\n4,,6\n', "''")])
def test_bad_table(tmp_path, text, message):
    (tmp_path/'t.csv').write_text(text)
    with pytest.raises(MgrError, match='t.csv.*'+re.escape(message)): read_table(tmp_path/'t.csv', 3)

def test_gap_in_frames(tmp_path):
    p = hand(tmp_path); p.write_text(p.read_text().replace('\n3.0,', '\n7.0,'))
    with pytest.raises(MgrError, match='frame 2 is followed by 7'): read_hand_csv(p)

def test_unmarked_utf16_is_refused(tmp_path):
    (tmp_path/'t.csv').write_bytes('1,2,3\n'.encode('utf-16-le'))
    with pytest.raises(MgrError, match='no text in UTF-8'): read_text(tmp_path/'t.csv')
    with pytest.raises(MgrError, match='cannot read'): read_text(tmp_path/'none.csv')

@pytest.mark.parametrize('value', ['nan', 'inf'])
def test_no_finite_number(tmp_path, value):
    p = hand(tmp_path); p.write_text(re.sub(r'\n1\.0,[^,]*,', f'\n1.0,{value},', p.read_text()))
    with pytest.raises(MgrError, match='row 2, column 1 is no finite number'): read_hand_csv(p)

# ---- labels
def labels(tmp_path, text, **kw): (tmp_path/'l.csv').write_text(text); return read_labels(tmp_path/'l.csv', **kw)

def test_label_rule(tmp_path):
    text = ''.join(f'{c},{c},{c+3}\n' for c in range(1, 32))+'99,7,7\n'
    got = labels(tmp_path, text, n_frames=40)
    assert [y for y, *_ in got] == list(range(32)) and got[-1] == (31, 7, 7) and got[0] == (0, 1, 4)
    assert CLASSES[31] == 'illustrative' and CLASSES[0] == 'turtle neck' and CLASSES[30] == 'shake shoulder' and len(CLASSES) == 32
    assert labels(tmp_path, '5,1,2\n3,0,1\n') == [(4, 1, 2), (2, 0, 1)]                        # never sorted: the row number is the clip's name
    assert labels(tmp_path, 'class,start,end\n5,1,2\n') == [(4, 1, 2)] and labels(tmp_path, '5.0,1.0,2.0\n') == [(4, 1, 2)]

@pytest.mark.parametrize('text,message', [
    ('1,0,4\n32,0,4\n', 'row 2 has class 32'), ('0,0,4\n', 'row 1 has class 0'), ('-1,0,4\n', 'row 1 has class -1'), ('100,0,4\n', 'row 1 has class 100'),
    ('1,0,10\n', 'row 1 ends at frame 10, the last of the video is 9'), ('1,5,4\n', 'row 1 goes from frame 5 to 4'), ('1,-1,4\n', 'row 1 goes from frame -1 to 4'),
    ('1,0.5,4\n', 'row 1 is no row of whole numbers'), ('1,0,nan\n', 'row 1 is no row of whole numbers'), ('1,0\n', 'has 2 columns, not 3')])
def test_bad_labels(tmp_path, text, message):
    with pytest.raises(MgrError, match=f'l.csv.*{re.escape(message)}'): labels(tmp_path, text, n_frames=10)

def test_placeholders_of_the_test_part(tmp_path):
    assert labels(tmp_path, '0,0,4\n77,1,1\n', hidden=True) == [(0, 0, 4), (0, 1, 1)]

# ---- people
def who(tmp_path, text, encoding='utf-8'): (tmp_path/'w.csv').write_bytes(text.encode(encoding)); return read_subjects(tmp_path/'w.csv')

def test_people(tmp_path):
    assert who(tmp_path, 'video_id,subject_id\n1,12\n"0453",Zoë\n', 'latin-1') == {'0001': '12', '0453': 'Zoë'} == who(tmp_path, '0001;12\n0453;Zoë\n\n', 'utf-16')
    assert len(set(TRAIN_PEOPLE)) == 37 and all(1 <= p <= 72 for p in TRAIN_PEOPLE)

@pytest.mark.parametrize('text,message', [
    ('../0001,1\n', "'../0001'"), ('0001/..,1\n', "'0001/..'"), ('00001,1\n', "'00001'"), ('0001,1\n1,2\n', 'video 0001 has people 1 and 2'), ('0001\n', 'line 1 is not'),
    ('0001,\n', 'line 1 is not'), ('video,person\n', 'names no video'), ('', 'names no video')])
def test_bad_people(tmp_path, text, message):
    with pytest.raises(MgrError, match='w.csv.*'+re.escape(message)): who(tmp_path, text)


def test_layouts_of_the_files():
    "137 points and 35 of them; the same names in both."
    assert layout('openpose137').V*3 == 411 and layout('light35').V*3+1 == 106 and set(layout('light35').joints) <= set(layout('openpose137').joints)


@pytest.mark.parametrize('text', ['8,0,9x\n9,1,2\n', '8,,9\n9,1,2\n', '"8",0,9\n'])
def test_a_faulty_first_row_is_no_header(tmp_path, text):
    "If it were dropped, every clip after it would get another's name."
    (tmp_path/'0001_label.csv').write_text(text)
    with pytest.raises(MgrError, match='0001_label.csv'): read_labels(tmp_path/'0001_label.csv')

def test_rows_that_look_like_counting_are_rows(tmp_path):
    (tmp_path/'0001_label.csv').write_text('0,1,2\n0,3,4\n')
    assert read_labels(tmp_path/'0001_label.csv', hidden=True) == [(0, 1, 2), (0, 3, 4)]

def test_an_empty_row_between_others(tmp_path):
    (tmp_path/'0001_label.csv').write_text('1,1,2\n,,\n2,3,4\n\n')
    with pytest.raises(MgrError, match='line 2 is empty'): read_labels(tmp_path/'0001_label.csv')

# ---- the check of a sheet before it is read
def far_sheet(tmp_path, old, new):
    "A sheet of 20 rows in whose XML one place is written otherwise."
    write_sheet(tmp_path/'a.xlsx', points(20).reshape(20, -1)); out = io.BytesIO()
    with zipfile.ZipFile(tmp_path/'a.xlsx') as z, zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as w:
        for i in z.infolist():
            text = z.read(i)
            if 'sheet1' in i.filename: assert text.count(old) == 1; text = text.replace(old, new)
            w.writestr(i, text)
    (tmp_path/'b.xlsx').write_bytes(out.getvalue()); return tmp_path/'b.xlsx'

@pytest.mark.parametrize('new,said', [(b'r="A1048576"', 'a cell in row 1048576 of'), (b'r="A1000"', 'a cell in row 1000 of'), (b'r="A99999999999"', 'a cell in row 999999999 of'),
                                      (b'r="AAA20"', 'a cell in AAA20'), *((b'r'+a+b'="A20"', 'places of cells are written as') for a in (b' ', b'\t', b'\n', b'\r')),
                                      *((b'r='+a+b'"A20"', 'places of cells are written as') for a in (b' ', b'\t', b'\n', b'\r')), (b"r='A20'", 'places of cells are written as')])
def test_cells_far_apart_are_refused_however_written(tmp_path, new, said):
    with pytest.raises(MgrError, match=said): read_sheet(far_sheet(tmp_path, b'r="A20"', new))
