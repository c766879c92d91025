"The simulated benchmark: same seed, same clips; people apart; joints and pictures of one motion."
from dataclasses import replace
import json
import numpy as np
import pytest
from mgr_paper.config import SynthConfig
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.layouts import layout
from mgr_paper.preprocessing.store import ClipStore
from mgr_paper.preprocessing.synth import CLASSES, COUNTS, K, plan, protocol, scaled_counts
from mgr_paper.preprocessing.synth_moves import MOVES
from mgr_paper.preprocessing.synth_motion import HEIGHT, WIDTH, estimate, motion
from mgr_paper.preprocessing.synth_video import SCALE, H, W, draw, look, make_clip, prepare_synth

CFG = SynthConfig()
TINY = replace(CFG, people=(2, 1, 1), clips=(64, 0, 0, 64), size=16)
PICK = range(0, len(plan(CFG)), 83)
RAISED = [i for i, p in enumerate(plan(CFG)) if MOVES[CLASSES[p.y]].goal == 'air'][:12]

@pytest.fixture(scope='module')
def stores(tmp_path_factory):
    root = tmp_path_factory.mktemp('synth')
    for name, jobs in (('one', 1), ('two', 2)): prepare_synth(root/name, TINY, jobs=jobs)
    return root/'one', root/'two'

def test_histogram_is_the_published_one():
    assert sum(COUNTS.values()) == 13670 and K == 32
    counts = np.array(list(COUNTS.values()))
    assert (scaled_counts(13670) == counts).all()  # nothing to round: nothing changes
    assert (scaled_counts(64) == 2).all()
    for n in (128, 220, 1000, 5000):
        got = scaled_counts(n)
        assert got.sum() == n and got.min() >= 2
        free = got > 2  # classes above the floor keep their proportions to less than one clip
        share = counts[free]/counts[free].sum()*got[free].sum()
        assert abs(got[free]-share).max() < 1 + 1e-9
    with pytest.raises(MgrError, match='63'): scaled_counts(63)

def test_plan_has_that_histogram_in_every_part_and_keeps_people_apart():
    rows = plan(CFG)
    parts = {s: [r for r in rows if r.split == s] for s in ('train', 'val', 'seen', 'test')}
    for s, n in zip(('train', 'val', 'seen', 'test'), CFG.clips):
        assert (np.bincount([r.y for r in parts[s]], minlength=K) == scaled_counts(n)).all()
    people = {s: {r.subject for r in p} for s, p in parts.items()}
    videos = {s: {r.video for r in p} for s, p in parts.items()}
    assert not people['train'] & people['val'] and not (people['train'] | people['val']) & people['test']
    assert people['seen'] <= people['train'] and not videos['seen'] & videos['train']
    assert len(people['test']) >= 10 and len(parts['test']) >= 500

def test_a_clip_depends_on_its_number_only():
    last, first = make_clip(TINY, 100), make_clip(TINY, 3)
    again = make_clip(TINY, 3)  # after other clips
    assert (first.joints == again.joints).all() and (first.video == again.video).all()
    assert first.joints.shape != last.joints.shape or (first.joints != last.joints).any()
    other = make_clip(replace(TINY, seed=1), 3)
    assert other.joints.shape != first.joints.shape or (other.joints != first.joints).any()

def test_stores_are_bit_identical_for_any_number_of_processes(stores):
    one, two = (json.loads((p/'store.json').read_text()) for p in stores)
    assert one['fingerprint'] == two['fingerprint'] and one['arrays'] == two['arrays']
    for name in ('joints.npy', 'video.npy'):
        assert (stores[0]/name).read_bytes() == (stores[1]/name).read_bytes()

def test_protocol_reads_the_parts(stores):
    store = ClipStore(stores[0])
    split = protocol(store)
    assert len(split.source) == 64 and len(split.target) == 64 and len(split.val) == 0
    assert not set(store.subjects[split.source]) & set(store.subjects[split.target])

def test_joints_are_a_valid_openpose_skeleton():
    L = layout('openpose137')
    for i in PICK:
        J = estimate(CFG, i, motion(CFG, i))
        assert J.shape[1:] == (137, 3) and J.dtype == np.float32 and 24 <= len(J) <= 64 and np.isfinite(J).all()
        gone = J[..., 2] == 0
        assert (J[gone] == 0).all() and gone.any() and not gone.all()
        x, y, c = J[~gone].T
        assert x.min() >= 0 and x.max() < WIDTH and y.min() >= 0 and y.max() < HEIGHT and 0 < c.min() <= c.max() < 1
        assert gone[:, [11, 14, 19, 20, 21, 22, 23, 24]].mean() > .95  # feet of a seated person are out of the picture
        assert gone[:, :8].mean() < .3
    assert {len(L.joints), L.V} == {137}

def test_hands_hang_on_their_own_wrists():
    for i in PICK:
        xy = motion(CFG, i).xy
        assert (xy[:, 7] == xy[:, 95]).all() and (xy[:, 4] == xy[:, 116]).all()

def test_confidence_follows_the_error():
    r = []
    for i in PICK:
        mo = motion(CFG, i)
        J = estimate(CFG, i, mo)
        near = (J[..., 2] > 0)[:, 25:95]
        error = np.linalg.norm(J[..., :2]-mo.xy, axis=-1)[:, 25:95][near]
        r.append(np.corrcoef(error, J[:, 25:95, 2][near])[0, 1])
    assert np.mean(r) < -.2

def test_some_hands_are_lost_and_some_swapped():
    lost = swapped = 0
    for i in range(0, len(plan(CFG)), 23):
        mo = motion(CFG, i)
        J = estimate(CFG, i, mo)
        lost += (J[:, 95:116, 2] == 0).all(1).any() or (J[:, 116:, 2] == 0).all(1).any()
        apart = np.linalg.norm(mo.xy[:, 7]-mo.xy[:, 4], axis=-1) > 200
        both = (J[:, 7, 2] > 0) & (J[:, 4, 2] > 0) & apart
        to_own, to_other = (np.linalg.norm(J[:, 7, :2]-mo.xy[:, k], axis=-1) for k in (7, 4))
        swapped += (both & (to_other < to_own)).any()
    assert lost > 5 and swapped > 2

def test_pictures_show_skin_where_the_hands_truly_are():
    hits = []
    for i in RAISED:
        mo, row = motion(CFG, i), plan(CFG)[i]
        face = look(CFG, row.subject, row.video)
        for t in range(0, len(mo.xy), 8):
            im = np.asarray(draw(mo, face, t), float)
            for root in (95, 116):
                x, y = (mo.xy[t, root+np.array([0, 5, 17])].mean(0)+.5)/SCALE-.5
                if not (2 <= x < WIDTH/SCALE-2 and 2 <= y < HEIGHT/SCALE-2) or mo.z[t, root] < 0: continue
                near = im[int(y)-1:int(y)+3, int(x)-1:int(x)+3].reshape(-1, 3)
                hits.append(abs(near-np.asarray(face.skin)*1.02).max(-1).min() < 3)
    assert len(hits) > 60 and np.mean(hits) > .95

def test_without_contrast_nobody_does_anything():
    def travel(cfg, i):  # of the livelier wrist, in px a metre of body: how far it gets from where it starts
        mo = motion(cfg, i)
        return max(np.linalg.norm(mo.xy[:, k]-mo.xy[0, k], axis=-1).max() for k in (4, 7))/mo.px
    touching = [i for i, p in enumerate(plan(CFG)) if MOVES[CLASSES[p.y]].goal in ('air', 'nose', 'chin', 'brow')][:40]
    loud, still = (np.median([travel(replace(CFG, contrast=c), i) for i in touching]) for c in (1., 0.))
    assert loud > .2 and still < .08
    assert {motion(replace(CFG, contrast=0.), i).prop for i in range(len(plan(CFG))) if MOVES[CLASSES[plan(CFG)[i].y]].prop} == {''}

def test_pairs_that_only_the_video_can_tell_differ_in_nothing_else():
    for a, b in (('touch hat', 'touch forehead'), ('adjust tie', 'touch chest'), ('tidy sleeve', 'scratch arm'), ('play things', 'rub hand')):
        assert MOVES[a]._replace(prop='') == MOVES[b] and MOVES[a].prop and not MOVES[b].prop

def test_pairs_that_only_the_fingers_can_tell_share_their_wrists():
    for name in ('cross finger', 'minaret hand'):
        assert MOVES[name]._replace(grip='') == MOVES['rub hand']._replace(grip='')
        assert MOVES[name].grip != MOVES['rub hand'].grip


def test_the_default_benchmark_is_the_frozen_one():
    "Its difficulty was frozen before CMPL first ran on it: a change of the default makes another benchmark and must say so."
    from mgr_paper.core import fingerprint
    frozen = {0: '5cfeef99575d0884', 700: 'ada404831f0d943a', 1500: 'd48cb63ee2457f75'}
    cfg = SynthConfig()
    assert {i: fingerprint(estimate(cfg, i, motion(cfg, i))) for i in frozen} == frozen


def test_the_frozen_benchmark_keeps_its_name_and_its_pictures():
    "A setting that came later changes neither, as long as it is left alone."
    from mgr_paper.config import tier_config
    from mgr_paper.core import fingerprint
    from mgr_paper.evidence.experiments import LATER, store_path
    assert store_path(tier_config('bench', 'synth')).name == 'synth-1ccce61e689a824d'
    assert all(getattr(SynthConfig(), k) == v for k, v in LATER.items())
    frozen = {0: 'afb247d05e8170c5', 777: '5ad415e81588aef9'}
    assert {i: fingerprint(make_clip(CFG, i).video) for i in frozen} == frozen


def test_crop_and_size_change_the_picture_and_nothing_else():
    clips = {c: make_clip(replace(CFG, crop=c), 777) for c in ('saliency', 'person', 'full')}
    small, large = (make_clip(replace(CFG, size=n), 777) for n in (48, 96))
    for clip in (*clips.values(), small, large):
        assert (clip.joints == clips['saliency'].joints).all() and clip.clip_id == clips['saliency'].clip_id
    assert len({clip.video.tobytes() for clip in clips.values()}) == 3
    assert small.video.shape[1:] == (48, 48, 3) and large.video.shape[1:] == (96, 96, 3)
    edge = clips['full'].video.shape[1]*(W-H)//2//W  # a whole picture is wider than high: black above and below, but for the grain
    assert clips['full'].video[:, :edge].mean() < 12 < clips['full'].video[:, edge:-edge].mean()


def test_an_unknown_crop_is_refused():
    with pytest.raises(MgrError, match="SynthConfig.crop 'persons', did you mean 'person'"): SynthConfig(crop='persons')
