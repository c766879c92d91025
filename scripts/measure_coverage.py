"""Which lines of the exported library run in library notebooks and in tests/, together and apart.

    python scripts/measure_coverage.py                  # notebooks, then pytest, then the page: figures/benchmarks/coverage.md
    python scripts/measure_coverage.py notebooks        # one part; its data wait in _proc/coverage for the page
    python scripts/measure_coverage.py tests -k stats   # the rest goes to pytest
    python scripts/measure_coverage.py page             # the page from what has been measured; exit code 1 under 90 %

Notebook cells run against the exported modules (scripts/cells.py). Processes that tests start (command line, Snakemake, papermill's
kernels, workers) are measured too. Slow tests and those that need a GPU are left out, as everywhere."""
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import coverage

PROJECT = Path(__file__).resolve().parent.parent
DATA, OUT = PROJECT/"_proc"/"coverage", PROJECT/"figures"/"benchmarks"
LEAST = 90  # per cent of lines
PARTS = {"notebooks": ["scripts/cells.py"], "tests": ["-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider"]}


def measure(part: str, extra: list[str]) -> int:
    "Run one part with every process measured; its data become one file."
    folder = DATA/part
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    env = os.environ | {"COVERAGE_FILE": str(folder/"raw"), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    data = PROJECT.parent/"shared"/"data"/"utd_mhad"
    if data.is_dir(): env.setdefault("MGR_UTD_ROOT", str(data))
    start = time.perf_counter()
    code = subprocess.run([sys.executable, "-m", "coverage", "run", *PARTS[part], *extra], cwd=PROJECT, env=env).returncode
    (folder/"seconds").write_text(f"{time.perf_counter() - start:.0f} {code} {sum(e.endswith('.py') for e in extra)}")
    both = coverage.Coverage(data_file=str(folder/"all"), config_file=str(PROJECT/"pyproject.toml"))
    both.combine([str(p) for p in folder.glob("raw*")], keep=True)
    both.save()
    return code


def lines(parts: list[str]) -> dict[str, tuple[int, int]]:
    "Statements of each module, and how many of them ran in any of the parts."
    cov = coverage.Coverage(data_file=str(DATA/"joined"), config_file=str(PROJECT/"pyproject.toml"))
    cov.combine([str(DATA/p/"all") for p in parts], keep=True)
    found = {}
    for path in sorted((PROJECT/"mgr_paper").rglob("*.py")):
        if path.name in ("__init__.py", "_modidx.py") or "weights" in path.parts: continue
        _, statements, _, missing, _ = cov.analysis2(str(path))
        found[path.relative_to(PROJECT/"mgr_paper").with_suffix("").as_posix().replace("/", ".")] = len(statements), len(statements) - len(missing)
    return found


def page() -> int:
    "Write coverage.md and print it."
    parts = [p for p in PARTS if (DATA/p/"all").exists()]
    if not parts: sys.exit("nothing has been measured yet: run `make coverage`")
    apart, together = {p: lines([p]) for p in parts}, lines(parts)
    def row(name, keys):
        n = sum(together[k][0] for k in keys)
        share = [100*sum(table[k][1] for k in keys)/max(n, 1) for table in (*(apart[p] for p in parts), together)]
        return f"| {name} | {n} | " + " | ".join(f"{x:.1f}" for x in share) + " |", share[-1]
    total, share = row("**all**", [*together])
    took = {p: (DATA/p/"seconds").read_text().split() for p in parts}
    model = next((l.split(":", 1)[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")), platform.machine())
    text = "\n".join([
        "# Coverage", "",
        "Lines of the exported library that run in the demonstrations and tests of its notebooks and in `tests/`, per cent. Lines of "
        "`__init__.py` and of nbdev's index are not counted; slow tests and those that need a GPU are left out.", "",
        f"Machine: {os.cpu_count()} x {model}, Python {platform.python_version()}, coverage {coverage.__version__}. "
        + "; ".join(f"{p}: {s} s{f', only {some} of the files' if some != '0' else ''}{'' if code == '0' else ', with failures'}" for p, (s, code, some) in took.items()) + ". Made by `make coverage`.", "",
        f"| module | lines | {' | '.join(parts)} | together |", "|---|--:|" + "--:|"*(len(parts) + 1),
        *(row(k, [k])[0] for k in together), total, ""])
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT/"coverage.md").write_text(text, encoding="utf-8")
    print(text)
    if share < LEAST: print(f"{share:.1f} % of lines: {LEAST} are asked for")
    return int(share < LEAST)


def main(what: str = "", *extra: str) -> int:
    if what == "page": return page()
    if what in PARTS: return measure(what, [*extra])
    if what: sys.exit(__doc__)
    failed = [p for p in PARTS if measure(p, [])]
    return page() or len(failed)


if __name__ == "__main__": sys.exit(main(*sys.argv[1:]))
