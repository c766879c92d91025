"Metrics and intervals against independent implementations."
import time

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from mgr_paper.core import MgrError
from mgr_paper.evidence.metrics import metrics, per_class
from mgr_paper.evidence.stats import (Interval, bootstrap, by_person, draw_weights, holm, interval_text, mcnemar,
                                      paired_difference, people_text, pooled, shown_sign, sign_flip, swap_test)


def made_up(N=500, K=32, people=8, videos=5, seed=0):
    g = np.random.default_rng(seed)
    y, person = g.integers(0, K, N), g.integers(0, people, N)
    ease = .6 + .15*g.normal(size=people)
    pred = np.where(g.random(N) < ease[person], y, g.integers(0, K, N))
    other = np.where(g.random(N) < ease[person] - .05, y, g.integers(0, K, N))
    return y, pred, other, person, person*videos + g.integers(0, videos, N)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('K', [2, 3, 27])
def test_micro_f1_is_top1(K, seed):
    g = np.random.default_rng(seed)
    logits, y = 2*g.normal(size=(80, K)), g.integers(0, K, 80)
    m = metrics(logits, y, counts=g.integers(1, 50, K))
    assert m['f1_micro'] == pytest.approx(m['top1'], abs=1e-12) == accuracy_score(y, logits.argmax(1))
    assert m['mean_class_acc'] == pytest.approx(np.mean([(logits.argmax(1)[y == c] == c).mean() for c in set(y)]))
    rows = per_class(logits, y)
    assert m['f1_macro'] == pytest.approx(np.mean([r['f1'] for r in rows if r['n']]))
    assert m['f1_weighted'] == pytest.approx(sum(r['n']*r['f1'] for r in rows if r['n'])/80)


def test_macro_f1_runs_over_the_classes_of_the_test_set():
    y, pred = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])      # class 2 is predicted, class 3 never seen
    m = metrics(np.eye(4)[pred], y)
    assert m['f1_macro'] == pytest.approx((2/3 + 1)/2) and m['classes_present'] == 2


@pytest.mark.parametrize('stat, reference', [
    ('accuracy', accuracy_score), ('f1_macro', lambda y, p: f1_score(y, p, average='macro', labels=np.unique(y))),
    ('mean_class_acc', lambda y, p: np.mean([(p[y == c] == c).mean() for c in np.unique(y)]))])
def test_replicates_equal_the_slow_way(stat, reference):
    y, a, b, person, video = made_up(N=160, K=6)
    fast, slow = (bootstrap(s, y, a, groups=(person, video), n=60) for s in (stat, reference))
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high))
    fast, slow = (paired_difference(y, a, b, (person, video), s, n=60) for s in (stat, reference))
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high))


def test_two_thousand_resamples_of_five_hundred_clips_are_quick():
    y, a, _, person, video = made_up()
    start = time.perf_counter()
    bootstrap('f1_macro', y, a, groups=(person, video))
    assert time.perf_counter() - start < 5        # about 0.1 s on an idle core


def test_whole_videos_of_whole_people_are_drawn():
    owner = np.repeat(np.arange(4), [1, 2, 3, 4])
    W = draw_weights(owner, 400, seed=3)
    times = np.stack([W[:, owner == s].sum(1)/(owner == s).sum() for s in range(4)], 1)
    assert (times == times.round()).all() and (times.sum(1) == 4).all() and len(np.unique(times, axis=0)) > 20


def test_people_are_shared_between_runs():
    y, a, b, person, video = made_up(N=400, K=5)
    splits = [person % 2 == 0, person % 2 == 1, person < 4]
    runs = [(y[m], p[m], (person[m], video[m])) for m in splits for p in (a, b)]
    pool = pooled('accuracy', runs)
    assert pool.people == 8
    assert pool.value == pytest.approx(np.mean([(y == p)[m].mean() for m in splits for p in (a, b)]))
    # the same run as four "seeds" knows no more than the run itself
    once, often = pooled('accuracy', runs[:1]), pooled('accuracy', runs[:1]*4)
    assert (once.low, once.high) == pytest.approx((often.low, often.high))
    difference = pooled('accuracy', [(y[m], a[m], b[m], (person[m], video[m])) for m in splits])
    gain = (y == a).astype(float) - (y == b)
    assert difference.value == pytest.approx(np.mean([gain[m].mean() for m in splits]))
    flat = by_person('accuracy', [(y, a, b, person)])
    assert list(flat) == [str(i) for i in range(8)] and flat['3'] == pytest.approx(gain[person == 3].mean())


@pytest.mark.parametrize('seed', range(4))
def test_against_reference_tests(seed):
    y, a, b, *_ = made_up(N=120, K=4, seed=seed)
    right_a, right_b = a == y, b == y
    table = [[(p & q).sum() for q in (right_b, ~right_b)] for p in (right_a, ~right_a)]
    ours = mcnemar(y, a, b)
    assert ours['p'] == pytest.approx(reference_mcnemar(table, exact=True).pvalue)
    assert ours['p'] == pytest.approx(binomtest(ours['only_b'], ours['only_a'] + ours['only_b']).pvalue)
    p = np.random.default_rng(seed).random(7)**3
    assert holm(p) == pytest.approx(multipletests(p, method='holm')[1])


def test_sign_flips_of_eight_people():
    assert sign_flip([.1]*8)['p'] == 2/256
    one_against = sign_flip([.1]*7 + [-.1])
    assert one_against['p'] == 18/256 and one_against['smallest'] == 2/256      # one or none dissenting, either way
    assert '0.0078' in people_text(8)


def test_equal_methods_are_seldom_told_apart():
    g, found = np.random.default_rng(2), []
    for _ in range(150):
        people = np.repeat(np.arange(7), 24)
        y = g.integers(0, 5, len(people))
        skill = g.uniform(.3, .9, 7)[people]                                    # people differ, the two methods do not
        a, b = (np.where(g.random(len(y)) < skill, y, g.integers(0, 5, len(y))) for _ in 'ab')
        found.append(swap_test('f1_macro', [(y, a, b, people)])['p'])
    assert np.mean(np.array(found) <= .05) <= .1 and min(found) >= 2/2**7
    better = np.where(g.random(len(y)) < .5, y, a)
    assert swap_test('f1_macro', [(y, better, a, people)])['p'] == 2/2**7        # everybody gains


def test_places_are_changed_in_all_runs_at_once():
    y, a, b, person, video = made_up(N=300, people=16)
    names, half = np.array([f'p{p}' for p in person]), slice(0, 150)
    runs = [(y, a, b, names), (y[half], b[half], a[half], names[half])]
    found = swap_test('f1_macro', runs)
    assert not found['exact'] and found['people'] == len(set(names)) > 14
    assert abs(found['mean'] - pooled('f1_macro', runs, n=1).value) < 1e-12
    assert found == swap_test('f1_macro', runs) and swap_test('f1_macro', runs, seed=1)['p'] != 0
    back = swap_test('f1_macro', [(y, b, a, who) for y, a, b, who in runs])
    assert back['mean'] == -found['mean'] and back['p'] == found['p']            # which one is called a does not matter
    with pytest.raises(MgrError, match='unknown statistic'): swap_test('kappa', runs)


def test_what_may_be_said_needs_interval_and_p():
    for low, high, p, sign in ((.001, .02, .05, 1), (.001, .02, .0501, 0), (-.001, .02, .001, 0), (-.02, -.001, '< 0.001', -1), (-.02, .001, '0.010', 0)):
        assert shown_sign(interval_text(Interval((low + high)/2, low, high, 8, 100), signed=True), p) == sign


def test_wrong_input_is_named():
    y, a, b, person, video = made_up(N=40)
    with pytest.raises(MgrError, match='at least two people'): bootstrap('accuracy', y, a, groups=np.zeros(40))
    with pytest.raises(MgrError, match='unknown statistic'): bootstrap('f1', y, a, groups=person)
    with pytest.raises(MgrError, match='40 clips'): bootstrap('accuracy', y, a, groups=(person[:3], video))
    with pytest.raises(MgrError, match='two or more people'): sign_flip([])
    assert interval_text(bootstrap('accuracy', y, y, groups=person)) == '100.0 [100.0, 100.0]'
