"""Killed at every step, no room left, nothing to be written, two at once: what has a name is whole, and the same call mends the rest."""
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet  # noqa: F401  (here, or every child would load it)
import pytest
import torch
from typer.testing import CliRunner

from mgr_paper.cli import app
from mgr_paper.config import settings, tier_config, to_dict
from mgr_paper.core import MgrError, atomic_path, clear_abandoned, root
from mgr_paper.evidence import reproduce as graph
from mgr_paper.evidence.experiments import table_files
from mgr_paper.evidence.stages import train_run
from mgr_paper.preprocessing.frames import write_video
from mgr_paper.preprocessing.store import Clip, ClipStore, StoreMeta, StoreWriter
from mgr_paper.preprocessing.utd_mhad import write_example
from mgr_paper.training.checkpoints import save_tensors
from mgr_paper.records import read_record, save_scores, write_record

SCRIPTS, TINY = root()/"scripts", ("--tier", "smoke", "--set", "train.epochs=1", "--set", "train.batch=6")
sys.path.insert(0, str(SCRIPTS))
import kill  # noqa: E402  (a script)

# ---- writers, each with an older and a newer version of what it writes

def record(path, new):
    cfg = to_dict(tier_config("smoke", "synth"))
    write_record(path/"new"/"record.json", experiment="t0", row="joint", tier="smoke", seed=int(new), split="subjects", config=cfg, per_class=[],
                 data=dict(name="synth", fingerprint="f"*16, simulated=True, video_kind="rgb"), metrics={"top1": .5}, n=4, parameters_requested={},
                 started="2026-01-01", seconds=1., git=dict(commit="", dirty=False), versions={}, device="cpu")

def scores(path, new):
    ids = [f"c{i}" for i in range(300)]
    save_scores(path/"scores.npz", np.random.default_rng(int(new)).normal(size=(300, 20)), np.arange(300) % 20, ids, ids, ids, "test")

def store(path, new, packing="raw"):
    meta = StoreMeta("t", "openpose22", ("a", "b"), 25., 32, 32, True, "rgb", "a test")
    draw = np.random.default_rng(int(new))
    with StoreWriter(path/"store", meta, packing) as w:
        for k in range(3 + new):
            w.add(Clip(f"c{k}", f"v{k}", "s", k % 2, draw.uniform(.1, 1, (40, 22, 3)).astype("f4"), draw.integers(0, 255, (9, 32, 32, 3), np.uint8)))

def packed(path, new): store(path, new, "jpeg")

def tensors(path, new):
    save_tensors(path/"net.safetensors", {"w": torch.full((9000,), float(new))}, {"branch": "joint"})

def video(path, new):
    draw = np.random.default_rng(int(new))
    write_video(path/"v.mp4", (draw.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(30)), 25., lossless=True)

WRITERS = {f.__name__: f for f in (record, scores, store, packed, tensors, video)}

def content(folder):
    "name -> bytes of all that looks finished below a folder."
    parts = lambda p: p.relative_to(folder).parts
    return {"/".join(parts(p)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and not any(q[0] == "." for q in parts(p))}

def hidden(folder): return [p.name for p in folder.rglob(".*")]

def in_child(job, *args, dies_at=None, folder=None):
    "Exit code of a job in a process of its own, which kills itself before its n-th step on the file system below `folder`; what it said."
    out, into = os.pipe()
    if not (pid := os.fork()):
        code, steps = 1, itertools.count(1)
        def watch(event, words):
            if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "os.chmod", "os.truncate", "shutil.rmtree"):
                if any(str(folder) in str(w) for w in words) and next(steps) == dies_at: os.kill(os.getpid(), signal.SIGKILL)
        try:
            if dies_at: sys.addaudithook(watch)
            job(*args)
            code = 0
        except MgrError as e: code = os.write(into, str(e).encode()) and 2
        except BaseException as e: os.write(into, repr(e).encode())
        finally: os._exit(code)
    os.close(into)
    with open(out, "rb") as said: text = said.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


@pytest.mark.parametrize("older", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["new", "over an older one"])
@pytest.mark.parametrize("name", [n for n in WRITERS if n != "video"])
def test_killed_before_each_of_its_steps(tmp_path, name, older):
    "Before every step on the file system in turn: what has the name is the older or the newer one, whole; the same call then makes it."
    job, ends = WRITERS[name], {}
    for new in (False, True):
        (tmp_path/f"{new}").mkdir()
        assert in_child(job, tmp_path/f"{new}", new)[0] == 0
        ends[new] = content(tmp_path/f"{new}")
    assert ends[False] != ends[True]
    seen = []
    for n in itertools.count(1):
        case = tmp_path/f"{n}"
        case.mkdir()
        if older: assert in_child(job, case, False)[0] == 0
        code, said = in_child(job, case, True, dies_at=n, folder=case)
        if code == 0: break
        assert code == -signal.SIGKILL, said
        now = content(case)
        seen.append(next((k for k in (False, True) if now == ends[k]), None))
        assert now in (ends[True], ends[False] if older else {}) or (now == {} and name in ("store", "packed")), (n, list(now))
        if now == {} and older:  # between two names: the older folder steps aside, and comes back with the next look
            clear_abandoned(case)
            assert content(case) == ends[False]
        code, said = in_child(job, case, True)
        assert code == 0 and content(case) == ends[True] and hidden(case) == [], (n, said, hidden(case))
    assert n > 3 and (not older or False in seen)
    assert hidden(case) == []


# ---- no room, and nothing to be written

def mount(folder, *options):
    done = subprocess.run(["mount", "-o", ",".join(options), *(() if "remount" in options else ("-t", "tmpfs", "none")), str(folder)], capture_output=True)
    return done.returncode == 0


def fresh(folder, size):
    "An empty file system of another size: files that this process still maps keep a used one from shrinking."
    subprocess.run(["umount", "-l", str(folder)], check=True)
    assert mount(folder, f"size={size}")


@pytest.fixture
def small(tmp_path):
    "A file system of its own, two pages large; `mount` changes it."
    folder = tmp_path/"small"
    folder.mkdir()
    if os.getuid() or not mount(folder, "size=8k"): pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("older", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["new", "over an older one"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(small, tmp_path, name, older):
    "With every larger disk until it fits: one line that names the file, no trace, an older version as it was."
    job, failed = WRITERS[name], 0
    ends = {}
    for new in (False, True):
        (tmp_path/f"{new}").mkdir()
        assert in_child(job, tmp_path/f"{new}", new)[0] == 0
        ends[new] = content(tmp_path/f"{new}")
    target = next(iter(ends[True])).split("/")[0] if name in ("store", "packed") else next(iter(ends[True]))
    if older:
        assert mount(small, "remount", "size=64m") and in_child(job, small, False)[0] == 0
    used = -(-shutil.disk_usage(small).used//4096)
    for pages in (used + int(1.4**k) for k in itertools.count()):
        assert mount(small, "remount", f"size={4*pages}k")
        code, said = in_child(job, small, True)
        if code == 0: break
        failed += 1
        assert code == 2 and f"cannot write {small/target}" in said and "No space left" in said and "make room" in said and "\n" not in said, said
        assert hidden(small) == [] and content(small) == (ends[False] if older else {}), said
    assert failed > 1 and content(small) == ends[True] and hidden(small) == []


def ask(*words):
    return CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "200", "MGR_BATCH": "1"})


def refused(done, *named):
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.stderr.startswith("error: ") and len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in named: assert str(word) in done.stderr, done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A made-up data set, its store, its trained branches."
    folder = tmp_path_factory.mktemp("made")
    write_example(folder/"raw", actions=(1, 2, 3), people=(1, 2, 3, 4), trials=(1, 2))
    for words in (("prepare", "utd-mhad", folder/"raw", folder/"store"), *(("train", folder/"store", "--branch", b, "--out", folder/b, *TINY) for b in ("joint", "heatmap", "depth"))):
        done = ask(*words)
        assert done.exit_code == 0, (done.output, done.exception)
    return folder


def same(one, two):
    "Two run folders with the same results, apart from what differs by its nature."
    return kill.results(one) == kill.results(two)


def test_commands_on_a_full_disk(made, small):
    "Disks on which they end at different places; then there is room, and the same commands give the same results."
    commands = {"store": ("prepare", "utd-mhad", made/"raw", small/"store"), "joint": ("train", made/"store", "--branch", "joint", "--out", small/"joint", *TINY),
                "vote": ("fuse", made/"joint", made/"heatmap", "--out", small/"vote"),
                "cmpl": ("adapt", made/"store", made/"joint", made/"heatmap", made/"depth", "--out", small/"cmpl")}
    for name, sizes in {"store": (8, 200, 800), "vote": (4, 8), "joint": (8, 100, 400), "cmpl": (8, 200, 2000)}.items():
        for size in sizes:
            fresh(small, f"{size}k")
            refused(ask(*commands[name]), small, "No space left", "make room")
            assert content(small) == {} and (name in ("joint", "cmpl") or hidden(small) == [])  # trainings are gone on with
        assert mount(small, "remount", "size=64m")
        done = ask(*commands[name])
        assert done.exit_code == 0 and hidden(small) == [], (done.output, hidden(small))
        if (made/name).exists(): assert same(small/name, made/name)


def test_commands_on_a_read_only_disk(made, small, tmp_path, monkeypatch):
    commands = [("prepare", "utd-mhad", made/"raw", small/"x"), ("prepare", "synth", "-", small/"x"), ("simulate", small/"x", "--clips", "192", "--subjects", "6"),
                ("train", made/"store", "--branch", "joint", "--out", small/"x", *TINY), ("fuse", made/"joint", made/"heatmap", "--out", small/"x")]
    assert mount(small, "remount", "ro,size=64m")
    for words in commands:
        refused(ask(*words), small, "Read-only file system")
    assert list(small.iterdir()) == []
    assert mount(small, "remount", "rw")
    assert ask(*commands[-1]).exit_code == 0 and read_record(small/"x"/"record.json")["branch"] == "vote"


def train(made, folder):
    train_run(made/"store", "joint", folder/"joint", tier="smoke", changes={"train.epochs": 4, "train.batch": 6, "train.save_every": 1})


@pytest.mark.parametrize("moments", [(1, 130, 250), pytest.param((1, 12, 40, 70, 100, 130, 160, 190, 220, 250, 280, 310), marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_training_killed_at_some_of_its_steps(made, tmp_path, moments):
    "On the file system it takes some hundred steps; what was trained until then is not trained again, and the end is the same."
    (tmp_path/"alone").mkdir()
    assert in_child(train, made, tmp_path/"alone")[0] == 0
    whole, went_on = kill.results(tmp_path/"alone"), 0
    for n in moments:
        case = tmp_path/f"{n}"
        case.mkdir()
        code, said = in_child(train, made, case, dies_at=n, folder=case)
        assert code in (0, -signal.SIGKILL), said
        if code == 0: break
        assert kill.results(case) in ({}, whole)
        went_on += bool(list(case.rglob("*.state")))
        if kill.results(case) == {}:
            code, said = in_child(train, made, case)
            assert code == 0, said
        assert kill.results(case) == whole and hidden(case) == [], (n, hidden(case))
    assert went_on > 0


# ---- reproduce

BENCH = settings().figures/"bench"
needs_records = pytest.mark.skipif(not (BENCH/"records"/"synth").is_dir(), reason="no committed records")
ASKED = ("--tier", "bench", "--data", "synth", "--only", "figures,f2_long_tail", "--jobs", "1")
NO_CHECK = "import mgr_paper.evidence.reproduce as r; r.DISK_GB = dict.fromkeys(r.DISK_GB, 0); from mgr_paper.cli import main; main()"


def lay(folder):
    "A project folder with the committed records and nothing made."
    for name in ("Snakefile", "settings.ini", "profiles", "nbs"): (folder/name).symlink_to(root()/name)
    (folder/"figures"/"bench").mkdir(parents=True)
    (folder/"figures"/"bench"/"records").symlink_to(BENCH/"records")
    return folder


def reproduce(folder):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MGR_")} | {"MGR_ROOT": str(folder), "PYTHONPATH": str(root())}
    return subprocess.Popen([sys.executable, "-c", NO_CHECK, "reproduce", *ASKED], env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def as_committed(folder):
    made = [(folder/p.relative_to(root()), p) for p in table_files("f2_long_tail", "bench", "synth")]
    return all(new.exists() and new.read_bytes() == old.read_bytes() for new, old in made)


@needs_records
def test_two_at_once(tmp_path):
    "The second says who is at work, and the first is not disturbed."
    folder = lay(tmp_path)
    first = reproduce(folder)
    for line in first.stdout:
        if "steps to do" in line: break
    second = reproduce(folder)
    out, err = second.communicate()
    assert second.returncode == 2 and err.startswith("error: another reproduce is at work on bench-synth. wait") and len(err.splitlines()) == 1, out + err
    out, err = first.communicate()
    assert first.returncode == 0 and as_committed(folder), out + err


@pytest.mark.slow
@needs_records
def test_reproduce_on_a_full_disk(small):
    "It names the file and the reason; with room the same call makes the same bytes."
    assert mount(small, "remount", "size=64m")
    lay(small)
    ends = []
    for size in ("8k", "80k"):
        assert mount(small, "remount", f"size={size}")
        run = reproduce(small)
        out, err = run.communicate()
        ends.append(out + err)
        assert run.returncode in (1, 2) and "No space left" in out + err and "Traceback" not in out + err, out + err
        assert not any(p.exists() for p in small.glob("figures/bench/synth/*"))
    assert mount(small, "remount", "size=64m")
    run = reproduce(small)
    out, err = run.communicate()
    assert run.returncode == 0 and as_committed(small), out + err


@needs_records
def test_reproduce_on_a_read_only_disk(small):
    "One line says so; once the folder can be written to, the same call makes the same bytes."
    assert mount(small, "remount", "size=64m")
    before = sorted(p.name for p in lay(small).rglob("*"))
    assert mount(small, "remount", "ro,size=64m")
    run = reproduce(small)
    out, err = run.communicate()
    assert run.returncode == 2 and "Read-only file system" in err and "Traceback" not in out + err and len(err.splitlines()) == 1, out + err
    assert mount(small, "remount", "rw,size=64m")
    assert sorted(p.name for p in small.rglob("*")) == before
    run = reproduce(small)
    out, err = run.communicate()
    assert run.returncode == 0 and as_committed(small), out + err


def test_room_is_looked_for_where_the_work_goes(tmp_path, monkeypatch):
    "`runs` elsewhere was the remedy, and the wrong disk was looked at."
    (tmp_path/"far").mkdir()
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda p: real(p)._replace(free=10**13 if (tmp_path/"far") in (Path(p), *Path(p).parents) else 0))
    monkeypatch.setattr(graph, "folders", lambda: (tmp_path/"figures", tmp_path/"far"/"runs"))
    graph.check_request("quick", "synth", (), "local", None)
    monkeypatch.setattr(graph, "folders", lambda: (tmp_path/"figures", tmp_path/"runs"))
    with pytest.raises(MgrError, match="0.0 GB are free"): graph.check_request("quick", "synth", (), "local", None)


def test_tiers_that_share_a_store_do_not_run_at_once():
    "The one that makes the store anew would take it from under the other."
    assert {p.name for p in graph.locks("smoke", "utd-mhad")} == {"smoke-utd-mhad.lock", ".utd-mhad.lock"}
    assert set(graph.locks("smoke", "utd-mhad")) & set(graph.locks("bench", "utd-mhad"))
    assert not set(graph.locks("smoke", "synth")) & set(graph.locks("bench", "synth"))


# ---- at random moments

def test_killed_at_random_moments(tmp_path):
    rows = kill.run({"prepare": 2}, 1, tmp_path, tmp_path/"out")
    assert len(rows) == 2 and all(map(kill.good, rows)), rows


@pytest.mark.slow
def test_killed_at_many_random_moments(tmp_path):
    rows = kill.run(kill.KILLS, 1, tmp_path, tmp_path/"out")
    assert len(rows) > 50 and all(map(kill.good, rows)), rows


def test_the_committed_kills():
    "Fifty or more, over the whole length of every command, none with a fault."
    rows = kill.read(settings().figures/"benchmarks"/"kills.csv")
    assert len(rows) >= 50 and all(map(kill.good, rows)) and {r["command"] for r in rows} == set(kill.KILLS)
    for name in kill.KILLS:
        shares = [r["share"] for r in rows if r["command"] == name]
        assert min(shares) < .2 and max(shares) > .7, name


def test_a_result_that_differs_is_seen(tmp_path):
    "The comparison itself: one bit of a tensor, one score, one setting of a record; but not its seconds."
    one = tmp_path/"one"
    for job in (record, scores, tensors): job(one, True) if job is record else (one.mkdir(exist_ok=True), job(one, True))
    same_as = kill.results(one)
    def differs(change):
        two = tmp_path/"two"
        shutil.rmtree(two, ignore_errors=True)
        shutil.copytree(one, two)
        change(two)
        found = kill.results(two)
        return [k for k in {**found, **same_as} if found.get(k) != same_as.get(k)]
    def reword(key, value):
        def change(two):
            path = two/"new"/"record.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
        return change
    def flip(two):
        data = bytearray((two/"net.safetensors").read_bytes())
        data[-1] ^= 1
        (two/"net.safetensors").write_bytes(data)
    assert differs(lambda two: None) == [] and differs(reword("seconds", 9.)) == [] and differs(reword("seed", 7)) == ["new/record.json"]
    assert differs(flip) == ["net.safetensors"] and differs(lambda two: scores(two, False)) == ["scores.npz"]
    assert differs(lambda two: (two/"scores.npz").unlink()) == ["scores.npz"] and differs(lambda two: (two/"more.csv").touch()) == ["more.csv"]


def test_the_file_that_is_named_is_the_one_at_fault(tmp_path):
    "An input that cannot be read is not called an output that cannot be written."
    def copy():
        with atomic_path(tmp_path/"out.txt") as tmp: tmp.write_text((tmp_path/"gone"/"in.txt").read_text())
    with pytest.raises(FileNotFoundError) as e: copy()
    assert e.value.filename.endswith("in.txt") and list(tmp_path.iterdir()) == []
