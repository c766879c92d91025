"Files that must agree with one another: settings, packaging, notebooks, README, lock."
import configparser
import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement


ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb')
                   if not any(q.startswith(('.', '_')) for q in p.relative_to(ROOT).parts))
PYPROJECT = tomllib.loads((ROOT/'pyproject.toml').read_text())
OLD_NBDEV = set('lib_name lib_path version user branch title doc_path doc_host doc_baseurl nbs_path recursive '
                'tst_flags author author_email copyright git_url description keywords language min_python license '
                'status requirements dev_requirements console_scripts custom_sidebar cell_number black_formatting '
                'jupyter_hooks clean_ids clear_all put_version_in_init'.split())


def ini():
    parser = configparser.ConfigParser(interpolation=None, default_section='')
    parser.optionxform = str
    parser.read(ROOT/'settings.ini')
    return parser


def test_two_settings_files_share_no_key():
    mine = {k for s in ini().sections() for k in ini()[s]} | set(ini().sections())
    theirs = set(PYPROJECT['project']) | set(PYPROJECT['tool']['nbdev']) | set(PYPROJECT['tool'])
    assert not mine & theirs and not mine & OLD_NBDEV


def test_nbdev_keeps_the_parameters_tag():
    assert 'tags' in PYPROJECT['tool']['nbdev']['allowed_cell_metadata_keys']


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path):
    nb = json.loads(path.read_text(encoding='utf-8'))
    assert nb['metadata'] == {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    lines = ''.join(nb['cells'][0]['source']).splitlines()
    assert lines[0].startswith('# ') and any(l.startswith('> ') for l in lines), 'H1 and one-line subtitle come first'
    code = [c for c in nb['cells'] if c['cell_type'] == 'code']
    assert not any(o.get('name') == 'stderr' or o['output_type'] == 'error' for c in code for o in c['outputs'])
    assert not any(re.match(r'\s*(/work|/tmp|/home)/', ''.join(c['source'])) for c in nb['cells'])
    if 'ablations' in path.parts: assert not any(c['outputs'] for c in code), 'outputs of runs are kept in runs/'
    else:
        assert path.stat().st_size < 205_000, 'keep stored outputs small'
        silent = [s for c in code if re.search(r'(?m)^(print\(|display\(|plt\.show\()', s := ''.join(c['source'])) and not c['outputs']]
        assert not silent, f'not run before it was stored: {silent[0]}'
    exported = [s for c in code if (s := ''.join(c['source'])).startswith('#| export')]
    exported = [l for s in exported for l in s.splitlines() if l.strip()]
    assert len(exported) <= 300, f'{len(exported)} exported lines: split by idea'


def test_readme_and_sidebar_are_up_to_date():
    script = runpy.run_path(str(ROOT/'scripts'/'readme.py'))
    for path, new in {'README.md': script['text'](), 'nbs/sidebar.yml': script['sidebar']()}.items():
        assert (ROOT/path).read_text(encoding='utf-8') == new, 'run `make readme`'


def test_index_and_sidebar_list_every_notebook():
    want = [p.relative_to(ROOT/'nbs').as_posix() for p in NOTEBOOKS if p.stem != 'index']
    readme, sidebar = ((ROOT/p).read_text() for p in ('README.md', 'nbs/sidebar.yml'))
    listed = re.findall(r'^\| \[\w+\]\(nbs/([\w/]+\.ipynb)\)', readme, re.M)
    assert sorted(listed) == sorted(want), 'run nbs/index.ipynb and `make readme`'
    assert sorted(re.findall(r'[\w/]+\.ipynb', sidebar)) == sorted([*want, 'index.ipynb'])


def test_links_of_the_readme_lead_somewhere():
    for link in re.findall(r'\]\(([^)#]+)\)', (ROOT/'README.md').read_text()):
        if not link.startswith('http'): assert (ROOT/link).exists(), link


def test_lock_pins_every_dependency_as_declared():
    lock = {}
    for line in (ROOT/'requirements.lock').read_text().splitlines():
        if not line or line.startswith('#'): continue
        r = Requirement(line)
        assert [s.operator for s in r.specifier] == ['=='], line
        lock[r.name.lower().replace('_', '-')] = next(iter(r.specifier)).version
        if re.match(r'nvidia-|cuda-|triton', r.name):
            assert r.marker and not r.marker.evaluate({'sys_platform': 'darwin'}), line
    project = PYPROJECT['project']
    for line in [*project['dependencies'], *sum(project['optional-dependencies'].values(), [])]:
        r = Requirement(line)
        assert r.specifier.contains(lock[r.name.lower()]), line


def test_make_help_lists_what_the_readme_names():
    targets = set(re.findall(r'^([a-z-]+):.*## ', (ROOT/'Makefile').read_text(), re.M))
    text = (ROOT/'README.md').read_text()+(ROOT/'CONTRIBUTING.md').read_text()
    assert set(re.findall(r'(?:^|`)make ([a-z-]+)', text, re.M)) <= targets
