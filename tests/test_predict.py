"""One's own video: windows, voters, floor, calls, and the files of the new folder."""
import html.parser
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from mgr_paper.config import tier_config
from mgr_paper.core import MgrError
from mgr_paper.evidence.predict import NO_CALL, NOBODY, call_table, draw_frame, predict_video, segments
from mgr_paper.evidence.stages import fuse_runs, train_run
from mgr_paper.evidence.windows import AT_ONCE, MOST, confidence_floor, floor_curve, make_networks, open_panel, score_windows, window_clips, window_spans
from mgr_paper.fusion.calibrate import softmax
from mgr_paper.preprocessing import pose
from mgr_paper.preprocessing.frames import count_frames, frames, write_video
from mgr_paper.preprocessing.imigue_clips import Crop
from mgr_paper.preprocessing.store import ClipStore
from mgr_paper.preprocessing.synth import plan
from mgr_paper.preprocessing.synth_motion import FPS, HEIGHT, WIDTH, motion
from mgr_paper.preprocessing.synth_video import SCALE, draw, look, prepare_synth
from mgr_paper.preprocessing.utd_mhad import prepare_utd, write_example
from mgr_paper.records import read_record, write_record
from mgr_paper.training.train import predict

SYNTH = tier_config("smoke", "synth").synth
SIZE = (HEIGHT//SCALE, WIDTH//SCALE)


def film(path, numbers, lossless=False):
    "Clips of the benchmark one after the other, with exact joints."
    every, points = [], []
    for i in numbers:
        mo, face = motion(SYNTH, i), look(SYNTH, plan(SYNTH)[i].subject, plan(SYNTH)[i].video)
        every += [np.asarray(draw(mo, face, t)) for t in range(len(mo.xy))]
        xy = (mo.xy + .5)/SCALE - .5
        points.append(np.concatenate([xy, np.ones((*xy.shape[:2], 1))], -1))
    write_video(path, every, FPS, lossless)
    return np.concatenate(points).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    prepare_synth(folder/"store", SYNTH, jobs=1)
    for b in ("joint", "r2plus1d"):  # long enough to be sure of something
        train_run(folder/"store", b, folder/"runs"/b, tier="smoke", changes={"train.joint.epochs": 36})
    fuse_runs([folder/"runs"/"joint", folder/"runs"/"r2plus1d"], folder/"runs"/"vote")
    np.save(folder/"joints.npy", film(folder/"film.mp4", range(192, 195)))
    return folder


@pytest.fixture(scope="module")
def joints(made): return np.load(made/"joints.npy")


# Windows

@pytest.mark.parametrize("T, fps, window, stride", [(1, 25., 2., .5), (49, 25., 2., .5), (50, 25., 2., .5), (51, 25., 2., .5), (301, 29.97, 1.5, .4), (10, 5., .1, .1)])
def test_windows_cover_every_frame(T, fps, window, stride):
    spans = window_spans(T, fps, window, stride)
    assert spans[0, 0] == 0 and spans[-1, 1] == T and (np.diff(spans[:, 0]) > 0).all()
    assert set((spans[:, 1] - spans[:, 0]).tolist()) == {min(T, max(1, round(window*fps)))}
    assert set(range(T)) == {t for a, b in spans for t in range(a, b)}
    if T <= round(window*fps): assert len(spans) == 1


@pytest.mark.parametrize("window, stride", [(2., 0.), (2., -1.), (1., 2.)])
def test_windows_that_make_no_sense(window, stride):
    with pytest.raises(MgrError, match="windows of"): window_spans(100, 25., window, stride)


@pytest.mark.parametrize("window", [0., -1., float("nan")])
def test_windows_without_length(window):
    for stride in (0., .5):
        with pytest.raises(MgrError, match=f"a window of {window} s"): window_spans(100, 25., window, stride)


def test_cut_windows_show_their_own_frames(tmp_path):
    T = 150
    grey = [np.full((40, 60, 3), 1 + t, np.uint8) for t in range(T)]
    write_video(tmp_path/"v.mp4", grey, 75., lossless=True)
    joints = np.ones((T, 137, 3), np.float32)*[30, 20, 1]
    for spans in (np.array([(0, 20), (7, 27), (130, 150)]), np.array([(0, 140), (3, 143), (10, 150)])):  # the latter keep every third frame
        step = -(-int((spans[:, 1] - spans[:, 0]).max())//MOST)
        for (a, b), clip in zip(spans, window_clips(tmp_path/"v.mp4", joints, spans, Crop(size=8)), strict=True):
            assert clip.video[:, 4, 4, 0].tolist() == [t + 1 for t in range(a, b) if t % step == 0] and len(clip.video) <= MOST
            assert np.array_equal(clip.joints, joints[a:b])


# Who votes

def test_a_vote_knows_its_voters(made, tmp_path):
    fused = read_record(made/"runs"/"vote"/"record.json")["extra"]
    panel = open_panel(made/"runs"/"vote")
    assert [v.name for v in panel.voters] == ["joint", "r2plus1d"] and panel.left_out == []
    assert np.allclose([v.weight for v in panel.voters], fused["weights"]) and np.allclose([v.temperature for v in panel.voters], fused["temperature"])
    again = open_panel([made/"runs"/"joint", made/"runs"/"r2plus1d"])
    assert np.allclose([v.weight for v in again.voters], fused["weights"]) and again.floor == panel.floor
    shutil.copytree(made/"runs", tmp_path/"elsewhere")  # carried to another place together
    moved = open_panel(tmp_path/"elsewhere"/"vote")
    assert [v.folder.resolve() for v in moved.voters] == [tmp_path/"elsewhere"/"joint", tmp_path/"elsewhere"/"r2plus1d"]
    shutil.rmtree(tmp_path/"elsewhere"/"joint")
    shutil.move(tmp_path/"elsewhere"/"vote", tmp_path/"alone")  # now only the old place is left
    assert [v.folder for v in open_panel(tmp_path/"alone").voters] == [made/"runs"/"joint", made/"runs"/"r2plus1d"]


def test_runs_that_cannot_vote(made, tmp_path):
    for runs, named in [([], "no run was given"), ([made/"runs"/"vote", made/"runs"/"joint"], "does not stand alone"), (tmp_path/"none", "no run folder")]:
        with pytest.raises(MgrError, match=named): open_panel(runs)
    record = read_record(made/"runs"/"vote"/"record.json")
    for change, named in [(None, "does not know its voters"), ([dict(path="/none", beside="none")]*2, "joint/source/0 of .* is not at /none")]:
        extra = {k: v for k, v in record["extra"].items() if k != "folders"} | ({"folders": change} if change else {})
        (tmp_path/"vote").mkdir(exist_ok=True)
        write_record(tmp_path/"vote"/"record.json", **record | {"extra": extra})
        with pytest.raises(MgrError, match=named): open_panel(tmp_path/"vote")


def test_branches_without_input_are_left_out(made, tmp_path):
    write_example(tmp_path/"raw", actions=(1, 2, 3), people=(1, 2, 3, 4), trials=(1, 2))
    prepare_utd(tmp_path/"raw", tmp_path/"store", size=32)
    changes = {"train.epochs": 1, "train.batch": 6}
    for b in ("joint", "depth"): train_run(tmp_path/"store", b, tmp_path/b, tier="smoke", changes=changes)
    panel = open_panel([tmp_path/"joint", tmp_path/"depth"])  # a Kinect's joints are made from an estimator's, its depth cannot be
    assert [v.name for v in panel.voters] == ["joint"] and panel.left_out == [dict(name="depth", why="needs depth pictures")]
    with pytest.raises(MgrError, match="no network can read a plain video: depth, needs depth pictures"): open_panel([tmp_path/"depth"])
    # the same, were the vote one of joints and depth on iMiGUE's skeleton
    for b in ("joint", "depth"):
        r = read_record(tmp_path/b/"record.json")
        write_record(tmp_path/b/"record.json", **r | {"config": r["config"] | {"layout": "halpe68"}})
    panel = open_panel([tmp_path/"joint", tmp_path/"depth"])
    assert [(v.name, v.weight) for v in panel.voters] == [("joint", 1.)] and panel.left_out == [dict(name="depth", why="needs depth pictures")]


# How sure

def test_floor_by_hand():
    conf = np.array([.9, .9, .8, .7, .6, .6, .5, .4, .35, .34, .335, .334])
    probs = np.stack([conf, (1 - conf)/2, (1 - conf)/2], 1)
    y = np.array([0]*10 + [1, 1])
    curve = floor_curve(probs, y)
    assert curve["conf"].tolist() == sorted(set(conf), reverse=True)  # equal confidences are one floor
    assert np.allclose(curve["right"][-3:], [1, 10/11, 10/12]) and curve["calls"][-1] == 1
    assert confidence_floor(probs, y, 1.) == .34 and confidence_floor(probs, y, .9) == .335 and confidence_floor(probs, y, .8) == .334
    assert confidence_floor(probs[:9], y[:9], .5) == np.inf  # nine clips are too few
    assert confidence_floor(probs, np.full(12, 2), .01) == np.inf
    for p in (0, 1.1, -1): pytest.raises(MgrError, confidence_floor, probs, y, p)


def test_calls_and_segments():
    panel = open_panel_of(("wave", "nod"))
    voted = np.array([[.6, .4], [.7, .3], [.52, .48], [np.nan]*2, [.3, .7], [.2, .8]])
    spans = window_spans(112, 25., 2., .5)
    table = call_table(panel, np.zeros((0, 6, 2)), voted, spans[:6], 25., .55)
    assert table["call"].tolist() == ["wave", "wave", NO_CALL, NOBODY, "nod", "nod"] and table["class"].tolist()[2:4] == ["wave", ""]
    assert table["from"][0] == 0 and table["to"].iloc[-1] == spans[5, 1]/25 and (table["from"][1:].to_numpy() == table["to"][:-1].to_numpy()).all()
    parts = segments(table)
    assert parts["windows"].tolist() == [2, 1, 1, 2] and np.isclose(parts["confidence"].iloc[-1], .75) and np.isnan(parts["confidence"][2])
    assert set(call_table(panel, np.zeros((0, 6, 2)), voted, spans[:6], 25., np.inf)["call"]) == {NO_CALL, NOBODY}


def open_panel_of(classes):
    from mgr_paper.evidence.windows import Panel
    return Panel([], [], classes, 1., .5, (np.ones((1, len(classes))), np.zeros(1, int)))


# Scores are those of training

def test_a_window_is_scored_like_a_clip(made, tmp_path, joints):
    "The joint network says of the clip in the store what it says of the film of it, joints given as estimated."
    store, i = ClipStore(made/"store"), 201
    film(tmp_path/"one.mp4", [i])
    J = store.joints(i)
    view = np.concatenate([((J[..., :2] + .5)/SCALE - .5)*(J[..., 2:] > 0), J[..., 2:]], -1).astype(np.float32)
    panel = open_panel(made/"runs"/"vote")
    probs, voted = score_windows(panel, tmp_path/"one.mp4", view, np.array([(0, len(J))]), FPS, SIZE)
    v, net = panel.voters[0], make_networks(panel, store)[0]
    assert np.allclose(probs[0], softmax(predict(net, "joint", store, np.array([i]), v.cfg), v.temperature), atol=5e-3)
    assert np.allclose(voted.sum(1), 1) and np.isfinite(probs).all()


def test_many_windows_go_through_in_parts(made, joints, monkeypatch):
    "The number of windows at once changes nothing but the memory it takes; only test views beyond the first are drawn anew."
    from mgr_paper.evidence import windows
    panel = open_panel([made/"runs"/"joint"], .8)
    one_view = [windows.replace(v, record=json.loads(json.dumps(v.record))) for v in panel.voters]
    for v in one_view: v.record["config"]["train"]["joint"]["views"] = 1
    panel = windows.replace(panel, voters=one_view)
    spans = window_spans(len(joints), FPS, .4, .1)
    assert len(spans) > AT_ONCE
    whole = score_windows(panel, made/"film.mp4", joints, spans, FPS, SIZE)[1]
    monkeypatch.setattr(windows, "AT_ONCE", 7)
    assert np.allclose(score_windows(panel, made/"film.mp4", joints, spans, FPS, SIZE)[1], whole, atol=1e-3)


# All of it

class Page(html.parser.HTMLParser):
    "Tags and attributes of a page."
    def __init__(self, text): super().__init__(); self.tags, self.links, self.text = [], [], []; self.feed(text)
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag); self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]
    def handle_data(self, data): self.text.append(data)


NAME = "a; touch x<script>alert(1)<!-- $\"'&.mp4"

@pytest.fixture(scope="module")
def told(made, joints, tmp_path_factory):
    folder, joints = tmp_path_factory.mktemp("told"), joints.copy()
    joints[45:105] = 0  # nobody for more than a window
    video = folder/NAME.replace("/", "")
    shutil.copy(made/"film.mp4", video)
    return predict_video(video, made/"runs"/"vote", folder/"out", joints, threshold=.08), folder/"out", joints


def test_the_folder(told, made):
    table, out, joints = told
    assert sorted(p.name for p in out.iterdir()) == ["overlay.mp4", "predictions.csv", "report.html", "timeline.png"]
    read = pd.read_csv(out/"predictions.csv", keep_default_na=False)
    assert read["call"].tolist() == table["call"].tolist() and {"joint", "r2plus1d", "start", "end", "confidence"} <= set(read)
    nobody = [not joints[a:b, :, 2].any() for a, b in window_spans(len(joints), FPS)]
    assert any(nobody) and (table["call"] == NOBODY).tolist() == nobody and table["confidence"].isna().tolist() == nobody
    assert count_frames(out/"overlay.mp4") == len(joints)
    with open(out/"timeline.png", "rb") as f: assert f.read(8) == b"\x89PNG\r\n\x1a\n"
    assert [p.name for p in out.parent.iterdir() if p.name.startswith(".")] == []


def test_the_page_asks_nobody_and_runs_nothing(told):
    table, out, _ = told
    text = (out/"report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert set(page.tags) & {"script", "iframe", "object", "embed", "link", "form"} == set() and page.tags.count("meta") == 3
    assert all(l.startswith("data:image/") or l in ("overlay.mp4", "predictions.csv") for l in page.links) and page.tags.count("img") >= 2
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text
    words = "".join(page.text)
    assert NAME in words and "simulated data" in words and "Who voted" in words
    assert set(table["call"]) - {NO_CALL, NOBODY} and all(c in words for c in table["call"])


def test_the_film_shows_skeleton_and_label(told, made):
    table, out, joints = told
    plain, drawn = (list(frames(p)) for p in (made/"film.mp4", out/"overlay.mp4"))
    assert plain[0].shape == drawn[0].shape
    far = lambda t: (np.abs(plain[t].astype(int) - drawn[t]).max(-1) > 60)
    bar = 14
    assert far(20)[bar:].mean() > 5*far(70)[bar:].mean()  # with joints, without
    assert far(20)[:bar].mean() > .9  # the bar of a called class is coloured


def test_a_picture_is_made_smaller_and_kept_whole():
    joints = np.zeros((137, 3), np.float32)
    joints[:, 2] = 1
    joints[:, :2] = [-50, 5000]  # outside
    assert draw_frame(np.zeros((1080, 1920, 3), np.uint8), joints, "x", (0, 0, 1)).shape == (540, 960, 3)
    assert draw_frame(np.zeros((30, 20, 3), np.uint8), joints*0, "x", (0, 0, 1)).shape == (30, 20, 3)


def test_held_out_people_set_the_floor(made, joints, tmp_path):
    table = predict_video(made/"film.mp4", made/"runs"/"joint", tmp_path/"out", joints)
    assert open_panel(made/"runs"/"joint").floor == np.inf and set(table["call"]) == {NO_CALL}  # one epoch is not enough for anything
    assert "nothing is called" in (tmp_path/"out"/"report.html").read_text()
    table = predict_video(made/"film.mp4", made/"runs"/"joint", tmp_path/"low", joints, precision=.02)
    assert NO_CALL not in set(table["call"]) or open_panel(made/"runs"/"joint", .02).floor < 1


def test_a_short_video_is_one_window_and_an_empty_one_says_nothing(made, joints, tmp_path):
    write_video(tmp_path/"short.mp4", list(frames(made/"film.mp4"))[:1], FPS)
    table = predict_video(tmp_path/"short.mp4", made/"runs"/"vote", tmp_path/"a", joints[:1], threshold=0.)
    assert len(table) == 1 and table["call"][0] not in (NO_CALL, NOBODY)
    table = predict_video(made/"film.mp4", made/"runs"/"vote", tmp_path/"b", joints*0, threshold=0.)
    assert set(table["call"]) == {NOBODY} and (tmp_path/"b"/"report.html").is_file()


def skeleton_file(path, joints, **changes):
    info = dict(fps=FPS, height=SIZE[0], width=SIZE[1], frames=len(joints), sha256="0", estimator="by hand", settings={}) | changes
    np.savez(path, joints=joints, info=json.dumps(info))
    return path


def test_joints_from_a_file_and_by_extraction(made, joints, tmp_path, monkeypatch):
    by_array, sha = predict_video(made/"film.mp4", made/"runs"/"joint", tmp_path/"a", joints, threshold=.05), pose.file_sha(made/"film.mp4")
    by_file = predict_video(made/"film.mp4", made/"runs"/"joint", tmp_path/"b", skeleton_file(tmp_path/"film.npz", joints, sha256=sha), threshold=.05)
    pd.testing.assert_frame_equal(by_array, by_file)
    asked = []
    monkeypatch.setattr(pose, "extract", lambda videos, out: asked.append(videos) or skeleton_file(out/"film.npz", joints, sha256=sha))
    pd.testing.assert_frame_equal(predict_video(made/"film.mp4", made/"runs"/"joint", tmp_path/"c", threshold=.05), by_array)
    assert asked == [[made/"film.mp4"]] and (tmp_path/"c"/"joints.npz").is_file()  # kept, as it took the longest


def test_without_the_pose_environment(made, tmp_path, monkeypatch):
    monkeypatch.setenv("MGR_POSE_PYTHON", str(tmp_path/"none"))
    with pytest.raises(MgrError, match="make pose-env"): predict_video(made/"film.mp4", made/"runs"/"joint", tmp_path/"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoil, named", [
    (dict(joints=lambda j, p: j[:-1]), "frames of joints for the"),
    (dict(joints=lambda j, p: j[:, :25]), "give finite"),
    (dict(joints=lambda j, p: j*np.nan), "give finite"),
    (dict(joints=lambda j, p: skeleton_file(p/"j.npz", j, height=720)), "has 320x180"),
    (dict(joints=lambda j, p: skeleton_file(p/"j.npz", j)), "of another video"),
    (dict(joints=lambda j, p: p/"none.npz"), "none.npz"),
    (dict(threshold=80.), "threshold 80"), (dict(threshold=-.1), "threshold -0.1"), (dict(window_s=.1, stride_s=.5), "windows of"), (dict(precision=80), "precision 80"),
], ids=["frames", "layout", "NaN", "size", "another video", "no file", "threshold 80", "threshold -0.1", "stride", "precision"])
def test_what_does_not_fit_leaves_nothing(made, joints, tmp_path, spoil, named):
    kept = tmp_path/"kept"
    kept.mkdir()
    given = {k: v for k, v in spoil.items() if k != "joints"}
    J = spoil["joints"](joints, kept) if "joints" in spoil else joints
    with pytest.raises(MgrError, match=named): predict_video(made/"film.mp4", made/"runs"/"joint", tmp_path/"x", J, **given)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_videos_that_are_none(made, joints, tmp_path):
    with pytest.raises(MgrError, match="none.mp4"): predict_video(tmp_path/"none.mp4", made/"runs"/"joint", tmp_path/"x", joints)
    (tmp_path/"cut.mp4").write_bytes((made/"film.mp4").read_bytes()[:3000])
    with pytest.raises(MgrError, match="cut.mp4"): predict_video(tmp_path/"cut.mp4", made/"runs"/"joint", tmp_path/"x", joints)
    (tmp_path/"x").mkdir()
    (tmp_path/"x"/"mine.txt").write_text("keep")
    with pytest.raises(MgrError, match="exists already"): predict_video(made/"film.mp4", made/"runs"/"joint", tmp_path/"x", joints)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["cut.mp4", "mine.txt", "x"]
