"""Every picture can be read: nothing cut off, nothing over something else, ink that stands out, by every eye, in print and on a
dark page; for real sizes and for hostile ones."""
import base64
import importlib
import io
import itertools
import json
import pkgutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image, ImageCms

import mgr_paper.evidence
from mgr_paper.core import MgrError
from mgr_paper.evidence.adaptation_figures import break_even_figure, rounds_figure, threshold_figure
from mgr_paper.evidence.clip_figures import crop_figure, heatmap_figure, skeleton_figure, strip_figure
from mgr_paper.evidence.figures import (COLOURS, GROUPS, INKS, MARKERS, SIGNS, canvas, caption, confusion_figure, cut_labels, drawn_texts,
                                        ink, ink_on, long_tail_figure, reliability_figure, save_figure, settle, style)
from mgr_paper.evidence.fusion_figures import SHORT, diversity_figure, significance_figure
from mgr_paper.evidence.geometry_figures import embedding_figure, feature_figure, phrase_figure
from mgr_paper.evidence.metrics import class_groups
from mgr_paper.evidence.people_figures import contrast_figure, cost_figure, people_figure
from mgr_paper.evidence.pipeline_figure import Answers, Drawn, Labels, pipeline_figure
from mgr_paper.evidence.predict import NO_CALL, NOBODY, timeline_figure
from mgr_paper.evidence.stats import Interval
from mgr_paper.preprocessing.layouts import PART_COLOUR, layout, rest_pose

ROOT = Path(__file__).resolve().parent.parent
DARK = (17, 17, 17)  # a dark page


# ---- the checker ---------------------------------------------------------------------------------------------------
def linear(rgb):
    "sRGB in [0,1] -> light."
    rgb = np.asarray(rgb, float)
    return np.where(rgb <= .04045, rgb/12.92, ((rgb + .055)/1.055)**2.4)


def luminance(rgb): return linear(rgb) @ (.2126, .7152, .0722)


def contrast(a, b):
    "Of two luminances, as WCAG counts it: 1 to 21."
    low, high = np.minimum(a, b), np.maximum(a, b)
    return (high + .05)/(low + .05)


def pixels(fig):  # (H,W,4) in [0,1], the first row on top
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())/255


def region(picture, box):  # the pixels of a box in display coordinates
    H, W = picture.shape[:2]
    x0, x1, y0, y1 = (int(np.clip(v, 0, m)) for v, m in ((box.x0, W), (box.x1 + 1, W), (H - box.y1, H), (H - box.y0 + 1, H)))
    return picture[y0:y1, x0:x1, :3].reshape(-1, 3)


def legible(fig, smallest=6.):
    "What a reader could not read, as a list of complaints; empty where all is well."
    with mpl.rc_context(style()):
        said = [f'cut off: {t!r}' for t in cut_labels(fig)]
        whole, texts = pixels(settle(fig)), drawn_texts(fig)
        said += [f'text of {t.get_fontsize():.1f} points: {t.get_text()!r}' for t in texts if t.get_fontsize() < smallest]
        boxes = [t.get_window_extent().padded(-1) for t in texts]
        said += [f'{a.get_text()!r} overlaps {b.get_text()!r}' for (a, p), (b, q) in itertools.combinations(list(zip(texts, boxes)), 2)
                 if p.overlaps(q)]
        if whole[..., 3].min() < 1: said.append('not opaque: its look depends on the page')
        if not .002 < (luminance(whole[..., :3]) < .7).mean() < .95: said.append('blank')
        legends = [k for k in (*fig.legends, *(ax.get_legend() for ax in fig.axes)) if k]
        frames = [k.get_window_extent() for k in legends]
        hidden = [a for a in (*fig.findobj(mpl.text.Text), *legends) if a.get_visible()]
        for a in hidden: a.set_visible(False)
        ground = pixels(fig)  # without any word
        for a in hidden: a.set_visible(True)
    for box in frames:
        if (luminance(region(ground, box)) < .6).mean() > .004: said.append('a legend lies on data')
    for text, box in zip(texts, boxes):
        behind = luminance(region(ground, box))
        poor = (contrast(behind, luminance(mpl.colors.to_rgb(text.get_color()))) < 4.5).mean() if len(behind) else 0
        if poor > .12: said.append(f'{text.get_text()!r} does not stand out from {poor:.0%} of its ground')
    for ax in fig.axes:
        if ax.axison and ax.has_data() and not np.ptp(region(whole, ax.get_window_extent()), 0).any(): said.append(f'empty axes {ax.get_title()!r}')
    return said


def plain(): return canvas(4, 2, 'A title', 'A note.')


def test_the_checker_finds_what_it_looks_for():
    with mpl.rc_context(style()):
        fig = plain()
        fig.subplots().plot([0, 1], label='line')
        assert legible(fig) == []
        for spoil, word in ((lambda f: f.text(.97, .5, 'far too long'), 'cut off'), (lambda f: f.text(.01, .97, 'on the title', va='top'), 'overlaps'),
                            (lambda f: f.axes[0].text(.2, .8, 'tiny', fontsize=4), 'points'), (lambda f: f.axes[0].text(.2, .8, 'pale', color='#bbbbbb'), 'stand out'),
                            (lambda f: f.axes[0].text(.5, 0, 'struck through', va='center') and f.axes[0].axhline(0, color='#00549E', lw=2), 'stand out'), (lambda f: f.set_facecolor('none'), 'opaque'),
                            (lambda f: f.axes[0].legend(loc='center'), 'legend lies')):
            fig = plain()
            fig.subplots().plot([0, 1], lw=3, color='#00549E', label='line')
            spoil(fig)
            assert word in ' '.join(legible(fig)), (word, legible(fig))
        assert 'blank' in legible(canvas(3, 2, ''))


# ---- what is drawn -------------------------------------------------------------------------------------------------
LONG = [f'touching or covering {part} with {hand}' for part in ('the suprasternal notch', 'the forehead', 'the hair', 'an ear', 'a $ sign_and^more')
        for hand in ('the left hand', 'the right hand', 'both hands', 'a thing held', 'one finger', 'a sleeve', 'the chin', 'hands & feet', 'a cup',
                     'its whole palm', 'two fingers of the other hand')][:52]
BODY, STREAMS = layout('halpe68'), ('joint', 'heatmap', 'r2plus1d', 'equal vote')
draw = lambda seed=0: np.random.default_rng(seed)


def joints(T=24, size=(90, 160), missing=.3):
    g = draw()
    xy = rest_pose(BODY)[:, :2]*size[0]*.2 + (size[1]/2, size[0]*.3) + g.normal(0, 1, (T, BODY.V, 2))
    return np.concatenate([xy, g.random((T, BODY.V, 1)) > missing], -1)


def clip(T=24, size=(90, 160), channels=3):
    return draw(1).integers(0, 255, (T, *size, channels)).astype(np.uint8)


def unseen_at_first():
    j = joints()
    j[:8, :, 2] = 0
    return j


def calls(names, n=40):
    call = [names[i*len(names)//n] for i in range(n)]
    conf = np.where(np.array(call) == NOBODY, np.nan, draw().random(n))
    return pd.DataFrame({'from': np.arange(n)*.5, 'to': np.arange(n)*.5 + .5, 'call': call, 'confidence': conf})


def confused(names):
    K = len(names)
    return confusion_figure(np.eye(K, dtype=int)*9 + draw().integers(0, 3, (K, K))*(draw(1).random((K, K)) < .1), names, note=NOTE)


def calibrated(branches, n=40):
    rows = [dict(n=int(k), conf=(i + .5)/10, acc=min(1., (i + .9)/10)) for i, k in enumerate(np.linspace(0, n, 10))]
    one = dict(before=rows, after=rows, T=.87, ece=((.053, .041, .066), (.02, .01, .03)))
    return reliability_figure({b: one for b in branches}, note=NOTE)


def embedded(N, names, **kw):
    y = draw().integers(0, len(names), N)
    return embedding_figure(draw(1).normal(size=(len(names), 16))[y] + .4*draw(2).normal(size=(N, 16)), y, names, note=NOTE, **kw)


def gained(people, streams=STREAMS, methods=('CMPL, round 2',), seen=()):
    lines = {s: ({f's{p}': (.5 + .03*p % .4, .5 + .04*p % .4) for p in range(people)}, Interval(.012, -.02, .05, people, 100)) for s in streams}
    return people_figure({m: lines for m in methods}, dict.fromkeys(seen, .7), note=NOTE)


def method(branches, names, trained=True, adapted=True, size=(90, 160)):
    g = draw()
    given = Drawn(clip(size=size), joints(size=size), BODY, g.random((24, 28, 28)), g.random((30, 40)), (20, 5, 80, 65), clip(size=(64, 64)))
    if not trained: return pipeline_figure(given, branches)
    probs = {b: np.roll(np.geomspace(1, .01, len(names)), 1)/np.geomspace(1, .01, len(names)).sum() for b in branches}
    answers = Answers(tuple(names), 0, probs, probs[branches[0]], dict.fromkeys(branches, 1.234), dict.fromkeys(branches, 1/len(branches)))
    labels = Labels(0, .4, .95, 1, 2, False, 1234, 18000, .8, dict.fromkeys(branches, .5)) if adapted else None
    return pipeline_figure(given, branches, answers, labels, note=NOTE, simulated=True)


def tail(names):
    counts = np.geomspace(40000, 1, len(names)).astype(int)
    weights = {f'weighting number {k}': counts**(-k/4) for k in range(7)}
    return long_tail_figure(counts, weights, names, class_groups(counts), note=NOTE)


def rounds(R, streams=tuple(COLOURS)):
    up = lambda v: np.stack([v + .02*np.arange(R + 1)]*3, 1) + [0, -.03, .03]
    controls = dict(self=[.7]*(R + 1), continued=[.69]*(R + 1), oracle=[.7, .95])
    return rounds_figure({b: up(.5 + .04*i) for i, b in enumerate(streams)}, controls, np.linspace(.5, 1, R), np.linspace(1, .9, R), note=NOTE)


def phrases(names):
    E = draw().normal(size=(len(names), 60)) + 1
    E /= np.linalg.norm(E, axis=1, keepdims=True)
    return phrase_figure({'phrases as embedded': E @ E.T, 'made orthogonal': np.eye(len(names))}, names, 'Class phrases', NOTE)


def features(branches, K, ran=('cross-entropy', '+ weights', '+ OSE', '+ both')):
    one = lambda: np.clip(.5 + .5*np.eye(K) + .1*draw().normal(size=(K, K)), -1, 1)
    return feature_figure({b: {n: [one()] if n in ran else [] for n in ('cross-entropy', '+ weights', '+ OSE', '+ both')} for b in branches}, 'Features', NOTE)


def swept(gains):
    tau = np.round(np.arange(.3, .96, .05), 2)
    cover = np.linspace(.95, .5, len(tau))
    one = lambda k: dict(coverage=cover - k, precision=.97 - .1*cover - k, stream=.7 - k, worth=.1*cover + k)
    rows = {s: np.array([[t, 2., 1., 3.] for t in (.3, .6, .9)]) for s in gains}
    return threshold_figure(tau, {'held-out source people': one(.15), 'test people': one(0)}, [.6, .7], rows, note=NOTE)


def broken_even(panels, ran=2):
    a = np.array([.3, .6, 1.])
    one = dict(accuracy=a, gains={s: np.stack([20*a - 8, 20*a - 10, 20*a - 6], 1) + i for i, s in enumerate(STREAMS)},
               breaks={s: (.4, .35, .5) for s in STREAMS}, own={s: (.93, 3 + i) for i, s in enumerate(STREAMS)})
    none = dict(accuracy=np.array([]), gains={}, breaks={})
    return break_even_figure([dict(title=f'uniform, panel {i}', **(one if i < ran else none)) for i in range(panels)], note=NOTE)


def compared(methods):
    names, g = list(SHORT)[:methods], draw()
    rows = [dict(stream=s, a=a, b=b, difference=d, low=d - .02, high=d + .02, **{'p (Holm)': .01 if d > .08 else .5})
            for s in (*STREAMS, 'tuned vote') for j, b in enumerate(names) for a in names[j + 1:] for d in [g.normal(.01, .05)]]
    return significance_figure(pd.DataFrame(rows), note=NOTE)


def diverse(protocols, methods):
    i, g = lambda v, h=.02: Interval(v, v - h, v + h, 8, 400), draw()
    one = lambda d: dict(rho=(i(.3), i(.3 + d[0]), i(d[0])), mean_stream=(i(.8), i(.8 + d[1]), i(d[1])), equal_vote=(i(.9), i(.9 + d[2]), i(d[2])))
    return diversity_figure({f'protocol {p}': {m: one(g.normal(0, .1, 3)) for m in list(SHORT)[1:methods + 1]} for p in range(protocols)}, note=NOTE)


def costly(branches, memory=True):
    row = lambda i: dict(score=Interval(.7 + .02*i, .65 + .02*i, .9, 8, 400), seconds=(50*1.7**i, 45*1.7**i, 58*1.7**i), parameters=(1e5*2**i,)*3,
                         peak_mb=(500*1.3**i,)*3 if memory else (np.nan,)*3)
    return cost_figure({b: row(i) for i, b in enumerate(branches)}, note=NOTE)


def faint(contrasts):
    line = lambda top: [Interval(top*c, top*c - .04, top*c + .04, 14, 600) for c in contrasts]
    streams = ('joint', 'heatmap', 'r2plus1d', 'vote')
    return contrast_figure(contrasts, {s: line(.5 + .04*i) for i, s in enumerate(streams)}, {s: line(.55 + .04*i) for i, s in enumerate(streams)},
                           {'precision': line(.9), 'coverage': line(.6)}, note=NOTE)


NOTE = caption(18435, 72, 5, 'Splits even-odd-longtail, odd-even-longtail; ' + 'mean over splits and seeds with 95 % intervals over people, ' * 3)
GIVEN = [f'class {i}' for i in range(5)]
CASES = {
    'skeleton': lambda: skeleton_figure(joints(), BODY, note=NOTE, simulated=True), 'skeleton of one frame': lambda: skeleton_figure(joints(1), BODY, columns=3),
    'skeleton not seen at first': lambda: skeleton_figure(unseen_at_first(), BODY, columns=10, title=LONG[0]),
    'heatmap': lambda: heatmap_figure(draw().random((24, 28, 28, 68)), BODY, note=NOTE, simulated=True),
    'heatmap of one frame': lambda: heatmap_figure(np.zeros((1, 14, 14, 68)), BODY, shown=(), columns=3),
    'crop': lambda: crop_figure(clip(), draw().random((9, 16)), (20, 5, 90, 75), clip(size=(64, 64)), note=NOTE, simulated=True),
    'crop of tall depth': lambda: crop_figure(clip(size=(160, 90), channels=1), draw().random((16, 9)), (2, 5, 90, 95), clip(size=(64, 64), channels=1), columns=3),
    'strip': lambda: strip_figure({'frames': clip(), 'depth': clip(channels=1), 'joints': (joints(), BODY), 'heatmaps': draw().random((24, 28, 28))}, note=NOTE),
    'timeline': lambda: timeline_figure(calls(['fold arm', NO_CALL, 'rub hand', NOBODY, 'fold arm', 'scratch arm']), .5, 'Gestures in a$b$c.mp4', NOTE, True),
    'timeline of 52': lambda: timeline_figure(calls(LONG, 104), 1.5, LONG[0], NOTE), 'timeline of one window': lambda: timeline_figure(calls([NO_CALL], 1), .5),
    'timeline of nobody': lambda: timeline_figure(calls([NOBODY], 9), .5),
    'confusion': lambda: confused([f'gesture {i}' for i in range(32)]), 'confusion of 52': lambda: confused(LONG), 'confusion of one': lambda: confused(LONG[:1]),
    'confusion of two': lambda: confused(['a', 'b']),
    'reliability': lambda: calibrated(('joint', 'heatmap', 'r2plus1d'), 400), 'reliability of all': lambda: calibrated(tuple(COLOURS)),
    'reliability of one': lambda: calibrated(('joint',), 5),
    'embedding': lambda: embedded(300, [f'gesture {i}' for i in range(32)]), 'embedding of 52': lambda: embedded(900, LONG),
    'embedding of one class': lambda: embedded(9, LONG[:1]), 'embedding of chosen ones': lambda: embedded(99, LONG[:9], shown=(1, 3)),
    'slopes': lambda: gained(14, methods=('CMPL, round 2', 'self-training', 'continued source training'), seen=STREAMS),
    'slopes of one person': lambda: gained(1, ('joint',)), 'slopes of many': lambda: gained(72, (*COLOURS, 'equal vote', 'tuned vote'), tuple(SHORT)[:6]),
    'pipeline': lambda: method(('joint', 'heatmap', 'r2plus1d'), GIVEN), 'pipeline of four': lambda: method(('joint', 'heatmap', 'swin', 'r2plus1d'), LONG),
    'pipeline of one': lambda: method(('joint',), LONG[:1]), 'pipeline of two, tall': lambda: method(('joint', 'heatmap'), GIVEN, size=(160, 90)),
    'pipeline, not trained': lambda: method(('joint', 'heatmap', 'depth'), GIVEN, trained=False), 'pipeline, not adapted': lambda: method(('joint', 'heatmap', 'depth'), LONG, adapted=False),
    'long tail': lambda: tail([f'gesture {i}' for i in range(32)]), 'long tail of 52': lambda: tail(LONG), 'long tail of one': lambda: tail(LONG[:1]),
    'rounds': lambda: rounds(2), 'rounds of five': lambda: rounds(5), 'one round of one': lambda: rounds(1, ('vote',)),
    'phrases': lambda: phrases([f'gesture {i}' for i in range(27)]), 'phrases of 52': lambda: phrases(LONG), 'phrases of two': lambda: phrases(LONG[:2]),
    'features': lambda: features(('joints', 'heatmaps', 'depth'), 32), 'features, some': lambda: features(('joints',), 52, ('+ OSE',)), 'features, none': lambda: features(('joints',), 5, ()),
    'threshold': lambda: swept(STREAMS), 'threshold, no gains': lambda: swept(()),
    'break-even': lambda: broken_even(4), 'break-even, none': lambda: broken_even(2, 0), 'break-even of all': lambda: broken_even(4, 4),
    'significance': lambda: compared(5), 'significance of two': lambda: compared(2), 'significance of nine': lambda: compared(9),
    'diversity': lambda: diverse(3, 10), 'diversity of one': lambda: diverse(1, 1), 'diversity of all': lambda: diverse(2, 13),
    'cost': lambda: costly(('joint', 'heatmap', 'r2plus1d', 'vote')), 'cost without memory': lambda: costly(tuple(COLOURS), False), 'cost of one': lambda: costly(('joint',)),
    'contrast': lambda: faint([.35, .5, .7, 1.]), 'contrast of one': lambda: faint([1.]), 'contrast of none': lambda: contrast_figure([], {}, {}, {}, note=NOTE),
}


@pytest.mark.parametrize('case', CASES)
def test_a_picture_can_be_read(case):
    fig = CASES[case]()
    assert legible(fig) == []


EMPTY = {
    skeleton_figure: lambda: skeleton_figure(np.zeros((0, 68, 3)), BODY), heatmap_figure: lambda: heatmap_figure(np.zeros((0, 28, 28, 68)), BODY),
    crop_figure: lambda: crop_figure(clip(0), np.ones((9, 16)), (0, 0, 9, 9), clip(0)), strip_figure: lambda: strip_figure({}),
    timeline_figure: lambda: timeline_figure(calls([NO_CALL])[:0], .5), confusion_figure: lambda: confusion_figure(np.zeros((0, 0)), []),
    reliability_figure: lambda: reliability_figure({}), embedding_figure: lambda: embedding_figure(np.zeros((0, 4)), [], ['a']),
    people_figure: lambda: people_figure({}), pipeline_figure: lambda: method((), GIVEN, trained=False), long_tail_figure: lambda: long_tail_figure([], {}, [], []),
    rounds_figure: lambda: rounds_figure({}, {}, [], []), phrase_figure: lambda: phrase_figure({}, [], 'x'), feature_figure: lambda: feature_figure({}, 'x'),
    threshold_figure: lambda: threshold_figure([], {}, [], {}), break_even_figure: lambda: break_even_figure([]),
    significance_figure: lambda: significance_figure(pd.DataFrame(dict(stream=[], a=[], b=[]))), diversity_figure: lambda: diversity_figure({}),
    cost_figure: lambda: cost_figure({}),
}
SAYS_SO = {contrast_figure}  # draws 'not run': its notebook writes the file in any case


@pytest.mark.parametrize('function', EMPTY, ids=lambda f: f.__name__)
def test_nothing_to_draw_is_said_in_one_line(function):
    with pytest.raises(MgrError) as e: EMPTY[function]()
    assert '\n' not in str(e.value)


def test_every_figure_function_is_looked_at():
    found = set()
    for m in pkgutil.iter_modules(mgr_paper.evidence.__path__):
        room = importlib.import_module(f'mgr_paper.evidence.{m.name}')
        found |= {f for name in room.__all__ if name.endswith('_figure') and name != 'save_figure' for f in [getattr(room, name)] if callable(f)}
    assert found == set(EMPTY) | SAYS_SO


# ---- eyes, print and pages ------------------------------------------------------------------------------------------
MACHADO = {  # at full severity, on light; Machado, Oliveira and Fernandes, IEEE TVCG 15 (2009), table 1
    'normal': np.eye(3),
    'protanopia': [[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
    'deuteranopia': [[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
    'tritanopia': [[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]]}
TO_LAB = ImageCms.buildTransform(ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB'), 'RGB', 'LAB')


def seen_as(rgb, kind):
    "sRGB in [0,1] as an eye of this kind sees it."
    light = np.clip(linear(rgb) @ np.array(MACHADO[kind]).T, 0, 1)
    return np.where(light <= .0031308, 12.92*light, 1.055*light**(1/2.4) - .055)


def lab(rgb):
    "(n,3) sRGB in [0,1] -> CIELAB."
    image = Image.fromarray(np.round(255*np.asarray(rgb)).astype(np.uint8)[None])
    L, *ab = np.moveaxis(np.asarray(ImageCms.applyTransform(image, TO_LAB))[0], -1, 0)
    return np.stack([L/2.55, *(c.astype(np.int8).astype(float) for c in ab)], 1)


def apart(colours, kind):
    "The nearest two of a set of colours, in units of CIELAB."
    places = lab(seen_as([mpl.colors.to_rgb(c) for c in colours], kind))
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(places, 2))


def test_the_measures_know_what_is_known():
    np.testing.assert_allclose(lab([[1, 1, 1], [0, 0, 0], [1, 0, 0]]), [[100, 0, 0], [0, 0, 0], [54, 81, 70]], atol=1)
    assert contrast(luminance((1, 1, 1)), luminance((0, 0, 0))) == pytest.approx(21)
    for kind, confused_pair in (('protanopia', ('#7F0000', '#202000')), ('deuteranopia', ('#B8A000', '#FF7F00'))):
        assert apart(confused_pair, kind) < .6*apart(confused_pair, 'normal')
    grey = np.full((1, 3), .5)
    for kind in MACHADO: np.testing.assert_allclose(seen_as(grey, kind), grey, atol=1e-3)  # nobody sees a colour in grey


@pytest.mark.parametrize('kind', MACHADO)
def test_branches_are_told_apart_by_every_eye(kind):
    assert apart(COLOURS.values(), kind) >= 18
    assert apart(GROUPS.values(), kind) >= 18
    left, right = ([PART_COLOUR[f'{side}_{part}'] for part in ('arm', 'hand')] for side in ('left', 'right'))
    assert min(apart(pair, kind) for pair in itertools.product(left, right)) >= 18


def test_branches_and_methods_are_told_apart_in_grey_print_and_stand_out():
    assert len(set(MARKERS.values())) == len(MARKERS) == len(COLOURS) and len(set(SIGNS)) == len(SIGNS)
    assert len({tuple(ink(i).values()) for i in range(len(SHORT))}) == len(SHORT) and not set(INKS) & set(COLOURS.values())
    for colour in (*COLOURS.values(), *INKS): assert contrast(luminance(mpl.colors.to_rgb(colour)), 1) >= 3, colour
    steps = np.diff(sorted(lab([mpl.colors.to_rgb(c) for c in GROUPS.values()])[:, 0]))
    assert steps.min() > 20  # bars have no marker: their greys must be apart


def test_ink_on_any_ground():
    for rgb in itertools.product(np.linspace(0, 1, 6), repeat=3):
        assert contrast(luminance(rgb), luminance(mpl.colors.to_rgb(ink_on(rgb)))) >= 4.5


def test_a_saved_figure_looks_the_same_on_a_dark_page(tmp_path):
    svg, png = save_figure(CASES['rounds'](), tmp_path/'a')
    picture = Image.open(png).convert('RGBA')
    pages = [Image.alpha_composite(Image.new('RGBA', picture.size, (*page, 255)), picture) for page in (DARK, (255, 255, 255))]
    assert pages[0].tobytes() == pages[1].tobytes()
    assert picture.getpixel((0, 0)) == (255, 255, 255, 255)
    assert 'fill: #ffffff' in svg.read_text()[:4000]  # the ground of the whole figure comes first


def test_pictures_in_notebooks_have_a_ground_of_their_own():
    for path in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in path.parts: continue
        for cell in json.loads(path.read_text())['cells']:
            for output in cell.get('outputs', ()):
                if 'image/png' not in output.get('data', {}): continue
                picture = Image.open(io.BytesIO(base64.b64decode(output['data']['image/png']))).convert('RGBA')
                assert picture.getchannel('A').getextrema() == (255, 255), f'{path.name}: transparent'
