"""Shipped weights: found by name, never in the place of a folder, printed when used, small, and really theirs."""
import json
import re
import runpy
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from typer.testing import CliRunner

import mgr_paper
from mgr_paper.cli import app
from mgr_paper.config import RunConfig, from_dict, override
from mgr_paper.core import MgrError, root
from mgr_paper.evidence.predict import predict_video
from mgr_paper.evidence.stages import evaluate_run, fuse_runs, run_record, scores_of
from mgr_paper.evidence.weights import WEIGHTS, card_of, card_text, find_run, shipped
from mgr_paper.evidence.windows import open_panel
from mgr_paper.preprocessing.frames import write_video
from mgr_paper.preprocessing.kinect_view import kinect_view
from mgr_paper.preprocessing.layouts import layout
from mgr_paper.preprocessing.store import Clip, ClipStore, StoreMeta, StoreWriter
from mgr_paper.preprocessing.synth import plan
from mgr_paper.preprocessing.synth_motion import FPS, estimate, motion
from mgr_paper.preprocessing.synth_video import SCALE, draw, look
from mgr_paper.training.checkpoints import load_tensors
from mgr_paper.training.train import make_network, predict

SETS = {"synth": ("joint", "heatmap", "r2plus1d"), "utd-mhad": ("joint", "heatmap", "depth")}


def ask(*words):
    return CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "200", "MGR_BATCH": "1"})


def test_what_is_there():
    assert set(shipped()) == {*SETS, *(f"{s}/{b}" for s, bs in SETS.items() for b in bs)}
    files = [p for p in WEIGHTS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 20e6
    assert {p.suffix for p in files} == {".json", ".npz", ".safetensors"}  # all of them package data, none of them a pickle
    for p in files:
        if p.suffix == ".safetensors":
            with safe_open(p, "np") as f: assert f.metadata()["schema"] and list(f.keys())
        elif p.suffix == ".npz":
            with np.load(p, allow_pickle=False) as z: assert all(z[k].dtype.kind in "fiubU" for k in z.files)
        else: assert not re.search(r'"/|\\\\|/(home|work|tmp|root)/', p.read_text()), f"{p} names a folder of some machine"


@pytest.mark.parametrize("name", SETS)
def test_card_says_what_the_records_say(name):
    card = card_of(shipped()[name])
    record, intervals = evaluate_run(name)
    assert card["name"] == name and card["n"] == record["n"] == len(scores_of(find_run(name), "test")["y"])
    for run, said in card["scores"].items():
        found, bounds = evaluate_run(name if run == "vote" else f"{name}/{run}")
        f1 = bounds["f1_macro"]
        assert said == pytest.approx(dict(top1=found["metrics"]["top1"], f1_macro=f1.value, low=f1.low, high=f1.high))
    for b in SETS[name]:
        r = run_record(find_run(f"{name}/{b}"))
        assert card["scores"][b] == pytest.approx({k: r["metrics"][k] for k in ("top1", "f1_macro")} | {k: card["scores"][b][k] for k in ("low", "high")})
        assert r["tier"] == "bench" and r["method"] == "source" and not r["parameters_requested"] and r["extra"]["precision"] in card["settings"]
        assert f"seed {r['seed']}" in card["settings"] and r["data"]["simulated"] == (name == "synth")
        tensors, config = load_tensors(find_run(f"{name}/{b}")/"network.safetensors")
        assert config["config"] == r["config"] and config["branch"] == b
    text = card_text(card)
    for words in ("trained on", "scores", "limits", "licence", f"on {card['n']} clips of {card['people']} unseen people"): assert words in text
    assert ("real people means nothing" in text) == (name == "synth")
    assert ("depth, not RGB" in text and "no micro-gestures" in text and "Cite their paper" in text) == (name == "utd-mhad")


def test_a_folder_is_never_shadowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_run("synth") == WEIGHTS/"synth"/"vote" and find_run("synth/joint") == WEIGHTS/"synth"/"joint"
    assert str(find_run("own")) == "own" and str(find_run("synth/../x")) == "synth/../x"
    (tmp_path/"synth"/"joint").mkdir(parents=True)
    for name in ("synth", "synth/joint"):
        with pytest.raises(MgrError, match=f"{name} is a folder here and the name of shipped weights.*{tmp_path}"): find_run(name)
    assert find_run(tmp_path/"synth") == tmp_path/"synth"  # its whole path is not ambiguous
    done = ask("evaluate", "synth")
    assert done.exit_code == 2 and "is a folder here" in done.stderr
    done = ask("evaluate", "sint")
    assert done.exit_code == 2 and "shipped weights: synth" in done.stderr


def test_printed_once_whenever_used(tmp_path):
    for words in (["evaluate", "utd-mhad"], ["fuse", "utd-mhad/joint", "utd-mhad/heatmap", "--out", tmp_path/"vote"], ["evaluate", WEIGHTS/"utd-mhad"/"joint"]):
        done = ask(*words)
        assert done.exit_code == 0, done.output
        assert done.stdout.count("shipped weights utd-mhad:") == 1 and "limits:" in done.stdout
    assert run_record(tmp_path/"vote")["metrics"]["top1"] > .85
    assert "shipped weights" not in ask("evaluate", tmp_path/"vote").stdout  # no shipped network is run here
    assert len(open_panel(tmp_path/"vote").voters) == 2


def film(path, cfg, numbers):
    "Clips of the benchmark one after the other, with exact joints."
    every, points = [], []
    for i in numbers:
        mo, face = motion(cfg, i), look(cfg, plan(cfg)[i].subject, plan(cfg)[i].video)
        every += [np.asarray(draw(mo, face, t)) for t in range(len(mo.xy))]
        points.append(np.concatenate([(mo.xy + .5)/SCALE - .5, np.ones((*mo.xy.shape[:2], 1))], -1))
    write_video(path, every, FPS)
    return np.concatenate(points).astype(np.float32)


@pytest.mark.parametrize("name, voters", [("synth", ["joint", "heatmap", "r2plus1d"]), ("utd-mhad", ["joint", "heatmap"])])
def test_predict_without_training(name, voters, tmp_path, capsys):
    cfg = from_dict(run_record(find_run("synth"))["config"], RunConfig).synth
    joints = film(tmp_path/"v.mp4", cfg, [len(plan(cfg)) - 1])
    table = predict_video(tmp_path/"v.mp4", name, tmp_path/"out", joints, threshold=.1)
    said, page = capsys.readouterr().out, (tmp_path/"out"/"report.html").read_text()
    assert said.count(f"shipped weights {name}:") == 1 and set(voters) <= set(table) and np.isfinite(table["confidence"]).all()
    assert f"Shipped weights {name}." in page
    if name == "utd-mhad":
        assert "depth" not in table and "depth does not vote on v.mp4: it needs depth pictures" in said and "depth is left out" in page
        assert "a Kinect&#x27;s skeleton" in page and "no micro-gestures" in page
        w = run_record(find_run(name))["extra"]["weights"]
        panel = open_panel(name)
        assert [v.weight for v in panel.voters] == pytest.approx([w[0]/(w[0] + w[1]), w[1]/(w[0] + w[1])])


def test_scores_are_those_of_the_network(tmp_path):
    "The first clips of the test people, made again and scored by the shipped network as its record was."
    record = run_record(find_run("synth/joint"))
    cfg, s = override(from_dict(record["config"], RunConfig), {"train.precision": record["extra"].get("precision", "fp32")}), scores_of(find_run("synth/joint"), "test")
    first = [(i, p) for i, p in enumerate(plan(cfg.synth)) if p.split == "test"][:64]
    clips = [Clip(f"{p.video}_{i:04d}", p.video, p.subject, p.y, estimate(cfg.synth, i, motion(cfg.synth, i)), split="test") for i, p in first]
    assert [c.clip_id for c in clips] == s["clip_id"][:64].tolist()
    meta = StoreMeta("synth", "openpose137", tuple(record["extra"]["classes"]), FPS, 720, 1280, True, "none", "made again")
    with StoreWriter(tmp_path/"store", meta) as out:
        for c in clips: out.add(c)
    net = make_network("joint", ClipStore(tmp_path/"store"), cfg, 0)
    net.load_state_dict(load_tensors(find_run("synth/joint")/"network.safetensors")[0])
    assert np.abs(predict(net, "joint", ClipStore(tmp_path/"store"), np.arange(64), cfg) - s["logits"][:64].astype(np.float32)).max() < .02


def test_as_a_kinect_sees_it():
    src, dst, gen = layout("openpose137"), layout("kinect20"), np.random.default_rng(0)
    x = np.concatenate([gen.uniform(0, 300, (4, 137, 2)), gen.uniform(.2, 1, (4, 137, 1))], -1).astype(np.float32)
    y = kinect_view(x, 320)
    for n in ("LElbow", "RKnee", "LHip"):  # shared points are mirrored and keep their names
        a, b = x[:, src.index(n)], y[:, dst.index(n)]
        assert np.allclose(b[:, 0], 319 - a[:, 0], atol=1e-3) and np.array_equal(b[:, 1:], a[:, 1:])
    w, e, h = (y[:, dst.index(n), :2] for n in ("RWrist", "RElbow", "RHand"))
    assert np.allclose(h - w, .3*(w - e), atol=1e-3)
    x[:, src.index("RHip")] = 0
    lost = {n for n in dst.joints if not kinect_view(x, 320)[:, dst.index(n)].any()}
    assert lost == {"RHip", "Hip", "Spine", "Neck"}


def test_made_from_the_graphs_networks(tmp_path):
    "`make weights` puts the same set together again, and refuses what does not belong together."
    script = runpy.run_path(str(root()/"scripts"/"weights.py"))
    records, work = tmp_path/"records", tmp_path/"runs"
    for b in SETS["utd-mhad"]:
        run = WEIGHTS/"utd-mhad"/b
        for kind, at in (("record", records/"utd-mhad/odd-even/seed3/source"/b), ("heldout", records/"utd-mhad/odd-even/heldout"/b)):
            at.parent.mkdir(parents=True, exist_ok=True)
            for suffix in (".json", ".npz"): shutil.copy(run/f"{kind}{suffix}", at.with_suffix(suffix))
        to = work/"utd-mhad/odd-even/seed3/source"/f"{b}.safetensors"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run/"network.safetensors", to)
    script["make"]("utd-mhad", records, work, tmp_path/"out")
    for p in (WEIGHTS/"utd-mhad").rglob("*"):
        again = tmp_path/"out"/"utd-mhad"/p.relative_to(WEIGHTS/"utd-mhad")
        if p.suffix == ".safetensors":  # the order of the two lines in its header is left to chance
            (a, x), (b, y) = load_tensors(p), load_tensors(again)
            assert x == y and a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)
        elif p.is_file() and p.parent.name != "vote": assert again.read_bytes() == p.read_bytes(), p
    to.unlink()
    with pytest.raises(MgrError, match="depth.safetensors.*mgr-paper reproduce --tier bench --data utd-mhad"): script["make"]("utd-mhad", records, work, tmp_path/"x")
    shutil.copy(to.with_name("joint.safetensors"), to)
    with pytest.raises(MgrError, match="is a network of joint"): script["make"]("utd-mhad", records, work, tmp_path/"x")
    assert not (tmp_path/"x"/"utd-mhad").exists()


@pytest.mark.parametrize("words", ["submit synth --out x.csv --fill 99", "submit synth --out x.txt", "fuse synth/joint synth/joint --out v",
                                   "fuse synth/joint utd-mhad/joint --out v", "fuse synth synth/joint --out v"])
def test_a_refusal_shows_no_card(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = ask(*words.split())
    assert said.exit_code == 2 and "shipped weights" not in said.output and not any(tmp_path.iterdir())


def test_a_copy_does_not_vote_again(tmp_path):
    shutil.copytree(find_run("synth/joint"), tmp_path/"copy")
    with pytest.raises(MgrError, match="copy and .*joint hold the same scores and would vote twice"): fuse_runs(["synth/joint", tmp_path/"copy"], tmp_path/"v")
    with pytest.raises(MgrError, match="is a vote itself"): fuse_runs(["synth", "synth/joint"], tmp_path/"v")
    assert not (tmp_path/"v").exists()
