"Tables of adaptation: rows that are missing say so, pairs stand on the same clips, and break-even is where the curve crosses."
import numpy as np
import pytest
from hypothesis import given, strategies as st

from mgr_paper.core import MgrError
from mgr_paper.evidence.ablations import NOT_RUN
from mgr_paper.evidence.adaptation_tables import (INDUCTIVE, LABELLED, TRANSDUCTIVE, adaptation_differences, adaptation_table,
                                                  break_even, break_even_table, break_even_text, carried_table, floor_gains,
                                                  inductive_table, labels_table, noise_curves, paired, row_label)
from mgr_paper.evidence.results import Key, Results, made_up_records

FOUND = ('odd-even',)


@pytest.fixture(scope='module')
def results(tmp_path_factory): return Results.load(made_up_records(tmp_path_factory.mktemp('records')), 'utd-mhad')


def test_every_row_stands_in_the_table_whether_run_or_not(results):
    table = adaptation_table(results, FOUND)
    assert list(table.index) == ['no adaptation', *map(row_label, TRANSDUCTIVE)]
    there = {'no adaptation', 'CMPL, round 1', 'CMPL, round 2'}
    for name, row in table.iterrows(): assert (row['equal vote'] == NOT_RUN) == (name not in there) == (row['runs'] == 0)
    d = adaptation_differences(results, FOUND)
    assert set(d['method']) == set(map(row_label, TRANSDUCTIVE)) and (d.query('runs == 0')['difference'] == NOT_RUN).all()


def test_transductive_and_inductive_rows_never_meet(results):
    assert not set(TRANSDUCTIVE) & set(INDUCTIVE) and not any('inductive' in m for m, *_ in TRANSDUCTIVE)
    assert not set(adaptation_table(results, FOUND).index) & set(map(row_label, INDUCTIVE))
    assert set(inductive_table(results, FOUND)['method']) == {'no adaptation, clips of the next row', *map(row_label, INDUCTIVE)}


def test_an_inductive_run_is_compared_on_the_clips_that_it_was_tested_on(results):
    y, after, before, groups = paired(results, ('cmpl-inductive', 1, ''), FOUND)['joint'][0]
    whole = results.scores(results.records[Key('odd-even', 0, 'source', 0)]['joint'])
    assert len(y) == len(whole['y'])//2 and (before == whole['logits'].argmax(-1)[::2]).all()


def test_instruments_say_that_they_read_test_labels():
    for row in TRANSDUCTIVE + LABELLED + (('noise', 1, 'noise-uniform-60'),):
        assert ('reads test labels' in row_label(row)) == (row[0] in ('oracle', 'noise'))


def test_what_is_not_stored_or_not_run_says_so(results):
    assert set(carried_table(results, FOUND)['wrong and kept']) == {'not stored'}
    assert set(labels_table(results, FOUND).query('runs == 0')['precision']) == {NOT_RUN}
    assert set(break_even_table(results, {'x': FOUND})['break-even accuracy']) == {NOT_RUN}
    assert floor_gains(results, FOUND)['joint'].tolist()[:-1] == [NOT_RUN]*4
    assert noise_curves(results, FOUND, 'uniform')[2] == 0


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_break_even_is_the_last_crossing(gain):
    accuracy, g = np.array([.3, .6, .8, 1.]), np.array(gain)
    at = break_even(accuracy, g)[0]
    if at == np.inf: assert g[-1] <= 0
    elif at == -np.inf: assert (g > 0).all()
    else:
        assert abs(np.interp(at, accuracy, g)) < 1e-9
        above = np.linspace(at, 1, 50)[1:]
        assert (np.interp(above, accuracy, g) > -1e-9).all()


def test_break_even_interval_holds_draws_that_never_cross():
    gains = np.array([[-1., 1.]] + [[-1., 1.]]*95 + [[1., 2.]]*5)  # a twentieth of the draws has no crossing
    text, (value, low, high) = break_even_text(np.array([.4, .8]), gains)
    assert value == pytest.approx(.6) and low == -np.inf and high == pytest.approx(.6) and text == '0.60 [< 0.40, 0.60]'
    with pytest.raises(MgrError, match='increasing'): break_even([.5, .5], [[0., 1.]])
