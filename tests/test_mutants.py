"The measuring tools: which faults they plant, which cells they run, and that what they found is committed and explained."
import ast
import csv
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def tools():
    sys.path.insert(0, str(ROOT/'scripts'))
    try:
        import cells
        import mutants
        yield cells, mutants
    finally: sys.path.remove(str(ROOT/'scripts'))


def faults(mutants, source):
    "Every changed form of a source, one line each."
    found = []
    for i, (node, parent, _) in enumerate(mutants.nodes(ast.parse(source))):
        for j in range(len(mutants.changes(node, parent))): found.append(ast.unparse(mutants.mutated(source, i, j)))
    return found


@pytest.mark.parametrize('source, expected', [
    ('y = a < b', {'y = a <= b', 'y = a > b'}), ('y = a == b and c', {'y = a != b and c', 'y = a == b or c'}),
    ('y = x * 2', {'y = x / 2', 'y = x * 3', 'y = x * 1'}),
    ('y = -x', {'y = x'}), ('y = z[1:]', {'y = z[2:]', 'y = z[0:]', 'y = z[:]'}), ('y = max(a, .5)', {'y = min(a, 0.5)', 'y = max(a, 0.25)'}),
    ('y = f(a, axis=True)', {'y = f(a)', 'y = f(a, axis=False)'}), ('y = a if b else c', {'y = a if not b else c'}),
    ('y[k] = x', {'pass'}), ('f(x)', {'pass'}),
    ('if a:\n    raise E(1 + 1)', {'if not a:\n    raise E(1 + 1)', 'pass'}),  # nothing inside raise
    ('def f(x: list[1]=True) -> 2:\n    """Text."""\n    return x', {'def f(x: list[1]=False) -> 2:\n    """Text."""\n    return x',
     'def f(x: list[1]=True) -> 2:\n    """Text."""\n    return None'}),  # neither annotations nor text
    ("__all__ = ['a']\nimport b", set()), ("y = f'{x + 1:.2f}'", {"y = f'{x - 1:.2f}'", "y = f'{x + 2:.2f}'", "y = f'{x + 0:.2f}'"})])
def test_what_is_planted(tools, source, expected): assert set(faults(tools[1], source)) == expected


def test_the_sample_follows_its_seed_and_every_fault_is_one(tools):
    _, mutants = tools
    one, again, other = (mutants.sample(60, s, ['losses.class_weights', 'fusion.vote']) for s in (0, 0, 1))
    assert one == again and one != other and len(one) >= 12
    for r in one:
        source = mutants.source_of(r['module'])
        assert ast.dump(mutants.mutated(source, *r['site'])) != ast.dump(ast.parse(source)) and r['before'] != r['after'] and r['function']


def test_cells_are_those_that_are_not_exported(tools):
    cells, _ = tools
    path = ROOT/'nbs'/'5_fusion'/'51_vote.ipynb'
    code = {c['id']: ''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code'}
    kept = dict(cells.cells(path))
    assert {k for k in code if k not in kept} == {k for k, s in code.items() if s.startswith(('#| export', '#| default_exp'))}
    assert cells.module_name(path) == 'mgr_paper.fusion.vote' and path in cells.library()


def test_enough_is_killed_and_every_survivor_explained():
    rows = list(csv.DictReader((ROOT/'figures'/'benchmarks'/'mutants.csv').open(newline='')))
    dead = sum(r['result'] != 'survived' for r in rows)
    assert len(rows) >= 200 and dead >= .85*len(rows)
    for r in rows: assert bool(r['reason'].strip()) == (r['result'] == 'survived'), r
