"""Wrong words at every command: exit code 2, one line that names what is wrong, no traceback, nothing written."""
import json
import os
import shlex
import shutil

import numpy as np
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mgr_paper.cli import app
from mgr_paper.evidence.weights import WEIGHTS
from mgr_paper.preprocessing.frames import write_video
from mgr_paper.preprocessing.utd_mhad import prepare_utd, write_example


def everything(folder):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} | {
        p.relative_to(folder): 0 for p in folder.rglob("*") if p.is_dir()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with things to get wrong: sound ones, damaged ones, and ones of another kind than their name says."
    place = tmp_path_factory.mktemp("wrong")
    write_example(place/"raw", actions=(1, 2, 3), people=(1, 2, 3, 4), trials=(1, 2))
    prepare_utd(place/"raw", place/"store")
    for name, spoil in {"no-table": lambda p: (p/"manifest.parquet").unlink(), "bad-table": lambda p: (p/"manifest.parquet").write_text("x"),
                        "bad-store": lambda p: (p/"store.json").write_text("nope")}.items():
        shutil.copytree(place/"store", place/name)
        spoil(place/name)
    for name in ("joint", "heatmap"): shutil.copytree(WEIGHTS/"utd-mhad"/name, place/name)
    shutil.copytree(WEIGHTS/"synth"/"joint", place/"other")
    for name, file, text in (("bad-json", "record.json", "{"), ("list-json", "record.json", "[1]"), ("empty-json", "record.json", "{}"),
                             ("bad-scores", "record.npz", "junk"), ("bad-net", "network.safetensors", "junk"),
                             ("no-scores", "record.npz", None), ("no-net", "network.safetensors", None)):
        shutil.copytree(place/"joint", place/name)
        (place/name/file).unlink()
        if text is not None: (place/name/file).write_text(text)
    for name in ("empty", "dir.mp4", 'it\'s "a" run; rm x', "new\nline", "weiß ☃"): (place/name).mkdir()
    for name, data in {"text": b"hello\n", "zero": b"", "zero.mp4": b"", "junk.mp4": b"no video"*99, "junk.csv": b"a;b\n1;2\n",
                       "bin.csv": bytes(range(256))*9, "a.ipynb": b"{}"}.items(): (place/name).write_bytes(data)
    os.symlink(place/"gone", place/"dangling")
    write_video(place/"ok.mp4", (np.full((64, 80, 3), 5*k, np.uint8) for k in range(40)), 20.)
    np.savez(place/"no-pose.npz", a=1)
    return place


WRONG = """
prepare imigue empty out                                    | empty
prepare imigue text out                                     | text
prepare smg text out                                        | text
prepare ma52 empty out                                      | empty
prepare pickle text out                                     | text
prepare pickle zero out                                     | zero is empty
prepare pickle gone out                                     | gone
prepare videos empty out                                    | empty
prepare videos junk.mp4 out                                 | junk.mp4
prepare utd-mhad dangling out                               | dangling
prepare utd-mhad raw text                                   | text exists
prepare utd-mhad raw text/out                               | cannot write text/out
prepare utd-mhad raw /dev/null/x                            | cannot write /dev/null/x
prepare utd-mhad raw LONG                                   | name too long
prepare utd-mhad raw out --size 0                           | --size
prepare utd-mhad raw out --size 1000000                     | --size
prepare utd-mhad raw out --size many                        | not 'many'
prepare imigue raw out --crop round                         | round
prepare imigue raw out --layout human                       | human
prepare imigue raw out --stride 0                           | --stride
prepare ma52 raw out --labels rough                         | rough
prepare synth - out --tier huge                             | huge
prepare synth - out --set synth.people=[1]                  | people
prepare synth - out --set synth.contrast=-3                 | contrast
prepare synth - out --set synth.clips=[0,0,0,0]             | no clip
prepare synth - out --set =                                 | '='
prepare utd-mhad raw out --set synth.contrast=1             | synth only
prepare utd-mhad '' out                                     | empty
prepare utd-mhad                                            | ROOT
simulate text                                               | text exists
simulate raw                                                | raw exists
simulate text/out --clips 192 --subjects 3 --skeleton-only  | cannot write text/out
simulate out --clips -5                                     | -5
simulate out --clips 1000000000                             | not '1000000000'
simulate out --subjects 9999999                             | --subjects
simulate out --clips 192 --subjects 1                       | 1 subjects are too few
simulate out --clips 192 --subjects 6 --seed -1             | '--seed': Input should be greater than or equal to 0, not '-1'
extract gone.mp4 out                                        | gone.mp4
extract empty out                                           | empty
extract dir.mp4 out                                         | dir.mp4
extract ok.mp4                                              | Missing
train gone --branch joint --out out                         | gone
train empty --branch joint --out out                        | empty
train no-table --branch joint --out out                     | no-table is damaged
train bad-table --branch joint --out out                    | bad-table is damaged
train bad-store --branch joint --out out                    | bad-store
train store --branch joint --out text/out --tier smoke      | cannot write text/out
train store --branch joint --out text                       | text exists
train store --branch '' --out out                           | empty
train store --branch swin --out out                         | swin
train store --branch joint --out out --init gone            | gone
train store --branch joint --out out --init text            | text
train store --branch joint --out out --init bad-net         | bad-net
train store --branch joint --out out --seed -1              | --seed
train store --branch joint --out out --set train.lr=nan     | train.lr =
train store --branch joint --out out --set train.lr=NaN     | train.lr = nan
train store --branch joint --out out --set joint.dropout=-1 | joint.dropout =
train store --branch joint --out out --set train.epochs=-1  | epochs
train store --branch joint --out out --set train.epochs=1.5 | epochs
train store --branch joint --out out --set layout=          | layout
train store --branch joint --out out --set joint.strides=[1]  | strides
train store --branch joint --out out --set tier=paper       | --tier
train store --branch joint --out out --set data=synth       | data
train store --branch joint --out out --set DEEP             | epochs
adapt gone joint --out out                                  | gone
adapt store text --out out                                  | text
adapt store joint --out out                                 | store
adapt store joint bad-json --out out                        | bad-json
adapt store --out out                                       | runs
fuse joint --out out                                        | 1 run
fuse joint joint --out out                                  | twice
fuse joint gone --out out                                   | gone
fuse joint other --out out                                  | other
fuse joint bad-json --out out                               | bad-json
fuse joint list-json --out out                              | list-json
fuse joint empty-json --out out                             | empty-json
fuse joint no-scores --out out                              | no-scores
fuse joint bad-scores --out out                             | bad-scores
fuse joint heatmap --out text                               | text exists
fuse joint heatmap --out text/out                           | cannot write text/out
evaluate gone                                               | gone
evaluate text                                               | text
evaluate empty                                              | empty
evaluate store                                              | store
evaluate bad-scores                                         | bad-scores
evaluate ''                                                 | empty
evaluate "it's \\"a\\" run; rm x"                           | it's "a" run; rm x holds
evaluate 'weiß ☃'                                           | weiß ☃
submit joint --out out.csv                                  | 27 classes
submit synth --out out.txt                                  | out.txt
submit synth --out out.csv --style 2024                     | 2024
submit synth --out text/out.csv                             | text/out.csv
submit synth --out out.csv --test-list gone.csv             | gone.csv
submit synth --out out.csv --test-list zero                 | zero
submit synth --out out.csv --test-list bin.csv              | bin.csv
submit synth --out out.csv --test-list junk.csv             | junk.csv
submit synth --out out.csv --fill 99                        | 99
predict gone.mp4 --run synth --out out                      | gone.mp4
predict junk.mp4 --run synth --out out                      | junk.mp4
predict zero.mp4 --run synth --out out                      | zero.mp4
predict dir.mp4 --run synth --out out                       | dir.mp4
predict ok.mp4 --run gone --out out                         | gone
predict ok.mp4 --run synth --out text                       | text exists
predict ok.mp4 --run synth --out out --pose gone.npz        | gone.npz
predict ok.mp4 --run synth --out out --pose text            | text
predict ok.mp4 --run synth --out out --pose no-pose.npz     | no-pose.npz
predict ok.mp4 --run synth --out out --threshold 2          | threshold 2
predict ok.mp4 --out out                                    | --run
export gone                                                 | gone
export no-net --out out.onnx                                | no-net
export joint --out text/x.onnx                              | text/x.onnx
export joint --out vote.txt                                 | .onnx
export joint --out store/x.onnx                             | clip store
train store --branch joint --out store/runs/joint           | clip store
export joint --format coreml --out out                      | coreml
reproduce --tier fast                                       | fast
reproduce --data mnist                                      | mnist
reproduce --tier smoke --root empty                         | --root
reproduce --tier smoke --data utd-mhad --root empty         | empty
reproduce --tier smoke --jobs 0                             | jobs = 0
reproduce --tier smoke --only ,                             | names nothing
reproduce --tier smoke --profile lsf                        | lsf
doctor extra                                                | extra
notebook text out.ipynb                                     | text is no notebook
notebook a.ipynb out.ipynb                                  | a.ipynb
evaluat joint                                               | evaluate
--tier                                                      | --tier
--show-completion tcsh                                      | tcsh
"""
CASES = [tuple(map(str.strip, line.rsplit("|", 1))) for line in WRONG.strip().splitlines()]
BUILT = {"LONG": "x"*300, "DEEP": "train.epochs=" + "["*5000}


@pytest.mark.parametrize("line,named", CASES, ids=[line for line, _ in CASES])
def test_wrong_input(place, monkeypatch, line, named):
    monkeypatch.setenv("MGR_ROOT", str(Path(__file__).resolve().parent.parent))  # as from inside the project; files are named from `place`
    monkeypatch.chdir(place)
    before = everything(place)
    words = [BUILT.get(w, w) for w in shlex.split(line)]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200", "MGR_BATCH": "1"})
    assert done.exit_code == 2, (done.output, done.exception)
    said = done.stderr
    assert said.startswith("error: ") and len(said.strip().splitlines()) == 1 and any(n in said for n in named.split(" OR ")), said
    assert everything(place) == before


@pytest.mark.parametrize("name,shown", [("new\nline", "new line"), ("bell\a", "bell\\x07"), ("\udcff", "\\udcff")])
def test_names_that_are_no_plain_text(place, monkeypatch, name, shown):
    monkeypatch.chdir(place)
    done = CliRunner().invoke(app, ["evaluate", name])
    assert done.exit_code == 2 and shown in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may read and write everything")
def test_folders_that_may_not_be_read_or_written(place, tmp_path, monkeypatch):
    shutil.copytree(place/"joint", tmp_path/"joint")
    for file, mode, words in ((tmp_path/"joint"/"record.npz", 0, ["evaluate", "joint"]), (tmp_path, 0o500, ["simulate", "out"])):
        monkeypatch.chdir(tmp_path)
        file.chmod(mode)
        done = CliRunner().invoke(app, words)
        file.chmod(0o700)
        assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 1


def test_a_file_that_may_not_be_read_is_named(monkeypatch):
    "Also where no command looked for it: what the system says of a path becomes the line; other errors stay ours."
    def refused(*_): raise PermissionError(13, "Permission denied", "secret.npz")
    monkeypatch.setattr("mgr_paper.evidence.stages.evaluate_run", refused)
    done = CliRunner().invoke(app, ["evaluate", "x"])
    assert done.exit_code == 2 and done.stderr == "error: secret.npz: Permission denied. choose another path, or change its permissions\n"
    def ours(*_): raise TypeError("a mistake of ours")
    monkeypatch.setattr("mgr_paper.evidence.stages.evaluate_run", ours)
    assert isinstance(CliRunner().invoke(app, ["evaluate", "x"]).exception, TypeError)
