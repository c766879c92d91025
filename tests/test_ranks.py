"""One training by several processes is that of one: real processes under `accelerate launch`, talking through gloo.

Of gradients and losses: PyTorch's own batch norm on a processor may add in float32, which shows where it adds many numbers (28,800 rows of the
heatmap branch), and AdamW's first steps have the size of the learning rate however small a gradient is. So curves are compared twice:
tightly with one process that has the same batch norm, which adds in double precision, and loosely with one that has PyTorch's. How far
rounding alone goes is measured too: by one process whose convolutions add in another order."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent))
import ranks_job as job  # noqa: E402

from mgr_paper.core import MgrError
from mgr_paper.preprocessing import utd_mhad
from mgr_paper.records import load_scores, read_record
from mgr_paper.training import devices, train
from mgr_paper.training.devices import Share, dealt
from mgr_paper.training.train import Batches, Labelled

LAUNCH = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1',
          '--mixed_precision', 'no', '--dynamo_backend', 'no']
ENV = {k: v for k, v in os.environ.items() if k not in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'CUDA_VISIBLE_DEVICES')}
ENV |= {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1', 'MGR_BATCH': '1', 'PYTHONPATH': str(Path(__file__).parent.parent)}
HERE = str(job.__file__)


def launch(*words, **more):
    "Two processes on free ports of their own."
    return subprocess.run([*LAUNCH, '--main_process_port', '0', *map(str, words)], env=ENV, capture_output=True, text=True, timeout=540, **more)


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    return job.make_store(tmp_path_factory.mktemp('ranks')/'store')


@pytest.fixture(scope='module')
def ran(store):
    "Cases by one process, and by two; the last ones with a planted fault, or with kernels that add in another order."
    folders = {n: store.path.parent/str(n) for n in ('one', 'same', 'two')}
    for f in folders.values(): f.mkdir()
    alone = lambda to, *cases: subprocess.run([sys.executable, HERE, store.path, folders[to], *cases], env=ENV, check=True)
    alone('one', *TIGHT)
    alone('same', *(f'{c}:same-norm' for c in TIGHT), 'mmtm:same-norm+rounding')
    done = launch(HERE, store.path, folders['two'], *TIGHT, 'joint:norm')
    assert done.returncode == 0, done.stderr
    def read(to, case):
        path = folders[to]/case.replace(':', '-')
        return np.load(path.with_suffix('.npz')), json.loads(path.with_suffix('.json').read_text())
    return read


def gap(one, two):
    "Relative differences: of the first step's gradient, of its loss, of all losses; and of logits, absolute."
    (a, rows), (b, others) = one, two
    grads = [np.concatenate([z[k].ravel() for k in a.files if k.startswith('grad.')]).astype(float) for z in (a, b)]
    losses = [abs(x[k]/y[k] - 1) for x, y in zip(rows, others) for k in ('loss', 'pseudo_loss') if k in x]
    assert len(rows) == len(others) == job.STEPS and [list(r) for r in rows] == [list(r) for r in others]
    return (np.linalg.norm(grads[0] - grads[1])/np.linalg.norm(grads[0]), abs(others[0]['loss']/rows[0]['loss'] - 1), max(losses),
            abs(a['logits'] - b['logits']).max())


# Measured on a processor with AVX2, printed by the tests: MMTM 3e-6, 0, 7e-6, 2e-5 tightly and 1e-3, 4e-7, 8e-3, 1e-2 loosely; on one with
# AVX-512, whose kernels add in yet another order, R(2+1)D 2e-2, 1e-6, 2e-2, 7e-2 loosely.
TIGHT = {'joint': (1e-4, 1e-6, 1e-5, 1e-5), 'heatmap': (1e-4, 1e-6, 1e-5, 1e-5), 'r2plus1d': (1e-4, 1e-6, 1e-3, 2e-3),
         'mmtm': (1e-4, 1e-6, 1e-3, 2e-3)}
LOOSE = {'joint': (1e-4, 1e-5, 2e-3, 1e-3), 'heatmap': (2e-2, 1e-5, 1e-2, 1e-2), 'r2plus1d': (3e-2, 1e-5, 5e-2, .2),
         'mmtm': (1e-2, 1e-5, 5e-2, .2)}


@pytest.mark.parametrize('case', TIGHT)
def test_two_processes_give_the_curve_of_one(ran, case):
    for other, most in ((f'{case}:same-norm', TIGHT[case]), (case, LOOSE[case])):
        found = gap(ran('same' if ':' in other else 'one', other), ran('two', case))
        print(case, 'against', other, *(f'{v:.1e}' for v in found))
        assert all(v < m for v, m in zip(found, most)), (other, found)
    a, b = ran('same', f'{case}:same-norm')[0]['logits'], ran('two', case)[0]['logits']
    assert (a.argmax(1) == b.argmax(1)).mean() > .95


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='this PyTorch has no second set of kernels')
def test_two_processes_are_nearer_than_rounding(ran):
    two, rounding = (gap(ran('same', 'mmtm:same-norm'), ran(*c)) for c in (('two', 'mmtm'), ('same', 'mmtm:same-norm+rounding')))
    print('two processes', *(f'{v:.1e}' for v in two), 'other kernels', *(f'{v:.1e}' for v in rounding))
    assert 10*two[2] < rounding[2] and 10*two[3] < rounding[3], (two, rounding)


def test_a_batch_norm_of_each_share_would_be_seen(ran):
    right, wrong = (gap(ran('same', 'joint:same-norm'), ran('two', c)) for c in ('joint', 'joint:norm'))
    assert wrong[0] > 1e-2 > 100*right[0] and wrong[1] > 5e-4 > 100*right[1], (right, wrong)


@pytest.mark.slow
@pytest.mark.parametrize('fault', ['draws', 'gradient', 'frames'])
def test_a_fault_would_be_seen(ran, store, tmp_path, fault):
    done = launch(HERE, store.path, tmp_path, f'joint:{fault}')
    assert done.returncode == 0, done.stderr
    wrong = np.load(tmp_path/f'joint-{fault}.npz'), json.loads((tmp_path/f'joint-{fault}.json').read_text())
    assert gap(ran('same', 'joint:same-norm'), wrong)[0] > 1e-2


# --- the same, without a second process

def shares(sizes, processes): return [Share.of(sizes, r, processes) for r in range(processes)]


@pytest.mark.parametrize('sizes, processes', [([13], 2), ([13, 12], 2), ([5, 7], 3), ([2, 2], 2)])
def test_shares_cover_a_batch_once(sizes, processes):
    all_ = shares(sizes, processes)
    assert sorted(torch.cat([s.own for s in all_]).tolist()) == list(range(sum(sizes)))
    few = torch.rand(sum(sizes)) < .5
    assert sorted(torch.cat([s.only(few).own for s in all_]).tolist()) == list(range(int(few.sum())))


@pytest.mark.parametrize('name', ['joint', 'heatmap', 'r2plus1d', 'concat'])
def test_a_share_reads_and_changes_as_the_whole_batch(store, name):
    cfg = job.settings('mmtm')
    whole = [Batches(Labelled.of(store, np.arange(25)), train.partial(train.read_clips, store, name, cfg=cfg), 13, 0, 'source', s)
             for s in ((0, 1), (0, 2), (1, 2))]
    draw = lambda: torch.Generator().manual_seed(5)
    (x, y, w), *parts = (b[3] for b in whole)
    changed = train.augment(name, x, cfg, draw())
    for share, (part, labels, weight) in zip(shares([13], 2), parts):
        assert torch.equal(labels, y) and torch.equal(weight, w)
        train.each(lambda a, b: torch.testing.assert_close(a, b[share.own], rtol=0, atol=0), part, x)
        mine = train.augment(name, part, cfg, draw(), share)
        train.each(lambda a, b: torch.testing.assert_close(a.float(), b[share.own].float(), rtol=1e-6, atol=1e-4), mine, changed)
    with pytest.raises(MgrError, match='a batch of 13 clips cannot be shared by 14 processes.*start 13 or fewer'):
        Batches(Labelled.of(store, np.arange(25)), None, 13, 0, 'source', (0, 14))


def test_whole_norm_is_batch_norm(monkeypatch):
    "Alone, forward, back and in the running statistics; gradients of double numbers are checked too."
    monkeypatch.setattr(torch.distributed, 'all_reduce', lambda t: None)
    alone, x = Share.of([6], 0, 1), (3 + 2*torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))).double()
    found = []
    for norm in (F.batch_norm, alone.batch_norm):
        leaves = [v.clone().requires_grad_() for v in (x, torch.rand(4).double()*0 + 2, torch.ones(4).double())]
        kept = [torch.zeros(4).double(), torch.ones(4).double()]
        out = norm(leaves[0], *kept, *leaves[1:], training=True, momentum=.3)
        (out*torch.arange(120.).view(6, 4, 5).cos()).sum().backward()
        found.append([out, *kept, *(v.grad for v in leaves)])
    for a, b in zip(*found): torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    small = x[:3, :2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: alone.batch_norm(v, None, None, training=True), small)


def test_jobs_are_done_in_order_by_one(): assert dealt(range(3), lambda i: -i) == [0, -1, -2]


# --- torch.compile, CUDA

@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs a C++ compiler')
@pytest.mark.parametrize('name', ['joint', 'heatmap'])
def test_a_compiled_training_is_the_same(store, name):
    "Without dropout, whose numbers compiled code draws in its own way; names of weights stay."
    off = {'joint.dropout': 0., 'joint.head_dropout': 0., 'heatmap.dropout': 0., 'heatmap.crop': 1.}
    found = []
    for compile in (False, True):
        cfg = job.tier_config('smoke', 'synth', job.BASE | off | {'train.compile': compile})
        net, rows, logits = job.train_once(name, store, cfg=cfg, stop=3)
        found.append((list(net.state_dict()), [r['loss'] for r in rows], logits))
    assert found[0][0] == found[1][0] and np.isfinite(found[1][2]).all()
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=5e-3)


def test_compile_without_a_compiler_or_alone(monkeypatch):
    monkeypatch.setattr(devices, 'which', lambda name: None)
    monkeypatch.delenv('CXX', raising=False)
    with pytest.raises(MgrError, match='no C.. compiler.*train.compile=false'): train.compiled(torch.nn.Identity(), torch.device('cpu'))
    monkeypatch.setattr(devices, 'together', lambda: True)
    with pytest.raises(MgrError, match='for one process'): train.compiled(torch.nn.Identity(), torch.device('cpu'))


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize('name', ['joint', 'heatmap', 'r2plus1d'])
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_one_cuda_device_against_the_processor(store, name, precision):
    "Never run so far: there was no CUDA device."
    net = train.make_network(name, store, job.settings(name), 0)
    x, head = train.read_clips(store, name, np.arange(8), cfg=job.settings(name)), net.eval()
    want = head(x).logits
    with torch.no_grad(), devices.autocast(torch.device('cuda'), precision): got = net.cuda()(x.cuda()).logits.float().cpu()
    torch.testing.assert_close(got, want.detach(), rtol=1e-3 if precision == 'fp32' else 5e-2, atol=1e-3 if precision == 'fp32' else 5e-2)
    _, rows, logits = job.train_once(name, store)
    assert np.isfinite(logits).all() and all(np.isfinite(r['loss']) for r in rows)


@pytest.mark.gpu
@needs_cuda
def test_heatmaps_in_half_precision_on_cuda():
    "Never run so far: there was no CUDA device."
    from mgr_paper.branches.heatmaps import render
    xy, conf = 56*torch.rand(2, 4, 68, 2), torch.rand(2, 4, 68)
    got = render(xy.cuda().half(), conf.cuda().half(), 56, 56).float().cpu()
    want = render(xy.half().float(), conf.half().float(), 56, 56)
    assert (got - want).abs().max() < .1 and (got - want).abs().mean() < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='fewer than two CUDA devices')
def test_two_cuda_devices_give_the_curve_of_one(store, tmp_path):
    "Never run so far: there were no two CUDA devices."
    done = subprocess.run([*LAUNCH, '--main_process_port', '0', HERE, str(store.path), str(tmp_path), 'joint', 'heatmap', 'r2plus1d'],
                          env={k: v for k, v in ENV.items() if k != 'CUDA_VISIBLE_DEVICES'}, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    for case in ('joint', 'heatmap', 'r2plus1d'):
        _, rows, _ = job.train_once(case, store)
        two = json.loads((tmp_path/f'{case}.json').read_text())
        assert abs(two[0]['loss']/rows[0]['loss'] - 1) < .2  # dropout is drawn in another way there


# --- the command

@pytest.fixture(scope='module')
def people(tmp_path_factory):
    "A store of made-up recordings of four people."
    folder = tmp_path_factory.mktemp('ranks_people')
    utd_mhad.write_example(folder/'raw', actions=(1, 2, 3), people=(1, 2, 3, 4), trials=(1, 2, 3))
    utd_mhad.prepare_utd(folder/'raw', folder/'store')
    return folder/'store'


OFF = ('joint.dropout=0', 'joint.head_dropout=0')
def words(people, out, *more): return ['train', str(people), '--branch', 'joint', '--out', str(out), '--split', 'odd-even', '--tier', 'smoke',
                                       '--set', 'train.batch=6', '--set', 'train.save_every=2', *(w for s in more for w in ('--set', s))]


def compare(one, two):
    "Scores of the same clips in the same order with the same labels; logits within 0.01 after half precision."
    for name in ('record.npz', 'heldout.npz'):
        a, b = load_scores(one/name), load_scores(two/name)
        for k in ('y', 'clip_id', 'subject_id', 'video_id', 'part'): assert np.array_equal(a[k], b[k]), k
        np.testing.assert_allclose(a['logits'], b['logits'], atol=.01)
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())


@pytest.mark.slow
def test_the_command_writes_the_same_scores_and_goes_on_after_a_kill(people, tmp_path):
    main = lambda *w: subprocess.run([sys.executable, '-m', 'mgr_paper.cli', *w], env=ENV, capture_output=True, text=True)
    done = main(*words(people, tmp_path/'one', 'train.epochs=4'))
    assert done.returncode == 0, done.stderr
    done = launch('-m', 'mgr_paper.cli', *words(people, tmp_path/'two', 'train.epochs=4'))
    assert done.returncode == 0, done.stderr
    compare(tmp_path/'one', tmp_path/'two')
    assert read_record(tmp_path/'two'/'record.json')['extra']['processes'] == 2
    killed = subprocess.Popen([*LAUNCH, '--main_process_port', '0', '-m', 'mgr_paper.cli', *words(people, tmp_path/'killed', 'train.epochs=4')],
                              env=ENV, start_new_session=True, stderr=subprocess.DEVNULL)
    unfinished, until = tmp_path/'.killed.unfinished', time.time() + 300
    while not [*unfinished.rglob('*.state')] and time.time() < until: time.sleep(.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path/'killed').exists() and [*unfinished.rglob('*.state')]
    done = main(*words(people, tmp_path/'killed', 'train.epochs=4'))  # by one process now
    assert done.returncode == 0, done.stderr
    compare(tmp_path/'one', tmp_path/'killed')


def ranks(*words):
    "Two processes as a launcher starts them, to see how each of them ends."
    port = str(20000 + os.getpid() % 20000)
    each = [subprocess.Popen([sys.executable, '-m', 'mgr_paper.cli', *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=ENV | {'RANK': str(r), 'LOCAL_RANK': str(r), 'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2',
                                        'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}) for r in range(2)]
    try: said = [p.communicate(timeout=240) for p in each]
    finally:
        for p in each: p.kill()
    return [p.returncode for p in each], [err for _, err in said]


def test_a_mistake_is_told_once_and_nobody_waits(people, tmp_path):
    "A batch of one clip cannot be shared: both processes find out in the middle of their work."
    codes, said = ranks(*words(people, tmp_path/'out', 'train.joint.batch=1'))
    assert codes == [2, 2] and ''.join(said).count('error:') == 1 and 'Traceback' not in ''.join(said), said
    assert 'a batch of 1 clips cannot be shared by 2 processes' in said[0] and not [*tmp_path.iterdir()]


def test_other_commands_are_refused():
    env = ENV | {'LOCAL_RANK': '0', 'RANK': '0', 'WORLD_SIZE': '2'}
    done = subprocess.run([sys.executable, '-m', 'mgr_paper.cli', 'reproduce'], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and 'work for one process' in done.stderr
