"Every notebook in nbs/ablations: its parameters are checked and reach what it writes."
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from mgr_paper.batch import parameters, run_notebook
from mgr_paper.core import MgrError
from mgr_paper.evidence.experiments import DATA, TABLES, runs
from mgr_paper.evidence.warm import LIBRARY, warm
from mgr_paper.records import load_scores, read_record, read_records

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {p.stem: p for p in sorted((ROOT/'nbs'/'ablations').glob('[!_.]*.ipynb'))}
MAKERS = [n for n, p in NOTEBOOKS.items() if 'kind' in parameters(p)]  # train or adapt, and write records
READERS = [n for n in NOTEBOOKS if n not in MAKERS]  # make tables and figures of records
by_name = pytest.mark.parametrize('name', NOTEBOOKS)


@pytest.fixture(scope='session')
def clone(tmp_path_factory):
    "A project folder without results that shares the notebooks of this one."
    folder = tmp_path_factory.mktemp('clone')
    for name in ('settings.ini', 'nbs', 'Snakefile', 'profiles'): (folder/name).symlink_to(ROOT/name)
    return folder


def run(clone, name, log, **given):
    "Run a notebook as if the project were in `clone`."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MGR_ROOT', str(clone))
        patch.setenv('OMP_NUM_THREADS', '1')
        return run_notebook(NOTEBOOKS[name], log, timeout=300, **given)


@pytest.fixture(scope='session')
def ask(clone):
    "Run a notebook as the graph runs tables: in a fork of a process that has loaded what they load."
    with warm(os.environ | {'MGR_ROOT': str(clone), 'OMP_NUM_THREADS': '1'}) as env:
        for _ in range(600):
            if 'MGR_WARM' not in env or Path(env['MGR_WARM']).exists(): break
            time.sleep(.05)
        def call(name, log, **given):
            words = [word for k, v in given.items() for word in ('-p', f'{k}={v}')]
            return subprocess.run([sys.executable, '-I', '-S', str(LIBRARY/'evidence'/'ask.py'), 'notebook', str(NOTEBOOKS[name]), str(log), *words],
                                  env=env, capture_output=True, text=True, timeout=300)
        yield call


def make(clone, name, cell, records, **changes):
    "Run a maker for one run of the plan, with its records in a folder of their own."
    given = {k: getattr(cell, k) for k in ('kind', 'data', 'split', 'long_tail', 'seed', 'what', 'variant')} | {'tier': 'smoke'}
    given |= dict(records=str(records), work=str(records/'work')) | changes
    log = clone/'logs'/records.name/f'{name}-{cell.kind}-{cell.what}-{given["seed"]}.ipynb'
    return run(clone, name, log, **given)


@pytest.fixture(scope='session')
def records(clone):
    "All records of the smoke plan on the simulated benchmark."
    for cell in runs('smoke', 'synth'): make(clone, MAKERS[0], cell, clone/'records')
    return clone/'records'


def test_a_network_that_fuses_branches_is_a_run_like_another(clone, records):
    "It is in the quick plan and not in that of smoke, and its records once failed at the very end, after the training."
    cell = replace(next(r for r in runs('smoke', 'synth') if r.kind == 'source'), what='concat')
    make(clone, MAKERS[0], cell, clone/'fused')
    made = read_record(next((clone/'fused').rglob('concat.json')))
    assert made['branch'] == 'concat' and len(made['extra']['feature_cosine']) == 32*31//2 and 0 <= made['metrics']['f1_micro'] <= 1


@by_name
def test_parameters_are_typed_literals_with_a_smoke_default(name):
    known = parameters(NOTEBOOKS[name])  # exactly one tagged cell, else an error
    assert known['tier'] == (str, 'smoke') and known['data'] == (str, 'synth')
    tagged = [c.source for c in nbformat.read(NOTEBOOKS[name], 4).cells if 'parameters' in c.metadata.get('tags', [])]
    assert all('#' in line for line in tagged[0].splitlines()), 'each parameter says what it is'


@by_name
def test_unknown_or_misspelt_parameters_are_refused(name, tmp_path):
    for known, (kind, default) in parameters(NOTEBOOKS[name]).items():
        with pytest.raises(MgrError, match=f"unknown parameter of {name}.ipynb '{known}x', did you mean '{known}'"):
            run_notebook(NOTEBOOKS[name], tmp_path/'log.ipynb', **{f'{known}x': default})
        with pytest.raises(MgrError, match=f'{known} = .* has the wrong type'):
            run_notebook(NOTEBOOKS[name], tmp_path/'log.ipynb', **{known: object()})
    assert not list(tmp_path.iterdir()), 'nothing has run'


@by_name
def test_a_wrong_value_is_one_clear_line(name, ask, tmp_path):
    done = ask(name, tmp_path/'log.ipynb', tier='kwick', data='synth')
    assert done.returncode == 2 and 'kwick' in done.stderr and done.stderr.startswith('error: ') and len(done.stderr.splitlines()) == 1, done.stderr


def test_smoke_plan_fills_the_records(records):
    "Each run of the plan leaves its records, each says what was asked, each has its scores."
    found = read_records(records)
    want = [records/p for cell in runs('smoke', 'synth') for p in cell.outputs()]
    assert sorted(Path(r['path']) for r in found) == sorted(want)
    for r in found:
        scores = load_scores(Path(r['path']).with_suffix('.npz'))
        scored = 'test' if 'test' in scores['part'] else 'val'
        assert (scores['part'] == scored).sum() == r['n'] and r['tier'] == 'smoke' and r['data']['simulated']
    assert {r['branch'] for r in found} == {*DATA['synth'].branches, *DATA['synth'].extra}


@pytest.mark.parametrize('name', READERS)
def test_smoke_run_of_a_reader(name, ask, records, tmp_path):
    "It makes its files where it was told to, and only there."
    before = {p: p.stat().st_mtime_ns for p in records.rglob('*')}
    given = dict(tier='smoke', data='synth', records=str(records), out=str(tmp_path/'out'))
    log = tmp_path/'log.ipynb'
    done = ask(name, log, **given)
    assert done.returncode == 0, done.stderr
    assert [p for p in (tmp_path/'out').iterdir() if p.stat().st_size], 'it wrote nothing'
    stamped = name not in TABLES or TABLES[name].stamped  # published numbers were not simulated
    assert all(('simulated' in p.name) == stamped for p in (tmp_path/'out').iterdir()), 'files from simulated data say so'
    assert before == {p: p.stat().st_mtime_ns for p in records.rglob('*')} and not (records.parent/'figures').exists()
    outputs = [o for c in nbformat.read(log, 4).cells for o in c.get('outputs', [])]
    assert not [o['text'] for o in outputs if o.get('name') == 'stderr']


@pytest.mark.parametrize('name', MAKERS)
def test_a_parameter_reaches_the_record(name, clone, records):
    "The seed is another, so are record and scores; a dotted setting arrives in the config."
    cell = next(r for r in runs('smoke', 'synth') if (r.kind, r.what) == ('source', 'joint'))
    other = clone/'other'
    make(clone, name, cell, other, seed=7, changes={'train.lr': 0.0123})
    old_path = records/cell.outputs()[0]
    new_path = Path(str(other/cell.outputs()[0]).replace(f'seed{cell.seed}', 'seed7'))
    old, new = read_record(old_path), read_record(new_path)
    assert (old['seed'], new['seed']) == (cell.seed, 7)
    assert new['parameters_requested']['train.lr'] == new['config']['train']['joint']['lr'] == 0.0123
    assert old['config']['train']['joint']['lr'] != 0.0123
    a, b = (load_scores(p.with_suffix('.npz'))['logits'] for p in (old_path, new_path))
    assert a.shape == b.shape and (a != b).any()
