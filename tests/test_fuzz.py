"""Damaged files end in a result that makes sense or in one line of ours. The long run: python scripts/fuzz.py"""
import csv
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/"scripts"))
import fuzz
from fuzz_readers import FAULTY, READERS
from mutations import BYTES, as_zip, mutate

from mgr_paper.core import MgrError

NAMES = list(READERS)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    "Sound files of every reader, made when they are asked for."
    held = {}
    def seeds(name):
        if name not in held: held[name] = READERS[name].seeds(tmp_path_factory.mktemp("seeds"))
        return held[name]
    return seeds


def tried(name, files, folder):
    "Read files as the long run does; what is neither read nor refused comes out."
    for d in ("in", "out"): (folder/d).mkdir(parents=True)
    for n, content in files.items():
        (folder/"in"/n).parent.mkdir(parents=True, exist_ok=True)
        (folder/"in"/n).write_bytes(content)
    try: READERS[name].read(folder/"in", folder/"out")
    except MgrError as e:
        assert len(str(e)) < fuzz.LONGEST and "\n" not in str(e)
        return str(e)
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_sound_files_are_read_and_damaged_ones_end_well(ground, tmp_path, name):
    seeds, refused = ground(name), 0
    assert tried(name, seeds[0].files, tmp_path/"sound") == ""
    for number in range(25):
        sound, data = fuzz.damaged(seeds, name, 1, number)
        refused += bool(tried(name, sound.files | {sound.target: data}, tmp_path/str(number)))
    assert refused  # else the damage does not reach the reader


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_long_run(tmp_path, name):
    "Each reader in a process of its own, with limits; 20,000 inputs in all."
    rows = fuzz.follow(name, 2, int(20_000*READERS[name].share/sum(r.share for r in READERS.values())), tmp_path/"base")
    assert not [r for r in rows if r["what"] in fuzz.FAULTS]


@pytest.mark.parametrize("name", ["crash: dies", "memory: swallows", "reach: writes", "reach: starts"])
def test_the_long_run_notices(tmp_path, name): noticed(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in FAULTY if n not in ("crash: dies", "memory: swallows", "reach: writes", "reach: starts")])
def test_the_long_run_notices_everything(tmp_path, name): noticed(name, tmp_path)


def noticed(name, folder):
    "A reader that misbehaves on purpose is reported with the right word, and the next input gets a new process."
    rows = fuzz.follow(name, 0, 2, folder/"base", quiet=True, seconds=3)
    assert len(rows) == 2 and {r["what"] for r in rows} - {"accepted"} == {name.partition(":")[0]}, rows  # some damage leaves a file as it was


def test_an_input_can_be_made_again(ground):
    for name in ("xlsx", "pickle", "safetensors"):
        first, second = (fuzz.damaged(ground(name), name, 5, 7)[1] for _ in range(2))
        assert first == second != fuzz.damaged(ground(name), name, 5, 8)[1]


def test_sound_files_are_the_same_at_every_call(tmp_path):
    for name in NAMES:
        a, b = (READERS[name].seeds(tmp_path/f"{name} {k}") if (tmp_path/f"{name} {k}").mkdir() is None else None for k in "ab")
        assert a == b, name


def test_changed_archives_reach_the_reader_behind_them(ground):
    "A member is changed and its checksum is right again: else only zipfile would be tested."
    sound = ground("xlsx")[0]
    data, sheets, rng = sound.files[sound.target], set(), Random(0)
    for _ in range(60):
        with zipfile.ZipFile(io.BytesIO(as_zip(data, rng))) as z:
            assert z.testzip() is None
            sheets |= {z.read(n) for n in z.namelist() if n.endswith("sheet1.xml")}
    assert len(sheets) > 3


@given(data=st.binary(max_size=400), seed=st.integers(0, 2**32), ending=st.sampled_from(["", ".json", ".csv", ".npz", ".pkl", ".mp4", ".mat"]))
@settings(max_examples=150, deadline=None)
def test_damaging_never_fails_on_bytes(data, seed, ending):
    rng = Random(seed)
    for way in BYTES: assert isinstance(way(data, rng), bytes)
    if not ending: assert isinstance(mutate(data, "x", rng), bytes)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["schema", "meta", "arrays", "people", "branch", "pose_keypoints_2d", "a"]), x, max_size=4),
                    max_leaves=12))
@settings(max_examples=120, deadline=None)
def test_any_json_is_refused_or_read(tmp_path_factory, x):
    from mgr_paper.preprocessing.pose_json import read_alphapose_json, read_openpose_json
    from mgr_paper.preprocessing.store import ClipStore
    from mgr_paper.records import read_record
    folder = tmp_path_factory.getbasetemp()/"json"
    folder.mkdir(exist_ok=True)
    for name in ("store.json", "0_keypoints.json"): (folder/name).write_text(json.dumps(x))
    for read in (lambda: ClipStore(folder), lambda: read_record(folder/"store.json"), lambda: read_alphapose_json(folder/"store.json"),
                 lambda: read_openpose_json(folder)):
        with pytest.raises(MgrError): read()


def test_the_committed_table_is_that_of_a_long_run():
    rows = list(csv.DictReader((ROOT/"figures"/"benchmarks"/"fuzz.csv").open()))
    assert {r["reader"] for r in rows} == set(READERS) and sum(int(r["inputs"]) for r in rows) >= 100_000
    for r in rows: assert int(r["faults"]) == 0 and int(r["refused"]) + int(r["accepted"]) == int(r["inputs"]) and int(r["slowest_ms"]) < 1000*fuzz.SECONDS


# ---------------------------------------------------------------- what was found: each of these ended in another exception, a crash or worse

def replaced(name, target, new):
    "The sound files of a reader with one of them replaced: by bytes, or by what a function makes of them."
    def files(ground):
        sound = next(s.files for s in ground(name) if target in s.files)
        return sound | {target: new(sound[target]) if callable(new) else new}
    return name, files


def member(inner, new):
    "Another content of one member of an archive, packed as it should be."
    def change(data):
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
            for n in old.namelist(): z.writestr(n, new(old.read(n)) if n.endswith(inner) else old.read(n))
        return out.getvalue()
    return change


def swap(old, new): return lambda data: data.replace(old, new)


def as_json(change):
    def both(data):
        x = json.loads(data)
        change(x)
        return json.dumps(x).encode()
    return both


def as_object(change):
    def both(data):
        x = pickle.loads(data)  # our own seed
        change(x)
        return pickle.dumps(x)
    return both


def arrays(**changes):
    def both(data):
        with np.load(io.BytesIO(data)) as z: held = {k: z[k] for k in z.files} | changes
        out = io.BytesIO()
        np.savez(out, **held)
        return out.getvalue()
    return both


def header(change):
    "Of a safetensors file."
    def both(data):
        n = struct.unpack("<Q", data[:8])[0]
        head = json.loads(data[8:8+n])
        change(head)
        head = json.dumps(head).encode()
        return struct.pack("<Q", len(head)) + head + data[8+n:]
    return both


def put(path, value):
    "Set a place in nested containers; the last step may delete."
    def change(x):
        *way, last = path
        for k in way: x = x[k]
        if value is KeyError: del x[last]
        else: x[last] = value
    return change


def config(text): return header(put(["__metadata__", "config"], text))


def mat(**held):
    from scipy.io import savemat
    out = io.BytesIO()
    savemat(out, held)
    return out.getvalue()


def offsets(data):
    "A header of 128 bytes that asks for eight terabytes."
    return data[:10] + data[10:128].replace(b"(7,)", b"(1099511627776,)")[:118].rstrip(b"\n ").ljust(117) + b"\n" + data[128:]


def column(**values):
    def both(data):
        import pandas as pd
        table, out = pd.read_parquet(io.BytesIO(data)), io.BytesIO()
        for k, v in values.items(): table[k] = [v]*len(table)
        table.to_parquet(out)
        return out.getvalue()
    return both


FOUND = {
    # sheets and tables
    "a number that single precision cannot hold": (*replaced("imigue csv", "0001_light_hand.csv", lambda d: d.split(b",", 2)[0] + b",1e39," + d.split(b",", 2)[2]), "no finite number"),
    "a cell in the last corner of a sheet": (*replaced("xlsx", "0001_openpose.xlsx", member("sheet1.xml", swap(b'r="OU1"', b'r="XFD1048576"'))), "a cell in"),
    "a cell far down": (*replaced("xlsx", "0001_openpose.xlsx", member("sheet1.xml", swap(b'r="OU1"', b'r="OU1048576"'))), "a cell in row 1048576"),
    "the same, written in another way": (*replaced("xlsx", "0001_openpose.xlsx", member("sheet1.xml", swap(b'r="OU1"', b"r = 'OU1048576'"))), "places of cells"),
    "a member longer than its archive": (*replaced("xlsx", "0001_openpose.xlsx", lambda d: d[:(at := d.rindex(b"PK\1\2") + 20)] + b"\xff\xff\xff\x7f" + d[at+4:]), "in an archive of"),
    "a class number of 5,000 digits": (*replaced("smg csv", "label_name.txt", swap(b"3\t", b"9"*5000 + b"\t")), "does not name the classes"),
    "a class number that is a power": (*replaced("smg csv", "label_name.txt", swap(b"3\tname", "\u00b2\tname".encode())), "does not name the classes"),
    "a field longer than csv reads": (*replaced("smg csv", "Sample0001/Sample0001_data.csv", b"x"*200_000 + b",1,2"), "field larger"),
    "a label of 5,000 digits": (*replaced("ma52", "train_list_videos.txt", lambda d: d.replace(b".mp4 7", b".mp4 " + b"7"*5000, 1)), "row"),
    "a frame number of 5,000 digits": (*replaced("labels.csv", "labels.csv", swap(b"0,4", b"0," + b"4"*5000)), "start and end"),
    "a file name that no system takes": (*replaced("labels.csv", "labels.csv", swap(b"nod/1.mp4", b"x"*300)), "no file"),
    # pickles
    "a split that is a number": (*replaced("skeleton pickle", "a.pkl", as_object(put(["split", "train"], 3))), "no list of clip names"),
    "a split that is named by a number": (*replaced("skeleton pickle", "a.pkl", as_object(put(["split"], {1: []}))), "no list of clip names"),
    "a clip that is named by a list": (*replaced("skeleton pickle", "a.pkl", as_object(put(["annotations", 1, "frame_dir"], []))), "clip number 1"),
    "ragged joints": (*replaced("skeleton pickle", "a.pkl", as_object(put(["annotations", 0, "keypoint"], [[1], [1, 2]]))), "keypoint that is a list"),
    "scores that are words": (*replaced("skeleton pickle", "a.pkl", as_object(put(["annotations", 0, "keypoint_score"], np.full((1, 3, 17), "a")))), "no array of floats"),
    "a label that would name a billion classes": (*replaced("skeleton pickle", "a.pkl", as_object(put(["annotations", 0, "label"], 10**9))), "has label"),
    "a picture of 10^400 pixels": (*replaced("skeleton pickle", "a.pkl", as_object(put(["annotations", 0, "img_shape"], (10**400, 1)))), "img_shape"),
    "half a letter in a name": (*replaced("skeleton pickle", "a.pkl", as_object(lambda x: (put(["annotations", 0, "frame_dir"], "\ud800_0")(x), put(["split"], {})(x), put(["split", "train"], ["001_0"])(x)))), "no text"),
    # JSON
    "a coordinate of 400 digits": (*replaced("openpose json", "v_000000000001_keypoints.json", as_json(put(["people", 0, "pose_keypoints_2d", 0], 10**400))), "no flat list"),
    "two frames a million apart": (*replaced("alphapose json", "alphapose-results.json", as_json(put([0, "image_id"], "999998.jpg"))), "frame numbers must count"),
    "a record of brackets": (*replaced("record json", "run/record.json", b"["*100_000), "is no JSON"),
    "a card that is cut short": (*replaced("record json", "card.json", b'{"name": '), "is no JSON"),
    "a card of other things": (*replaced("record json", "card.json", b'{"name": "x"}'), "is no card"),
    "a card with a score of 400 digits": (*replaced("record json", "card.json", as_json(lambda x: next(iter(x["scores"].values())).update(high=10**400))), "is no card"),
    "settings that are a number": (*replaced("record json", "run/record.json", as_json(put(["config", "train"], 1))), "TrainConfigs is given as 1"),
    "a setting of 400 digits": (*replaced("record json", "run/record.json", as_json(put(["config", "joint", "dropout"], 10**400))), "wrong type"),
    "a card that is named by a list": (*replaced("record json", "card.json", as_json(put(["name"], []))), "is no card"),
    # arrays
    "info that is bytes": (*replaced("pose npz", "a.npz", arrays(info=np.array(b"{}"))), "no text in info"),
    "a film of text": (*replaced("pose npz", "a.npz", arrays(joints=np.array("x"))), "joints of shape"),
    "frames that are said in words": (*replaced("pose npz", "a.npz", lambda d: arrays(info=json.dumps(json.loads(str(np.load(io.BytesIO(d))["info"])) | dict(frames_said="x")))(d)), "frames_said"),
    "a header that asks for eight terabytes": (*replaced("pose npz", "a.npz", member("joints.npy", swap(b"(2, 137, 3), }" + b" "*8, b"(2, 9999999999999), } "))), "announced"),
    "scores of more rows than classes": (*replaced("scores npz", "record.npz", arrays(y=np.zeros(3, np.int64))), "y is int64 of shape (3,)"),
    "scores without a row": (*replaced("scores npz", "record.npz", arrays(part=np.array("val"))), "part is"),
    "logits that are words": (*replaced("scores npz", "record.npz", arrays(logits=np.full((6, 4), "s1"))), "logits is"),
    "a class beyond the logits": (*replaced("scores npz", "record.npz", arrays(y=np.full(6, 9))), "is not in 0..3"),
    "scores that are not finite": (*replaced("scores npz", "record.npz", arrays(logits=np.full((6, 4), np.nan, np.float16))), "not finite"),
    "a damaged stream in an archive": (*replaced("scores npz", "record.npz", lambda d: d[:60] + b"\xff"*8 + d[68:]), "missing or damaged"),
    # films
    "a list of films that is called a film": (*replaced("video", "a.mp4", b"ffconcat version 1.0\nfile b.avi\n"), "no video that can be read"),
    "a playlist that is called a film": (*replaced("video", "a.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nb.avi\n#EXT-X-ENDLIST\n"), "no video that can be read"),
    # stores
    "a store that is a list": (*replaced("clip store", "raw/store.json", b"[1]"), "version None"),
    "a store without meta": (*replaced("clip store", "raw/store.json", as_json(put(["meta"], {}))), "no sound meta"),
    "arrays that are a list": (*replaced("clip store", "raw/store.json", as_json(put(["arrays"], []))), "lacks one of"),
    "an array that is a word": (*replaced("clip store", "raw/store.json", as_json(put(["arrays", "joints"], "x"))), "no sound array"),
    "an array of another folder": (*replaced("clip store", "raw/store.json", as_json(put(["arrays", "../jpeg/joints"], {"shape": [9, 17, 3]}))), "no sound array '../jpeg/joints'"),
    "pictures of words": (*replaced("clip store", "jpeg/store.json", as_json(put(["arrays", "video", "shape", 1], "8"))), "no sound array"),
    "a table without people": (*replaced("clip store", "raw/manifest.parquet", lambda d: drop(d, "subject_id")), "lacks the column subject_id"),
    "starts that are words": (*replaced("clip store", "raw/manifest.parquet", column(joints_start="1")), "no whole numbers in joints_start"),
    "a clip beyond the end": (*replaced("clip store", "raw/manifest.parquet", column(joints_start=2**62)), "outside of the 9 frames"),
    "a clip before the beginning": (*replaced("clip store", "raw/manifest.parquet", column(video_start=-1)), "outside of the 6 frames"),
    "a class beyond the last": (*replaced("clip store", "raw/manifest.parquet", column(y=5)), "not in 0..1"),
    "a table of a gigabyte in a few bytes": (*replaced("clip store", "raw/manifest.parquet", lambda d: bomb_table()), "bytes of text"),
    "a table with damaged pages": (*replaced("clip store", "raw/manifest.parquet", lambda d: d[:20] + b"\xff"*40 + d[60:]), "is damaged"),
    "joints that have suffered on disk": (*replaced("clip store", "raw/joints.npy", lambda d: d[:128] + b"\xff"*4 + d[132:]), "holds a NaN or infinite number"),
    "joints of another kind": (*replaced("clip store", "raw/joints.npy", swap(b"<f4", b"<i4")), "missing or incomplete"),
    "an array header that is no Python": (*replaced("clip store", "raw/joints.npy", swap(b"{'descr'", b"(((((((("), ), "missing or incomplete"),
    "offsets that ask for eight terabytes": (*replaced("clip store", "jpeg/video_offsets.npy", offsets), "missing or damaged"),
    "pictures in the wrong order": (*replaced("clip store", "jpeg/video_offsets.npy", lambda d: d[:136] + struct.pack("<q", 10**6) + d[144:]), "do not follow"),
    "pictures of another format": (*replaced("clip store", "jpeg/video.bin", lambda d: (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n" + d)[:len(d)]), "frame 0 is damaged"),
    # networks
    "settings that are no JSON": (*replaced("safetensors", "network.safetensors", config("{")), "is no JSON"),
    "settings that are a list": (*replaced("safetensors", "network.safetensors", config("[]")), "a list for a configuration"),
    "a configuration without settings": (*replaced("safetensors", "network.safetensors", header(put(["__metadata__", "config"], KeyError))), "is no JSON"),
    "classes that are a number": (*replaced("safetensors", "network.safetensors", config('{"branch": "joint", "config": {}, "classes": 2}')), "says no classes"),
    "settings that are a word": (*replaced("safetensors", "network.safetensors", config('{"branch": "joint", "config": "x", "classes": []}')), "says no config"),
    # settings.ini
    "no data set in settings.ini": (*replaced("settings.ini", "settings.ini", swap(b"data = synth", b"")), "'data'"),
    "no job at once": (*replaced("settings.ini", "settings.ini", swap(b"jobs = 2", b"jobs = 0")), "jobs = 0"),
    "a section without a name": (*replaced("settings.ini", "settings.ini", swap(b"[roots]", b"[roots]\n[ ]")), "unknown section"),
    "somebody without a home": (*replaced("settings.ini", "settings.ini", swap(b"~/imigue", b"~nobody-of-that-name/x")), "cannot be read"),
    "a tier of 10,000 letters": (*replaced("settings.ini", "settings.ini", swap(b"quick", b"y,"*5000)), "unknown tier"),
    # submissions
    "a damaged stream in a submission": (*replaced("submission", "old.zip", lambda d: d[:46] + b"\xff"*9 + d[55:]), "not a readable zip"),
    "a damaged list of contents": (*replaced("submission", "prediction.zip", swap(b"PK\1\2", b"PK\1\3")), "not a readable zip"),
    "a clip with a number of 5,000 digits": (*replaced("submission", "prediction.csv", swap(b"001_3", b"001_" + b"3"*5000)), "not in the test list"),
    # recordings
    "a depth that is not a number": (*replaced("utd mat", "Depth/a1_s1_t1_depth.mat", mat(d_depth=np.full((12, 16, 2), np.nan))), "a depth outside"),
    "joints a light year away": (*replaced("utd mat", "Skeleton/a1_s1_t1_skeleton.mat", mat(d_skel=np.full((20, 3, 2), 1e300))), "infinite coordinate"),
    "joints that are words": (*replaced("utd mat", "Skeleton/a1_s1_t1_skeleton.mat", mat(d_skel=np.full((20, 3, 2), "a"))), "cannot read"),
    "joints in cells": (*replaced("utd mat", "Skeleton/a1_s1_t1_skeleton.mat", mat(d_skel=np.array([[[1]*2]*3]*20, dtype=object))), "no array of numbers"),
    "numbers of a kind that crashes SciPy": (*replaced("utd mat", "Skeleton/a1_s1_t1_skeleton.mat", lambda d: d[:192] + b"\x0b" + d[193:]), "cannot read"),
    "a part that says it is 4 GB long": (*replaced("utd mat", "Skeleton/a1_s1_t1_skeleton.mat", lambda d: d[:176] + struct.pack("<II", 9, 0xfffffff0) + d[184:]), "cannot read"),
    # notebooks
    "a type that runs code": (*replaced("notebook", "a.ipynb", swap(b"tier: str", b"tier: ().__class__.__base__.__subclasses__()")), "is no parameter"),
    "a type that counts for ever": (*replaced("notebook", "a.ipynb", swap(b"tier: str", b"tier: 9**9**9")), "is no parameter"),
    "parameters that are no Python": (*replaced("notebook", "a.ipynb", swap(b"tier: str", b"tier str")), "no Python"),
    "a notebook of numbers": (*replaced("notebook", "a.ipynb", b'{"cells": [1], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'), "is no notebook"),
}


def drop(data, name):
    import pandas as pd
    out = io.BytesIO()
    pd.read_parquet(io.BytesIO(data)).drop(columns=name).to_parquet(out)
    return out.getvalue()


def bomb_table():
    "A word of a million letters, two thousand times: it is stored once."
    import pyarrow as pa
    import pyarrow.parquet as pq
    n, out = 2000, io.BytesIO()
    word = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array(["x"*10**6]))
    whole = {k: np.ones(n, np.int64) for k in ("y", "joints_start", "joints_frames", "video_start", "video_frames")}
    pq.write_table(pa.table({k: word for k in ("clip_id", "video_id", "subject_id", "split")} | whole), out)
    assert len(out.getvalue()) < 10**6
    return out.getvalue()


def test_a_joint_in_the_lens_is_missing(ground, tmp_path):
    "Its place in the picture would be beyond what single precision holds."
    from mgr_paper.preprocessing.utd_mhad import project
    uv = project(np.array([[.3, .2, 1e-310], [.3, .2, 2.]]), 240, 320)
    assert uv[0].tolist() == [0, 0, 0] and uv[1, 2] == 1


def test_classes_of_another_width_are_widened(ground, tmp_path):
    "They may be stored in one byte, and come back as everybody expects them."
    from mgr_paper.records import load_scores
    (tmp_path/"a.npz").write_bytes(arrays(y=np.arange(6, dtype=np.int8) % 4)(ground("scores npz")[0].files["record.npz"]))
    assert load_scores(tmp_path/"a.npz")["y"].dtype == np.int64


@pytest.mark.parametrize("what", FOUND)
def test_found(ground, tmp_path, what):
    name, files, said = FOUND[what]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert said in tried(name, files(ground), tmp_path/"x")
