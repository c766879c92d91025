"Every tutorial: from top to bottom in a fresh kernel, as a newcomer runs it, and as it is stored."
import re
import runpy
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = {p.stem: p for p in sorted((ROOT/'nbs'/'tutorials').glob('[!_.]*.ipynb'))}
timing = runpy.run_path(str(ROOT/'scripts'/'time_notebooks.py'))


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    return timing['clone'](tmp_path_factory.mktemp('clone'))


@pytest.mark.parametrize('name', TUTORIALS)
def test_tutorial_runs(name, project, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    before = TUTORIALS[name].read_bytes()
    took = timing['measure'](TUTORIALS[name], project)
    assert not took['error'] and not took['stderr'], took
    assert took['cpu'] < 120, 'twice the minute that a tutorial may take'
    assert TUTORIALS[name].read_bytes() == before


@pytest.mark.parametrize('name', TUTORIALS)
def test_tutorial_is_stored_with_what_it_shows(name):
    nb = nbformat.read(TUTORIALS[name], 4)
    code = [c for c in nb.cells if c.cell_type == 'code']
    assert not any('#| export' in c.source for c in code), 'tutorials use the package and add nothing to it'
    assert any(c.outputs for c in code) and any('image/png' in o.get('data', {}) for c in code for o in c.outputs)
    assert any('assert' in c.source for c in code), 'what a tutorial says is checked in it'
    silent = [c.source for c in code if re.search(r'(?m)^print\(', c.source) and not c.outputs]
    assert not silent, f'not run before it was stored: {silent[:1]}'


@pytest.mark.slow
def test_any_notebook_takes_less_than_a_minute(project, monkeypatch):
    "Processor seconds, which depend less on what else the machine does."
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    took = {name: timing['measure'](path, project) for name, path in timing['notebooks']().items() if path.parent.name != 'benchmarks'}
    for name, t in took.items(): print(f"{name:28} {t['wall']:8.1f} {t['cpu']:8.1f} {t['error']}")
    assert not [n for n, t in took.items() if t['error'] or t['stderr']]
    assert not {n: t['cpu'] for n, t in took.items() if t['cpu'] > 60}
