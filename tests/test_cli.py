"""The command line: the stages in a chain, and one line for every kind of mistake."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from scipy.io import loadmat, savemat
from typer.testing import CliRunner

import mgr_paper
from mgr_paper import config
from mgr_paper.cli import app
from mgr_paper.preprocessing.store import Clip, ClipStore, StoreMeta, StoreWriter
from mgr_paper.preprocessing.utd_mhad import write_example
from mgr_paper.records import load_scores, read_record

TINY = ("--tier", "smoke", "--set", "train.epochs=1", "--set", "train.batch=6", "--set", "cmpl.epochs=[1]")
BRANCHES = ("joint", "heatmap", "depth")


def ask(*words):
    return CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "200", "MGR_BATCH": "1"})


def refused(done, *named):
    "Exit code 2 and one line that names what is wrong."
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.stderr.startswith("error: ") and len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in named: assert str(word) in done.stderr, done.stderr


def everything(folder):
    "All files under a folder with their contents' size."
    return {p.relative_to(folder): p.stat().st_size for p in folder.rglob("*")}


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_example(folder, actions=(1, 2, 3), people=(1, 2, 3, 4), trials=(1, 2))
    return folder


@pytest.fixture(scope="session")
def store(raw, tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared")/"store"
    done = ask("prepare", "utd-mhad", raw, path)
    assert done.exit_code == 0 and "24" in done.stdout, done.output
    return path


@pytest.fixture(scope="session")
def runs(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for branch in BRANCHES:
        done = ask("train", store, "--branch", branch, "--out", folder/branch, *TINY)
        assert done.exit_code == 0, (done.output, done.exception)
    return folder


def test_train_adapt_fuse_evaluate(store, runs, tmp_path):
    record = read_record(runs/"joint"/"record.json")
    assert record["parameters_requested"]["train.epochs"] == 1 and record["config"]["train"]["joint"]["epochs"] == 1
    assert ask("adapt", store, *(runs/b for b in BRANCHES), "--out", tmp_path/"cmpl").exit_code == 0
    last = tmp_path/"cmpl"/"round-2"
    assert ask("fuse", *(last/b for b in BRANCHES), "--out", tmp_path/"vote").exit_code == 0
    done = ask("evaluate", tmp_path/"vote")
    vote = read_record(tmp_path/"vote"/"record.json")
    assert done.exit_code == 0 and f"{vote['metrics']['top1']:.4f}" in done.stdout
    logits = [load_scores(p/"record.npz")["logits"] for p in (runs/"joint", last/"joint", tmp_path/"vote")]
    assert logits[0].shape == logits[1].shape == logits[2].shape and not np.array_equal(logits[0], logits[1])
    assert np.allclose(np.exp(logits[2]).sum(1), 1, atol=.02)
    assert read_record(last/"joint"/"record.json")["round"] == 2
    left = [p.name for p in tmp_path.rglob("*") if p.name.startswith(".") or p.suffix == ".state"]
    assert left == []


COMMANDS = ("reproduce", "prepare", "simulate", "extract", "train", "adapt", "fuse", "evaluate", "submit", "predict", "export", "doctor", "notebook")


def test_every_command_is_looked_at():
    assert sorted(typer.main.get_command(app).commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    done = ask(command, "--help")
    assert done.exit_code == 0 and len(done.stdout.split("\n\n")[1].strip()) > 20
    assert f"\n  Example: mgr-paper {command}" in done.stdout  # on a line of its own, to be copied
    assert ask("--help").stdout.count(f"\n  {command} ") == (command != "notebook")


def test_doctor(monkeypatch):
    done = ask("doctor")
    assert done.exit_code == 0
    for word in ("torch", "synth", "bfloat16", "free disk", "PyAV", "utd-mhad/joint", "browser", "mgr-paper export"): assert word in done.stdout, word
    monkeypatch.setattr("mgr_paper.commands.doctor.find_spec", lambda name: None)
    monkeypatch.setattr("mgr_paper.training.devices.computes_bf16", lambda device: True)
    monkeypatch.setenv("MGR_POSE_PYTHON", "/no/python")
    monkeypatch.setenv("PATH", "")
    told = ask("doctor").stdout
    for extra in ("notebooks", "export", "docs", "text"): assert f"pip install 'mgr_paper[{extra}]'" in told
    assert "in hardware" in told and "MGR_POSE_PYTHON" in told and "make browser" in told


def test_doctor_outside_a_clone(tmp_path, monkeypatch):
    monkeypatch.setenv("MGR_ROOT", str(tmp_path))
    done = ask("doctor")
    assert done.exit_code == 0 and "no settings.ini" in done.stdout


@pytest.mark.parametrize("words,named", [
    (["--branch", "jiont"], "'joint'"), (["--branch", "swin"], "swin"), (["--set", "train.epoch=3"], "train.epoch"), (["--set", "train.epochs=many"], "many"),
    (["--set", "layout=kinect21"], "kinect21"), (["--set", "loss.weights=cube"], "cube"), (["--set", "epochs"], "epochs"), (["--split", "odd-evn"], "odd-evn"),
    (["--tier", "fast"], "fast"), (["--seed", "one"], "--seed"), (["--colour", "red"], "--colour")])
def test_wrong_words(store, tmp_path, words, named):
    given = dict(zip(words[::2], words[1::2]))
    branch = [] if "--branch" in given else ["--branch", "joint"]
    refused(ask("train", store, *branch, *words, "--out", tmp_path/"x"), named)
    assert everything(tmp_path) == {}


def test_missing_folders(store, runs, tmp_path):
    none = tmp_path/"none"
    refused(ask("prepare", "utd-mhad", none, tmp_path/"x"), none)
    refused(ask("train", none, "--branch", "joint", "--out", tmp_path/"x"), none)
    refused(ask("adapt", store, none, "--out", tmp_path/"x"), none)
    refused(ask("fuse", none, runs/"joint", "--out", tmp_path/"x"), none)
    refused(ask("evaluate", none), none)
    refused(ask("notebook", none, tmp_path/"x"), none)
    assert everything(tmp_path) == {}


def test_unknown_kinds_of_data(tmp_path):
    for kind in ("smg", "imigue", "ma52", "videos", "pickle"):
        refused(ask("prepare", kind, tmp_path, tmp_path/"x"), tmp_path)
        assert not (tmp_path/"x").exists()
    refused(ask("prepare", "utd", tmp_path, tmp_path/"x"), "did you mean 'utd-mhad'")
    refused(ask("prepare", "smg", tmp_path, tmp_path/"x", "--crop", "full"), "--crop is not for smg", "imigue, videos")
    refused(ask("prepare", "synth", "-", tmp_path/"x", "--set", "train.epochs=3"), "train.epochs")
    refused(ask("prepare", "synth", tmp_path, tmp_path/"x"), tmp_path)
    assert everything(tmp_path) == {}


def test_nothing_is_written_over(store, runs):
    before = everything(runs)
    refused(ask("train", store, "--branch", "joint", "--out", runs/"joint"), runs/"joint")
    refused(ask("fuse", runs/"joint", runs/"depth", "--out", runs/"joint"), runs/"joint")
    assert everything(runs) == before


def test_runs_that_do_not_fit(store, runs, tmp_path):
    refused(ask("adapt", store, runs/"joint", "--out", tmp_path/"x"), "heatmap")
    refused(ask("adapt", store, *(runs/b for b in BRANCHES), "--method", "cmlp", "--out", tmp_path/"x"), "cmlp")
    refused(ask("fuse", runs/"joint", "--out", tmp_path/"x"), "1 run")
    refused(ask("evaluate", store), "record.json")
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("spoil,named", [
    (lambda xyz: xyz[..., :0], "(20, 3, 0)"), (lambda xyz: xyz*0, "no joint"), (lambda xyz: np.where(np.arange(xyz.shape[2]) == 2, np.nan, xyz), "NaN")],
    ids=["empty clip", "no joint", "NaN coordinate"])
def test_spoiled_recordings(raw, tmp_path, spoil, named):
    shutil.copytree(raw, tmp_path/"raw")
    path = tmp_path/"raw"/"Skeleton"/"a2_s3_t1_skeleton.mat"
    savemat(path, {"d_skel": spoil(loadmat(path)["d_skel"])})
    before = everything(tmp_path)
    refused(ask("prepare", "utd-mhad", tmp_path/"raw", tmp_path/"store"), "a2_s3_t1", named)
    assert everything(tmp_path) == before


def test_store_of_another_version(store, tmp_path):
    shutil.copytree(store, tmp_path/"store")
    info = json.loads((store/"store.json").read_text())
    (tmp_path/"store"/"store.json").write_text(json.dumps(info | {"schema": 99}))
    before = everything(tmp_path)
    refused(ask("train", tmp_path/"store", "--branch", "joint", "--out", tmp_path/"x"), "99", "store")
    assert everything(tmp_path) == before


def other_store(path, **changes):
    "A store of a few clips of eight people, whose meta data can be changed."
    meta = dict(name="utd-mhad", layout="kinect20", classes=("wave", "clap"), fps=30., height=60, width=80, simulated=False, video_kind="none", source="test")
    gen = np.random.default_rng(0)
    with StoreWriter(path, StoreMeta(**meta | changes)) as writer:
        for i in range(16):
            joints = np.concatenate([gen.uniform(5, 55, (8, 20, 2)), np.ones((8, 20, 1))], -1).astype(np.float32)
            writer.add(Clip(f"c{i}", f"v{i}", f"s{1 + i//2}", i % 2, joints))
    return path


def test_unknown_class_and_data_set(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # with the text extra any phrase could be embedded
    before = everything(other_store(tmp_path/"a", classes=("wave", "blorptwist")).parent)
    refused(ask("train", tmp_path/"a", "--branch", "joint", "--out", tmp_path/"x", *TINY), "blorptwist")
    refused(ask("train", tmp_path/"a", "--branch", "depth", "--out", tmp_path/"x", *TINY), "video", "depth")
    assert everything(tmp_path) == before
    before = everything(other_store(tmp_path/"b", name="elsewhere").parent)
    refused(ask("train", tmp_path/"b", "--branch", "joint", "--out", tmp_path/"x"), "'elsewhere'")
    assert everything(tmp_path) == before
    assert ClipStore(tmp_path/"b").n == 16


def complete(line, cwd, shell="bash"):
    "What the shell is told when Tab is pressed at the end of a line, without any shell to be detected."
    env = {k: v for k, v in os.environ.items() if k != "SHELL"} | {"_MGR_PAPER_COMPLETE": f"complete_{shell}", "COMP_WORDS": line,
           "COMP_CWORD": str(len(line.split(" ")) - 1), "_TYPER_COMPLETE_ARGS": line}
    done = subprocess.run([sys.executable, "-c", "from mgr_paper.cli import main; main()"], env=env, cwd=cwd, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("line,found", [
    ("mgr-paper e", ["extract", "evaluate", "export"]), ("mgr-paper reproduce --tier ", ["smoke", "quick", "bench", "paper"]),
    ("mgr-paper reproduce --data u", ["utd-mhad"]), ("mgr-paper reproduce --profile s", ["slurm"]), ("mgr-paper reproduce --only t10", ["t10_significance"]),
    ("mgr-paper train stores/a --branch jo", ["joint", "joint3d"]), ("mgr-paper train stores/a --split odd", ["odd-even"]),
    ("mgr-paper adapt stores/a runs/a --method cm", ["cmpl", "cmpl-inductive", "cmpl-inductive-people"]), ("mgr-paper prepare i", ["imigue"]),
    ("mgr-paper prepare imigue a b --crop s", ["saliency"]), ("mgr-paper prepare imigue a b --layout hal", ["halpe68", "halpe26", "halpe136"]),
    ("mgr-paper submit runs/a --style ", ["2023", "2025"]), ("mgr-paper train --i", ["--init"])])
def test_completion(tmp_path, line, found):
    assert complete(line, tmp_path) == found


def test_completion_script_works_in_bash(tmp_path):
    "The script is printed for a named shell, bash takes it in, and its function completes a word."
    done = ask("--show-completion", "bash")
    assert done.exit_code == 0
    (tmp_path/"mgr-paper").write_text(f"#!{sys.executable}\nfrom mgr_paper.cli import main\nmain()\n")
    (tmp_path/"mgr-paper").chmod(0o755)
    code = done.stdout + '\nCOMP_WORDS=(mgr-paper train a --tier sm); COMP_CWORD=4; _mgr_paper_completion mgr-paper; echo "${COMPREPLY[@]}"'
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(mgr_paper.__file__).parents[1])}
    assert subprocess.run(["bash", "-c", code], env=env, capture_output=True, text=True).stdout == "smoke\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_of_every_shell(shell):
    done = ask("--show-completion", shell)
    assert done.exit_code == 0 and "_MGR_PAPER_COMPLETE" in done.stdout


def test_shell_is_taken_from_the_environment_or_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    assert ask("--show-completion").stdout == ask("--show-completion", "zsh").stdout
    monkeypatch.setenv("SHELL", "")
    refused(ask("--show-completion"), "--show-completion bash")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ask("--install-completion", "bash").exit_code == 0 and ".bash_completions" in (tmp_path/".bashrc").read_text()


def test_words_beside_the_commands_are_those_of_the_settings():
    "They are written twice, so that help and completion need not load the settings."
    from mgr_paper.commands import data, graph, ground, stages
    from mgr_paper.evidence.experiments import DATA, METHOD_LABEL
    assert ground.TIERS == tuple(config.TIERS) and stages.NETWORKS == config.BRANCHES
    assert set(graph.DATA_SETS) <= set(DATA) and set(stages.METHODS) <= set(METHOD_LABEL)
    assert set(stages.NETWORKS) == {b for spec in DATA.values() for b in (*spec.branches, *spec.extra)}


def test_short_help_is_not_cut_off(monkeypatch):
    out = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).stdout
    assert "..." not in out.replace("[ARGS]...", "") and all(len(line) <= 80 for line in out.splitlines())


def test_interrupt_and_version():
    assert ask("--version").stdout == f"mgr-paper {mgr_paper.__version__}\n"
    last = "error: interrupted. the same command goes on from what was saved last"
    for module, name, raised, words, said in (("commands.doctor", "machine", "KeyboardInterrupt", ["doctor"], "error: interrupted"),
                                              ("commands.doctor", "machine", "MgrError('interrupted', 'go on')", ["doctor"], "error: interrupted. go on"),
                                              ("evidence.stages", "train_run", "KeyboardInterrupt", ["train", "s", "--branch", "joint", "--out", "o"], last)):
        code = (f"import mgr_paper.{module} as m; from mgr_paper.core import MgrError; m.{name} = lambda *a: (_ for _ in ()).throw({raised}); "
                "from mgr_paper.cli import main; main()")
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == 130 and done.stderr.strip() == said, done.stderr


def test_bar_with_remaining_time(tmp_path):
    "From a terminal, a command that takes a while shows how far it is and how long it will take."
    words = ["simulate", "tree", "--clips", "192", "--subjects", "6", "--skeleton-only"]
    env = {k: v for k, v in os.environ.items() if k not in ("IN_TEST", "MGR_BATCH")}
    done = subprocess.run([sys.executable, "-c", "from mgr_paper.cli import main; main()", *words], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "simulate: 100%" in done.stderr and "it/s" in done.stderr.replace("s/it", "it/s")


def test_tables_and_figures_answer_to_their_numbers():
    from unittest.mock import patch
    with patch("mgr_paper.evidence.reproduce.reproduce") as run:
        found = CliRunner().invoke(app, ["reproduce", "--tier", "smoke", "--data", "synth", "--only", "F7, t1,figures,t10_significance,f77"])
    assert found.exit_code == 0, found.output
    assert run.call_args.args[3] == ("f7_confusion", "t1_published", "figures", "t10_significance", "f77")  # what is none is refused by its own name
