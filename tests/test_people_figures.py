"Lines of people, costs and contrasts: the numbers behind the pictures, by hand."
import numpy as np
import pytest
from matplotlib.text import Text

from mgr_paper.core import MgrError
from mgr_paper.evidence.figures import cut_labels
from mgr_paper.evidence.people_figures import (contrast_figure, cost_figure, cost_of, label_intervals, people_figure, seen_level,
                                               slopes)
from mgr_paper.evidence.results import Results, before_of, made_up_records, stream_predictions
from mgr_paper.evidence.stats import Interval
from mgr_paper.records import load_scores, save_scores


@pytest.fixture
def results(tmp_path): return Results.load(made_up_records(tmp_path), 'utd-mhad')


def store_labels(results, keep):
    "Put labels beside the scores of CMPL: everyone's true class, but for the first of those kept."
    for key in results.keys('cmpl', 2):
        for record in results.records[key].values():
            path = record['path'].replace('.json', '.npz')
            s = load_scores(path)
            label = s['y'].copy()
            label[np.flatnonzero(keep)[0]] += 1
            save_scores(path, **{k: s[k] for k in ('logits', 'y', 'clip_id', 'subject_id', 'video_id', 'part')},
                        pseudo_y=label, pseudo_keep=keep)


def texts(fig): return {t.get_text() for t in fig.findobj(Text)}


def test_a_slope_is_each_persons_own_accuracy(results):
    key, = results.keys('cmpl', 2)
    people, change = slopes(results, [key], ('joint', 'equal vote'))['joint']
    for k, at in ((key, 1), (before_of(key), 0)):
        p, y, (who, _) = stream_predictions(results, k)
        for person, values in people.items(): assert values[at] == (p['joint'] == y)[who == person].mean()
    d = [b - a for a, b in people.values()]
    assert change.value == pytest.approx(np.mean(d)) and change.low <= change.value <= change.high
    assert min(d) <= change.low and change.high <= max(d) and change.people == len(d) == 4


def test_lines_are_of_people_and_the_change_is_that_of_the_clips(results):
    key, = results.keys('cmpl', 2)
    p, y, (who, _) = stream_predictions(results, key)
    for k in (key, before_of(key)):  # forget most clips of one person
        for record in results.records[k].values():
            s = results.scores(record)
            gone = (s['subject_id'] == 's2') & (np.arange(len(s['y'])) >= 5)
            s['part'] = np.where(gone, 'left out', s['part'])
    people, change = slopes(results, [key], ('joint',))['joint']
    after, true, _ = stream_predictions(results, key)
    before = stream_predictions(results, before_of(key))[0]
    right = lambda said: (said['joint'] == true).mean()
    assert len(people) == 4 and change.value == pytest.approx(right(after) - right(before))  # as in every other table
    assert change.value != pytest.approx(np.mean([b - a for a, b in people.values()]))       # one of them has few clips left
    assert people['s3'][1] == (p['joint'] == y)[who == 's3'].mean()


def test_known_people_are_compared_only_where_they_were_asked(results):
    keys = results.keys('cmpl', 2)
    assert seen_level(results, keys, ('joint',)) == {}
    for record in results.records[before_of(keys[0])].values():
        s = results.scores(record)
        s['part'] = np.where(np.arange(len(s['y'])) % 2, 'seen', s['part'])
    level = seen_level(results, keys, ('joint', 'equal vote'))
    assert set(level) == {'joint', 'equal vote'} and all(0 < v <= 1 for v in level.values())


def test_lines_are_drawn_one_a_person_and_nothing_is_cut(results):
    found = slopes(results, results.keys('cmpl', 2), ('joint', 'heatmap', 'depth', 'equal vote'))
    fig = people_figure({'CMPL': found, 'another': found}, {'joint': .9}, note='n = 4 people.')
    assert not cut_labels(fig) and len(fig.axes) == 8
    assert all(len(ax.lines) >= 5 for ax in fig.axes)  # four people and their mean
    assert fig.axes[0].get_title('left').splitlines()[-1].endswith('down') and 'people known from training' in texts(fig)
    with pytest.raises(MgrError, match='no adaptation'): people_figure({})


def test_what_is_not_measured_is_not_drawn():
    rows = {'joint': dict(score=Interval(.9, .8, .95, 4, 40), seconds=(5., 4., 6.), parameters=(1e5,)*3, peak_mb=(np.nan,)*3),
            'vote': dict(score=Interval(.92, .8, .95, 4, 40), seconds=(9., 8., 11.), parameters=(3e5,)*3, peak_mb=(np.nan,)*3)}
    fig = cost_figure(rows)
    assert not cut_labels(fig) and 'Not measured: peak memory' in fig.get_supxlabel() and len(fig.axes) == 2
    for r in rows.values(): r['peak_mb'] = (400., 380., 420.)
    assert 'Not measured' not in cost_figure(rows).get_supxlabel() and len(cost_figure(rows).axes) == 3


def test_cost_comes_from_the_record_or_not_at_all():
    cost = cost_of(dict(seconds=2.5, extra=dict(parameters=7)))
    assert (cost['seconds'], cost['parameters']) == (2.5, 7) and np.isnan(cost['peak_mb'])
    assert cost_of(dict(seconds=2.5, extra=dict(parameters=7, peak_mb=300.)))['peak_mb'] == 300


def test_labels_get_an_interval_only_where_clips_are_stored(tmp_path):
    plain = Results.load(made_up_records(tmp_path), 'utd-mhad')
    told = label_intervals(plain, plain.keys('cmpl', 2))
    assert told['coverage'].value == pytest.approx(.9) and np.isnan(told['coverage'].high)
    keep = np.arange(160) % 4 > 0  # three of four
    store_labels(plain, keep)
    results = Results.load(tmp_path, 'utd-mhad')
    told = label_intervals(results, results.keys('cmpl', 2))
    assert told['coverage'].value == pytest.approx(.75) and told['precision'].value == pytest.approx(1 - 1/keep.sum())
    assert told['precision'].low < told['precision'].value <= told['precision'].high and told['precision'].people == 4


def test_a_contrast_that_was_not_run_is_said_to_be_so():
    assert 'not run' in texts(contrast_figure([], {}, {}, {}))
    one = [Interval(.5, .4, .6, 4, 40)]
    fig = contrast_figure([1.], {'joint': one, 'vote': one}, {'joint': one, 'vote': one},
                          {'precision': one, 'coverage': [Interval(.4, np.nan, np.nan, 0, 0)]})
    assert not cut_labels(fig) and 'not run' not in texts(fig)
