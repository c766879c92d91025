"The simulated tree: what the real reader makes of it is what there is without files."
import numpy as np, pytest
from mgr_paper.config import SynthConfig
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.frames import count_frames
from mgr_paper.preprocessing.imigue import TRAIN_PEOPLE, find_videos, read_hand_csv, read_labels, read_sheet, read_subjects
from mgr_paper.preprocessing.imigue_clips import Crop, prepare_imigue
from mgr_paper.preprocessing.imigue_splits import protocol
from mgr_paper.preprocessing.layouts import convert
from mgr_paper.preprocessing.simulate import memory_clips, people_numbers, recordings, simulate, write_recording
from mgr_paper.preprocessing.store import UNKNOWN, ClipStore
from mgr_paper.preprocessing.synth import plan

ASKED = dict(clips=(64, 64, 64), subjects=(3, 1, 2), seed=3)
CFG = SynthConfig(seed=3, people=(3, 1, 2), clips=(64, 64, 0, 64))

@pytest.fixture(scope='module')
def tree(tmp_path_factory): root = tmp_path_factory.mktemp('sim')/'tree'; return root, simulate(root, **ASKED, jobs=1)

def test_the_reader_makes_the_same_clips(tree, tmp_path):
    root, said = tree
    report = prepare_imigue(root, tmp_path/'s', root/'subjects.csv', size=40, stride=5, packing='raw'); s = ClipStore(tmp_path/'s')
    assert report['skipped'] == [] and report['notes'] == [] and s.n == said['clips'] == 192 and report['parts'] == dict(train=64, val=64, test=64)
    for n, c in enumerate(memory_clips(CFG, Crop(size=40, stride=5))):
        assert (s.clip_ids[n], s.videos[n], s.subjects[n], s.y[n], s.manifest['split'][n]) == (c.clip_id, c.video_id, c.subject_id, c.y, c.split)
        assert (s.joints(n) == c.joints).all() and s.joints(n).dtype == c.joints.dtype and (s.video(n) == c.video).all()
    assert n == 191 and (s.meta.height, s.meta.width, s.meta.fps, s.meta.simulated) == (180, 320, 25., True) and report['simulated']
    assert (s.y[protocol(s, 'official').target] == UNKNOWN).all() and report['unlabelled'] == 64
    p = protocol(s, 'subjects'); assert set(s.subjects[p.source]) <= set(map(str, TRAIN_PEOPLE)) and set(s.manifest['split'][p.target]) == {'val'}

def test_joints_alone_are_the_same_too(tree, tmp_path):
    root, _ = tree
    prepare_imigue(root, tmp_path/'s', crop='none', layout='halpe68'); s = ClipStore(tmp_path/'s')
    for n, c in enumerate(memory_clips(CFG, Crop('none'))): assert (s.joints(n) == convert(c.joints, 'openpose137', 'halpe68')).all()

def test_the_tree_is_that_of_the_release(tree):
    root, said = tree
    report = {}; videos = find_videos(root, report)
    assert [v.video_id for v in videos] == [f'{k:04d}' for k in range(1, said['videos']+1)] and report['skipped'] == []
    assert {n for n, ok in report['tried'] if ok} == {'imigue_data_phase1/datasets/imigue_skeleton_train', 'imigue_data_phase1/datasets/imigue_skeleton_validate',
        'imigue_data_phase2/imigue_skeleton_test', 'imigue_rgb_phase1/train_data', 'imigue_rgb_phase1/validation_data', 'imigue_rgb_phase2/.'}
    for v in videos[::4]:
        sheet = read_sheet(v.skeleton); notes = []
        assert len(sheet) == count_frames(v.video) and (read_hand_csv(v.hand, notes) == convert(sheet, 'openpose137', 'light35')).all()
        assert bool(notes) == bool(int(v.video_id) % 2) and len(v.hand.read_text().splitlines()[0].split(',')) == 106
        assert max(e for *_, e in read_labels(v.labels, len(sheet), hidden=v.part == 'test')) < len(sheet)
        if v.part == 'test': assert {line.split(',')[0] for line in v.labels.read_text().split()} == {'0'}
    assert any(line.startswith('99,') for v in videos if v.part == 'train' for line in v.labels.read_text().split())

def test_truth_and_list_of_the_test_part(tree):
    root, _ = tree
    truth = [line.split(',') for line in (root/'truth.csv').read_text().split()]; ids = (root/'test_ids.csv').read_text().split()
    assert truth[0] == ['Id', 'Target'] and [i for i, _ in truth] == ids and len(ids) == 65
    ys = {f'{r.video_id}_{k}': plan(CFG)[i].y for r in recordings(CFG) if r.part == 'test' for k, i in enumerate(r.clips)}
    assert {i: int(y) for i, y in truth[1:]} == ys and set(ys.values()) == set(range(32))

def test_people(tree):
    root, said = tree
    who = read_subjects(root/'subjects.csv'); parts = {v.video_id: v.part for v in find_videos(root)}
    assert len(who) == said['videos'] and {int(who[v]) in TRAIN_PEOPLE for v in who if parts[v] == 'train'} == {True}
    assert not {who[v] for v in who if parts[v] == 'train'} & {who[v] for v in who if parts[v] != 'train'}
    with pytest.raises(MgrError, match='at most 37 in train, 35 in val and test'): people_numbers(SynthConfig(people=(3, 20, 16)))

def test_same_seed_same_bytes_another_seed_others(tree, tmp_path):
    root, _ = tree
    rec = recordings(CFG)[0]; write_recording(tmp_path/'a', CFG, True, rec)
    for p in (tmp_path/'a').rglob('*.*'): assert p.read_bytes() == (root/p.relative_to(tmp_path/'a')).read_bytes(), p.name
    assert recordings(SynthConfig(seed=4, people=(3, 1, 2), clips=(64, 64, 0, 64)))[0].starts != rec.starts

def test_skeletons_alone_in_two_processes(tmp_path):
    said = simulate(tmp_path/'t', clips=(64, 0, 0), subjects=(2, 1, 1), seed=3, pictures=False, jobs=2)
    assert said['clips'] == 64 and not list((tmp_path/'t').rglob('*.mp4'))
    report = prepare_imigue(tmp_path/'t', tmp_path/'s'); assert report['size_from'] == 'inferred from the joints' and (report['height'], report['width']) == (180, 320)

def test_refused(tmp_path):
    (tmp_path/'full').mkdir(); (tmp_path/'full'/'x').touch()
    with pytest.raises(MgrError, match='is not empty'): simulate(tmp_path/'full', **ASKED)
    with pytest.raises(MgrError, match='cannot hold 32 classes'): simulate(tmp_path/'t', clips=(10, 0, 0))
    assert [p.name for p in tmp_path.iterdir()] == ['full']
