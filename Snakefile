# The batch graph: one papermill run for every network and adaptation of a tier, then tables and figures from their records.
#
#   mgr-paper reproduce --tier quick                   # with progress and checks; what `make paper` calls
#   snakemake --workflow-profile profiles/local --config tier=quick data=synth
#   snakemake --workflow-profile profiles/local --config tier=bench data=utd-mhad only=figures
#
# What is run stands in settings.ini ([plan TIER DATA], [grid TABLE TIER DATA]), which files a run reads and writes in
# nbs/7_evidence/76_steps.ipynb. Files count as changed by their content, not by their time. Fusion and evidence are not
# inputs of the runs: votes and tables are computed again from the scores on disk, so a change there trains nothing.
import shlex
import sys
from functools import cache
from pathlib import Path

from mgr_paper.config import data_root, settings, tier_config
from mgr_paper.core import MgrError, root
from mgr_paper.evidence import steps as graph
from mgr_paper.evidence.experiments import config_of, runs, store_path, table_files, tables_of

TIER, DATA = config.get("tier", settings().tier), config.get("data", settings().data)
only = [name for name in str(config.get("only", "")).split(",") if name]
FIGURES_ONLY = "figures" in only  # from the records that are there: no run rule exists
CFG, THREADS = tier_config(TIER, DATA), settings().threads
MGR = f"{shlex.quote(sys.executable)} -c 'from mgr_paper.cli import main; main()'"  # the command, also where no script was installed
# the same command, by a process that has its imports, if there is one
ASK = f"{shlex.quote(sys.executable)} -I -S {shlex.quote(str(graph.LIBRARY/'evidence'/'ask.py'))}"
TRAINING = {  # of one run; memory in MB, time in minutes. Only a cluster's scheduler looks at gpu and time
    "smoke": dict(gpu=0, mem_mb=2000, runtime=10), "quick": dict(gpu=0, mem_mb=3000, runtime=60),
    "bench": dict(gpu=1, mem_mb=6000, runtime=240), "paper": dict(gpu=1, mem_mb=48000, runtime=2880)}[TIER]


@cache  # a big plan names the same files in every rule
def near(path):
    "Relative to the project where possible, so that a moved clone keeps its memory of what is done."
    path = Path(path)
    return str(path.relative_to(root()) if path.is_relative_to(root()) else path)


def notebook(name):
    return f"nbs/ablations/{name}.ipynb"


def given(**parameters):
    return " ".join(f"-p {name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in parameters.items())


try:
    RAW = "-" if DATA == "synth" else data_root(DATA)
except MgrError:
    RAW = None  # without the raw data a store that exists is taken as it is
RUNS = [] if FIGURES_ONLY else runs(TIER, DATA)
STORE = store_path(CFG)
STORE_OPTIONS = f"--tier {TIER}" if DATA == "synth" else ""  # tiers that share a store share its rule's parameters too
STORES = graph.stores(RUNS, TIER, DATA) # folder -> settings that differ from the tier's; rows with other clips have their own
HAVE_STORE = RAW is not None or (STORE/"store.json").exists()
if FIGURES_ONLY:
    RECORDS = sorted(near(p) for p in (settings().figures/TIER/"records"/DATA).rglob("*") if p.suffix in (".json", ".npz") and p.name[0] != ".")
    if not RECORDS: raise MgrError(f"no records of {DATA} in {settings().figures/TIER/'records'}", "leave out --only figures to make them")
else:
    RECORDS = [near(p) for run in RUNS for p in graph.outputs(run, TIER) if p.suffix in (".json", ".npz")]
SHOWN = [p for p in RECORDS if Path(p).parent.name in ("source", "heldout", "cmpl-1") and "@" not in p] # what a figure of clips can say of networks
TABLES = tables_of(DATA)
CHOSEN = [name for name in TABLES if name in only or not set(only) - {"figures"}]
CHOSEN = [name for name in CHOSEN if HAVE_STORE or not TABLES[name].store]


rule all:
    localrule: True
    input: [near(p) for name in CHOSEN for p in table_files(name, TIER, DATA)], [] if only else RECORDS


for path, changes in STORES.items() if RAW is not None else ():
    rule:
        name: graph.store_rule(path, DATA, STORE)
        input: lib=[near(p) for p in graph.store_modules(DATA)]
        output: near(path/"store.json")
        log: near(path.with_suffix(".log"))
        params:
            raw=str(RAW), store=graph.store_words(near(path), changes),
            config=path.name.removeprefix("synth-") if DATA == "synth" else ""
        resources: mem_mb=3000, runtime=60
        # the folder goes first: a store is written whole or not at all, and never into the remains of another
        # what differs from rule to rule is a parameter: this line is read when the loop is over
        shell: "rm -rf \"$(dirname {output:q})\" && {MGR} prepare {DATA} {params.raw:q} {params.store} {STORE_OPTIONS} > {log:q}"


for run in RUNS:
    rule:
        name: graph.rule_name(run)
        input:
            nb=notebook("r0_run"), store=near(store_path(config_of(run, TIER))/"store.json"), lib=[near(p) for p in graph.modules(run)],
            waits=[near(p) for r in graph.needs(run) for p in graph.outputs(r, TIER)]
        output: [near(p) for p in graph.outputs(run, TIER)]
        log: notebook=near(graph.executed(run, TIER)) # kept when the run fails
        params:
            given=given(kind=run.kind, data=run.data, split=run.split, long_tail=run.long_tail, seed=run.seed, what=run.what, tier=TIER,
                        **({"variant": run.variant} if run.variant else {}), **({"rounds": run.rounds} if run.kind in graph.ADAPTING else {})),
            work=" ".join(f"--unfinished {shlex.quote(near(p))}" for p in graph.unfinished(run, TIER)),
            config=graph.decisive(run, config_of(run, TIER))
        threads: THREADS
        resources: **TRAINING
        shell: "{MGR} notebook {input.nb:q} {log.notebook:q} {input:q} {params.given} {params.work} --config {params.config}"


for table in CHOSEN:
    rule:
        name: f"table__{table}"
        input:
            nb=notebook(table), lib=[near(p) for p in graph.table_modules()],
            data=[near(STORE/"store.json"), *SHOWN] if TABLES[table].store else RECORDS
        output: [near(p) for p in table_files(table, TIER, DATA)]
        log: notebook=near(settings().runs/TIER/"tables"/DATA/f"{table}.ipynb")
        params: given=given(tier=TIER, data=DATA)
        priority: {"t10_significance": 2, "f7_confusion": 1}.get(table, 0) # the longest first, or all would wait for them at the end
        threads: THREADS
        resources: mem_mb=2000, runtime=30
        shell: "{ASK} notebook {input.nb:q} {log.notebook:q} {params.given}"
