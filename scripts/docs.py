"""Build the docs site from nbs/ and figures/: nbdev's processors, then smalldocs, with KaTeX from the site itself.

python scripts/docs.py            what `make docs` calls: the site in _docs, ablation notebooks executed where the last run is out of date
python scripts/docs.py --no-run   ablation notebooks without outputs, unless an execution is at hand
"""
import argparse
import re
import shutil
import tempfile
from importlib import import_module
from os.path import relpath
from pathlib import Path

from docs_ablations import executions
from fastcore.docments import MarkdownRenderer
from fastcore.nbio import mk_cell, read_nb, write_nb
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from nbdev.config import nbpath2html
from nbdev.doclinks import NbdevLookup
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, _def_names
from mgr_paper.evidence.page import page_text
from readme import sidebar
from smalldocs import layout
from smalldocs.site import build

ROOT = Path(__file__).resolve().parent.parent
NBS, FIGURES, KATEX = ROOT/'nbs', ROOT/'figures', ROOT/'scripts'/'vendor'/'katex'
LINK = re.compile(r'(\]\(|\b(?:src|href)=")([^)"#\s]+)')  # up to the anchor
PAGES = {f'/{nbpath2html(p.relative_to(NBS)).as_posix()}': p for p in NBS.rglob('[!_.]*.ipynb')}  # as nbdev links to them


class Names(NbdevLookup):
    "Where names in backticks lead. A plain word such as `label` is more often a column or an argument than the function of that name."

    def doc(self, sym: str): return super().doc(sym) if re.search('[A-Z_.]', sym) else None


NAMES = Names(incl_libs='mgr_paper')


class Links:
    "Links of a source file as they must be in the site, and what the site must hold for them."

    def __init__(self, work: Path): self.work, self.taken = work, set()

    def mend(self, text: str, source: Path, page: Path) -> str:  # both absolute; `page` where the source would lie in nbs/
        "Links that leave nbs/ lead to a copy in the site; those that nbdev made lead to the notebook."
        def one(m):
            target = PAGES.get(m[2]) or (source.parent/m[2]).resolve()
            if re.match(r'[a-z]+:', m[2]) or not target.exists(): return m[0]
            if target in (FIGURES, FIGURES/'README.md'): target = NBS/'results.md'
            if not target.is_relative_to(NBS):
                self.taken.add(target)
                target = NBS/'files'/target.relative_to(ROOT)
            return m[1] + relpath(target, page.parent)
        return LINK.sub(one, text)

    def copy(self):
        "Put what the pages link to into the site; never as a page of its own."
        for source in filter(Path.is_file, self.taken):
            to = self.work/'files'/source.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, to)


class api_docs(Processor):
    "Every exported cell as the docs of its public names and then its source, folded. The package is imported once for all notebooks."

    def begin(self):
        module = next((c.directives_['default_exp'] for c in self.nb.cells if 'default_exp' in c.directives_), None)
        if not module: return
        space, cells = vars(import_module(f'mgr_paper.{module}')), []
        for cell in self.nb.cells:
            code = cell.cell_type == 'code' and 'export' in cell.directives_ and 'hide' not in cell.directives_
            imports_only = code and not re.search(r'^(?!import |from |\s|#|\)|$)', cell.source, re.M)
            if code and not imports_only:
                for name in _def_names(cell, set()):
                    docs = MarkdownRenderer(eval(name, space), name=name)._repr_markdown_()
                    cells.append(mk_cell(f'---\n\n### {name}\n\n{docs}', 'markdown'))
                cell.directives_.pop('export')  # or nbdev removes it
                cell.source = f'#| code-fold: true\n#| code-summary: Source\n{cell.source}'
            cells.append(cell)
        self.nb.cells = cells


class SitePages(FilterDefaults):
    "nbdev's processors for docs, without a kernel for every notebook."

    def __init__(self, links: Links): self.links = links

    def base_procs(self):
        skipped = ('clean_magics', 'clean_show_doc', 'exec_show_docs', 'add_links', 'add_fold', 'mv_exports')
        procs = [api_docs if p.__name__ == 'add_show_docs' else p for p in super().base_procs() if p.__name__ not in skipped]
        return [*procs, self.linked]

    def linked(self, cell):
        "Names in backticks become links, and links work in the site."
        path = self.page
        CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)  # what was printed in pieces is one block
        if cell.cell_type == 'markdown': cell.source = self.links.mend(NAMES.linkify(cell.source), path, path)
        for out in cell.get('outputs', []):
            for kind in ('text/markdown', 'text/html'):
                if text := out.get('data', {}).get(kind): out.data[kind] = self.links.mend(''.join(text), path, path)

    def write(self, source: Path, page: Path, to: Path, note: str = ''):
        "Process one notebook, perhaps the executed copy of another one."
        nb, self.page = read_nb(source), page
        nb.path_ = page
        title, prose = re.match(r'(# .+\n+> .+\n*)?(?s:(.*))', nb.cells[0].source).groups()
        if title:  # nbdev makes front matter of the cell and drops what else is in it
            nb.cells[0].source = title
            nb.cells[1:1] = [mk_cell(text, 'markdown') for text in (note, prose) if text]
        self(nb)
        to.parent.mkdir(parents=True, exist_ok=True)
        write_nb(nb, to)


def results(links: Links) -> str:  # Markdown
    "The page of all tables and figures."
    text = links.mend(page_text('bench', most=None), FIGURES/'README.md', NBS/'results.md')
    return re.sub(r'\[(`[^`]*/records`)\]\([^)]*\)', r'\1', text)  # thousands of files; the site shows what was made of them


def in_bar(page: str, title: str) -> str:  # YAML
    "An entry of the sidebar."
    return f'      - href: {page}\n        text: {title}\n'


def with_own_katex(text: str, page: Path, site: Path) -> str:  # HTML
    "A page that asks no other host; pictures are loaded when they come into view."
    return text.replace(layout.KATEX, relpath(site/'site_libs'/'katex', page.parent)).replace('<img ', '<img loading="lazy" ')


def main(to: Path, run: bool) -> list[str]:  # warnings
    "Build the site in `to`."
    if f'"{layout.KATEX.rsplit("@")[1].split("/")[0]}"' not in (KATEX/'katex.min.js').read_text(encoding='utf-8'):
        raise SystemExit(f'smalldocs writes pages for {layout.KATEX}: put that release into {KATEX.relative_to(ROOT)}')
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        links = Links(work)
        pages, executed = SitePages(links), executions(run)
        for p in sorted(NBS.rglob('*')):
            rel = p.relative_to(NBS)
            if p.is_dir() or any(part[0] == '.' for part in rel.parts): continue
            if p.suffix == '.ipynb':
                source, note = executed.get(p.stem, (p, ''))
                pages.write(source, p, work/rel, note)
            else:
                (work/rel).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(p, work/rel)
        (work/'results.md').write_text(results(links), encoding='utf-8')
        bar = sidebar().replace('- index.ipynb\n', f'- index.ipynb\n{in_bar("results.md", "Results")}', 1)
        if 'references.md' not in bar: bar += in_bar('references.md', 'Bibliography')
        (work/'sidebar.yml').write_text(bar, encoding='utf-8')
        links.copy()
        site = build(work, quiet=True)
        shutil.copytree(KATEX, site.out/'site_libs'/'katex')
        for page in site.out.rglob('*.html'):
            page.write_text(with_own_katex(page.read_text(encoding='utf-8'), page, site.out), encoding='utf-8')
        for theme in site.out.glob('site_libs/themes/*.css'):  # each asks another host for a font; the system's will do
            theme.write_text(re.sub(r'@import url\(https?:[^)]*\);?', '', theme.read_text(encoding='utf-8')), encoding='utf-8')
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(site.out, to)
        return [w for w in site.warnings if not re.search('output-file|format-links|format commonmark', w)]  # for Quarto, not for it


if __name__ == '__main__':
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument('--to', type=Path, default=ROOT/'_docs', help='folder of the site (%(default)s)')
    ask.add_argument('--no-run', action='store_true', help='execute nothing')
    given = ask.parse_args()
    for warning in main(given.to, not given.no_run): print('warning:', warning)
    print(f'Site: {given.to}/index.html')
