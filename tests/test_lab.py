"""JupyterLab as a reader meets it: a browser opens notebooks in a real Lab, runs all cells, and looks at what came out.

A few quick notebooks by default, one of each layer; every notebook with `-m slow`. They run in a copy of the project."""
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install mgr_paper[docs]')

ROOT = Path(__file__).resolve().parent.parent
BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
COPIED = ('nbs', 'scripts', 'profiles', 'settings.ini', 'Snakefile', 'README.md', 'CITATION.cff')  # what notebooks read of the project
QUICK = ('index', '01_config', '13_skeleton_files', '20_heatmaps', '30_class_weights', '40_checkpoints', '50_calibrate', '60_cmpl',
         '70_metrics', '89_cli', 't1_published')  # the front page, layers 0 to 8, an ablation
BARS = ('13_skeleton_files', '41_train')  # these show a progress bar, which must have come to its end
ALL = {p.stem: p.relative_to(ROOT) for p in sorted((ROOT/'nbs').rglob('*.ipynb'))
       if not any(q[0] in '._' for q in p.relative_to(ROOT).parts)}
SETTINGS = {  # of Lab: every cell stays in the page, so that it can be looked at, and nothing is saved in between
    'notebook-extension/tracker': {'windowingMode': 'none', 'kernelShutdown': True},
    'docmanager-extension/plugin': {'autosave': False}}
LOOK = '''() => {
    const cells = [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell')]
    const mime = type => [...document.querySelectorAll(`.jp-OutputArea-output[data-mime-type="${type}"]`)].map(e => e.innerText)
    const prompts = cells.map(c => c.querySelector('.jp-InputPrompt').textContent.trim())
    return {cells: cells.length, begun: prompts.some(p => p != '[ ]:'), waiting: prompts.filter(p => !/^\\[\\d+\\]:$/.test(p)).length,
            noise: [...mime('application/vnd.jupyter.error'), ...mime('application/vnd.jupyter.stderr')]}
}'''
BAR = '''() => [...document.querySelectorAll('.jp-OutputArea-output .widget-hprogress')].map(e => ({
    text: e.closest('.jp-OutputArea-output').innerText, done: !!e.querySelector('.progress-bar-success'),
    width: e.querySelector('.progress-bar').getBoundingClientRect().width/e.querySelector('.progress').getBoundingClientRect().width}))'''
PICTURES = '''async () => {
    const spread = []
    for (const img of document.querySelectorAll('.jp-OutputArea-output img')) {
        try { await img.decode() } catch (e) { spread.push({colours: 0, width: 0, what: img.src.slice(0, 200)}); continue }
        const c = document.createElement('canvas')
        c.width = img.naturalWidth; c.height = img.naturalHeight
        const pen = c.getContext('2d')
        pen.drawImage(img, 0, 0)
        const d = pen.getImageData(0, 0, c.width, c.height).data
        const seen = new Set()
        for (let i = 0; i < d.length; i += 4) seen.add(d[i] + 256*d[i+1] + 65536*d[i+2])
        spread.push({colours: seen.size, width: img.getBoundingClientRect().width})
    }
    return spread
}'''


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    "A copy of what the notebooks need, so that running them leaves the checkout as it was."
    folder = tmp_path_factory.mktemp('lab')/'project'
    folder.mkdir()
    for name in COPIED:
        (shutil.copytree if (ROOT/name).is_dir() else shutil.copy)(ROOT/name, folder/name)
    shutil.copytree(ROOT/'figures', folder/'figures', ignore=lambda at, names: {'records', 'smoke', 'quick'} & {*names})
    (folder/'figures'/'bench'/'records').symlink_to(ROOT/'figures'/'bench'/'records')  # read by kernels alone: Lab serves no links
    return folder


@pytest.fixture(scope='module')
def lab(project):
    "A running Lab with the settings of `make lab`: its address, its token, its log."
    if BROWSER is None: pytest.skip('no browser found: make browser')
    home, token, port = project.parent, secrets.token_hex(8), free_port()
    for name, values in SETTINGS.items():
        file = home/'settings'/'@jupyterlab'/f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'MGR_BATCH')} | {
        'JUPYTER_CONFIG_PATH': str(ROOT/'.jupyter'), 'JUPYTER_CONFIG_DIR': str(home/'config'), 'JUPYTER_RUNTIME_DIR': str(home/'runtime'),
        'JUPYTER_DATA_DIR': str(home/'data'), 'JUPYTERLAB_SETTINGS_DIR': str(home/'settings'),
        'JUPYTERLAB_WORKSPACES_DIR': str(home/'workspaces'), 'IPYTHONDIR': str(home/'ipython'), 'MGR_ROOT': str(project),
        'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]).rstrip(os.pathsep)}
    words = ['--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0',
             f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={project}']
    log = open(home/'lab.log', 'w')
    server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *words], env=env, cwd=project, stdout=log, stderr=subprocess.STDOUT)
    url = f'http://127.0.0.1:{port}'
    try:
        for _ in range(240):
            assert server.poll() is None, (home/'lab.log').read_text()
            try: urllib.request.urlopen(f'{url}/api/status?token={token}', timeout=5).close(); break
            except OSError: time.sleep(.5)
        else: pytest.fail('JupyterLab did not come up in two minutes')
        yield url, token, home/'lab.log'
    finally:
        server.terminate()
        try: server.wait(30)
        except subprocess.TimeoutExpired: server.kill()
        log.close()


@pytest.fixture(scope='module')
def window(lab):
    "A browser window; what it complains of is kept."
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'])
        page = browser.new_page(viewport={'width': 1300, 'height': 1000})
        page.set_default_timeout(120_000)
        page.complaints = []
        page.on('pageerror', lambda e: page.complaints.append(str(e)))
        page.on('request', lambda r: None if re.match(r'(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:', r.url) else page.complaints.append(f'asks {r.url}'))
        yield page
        browser.close()


def run_all(window, lab, path: Path, limit: float) -> dict:
    "Open a notebook, run all its cells from the menu, wait until every prompt has its number or a cell has failed."
    url, token, _ = lab
    window.goto(f'{url}/lab/tree/{path.as_posix()}?token={token}&reset')
    window.wait_for_selector('.jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status="idle"]')
    window.wait_for_selector('.jp-Spinner', state='detached')
    seen, end, asked = {}, time.monotonic() + limit, 0
    while time.monotonic() < end:
        if not seen.get('begun') and time.monotonic() - asked > 20:  # on a busy machine Lab may not yet listen to its menu
            window.click('.lm-MenuBar-itemLabel:text-is("Run")')
            window.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
            asked = time.monotonic()
        window.wait_for_timeout(300)
        seen = window.evaluate(LOOK)
        if seen['noise'] or (seen['cells'] and not seen['waiting']): break
    return seen


def close(lab):
    "End the kernels, so that the next notebook has the machine for itself."
    url, token, _ = lab
    with urllib.request.urlopen(f'{url}/api/sessions?token={token}') as answer: sessions = json.load(answer)
    for s in sessions:
        urllib.request.urlopen(urllib.request.Request(f'{url}/api/sessions/{s["id"]}?token={token}', method='DELETE')).close()


def check(window, lab, name, limit):
    stored = json.loads((ROOT/ALL[name]).read_text())
    drawn = sum('image/png' in o.get('data', {}) for c in stored['cells'] for o in c.get('outputs', []))
    window.complaints.clear()
    try:
        seen = run_all(window, lab, ALL[name], limit)
        if folder := os.environ.get('MGR_LAB_PICTURES'): picture(window, Path(folder)/f'{name}.png')
        assert not seen['noise'], seen['noise'][0]  # an error, or words on stderr
        assert seen['cells'] and not seen['waiting'], f'{seen["waiting"]} of {seen["cells"]} cells had not run after {limit} s'
        bars, images = window.evaluate(BAR), window.evaluate(PICTURES)
    finally: close(lab)
    assert bars or name not in BARS, 'no progress bar was drawn'
    for bar in bars: assert bar['done'] and bar['width'] > .99 and '100%' in bar['text'], f'a bar stopped: {bar}'
    assert len(images) >= drawn, f'{len(images)} pictures where the notebook stores {drawn}'
    for i in images: assert i['colours'] > 1 and i['width'] > 20, f'a picture is blank or missing: {i}'
    assert not window.complaints, window.complaints[:3]
    return images


def picture(window, file):
    "The whole notebook as one picture, for eyes."
    file.parent.mkdir(parents=True, exist_ok=True)
    window.set_viewport_size({'width': 1300, 'height': 4000})
    window.evaluate("document.querySelectorAll('.jp-WindowedPanel-outer').forEach(e => e.scrollTo(0, 0))")
    window.wait_for_timeout(500)
    window.screenshot(path=file)
    window.set_viewport_size({'width': 1300, 'height': 1000})


def test_noise_would_be_seen(window, lab, project):
    "The checks below can fail: an error, a warning, a bar that stops."
    words = {'error': '1/0', 'warning': 'import warnings; warnings.warn("so it goes")',
             'bar': 'from mgr_paper.core import progress\nbar = progress(total=3); bar.update(1); bar.close()'}
    for name, source in words.items():
        cell = dict(cell_type='code', id='a', metadata={}, source=source, outputs=[], execution_count=None)
        kernel = dict(name='python3', display_name='python3', language='python')
        (project/f'{name}.ipynb').write_text(json.dumps(dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))
        try:
            seen, bars = run_all(window, lab, Path(f'{name}.ipynb'), 120), window.evaluate(BAR)
        finally: close(lab)
        assert bool(seen['noise']) == (name != 'bar') and all(not b['done'] for b in bars) and bool(bars) == (name == 'bar')


@pytest.mark.parametrize('name', QUICK)
def test_notebook_runs_in_lab(window, lab, name):
    check(window, lab, name, 240)


def test_lab_says_nothing_beside_its_address(window, lab):
    "No popup of news, no warning of kernels or extensions in the terminal."
    assert not window.query_selector_all('.Toastify__toast, .jp-Dialog')
    said = [l for l in lab[2].read_text().splitlines() if re.search(r'WARN|ERROR|Traceback|TCP without encryption', l)]
    assert not said, said[:3]


@pytest.mark.slow
@pytest.mark.parametrize('name', [n for n in ALL if n not in QUICK])
def test_every_notebook_runs_in_lab(window, lab, name):
    check(window, lab, name, 900)
