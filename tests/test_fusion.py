"Rules of fusion, fused features, and what is counted of streams that err together."
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from mgr_paper.adaptation.cmpl import diversity
from mgr_paper.config import FUSED, tier_config
from mgr_paper.core import MgrError, rng
from mgr_paper.evidence.diversity import (MEASURES, change_table, changes, diversity_counts, diversity_measures, explained, kinds,
                                          level_table, person_changes)
from mgr_paper.evidence.experiments import DATA, Run
from mgr_paper.evidence.figures import cut_labels
from mgr_paper.evidence.fusion_figures import diversity_figure, significance_figure
from mgr_paper.evidence.fusion_tables import (AGAINST, FEATURES, NOT_RUN, Draws, Fusions, ece_interval, fusion_table, protocols, replicates,
                                              significance_shown, significance_table)
from mgr_paper.evidence.steps import BRANCH_PARTS, decisive, modules
from mgr_paper.evidence.results import Key, Results, made_up_records, panel, stream_predictions
from mgr_paper.evidence.stats import effect_size, pooled
from mgr_paper.fusion.baselines import RULES, HeldOut, best_stream, choose_C, combine, fit_stack, stack_probs
from mgr_paper.fusion.calibrate import ece, softmax
from mgr_paper.fusion.vote import vote
from mgr_paper.records import load_scores, read_record, save_scores, write_record
from mgr_paper.training.train import each

K = 4


def streams(seed, n=60, M=3):
    g = rng(seed, 'test streams')
    y = g.integers(K, size=n)
    return 1.5*np.eye(K)[y] + g.normal(size=(M, n, K)), y, np.array([f's{i % 3}' for i in range(n)])


# --- rules

@pytest.mark.parametrize('rule', RULES)
def test_every_rule_gives_one_answer_of_shares(rule):
    held = HeldOut(*streams(0))
    z, y, _ = streams(1)
    out = combine(rule, z, held, np.array([1., 2., .5]), np.array([.5, .3, .2]))
    assert out.shape == (60, K) and (out >= 0).all()
    np.testing.assert_allclose(out.sum(1), 1)
    assert (out.argmax(1) == y).mean() > 1/K


@pytest.mark.parametrize('rule', [r for r in RULES if r not in ('one', 'stacked')])
def test_no_simple_rule_cares_for_the_order_of_the_streams(rule):
    z, _, _ = streams(2)
    T, w, order = np.array([1., 2., .5]), np.array([.5, .3, .2]), [2, 0, 1]
    np.testing.assert_allclose(combine(rule, z, T=T, weights=w), combine(rule, z[order], T=T[order], weights=w[order]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_majority_wins_the_hard_vote_and_a_tie_goes_to_the_surest(seed):
    z = rng(seed, 'votes').normal(size=(3, 20, K))
    out, named = combine('hard', z).argmax(1), z.argmax(-1)
    for i in range(20):
        count, mean = np.bincount(named[:, i], minlength=K), softmax(z).mean(0)[i]
        assert out[i] == max(np.flatnonzero(count == count.max()), key=lambda c: mean[c])


def test_nothing_is_chosen_on_what_is_scored():
    held, (z, y, _) = HeldOut(*streams(0)), streams(1)
    for rule in ('stacked', 'one'):
        both = combine(rule, z, held), combine(rule, z[:, ::-1], held)[::-1]
        np.testing.assert_allclose(*both, atol=1e-12)  # a clip's answer does not depend on the other clips
    assert best_stream(HeldOut(np.stack([np.eye(K)[held.y] - 1, np.eye(K)[held.y]*3, -np.eye(K)[held.y]]), held.y, held.people)) == 0


def test_the_stacker_is_judged_on_people_it_did_not_see():
    z, y, _ = streams(3)
    leak = HeldOut(z, y, np.array([f's{i % 30}' for i in range(60)]))  # two clips of each person
    C, losses = choose_C(leak, (.01, 1.))
    assert C in (.01, 1.) and len(losses) == 2
    with pytest.raises(MgrError, match='one held-out person'): choose_C(HeldOut(z, y, np.full(60, 'a')))
    assert (stack_probs(fit_stack(HeldOut(z[:, y > 0], y[y > 0], leak.people[y > 0]), 1.), z)[:, 0] == 0).all()


def test_refusals_of_the_rules():
    z, y, who = streams(0)
    with pytest.raises(MgrError, match='nothing to choose on'): combine('one', z)
    with pytest.raises(MgrError, match='rule of fusion'): combine('soft', z)
    with pytest.raises(MgrError, match='held-out logits'): HeldOut(z, y[:3], who)


# --- one network of several branches

def test_fused_networks_hold_the_voters_and_never_vote():
    for data, spec in DATA.items():
        assert spec.fused == FUSED and not set(FUSED) & {*spec.branches, *spec.extra}, data
        assert tier_config('bench', data).branches == spec.branches, data  # what a fused network is built of


@pytest.mark.parametrize('kind', FUSED)
def test_the_graph_knows_what_decides_a_fused_network(kind):
    run, cfg = Run('source', 'utd-mhad', 'odd-even', False, 0, kind), tier_config('bench', 'utd-mhad')
    names = {p.stem for p in modules(run)}
    assert {'feature_fusion', *(p for b in DATA['utd-mhad'].branches for p in BRANCH_PARTS[b])} <= names
    from mgr_paper.config import override
    for change in ({'depth.base': 24}, {'feature_fusion.squeeze': 2}, {f'train.{kind}.epochs': 3}):
        assert decisive(run, override(cfg, change)) != decisive(run, cfg), change
    assert decisive(run, override(cfg, {'train.joint.epochs': 3})) == decisive(run, cfg)  # a voter's recipe is not its own
    joint = Run('source', 'utd-mhad', 'odd-even', False, 0, 'joint')
    assert decisive(joint, override(cfg, {'feature_fusion.squeeze': 2})) == decisive(joint, cfg)
    assert 'feature_fusion' not in {p.stem for p in modules(joint)}


def test_each_changes_a_batch_or_every_input_of_it():
    a, b = torch.ones(2), torch.zeros(3)
    assert torch.equal(each(torch.neg, a), -a)
    assert [t.shape[0] for t in each(lambda *h: torch.cat(h), (a, b), [a, b])] == [4, 6]  # a loader makes lists of tuples


# --- tables

@pytest.fixture(scope='module')
def results(tmp_path_factory): return Results.load(made_up_records(tmp_path_factory.mktemp('records')), 'utd-mhad')


SPLIT = ('odd-even',)


@pytest.mark.parametrize('stat', ['f1_micro', 'f1_macro'])
def test_one_draw_of_people_gives_what_pooled_gives(results, stat):
    p, y, g = stream_predictions(results, Key('odd-even', 0, 'source', 0))
    draws = Draws.of([g])
    ours, theirs = draws.interval([replicates(draws, stat, y, p['depth'], g)]), pooled(stat, [(y, p['depth'], g)])
    np.testing.assert_allclose([ours.value, ours.low, ours.high], [theirs.value, theirs.low, theirs.high])


def test_the_calibration_error_is_that_of_the_calibration_room(results):
    p = panel(results, Key('odd-even', 0, 'source', 0))
    i = ece_interval([(p.y, q, p.groups) for q in p.probs])
    np.testing.assert_allclose(i.value, np.mean([ece(q, p.y) for q in p.probs]))
    assert 0 <= i.low <= i.value <= i.high


def test_rows_that_were_not_trained_are_not_run_and_others_are(results, tmp_path):
    table = fusion_table(Fusions(results), SPLIT)
    assert table['fusion'].tolist() == [*RULES.values(), *FEATURES.values()] and (table.tail(2)['f1_micro'] == NOT_RUN).all()
    assert table[table['fusion'] == RULES['hard']]['ECE'].item() == '—'
    folder = made_up_records(tmp_path)
    one = folder/'utd-mhad'/'odd-even'/'seed0'/'source'/'joint.json'
    record, s = read_record(one), load_scores(one.with_suffix('.npz'))
    save_scores(one.with_name('concat.npz'), *(s[k] for k in ('logits', 'y', 'clip_id', 'subject_id', 'video_id', 'part')))
    write_record(one.with_name('concat.json'), **{k: v for k, v in record.items() if k != 'path'} | {'branch': 'concat'})
    more = Results.load(folder, 'utd-mhad')
    row = fusion_table(Fusions(more), SPLIT).set_index('fusion').loc[FEATURES['concat']]
    assert row['runs'] == 1 and row[AGAINST] != '—'
    assert stream_predictions(more, Key('odd-even', 0, 'source', 0))[0].keys() == stream_predictions(results, Key('odd-even', 0, 'source', 0))[0].keys()


def test_significance_pairs_every_method_once_per_stream(results):
    table = significance_table(results, SPLIT)
    assert len(table) == 5*3 and table['runs'].eq(1).all()
    assert not table.duplicated(['stream', 'a', 'b']).any()
    p, y, g = stream_predictions(results, Key('odd-even', 0, 'cmpl', 1))
    q = stream_predictions(results, Key('odd-even', 0, 'source', 0))[0]
    row = table[(table.stream == 'equal vote') & (table.a == 'CMPL, round 1') & (table.b == 'no adaptation')].iloc[0]
    theirs = pooled('f1_micro', [(y, p['equal vote'], q['equal vote'], g)])
    np.testing.assert_allclose([row.difference, row.low, row.high], [theirs.value, theirs.low, theirs.high])
    assert len(significance_shown(table)) == 15
    assert cut_labels(significance_figure(table)) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_measures_are_those_of_the_adaptation_room(seed):
    z, y, _ = streams(seed, n=40)
    probs = softmax(z)
    m = diversity_measures(diversity_counts(probs.argmax(-1), vote(probs).argmax(-1), y, y).sum(0), 3)
    known = diversity(probs, y)
    for ours, theirs in (('rho', 'error_correlation'), ('double_fault', 'double_fault'), ('over_mean', 'vote_over_mean'), ('over_best', 'vote_over_best')):
        np.testing.assert_allclose(m[ours], known[theirs], atol=1e-12)
    wrong = probs.argmax(-1) != y
    np.testing.assert_allclose(m['shared'], np.mean([(wrong[a] & wrong[b]).mean() for a, b in combinations(range(3), 2)])/wrong.mean())
    assert m['over_best'] <= m['over_mean'] and set(m) == set(MEASURES)


def test_the_votes_change_is_the_sum_of_its_parts(results):
    found = changes(results, SPLIT)
    assert list(found) == ['CMPL, round 1', 'CMPL, round 2', 'CMPL, inductive: other clips of the same people'] and len(kinds(results, SPLIT)) == 3
    for change in found.values():
        e = explained(change)
        assert abs(e['vote'] - e['streams'] - e['room'] - e['likeness']) < 1e-9
        for before, after, d in change.values(): np.testing.assert_allclose(d.value, after.value - before.value)
    assert len(change_table(results, SPLIT)) == 3 and len(level_table(results, SPLIT)) == 5
    assert change_table(results, SPLIT, found).equals(change_table(results, SPLIT))
    assert cut_labels(diversity_figure({'all source people': found})) == []


def test_a_persons_change_is_that_of_the_persons_clips():
    y = np.array([0, 0, 0, 0])
    g = (np.array(['a', 'a', 'b', 'b']), np.array(list('wxyz')))
    right, wrong = np.zeros((2, 4), int), np.ones((2, 4), int)
    before = diversity_counts(wrong, wrong[0], wrong[0], y), g
    after = diversity_counts(np.where(g[0] == 'a', right, wrong), np.where(g[0] == 'a', 0, 1), wrong[0], y), g
    assert person_changes([before], [after], 'equal_vote', 2) == [1., 0.]


def test_protocols_never_mix(results):
    assert protocols(results) == {'all source people': SPLIT}


def test_an_effect_far_out_in_the_tails_has_an_interval():
    for sure in ([-.10, -.11, -.12, -.11], [.200, .201, .202, .201], [-5., -5.01, -4.99, -5.]):
        e = effect_size(sure)
        assert e.low < e.value < e.high
