"""Run the smoke tier on Slurm in a throw-away copy of the project, and write what Slurm says about it.

    scripts/slurm_loopback.sh up; python scripts/slurm_run.py nbs/benchmarks/slurm_smoke.json; scripts/slurm_loopback.sh down

The graph, the notebooks and the profile are those of the project; only runs and figures go elsewhere. Then the same call with the
profile for one machine must find nothing to do. Last, two rules of one line show that a GPU is asked for only where a rule says so."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SHARED = ("Snakefile", "profiles", "nbs", "mgr_paper", "settings.ini")  # all that a run reads
FIELDS = "%i|%k|%T|%V|%S|%e|%C|%m"  # id, comment (the rule), state, submitted, start, end, CPUs, memory
PROBE = """
rule all:
    input: "asked.txt", "not_asked.txt"

rule asked:
    output: "asked.txt"
    resources: gpu=1
    shell: "echo ${{CUDA_VISIBLE_DEVICES:-none}} > {output}"

rule not_asked:
    output: "not_asked.txt"
    resources: gpu=0
    shell: "echo ${{CUDA_VISIBLE_DEVICES:-none}} > {output}"
"""


def said(*words, **more):
    "What a command prints."
    return subprocess.run(words, check=True, capture_output=True, text=True, **more).stdout


def jobs(since):
    "Slurm's own account of the jobs after one: squeue keeps finished ones for MinJobAge."
    out, when = [], lambda text: time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    for line in said("squeue", "--states=all", "--noheader", "--sort=i", f"--format={FIELDS}").splitlines():
        number, rule, state, submitted, start, end, cpus, memory = line.split("|")
        if int(number) <= since or not rule.startswith("rule_"): continue
        asked = re.search(r"TresPerJob=(\S+)", said("scontrol", "show", "job", number))
        ended = end not in ("N/A", "Unknown") and start not in ("N/A", "Unknown")
        out.append({"id": int(number) - since, "rule": rule.removeprefix("rule_"), "state": state, "cpus": int(cpus), "memory": memory,
                    "gpus": asked[1] if asked else "", "waited": when(start) - when(submitted) if ended else None,
                    "seconds": when(end) - when(start) if ended else None})
    return out


def last_job():
    numbers = [int(n) for n in said("squeue", "--states=all", "--noheader", "--format=%i").split()]
    return max(numbers, default=0)


def main(target):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        clone = Path(folder)/"clone"
        clone.mkdir()
        for name in SHARED:
            (shutil.copytree if (PROJECT/name).is_dir() else shutil.copy)(PROJECT/name, clone/name)
        env |= {"MGR_ROOT": str(clone), "PYTHONPATH": str(clone)}
        command = [sys.executable, "-c", "from mgr_paper.cli import main; main()", "reproduce", "--tier", "smoke", "--data", "synth"]
        since, start, load = last_job(), time.monotonic(), os.getloadavg()[0]
        first = subprocess.run([*command, "--profile", "slurm", "--jobs", "4"], env=env, cwd=clone, capture_output=True, text=True)
        seconds, done = time.monotonic() - start, jobs(since)
        print(first.stdout[-3000:], first.stderr[-3000:], file=sys.stderr)
        again = subprocess.run([*command, "--dry-run"], env=env, cwd=clone, capture_output=True, text=True)
        figures = sorted(p.name for p in (clone/"figures"/"smoke"/"synth").glob("*"))
        failed = {p.parent.name: p.read_text()[-1500:] for p in (clone/".snakemake"/"slurm_logs").rglob("*.log")}

        probe, since = Path(folder)/"probe", last_job()
        probe.mkdir()
        (probe/"Snakefile").write_text(PROBE)
        said(sys.executable, "-m", "snakemake", "--workflow-profile", str(clone/"profiles"/"slurm"), cwd=probe, env=env)
        gpu = [{"rule": j["rule"], "gpus": j["gpus"], "visible": (probe/f"{j['rule']}.txt").read_text().strip()} for j in jobs(since)]
    record = {"tier": "smoke", "data": "synth", "slurm": said("sinfo", "--version").split()[-1], "snakemake": version("snakemake"),
              "plugin": version("snakemake-executor-plugin-slurm"), "nodes": said("sinfo", "--noheader", "--format=%c CPUs, %m MB, %G").strip(),
              "date": time.strftime("%Y-%m-%d"), "load_before": round(load, 1), "exit_code": first.returncode, "seconds": round(seconds),
              "jobs": done, "again": again.stdout.strip(), "files": figures, "gpu": gpu}
    if first.returncode: record["failed"] = failed
    Path(target).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return first.returncode


if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).absolute()))
