"""Small faults put into the numeric core one at a time: do the tests notice?

    python scripts/mutants.py                    # a seeded sample of 360 faults: figures/benchmarks/mutants.csv and mutants.md
    python scripts/mutants.py --survivors        # after tests were added: those that the last run left alive without a reason
    python scripts/mutants.py --module vote -v   # one module, printing each fault

A mutant is the exported module with one change to its syntax tree: a comparison, an operator, a number, a truth value, a condition, a
bound of a slice, max for min, a keyword left out, a return value, a statement left out. Text, annotations, decorators and what stands
inside `raise` are left alone. For each, a child is forked from a process that has the libraries loaded but none of the package; it runs
the owning notebook's cells and the related files of tests/. A failing check or a timeout kills the mutant.

Why no ready-made tool: mutmut and Cosmic Ray run a test command, and here half of the tests are notebook cells, which pytest does not see."""
import argparse
import ast
import csv
import importlib
import importlib.abc
import importlib.util
import os
import platform
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cells import PROJECT, run  # noqa: E402

OUT = PROJECT/"figures"/"benchmarks"
EDGES = {  # of tests/test_numerics.py, what has to do with each layer; its trainings would only cost time here
    "losses": ["gradient_of_every_classification_loss", "gradient_of_every_semantic_loss", "gradient_of_the_cosine_classifier",
               "losses_and_gradients_stay_finite", "learned_targets_of_a_single_class_have_no_angle_between_them", "class_weights_stay_finite"],
    "fusion": ["softmax_at_every_temperature", "temperatures_end_within_their_bounds", "votes_of_two_classes_and_of_sure_streams"],
    "adaptation": ["selections_of_two_classes_of_which_the_source_may_lack_one", "thresholds_of_a_class_that_nobody_names"],
    "evidence": ["measures_of_one_class_two_classes_and_one_clip", "intervals_of_one_class_and_of_two_people",
                 "tests_of_no_difference_and_of_a_huge_one"]}
RULES = [f"test_fusion.py::test_{t}" for t in (  # the others there are about tables
    "every_rule_gives_one_answer_of_shares", "no_simple_rule_cares_for_the_order_of_the_streams",
    "a_majority_wins_the_hard_vote_and_a_tie_goes_to_the_surest", "nothing_is_chosen_on_what_is_scored",
    "the_stacker_is_judged_on_people_it_did_not_see", "refusals_of_the_rules")]
MODULES = {  # module -> its notebook, the related files of tests/, or some tests of one
    "losses.class_weights": ("3_losses/30_class_weights", ["test_long_tail.py"]),
    "losses.semantic": ("3_losses/31_semantic", ["test_semantic.py", "test_long_tail.py"]),
    "losses.long_tail": ("3_losses/32_long_tail", ["test_long_tail.py"]),
    "fusion.calibrate": ("5_fusion/50_calibrate", RULES),
    "fusion.vote": ("5_fusion/51_vote", RULES),
    "fusion.baselines": ("5_fusion/52_fusion_baselines", RULES),
    "adaptation.cmpl": ("6_adaptation/60_cmpl", ["test_cmpl.py"]),
    "evidence.metrics": ("7_evidence/70_metrics", ["test_stats.py"]),
    "evidence.stats": ("7_evidence/71_stats", ["test_stats.py"]),
}
LIBRARIES = """numpy pandas scipy.stats scipy.optimize scipy.special torch torch.autograd.gradcheck torchvision.models sklearn.metrics
    sklearn.linear_model sklearn.model_selection matplotlib.pyplot hypothesis hypothesis.strategies pytest _pytest.assertion.rewrite
    fastcore.test statsmodels.stats.contingency_tables statsmodels.stats.multitest tabulate rich.console pyarrow.parquet safetensors.torch
    PIL.Image tqdm.auto
    accelerate timm.optim timm.scheduler timm.utils torchvision.models.video""".split()
SLOW_CELL = 3.  # processor seconds; a cell that takes longer is left out, which can only let more mutants live
FIELDS = ["module", "function", "line", "operator", "before", "after", "result", "by", "seconds", "reason"]

# --- the faults

OPPOSITE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot,
            ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div,
            ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr,
            ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And}
REVERSED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
SWAPPED = dict(max="min", min="max", any="all", all="any", maximum="minimum", minimum="maximum", argmax="argmin", argmin="argmax",
               ceil="floor", ones="zeros", zeros="ones", ones_like="zeros_like", zeros_like="ones_like", mean="sum", triu_indices="tril_indices")


def nodes(tree: ast.AST):
    "Every node that may be changed, with its parent and the function it stands in, in order of the source."
    def walk(node, parent, where):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): where = f"{where}.{node.name}".lstrip(".")
        if isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom)): return
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__": return
        yield node, parent, where
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "format_spec"): continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST): yield from walk(child, node, where)
    return list(walk(tree, None, ""))


def changes(node: ast.AST, parent: ast.AST) -> list[tuple[str, object]]:
    "What can be done to a node: the operator's name and a function that does it, on a node and its parent."
    def swap(new):
        def do(node, parent):
            for name, value in ast.iter_fields(parent):
                if value is node: setattr(parent, name, new(node))
                elif isinstance(value, list) and any(v is node for v in value): value[[v is node for v in value].index(True)] = new(node)
        return do
    def field(name, new): return lambda node, parent: setattr(node, name, new(getattr(node, name)))
    def item(name, i, new): return lambda node, parent: getattr(node, name).__setitem__(i, new)
    found = []
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            if type(op) in OPPOSITE: found.append(("comparison", item("ops", i, OPPOSITE[type(op)]())))
            if type(op) in REVERSED: found.append(("comparison", item("ops", i, REVERSED[type(op)]())))
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in OPPOSITE:
        found.append(("arithmetic", field("op", lambda op: OPPOSITE[type(op)]())))
    if isinstance(node, ast.BoolOp): found.append(("boolean", field("op", lambda op: OPPOSITE[type(op)]())))
    if isinstance(node, ast.UnaryOp): found.append(("sign or not", swap(lambda n: n.operand)))
    if isinstance(node, ast.Constant) and type(node.value) is bool: found.append(("truth value", field("value", lambda v: not v)))
    if isinstance(node, ast.Constant) and type(node.value) is int:
        found += [("number", field("value", lambda v: v + 1)), ("number", field("value", lambda v: v - 1))]
    if isinstance(node, ast.Constant) and type(node.value) is float:
        found.append(("number", field("value", lambda v: v/2 if v else 1.)))
    if isinstance(node, (ast.If, ast.IfExp)): found.append(("condition", field("test", lambda t: ast.UnaryOp(ast.Not(), t))))
    if isinstance(node, ast.Slice):
        found += [("slice", field(k, lambda v: None)) for k in ("lower", "upper", "step") if getattr(node, k) is not None]
    if isinstance(node, ast.Attribute) and node.attr in SWAPPED: found.append(("function", field("attr", SWAPPED.get)))
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in SWAPPED:
            found.append(("function", lambda n, p: setattr(n.func, "id", SWAPPED[n.func.id])))
        found += [("keyword", lambda n, p, i=i: n.keywords.pop(i)) for i, k in enumerate(node.keywords) if k.arg]
    if isinstance(node, ast.Return) and node.value is not None: found.append(("return", field("value", lambda v: ast.Constant(None))))
    text = isinstance(node, ast.Expr) and isinstance(node.value, (ast.Constant, ast.Yield))
    guard = isinstance(node, ast.If) and not node.orelse and isinstance(node.body[-1], (ast.Raise, ast.Return))
    stored = isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Subscript, ast.Attribute))
    if isinstance(node, ast.AugAssign) or isinstance(node, ast.Expr) and not text or guard or stored:
        found.append(("statement", swap(lambda n: ast.Pass())))
    return found


def source_of(module: str) -> str: return (PROJECT/"mgr_paper"/(module.replace(".", "/") + ".py")).read_text(encoding="utf-8")


def describe(module: str, source: str, i: int, j: int, tree: ast.AST) -> dict:
    "Where a fault is and what it changes: the statement, or its first line, before and after."
    node, parent, where = nodes(original := ast.parse(source))[i]
    operator = changes(node, parent)[j][0]
    if operator == "statement": before, after = " ".join(ast.unparse(node).split()), "(left out)"
    else:
        pairs = zip(*(ast.unparse(t).splitlines() for t in (original, tree)))
        before, after = next((p.strip(), q.strip()) for p, q in pairs if p != q)
    return dict(module=module, function=where, line=getattr(node, "lineno", None) or parent.lineno, operator=operator,
                before=before, after=after, site=(i, j))


def mutated(source: str, i: int, j: int) -> ast.AST:
    "The syntax tree with change j of node i."
    tree = ast.parse(source)
    node, parent, _ = nodes(tree)[i]
    changes(node, parent)[j][1](node, parent)
    return ast.fix_missing_locations(tree)

# --- one run of the tests

class Planted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    "Imports one module from a changed tree and all others as they are."
    def __init__(self, name: str, code): self.name, self.code = name, code

    def find_spec(self, name, path=None, target=None):
        if name != self.name: return None
        file = PROJECT/(name.replace(".", "/") + ".py")
        return importlib.util.spec_from_file_location(name, file, loader=self)

    def create_module(self, spec): return None

    def exec_module(self, module): exec(self.code, vars(module))


def judge(module: str, code, without: set[str], say) -> None:
    "Run what belongs to a module; an exception or a failing test is what kills."
    import pytest
    from hypothesis import Phase, settings
    settings.register_profile("mutants", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate))
    settings.load_profile("mutants")
    if code is not None: sys.meta_path.insert(0, Planted(f"mgr_paper.{module}", code))
    notebook, tests = MODULES[module]
    say("import")
    importlib.import_module(f"mgr_paper.{module}")
    say(f"notebook {notebook.split('/')[1]}")
    seconds = run(PROJECT/"nbs"/f"{notebook}.ipynb", without)
    os.chdir(PROJECT)
    class Names:
        def pytest_runtest_logstart(self, nodeid, location): say(nodeid.removeprefix("tests/"))
    edges = [f"test_numerics.py::test_{t}" for t in EDGES[module.split(".")[0]]]
    files = [f"tests/{t}" for t in (*tests, *edges)]
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", *files], plugins=[Names()])
    if code: raise AssertionError(f"pytest ends with {code}")
    say(f"done {seconds}")


def attempt(module: str, code, without: set[str], limit: float) -> tuple[str, str, float, str]:
    "What a child makes of a module: 'survived', 'killed' or 'timeout', how far it came, processor seconds, what it printed."
    with tempfile.TemporaryDirectory() as scratch:
        log, at = Path(scratch)/"log", Path(scratch)/"at"
        child = os.fork()
        if not child:
            status = 1
            try:
                os.setsid()
                out = os.open(log, os.O_CREAT | os.O_WRONLY)
                os.dup2(out, 1), os.dup2(out, 2)
                tempfile.tempdir = scratch
                os.environ["TMPDIR"] = scratch
                judge(module, code, without, at.write_text)
                status = 0
            except BaseException: traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(status)
        start, result = time.perf_counter(), None
        while result is None:
            done, status, used = os.wait4(child, os.WNOHANG)
            if done: result = "survived" if status == 0 else "killed"
            elif time.perf_counter() - start > limit:
                os.killpg(child, signal.SIGKILL)
                _, _, used = os.wait4(child, 0)
                result = "timeout"
            else: time.sleep(.02)
        text = log.read_text(errors="replace") if log.exists() else ""
        return result, at.read_text() if at.exists() else "start", used.ru_utime + used.ru_stime, text


def baseline(module: str) -> tuple[set[str], float]:
    "The cells to leave out because they are slow or need a slow one, and the seconds of a whole run."
    import ast as a
    from cells import cells
    without, notebook = set(), PROJECT/"nbs"/f"{MODULES[module][0]}.ipynb"
    for _ in range(len(cells(notebook))):
        start = time.perf_counter()
        result, at, cpu, text = attempt(module, None, without, 600)
        wall = time.perf_counter() - start
        if result == "survived":
            slow = {k for k, s in a.literal_eval(at.removeprefix("done ")).items() if s > SLOW_CELL}
            if not slow: return without, wall
            without |= slow
        elif without and "in cell " in text: without.add(text.rsplit("in cell ", 1)[1].split()[0])
        else: sys.exit(f"{module}: the tests fail without any mutant, at {at}\n{text[-3000:]}")
    return without, wall

# --- sample, report

def sample(n: int, seed: int, chosen: list[str]) -> list[dict]:
    "Faults of every module in proportion to how many it has, drawn by a seeded generator; each changed tree once."
    sources = {m: source_of(m) for m in MODULES}
    sites = {m: [(i, j) for i, (node, parent, _) in enumerate(nodes(ast.parse(s))) for j in range(len(changes(node, parent)))]
             for m, s in sources.items()}
    picked, total = [], sum(map(len, sites.values()))
    for m in chosen:
        order, seen, found = random.Random(f"{seed} {m}").sample(sites[m], len(sites[m])), {ast.dump(ast.parse(sources[m]))}, []
        for i, j in order:
            if len(found) == max(12, round(n*len(sites[m])/total)): break
            tree = mutated(sources[m], i, j)
            if (dump := ast.dump(tree)) not in seen: found.append(describe(m, sources[m], i, j, tree))
            seen.add(dump)
        picked += sorted(found, key=lambda r: (r["line"], r["site"]))
    return picked


def key(row: dict) -> tuple: return tuple(str(row[k]) for k in ("module", "function", "operator", "before", "after"))


def load() -> list[dict]:
    path = OUT/"mutants.csv"
    return list(csv.DictReader(path.open(encoding="utf-8", newline=""))) if path.exists() else []


def save(rows: list[dict]) -> None:
    "Written after every mutant, so that an interrupted run can go on with --survivors."
    OUT.mkdir(parents=True, exist_ok=True)
    new = OUT/"mutants.csv.part"
    with new.open("w", encoding="utf-8", newline="") as f:
        out = csv.DictWriter(f, FIELDS, extrasaction="ignore", lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
    new.replace(OUT/"mutants.csv")


def machine() -> str:
    import numpy
    import torch
    model = next((l.split(":", 1)[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")), "")
    return f"{os.cpu_count()} x {model or platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}"


def report(rows: list[dict], seed: int) -> str:
    "The page: a row a module, then every survivor and why it lives."
    def line(name, some):
        dead = sum(r["result"] != "survived" for r in some)
        return f"| {name} | {len(some)} | {dead} | {len(some) - dead} | {100*dead/max(len(some), 1):.1f} |"
    def code(text, other):  # what differs, with a little round it
        same = next((i for i, (p, q) in enumerate(zip(text, other)) if p != q), 0)
        a, b = (0, 150) if text == "(left out)" or other == "(left out)" else (max(0, same - 50), same + 40)
        return "`" + ("… " if a else "") + text[a:b].strip().replace("|", "\\|") + (" …" if b < len(text) else "") + "`"
    alive = [r for r in rows if r["result"] == "survived"]
    return "\n".join([
        "# Mutants", "",
        f"{len(rows)} small faults, drawn with seed {seed} from the numeric core; a fault is killed by a failing check or by running out of "
        f"time. {sum(r['result'] == 'timeout' for r in rows)} of them ran out of time. Processor seconds of all children: "
        f"{sum(float(r['seconds']) for r in rows):.0f}.", "", f"Machine: {machine()}. Made by `python scripts/mutants.py`.", "",
        "| module | mutants | killed | survived | killed, % |", "|---|--:|--:|--:|--:|",
        *(line(m, [r for r in rows if r["module"] == m]) for m in MODULES), line("**all**", rows), "", "## Survivors", "",
        "| where | line | before | after | why it lives |", "|---|--:|---|---|---|",
        *(f"| {r['module']}: {r['function'] or 'module'} | {r['line']} | {code(r['before'], r['after'])} | {code(r['after'], r['before'])} | {r['reason'] or '?'} |" for r in alive), ""])


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("-n", type=int, default=360, help="mutants in all")
    ask.add_argument("--module", action="append", help="only modules of this name; nothing is written")
    ask.add_argument("--survivors", action="store_true", help="only those that are new, or lived in the last run and have no reason in the csv")
    ask.add_argument("--report", action="store_true", help="write the page again, with the reasons that stand in the csv, and run nothing")
    ask.add_argument("-v", action="store_true", help="print each mutant")
    ask = ask.parse_args()
    old = {key(r): r for r in load()}
    rows = sample(ask.n, ask.seed, [m for m in MODULES if not ask.module or m.split(".")[-1] in ask.module])
    if not ask.report:
        for name in LIBRARIES: importlib.import_module(name)
        import torch
        torch.set_num_threads(1)
    sources, ready = {}, {}
    for n, r in enumerate(rows):
        before = old.get(key(r), {})
        if ask.report or ask.survivors and before and (before["result"] != "survived" or before["reason"].strip()):
            r.update({k: before.get(k, "") for k in ("result", "by", "seconds")})
        else:
            m = r["module"]
            if m not in ready:
                ready[m], sources[m] = baseline(m), source_of(m)
                print(f"{m}: {ready[m][1]:.1f} s without a mutant, left out: {sorted(ready[m][0])}", flush=True)
            code = compile(mutated(sources[m], *r["site"]), str(PROJECT/"mgr_paper"/(m.replace(".", "/") + ".py")), "exec")
            result, at, cpu, text = attempt(m, code, ready[m][0], 10 + 5*ready[m][1])
            r.update(result=result, by="" if result == "survived" else at, seconds=round(cpu, 2))
            if ask.v or result == "survived":
                print(f"[{n + 1}/{len(rows)}] {result:8} {cpu:5.1f} s {m}:{r['line']} {r['before'][:110]}  ->  {r['after'][:110]}  {r['by']}", flush=True)
        r["reason"] = before.get("reason", "") if r["result"] == "survived" else ""
        if not ask.module: save([*rows[:n + 1], *(old[k] for q in rows[n + 1:] if (k := key(q)) in old)])
    dead = sum(r["result"] != "survived" for r in rows)
    print(f"{dead} of {len(rows)} killed ({100*dead/len(rows):.1f} %)")
    if ask.module: return 0
    (OUT/"mutants.md").write_text(report(rows, ask.seed), encoding="utf-8")
    return 0


if __name__ == "__main__": sys.exit(main())
