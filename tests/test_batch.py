"""The batch graph: what it would run, and when it does nothing."""
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from mgr_paper.config import settings
from mgr_paper.core import root
from mgr_paper.evidence import steps as graph
from mgr_paper.evidence.experiments import TABLES, runs, table_files, tables_of
from mgr_paper.evidence.reproduce import alone

HERE = root()
NOTEBOOKS = sorted((HERE/"nbs"/"ablations").glob("*.ipynb"))


@pytest.fixture
def clone(tmp_path):
    "A project folder without results."
    for name in ("Snakefile", "settings.ini", "profiles", "nbs"): (tmp_path/name).symlink_to(HERE/name)
    return tmp_path


def reproduce(clone, *words, **env):
    "Call the command in a project folder; its exit code and what it said."
    env = {k: v for k, v in os.environ.items() if not k.startswith("MGR_")} | {"MGR_ROOT": str(clone)} | env
    code = "from mgr_paper.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "reproduce", *words], env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def recordings(folder):
    "A folder in UTD-MHAD's layout with a few made-up recordings."
    from mgr_paper.preprocessing.utd_mhad import write_example
    write_example(folder, actions=(1, 2), people=(1, 2), trials=(1,))
    return folder


def counted(tier, data):
    "What a dry run must say in a folder without results."
    n = Counter(r.kind for r in runs(tier, data))
    words = [f"{n[k]} {k}" for k in ("heldout", "source", "adapt", "rehearse") if n[k]]
    return ", ".join([f"{len(graph.stores(runs(tier, data), tier, data))} store", *words, f"{len(tables_of(data))} table"]) + " would run."


@pytest.mark.parametrize("tier,data", [("smoke", "synth"), ("quick", "synth"), ("bench", "synth"), ("quick", "utd-mhad"), ("bench", "utd-mhad")])
def test_dry_run_counts_the_plan(clone, tier, data):
    root = [] if data == "synth" else ["--root", str(recordings(clone/"raw"))]
    code, out, err = reproduce(clone, "--tier", tier, "--data", data, "--dry-run", *root)
    assert code == 0, out + err
    assert out.strip() == counted(tier, data) and not (clone/"figures").exists()


def test_one_table_needs_no_other(clone):
    code, out, err = reproduce(clone, "--tier", "quick", "--data", "synth", "--only", "f1_pipeline", "--dry-run")
    shown = Counter(r.kind for r in runs("quick", "synth")  # it shows networks' answers, and the labels of CMPL
                    if not r.variant and (r.kind == "source" or (r.kind, r.what) == ("adapt", "cmpl")))
    assert shown["adapt"] and code == 0 and out.strip() == f"1 store, {shown['source']} source, {shown['adapt']} adapt, 1 table would run.", out + err


def test_figures_from_records_that_are_there_train_nothing(clone):
    args = ("--tier", "bench", "--data", "utd-mhad", "--only", "figures", "--dry-run")
    code, out, err = reproduce(clone, *args)
    assert code == 1 and "no records of utd-mhad" in out  # there is nothing to draw
    some = clone/"figures"/"bench"/"records"/runs("bench", "utd-mhad")[0].outputs()[0]
    some.parent.mkdir(parents=True)
    for p in (some, some.with_suffix(".npz")): p.touch()
    code, out, err = reproduce(clone, *args)
    assert code == 0, out + err
    assert out.strip() == f"{sum(not made.store for made in tables_of('utd-mhad').values())} table would run."  # without recordings, none that shows clips


def test_a_failed_step_is_named_and_the_rest_goes_on(clone):
    "Empty records: every table fails with a line that names its notebook, exit code 1."
    some = clone/"figures"/"smoke"/"records"/"utd-mhad"/"x.json"
    some.parent.mkdir(parents=True)
    some.write_text("{}")
    code, out, err = reproduce(clone, "--tier", "smoke", "--data", "utd-mhad", "--only", "figures,f2_long_tail,f6_reliability")
    assert code == 1, out + err
    for name in ("f2_long_tail", "f6_reliability"): assert f"failed: table {name}" in out and f"{name}.ipynb" in out
    assert "x.json is not a record" in out and not list(clone.glob("figures/smoke/utd-mhad/*"))


def test_two_calls_do_not_make_the_same_files(clone):
    with alone(clone/"runs"/"smoke"/"logs"/"smoke-synth.lock"):
        code, out, err = reproduce(clone, "--tier", "smoke", "--data", "synth")
    assert code == 2 and "another reproduce is at work on smoke-synth" in err and not (clone/"figures").exists()


@pytest.mark.parametrize("words,named", [
    (["--tier", "quikc"], "quikc"), (["--data", "utd"], "utd"), (["--data", "imigue"], "imigue"), (["--tier", "paper", "--data", "synth"], "plan paper synth"),
    (["--only", "f99"], "f99"), (["--profile", "pbs"], "pbs"), (["--jobs", "0"], "jobs = 0"), (["--data", "utd-mhad", "--root", "nowhere"], "nowhere"),
    (["--data", "utd-mhad"], "data/utd_mhad"), (["--data", "synth", "--root", "x"], "--root"), (["--colour"], "--colour")])
def test_wrong_requests(clone, words, named):
    code, out, err = reproduce(clone, *words)
    assert code == 2 and named in err and err.startswith("error: ") and len(err.splitlines()) == 1, out + err
    assert not (clone/"figures").exists() and not (clone/"runs").exists()


def test_names_are_unique_and_files_have_one_maker():
    for tier, data in settings().plans:
        todo = runs(tier, data)
        made = [p for r in todo for p in graph.outputs(r, tier)] + [p for t in tables_of(data) for p in table_files(t, tier, data)]
        assert len(set(made)) == len(made) and len({graph.rule_name(r) for r in todo}) == len(todo)
        for i, r in enumerate(todo): assert set(graph.needs(r)) <= set(todo[:i])


def test_watched_library_files_exist():
    for data in ("synth", "utd-mhad"):
        for r in runs("smoke", data):
            for p in graph.modules(r): assert p.is_file(), p
        for p in graph.store_modules(data) + graph.table_modules(): assert p.is_file(), p


def test_all_that_decides_a_number_is_watched():
    "Every part of branches, losses, training and adaptation, but for what only keeps or shows."
    shown = {"training/checkpoints", "training/features", "training/transfer"}  # state files; one number of a record; `train --init`
    every = {p.relative_to(graph.LIBRARY).with_suffix("").as_posix() for folder in ("branches", "losses", "training", "adaptation")
             for p in (graph.LIBRARY/folder).glob("*.py") if p.stem != "__init__"}
    seen = {p.relative_to(graph.LIBRARY).with_suffix("").as_posix() for data in ("synth", "utd-mhad") for r in runs("bench", data) for p in graph.modules(r)}
    assert every - seen == shown


def test_settings_of_others_do_not_repeat_a_run():
    "A utd-mhad run does not depend on the simulated data's settings, nor a source run on those of adaptation."
    from mgr_paper.config import tier_config
    for r in runs("smoke", "utd-mhad"):
        key = lambda changes: graph.decisive(r, tier_config("smoke", "utd-mhad", changes))
        assert key({"synth.contrast": 3.}) == key({"train.swin.lr": .5}) == key({})
        assert (key({"cmpl.cap": 2.}) != key({})) == (r.kind == "adapt") and key({"loss.weights": "none"}) != key({})


def test_every_table_has_a_notebook():
    assert {p.stem for p in NOTEBOOKS} >= {"r0_run", *TABLES}


def test_a_row_with_other_clips_reads_a_store_of_its_own():
    "And so does its adaptation; rows that read the same clips share one."
    from mgr_paper.evidence.experiments import Run, config_of, store_path
    run = lambda kind, what, variant="": Run(kind, "synth", "subjects", False, 0, what, variant=variant)
    plain, full, faint = run("source", "r2plus1d"), run("source", "r2plus1d", "crop-full"), run("adapt", "cmpl", "contrast-50")
    found = graph.stores([plain, full, faint, run("source", "joint", "upper68")], "smoke", "synth")
    assert list(found.values()) == [{}, {"synth.crop": "full"}, {"synth.contrast": .5}]
    assert [store_path(config_of(r, "smoke")) for r in (plain, full, faint)] == list(found)
    assert graph.needs(faint) == [run("source", b, "contrast-50") for b in ("joint", "heatmap", "r2plus1d")]
    first, *others = found
    assert graph.store_rule(first, "synth", first) == "store__synth"
    assert len({graph.store_rule(p, "synth", first) for p in found}) == 3


def test_a_store_is_made_with_the_settings_that_name_it(tmp_path):
    "The words that the graph gives to `prepare` lead to the very store that a run will look for."
    import shlex
    from mgr_paper.cli import settings_of
    from mgr_paper.config import tier_config
    from mgr_paper.evidence.experiments import Run, store_path
    found = graph.stores([Run("source", "synth", "subjects", False, 0, "joint", variant=v) for v in ("crop-person", "size-96", "contrast-35")],
                         "bench", "synth")
    for path, changes in found.items():
        where, *words = shlex.split(graph.store_words(str(path), changes))
        assert where == str(path) and words[::2] == ["--set"]*len(changes)
        assert store_path(tier_config("bench", "synth", settings_of(words[1::2]))) == path


@pytest.mark.slow
def test_a_smoke_run_with_a_store_of_its_own(clone):
    "From nothing to the record of a row whose clips are cropped otherwise, in a folder whose name has a blank."
    (clone/"settings.ini").unlink()
    (clone/"settings.ini").write_text("""[reproduce]
tier = smoke
data = synth
jobs = 1
threads = 1
runs = my runs
figures = figures
[roots]
[plan smoke synth]
splits =
seeds = 0
methods =
[grid t6 smoke synth]
splits = subjects
seeds = 0
branches = joint
variants = default crop-full
""")
    bystander = clone/"my"/"letter"  # where a shell that splits the name would begin to remove
    bystander.parent.mkdir()
    bystander.touch()
    code, out, err = reproduce(clone, "--tier", "smoke", "--data", "synth", "--only", "t6_crop")
    assert code == 0, out + err
    records = sorted(p.relative_to(clone/"figures"/"smoke"/"records").as_posix() for p in (clone/"figures").rglob("joint.json"))
    assert records == ["synth/subjects/seed0/source/joint.json", "synth/subjects/seed0/source@crop-full/joint.json"]
    made = [json.loads(p.read_text()) for p in (clone/"my runs"/"stores").rglob("store.json")]
    assert len({m["fingerprint"] for m in made}) == 2  # two stores, and not twice the same clips
    assert bystander.exists()


def test_a_grid_of_no_table_is_named(monkeypatch):
    "Its runs would be trained and shown nowhere."
    from dataclasses import replace
    from mgr_paper.core import MgrError
    from mgr_paper.evidence import reproduce as command
    said = settings()
    def ask(table):
        monkeypatch.setattr(command, "settings", lambda: replace(said, grids={(table, "smoke", "synth"): {}}))
        command.check_request("smoke", "synth", (), "local", None)
    ask("t3-rounds")
    with pytest.raises(MgrError, match=r"unknown table of \[grid t22 smoke synth\] 't22', did you mean 't2'"): ask("t22")


@pytest.mark.parametrize("failed,only,calls", [
    (["source__synth__subjects__seed0__joint"], (), 2), (["table__t0_main"], (), 1), (["source__synth__subjects__seed0__joint"], ("t0_main",), 1), ([], (), 1)])
def test_tables_do_not_wait_for_a_run_that_failed(clone, monkeypatch, capsys, failed, only, calls):
    "All tables wait for all runs; where one has failed they are made from the records that are there, and the call still fails."
    from mgr_paper.evidence import reproduce as command
    from mgr_paper.evidence.watch import Watch
    some = clone/"figures"/"smoke"/"records"/"synth"/"x.json"
    some.parent.mkdir(parents=True)
    some.touch()
    seen = []
    def call(words, env, log, fds, console):
        watch = Watch()
        watch.failed = [] if "only=figures" in words else failed
        seen.append((words, log))
        return watch, int(bool(watch.failed))
    monkeypatch.setenv("MGR_ROOT", str(clone))
    monkeypatch.setattr(command, "call", call)
    code = command.reproduce("smoke", "synth", only=only)
    assert len(seen) == calls and code == int(bool(failed)) and len({log for _, log in seen}) == calls
    if calls == 2: assert "only=figures" in seen[1][0] and "from the records that are there" in capsys.readouterr().out
