"""Short trainings, run whole in one process or shared by several: `python ranks_job.py STORE OUT CASE...` under `accelerate launch`.

A case is a name of CASES, with a fault after a colon where one is planted: `joint:norm` measures batch norm share by share."""
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from mgr_paper.adaptation.references import Dann, Shot
from mgr_paper.config import override, tier_config
from mgr_paper.core import rng
from mgr_paper.preprocessing.store import Clip, ClipStore, StoreMeta, StoreWriter
from mgr_paper.training import train
from mgr_paper.training.train import Labelled, fit, make_network, predict

N, SEEN, STEPS = 42, 30, 6


def make_store(path, T=20, size=32):
    "Made-up clips of three classes with joints and RGB, all drawn from the clip's own stream."
    meta = StoreMeta(name='synth', layout='kinect20', classes=('wave', 'clap', 'push'), fps=25., height=size, width=size, simulated=True,
                     video_kind='rgb', source='drawn for a test')
    with StoreWriter(path, meta) as writer:
        for i in range(N):
            draw, y = rng(0, 'clip', i), i % 3
            xy = rng(0, 'rest').uniform(6, size - 6, (20, 2)) + draw.normal(0, .4, (T, 20, 2))
            if y: xy[:, :10, y - 1] += 4*np.sin(np.linspace(0, 6, T) + draw.uniform(0, 6))[:, None]
            video = draw.integers(0, 255, (T, size, size, 3), dtype=np.uint8)
            joints = np.concatenate([xy, np.ones((T, 20, 1))], -1).astype(np.float32)
            writer.add(Clip(f'c{i}', f'v{i//6}', f's{i//12}', y, joints=joints, video=video))
    return ClipStore(path)


BASE = {'layout': 'kinect20', 'branches': ('joint', 'r2plus1d'), 'loss.ose_targets': 'random', 'train.save_every': 2,
        'train.batch': 13, 'train.views': 2, 'train.precision': 'fp32',  # 13 clips: shares of 6 and 7
        'joint.dropout': .2, 'joint.head_dropout': .2, 'heatmap.size': 24, 'heatmap.dropout': .3, 'r2plus1d.dropout': .3,
        'swin.drop_path': .3}
CASES = {  # name -> branch, settings, what is added
    'joint': ('joint', {'train.ema': .9, 'loss.ose_targets': 'learned'}, None), 'heatmap': ('heatmap', {}, None),
    'r2plus1d': ('r2plus1d', {}, None), 'swin': ('swin', {}, None), 'mmtm': ('mmtm', {}, None),
    'dann': ('joint', {}, 'dann'), 'shot': ('joint', {}, 'shot')}


def settings(case):
    return tier_config('smoke', 'synth', BASE | CASES[case][1])


def train_once(case, store, state=None, stop=None, cfg=None):
    "Network, rows, and scores of all clips, after a few steps on source and pseudo-labelled clips."
    (branch, _, added), cfg = CASES[case], cfg or settings(case)
    seen, unseen = np.arange(SEEN), np.arange(SEEN, N)
    net = make_network(branch, store, cfg, 0)
    source, other = Labelled.of(store, seen), Labelled.of(store, unseen)
    other = Labelled(other.indices, other.y, np.linspace(.3, 1, len(unseen)).astype(np.float32))  # trusted more and less
    extra = {'dann': Dann(net.branch.D, 0), 'shot': Shot(), None: None}[added]
    first, pseudo = (other, None) if added == 'shot' else (source, other)
    rows = fit(net, branch, store, first, cfg, 0, pseudo, eta=.5, steps=STEPS, state=state, max_batches=stop, extra=extra)
    return net, rows, predict(net, branch, store, np.arange(N), cfg, batch=8)


def plant(fault):
    "One of the mistakes that several processes invite; or, for comparison, no mistake but another way of adding up."
    from mgr_paper.training import devices
    if fault == 'norm': devices.Share.batch_norm = lambda self, *args, **kwargs: torch.nn.functional.batch_norm(*args, **kwargs)
    elif fault == 'draws':  # every share draws as if it were the whole batch
        devices.Share.draw = lambda self, make, shape: make(tuple(shape))
    elif fault == 'gradient': devices.Gather.backward = staticmethod(lambda ctx, grad: (grad[ctx.own], None))
    elif fault == 'rounding': torch.backends.mkldnn.enabled = False  # no fault: other kernels, which add in another order
    elif fault == 'same-norm':  # no fault: one process with the batch norm that several use, which adds in double precision
        torch.distributed.all_reduce = lambda t: None
        plain, alone = torch.nn.functional.batch_norm, devices.Share.of([1], 0, 1)
        torch.nn.functional.batch_norm = lambda x, m, v, w=None, b=None, training=False, *more: (
            alone.batch_norm if training else plain)(x, m, v, w, b, training, *more)
    elif fault == 'frames':
        plain = train.read_clips
        train.read_clips = lambda store, name, i, random=None, *, cfg, rows=None: (
            plain(store, name, i if rows is None else np.asarray(i)[rows], random, cfg=cfg))
    else: raise SystemExit(f'no fault {fault!r}')


def main(store, out, *cases):
    store, out = ClipStore(store), Path(out)
    for case in cases:
        name, _, fault = case.partition(':')
        for f in filter(None, fault.split('+')): plant(f)  # stands for the cases after it too
        first = {f'grad.{k}': p.grad.numpy() for k, p in train_once(name, store, stop=1)[0].named_parameters() if p.grad is not None}
        net, rows, logits = train_once(name, store)
        if int(os.environ.get('RANK', 0)) == 0:
            np.savez(out/f"{case.replace(':', '-')}.npz", logits=logits, **first, **{k: v.numpy() for k, v in net.state_dict().items()})
            (out/f"{case.replace(':', '-')}.json").write_text(json.dumps(rows))


if __name__ == '__main__': main(*sys.argv[1:])
