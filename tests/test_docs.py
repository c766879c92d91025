"The docs site as a reader meets it: built once, served on this host, every page opened in Chromium."
import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'scripts'))
NOTEBOOKS = sorted(p.relative_to(ROOT/'nbs') for p in (ROOT/'nbs').rglob('[!_.]*.ipynb'))
PHONE = {'width': 390, 'height': 800}
LOOK = r"""() => {
  const main = document.querySelector('main'), prose = main.cloneNode(true);
  prose.querySelectorAll('pre, code, .katex, script').forEach(e => e.remove());
  const marks = [...main.querySelectorAll('pre')].flatMap(e => e.textContent.split('\n')).filter(l => l.startsWith('#|'));
  return {
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    links: [...document.querySelectorAll('a[href], link[href]')].map(e => e.href),
    files: [...document.querySelectorAll('img, script[src], video, source')].map(e => e.src).filter(s => s && !s.startsWith('data:')),
    blank: [...document.images].filter(i => i.complete && i.src && !i.naturalWidth && i.loading != 'lazy').map(i => i.src),
    formulas: main.querySelectorAll('.katex').length, displays: main.querySelectorAll('.katex-display').length,
    wrong: [...main.querySelectorAll('.katex-error')].map(e => e.textContent),
    raw: (prose.textContent.match(/\$\$|\\[\[(]/g) || []).length + marks.length, headings: main.querySelectorAll('h1').length,
    wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    sticking: [...main.querySelectorAll('table, pre, img, svg, .katex-display')].filter(e => {
      for (let p = e; p != main; p = p.parentElement) if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
      return e.getBoundingClientRect().right > innerWidth + 1; }).map(e => e.outerHTML.slice(0, 80)),
  }}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed (extra docs)')
    with playwright.sync_playwright() as p:
        path = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
        if path is None and not Path(p.chromium.executable_path).exists(): pytest.skip('no Chromium to be found: make browser')
        chromium = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield chromium
        chromium.close()


@pytest.fixture(scope='module')
def site(browser, tmp_path_factory):
    "The site in a folder of its own, with ablation notebooks as they are at hand, and its address."
    pytest.importorskip('smalldocs', reason='smalldocs is not installed (extra docs)')
    folder = tmp_path_factory.mktemp('docs')/'site'
    made = subprocess.run([sys.executable, ROOT/'scripts'/'docs.py', '--no-run', '--to', folder], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f'http://127.0.0.1:{server.server_port}/', made.stdout
    server.shutdown()


@pytest.fixture(scope='module')
def pages(browser, site):
    "What is seen on every page, at the width of a phone, and what went wrong while it was opened."
    folder, base, _ = site
    tab = browser.new_context(viewport=PHONE).new_page()
    said, asked, seen = [], [], {}
    tab.on('console', lambda m: said.append(m.text) if m.type in ('error', 'warning') else None)
    tab.on('pageerror', lambda e: said.append(str(e)))
    tab.on('response', lambda r: said.append(f'{r.status} {r.url}') if r.status >= 400 else None)
    tab.on('request', lambda r: asked.append(r.url))
    for path in sorted(folder.rglob('*.html')):
        said.clear(), asked.clear()
        name = path.relative_to(folder).as_posix()
        tab.goto(base + name, wait_until='load', timeout=120_000)
        seen[name] = tab.evaluate(LOOK) | {'said': list(said), 'away': [u for u in asked if not u.startswith((base, 'data:', 'blob:'))]}
    return seen


def wrong(pages, key): return {name: page[key] for name, page in pages.items() if page[key]}


def test_every_notebook_has_a_page_beside_results_and_bibliography(pages):
    assert {p.with_suffix('.html').as_posix() for p in NOTEBOOKS} | {'results.html', 'references.html'} <= set(pages)
    assert all(page['headings'] for page in pages.values()), 'a page without a title'


def test_no_page_complains_or_asks_another_host(pages):
    assert wrong(pages, 'said') == {} and wrong(pages, 'away') == {} and wrong(pages, 'blank') == {}


def test_every_link_and_anchor_inside_the_site_leads_somewhere(site, pages):
    folder, base, said = site
    broken = [line for line in said.splitlines() if line.startswith('warning:')]
    for name, page in pages.items():
        for url in {*page['links'], *page['files']}:
            if not url.startswith(base): continue
            path, anchor = unquote(urlsplit(url).path).lstrip('/'), unquote(urlsplit(url).fragment)
            if not path or path.endswith('/'): path += 'index.html'
            if not (folder/path).is_file() or anchor and path in pages and anchor not in pages[path]['ids']: broken.append((name, url))
    assert broken == []


def test_equations_are_drawn_and_nothing_is_left_raw(pages):
    equations = 0
    for path in NOTEBOOKS:
        text = '\n'.join(''.join(c['source']) for c in json.loads((ROOT/'nbs'/path).read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown')
        written, page = len(re.findall(r'\$\$.+?\$\$', text, re.S)), pages[path.with_suffix('.html').as_posix()]
        assert page['displays'] >= written and page['formulas'] >= written, path
        equations += written
    assert equations, 'no notebook has an equation'
    assert wrong(pages, 'wrong') == {} and wrong(pages, 'raw') == {}


def test_a_phone_never_scrolls_a_page_sideways(pages):
    assert wrong(pages, 'wider') == {} and wrong(pages, 'sticking') == {}


def test_pages_hold_api_docs_pictures_and_prose(site):
    read = lambda name: (site[0]/name).read_text(encoding='utf-8')
    cmpl = read('6_adaptation/60_cmpl.html')
    assert 'id="pseudolabels"' in cmpl and 'In the paper:' in cmpl and 'references.html#zhang2021' in cmpl and '<summary>Source' in cmpl
    assert read('results.html').count('<img') == len(list((ROOT/'figures'/'bench').glob('*/*.png')))
    assert 'it trains' in read('ablations/r0_run.html')


def test_dark_and_light_can_be_switched_and_are_remembered(browser, site):
    tab = browser.new_context(viewport=dict(width=1300, height=900), color_scheme='light').new_page()
    def ground():
        tab.wait_for_timeout(200)
        return sum(map(int, re.findall(r'\d+', tab.evaluate('getComputedStyle(document.body).backgroundColor'))[:3]))
    tab.goto(site[1] + 'index.html')
    assert ground() > 600
    tab.click('.quarto-color-scheme-toggle')
    assert ground() < 200
    tab.goto(site[1] + 'references.html')
    assert ground() < 200
    tab.click('.quarto-color-scheme-toggle')
    assert ground() > 600


def test_search_finds_a_function_and_leads_to_it(browser, site):
    tab = browser.new_context(viewport=dict(width=1300, height=900)).new_page()
    tab.goto(site[1] + 'index.html')
    tab.keyboard.press('/')
    tab.keyboard.type('fit_temperature')
    tab.locator('.search-result').first.wait_for()
    tab.keyboard.press('Enter')
    tab.wait_for_url('**/50_calibrate.html**')


def test_bibliography_is_what_the_bib_and_the_notebooks_say():
    from references import names, page, read_bib
    assert page() == (ROOT/'nbs'/'references.md').read_text(encoding='utf-8'), 'run `make readme`'
    assert names('Guo, Chuan and Pleiss, Geoff') == 'Chuan Guo and Geoff Pleiss' and names('Xu and others') == 'Xu et al'
    entry = '@misc{a2020,\n  author = {A},\n  title = {T},\n  year = {2020},\n  keywords = {K},\n  note = {N.},\n}\n'
    assert read_bib(entry)['a2020']['title'] == 'T'
    for bad in (entry.replace('  year = {2020},\n', ''), entry.replace('{T}', '{{T}}'), entry + entry, entry + 'stray', entry.replace('year', 'yaer')):
        with pytest.raises(SystemExit, match=r'references\.bib'): read_bib(bad)


def test_import_cells_hold_only_imports():
    "When docs are made, nbdev runs every cell with an import, and only those and the exported ones: work beside an import would fail there."
    import ast
    imports = (ast.Import, ast.ImportFrom)
    for path in NOTEBOOKS:
        cells = json.loads((ROOT/'nbs'/path).read_text(encoding='utf-8'))['cells']
        if not any(''.join(c['source']).startswith('#| default_exp') for c in cells): continue
        for c in cells:
            source = ''.join(c['source'])
            if c['cell_type'] != 'code' or re.match(r'#\| export', source): continue
            tree = ast.parse(source)
            mixed = any(isinstance(n, imports) for n in ast.walk(tree)) and not all(isinstance(n, imports) for n in tree.body)
            assert not mixed, f'{path}, cell {c["id"]}: put the imports into a cell of their own'
