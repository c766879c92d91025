"""The demonstrations and tests of a library notebook, run against the exported module instead of the notebook's own definitions.

nbdev-test runs every cell, so a test there sees what the cell above it defined. Here the exported cells are left out, and the rest runs
inside the module that was exported from them: what is measured (coverage, mutants) is the package that users install.

    python scripts/cells.py                # every library notebook, two at a time
    python scripts/cells.py 51_vote        # some, by stem
    python scripts/cells.py --jobs 1       # one at a time"""
import argparse
import builtins
import importlib
import json
import os
import re
import sys
import time
import traceback
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SKIPPED = {"slow", "gpu", "notest", "eval: false"}  # as tst_flags in pyproject.toml has it


def cells(path: Path) -> list[tuple[str, str]]:
    "Id and source of each code cell that is neither exported nor marked slow."
    found = []
    for c in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(c["source"])
        marks = {m.strip() for m in re.findall(r"^#\|(.*)$", source, re.M)}
        if c["cell_type"] == "code" and not marks & SKIPPED and not any(m.startswith(("export", "default_exp")) for m in marks):
            found.append((c["id"], source))
    return found


def module_name(path: Path) -> str | None:
    "The module that a notebook exports to, such as mgr_paper.fusion.vote."
    found = re.search(r"#\| default_exp ([\w.]+)", path.read_text(encoding="utf-8"))
    return f"mgr_paper.{found[1]}" if found else None


def run(path: Path, without: set[str] = frozenset()) -> dict[str, float]:
    "Run a notebook's cells in order, but those of some ids, in its folder; processor seconds of each. An error of a cell names the cell."
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    plt.show = lambda *a, **k: plt.close("all")
    name = module_name(path)
    space = vars(importlib.import_module(name)) if name else {"__name__": "notebook"}
    space.setdefault("display", lambda *a, **k: None)
    builtins.display = space["display"]
    os.chdir(path.parent)
    seconds = {}
    for key, source in cells(path):
        if key in without: continue
        start = time.process_time()
        try: exec(compile(source, f"{path.stem}, cell {key}", "exec"), space)
        except BaseException as e:
            e.add_note(f"in cell {key} of {path.name}")
            raise
        seconds[key] = time.process_time() - start
    return seconds


def library() -> list[Path]:
    "The notebooks that the package is exported from."
    folders = [PROJECT/"nbs", *sorted((PROJECT/"nbs").glob("[0-9]_*"))]
    return [p for f in folders for p in sorted(f.glob("*.ipynb")) if module_name(p)]


def main() -> int:
    "Run notebooks, each in a child of its own of a process that has the large libraries loaded."
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("names", nargs="*", help="stems of notebooks; none: all")
    ask.add_argument("--jobs", type=int, default=2)
    ask = ask.parse_args()
    names, jobs = ask.names, ask.jobs
    chosen = [p for p in library() if not names or p.stem in names]
    if unknown := set(names) - {p.stem for p in chosen}: sys.exit(f"no library notebook {min(unknown)}")
    for name in ("torch", "torchvision.models", "pandas", "scipy.stats", "sklearn.metrics", "matplotlib.pyplot", "fastcore.test"):
        importlib.import_module(name)
    os.environ |= {"MGR_BATCH": "1", "IN_TEST": "1"}
    running, failed, seconds = {}, [], 0.
    def wait():
        nonlocal seconds
        pid, status, used = os.wait4(-1, 0)
        path, start = running.pop(pid)
        seconds += used.ru_utime + used.ru_stime
        if status: failed.append(path.stem)
        print(f"{path.stem:28} {'failed' if status else 'ok':6} {time.perf_counter() - start:6.1f} s", flush=True)
    for path in chosen:
        while len(running) >= jobs: wait()
        sys.stdout.flush()
        pid = os.fork()
        if pid: running[pid] = path, time.perf_counter()
        else:
            status = 1
            try:
                if not names: os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                run(path)
                status = 0
            except BaseException: traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(status)
    while running: wait()
    print(f"{len(chosen) - len(failed)} of {len(chosen)} notebooks passed, {seconds:.0f} processor seconds" + "".join(f"; failed: {n}" for n in failed))
    return bool(failed)


if __name__ == "__main__": sys.exit(main())
