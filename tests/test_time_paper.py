"What scripts/time_paper.py reads from a log of Snakemake, and the committed measurement."
import csv
import runpy

from mgr_paper.core import root
from mgr_paper.config import settings

PAPER = runpy.run_path(str(root()/"scripts"/"time_paper.py"))
LOG = """Job stats:
[Sun Nov 29 20:32:11 2026]
localrule store__synth:
    output: a
    jobid: 3
synth:   0%|          | 0/2040\rsynth: 100%|#| 2040/2040 [00:02<00:00, 9it/s][Sun Nov 29 20:34:24 2026]
Finished jobid: 3 (Rule: store__synth)
[Sun Nov 29 20:34:25 2026]
localrule source__synth__subjects__seed0__joint:
    jobid: 5
[Sun Nov 29 20:34:25 2026]
localrule source__synth__subjects__seed0__concat:
    jobid: 6
[Sun Nov 29 20:35:25 2026]
Error in rule source__synth__subjects__seed0__concat:
    jobid: 6
[Sun Nov 29 20:36:25 2026]
Finished jobid: 5 (Rule: source__synth__subjects__seed0__joint)
[Sun Nov 29 20:36:26 2026]
localrule all:
    jobid: 0
[Sun Nov 29 20:36:26 2026]
Finished jobid: 0 (Rule: all)
"""


def test_steps_of_a_log(tmp_path):
    log = tmp_path/"synth-20261129-203208-31471.log"
    log.write_text(LOG)
    assert PAPER["steps"](log) == [dict(step="store__synth", kind="store", start_s=0, end_s=133, failed=0),
                                   dict(step="source__synth__subjects__seed0__concat", kind="source", start_s=134, end_s=194, failed=1),
                                   dict(step="source__synth__subjects__seed0__joint", kind="source", start_s=134, end_s=254, failed=0)]
    log.write_text("Nothing to be done (all requested files are present and up to date).")
    assert PAPER["steps"](log) == []


def test_calls_count_until_one_has_no_failed_step(tmp_path, monkeypatch):
    "A table that failed is made by a second call, whose time is the reader's too; calls after that are not."
    folder = tmp_path/"runs"/"quick"/"logs"
    folder.mkdir(parents=True)
    (tmp_path/"figures"/"quick"/"records").mkdir(parents=True)
    (tmp_path/PAPER["FUSION"]).parent.mkdir(parents=True)
    (tmp_path/PAPER["FUSION"]).write_text("")
    for i, text in enumerate((LOG.replace("source__synth__subjects__seed0__concat", "table__f9"), LOG.replace("Error in rule", "rule"), "Nothing to be done.")):
        (folder/f"synth-2026112{i}-203208-1.log").write_text(text)
    monkeypatch.setitem(PAPER["measure"].__globals__, "reproduce", lambda *a: 1.)
    rows = PAPER["measure"](tmp_path, "quick", "synth", 1)
    assert [r["number"] for r in rows if r["call"] == "from nothing" and r["kind"] == "call"] == [0, 1]
    assert [r["failed"] for r in rows if r["step"] == "table__f9"] == [1]


def test_a_summary_counts_every_second_once():
    "Two trainings side by side: by the clock they take half the time that they take together."
    rows = [dict(call="from nothing", number=0, step="store__synth", kind="store", start_s=0, end_s=100),
            dict(call="from nothing", number=0, step="source__x", kind="source", start_s=100, end_s=330),
            dict(call="from nothing", number=0, step="source__y", kind="source", start_s=100, end_s=330),
            dict(call="from nothing", number=0, step="table__t0", kind="table", start_s=330, end_s=340),
            dict(call="from nothing", number=0, step="all", kind="call", start_s=0, end_s=345.),
            dict(call="from nothing", number=0, step="records", kind="training", start_s=0, end_s=400.),
            *(dict(call="nothing to do", number=i, step="all", kind="call", start_s=0, end_s=t) for i, t in enumerate((4., 3., 7.))),
            dict(call="fusion changed", number=0, step="all", kind="call", start_s=0, end_s=61.)]
    text = PAPER["summary"](rows, "a machine")
    assert "| by the clock / (training + rendering) | 0.69 | 1.25 | yes |" in text and "| seconds of all steps / (training + rendering) | 1.14 |" in text
    assert "other time of steps that train | 60 |" in text and "| nothing to do, median of 3 (3.0 to 7.0) | 4.0 | 5 | yes |" in text
    assert "| fusion changed, median of 1 (61.0 to 61.0) | 61.0 | 60 | NO |" in text


def test_the_committed_measurement():
    path = settings().figures/"benchmarks"/"paper.csv"
    with open(path, newline="") as f: rows = list(csv.DictReader(f))
    assert {r["call"] for r in rows} == {"from nothing", *PAPER["ASKED"]}
    assert not [r for r in rows if r["call"] != "from nothing" and r["kind"] not in ("call", "table")]
