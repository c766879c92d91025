"Tables of losses and pictures of angles on records that are missing, uneven or odd."
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from mgr_paper.core import MgrError
from mgr_paper.evidence.ablations import NOT_RUN
from mgr_paper.evidence.figures import cut_labels
from mgr_paper.evidence.geometry_figures import cosine_matrix, feature_figure, off_diagonal, phrase_figure
from mgr_paper.evidence.loss_tables import (GROUPS, ground_text, grounds, group_rows, recall_differences, recall_table,
                                            tailed, takeaway)
from mgr_paper.evidence.results import Results, made_up_records
from mgr_paper.evidence.variants import VARIANTS, long_tail_rows

COUNTS, SPLIT = [40, 30, 20, 12, 4, 2], ('odd-even',)


@pytest.fixture()
def results(tmp_path):
    "The method and one variant, with a tail."
    found = Results.load(made_up_records(tmp_path, K=6, clips=60), 'utd-mhad')
    for key, runs in list(found.records.items()):
        for r in runs.values(): r['extra']['counts'] = COUNTS
        if key.method == 'source': found.records[replace(key, variant='ose')] = deepcopy(runs)
    return found


def test_a_row_without_runs_holds_no_number(results):
    table = recall_table(results, SPLIT, ('default', 'ose', 'focal'), results.branches)
    assert (table.iloc[2][list(GROUPS)] == NOT_RUN).all() and not (table.iloc[:2][list(GROUPS)] == NOT_RUN).any(axis=None)
    nothing = recall_table(results, (), ('default', 'focal'), results.branches)
    assert (nothing[list(GROUPS)] == NOT_RUN).all(axis=None) and recall_differences(results, (), ('default',), ('joint',), 'ose').empty
    assert ground_text(results, SPLIT, ('focal',), results.branches).startswith('No row')


def test_equal_streams_do_not_differ(results):
    d = recall_differences(results, SPLIT, ('default',), results.branches, 'ose')
    assert d.classes.tolist() == list(GROUPS) and (d.difference == '+0.0 [+0.0, +0.0]').all() and (d['p (Holm)'] == '1.000').all()
    assert '4 people cannot decide so many' in takeaway(d) and '0 are shown (0 up, 0 down)' in takeaway(d.assign(people=9))


def test_groups_share_the_test_clips(results):
    rows = group_rows(results, SPLIT, ('default',), ('joint',))['default']
    assert sum(len(y) for g in GROUPS for y, *_ in rows[g]) == 240  # 4 people, 60 clips each
    assert not {c for y, *_ in rows['head'] for c in y} & {c for y, *_ in rows['tail'] for c in y}


def test_a_branch_that_one_row_lacks_is_left_out_of_all(results):
    key = next(k for k in results.records if k.variant == 'ose')
    del results.records[key]['heatmap']
    assert recall_table(results, SPLIT, ('default', 'ose'), results.branches).runs.tolist() == [2, 2]
    assert '(depth, joint)' in ground_text(results, SPLIT, ('default', 'ose'), results.branches)


def test_rows_on_different_ground_are_refused(results):
    results.records = {replace(k, seed=9) if k.variant else k: r for k, r in results.records.items()}
    with pytest.raises(MgrError, match='share no split, seed and branch'): recall_table(results, SPLIT, ('default', 'ose'), ('joint',))


def test_grounds(results):
    assert tailed(results) == SPLIT and grounds(results, ('ose',)) == {'': SPLIT}
    key = next(k for k in results.records if k.variant == 'ose')
    flat = deepcopy(results.records[key])
    for r in flat.values(): r['extra']['counts'] = [8]*6
    results.records[replace(key, setting='1-4')] = flat
    assert grounds(results, ('default', 'ose')) == {'': SPLIT, 'balanced': ('1-4',)} and grounds(results, ('ce',)) == {'': SPLIT}


@pytest.mark.parametrize('data', ['utd-mhad', 'synth', 'imigue', 'smg'])
def test_rows_of_the_long_tail_exist_and_differ(data):
    rows = long_tail_rows(data)
    assert len(set(rows)) == len(rows) == 12 and all(v == 'default' or v in VARIANTS for v in rows)
    changes = [tuple(sorted(VARIANTS[v].changes.items())) for v in rows if v != 'default']
    assert len(set(changes)) == len(changes)
    assert all('loss.ose_lambda' not in VARIANTS[v].changes for v in rows if v != 'default'), 'the embedding loss stays on'


@given(st.integers(2, 12), st.integers(0, 99))
def test_cosines_come_back(K, seed):
    e = np.random.default_rng(seed).normal(size=(K, 5))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    full = e @ e.T
    upper = [float(c) for c in full[np.triu_indices(K, 1)]]
    np.testing.assert_allclose(cosine_matrix(upper), full, atol=1e-12)
    np.testing.assert_allclose(off_diagonal(full), upper)


def test_classes_without_clips_stay_unknown():
    gap = cosine_matrix([.5, None, .2, None, .1, None])  # of four classes, the third has no clip
    assert np.isnan(gap[2]).all() and gap[3, 3] == 1 and len(off_diagonal(gap)) == 3


@pytest.mark.parametrize('upper', [[.1, .2], [.1]*7])
def test_half_a_matrix_of_no_size_is_refused(upper):
    with pytest.raises(MgrError, match='belong to no number of classes'): cosine_matrix(upper)


def test_pictures_say_what_was_not_run():
    runs = {b: {v: [np.eye(3)] if v == 'a' and b == 'x' else [] for v in 'ab'} for b in 'xy'}
    fig = feature_figure(runs, 'title', 'note', simulated=True)
    assert [t.get_text() for ax in fig.axes for t in ax.texts] == ['not run'] and fig.get_label() == 'simulated'
    assert 'Not run: b.' in fig.get_supxlabel()  # a variant without any run has no panel
    assert not cut_labels(fig) and not cut_labels(phrase_figure({'m': np.eye(3)}, ['a very long name of a class']*3, 'title'))


def test_takeaway_counts():
    d = pd.DataFrame({'row': list('abc'), 'against': 'z', 'classes': GROUPS, 'difference': ['+1.0 [+0.1, +2.0]', '−2.5 [−3.0, −1.0]', '+0.0 [−0.1, +0.1]'],
                      'p (Holm)': ['0.010', '< 0.001', '1.000'], 'people': 8})
    text = takeaway(d)
    assert '1 point up' in text and '2 are shown' in text and '(1 up, 1 down)' in text and 'a on head' in text and 'b on medium' in text
