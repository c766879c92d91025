"""What `scripts/fuzz.py` feeds: for each reader of a file, small sound files to damage and the call that reads them.

`read` gets a folder with the files and returns when it could use them; what it asserts of what came back must hold however the files
were damaged. `out` beside the folder is where it may write."""
import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from mgr_paper.preprocessing import frames, imigue, ma52, pose, pose_json, skeleton_files, smg, utd_mhad, videos
from mgr_paper.preprocessing.layouts import layout, rest_pose
from mgr_paper.preprocessing.safe_pickle import dump_pickle, load_pickle
from mgr_paper.preprocessing.store import Clip, ClipStore, StoreMeta, StoreWriter


@dataclass(frozen=True)
class Seed:
    "Sound files, and the one among them that is damaged."
    files: dict[str, bytes]
    target: str


@dataclass(frozen=True)
class Reader:
    "A reader of files."
    make: Callable[[Path], None]  # writes sound files below an empty folder
    targets: tuple[str, ...]  # which of them are damaged, as patterns
    read: Callable[[Path, Path], None]  # folder of the files, folder to write to
    share: float = 1.  # of the inputs

    def seeds(self, scratch: Path) -> list[Seed]:
        "All seeds, the same at every call."
        self.make(scratch)
        files = {p.relative_to(scratch).as_posix(): undated(p) for p in sorted(scratch.rglob("*")) if p.is_file()}
        return [Seed(files, n) for n in files if any(Path(n).match(t) for t in self.targets)]


def undated(path: Path) -> bytes:
    "A file without the time at which it was written: an input is to be the same tomorrow."
    data = path.read_bytes()
    if path.suffix == ".mat": return b"MATLAB 5.0 MAT-file".ljust(124) + data[124:]
    if path.suffix not in (".zip", ".npz", ".xlsx"): return data
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for i in old.infolist():
            info = zipfile.ZipInfo(i.filename)
            info.compress_type = i.compress_type
            new.writestr(info, old.read(i))
    return out.getvalue()


READERS: dict[str, Reader] = {}


def reader(name: str, make: Callable, targets: str, share: float = 1.):
    def keep(read): READERS[name] = Reader(make, tuple(targets.split()), read, share); return read
    return keep


def sound(joints: np.ndarray, V: int):
    assert joints.ndim == 3 and joints.shape[1:] == (V, 3) and len(joints), joints.shape
    assert np.isfinite(joints).all(), "not finite"
    assert joints[..., 2].min() >= 0 and joints[..., 2].max() <= 1, "confidence"


# ---- sheets and tables

def numbers(T: int, V: int) -> np.ndarray: # (T,3V)
    xyc = np.random.default_rng(0).integers(1, 300, (T, V, 3)).astype(float)
    xyc[..., 2] = .5
    return xyc.reshape(T, -1)


def make_sheets(folder: Path):
    imigue.write_sheet(folder/"0001_openpose.xlsx", numbers(1, 137))
    import xlsxwriter
    with xlsxwriter.Workbook(str(folder/"0002_openpose.xlsx")) as book:  # words in the first row: shared strings
        book.set_properties(dict(created=datetime(1980, 1, 1)))
        sheet = book.add_worksheet()
        for c in range(411): sheet.write(0, c, f"p{c % 9}"); sheet.write(1, c, .5)


@reader("xlsx", make_sheets, "*.xlsx", 0.7)
def read_sheets(folder, out):
    for p in folder.glob("*.xlsx"): sound(imigue.read_sheet(p), 137)


def make_tables(folder: Path):
    rows = np.concatenate([np.arange(3)[:, None], numbers(3, 35)], 1)
    np.savetxt(folder/"0001_light_hand.csv", rows, "%g", ",")
    (folder/"0001_label.csv").write_text("class,start,end\n1,0,4\n99,3,9\n31,10,10\n")
    (folder/"0002_label.csv").write_bytes("5;1;2\n6;3;4\n".encode("utf-16"))
    (folder/"subjects.csv").write_text("video_id,subject_id\n1,p7\n0002,p8\n")


@reader("imigue csv", make_tables, "*.csv", 1.5)
def read_tables(folder, out):
    sound(imigue.read_hand_csv(folder/"0001_light_hand.csv", []), 35)
    for name in ("0001_label.csv", "0002_label.csv"):
        for hidden in (False, True):
            for y, a, b in imigue.read_labels(folder/name, None, hidden, []): assert 0 <= y < 32 and 0 <= a <= b
    assert all(len(v) == 4 and p for v, p in imigue.read_subjects(folder/"subjects.csv", []).items())


def make_smg(folder: Path):
    smg.write_example(folder, 1, 6, ((1, 0, 3), (17, 3, 6)))
    smg.write_example(folder, 36, 5, ((2, 1, 4),))
    (folder/"label_name.txt").write_text("".join(f"{i}\tname {i}\n" for i in range(17)))


@reader("smg csv", make_smg, "*.csv *.txt", 0.3)
def read_smg(folder, out):
    report = smg.prepare_smg(folder, out/"store")
    every_clip(ClipStore(out/"store"))
    assert report["clips"] > 0


def make_ma52(folder: Path): ma52.write_example(folder, 2, 2, 2, 1)


@reader("ma52", make_ma52, "*.txt *.pkl", 0.5)
def read_ma52(folder, out):
    ma52.prepare_ma52(folder, out/"store")
    every_clip(ClipStore(out/"store"))


def make_own(folder: Path):
    for n in ("nod/1.mp4", "nod/ann/2.mp4", "3.MOV"):
        (folder/n).parent.mkdir(parents=True, exist_ok=True)
        (folder/n).write_bytes(b"")
    (folder/"labels.csv").write_text("file,class,subject,start,end\nnod/1.mp4,nod,ann,0,4\nnod/1.mp4,nod,ann,5,\n3.MOV,shrug,bob,,\n")


@reader("labels.csv", make_own, "labels.csv", 2)
def read_own(folder, out):
    stretches, _ = videos.find_stretches(folder)
    for s in stretches:
        assert s.name and s.subject and s.start >= 0 and (s.end is None or s.end >= s.start)
        assert (folder/s.file).resolve().is_relative_to(folder.resolve())


# ---- pickles

def make_pickles(folder: Path):
    x = np.arange(24, dtype="f4").reshape(2, 3, 4)
    dump_pickle([dict(a=x, b="word", c=(1, 2.5, None, True)), {3, 4}, b"raw", x.astype("f2"), 1 << 70], folder/"a.pkl")
    import pickle
    (folder/"b.pkl").write_bytes(pickle.dumps([dict(a=x, d=np.float32(2), e=np.array(["a", "bc"]))], 2))
    (folder/"c.pkl").write_bytes(pickle.dumps(dict(a=np.asfortranarray(x), b=bytearray(b"x"), e=1j), 5))


@reader("pickle", make_pickles, "*.pkl", 3)
def read_pickles(folder, out):
    for p in sorted(folder.glob("*.pkl")): load_pickle(p)


def make_pyskl(folder: Path):
    points = np.tile(rest_pose(layout("coco17"))[:, :2]*50 + 200, (1, 3, 1, 1)).astype(np.float32)
    score = np.full((1, 3, 17), .7, np.float32)
    notes = [dict(frame_dir=f"00{i}_0", label=i % 2, total_frames=3, img_shape=(480, 640), keypoint=points + i, keypoint_score=score) for i in range(3)]
    dump_pickle(dict(split=dict(train=["000_0", "001_0"], test=["002_0"]), annotations=notes), folder/"a.pkl")


@reader("skeleton pickle", make_pyskl, "*.pkl", 0.8)
def read_pyskl(folder, out):
    skeleton_files.prepare_pickle(folder, out/"store")
    every_clip(ClipStore(out/"store"))


# ---- pose estimators

def make_openpose(folder: Path):
    body, hand = np.tile([100., 120., .9], 25), np.tile([90., 80., .5], 21)
    body[::3] += np.arange(25); body[1::3] += np.arange(25)*3
    for t in range(3):
        people = [dict(pose_keypoints_2d=(body + t).clip(0, 500).tolist(), hand_left_keypoints_2d=hand.tolist()), dict(pose_keypoints_2d=(body/2).tolist())]
        (folder/f"v_{t:012d}_keypoints.json").write_text(json.dumps(dict(version=1.3, people=people[:1 + t % 2])))


@reader("openpose json", make_openpose, "*.json", 1)
def read_openpose(folder, out):
    x = pose_json.read_openpose_json(folder, {})
    sound(x, x.shape[1])


def make_alphapose(folder: Path):
    points = np.tile([100., 120., .9], 26)
    points[::3] += np.arange(26); points[1::3] += np.arange(26)*3
    people = [dict(image_id=f"{t}.jpg", category_id=1, keypoints=(points + t).tolist(), score=2.5, idx=1 + k, box=[1, 2, 3, 4])
              for t in range(3) for k in range(1 + t % 2)]
    (folder/"alphapose-results.json").write_text(json.dumps(people))


@reader("alphapose json", make_alphapose, "*.json", 1.5)
def read_alphapose(folder, out): sound(pose_json.read_alphapose_json(folder/"alphapose-results.json", report={}), 26)


def pose_info(T: int) -> str:
    return json.dumps(dict(fps=25., height=48, width=64, frames=T, sha256="0"*64, estimator="none", settings={}, frames_said=T))


def make_pose(folder: Path):
    x = np.zeros((2, 137, 3), np.float32)
    x[:, :25] = 20, 30, .8
    np.savez_compressed(folder/"a.npz", joints=x, info=pose_info(2))
    np.savez(folder/"b.npz", joints=x[:1], info=pose_info(1))


@reader("pose npz", make_pose, "*.npz", 2)
def read_poses(folder, out):
    for p in folder.glob("*.npz"):
        joints, info = pose.read_pose(p)
        sound(joints, 137)
        assert 0 < float(info["fps"]) < np.inf and 0 < int(info["height"]) and 0 < int(info["width"])


# ---- pictures

def pictures_of(n: int, size=(32, 48)):
    rows, cols = np.indices(size)
    return (np.stack([rows*5 % 256, cols*4 % 256, (rows + cols + 9*t) % 256], -1).astype(np.uint8) for t in range(n))


def make_films(folder: Path):
    import av
    frames.write_video(folder/"a.mp4", pictures_of(5), 25)
    for name, codec, kind in (("b.avi", "mjpeg", "yuvj420p"), ("c.mkv", "mpeg4", "yuv420p")):
        with av.open(str(folder/name), "w", container_options=dict(fflags="+bitexact")) as box:
            stream = box.add_stream(codec, rate=12)
            stream.width, stream.height, stream.pix_fmt = 48, 32, kind
            for p in pictures_of(4): box.mux(stream.encode(av.VideoFrame.from_ndarray(p, "rgb24")))
            box.mux(stream.encode())


@reader("video", make_films, "*.mp4 *.mp4 *.avi *.mkv", 0.6)
def read_films(folder, out):
    for p in folder.glob("*.*"):
        said = frames.probe(p)
        assert said.height > 0 and said.width > 0 and 0 < said.fps < np.inf
        n = 0
        for picture in frames.pictures(p):
            x = frames.cut(picture)
            assert x.shape == (*frames.picture_size(picture), 3) and x.dtype == np.uint8
            frames.luma_cells(picture, 8)
            n += 1
        assert n


# ---- what the project writes and reads again

def every_clip(store: ClipStore):
    for i in range(min(store.n, 8)):
        for kind in store.arrays:
            x = store.clip(kind, i)
            assert len(x) == store.lengths(kind)[i] > 0, "clips of another length than is said"
            assert kind == "video" or np.isfinite(x).all(), "not finite"
        assert -1 <= store.y[i] < store.K and isinstance(store.subjects[i], str)
    for kind in store.arrays: store.sample(kind, np.arange(min(store.n, 8)), 4)


def make_store(folder: Path):
    joints = rest_pose(layout("coco17"))[None].repeat(3, 0).astype(np.float32)
    joints[..., :2] = joints[..., :2]*20 + 60
    gen = np.random.default_rng(1)
    for packing in ("raw", "jpeg"):
        meta = StoreMeta("videos", "coco17", ("nod", "shrug"), 25., 64, 64, False, "rgb", "made up")
        with StoreWriter(folder/packing, meta, packing, dict(mode="full", size=8, stride=1, saliency={})) as w:
            for i in range(3):
                w.add(Clip(f"c{i}", f"v{i}", f"s{i}", i % 2, joints + np.float32([i, i, 0]), gen.integers(0, 255, (2, 8, 8, 3)).astype(np.uint8), split=("train", "val", "test")[i]))


@reader("clip store", make_store, "store.json manifest.parquet *.npy video.bin", 0.6)
def read_store(folder, out):
    from mgr_paper.evidence.stages import open_store
    for name in ("raw", "jpeg"): every_clip(open_store(folder/name))


SHIPPED = Path(skeleton_files.__file__).parents[1]/"weights"/"synth"


def make_record(folder: Path):
    record = json.loads((SHIPPED/"joint"/"record.json").read_text())
    small = dict(record, per_class=record["per_class"][:2])
    (folder/"run").mkdir()
    (folder/"run"/"record.json").write_text(json.dumps(small))
    (folder/"card.json").write_bytes((SHIPPED/"card.json").read_bytes())


@reader("record json", make_record, "record.json card.json", 1.5)
def read_record(folder, out):
    from mgr_paper.config import RunConfig, from_dict
    from mgr_paper.evidence.stages import run_record
    from mgr_paper.evidence.weights import announce
    from mgr_paper.records import check_parameters, read_records
    record = check_parameters(run_record(folder/"run"))
    assert isinstance(from_dict(record["config"], RunConfig), RunConfig) and len(read_records(folder/"run")) == 1
    with contextlib.redirect_stdout(io.StringIO()): announce([folder/"run"])


def make_scores(folder: Path):
    from mgr_paper.records import save_scores
    ids = [f"c{i}" for i in range(6)]
    gen = np.random.default_rng(2)
    save_scores(folder/"record.npz", gen.normal(size=(6, 4)), np.arange(6) % 4, ids, ["s1"]*3 + ["s2"]*3, ids, ["val"]*3 + ["test"]*3)
    save_scores(folder/"heldout.npz", gen.normal(size=(2, 4)), np.arange(2), ids[:2], ["s1"]*2, ids[:2], "val", [1, -1], [True, False])


@reader("scores npz", make_scores, "*.npz", 2)
def read_scores(folder, out):
    from mgr_paper.evidence.stages import scores_of
    for part in ("val", "test"):
        s = scores_of(folder, part)
        n, K = s["logits"].shape
        assert n and K and np.isfinite(s["logits"]).all() and s["y"].dtype == np.int64 and s["y"].max() < K
        assert all(v.shape == (n,) for k, v in s.items() if k != "logits") and s["clip_id"].dtype.kind == "U"


def make_network(folder: Path):
    import torch
    from mgr_paper.training.checkpoints import save_tensors
    save_tensors(folder/"network.safetensors", {"a.weight": torch.arange(6.).reshape(2, 3), "step": torch.tensor(3), "h": torch.ones(4).bfloat16()},
                 dict(branch="joint", config=dict(layout="coco17", tier="smoke"), classes=["nod", "shrug"]))


@reader("safetensors", make_network, "*.safetensors", 2.5)
def read_network(folder, out):
    from mgr_paper.training.checkpoints import load_tensors
    from mgr_paper.training.transfer import read_network, started_from
    tensors, about = load_tensors(folder/"network.safetensors")
    assert isinstance(about, dict) and sum(t.numel() for t in tensors.values()) < 10**6
    assert started_from(folder)["sha256"]
    tensors, classes = read_network(folder, "joint", "coco17")
    assert all(isinstance(c, str) for c in classes)


def make_settings(folder: Path):
    (folder/"settings.ini").write_text("""# which people may change
[reproduce]
tier = quick          # smoke, quick, bench or paper
data = synth
jobs = 2
threads = 1
runs = runs
figures = figures

[roots]
utd-mhad = data/utd_mhad
imigue = ~/imigue

[plan smoke synth]
splits = subjects
seeds = 0 1
methods = cmpl self

[grid t2 smoke synth]
splits = subjects
seeds = 0
variants = ce
""")


@reader("settings.ini", make_settings, "*.ini", 2.5)
def read_settings(folder, out):
    from mgr_paper.config import settings
    s = settings(folder/"settings.ini")
    assert s.jobs > 0 and s.threads > 0 and isinstance(s.runs, Path) and all(isinstance(p, Path) for p in s.roots.values())


CLIPS = [f"00{v}_{k}" for v in range(1, 4) for k in range(4)]


def make_submissions(folder: Path):
    rows = "".join(f"{c},{i % 32}\n" for i, c in enumerate(CLIPS))
    (folder/"prediction.csv").write_text("Id,Target\n" + rows)
    (folder/"list.csv").write_text("id,length\n" + "".join(f"{c}.mp4,9\n" for c in CLIPS))
    for name, inner, data in (("old.zip", "Submission.csv", rows), ("prediction.zip", "prediction.csv", "Id,Target\n" + rows)):
        with zipfile.ZipFile(folder/name, "w", zipfile.ZIP_DEFLATED) as z: z.writestr(inner, data)


@reader("submission", make_submissions, "*.csv *.zip", 2.5)
def read_submissions(folder, out):
    from mgr_paper.evidence.submission import check_submission, test_clips
    clips = test_clips(folder/"list.csv")
    for name in ("prediction.csv", "old.zip", "prediction.zip"):
        report = check_submission(folder/name, clips)
        assert report["rows"] == len(clips) == sum(report["counts"])


def make_trial(folder: Path):
    utd_mhad.write_example(folder, (1,), (1,), (1,), 2, size=(12, 16))
    for p in list(folder.rglob("*.mat")):  # as the publishers have it: compressed
        from scipy.io import loadmat, savemat
        held = {k: v for k, v in loadmat(p).items() if not k.startswith("__")}
        savemat(p.with_name(p.name.replace("a1", "a2")), held, do_compression=True)


@reader("utd mat", make_trial, "*.mat", 1.2)
def read_trials(folder, out):
    for trial in utd_mhad.find_trials(folder)[0]:
        clip, row = utd_mhad.read_clip(trial, 8)
        sound(clip.joints, 20)
        assert np.isfinite(clip.joints3d).all() and clip.video.dtype == np.uint8 and 0 <= row["on_body"] <= 1


def make_notebook(folder: Path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
    cells = [new_markdown_cell("# A", id="a"), new_code_cell("tier: str = 'smoke'  # size\nseeds: list = [0, 1]\nlr: float = .5", metadata=dict(tags=["parameters"]), id="b")]
    nbformat.write(new_notebook(cells=cells), folder/"a.ipynb")


@reader("notebook", make_notebook, "*.ipynb", 0.8)
def read_notebook(folder, out):
    from mgr_paper.batch import parameters
    for name, (kind, value) in parameters(folder/"a.ipynb").items(): assert name.isidentifier() and isinstance(kind, type)



# ---- readers that are wrong on purpose: what `fuzz.py` must notice

def make_word(folder: Path): (folder/"a.txt").write_text("sound")


def worry(misbehave: Callable) -> Callable:
    "A reader that reads the sound file and loses its head over every other."
    def read(folder, out):
        if (folder/"a.txt").read_bytes() != b"sound": misbehave(folder)
    return read


def _sleeps(folder):
    import time
    time.sleep(3600)


def _dies(folder):
    import os
    os.abort()


def _eats(folder): assert bytearray(3 << 30)


def _swallows(folder):
    from mgr_paper.core import MgrError
    try: bytearray(3 << 30)
    except MemoryError as e: raise MgrError("a.txt is damaged") from e


def _grows(folder): assert len(b"x"*(400 << 20))


def _starts(folder):
    import subprocess
    subprocess.run(["true"], check=True)


def _writes(folder): (folder.parent.parent/"out of the folder").write_text("x")


def _looks(folder): (folder.parent.parent/"outside.mp4").read_bytes()


def _runs(folder): exec("1")


def _talks(folder):
    import socket
    with contextlib.suppress(OSError), socket.socket() as s: s.connect(("127.0.0.1", 9))


def _fails(folder): {}["key"]


def _says_nonsense(folder): raise AssertionError("not finite")


FAULTY = {f"{kind}: {f.__name__[1:]}": Reader(make_word, ("a.txt",), worry(f)) for kind, f in (
    ("hang", _sleeps), ("crash", _dies), ("memory", _eats), ("memory", _swallows), ("memory", _grows), ("reach", _starts), ("reach", _writes),
    ("reach", _looks), ("reach", _runs), ("reach", _talks), ("exception", _fails), ("wrong", _says_nonsense))}
