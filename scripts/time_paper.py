"""How long `reproduce` takes beside the work that its records hold, again with nothing to do, and after a change to the fusion alone.

    python scripts/time_paper.py                    # quick tier on simulated data (half an hour); writes figures/benchmarks/paper.*
    python scripts/time_paper.py --tier smoke       # a few minutes, to try it
    python scripts/time_paper.py --project DIR      # a clone in which `make paper` has run: its time is read from its log

The project is cloned into a scratch folder, so that nothing here is touched and only what is committed counts. `reproduce` runs there
once from nothing, then with nothing to do, then after a line has been added to the module of the vote, both several times. What each
step of the graph took is read from Snakemake's log; how long the trainings took, from the records."""
import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FUSION = "mgr_paper/fusion/vote.py"
WORK = ("heldout", "source", "adapt", "rehearse")  # steps that train
ASKED = {"nothing to do": 5, "fusion changed": 60}  # seconds


def reproduce(project: Path, tier: str, data: str) -> float: # seconds
    "Run the command in a clone."
    env = {k: v for k, v in os.environ.items() if k not in ("MGR_ROOT",)} | {"MGR_ROOT": str(project), "PYTHONPATH": str(project)}
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "from mgr_paper.cli import main; main()", "reproduce", "--tier", tier, "--data", data],
                   cwd=project, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def logs(project: Path, tier: str, data: str) -> list[Path]: # oldest first
    return sorted((project/"runs"/tier/"logs").glob(f"{data}-*-*.log"))


def steps(log: Path) -> list[dict]: # step, kind, start and end in seconds from the first, whether it failed
    "What ran when, from the times in a log of Snakemake, which counts whole seconds. A progress bar may stand before them."
    at, begun, name, failed, out = None, {}, None, None, []
    for line in log.read_text(errors="replace").splitlines():
        if m := re.search(r"\[(\w{3} \w{3} +\d+ [\d:]{8} \d{4})\]$", line): at = datetime.strptime(m[1], "%a %b %d %H:%M:%S %Y").timestamp()
        elif m := re.match(r"(?:localrule|rule) (\w+):", line): name = m[1]
        elif (m := re.match(r"    jobid: (\d+)", line)) and name: begun[m[1]], name = (name, at), None
        elif m := re.match(r"Error in rule (\w+):", line): failed = m[1]
        elif (m := re.match(r"Finished jobid: (\d+)|    jobid: (\d+)", line)) and (job := m[1] or m[2]) in begun and (m[1] or failed == begun[job][0]):
            rule, start = begun.pop(job)
            if rule != "all": out.append(dict(step=rule, kind=rule.partition("__")[0], start_s=start, end_s=at, failed=int(not m[1])))
    zero = min((s["start_s"] for s in out), default=0)
    return [s | {k: round(s[k] - zero) for k in ("start_s", "end_s")} for s in out]


def took(log: Path) -> float: # seconds
    "How long the call took that wrote a log: from the time in its name to its last word."
    named = datetime.strptime("-".join(log.stem.split("-")[-3:-1]), "%Y%m%d-%H%M%S").timestamp()
    return log.stat().st_mtime - named


def trained(project: Path, tier: str, data: str) -> float: # seconds
    "The training seconds of all records."
    folder = project/"figures"/tier/"records"/data
    return sum(json.loads(p.read_text()).get("seconds", 0) for p in folder.rglob("*.json"))


def measure(project: Path, tier: str, data: str, times: int) -> list[dict]: # a row a step, and one a call
    "All calls in a clone; the first only where it has not run."
    rows, text = [], (project/FUSION).read_text()

    def keep(call: str, number: int, seconds: float, log: Path):
        mine = steps(log)
        rows.extend(dict(call=call, number=number) | s for s in mine)
        rows.append(dict(call=call, number=number, step="all", kind="call", start_s=0, end_s=round(seconds, 1), failed=0))
        print(f"{call}: {seconds:.1f} s, {len(mine)} steps", flush=True)

    if not logs(project, tier, data): reproduce(project, tier, data)
    for i, log in enumerate(logs(project, tier, data)):  # more than one where a step had failed
        keep("from nothing", i, took(log), log)
        if not any(r["failed"] for r in rows if r["number"] == i): break  # all was there; what came later is none of ours
    rows.append(dict(call="from nothing", number=0, step="records", kind="training", start_s=0, end_s=round(trained(project, tier, data), 1), failed=0))
    for i in range(times): keep("nothing to do", i, reproduce(project, tier, data), logs(project, tier, data)[-1])
    try:
        for i in range(times):
            (project/FUSION).write_text(f"{text}\n# change {i} of the benchmark\n")
            keep("fusion changed", i, reproduce(project, tier, data), logs(project, tier, data)[-1])
    finally: (project/FUSION).write_text(text)
    if wrong := [r["step"] for r in rows if r["call"] == "fusion changed" and r["kind"] in WORK]: sys.exit(f"a change of the fusion ran {wrong[0]} again")
    return rows


def summary(rows: list[dict], about: str) -> str: # Markdown
    one = lambda kind, call="from nothing": [r["end_s"] for r in rows if (r["kind"], r["call"]) == (kind, call)]
    busy = lambda *kinds: sum(r["end_s"] - r["start_s"] for r in rows if r["call"] == "from nothing" and r["kind"] in kinds)
    total, training, rendering = sum(one("call")), one("training")[0], busy("store")
    work, spent = training + rendering, busy("store", "table", *WORK)
    kept = lambda found, asked: f"{asked} | {'yes' if found <= asked else 'NO'}"
    out = ["# `make paper`, measured", "", f"Measured by `python scripts/time_paper.py` on: {about}.", "", "| | seconds | asked | kept |", "|---|--:|--:|---|",
           f"| from nothing, by the clock | {total:.0f} | | |", f"| training seconds in its records | {training:.0f} | | |",
           f"| clips made and rendered (steps `store`) | {rendering:.0f} | | |",
           f"| by the clock / (training + rendering) | {total/work:.2f} | {kept(total/work, 1.25)} |",
           f"| seconds of all steps, side by side or not | {spent:.0f} | | |",
           f"| seconds of all steps / (training + rendering) | {spent/work:.2f} | | |",
           f"| of them tables and figures (steps `table`) | {busy('table'):.0f} | | |",
           f"| of them other time of steps that train | {busy(*WORK) - training:.0f} | | |"]
    for call, asked in ASKED.items():
        t = sorted(one("call", call))
        if t: out.append(f"| {call}, median of {len(t)} ({t[0]:.1f} to {t[-1]:.1f}) | {statistics.median(t):.1f} | {kept(statistics.median(t), asked)} |")
    calls = len(one("call"))
    return "\n".join(out + ["", "Two steps run at once, so a ratio by the clock is kept easily; the ratio of all steps says what is lost to anything but "
        "training and rendering." + (f" It took {calls} calls, as a step had failed." if calls > 1 else ""), ""])


def main() -> int:
    from mgr_paper.core import atomic_path
    from mgr_paper.evidence.timing import machine
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--tier", default="quick")
    ask.add_argument("--data", default="synth")
    ask.add_argument("--times", type=int, default=3, help="of the calls after the first")
    ask.add_argument("--project", type=Path, help="a clone in which `make paper` has run")
    ask.add_argument("--out", type=Path, default=PROJECT/"figures"/"benchmarks", help="folder for paper.csv, paper.md")
    ask = ask.parse_args()
    with tempfile.TemporaryDirectory(prefix="paper") as scratch:
        if not ask.project: subprocess.run(["git", "clone", "-q", str(PROJECT), f"{scratch}/clone"], check=True)
        rows = measure((ask.project or Path(scratch)/"clone").resolve(), ask.tier, ask.data, ask.times)
    ask.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(ask.out/"paper.csv") as tmp, open(tmp, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    text = summary(rows, f"{machine()}; {ask.tier} tier, {ask.data}; {time.strftime('%Y-%m-%d')}")
    with atomic_path(ask.out/"paper.md") as tmp: tmp.write_text(text)
    print(text)
    return 0


if __name__ == "__main__": sys.exit(main())
