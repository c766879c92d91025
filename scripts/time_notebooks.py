"""Run notebooks as a reader would, each in a fresh kernel from top to bottom, and print what it took.

    python scripts/time_notebooks.py                      # all of them
    python scripts/time_notebooks.py 41_train t0_main     # some
    python scripts/time_notebooks.py --limit 60           # exit code 1 where one took more processor seconds

Nothing is saved: the notebooks stay as they are, and what they write goes to a throw-away project that shares them. Wall seconds
depend on what else the machine is doing; processor seconds, of the kernel and of all that it starts, do so much less."""
import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

PROJECT = Path(__file__).resolve().parent.parent
SHARED = ("settings.ini", "nbs", "scripts", "Snakefile", "profiles", "README.md", "CITATION.cff", "figures/bench", "figures/README.md")


def notebooks() -> dict[str, Path]:
    "Every notebook by its stem, in reading order."
    found = (p for p in sorted((PROJECT/"nbs").rglob("*.ipynb")) if not any(q[0] in "._" for q in p.relative_to(PROJECT).parts))
    return {p.stem: p for p in found}


def clone(folder: Path) -> Path:
    "A project as a fresh clone is, without results of the small tiers."
    for name in SHARED:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).symlink_to(PROJECT/name)
    return folder


def measure(path: Path, root: Path) -> dict:
    "Run one notebook in a fresh kernel: wall and processor seconds, its error, what it wrote to stderr."
    nb = nbformat.read(path, 4)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    env = {k: v for k, v in os.environ.items() if k not in ("MGR_BATCH", "IN_TEST")} | {"MGR_ROOT": str(root)}
    client = NotebookClient(nb, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    error = ""
    try: client.execute(env=env)
    except CellExecutionError as e: error = f"{e.ename}: {e.evalue}"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    noise = [o.text for c in nb.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    return dict(wall=time.perf_counter() - start, cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                error=error, stderr="".join(noise))


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("names", nargs="*", help="stems of notebooks; none: all")
    ask.add_argument("--limit", type=float, default=float("inf"), help="processor seconds that a notebook may take")
    ask = ask.parse_args()
    known = notebooks()
    if unknown := [n for n in ask.names if n not in known]: sys.exit(f"no notebook {unknown[0]}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    bad = 0
    with tempfile.TemporaryDirectory(prefix="notebooks-") as folder:
        root = clone(Path(folder))
        wanted = ask.names or list(known)
        print(f"{'notebook':28} {'wall, s':>8} {'CPU, s':>8}", flush=True)
        for name in wanted:
            m = measure(known[name], root)
            wrong = m["error"] or (f"stderr: {m['stderr'][:200]!r}" if m["stderr"] else "")
            bad += bool(wrong) or m["cpu"] > ask.limit
            print(f"{name:28} {m['wall']:8.1f} {m['cpu']:8.1f}  {'over the limit ' if m['cpu'] > ask.limit else ''}{wrong}", flush=True)
    return int(bad > 0)


if __name__ == "__main__": sys.exit(main())
