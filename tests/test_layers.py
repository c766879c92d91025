"Imports point to smaller numbers only, and the rooms that take plain arrays never load torch."
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TORCH_FREE = ('core reading setting loss_settings config records batch preprocessing.layouts preprocessing.store preprocessing.synth '
              'preprocessing.safe_pickle preprocessing.skeleton_files preprocessing.pose_json '
              'preprocessing.synth_motion preprocessing.synth_video preprocessing.utd_mhad preprocessing.saliency '
              'preprocessing.frames preprocessing.imigue preprocessing.pose_worker preprocessing.pose '
              'preprocessing.smg preprocessing.ma52 preprocessing.packed preprocessing.imigue_clips '
              'preprocessing.imigue_splits '
              'preprocessing.simulate preprocessing.videos preprocessing.kinect_view '
              'losses.class_weights fusion.calibrate fusion.vote fusion.baselines adaptation.cmpl evidence.metrics evidence.stats '
              'evidence.experiments evidence.weights evidence.stages evidence.results evidence.tables evidence.figures evidence.watch '
              'evidence.submission evidence.loss_tables evidence.geometry_figures evidence.adaptation_tables adaptation.noise '
              'evidence.fusion_tables evidence.diversity evidence.fusion_figures evidence.clip_figures evidence.pipeline_figure '
              'evidence.adaptation_figures evidence.people_figures '
              'commands.ground commands.graph commands.data commands.stages commands.results commands.doctor cli').split()
HEAVY = {'torch', 'torchvision', 'timm', 'accelerate'}


def number(name: str) -> tuple[int, str]:
    "'12b_synth_video' -> (12, 'b')"
    m = re.match(r'(\d+)([a-z]?)_', name)
    return int(m[1]), m[2]


def rooms() -> dict[str, tuple[tuple[int, str], str]]:
    "module -> (number of its notebook, exported source)"
    out = {}
    for path in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in path.parts: continue
        sources = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
        module = next((m[1] for s in sources if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M))), None)
        if module: out[module] = number(path.name), '\n'.join(s for s in sources if re.match(r'#\|\s*export', s))
    return out


def imports(source: str, modules) -> set[str]:
    "Rooms that the source imports, wherever the import stands."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or '', *(f'{node.module}.{a.name}' for a in node.names)]
        else: continue
        assert not (isinstance(node, ast.ImportFrom) and node.level), 'imports are absolute'
        found |= {n.removeprefix('mgr_paper.') for n in names if n.startswith('mgr_paper.')}
    return found & set(modules)


ROOMS = rooms()


@pytest.mark.parametrize('module', ROOMS)
def test_no_import_points_forward(module):
    mine, source = ROOMS[module]
    late = {m: ROOMS[m][0] for m in imports(source, ROOMS) if ROOMS[m][0] >= mine}
    assert not late, f'{module} ({mine}) imports {late}'


def test_a_forward_import_would_be_seen():
    "The check above can fail, also for an import inside a function or by package."
    source = 'def f():\n from mgr_paper.evidence import stats\nimport mgr_paper.config\nfrom mgr_paper.core import rng'
    assert imports(source, {'evidence.stats', 'config', 'core'}) == {'evidence.stats', 'config', 'core'}


@pytest.mark.parametrize('module', ROOMS)
def test_explicit_imports(module):
    for node in ast.walk(ast.parse(ROOMS[module][1])):
        if isinstance(node, ast.ImportFrom): assert node.names[0].name != '*', f'{module}: star import of {node.module}'


def test_every_module_has_a_notebook():
    files = [p.relative_to(ROOT/'mgr_paper').with_suffix('') for p in (ROOT/'mgr_paper').rglob('*.py')]
    files = {p.as_posix().replace('/', '.') for p in files}
    assert {f for f in files if not f.endswith(('__init__', '_modidx'))} == set(ROOMS)


def test_numbers_are_unique():
    numbers = [n for n, _ in ROOMS.values()]
    assert len(set(numbers)) == len(numbers)


def test_plain_rooms_never_load_torch():
    "One fresh process imports all of them."
    code = f'''import importlib, sys
for m in {TORCH_FREE}:
    importlib.import_module('mgr_paper.'+m)
    loaded = {HEAVY} & set(sys.modules)
    assert not loaded, f'{{m}} loads {{loaded}}'
'''
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
