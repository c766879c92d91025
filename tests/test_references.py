"Reference methods and noisy labels go through the whole loop, and none but the instruments reads a test label."
from dataclasses import replace

import numpy as np
import pytest
import torch

from mgr_paper.adaptation.adapt import METHODS, READS_TRUTH
from mgr_paper.adaptation.noise import confusion_of, noisy
from mgr_paper.adaptation.references import Dann, Shot, centroid_labels
from mgr_paper.branches.heatmaps import Output
from mgr_paper.config import override, tier_config
from mgr_paper.core import MgrError
from mgr_paper.evidence import pipeline
from mgr_paper.evidence.experiments import DATA, METHOD_LABEL, Run, method_rounds
from mgr_paper.preprocessing import utd_mhad
from mgr_paper.preprocessing.store import ClipStore
from mgr_paper.records import load_scores, now, read_record
from mgr_paper.training.checkpoints import load_tensors
from mgr_paper.training.train import Labelled, fit, make_network

BRANCHES = DATA['utd-mhad'].branches


@pytest.fixture(scope='module')
def task(tmp_path_factory):
    "Made-up recordings of three actions, four people, and three smallest networks trained on two of them."
    folder = tmp_path_factory.mktemp('references')
    utd_mhad.write_example(folder/'raw', actions=(1, 2, 3), people=(1, 2, 3, 4), trials=(1, 2, 3))
    utd_mhad.prepare_utd(folder/'raw', folder/'store')
    store, cfg = ClipStore(folder/'store'), tier_config('smoke', 'utd-mhad', {'split': 'odd-even'})
    make = pipeline.Task(Run('source', 'utd-mhad', 'odd-even', False, 0, 'joint'), cfg, store,
                         utd_mhad.protocol(store, 'odd-even'), folder/'records', folder/'work', {'seed': 0}, now())
    for b in BRANCHES:
        for kind in ('heldout', 'source'): pipeline.execute(replace(make, run=replace(make.run, kind=kind, what=b)))
    return make


def adapted(task, method, changes={}, **other):
    "Records of a method, in a records folder of its own where something is changed."
    cfg = override(task.cfg, changes)
    run = replace(task.run, kind='adapt', what=method, rounds=method_rounds(method, cfg))
    return pipeline.execute(replace(task, cfg=cfg, run=run, **other))


@pytest.mark.parametrize('method', [m for m in METHOD_LABEL if m != 'source'])
def test_every_method_writes_records(task, method):
    written = adapted(task, method)
    rounds = 2 if method == 'cmpl' else 1
    assert len(written) == rounds*len(BRANCHES)
    for path in written:
        record, s = read_record(task.records/path), load_scores((task.records/path).with_suffix('.npz'))
        assert record['method'] == method and record['extra'].get('reads_test_labels', False) == (method in READS_TRUTH)
        taught = method not in ('continued', 'dann')
        assert ('pseudo_y' in s) == taught and (record['extra']['pseudo'] is not None) == taught
        if not taught: continue
        part = 'adapted' if '-inductive' in method else 'test'
        here = s['part'] == part
        assert (s['pseudo_y'][here] >= 0).all() and (s['pseudo_y'][~here] == -1).all() and not s['pseudo_keep'][~here].any()
        said = record['extra']['pseudo']  # the stored labels are those that were diagnosed
        assert s['pseudo_keep'].sum() == said['kept']
        assert (s['pseudo_y'] == s['y'])[here].mean() == pytest.approx(said['label_accuracy'])


@pytest.mark.parametrize('method', [m for m in METHODS if m not in (*READS_TRUTH, 'cmpl', 'continued')])
def test_no_label_of_an_unseen_person_reaches_a_student(task, method, tmp_path):
    "Bit for bit the same students when all test labels are gone."
    hidden = type('Hidden', (), {'__getattr__': lambda self, k: getattr(task.store, k)})()
    hidden.y = np.where(np.isin(np.arange(task.store.n), task.split.target), -1, task.store.y)
    source, choices = Labelled.of(task.store, task.split.source), pipeline.make_choices(task)
    ends = []
    for k, store in enumerate((task.store, hidden)):
        nets = {'joint': make_network('joint', task.store, task.cfg, 0)}
        nets['joint'].load_state_dict(load_tensors(task.work/task.run.folder/'source'/'joint.safetensors')[0])
        list(pipeline.adapt(nets, store, source, task.split.target, task.cfg, method, 0, lambda b, net: 1., None,
                            tmp_path/str(k), 1, None, choices.confusion))
        ends.append(nets['joint'].state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(e.values() for e in ends)))


def test_people_of_the_other_half(task):
    written = adapted(task, 'cmpl-inductive-people')
    s = load_scores((task.records/written[0]).with_suffix('.npz'))
    parts = {p: set(s['subject_id'][s['part'] == p]) for p in ('adapted', 'test')}
    assert not parts['adapted'] & parts['test'] and set.union(*parts.values()) == {'s2', 's4'}


def test_floor_of_its_own_and_more_rounds(task, tmp_path):
    changes = {'cmpl.self_own_tau': True, 'cmpl.control_rounds': 2}
    elsewhere = dict(work=tmp_path/'work')
    (tmp_path/'work').mkdir()
    (tmp_path/'work'/task.run.folder).parent.mkdir(parents=True)
    (tmp_path/'work'/task.run.folder).symlink_to((task.work/task.run.folder).absolute())
    written = adapted(task, 'self', changes, parameters=changes, **elsewhere)
    assert len(written) == 2*len(BRANCHES) and len(read_record(task.records/written[0])['extra']['floors']) == 3
    assert method_rounds('continued', override(task.cfg, changes)) == 2 and method_rounds('oracle', override(task.cfg, changes)) == 1


@pytest.mark.parametrize('method', ['dann', 'shot'])
def test_references_resume_to_the_same_bits(task, method, tmp_path):
    cfg = override(task.cfg, {'train.save_every': 2})
    def train(stop=None, state=None):
        net, extra = make_network('joint', task.store, cfg, 0), Dann(64, 3) if method == 'dann' else Shot()
        clips = Labelled.of(task.store, task.split.source)
        rows = fit(net, 'joint', task.store, clips, cfg, 0, clips if method == 'dann' else None, steps=6, state=state,
                   max_batches=stop, extra=extra)
        return [*net.state_dict().values(), *extra.state_dict().values()], rows
    whole, rows = train()
    train(4, tmp_path/'s')
    again, rest = train(None, tmp_path/'s')
    assert rest == rows and all(torch.equal(a, b) for a, b in zip(whole, again))


def test_shot_moves_features_only(task):
    net = make_network('joint', task.store, task.cfg, 0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fit(net, 'joint', task.store, Labelled.of(task.store, task.split.source), task.cfg, 0, steps=3, extra=Shot())
    moved = {k for k, v in net.named_parameters() if not torch.equal(v, before[k])}
    assert moved and not any(k.startswith(('branch.classifier', 'head')) for k in moved)


def test_information_term_wants_sure_and_varied_answers():
    value = lambda z: Shot()(Output(torch.tensor(z), None), [slice(0, 2)], [torch.tensor([0, 0])], 0.)[1]
    varied, alike, unsure = value([[5., 0.], [0., 5.]]), value([[5., 0.], [5., 0.]]), value([[0., 0.], [0., 0.]])
    info = lambda t: (t['entropy'] - t['spread']).item()
    assert info(varied) < info(unsure) + 1e-4 and info(varied) < info(alike)


def test_a_class_nobody_names_gets_no_clip():
    probs = np.array([[.5, .4, .1], [.4, .5, .1], [.6, .3, .1]])
    assert set(centroid_labels(np.eye(3), probs).y) <= {0, 1}


def test_noise_is_nested_exact_and_blind_to_the_order_of_accuracies():
    y = np.arange(200) % 5
    C = confusion_of(np.random.default_rng(0).dirichlet(np.ones(5), (2, 200)), y)
    for kind in ('uniform', 'confusable'):
        before = set()
        for a in (1., .9, .8, .7, .6, .5, .3):
            wrong = set(np.flatnonzero(noisy(y, a, kind, 3, 5, C).y != y))
            assert len(wrong) == round(200*(1 - a)) and before <= wrong
            before = wrong


def test_noise_of_a_class_that_was_never_held_out_is_even():
    C = confusion_of(np.full((1, 1, 3), 1/3), np.array([0]))
    assert C[1].tolist() == [.5, 0, .5] and np.allclose(C.sum(1), 1)
    with pytest.raises(MgrError, match='confusable'): noisy(np.zeros(4, int), .5, 'confusable', 0, 3)
