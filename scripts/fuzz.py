"""Feed damaged files to every reader, and count what happens.

    python scripts/fuzz.py                                  # 100,000 inputs or more, 10 to 20 minutes of one core
    python scripts/fuzz.py --inputs 3000 --only xlsx video  # some readers
    python scripts/fuzz.py --out figures/benchmarks         # writes fuzz.csv and fuzz.md there
    python scripts/fuzz.py --show xlsx 1234 --keep found    # one input: what it does, and its files in found/

Each input must end in a result that makes sense, or in the project's own error. Everything else is a fault: another exception, a crash,
more than 10 seconds, memory that grows by more than `ROOM`, a program started, a socket opened, or a file touched outside the folders
given. Readers run in processes of their own under a limit of memory; an input is a function of reader, seed and number, so each can be
made again. The exit code is 1 where there was a fault."""
import argparse
import contextlib
import csv
import json
import os
import platform
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fuzz_readers
from fuzz_readers import FAULTY, READERS, Seed
from mutations import mutate

SECONDS, START = 10, 180  # an input may take; a worker may take to import and to read the sound files
ROOM = 1 << 30  # bytes of address space above what the sound files need
GROWTH = 256  # MB of real memory above that
LONGEST = 2000  # letters of an error
LIBRARY = str(Path(fuzz_readers.skeleton_files.__file__).resolve().parents[1])  # not always in the folder of the scripts
HARMLESS = [p for p in (sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parent.parent), LIBRARY, "/proc", "/sys", "/usr", "/dev/null", "/dev/urandom")]
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn", "os.startfile", "socket.connect",
          "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request", "webbrowser.open", "pickle.find_class")
TOUCHES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.chmod", "os.chown", "os.truncate", "shutil.rmtree",
           "shutil.move", "shutil.copyfile", "os.utime", "os.mkfifo")


# ---- one input

def damaged(seeds: list[Seed], name: str, seed: int, number: int) -> tuple[Seed, bytes]:
    "The files of an input: a sound set, and what stands in the place of its target."
    rng = Random(f"{name} {seed} {number}")
    sound = rng.choice(seeds)
    return sound, mutate(sound.files[sound.target], Path(sound.target).name, rng)


def importing() -> bool:
    "Whether a library makes code of its own: classes while it is loaded, checks from the schema of notebooks."
    frame = sys._getframe()
    while frame is not None and not any(n in frame.f_code.co_filename for n in ("importlib", "fastjsonschema")): frame = frame.f_back
    return frame is not None


class Guard:
    "Notes what Python is asked to do outside of a folder; it cannot be taken off, only put to sleep."
    def __init__(self, home: Path):
        self.home, self.awake, self.seen = os.path.realpath(home), False, []
        sys.addaudithook(self)
    def __call__(self, event, args):
        if not self.awake: return
        if event in STARTS: self.seen.append(f"{event} {args!r:.100}")
        elif event == "exec" and getattr(args[0], "co_filename", "").startswith("<string") and not importing(): self.seen.append("exec of text")
        elif event == "open" or event in TOUCHES:
            paths = [a for a in args[:2 if event != "open" else 1] if isinstance(a, (str, bytes, os.PathLike))]
            writes = event != "open" or bool(isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            for p in paths:
                self.awake = False
                path = os.path.realpath(os.fsdecode(p))
                self.awake = True
                if path.startswith(self.home + os.sep): continue
                if writes or not path.startswith(tuple(HARMLESS)): self.seen.append(f"{event} {path}")


class Worker:
    "Reads the inputs of one reader, in this process."
    def __init__(self, name: str, base: Path):
        self.reader = (READERS | FAULTY)[name]
        self.inside, self.out, self.cwd = (base/"home"/d for d in ("in", "out", "cwd"))
        for d in (self.inside, self.out, self.cwd, base/"seeds", base/"home"/"tmp"): d.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(base/"home"/"tmp")
        self.base, self.guard = base, Guard(base/"home")
        self.seeds = self.reader.seeds(base/"seeds")
        (base/"outside.mp4").write_bytes(next((s.files[n] for s in self.seeds for n in s.files if n.endswith(".mp4")), b"x"))
        os.chdir(self.cwd)
        warnings.simplefilter("ignore")
        for _ in range(2):  # twice: libraries load on the first call, and what they keep is part of the ground
            what, why = self.run(self.seeds[0], self.seeds[0].files[self.seeds[0].target])
            if what != "accepted": raise SystemExit(f"{name}: the sound files are not read: {why}")
        self.ground = rss()
        with open("/proc/self/statm") as f: pages = int(f.read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages*resource.getpagesize() + ROOM,)*2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def lay_out(self, sound: Seed, data: bytes):
        for d in (self.inside, self.out): shutil.rmtree(d, ignore_errors=True); d.mkdir()
        for n, content in sound.files.items():
            (self.inside/n).parent.mkdir(parents=True, exist_ok=True)
            (self.inside/n).write_bytes(data if n == sound.target else content)

    def run(self, sound: Seed, data: bytes) -> tuple[str, str]:
        "What an input does: accepted, refused or a kind of fault; and why."
        from mgr_paper.core import MgrError
        self.lay_out(sound, data)
        self.guard.seen, self.guard.awake = [], True
        try:
            self.reader.read(self.inside, self.out)
            what, why = "accepted", ""
        except MgrError as e:
            what, why = "refused", str(e)
            if out_of_memory(e): what, why = "memory", f"refused for lack of memory: {e}"[:300]
            elif len(why) > LONGEST or "\n" in why: what = "message"
        except AssertionError as e: what, why = "wrong", f"{e} at {where(e)}"
        except MemoryError as e: what, why = "memory", where(e)
        except BaseException as e: what, why = "exception", f"{type(e).__name__}: {str(e)[:120]} at {where(e)}"
        finally: self.guard.awake = False
        if self.guard.seen: what, why = "reach", "; ".join(sorted(set(self.guard.seen)))[:300]
        elif any(self.cwd.iterdir()) or {p.name for p in self.base.iterdir()} - {"home", "seeds", "outside.mp4"}: what, why = "reach", "wrote a file"
        return what, why


def rss() -> float: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024


def where(e: BaseException) -> str:
    "The innermost line of ours."
    found = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(e.__traceback__) if "mgr_paper" in f.filename or "fuzz_readers" in f.filename]
    return found[-1] if found else "?"


def out_of_memory(e: BaseException|None) -> bool:
    "Whether an error began with a lack of memory. FFmpeg says so too where a number in a file goes beyond its own limit; it has not asked for it."
    while e is not None:
        if isinstance(e, MemoryError) and not type(e).__module__.startswith("av"): return True
        e = e.__cause__ or e.__context__
    return False


def work(name: str, seed: int, start: int, stop: int, base: Path):
    "The child: one line of JSON for each input."
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    w = Worker(name, base)
    print(json.dumps(dict(ready=round(w.ground))), file=answers)
    for number in range(start, stop):
        sound, data = damaged(w.seeds, name, seed, number)
        begin = time.perf_counter()
        what, why = w.run(sound, data)
        ms = 1000*(time.perf_counter() - begin)
        grown = rss() - w.ground
        if grown > GROWTH and what in ("accepted", "refused"): what, why = "memory", f"{grown:.0f} MB more; {why[:200]}"
        print(json.dumps(dict(i=number, what=what, why=why[:400], ms=ms, mb=grown)), file=answers)
        if grown > GROWTH: return  # the peak does not fall again: a fresh process goes on


# ---- the parent

def follow(name: str, seed: int, inputs: int, base: Path, quiet: bool = False, seconds: float = SECONDS) -> list[dict]:
    "The answers for all inputs of a reader, with a fresh child after each that died, hung or grew."
    rows, number, late = [], 0, -1
    env = os.environ | dict(MALLOC_ARENA_MAX="2", ARROW_DEFAULT_MEMORY_POOL="system", OMP_NUM_THREADS="1", MGR_BATCH="1", PYTHONFAULTHANDLER="0",
                            HOME=str(base/"home"), PYTHONWARNINGS="ignore", OPENBLAS_NUM_THREADS="1")
    while number < inputs:
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        with open(base.with_suffix(".err"), "w+b") as noise:
            child = subprocess.Popen([sys.executable, __file__, "--work", name, str(seed), str(number), str(inputs), str(base)],
                                     stdout=subprocess.PIPE, stderr=noise, env=env)
            held, limit = b"", START
            while True:
                ready, _, _ = select.select([child.stdout], [], [], limit)
                block = os.read(child.stdout.fileno(), 1 << 16) if ready else b""
                if not block: break
                *lines, held = (held + block).split(b"\n")
                for row in map(json.loads, lines):
                    limit = seconds
                    if "ready" in row: continue
                    rows.append(row); number = row["i"] + 1
                    if row["what"] in FAULTS and not quiet: print(f"{name} {row['i']}: {row['what']}, {row['why']}", flush=True)
            hung = not ready
            if hung: child.send_signal(signal.SIGKILL)
            code = child.wait()
            noise.seek(0)
            said = noise.read().decode(errors="replace").strip().splitlines()[-1:]
        if limit == START: raise SystemExit(f"{name}: no worker came up: {said}")
        if hung and late != number: late = number  # once more: a machine that is busy is no hang
        elif hung or code:
            what = "hang" if hung else "crash"
            why = f"over {seconds} seconds" if hung else f"ended with {code}: {said}"
            rows.append(dict(i=number, what=what, why=why[:300], ms=1000.*seconds if hung else 0., mb=0))
            if not quiet: print(f"{name} {number}: {what}, {why}", flush=True)
            number += 1
        if not quiet: print(f"{name}: {number} of {inputs}", flush=True)
    return rows


FAULTS = ("exception", "wrong", "memory", "hang", "crash", "reach", "message")


def summary(name: str, rows: list[dict]) -> dict:
    "A line of the table."
    count, ms = Counter(r["what"] for r in rows), [r["ms"] for r in rows]
    return dict(reader=name, inputs=len(rows), refused=count["refused"], accepted=count["accepted"], faults=sum(count[f] for f in FAULTS),
                median_ms=round(statistics.median(ms), 2), slowest_ms=round(max(ms)), more_mb=round(max(r["mb"] for r in rows)))


def machine() -> str:
    with open("/proc/cpuinfo") as f: model = next((l.split(":", 1)[1].strip() for l in f if l.startswith("model name")), platform.machine())
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def write_table(table: list[dict], asked: int, seed: int, folder: Path):
    "The results as csv and Markdown; rows of readers that were not run this time stay."
    folder.mkdir(parents=True, exist_ok=True)
    if (folder/"fuzz.csv").exists():
        with open(folder/"fuzz.csv", newline="") as f: older = {r["reader"]: {k: float(v) if "." in v else int(v) if v.isdigit() else v for k, v in r.items()} for r in csv.DictReader(f)}
        older |= {r["reader"]: r for r in table}
        table = [older[n] for n in READERS if n in older]
    total = {k: sum(r[k] for r in table) for k in ("inputs", "refused", "accepted", "faults")}
    with open(folder/"fuzz.csv", "w", newline="") as f:
        out = csv.DictWriter(f, list(table[0]), lineterminator="\n")
        out.writeheader(); out.writerows(table)
    head = "| reader | inputs | refused | accepted | faults | median ms | slowest ms | MB more |\n|---|---:|---:|---:|---:|---:|---:|---:|\n"
    body = "".join("| " + " | ".join(str(v) for v in r.values()) + " |\n" for r in table)
    last = f"| **all** | **{total['inputs']}** | {total['refused']} | {total['accepted']} | **{total['faults']}** | | | |\n"
    (folder/"fuzz.md").write_text(f"""# Damaged files against every reader

{head}{body}{last}
Refused: the project's own error, in one line. Accepted: read, and what came back made sense. Faults: anything else. MB more: the greatest
growth of a reader's process over what the sound files need. Times are of one input, its files written and read.

`python scripts/fuzz.py --inputs {asked} --seed {seed}` on {machine()}; others worked on it too.
""")


def fuzz(names: list[str], inputs: int, seed: int, quiet: bool = False, jobs: int = 1) -> dict[str, list[dict]]:
    "All answers, by reader."
    share = inputs/sum(READERS[n].share for n in names)
    with tempfile.TemporaryDirectory(prefix="fuzz", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as base:
        def one(n): return follow(n, seed, int(READERS[n].share*share) + 1, Path(base)/n.replace(" ", "-"), quiet)
        with ThreadPoolExecutor(jobs) as pool: return dict(zip(names, pool.map(one, names)))


def show(name: str, number: int, seed: int, keep: Path|None, read: bool = True):
    "One input, in this process and without limits."
    with tempfile.TemporaryDirectory(prefix="fuzz") as base:
        Path(base, "seeds").mkdir()
        sound, data = damaged(READERS[name].seeds(Path(base, "seeds")), name, seed, number)
        for d in ("in", "out"): Path(base, d).mkdir()
        for n, content in sound.files.items():
            Path(base, "in", n).parent.mkdir(parents=True, exist_ok=True)
            Path(base, "in", n).write_bytes(data if n == sound.target else content)
        print(sound.target, len(data), "bytes:", data[:300])
        if keep: shutil.copytree(Path(base, "in"), keep/f"{name.replace(' ', '-')}-{number}", dirs_exist_ok=True)
        if not read: return
        try: READERS[name].read(Path(base, "in"), Path(base, "out")); print("accepted")
        except BaseException: traceback.print_exc()


def main(words: list[str]) -> int:
    if words[:1] == ["--work"]:
        name, seed, start, stop, base = words[1:]
        work(name, int(seed), int(start), int(stop), Path(base))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_100, help="in all; readers get their shares")
    parser.add_argument("--only", nargs="+", default=list(READERS), choices=list(READERS), metavar="READER", help=", ".join(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="readers at once")
    parser.add_argument("--out", type=Path, help="folder for fuzz.csv and fuzz.md; rows of other readers stay in them")
    parser.add_argument("--json", action="store_true", help="print the table as one line of JSON at the end, and nothing on the way")
    parser.add_argument("--keep", type=Path, help="folder for the files of faulty inputs")
    parser.add_argument("--show", nargs=2, metavar=("READER", "NUMBER"), help="make one input again and read it")
    asked = parser.parse_args(words)
    if asked.show:
        show(asked.show[0], int(asked.show[1]), asked.seed, asked.keep)
        return 0
    rows = fuzz(asked.only, asked.inputs, asked.seed, asked.json, asked.jobs)
    table = [summary(n, r) for n, r in rows.items()]
    for line in table: print(line)
    groups: dict[tuple, list[int]] = {}
    for n, r in rows.items():
        for x in r:
            if x["what"] in FAULTS: groups.setdefault((n, x["what"], x["why"].rsplit(" at ", 1)[-1] if " at " in x["why"] else x["why"][:60]), []).append(x["i"])
    first = {(n, x["i"]): x["why"] for n, r in rows.items() for x in r}
    for (n, what, _), found in groups.items():
        print(f"FAULT {n}: {what}, {len(found)} times, first {found[0]}: {first[n, found[0]]}")
        if asked.keep:
            with contextlib.redirect_stdout(None): show(n, found[0], asked.seed, asked.keep, read=False)
    if asked.json: print(json.dumps(table))
    if asked.out: write_table(table, asked.inputs, asked.seed, asked.out)
    return int(any(line["faults"] for line in table))


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
