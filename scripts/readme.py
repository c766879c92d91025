"Write README.md from nbs/index.ipynb (prose and outputs, no code) and nbs/sidebar.yml. With --check, only compare."
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def text() -> str:
    "README.md as it should be."
    nb = nbformat.read(ROOT/'nbs'/'index.ipynb', 4)
    nb.cells = [c for c in nb.cells if not re.match(r'#\|\s*(hide|default_exp|export)\b(?!_)', c.source)]
    body, files = MarkdownExporter(exclude_input=True, exclude_input_prompt=True).from_notebook_node(nb)
    if files['outputs']: raise SystemExit('the index stores a picture: show it from figures/, so that README can')
    body = re.sub(r'\]\((?!https?:|\.\./|#)([^)]+)\)', r'](nbs/\1)', body)  # links are relative to nbs/ there
    body = body.replace('](../', '](').replace('src="../', 'src="')
    note = '<!-- Written by `make readme` from nbs/index.ipynb. Edit the notebook. -->\n\n'
    return note + re.sub(r'\n{3,}', '\n\n', re.sub(r'[ \t]+\n', '\n', body)).strip() + '\n'


def sidebar() -> str:
    "nbs/sidebar.yml as it should be: every notebook in reading order."
    nbs, out = ROOT/'nbs', 'website:\n  sidebar:\n    contents:\n      - index.ipynb\n'
    folders = [p.name for p in sorted(nbs.iterdir()) if p.is_dir() and p.name[0] not in '._']
    parts = {'The ground': '0*', **{f.replace('_', ' ').title(): f'{f}/[!_.]*' for f in folders if f[0].isdigit()},
             **{f.title(): f'{f}/[!_.]*' for f in folders if not f[0].isdigit()}}
    for title, pattern in parts.items():
        found = [p.relative_to(nbs).as_posix() for p in sorted(nbs.glob(f'{pattern}.ipynb'))]
        if found: out += f'      - section: "{title}"\n        contents:\n'
        out += ''.join(f'          - {p}\n' for p in found)
    return out + '      - href: references.md\n        text: Bibliography\n'


if __name__ == '__main__':
    for path, new in {ROOT/'README.md': text(), ROOT/'nbs'/'sidebar.yml': sidebar()}.items():
        if '--check' not in sys.argv: path.write_text(new, encoding='utf-8')
        elif not path.exists() or path.read_text(encoding='utf-8') != new:
            raise SystemExit(f'{path.name} is out of date: run `make readme`')
