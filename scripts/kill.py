"""Kill commands at random moments, run them again, and compare what they made with a run that was left alone, bit for bit.

    python scripts/kill.py                       # 53 kills (about 20 minutes of processor time); writes figures/benchmarks/kills.*
    python scripts/kill.py --kills prepare=2,train=1 --out DIR      # some; rows of other commands that are there stay

A tiny made-up data set goes through `prepare`, `train`, `adapt` and `reproduce`. Each command runs once alone, which gives the results
to compare with and the length over which the moments are spread: of n kills of a command the i-th falls at a random moment of the i-th
n-th of it. Then, each in a fresh folder: start, SIGKILL, look, run the same command until it ends, compare. Killed are
  group   the process group, as a terminal or a scheduler does; kernels of notebooks have groups of their own and live a moment longer
  all     every process that the command has started, as a machine does that stops
  leader  the first process alone, as the system does that lacks memory
Under a finished name nothing may ever differ from the results, not even before the command is run again; after that nothing else may
be left. Not compared, as it differs from run to run by its nature: see IGNORED."""
import argparse
import csv
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mgr_paper.core import atomic_path, locked

PROJECT = Path(__file__).resolve().parent.parent
MGR = [sys.executable, "-c", "from mgr_paper.cli import main; main()"]
KILLS = {"prepare": 20, "train": 12, "adapt": 12, "reproduce": 9}
IGNORED = {
    "record (.json)": ("started", "seconds", "extra.peak_mb"),  # the time of day, how long it took, how much memory
    "network (.safetensors)": ("config.seconds",),
    "not results": ("logs and executed notebooks in runs/ (*.log, *.ipynb)", "stamps of inputs (*.stamp)", "locks (.*.lock)", "Snakemake's memory (.snakemake)")}
SETTINGS = """[reproduce]
tier = smoke
data = utd-mhad
jobs = 1
threads = 1
runs = runs
figures = figures
[roots]
utd-mhad = raw
[plan smoke utd-mhad]
splits = odd-even
seeds = 0
"""


def environment(case: Path, raw: Path) -> dict:
    "Variables of a command: nothing of the caller's project."
    env = {k: v for k, v in os.environ.items() if not k.startswith("MGR_")}
    return env | {"MGR_ROOT": str(case), "MGR_UTD_ROOT": str(raw), "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}


def start(words: list[str], case: Path, raw: Path) -> subprocess.Popen:
    "A command in a group of its own; what it says goes to files beside the case."
    with open(case.with_suffix(".out"), "ab") as out:
        return subprocess.Popen(words, cwd=case, env=environment(case, raw), stdout=out, stderr=out, start_new_session=True)


def family(pid: int) -> list[int]:
    "A process and all that it has started, by /proc."
    children = {}
    for p in Path("/proc").glob("[0-9]*/stat"):
        try: text = p.read_text()
        except OSError: continue
        children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(p.parent.name))
    found = [pid]
    for p in found: found += children.get(p, [])
    return found


def kill(process: subprocess.Popen, how: str):
    "SIGKILL; returns when the first process is gone."
    if how == "group": os.killpg(process.pid, signal.SIGKILL)
    for pid in {"all": lambda: family(process.pid), "leader": lambda: [process.pid]}.get(how, list)():
        try: os.kill(pid, signal.SIGKILL)
        except ProcessLookupError: pass
    process.wait()


# ---- what a command makes

def tensors(path: Path):
    "Bytes of every tensor of a safetensors file, and its configuration without seconds."
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    head = json.loads(data[8:8 + n])
    config = json.loads(head["__metadata__"].pop("config"))
    config.pop("seconds", None)
    return head, config, data[8 + n:]


def record(path: Path):
    found = json.loads(path.read_text())
    if "extra" not in found: return found
    for k in ("started", "seconds"): found.pop(k)
    found["extra"].pop("peak_mb", None)
    return found


def results(case: Path) -> dict:
    "name -> content of every result below a folder; see IGNORED for what is none."
    out = {}
    for p in sorted(case.rglob("*")):
        parts = p.relative_to(case).parts
        if not p.is_file() or p.is_symlink() or any(q.startswith(".") for q in parts) or p.suffix in (".log", ".ipynb", ".stamp", ".ini", ".lock", ".state"): continue
        out["/".join(parts)] = {".safetensors": tensors, ".json": record}.get(p.suffix, Path.read_bytes)(p)
    return out


def leftovers(case: Path) -> list[str]:
    "What a finished command should not have left."
    names = (p.relative_to(case) for p in sorted(case.rglob("*")) if not p.is_symlink())
    return [str(p) for p in names if p.parts[0] != ".snakemake" and (p.suffix == ".state" or p.name[0] == "." and p.suffix != ".lock")]


# ---- the commands

class Bench:
    "A made-up data set, and every command once left alone."

    def __init__(self, folder: Path, names: list[str]):
        from mgr_paper.preprocessing.utd_mhad import write_example
        self.folder, self.raw, self.alone, self.seconds = folder, folder/"raw", {}, {}
        write_example(self.raw, actions=(1, 2, 3), people=(1, 2, 3, 4), trials=(1, 2))
        tiny = "--tier smoke --set train.epochs=4 --set train.batch=4 --set train.save_every=1 --set cmpl.epochs=[1]".split()
        store, trained = folder/"prepare alone"/"store", folder/"trained"
        self.words = {"prepare": [*MGR, "prepare", "utd-mhad", str(self.raw), "store"],
                      "train": [*MGR, "train", str(store), "--branch", "joint", "--out", "joint", *tiny],
                      "adapt": [*MGR, "adapt", str(store), *(str(trained/b) for b in ("joint", "heatmap", "depth")), "--out", "cmpl"],
                      "reproduce": [*MGR, "reproduce", "--tier", "smoke", "--data", "utd-mhad", "--only", "t2_losses", "--jobs", "1"]}
        for name in ["prepare", *(n for n in names if n != "prepare")]:
            if name == "adapt":
                trained.mkdir()
                for b in ("joint", "heatmap", "depth"):
                    subprocess.run([*MGR, "train", str(store), "--branch", b, "--out", b, *tiny], check=True, cwd=trained,
                                   env=environment(trained, self.raw), capture_output=True)
            case, began = self.case(name, "alone"), time.monotonic()
            code = start(self.words[name], case, self.raw).wait()
            self.seconds[name], self.alone[name] = time.monotonic() - began, results(case)
            if code or not self.alone[name] or leftovers(case):
                sys.exit(f"{name}, left alone: {code}, {leftovers(case)}\n" + case.with_suffix(".out").read_text())

    def case(self, name: str, what: str) -> Path:
        "A fresh folder for a command."
        case = self.folder/f"{name} {what}"
        case.mkdir()
        if name == "reproduce":
            for shared in ("Snakefile", "profiles", "nbs"): (case/shared).symlink_to(PROJECT/shared)
            (case/"settings.ini").write_text(SETTINGS)
        return case

    def killed(self, name: str, number: int, share: float, how: str) -> dict:
        "Kill a command when a share of its usual time has passed, run it again, and compare."
        case, whole = self.case(name, str(number)), self.alone[name]
        while True:
            process, moment = start(self.words[name], case, self.raw), share*self.seconds[name]
            try: process.wait(moment)
            except subprocess.TimeoutExpired: break
            share *= .8  # it was quicker than the one left alone: again, in a fresh folder
            shutil.rmtree(case)
            case = self.case(name, str(number))
        kill(process, how)
        there = results(case) if how != "leader" else {}  # its children are still at work
        half = [k for k, v in there.items() if k in whole and v != whole[k]] + [k for k in there if k not in whole]
        refused, began = 0, time.monotonic()
        while (code := start(self.words[name], case, self.raw).wait()) == 2 and time.monotonic() - began < 300:
            last = case.with_suffix(".out").read_text().splitlines()[-1]
            if there == whole and "exists already" in last: code = "done"  # killed after the result had its name; nothing is written over
            if "is at work on" not in last: break  # else what the killed one has started holds the lock: wait for it
            refused += 1
            time.sleep(1)
        seconds, found, left = time.monotonic() - began, results(case), leftovers(case)
        differs = [k for k in {**found, **whole} if found.get(k) != whole.get(k)]
        row = dict(command=name, number=number, killed=how, moment_s=round(moment, 2), share=round(share, 3), finished_files=len(there),
                   files=len(whole), half_written=len(half), refused=refused, rerun_exit=code, rerun_s=round(seconds, 1),
                   differing=len(differs), left_over=len(left), alone_s=round(self.seconds[name], 1))
        if good(row): shutil.rmtree(case)
        else: print("  ", case, half, differs, left, case.with_suffix(".out").read_text()[-2000:], sep="\n  ", flush=True)
        return row


def good(row: dict) -> bool:
    return not (row["half_written"] or row["rerun_exit"] not in (0, "done") or row["differing"] or row["left_over"])


def machine() -> str:
    cpu = next((l.split(":", 1)[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")), platform.machine())
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}, load {os.getloadavg()[2]:.0f} in the last quarter of an hour"


def summary(rows: list[dict], about: str) -> str: # Markdown
    out = ["# Killed at random moments, and run again", "", f"Measured by `python scripts/kill.py` on: {about}.", "",
           "| command | kills | of the group / all / the first process | moments, share of the run | rerun completes + was complete when killed | results equal, bit for bit "
           "| half-written | left over | unkilled, s | rerun, s (median) |", "|" + "---|"*10]
    for name in dict.fromkeys(r["command"] for r in rows):
        mine = [r for r in rows if r["command"] == name]
        count = lambda key, value: sum(r[key] == value for r in mine)
        hows, share = " / ".join(str(count("killed", h)) for h in ("group", "all", "leader")), sorted(r["share"] for r in mine)
        out.append(f"| `{name}` | {len(mine)} | {hows} | {share[0]:.2f} to {share[-1]:.2f} | {count('rerun_exit', 0)} + {count('rerun_exit', 'done')} | {count('differing', 0)} "
                   f"| {sum(r['half_written'] for r in mine)} | {sum(r['left_over'] for r in mine)} | {mine[0]['alone_s']:.1f} "
                   f"| {statistics.median(r['rerun_s'] for r in mine):.1f} |")
    out += ["", f"In all {len(rows)} kills, {sum(map(good, rows))} without a fault. Reruns that first waited for what the killed process had "
            f"started: {sum(r['refused'] > 0 for r in rows)}.", "", "Compared is every file of the results. Left out, as they differ from run to run: "
            + "; ".join(f"{k}: {', '.join(v)}" for k, v in IGNORED.items()) + ".", ""]
    return "\n".join(out)


def read(file: Path) -> list[dict]:
    "Rows of an earlier call, with numbers as numbers."
    if not file.exists(): return []
    number = lambda text: next((kind(text) for kind in (int, float) if text.replace(".", "", kind is float).isdigit()), text)
    with open(file, newline="") as f: return [{k: number(v) for k, v in row.items()} for row in csv.DictReader(f)]


def keep(rows: list[dict], folder: Path, seed: int) -> list[dict]: # all rows that are there now
    "Write the rows of a command in the place of earlier ones of the same command."
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder/".kills.lock"):
        others = [r for r in read(folder/"kills.csv") if r["command"] != rows[0]["command"]]
        every = sorted(others + rows, key=lambda r: (list(KILLS).index(r["command"]), r["number"]))
        with atomic_path(folder/"kills.csv") as tmp, open(tmp, "w", newline="") as file:
            table = csv.DictWriter(file, rows[0], lineterminator="\n")
            table.writeheader()
            table.writerows(every)
        text = summary(every, f"{machine()}; seed {seed}; {time.strftime('%Y-%m-%d')}")
        with atomic_path(folder/"kills.md") as tmp: tmp.write_text(text)
    return every


def run(kills: dict[str, int], seed: int, folder: Path, out: Path) -> list[dict]: # all rows
    "All kills of some commands; every row is kept as soon as it is there."
    bench, every = Bench(folder, [n for n, k in kills.items() if k]), []
    for name, n in kills.items():
        rows, draw = [], random.Random(f"{seed} {name}")
        hows = ("group", "all", "leader") if name == "reproduce" else ("group", "all")
        for i in range(n):
            rows.append(bench.killed(name, i, (i + draw.random())/n, hows[i % len(hows)]))
            print(rows[-1], flush=True)
            every = keep(rows, out, seed)
    return every


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--kills", default=",".join(f"{k}={n}" for k, n in KILLS.items()), help="how many of which command")
    ask.add_argument("--seed", type=int, default=0, help="of the moments")
    ask.add_argument("--out", type=Path, default=PROJECT/"figures"/"benchmarks", help="folder for kills.csv, kills.md")
    ask = ask.parse_args()
    kills = {k: int(n) for k, _, n in (word.partition("=") for word in ask.kills.split(","))}
    if unknown := set(kills) - set(KILLS): sys.exit(f"unknown command {unknown.pop()}; known: {', '.join(KILLS)}")
    with tempfile.TemporaryDirectory(prefix="kills") as folder: rows = run(kills, ask.seed, Path(folder), ask.out)
    print((ask.out/"kills.md").read_text())
    return int(not all(map(good, rows)))


if __name__ == "__main__": sys.exit(main())
