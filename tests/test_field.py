"The whole way of someone who holds the challenge's files: tree, store, four networks, adaptation, vote, submission."
import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mgr_paper.cli import app
from mgr_paper.preprocessing import ma52
from mgr_paper.preprocessing.store import UNKNOWN, ClipStore
from mgr_paper.records import load_scores, read_record

BRANCHES = ('joint', 'heatmap', 'swin', 'r2plus1d')


def ask(*words, code=0):
    done = CliRunner().invoke(app, [str(w) for w in words], env={'COLUMNS': '200', 'MGR_BATCH': '1'})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "Everything on disk, made by the commands alone."
    at = tmp_path_factory.mktemp('field')
    ask('simulate', at/'tree', '--clips', 200, '--subjects', 12)
    ask('prepare', 'imigue', at/'tree', at/'store', '--subjects', at/'tree'/'subjects.csv', '--size', 40, '--stride', 3)
    for b in BRANCHES: ask('train', at/'store', '--branch', b, '--out', at/b, '--tier', 'smoke')
    ask('adapt', at/'store', *(at/b for b in BRANCHES), '--out', at/'cmpl')
    ask('fuse', *(at/'cmpl'/'round-2'/b for b in BRANCHES), '--out', at/'vote')
    ask('submit', at/'vote', '--out', at/'prediction.csv', '--test-list', at/'tree'/'test_ids.csv')
    return at


def test_tree_becomes_a_store(home):
    store = ClipStore(home/'store')
    assert store.n == 200 and store.meta.simulated and store.meta.name == 'imigue-simulated'
    parts = store.manifest['split'].to_numpy()
    assert (store.y[parts == 'test'] == UNKNOWN).all() and (store.y[parts != 'test'] >= 0).all()
    people = [set(store.subjects[parts == p]) for p in ('train', 'val', 'test')]
    assert all(people) and len(set.union(*people)) == sum(map(len, people)) == 12
    assert store.sample('video', [0, 199], 4).shape == (2, 4, 40, 40, 3)


def test_no_metric_is_made_up_for_hidden_labels(home):
    for folder in (*(home/b for b in BRANCHES), home/'cmpl'/'round-2'/'swin'):
        r = read_record(folder/'record.json')
        assert r['data']['simulated'] and r['extra']['scored'] == 'val' and r['n'] == 64
    assert read_record(home/'vote'/'record.json')['metrics'] == {}
    assert read_record(home/'cmpl'/'round-1'/'joint'/'record.json')['extra']['pseudo'] is None
    assert 'not published' in ask('evaluate', home/'vote', code=2)
    assert 'needs the labels' in ask('adapt', home/'store', *(home/b for b in BRANCHES), '--out', home/'x', '--method', 'oracle', code=2)
    assert not (home/'x').exists()


def test_submission_says_what_the_vote_says(home):
    rows = list(csv.DictReader((home/'prediction.csv').open()))
    truth = list(csv.DictReader((home/'tree'/'truth.csv').open()))
    scores = load_scores(home/'vote'/'record.npz')
    said = dict(zip(scores['clip_id'], scores['logits'].argmax(1)))
    assert [r['Id'] for r in rows] == [r['Id'] for r in truth] and len(rows) == 67
    assert all(int(r['Target']) == said[r['Id']] for r in rows)


def test_wrong_list_is_refused(home):
    ids = (home/'tree'/'test_ids.csv').read_text().splitlines()
    (home/'short.csv').write_text('\n'.join(ids[:-1])+'\n')
    text = ask('submit', home/'vote', '--out', home/'y.csv', '--test-list', home/'short.csv', code=2)
    assert ids[-1] in text and len(text.strip().splitlines()) == 1
    assert not (home/'y.csv').exists()
    (home/'long.csv').write_text('\n'.join([*ids, '0999_0'])+'\n')
    text = ask('submit', home/'vote', '--out', home/'y.csv', '--test-list', home/'long.csv', code=2)
    assert '0999_0' in text and 'long.csv' in text and '--fill' in text and not (home/'y.csv').exists()
    ask('submit', home/'vote', '--out', home/'y.csv', '--test-list', home/'long.csv', '--fill', 31)
    assert (home/'y.csv').read_text().splitlines()[-1] == '0999_0,31'


def test_adapted_weights_start_a_training_elsewhere(home):
    ask('train', home/'store', '--branch', 'joint', '--out', home/'again', '--tier', 'smoke', '--init', home/'joint', '--set', 'train.epochs=1')
    assert 'init' in json.loads((home/'again'/'record.json').read_text())['extra']


def test_ma52_weights_start_imigue(home, tmp_path):
    "Another set, other classes: the head is made anew, the rest is kept."
    ma52.write_example(tmp_path/'raw')
    ask('prepare', 'ma52', tmp_path/'raw', tmp_path/'ma52')
    plain = ('--branch', 'joint', '--tier', 'smoke', '--set', 'loss.ose_targets=none')
    ask('train', tmp_path/'ma52', *plain, '--out', tmp_path/'first')
    ask('train', home/'store', *plain, '--out', tmp_path/'second', '--init', tmp_path/'first', '--set', 'layout=openpose28')
    first, second = (read_record(tmp_path/r/'record.json') for r in ('first', 'second'))
    assert first['config']['layout'] == 'openpose28' and len(first['extra']['classes']) == 52
    assert len(second['extra']['classes']) == 32 and second['extra']['init']['classes'] == 52
    wrong = ask('train', home/'store', *plain, '--out', tmp_path/'third', '--init', tmp_path/'first', code=2)
    assert 'openpose28' in wrong and not (tmp_path/'third').exists()
