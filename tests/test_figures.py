"Every figure: something is drawn, no label is cut or overlaps its neighbour, and the bytes repeat."
import numpy as np
import pytest
from PIL import Image

from mgr_paper.core import MgrError
from mgr_paper.evidence.adaptation_figures import rounds_figure
from mgr_paper.evidence.clip_figures import strip_figure
from mgr_paper.evidence.figures import (COLOURS, canvas, caption, confusion_figure, cut_labels, figure_files,
                                        long_tail_figure, reliability_figure, save_figure)
from mgr_paper.evidence.metrics import class_groups, confusion
from mgr_paper.evidence.pipeline_figure import Drawn, pipeline_figure
from mgr_paper.fusion.calibrate import ece, reliability, softmax
from mgr_paper.preprocessing.layouts import layout

BODY = layout('kinect20')
NAMES = [f'a class with a rather long name {i}' for i in range(32)]


def arrays(K=32):
    g = np.random.default_rng(0)
    y = np.r_[np.arange(K), g.choice(K, 400, p=np.geomspace(50, 1, K)/np.geomspace(50, 1, K).sum())]
    logits = 2*g.normal(size=(len(y), K)) + 3*np.eye(K)[y]
    return g, y, logits


def tail(K=32, **kw):
    counts = np.geomspace(4000, 2, K).astype(int)
    weights = {'square root': counts**-.5, 'inverse': 1/counts}
    return long_tail_figure(counts, weights, NAMES[:K], class_groups(counts), **kw)


def mixed(K=32, **kw):
    _, y, logits = arrays(K)
    return confusion_figure(confusion(y, logits.argmax(1), K), NAMES[:K], **kw)


def honest(branches=('joint', 'heatmap', 'depth', 'vote'), **kw):
    _, y, logits = arrays(6)
    raw, cool = softmax(logits), softmax(logits, 2.)
    one = dict(before=reliability(raw, y), after=reliability(cool, y), T=2., ece=(ece(raw, y), ece(cool, y)))
    return reliability_figure({b: one for b in branches}, **kw)


def rounds(R=2, **kw):
    up = lambda v: np.stack([v + .02*np.arange(R + 1)]*3, 1) + [0, -.03, .03]
    return rounds_figure({b: up(.5 + .05*i) for i, b in enumerate(COLOURS)}, dict(self=[.8]*(R + 1), oracle=[.8, .9]),
                         np.linspace(.99, 1, R), np.linspace(1, .99, R), **kw)


def clip(T=9):
    g = np.random.default_rng(1)
    joints = np.concatenate([g.uniform(5, 40, (T, 20, 2)), g.integers(0, 2, (T, 20, 1))], -1)
    return joints, g.integers(0, 255, (T, 48, 64, 3), np.uint8), g.random((T, 28, 28))


def strip(**kw):
    joints, frames, maps = clip()
    return strip_figure({'frames': frames, 'depth': frames[..., :1], 'joints': (joints, BODY), 'heatmaps': maps}, **kw)


def pipeline(**kw):
    joints, frames, maps = clip()
    drawn = Drawn(frames, joints, BODY, maps, maps[0], (10, 5, 40, 35), frames[:, 5:35, 10:40])
    return pipeline_figure(drawn, ('joint', 'heatmap', 'swin'), **kw)


FIGURES = [tail, mixed, honest, rounds, strip, pipeline]
TITLE = 'A title that is long enough to need a second line in the narrower of the figures'
NOTE = caption(1435, 8, 3, 'A long note: ' + 'mean over splits and seeds with intervals over people and videos, ' * 4)


@pytest.mark.parametrize('draw', FIGURES, ids=lambda f: f.__name__)
def test_figure(draw, tmp_path):
    fig = draw(title=TITLE, note=NOTE, simulated=True)
    assert cut_labels(fig) == []
    files = save_figure(fig, tmp_path/'a')
    assert [f.name for f in files] == ['a_simulated.svg', 'a_simulated.png']
    assert sorted(tmp_path.iterdir()) == sorted(files)
    pixels = np.asarray(Image.open(files[1]).convert('L'))
    assert .01 < (pixels < 200).mean() < .9 and pixels.shape[1] > 600
    first = [f.read_bytes() for f in files]
    assert b'simulated data' in first[0] and b'<dc:date>' not in first[0]
    again = draw(title=TITLE, note=NOTE, simulated=True)
    again.draw_without_rendering()                # as when a notebook has shown it
    assert [f.read_bytes() for f in save_figure(again, tmp_path/'a')] == first


@pytest.mark.parametrize('draw', FIGURES, ids=lambda f: f.__name__)
def test_real_data_carry_no_stamp(draw, tmp_path):
    fig = draw()
    assert 'simulated' not in fig.get_suptitle()
    assert [f.name for f in save_figure(fig, tmp_path/'b')] == ['b.svg', 'b.png']
    assert b'simulated data' not in (tmp_path/'b.svg').read_bytes()


def overlapping(axis):
    "Pairs of neighbouring tick labels whose boxes meet."
    boxes = [t.get_window_extent() for t in axis.get_ticklabels() if t.get_text()]
    return [(a, b) for a, b in zip(boxes, boxes[1:]) if a.overlaps(b)]


@pytest.mark.parametrize('K', [2, 5, 17, 27, 32])
@pytest.mark.parametrize('draw', [tail, mixed], ids=lambda f: f.__name__)
def test_class_names_are_readable(draw, K):
    fig = draw(K)
    assert cut_labels(fig) == []
    for ax in fig.axes: assert not overlapping(ax.xaxis) and not overlapping(ax.yaxis)


@pytest.mark.parametrize('branches', [('joint',), tuple(COLOURS)], ids=len)
def test_any_number_of_branches(branches):
    assert cut_labels(honest(branches)) == []


@pytest.mark.parametrize('R', [1, 2, 5])
def test_any_number_of_rounds(R):
    assert cut_labels(rounds(R)) == []


def test_a_failed_save_leaves_nothing(tmp_path):
    fig = canvas(3, 2, 'broken')
    fig.text(.5, .5, r'$\frac{$')
    with pytest.raises(ValueError): save_figure(fig, tmp_path/'c')
    assert not list(tmp_path.iterdir())
    assert figure_files(tmp_path/'c.v1')[0].name == 'c.v1.svg'


def test_wrong_input_is_named():
    with pytest.raises(MgrError, match='joint'): rounds_figure({'jont': [.1, .2]}, {}, [.5], [.9])
    with pytest.raises(MgrError, match='without frames'): strip_figure({'frames': np.zeros((0, 4, 4))})
