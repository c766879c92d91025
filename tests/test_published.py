"Numbers of others: once, with an address, and never among ours."
import pandas as pd
import pytest

from mgr_paper.batch import run_notebook
from mgr_paper.core import MgrError, root
from mgr_paper.evidence.published import HOW, PUBLISHED, published_table

NOTEBOOK = root()/'nbs'/'ablations'/'t1_published.ipynb'


def test_every_number_says_how_it_is_known_and_where():
    for p in PUBLISHED:
        assert p.how in HOW and p.address and p.protocol, p
        assert (p.top1 is None) == (p.how == 'not found'), p
        if p.top1 is not None: assert 0 < p.top1 < 100 and (p.top5 is None or p.top1 < p.top5 < 100), p
        if p.how == 'derived': assert p.note, 'a derived number says from what'


def test_nobody_stands_twice_under_one_protocol():
    assert len({(p.data, p.work, p.protocol) for p in PUBLISHED}) == len(PUBLISHED)


def test_the_papers_number_is_stated_as_f1_and_says_what_is_inferred():
    paper, = [p for p in PUBLISHED if '2606.13030' in p.address]
    assert (paper.data, paper.top1, paper.top5, paper.how) == ('imigue', 68.13, None, 'stated')
    assert 'F1-score' in paper.note and 'inferred' in paper.note
    assert round(3108/4562*100, 2) == paper.top1  # a whole number of the test clips


@pytest.mark.parametrize('work,top1', [('XInsight Lab', 74.419), ('MM-Gesture', 73.213), ('Prototype Learning', 70.254), ('Li et al.', 64.12),
                                       ('MS-G3D', 54.91), ('TSM', 61.10)])
def test_numbers_as_their_sources_print_them(work, top1):
    assert top1 in {p.top1 for p in PUBLISHED if p.data == 'imigue' and p.work == work}


def test_tables_are_sorted_and_keep_the_printed_digits():
    for data in ('imigue', 'smg', 'ma52'):
        table = published_table(data)
        values = pd.to_numeric(table['Top-1, %'].replace('—', '-1'))
        assert values.is_monotonic_decreasing and len(table) == sum(p.data == data for p in PUBLISHED)
    assert {'61.10', '74.419'} <= set(published_table('imigue')['Top-1, %'])
    with pytest.raises(MgrError, match='published'): published_table('utd-mhad')


def test_without_imigue_no_row_of_ours_has_a_number(tmp_path):
    run_notebook(NOTEBOOK, tmp_path/'log.ipynb', records=str(tmp_path/'none'), out=str(tmp_path/'out'))
    table = pd.read_csv(tmp_path/'out'/'t1_published.csv')
    own = table['venue'] == 'this project'
    assert own.sum() == 12 and set(table.loc[own, 'ours, Top-1 %']) == {'not run: needs iMiGUE'}
    assert set(table.loc[~own, 'ours, Top-1 %']) == {'—'} and set(table.loc[own, 'Top-1, %']) == {'—'}
    assert not any('simulated' in p.name for p in (tmp_path/'out').iterdir())


def test_records_on_imigue_fill_our_rows(tmp_path):
    "Made up, to see that a number would come from them and say on whom."
    import json
    from mgr_paper.evidence.results import made_up_records
    made_up_records(tmp_path/'all', validated=True)
    branches = dict(joint='joint', heatmap='heatmap', swin='depth', r2plus1d='depth')
    for folder in sorted((tmp_path/'all'/'utd-mhad'/'odd-even'/'seed0').iterdir()):
        for new, old in branches.items():
            target = tmp_path/'records'/'imigue'/'official'/'seed0'/folder.name
            target.mkdir(parents=True, exist_ok=True)
            record = json.loads((folder/f'{old}.json').read_text()) | dict(branch=new, split='official')
            record['data'] |= dict(name='imigue', video_kind='rgb')
            (target/f'{new}.json').write_text(json.dumps(record))
            (target/f'{new}.npz').write_bytes((folder/f'{old}.npz').read_bytes())
    run_notebook(NOTEBOOK, tmp_path/'log.ipynb', records=str(tmp_path/'records'), out=str(tmp_path/'out'))
    table = pd.read_csv(tmp_path/'out'/'t1_published.csv')
    own = table[table['venue'] == 'this project']
    assert own['ours, Top-1 %'].str.fullmatch(r'\d+\.\d \[\d+\.\d, \d+\.\d\]').all()
    assert set(own['protocol']) == {'split official, test people, 1 seeds'}
