"Write nbs/references.md from nbs/references.bib and from the links in the notebooks. With --check, only compare."
import json
import re
import sys
from os.path import relpath
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent/'nbs'
ENTRY = re.compile(r'@(?:article|inproceedings|misc)\{([a-z]+\d{4}[a-z]*),\n((?:  [a-z]+ = \{.*\},\n)+)\}\n')
FIELD = re.compile(r'  ([a-z]+) = \{([^{}]*)\},\n')
NEEDED, MORE = {'author', 'title', 'year', 'keywords', 'note'}, {'journal', 'booktitle', 'howpublished', 'eprint', 'doi'}


def read_bib(text: str) -> dict[str, dict[str, str]]:  # key -> fields, in the order of the file
    "The entries of a .bib file in the form of ours: one field a line, no braces inside."
    out, rest = {}, re.sub(r'^%.*\n', '', text, flags=re.M)
    for m in ENTRY.finditer(rest):
        fields = FIELD.findall(m[2])
        names = {k for k, _ in fields}
        if len(fields) != m[2].count('\n') or len(names) != len(fields): raise SystemExit(f'references.bib: {m[1]} has a field twice, or braces in one')
        if NEEDED - names or names - NEEDED - MORE: raise SystemExit(f'references.bib: {m[1]} lacks {NEEDED - names} or has the unknown {names - NEEDED - MORE}')
        if m[1] in out: raise SystemExit(f'references.bib: {m[1]} stands twice')
        out[m[1]] = dict(fields)
    if left := ENTRY.sub('', rest).strip(): raise SystemExit(f'references.bib: not understood: {left.splitlines()[0]}')
    return out


def names(author: str) -> str:
    "First names in front; three dots of a list are `et al.`"
    people = [' '.join(reversed(p.split(', '))) for p in author.split(' and ')]
    if people[-1] == 'others': return ', '.join(people[:-1]) + ' et al'
    return people[0] if len(people) == 1 else f"{', '.join(people[:-1])} and {people[-1]}"


def users() -> dict[str, list[tuple[str, str]]]:  # key -> title and path of notebooks
    "Which notebooks link to an entry."
    out: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(NBS.rglob('[!_.]*.ipynb')):
        text = ['\n' + ''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown']
        title = re.search(r'^# (.+)$', ''.join(text), re.M)
        for key in sorted(set(re.findall(r'references\.md#(\w+)\)', ''.join(text)))):
            out.setdefault(key, []).append((title[1] if title else path.stem, relpath(path, NBS)))
    return out


def page() -> str:  # Markdown
    "references.md as it should be."
    entries, used = read_bib((NBS/'references.bib').read_text(encoding='utf-8')), users()
    if unknown := set(used) - set(entries): raise SystemExit(f'references.bib lacks {unknown}, linked from {[used[k][0][1] for k in unknown]}')
    out = ['<!-- Written by `make readme` from references.bib and the notebooks. Do not edit. -->', '# Bibliography',
           'The works that the paper and this project lean on, and the notebooks that speak of them. *Cited by the paper* is said of '
           'works in its public list of references; the part that a work plays there is our reading. Also as [BibTeX](references.bib).']
    for section in dict.fromkeys(e['keywords'] for e in entries.values()):
        out += [f'## {section}']
        for key, e in entries.items():
            if e['keywords'] != section: continue
            venue = ', '.join(v for v in (e.get('journal') or e.get('booktitle') or e.get('howpublished'), e['year']) if v)
            links = [f"[arXiv {e['eprint']}](https://arxiv.org/abs/{e['eprint']})"] if 'eprint' in e else []
            links += [f"[doi {e['doi']}](https://doi.org/{e['doi']})"] if 'doi' in e else []
            where = ', '.join(f'[{title}]({path})' for title, path in used.get(key, []))
            out += [f'<a id="{key}"></a>{names(e["author"])}. **{e["title"]}.** {". ".join([venue, *links])}. {e["note"]}' + (f' In: {where}.' if where else '')]
    return '\n\n'.join(out) + '\n'


if __name__ == '__main__':
    path, new = NBS/'references.md', page()
    if '--check' not in sys.argv: path.write_text(new, encoding='utf-8')
    elif not path.exists() or path.read_text(encoding='utf-8') != new: raise SystemExit('references.md is out of date: run `make readme`')
