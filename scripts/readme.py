"Write README.md from nbs/index.ipynb: prose and outputs, no code. With --check, only compare."
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
    if files['outputs']: raise SystemExit('the index stores a picture: show it from figures/ instead, so that README can')
    body = re.sub(r'\]\((?!https?:|\.\./|#)([^)]+)\)', r'](nbs/\1)', body)  # links are relative to nbs/ there
    body = body.replace('](../', '](').replace('src="../', 'src="')
    note = '<!-- Written by `make readme` from nbs/index.ipynb. Edit the notebook. -->\n\n'
    return note + re.sub(r'\n{3,}', '\n\n', re.sub(r'[ \t]+\n', '\n', body)).strip() + '\n'


if __name__ == '__main__':
    readme, new = ROOT/'README.md', text()
    if '--check' in sys.argv and (not readme.exists() or readme.read_text() != new):
        raise SystemExit('README.md differs from nbs/index.ipynb: run `make readme`')
    if '--check' not in sys.argv: readme.write_text(new)
