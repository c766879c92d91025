"""Starting from another network of ours: what is kept, what is fresh, what is refused, and that the record says so."""
import hashlib
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mgr_paper.config import tier_config, to_dict
from mgr_paper.core import MgrError
from mgr_paper.evidence.stages import adapt_runs, fuse_runs, train_run
from mgr_paper.losses.semantic import PHRASES
from mgr_paper.preprocessing.layouts import layout, rest_pose
from mgr_paper.preprocessing.store import Clip, ClipStore, StoreMeta, StoreWriter
from mgr_paper.preprocessing.utd_mhad import prepare_utd, write_example
from mgr_paper.records import read_record
from mgr_paper.training.checkpoints import load_tensors, save_tensors
from mgr_paper.training.train import Labelled, fit, make_network
from mgr_paper.training.transfer import init_from, started_from

MANY = (PHRASES["utd-mhad"] + PHRASES["imigue"])[:52]
BRANCHES = ("joint", "heatmap", "swin", "r2plus1d")
CFG = tier_config("smoke", "synth", {"train.batch": 4})


def make_store(path, classes, seed=0):
    gen, base = np.random.default_rng(seed), rest_pose(layout("openpose137"))*[30, 30, 1] + [100, 100, 0]
    with StoreWriter(path, StoreMeta("synth", "openpose137", classes, 25., 200, 200, True, "rgb", "made up")) as out:
        for i in range(8):
            joints = base[None].repeat(9, 0) + np.concatenate([gen.normal(size=(9, 137, 2)), np.zeros((9, 137, 1))], -1)
            out.add(Clip(f"c{i}", f"v{i}", f"p{i % 4}", i % len(classes), joints.astype(np.float32), gen.integers(0, 255, (9, 32, 32, 3), np.uint8),
                         split=("train", "train", "val", "test")[i % 4]))
    return ClipStore(path)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return make_store(folder/"many", MANY), make_store(folder/"few", PHRASES["imigue"], 1)


def saved(path, net, branch, store, cfg=CFG, **changes):
    about = {"branch": branch, "config": to_dict(cfg), "classes": list(store.meta.classes)} | changes
    return save_tensors(path, net.state_dict(), {k: v for k, v in about.items() if v is not None})


@pytest.mark.parametrize("branch", BRANCHES)
def test_from_52_classes_to_32(stores, tmp_path, branch):
    many, few = stores
    old, new, untouched = make_network(branch, many, CFG, 0), *(make_network(branch, few, CFG, 1) for _ in range(2))
    saved(tmp_path/"network.safetensors", old, branch, many)
    report = init_from(new, tmp_path, branch, CFG.layout, few.meta.classes)
    assert sorted(report["replaced"]) == ["branch.classifier.bias", "branch.classifier.weight", "head.proj.weight", "head.targets"]
    assert report["missing"] == [] and sorted(report["kept"] + report["replaced"]) == sorted(new.state_dict())
    for k, v in new.state_dict().items():
        assert torch.equal(v, (old if k in report["kept"] else untouched).state_dict()[k]), k
    assert new.branch.classifier.weight.shape[0] == 32
    fit(new, branch, few, Labelled.of(few, np.arange(4)), CFG, 0, max_batches=1)  # it trains on


def test_same_classes_keep_everything(stores, tmp_path):
    few = stores[1]
    old, new = make_network("joint", few, CFG, 0), make_network("joint", few, CFG, 1)
    path = saved(tmp_path/"n.safetensors", old, "joint", few)
    report = init_from(new, path, "joint", CFG.layout, few.meta.classes)
    assert report["replaced"] == report["missing"] == []
    assert all(torch.equal(v, old.state_dict()[k]) for k, v in new.state_dict().items())
    turned = init_from(new, path, "joint", CFG.layout, few.meta.classes[::-1])  # as many, in another order: other classes
    assert "branch.classifier.weight" in turned["replaced"]


def test_a_head_that_the_file_lacks_stays_fresh(stores, tmp_path):
    few = stores[1]
    plain = tier_config("smoke", "synth", {"loss.ose_targets": "none"})
    path = saved(tmp_path/"n.safetensors", make_network("joint", few, plain, 0), "joint", few, plain)
    report = init_from(make_network("joint", few, CFG, 1), path, "joint", CFG.layout, few.meta.classes)
    assert sorted(report["missing"]) == ["head.proj.weight", "head.targets"] and report["replaced"] == []


@pytest.mark.parametrize("spoil, named", [
    (lambda p, net, few: saved(p, net, "heatmap", few), ["of branch heatmap, not joint"]),
    (lambda p, net, few: saved(p, net, "joint", few, tier_config("smoke", "synth", {"layout": "openpose137"})), ["reads joints of openpose137"]),
    (lambda p, net, few: saved(p, net, "joint", few, classes=None), ["says no classes"]),
    (lambda p, net, few: p.write_bytes(b"PK not a network"), ["not a readable safetensors"]),
    (lambda p, net, few: save_file({"a": torch.zeros(1)}, p), ["schema None"]),
    (lambda p, net, few: save_tensors(p, {k: v/0 if k.endswith("bias") else v for k, v in net.state_dict().items()},
                                      {"branch": "joint", "config": to_dict(CFG), "classes": list(few.meta.classes)}), ["NaN or infinite", "bias"]),
    (lambda p, net, few: save_tensors(p, {k: v for k, v in net.state_dict().items() if k != "branch.embedding"},
                                      {"branch": "joint", "config": to_dict(CFG), "classes": list(few.meta.classes)}), ["branch.embedding is missing there"]),
    (lambda p, net, few: save_tensors(p, net.state_dict() | {"branch.blocks.9.weight": torch.zeros(3)},
                                      {"branch": "joint", "config": to_dict(CFG), "classes": list(few.meta.classes)}), ["branch.blocks.9.weight is (3,) there and missing here"]),
], ids=["branch", "layout", "no classes", "no network", "another's file", "NaN", "tensor missing", "tensor too many"])
def test_what_does_not_fit_is_refused(stores, tmp_path, spoil, named):
    few, net = stores[1], make_network("joint", stores[1], CFG, 1)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    spoil(tmp_path/"n.safetensors", make_network("joint", few, CFG, 0), few)
    with pytest.raises(MgrError) as e: init_from(net, tmp_path/"n.safetensors", "joint", CFG.layout, few.meta.classes)
    for word in ["n.safetensors", *named]: assert word in str(e.value), str(e.value)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_another_size_names_its_first_tensor(stores, tmp_path):
    many, few = stores
    for branch, change in (("joint", {"joint.widths": (24, 32)}), ("r2plus1d", {"r2plus1d.base": 16}), ("swin", {"swin.embed_dim": 16}), ("heatmap", {"heatmap.base": 16})):
        other = tier_config("smoke", "synth", change)
        path = saved(tmp_path/f"{branch}.safetensors", make_network(branch, many, other, 0), branch, many, other)
        net = make_network(branch, few, CFG, 1)
        with pytest.raises(MgrError, match=r"does not fit: branch\.[\w.]+ is \(.*\) there and \(.*\) here"):
            init_from(net, path, branch, CFG.layout, few.meta.classes)


TINY = {"train.epochs": 1, "train.batch": 6, "cmpl.epochs": (1,), "cmpl.rounds": 1}

@pytest.fixture(scope="module")
def utd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("utd")
    write_example(folder/"raw", actions=(1, 2, 3), people=(1, 2, 3, 4), trials=(1, 2))
    prepare_utd(folder/"raw", folder/"store", size=32)
    train_run(folder/"store", "joint", folder/"joint", tier="smoke", changes=TINY)
    return folder


def test_a_training_starts_from_a_run_and_says_so(utd, tmp_path, monkeypatch):
    from mgr_paper.evidence import pipeline
    given, at_start = load_tensors(utd/"joint"/"network.safetensors")[0], []
    real = pipeline.fit
    def watched(net, *a, **k):
        at_start.append({n: v.clone() for n, v in net.state_dict().items()})
        return real(net, *a, **k)
    monkeypatch.setattr(pipeline, "fit", watched)
    record = train_run(utd/"store", "joint", tmp_path/"a", seed=3, tier="smoke", changes=TINY, init=utd/"joint")
    assert len(at_start) == 3  # the final network and two that hold people out
    for state in at_start: assert all(torch.equal(v, given[k]) for k, v in state.items())
    sha = hashlib.sha256((utd/"joint"/"network.safetensors").read_bytes()).hexdigest()
    assert record["extra"]["init"] == dict(file=str(utd/"joint"/"network.safetensors"), sha256=sha, branch="joint", classes=27)
    assert read_record(tmp_path/"a"/"heldout.json")["extra"]["init"]["sha256"] == sha
    assert record["parameters_requested"] == read_record(utd/"joint"/"record.json")["parameters_requested"]
    assert "init" not in read_record(utd/"joint"/"record.json")["extra"]
    assert started_from(tmp_path/"a")["branch"] == "joint"


def test_a_wrong_start_leaves_no_run(utd, tmp_path):
    with pytest.raises(MgrError, match="of branch joint, not heatmap"):
        train_run(utd/"store", "heatmap", tmp_path/"a", tier="smoke", changes=TINY, init=utd/"joint")
    with pytest.raises(MgrError, match="no checkpoint"):
        train_run(utd/"store", "joint", tmp_path/"a", tier="smoke", changes=TINY, init=tmp_path/"none")
    assert list(tmp_path.iterdir()) == []


def test_students_never_begin_at_random_without_a_word(utd, tmp_path):
    changes = TINY | {"cmpl.restart": "first"}
    for b in ("joint", "heatmap", "depth"):
        train_run(utd/"store", b, tmp_path/b, tier="smoke", changes=changes, init=utd/"joint" if b == "joint" else None)
    with pytest.raises(MgrError, match="cmpl.restart=never"): adapt_runs(utd/"store", [tmp_path/b for b in ("joint", "heatmap", "depth")], tmp_path/"x")
    record = fuse_runs([tmp_path/"joint", tmp_path/"heatmap"], tmp_path/"votes"/"vote")
    assert [f["beside"] for f in record["extra"]["folders"]] == ["../../joint", "../../heatmap"]
    assert not (tmp_path/"x").exists()
