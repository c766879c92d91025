"Ablation notebooks as executed, for the docs site: those of the last batch where they are up to date, else run here on the records there are."
import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from os.path import relpath
from pathlib import Path

from mgr_paper.batch import parameters, run_notebook
from mgr_paper.config import TIERS, settings
from mgr_paper.core import atomic_path, fingerprint, progress, root
from mgr_paper.evidence.experiments import DATA, TABLES
from mgr_paper.evidence.page import TITLES
from mgr_paper.evidence.steps import table_modules

WHERE = 'What it made of the committed records is among the [results](../results.md).'


@lru_cache
def records(tier: str, data: str) -> list[Path]:
    "What is known of a data set in a tier."
    return sorted(p for p in (settings().figures/tier/'records'/data).rglob('*') if p.suffix in ('.json', '.npz') and p.name[0] != '.')


def shown(name: str) -> tuple[str, str]:  # tier, data set
    "What a notebook is shown on: the largest tier that has records, real people before simulated ones."
    asked = TABLES[name].data if name in TABLES else tuple(DATA)
    sets = sorted((d for d in DATA if d in asked), key=lambda d: DATA[d].simulated)
    return next((t, d) for t in reversed(TIERS) for d in sets if (settings().figures/t/'records'/d).is_dir())


def code(notebook: Path) -> list[str]:
    "The code cells, without the parameters that a batch puts in."
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    return [''.join(c['source']) for c in cells if c['cell_type'] == 'code' and 'injected-parameters' not in c['metadata'].get('tags', [])]


@lru_cache
def behind(tier: str, data: str) -> str:
    "A fingerprint of the records and of the library that makes tables of them."
    hashed = lambda p: hashlib.sha256(p.read_bytes()).hexdigest()
    return fingerprint([[p.name, hashed(p)] for p in (*table_modules(), *records(tier, data))])


def from_batch(notebook: Path, tier: str, data: str) -> Path | None:
    "What `mgr-paper reproduce` has executed, if nothing has changed since."
    done = settings().runs/tier/'tables'/data/notebook.name
    if not done.exists() or code(done) != code(notebook): return None
    if json.loads(done.read_text(encoding='utf-8'))['metadata'].get('papermill', {}).get('exception'): return None
    newest = max(p.stat().st_mtime for p in (*table_modules(), *records(tier, data)))
    return done if done.stat().st_mtime >= newest else None


def execute(notebook: Path, tier: str, data: str, done: Path, stamp: str) -> str:  # empty, or why it failed
    "Run a notebook; what it writes goes beside the executed copy, not to figures/."
    try:
        with atomic_path(done) as tmp: run_notebook(notebook, tmp, tier=tier, data=data, out=relpath(done.with_suffix(''), root()))
    except Exception as e:  # the site then has the notebook without outputs, and says why
        return str(e).strip().splitlines()[-1]
    done.with_suffix('.stamp').write_text(stamp)
    return ''


def quiet():
    "In a worker: its kernels report on stderr that they are asked to end; what fails comes back as an exception."
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def executions(
    run: bool,  # else only what is there
) -> dict[str, tuple[Path, str]]:  # name -> the notebook to show, a note for its page
    "Every ablation notebook, executed where that can be had."
    out, todo = {}, {}
    for notebook in sorted((root()/'nbs'/'ablations').glob('[!_.]*.ipynb')):
        name = notebook.stem
        if 'kind' in parameters(notebook):
            out[name] = notebook, '*Not executed here: it trains. The batch runs it once for every run of the plan.*'
            continue
        tier, data = shown(name)
        done = settings().runs/'docs'/tier/data/notebook.name
        stamp, note = fingerprint(behind(tier, data), code(notebook)), f'*Executed on {TITLES.get(data, data)}, {tier} tier.*'
        if (batch := from_batch(notebook, tier, data)): out[name] = batch, note
        elif done.exists() and (s := done.with_suffix('.stamp')).exists() and s.read_text() == stamp: out[name] = done, note
        elif not run: out[name] = notebook, f'*Not executed in this build. {WHERE}*'
        else:
            todo[name] = notebook, tier, data, done, stamp
            out[name] = done, note
    if todo:
        with ProcessPoolExecutor(settings().jobs, initializer=quiet) as pool:
            jobs = {pool.submit(execute, *given): name for name, given in todo.items()}
            for job in progress(as_completed(jobs), 'ablations', len(jobs)):
                name = jobs[job]
                if why := job.result(): out[name] = todo[name][0], f'*Not executed here: {why}. {WHERE}*'
    return out
