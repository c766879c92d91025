"The graph is killed, and goes on; a notebook that fails is kept and stops no other; figures come back byte for byte."
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from mgr_paper.config import settings
from mgr_paper.core import MgrError, root
from mgr_paper.evidence.experiments import table_files
from mgr_paper.evidence.reproduce import lives
from mgr_paper.evidence.stages import unfinished_work

HERE, BENCH = root(), settings().figures/"bench"
CALL = [sys.executable, "-c", "from mgr_paper.cli import main; main()", "reproduce"]
SMALL = """[reproduce]
tier = smoke
data = synth
jobs = 2
threads = 1
runs = runs
figures = figures
[roots]
[plan smoke synth]
splits = subjects
seeds = 0
methods = cmpl
"""
needs_records = pytest.mark.skipif(not (BENCH/"records"/"synth").is_dir(), reason="no committed records")


@pytest.fixture
def clone(tmp_path):
    "A project folder with the committed records, notebooks that may be changed, and nothing else."
    for name in ("Snakefile", "settings.ini", "profiles"): (tmp_path/name).symlink_to(HERE/name)
    shutil.copytree(HERE/"nbs"/"ablations", tmp_path/"nbs"/"ablations")
    (tmp_path/"figures"/"bench").mkdir(parents=True)
    (tmp_path/"figures"/"bench"/"records").symlink_to(BENCH/"records")
    return tmp_path


def environment(clone):
    return {k: v for k, v in os.environ.items() if not k.startswith("MGR_")} | {"MGR_ROOT": str(clone), "PYTHONPATH": str(HERE)}


def reproduce(clone, *words):
    return subprocess.run([*CALL, *words], env=environment(clone), cwd=clone, capture_output=True, text=True)


def of(clone, name):
    "Files of a table in the clone, with the committed ones."
    return [(clone/p.relative_to(HERE), p) for p in table_files(name, "bench", "synth")]


def spoil(clone, name):
    "A notebook whose third code cell fails."
    path = clone/"nbs"/"ablations"/f"{name}.ipynb"
    nb = json.loads(path.read_text())
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    code[2]["source"] = ["raise ValueError('spoilt on purpose')"]
    path.write_text(json.dumps(nb))


@needs_records
def test_a_failed_notebook_is_kept_and_stops_no_other_and_figures_are_the_committed_bytes(clone):
    spoil(clone, "f7_confusion")
    words = ("--tier", "bench", "--data", "synth", "--only", "figures,f7_confusion,f2_long_tail", "--jobs", "1")
    done = reproduce(clone, *words)
    assert done.returncode == 1 and "failed: table f7_confusion" in done.stdout, done.stdout + done.stderr
    kept = clone/"runs"/"bench"/"tables"/"synth"/"f7_confusion.ipynb"
    assert "spoilt on purpose" in kept.read_text() and not any(new.exists() for new, _ in of(clone, "f7_confusion"))
    for new, old in of(clone, "f2_long_tail"): assert new.read_bytes() == old.read_bytes(), new.name
    shutil.copy(HERE/"nbs"/"ablations"/"f7_confusion.ipynb", clone/"nbs"/"ablations")
    before = {new: new.stat().st_mtime_ns for new, _ in of(clone, "f2_long_tail")}
    done = reproduce(clone, *words)  # goes on with what is missing, and only with that
    assert done.returncode == 0 and "1 steps to do" in done.stdout, done.stdout + done.stderr
    assert before == {new: new.stat().st_mtime_ns for new in before}
    for new, old in of(clone, "f7_confusion"): assert new.read_bytes() == old.read_bytes(), new.name
    assert (clone/"figures"/"README.md").is_file()


@needs_records
def test_killed_in_the_middle_it_goes_on(clone):
    "Killed with all its children after its first table; then the same command makes the rest."
    words = ("--tier", "bench", "--data", "synth", "--only", "figures,f2_long_tail,f7_confusion", "--jobs", "1")
    first = subprocess.Popen([*CALL, *words], env=environment(clone), cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, start_new_session=True)
    assert any(line.startswith("[  1/2]") for line in first.stdout)
    time.sleep(1)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    made = [name for name in ("f2_long_tail", "f7_confusion") if all(new.exists() for new, _ in of(clone, name))]
    assert len(made) == 1, made
    done = reproduce(clone, *words)
    assert done.returncode == 0 and "1 steps to do" in done.stdout, done.stdout + done.stderr
    assert all(new.exists() for name in ("f2_long_tail", "f7_confusion") for new, _ in of(clone, name))


@pytest.mark.slow
def test_training_killed_in_the_middle_gives_the_same_scores(tmp_path):
    "The smoke tier, killed twice while it trains, against one that was left alone."
    folders = {name: tmp_path/name for name in ("left alone", "killed")}
    for folder in folders.values():
        folder.mkdir()
        for name in ("Snakefile", "profiles", "nbs"): (folder/name).symlink_to(HERE/name)
        (folder/"settings.ini").write_text(SMALL)
    words = ("--tier", "smoke", "--data", "synth")
    for ends in ("[  1/", "[  4/"):
        one = subprocess.Popen([*CALL, *words], env=environment(folders["killed"]), cwd=folders["killed"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, start_new_session=True)
        assert any(line.startswith(ends) for line in one.stdout)
        time.sleep(6)  # a training is under way
        os.killpg(one.pid, signal.SIGKILL)
        one.wait()
    for folder in folders.values(): assert reproduce(folder, *words).returncode == 0
    one, two = (sorted(p.relative_to(f) for p in (f/"figures"/"smoke"/"records").rglob("*.npz")) for f in folders.values())
    assert one == two and one
    for p in one: assert (folders["left alone"]/p).read_bytes() == (folders["killed"]/p).read_bytes(), p


def test_the_picture_of_the_method_waits_for_the_labels_it_shows(clone):
    done = subprocess.run([sys.executable, "-m", "snakemake", "--nolock", "--dry-run", "--config", "tier=smoke", "data=synth", "only=f1_pipeline"],
                          env=environment(clone), cwd=clone, capture_output=True, text=True)
    rule = re.search(r"rule table__f1_pipeline:\n    input: (.*)", done.stdout + done.stderr)
    assert done.returncode == 0 and rule, done.stderr
    for b in ("joint", "heatmap", "r2plus1d"): assert f"/seed0/cmpl-1/{b}.json" in rule[1]


TWO = """
rule all:
    input: "a", "b"
for name in ("a", "b"):
    rule:
        name: name
        input: [f"files/{'x'*100}{i}" for i in range(1000)]  # an error lists them: more than a pipe holds unread
        output: name
        params: begun=f"{name}.begun"
        shell: "sleep 1000 & echo $$ $! > {params.begun}.new; mv {params.begun}.new {params.begun}; wait; touch {output}"
"""
ENDED = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
from mgr_paper.core import MgrError, Terminated
from mgr_paper.evidence import reproduce
reproduce.GRACE = float(sys.argv[2])
def end(number, frame): raise Terminated
signal.signal(signal.SIGTERM, end)
if "deaf" in sys.argv: signal.signal(signal.SIGINT, signal.SIG_IGN)
command = [sys.executable, "-m", "snakemake", "--nolock", "--keep-going", "--printshellcmds", "--cores", "1"]
try: reproduce.call(command, dict(os.environ), Path("log"), [], Console())
except MgrError as e: print(e)
"""


@pytest.mark.parametrize("how,number,grace,times", [
    ("", signal.SIGTERM, 30, 1),
    ("deaf", signal.SIGTERM, 30, 1),  # a script's background process does not hear Ctrl-C, and neither does Snakemake
    ("", signal.SIGINT, 1, 1),  # sent to the one process, which first gives the others time to end as at Ctrl-C
    ("stubborn", signal.SIGTERM, 1000, 2)], ids=["", "deaf", "no terminal", "twice"])
def test_a_request_to_end_waits_for_no_run(tmp_path, how, number, grace, times):
    stubborn = "trap '' TERM INT; " if how == "stubborn" else ""
    (tmp_path/"Snakefile").write_text(TWO.replace("sleep 1000 &", stubborn + "sleep 1000 &"))
    (tmp_path/"files").mkdir()
    for i in range(1000): (tmp_path/"files"/f"{'x'*100}{i}").touch()
    deadline = time.monotonic() + 120
    with subprocess.Popen([sys.executable, "-c", ENDED, how, str(grace)], cwd=tmp_path, env=environment(HERE), text=True,
                          stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            while not (begun := list(tmp_path.glob("*.begun"))) and process.poll() is None and time.monotonic() < deadline: time.sleep(.05)
            for _ in range(times):
                with suppress(subprocess.TimeoutExpired): process.wait(0 if times == 1 else 3)
                process.send_signal(number)
            said, _ = process.communicate(timeout=120)
        finally:
            if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
    assert begun and "interrupted" in said, said
    assert list(tmp_path.glob("*.begun")) == begun and not (tmp_path/"a").exists() and not (tmp_path/"b").exists()
    pids = map(int, begun[0].read_text().split())
    assert not [pid for pid in pids if psutil.pid_exists(pid) and lives(psutil.Process(pid))]


def test_an_interrupt_while_others_help_is_one_line(tmp_path):
    words = [sys.executable, "-m", "mgr_paper.cli", "prepare", "synth", "-", "store", "--tier", "quick"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment(HERE) | {"MGR_BATCH": "1"}, text=True, start_new_session=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while len(psutil.Process(process.pid).children()) < 3 and time.monotonic() < deadline: time.sleep(.05)  # two and their tracker
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does
        said, wrong = process.communicate(timeout=120)
    assert process.returncode == 130 and wrong == "error: interrupted\n", wrong
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_finished_meanwhile(tmp_path):
    "Whoever waited, or was slow to begin, does not write over what another process has finished."
    (tmp_path/"run").mkdir()
    (tmp_path/"run"/"record.json").touch()
    with pytest.raises(MgrError, match="run exists already. choose another folder"), unfinished_work(tmp_path/"run", [], "x"): raise AssertionError("begun")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
