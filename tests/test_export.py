"""ONNX files: every branch against torch, whole clips against the library, and what stands in the file."""
import json
import sys

import numpy as np
import pytest
import torch

from mgr_paper.config import override, tier_config
from mgr_paper.core import MgrError
from mgr_paper.evidence import onnx_export
from mgr_paper.evidence.onnx_export import SIZES, TOLERANCE, Deployed, FrameDraw, WholeClips, example_inputs, export_run, write_onnx
from mgr_paper.preprocessing.layouts import layout
from mgr_paper.preprocessing.store import Clip, ClipStore, StoreMeta, StoreWriter, segment_frames
from mgr_paper.training.train import make_network, predict

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SMALL = {"joint.widths": (8, 8), "joint.frames": 12, "joint3d.widths": (8, 8), "joint3d.frames": 12, "heatmap.blocks": (1, 1),
         "heatmap.inflate": (1, 0), "heatmap.temporal_strides": (1, 2), "heatmap.base": 4, "r2plus1d.base": 4, "depth.base": 4,
         "swin.embed_dim": 4, "swin.depths": (2, 1), "swin.patch": (2, 4, 4), "train.views": 2, "train.precision": "fp32", "loss.ose_lambda": 0.}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    "Five clips of several lengths, with RGB and with depth."
    out, gen, V = {}, np.random.default_rng(0), layout("kinect20").V
    for kind, channels in (("rgb", 3), ("depth", 2)):
        meta = StoreMeta("utd-mhad", "kinect20", ("a", "b", "c"), 30., 60, 80, False, kind, "made up")
        with StoreWriter(tmp_path_factory.mktemp("stores")/kind, meta) as w:
            for i, L in enumerate((3, 9, 12, 31, 50)):
                p = gen.normal(0, 1, (1, V, 3)) + .05*gen.normal(0, 1, (L, V, 3)).cumsum(0)
                seen = (gen.random((L, V, 1)) > .15).astype(np.float32)
                w.add(Clip(f"c{i}", "v", "p", i % 3, np.concatenate([(p[..., :2] + 3)*20, np.ones((L, V, 1))], -1)*seen,
                           gen.integers(0, 256, (L, 40, 40, channels), dtype=np.uint8), np.concatenate([p, np.ones((L, V, 1))], -1)*seen))
        out[kind] = ClipStore(w.path)
    return out


def make(branch, stores, **changes):
    "A network with random weights and running statistics, its store and what the exporter wants to know."
    store = stores["depth" if branch in ("depth", "joint3d") else "rgb"]
    cfg = override(tier_config("smoke", "utd-mhad", {"branches": ("joint", "r2plus1d")} | SMALL), changes)
    net = make_network(branch, store, cfg, 1)
    gen = torch.Generator().manual_seed(0)
    for k, b in net.named_buffers():  # as if it had been trained
        if k.endswith("running_mean"): b.copy_(.1*torch.randn(b.shape, generator=gen))
        if k.endswith("running_var"): b.copy_(.5 + torch.rand(b.shape, generator=gen))
    with torch.no_grad(): net.branch.classifier.weight.mul_(20)  # logits that tell clips apart
    record = {"config": {"layout": cfg.layout}, "data": {"video_kind": store.meta.video_kind}}
    return WholeClips(net, branch, cfg), net, cfg, store, record


@pytest.mark.parametrize("branch", ["joint", "joint3d", "heatmap", "swin", "r2plus1d", "depth", pytest.param("concat", marks=pytest.mark.slow)])
def test_every_branch(branch, stores, tmp_path):
    whole, net, cfg, store, record = make(branch, stores)
    assert len(SIZES) == 2 and all(len({*each}) == 2 for each in [*zip(*SIZES)][:2] + [[s[3] for s in SIZES]])
    made = write_onnx(Deployed([whole], [1.7], [1.]), tmp_path/"x.onnx", {"name": branch}, record)
    assert set(made["differences"]) == {"1 x 9 x 72 x 72", "3 x 40 x 40 x 96"} and max(made["differences"].values()) < TOLERANCE == 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]  # one file, nothing beside it
    session = onnxruntime.InferenceSession(tmp_path/"x.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["name"] == branch
    names = [i.name for i in session.get_inputs()]
    for i in range(store.n):  # a clip whole, against the library's own reading of it
        logits, p = session.run(None, {k: store.clip(k, i)[None] for k in names})
        want = predict(net, branch, store, [i], cfg)
        assert np.abs(logits - want).max() < TOLERANCE
        assert np.allclose(p, torch.softmax(torch.from_numpy(want)/1.7, -1).numpy(), atol=1e-4) and abs(p.sum() - 1) < 1e-5
    assert np.ptp(np.concatenate([predict(net, branch, store, [i], cfg) for i in range(store.n)]), axis=0).max() > 100*TOLERANCE  # it tells clips apart


def test_views_are_those_of_the_library(stores):
    "Further views are drawn as for one clip alone; more clips at once do not change them."
    whole, net, cfg, store, _ = make("joint", stores, **{"train.views": 3})
    x = torch.from_numpy(np.stack([store.joints(3), store.joints(3)[::-1]]))
    with torch.no_grad():
        both, alone = whole({"joints": x}), whole({"joints": x[:1]})
    assert torch.allclose(both[:1], alone, atol=1e-6) and np.allclose(alone.numpy(), predict(net, "joint", store, [3], cfg), atol=1e-5)


@pytest.mark.parametrize("L", [1, 2, 7, 16, 33, 200])
def test_frames_are_those_of_the_store(L):
    x = torch.arange(L)[None, :, None]
    assert FrameDraw(np.full((1, 16), .5))(x)[0, :, 0].tolist() == segment_frames(np.array([L]), 16)[0].tolist()
    u = np.random.default_rng(L).random((1, 16))
    class Same:  # a generator that gives these numbers
        def random(self, shape): return u
    assert FrameDraw(u)(x)[0, :, 0].tolist() == segment_frames(np.array([L]), 16, Same())[0].tolist()


@pytest.mark.parametrize("found", [2e-4, float("nan")])
def test_a_file_that_differs_never_appears(found, stores, tmp_path, monkeypatch):
    whole, *_, record = make("joint", stores)
    monkeypatch.setattr(onnx_export, "compared", lambda *a: {"1 x 9": 1e-6, "3 x 40": found})
    with pytest.raises(MgrError, match=f"would differ from torch by {found:.1g}"): write_onnx(Deployed([whole], [1.], [1.]), tmp_path/"x.onnx", {}, record)
    assert not any(tmp_path.iterdir())


def test_an_answer_that_is_no_number(stores, tmp_path, monkeypatch):
    whole, *_, record = make("joint", stores)
    model = Deployed([whole], [1.], [1.])
    class Session:
        def __init__(self, *a, **k): pass
        def run(self, _, given): return [v.numpy()*[np.nan, 1][i] for i, v in enumerate(model(*map(torch.from_numpy, given.values())))]
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with torch.no_grad(): assert all(np.isnan(v) for v in onnx_export.compared(model, tmp_path/"x.onnx", record).values())


@pytest.mark.parametrize("size", [72, 73])
def test_pictures_of_the_size_of_the_made_up_clips(size, stores, tmp_path):
    whole, *_, record = make("r2plus1d", stores, **{"r2plus1d.size": size})
    made = write_onnx(Deployed([whole], [1.], [1.]), tmp_path/"x.onnx", {}, record)
    assert max(made["differences"].values()) < TOLERANCE


def test_a_vote_over_two_layouts(tmp_path, monkeypatch):
    one = dict(branch="joint", data={"name": "x"}, extra={"temperature": [1., 1.], "weights": [.5, .5]})
    monkeypatch.setattr(onnx_export, "voting_folders", lambda run: (["a", "b"], one))
    monkeypatch.setattr(onnx_export, "run_record", lambda folder: one | {"config": {"layout": {"a": "halpe68", "b": "upper68"}[folder]}})
    with pytest.raises(MgrError, match="layouts halpe68 and upper68; a file reads one. export each by itself"):
        onnx_export.export_vote(tmp_path, tmp_path/"x.onnx")


def test_without_onnx(stores, tmp_path, monkeypatch):
    whole, *_, record = make("joint", stores)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MgrError, match=r"onnx is not installed.*mgr_paper\[export\]"): write_onnx(Deployed([whole], [1.], [1.]), tmp_path/"x.onnx", {}, record)
    assert not any(tmp_path.iterdir())


def test_other_formats_and_runs(tmp_path):
    for run, kind, named in (("synth", "tflite", "unknown export format 'tflite'.*onnx"), (tmp_path/"none", "onnx", "no run folder")):
        with pytest.raises(MgrError, match=named): export_run(run, tmp_path/"x.onnx", kind)
    assert not any(tmp_path.iterdir())
    (tmp_path/"x.onnx").touch()
    with pytest.raises(MgrError, match="x.onnx exists already"): export_run("utd-mhad/joint", tmp_path/"x.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["synth", "utd-mhad"])
def test_shipped_votes(name, tmp_path):
    "A whole vote as one file, with all that its user must know."
    made = export_run(name, tmp_path/"vote.onnx")
    assert max(made["differences"].values()) < TOLERANCE and [p.name for p in tmp_path.iterdir()] == ["vote.onnx"]
    session = onnxruntime.InferenceSession(tmp_path/"vote.onnx", providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    classes, inputs = json.loads(said["classes"]), json.loads(said["inputs"])
    assert [i.name for i in session.get_inputs()] == list(inputs) and session.get_outputs()[0].shape == ["clips", len(classes)]
    assert len(inputs["joints"]["joints"]) == session.get_inputs()[0].shape[2] and said["licence"] and json.loads(said["limits"])
    assert abs(sum(n["weight"] for n in json.loads(said["networks"])) - 1) < 1e-6
