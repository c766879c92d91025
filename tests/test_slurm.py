"The unchanged graph on a real Slurm of one node. Slow: from five minutes on, as every job starts Python anew."
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mgr_paper.evidence import steps as graph
from mgr_paper.evidence.experiments import runs

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = ROOT/"scripts"/"slurm_loopback.sh"


@pytest.fixture(scope="module")
def slurm():
    "A Slurm of one node, taken down afterwards if it was not there before."
    missing = [tool for tool in ("munged", "slurmctld", "slurmd", "sinfo") if not shutil.which(tool)]
    if missing: pytest.skip(f"{missing[0]} is not installed; on Debian: apt-get install slurm-wlm munge")
    if os.getuid(): pytest.skip("needs root, to start munged, slurmctld and slurmd")
    there = subprocess.run(["sinfo"], capture_output=True).returncode == 0
    if not there: subprocess.run([LOOPBACK, "up"], check=True)
    yield
    if not there: subprocess.run([LOOPBACK, "down"], check=True)


@pytest.mark.slow
def test_smoke_tier_on_slurm(slurm, tmp_path):
    out, want = tmp_path/"slurm.json", {graph.rule_name(r) for r in runs("smoke", "synth")}
    done = subprocess.run([sys.executable, ROOT/"scripts"/"slurm_run.py", out], capture_output=True, text=True)
    record = json.loads(out.read_text())
    assert done.returncode == record["exit_code"] == 0, record.get("failed")
    ran = {job["rule"]: job for job in record["jobs"]}
    assert want <= set(ran) and {job["state"] for job in ran.values()} == {"COMPLETED"}
    assert {job["gpus"] for job in ran.values()} == {""}, "the smoke tier asks for no GPU"
    assert record["again"] == "Nothing would run: all is up to date."
    assert {probe["rule"]: probe["gpus"] for probe in record["gpu"]} == {"asked": "gres:gpu:1", "not_asked": ""}


def test_the_committed_run_is_whole():
    "What the benchmark notebook shows: each job of the day ended well, none held a GPU."
    record = json.loads((ROOT/"nbs"/"benchmarks"/"slurm_smoke.json").read_text())
    assert record["exit_code"] == 0 and record["jobs"] and {j["state"] for j in record["jobs"]} == {"COMPLETED"}
    assert {j["gpus"] for j in record["jobs"]} == {""} and any(j["rule"].startswith("adapt__") for j in record["jobs"])
    assert {p["rule"]: p["gpus"] for p in record["gpu"]} == {"asked": "gres:gpu:1", "not_asked": ""}


def test_without_root_the_script_says_what_it_needs():
    "And without a word it says how it is called."
    done = subprocess.run([LOOPBACK], capture_output=True, text=True)
    assert done.returncode == 2 and "apt-get install slurm-wlm munge" in done.stdout
