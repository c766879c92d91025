"What the project says of the paper's claims is what its records give, and the page of figures shows what lies there."
import re

import pytest

from mgr_paper.config import settings
from mgr_paper.core import root
from mgr_paper.evidence.claims import ABSENT, CLAIMS, NEEDS, claims_table
from mgr_paper.evidence.page import entries, page_path, page_text
from mgr_paper.evidence.results import Results
from mgr_paper.evidence.tables import save_table

NOTEBOOKS = root()/"nbs"/"ablations"
BENCH = settings().figures/"bench"
COMMITTED = sorted(p for p in BENCH.glob("*/c0_claims*.csv"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.parent.name)
def test_the_claims_file_is_what_the_records_give(path, tmp_path):
    table = claims_table(Results.load(BENCH/"records", path.parent.name))
    save_table(table, tmp_path/"new", "", index=False)
    assert (tmp_path/"new.csv").read_text() == path.read_text(), "run mgr-paper reproduce --tier bench --only figures,c0_claims"


def test_each_claim_is_tested_by_a_notebook():
    there = {e.id for e in entries(NOTEBOOKS)}
    assert {c.tested for c in CLAIMS} <= there, sorted({c.tested for c in CLAIMS} - there)
    for c in CLAIMS: assert re.match("(stated|inferred|asked): ", c.where), c.id


def test_without_records_nothing_is_claimed():
    for data in ("synth", "utd-mhad", "imigue"):
        table = claims_table(Results(data))
        assert set(table.verdict) <= {ABSENT, NEEDS, *(v for v in table.verdict if v.startswith("not testable"))}
        assert set(table.iloc[:, -1]) == {"—"}


def test_every_table_and_figure_has_a_notebook():
    want = {*(f"T{i}" for i in range(12)), *(f"F{i}" for i in range(1, 13)), "V0", "C0", "C1"}
    there = {e.id for e in entries(NOTEBOOKS)}
    assert want <= there, sorted(want - there)


def test_the_page_shows_what_lies_there():
    assert page_path("bench").read_text(encoding="utf-8") == page_text("bench"), "run python scripts/figures_page.py"
    links = re.findall(r"\]\(((?!https?:|#)[^)]+)\)", page_text("bench"))
    missing = [l for l in links if not (page_path("bench").parent/l).exists()]
    assert links and not missing, missing[:5]
