"Benchmarks that measure when told to: at a tiny size from end to end; their pages as functions of the rows alone; what they would not let pass."
import csv
import runpy
import shutil
from pathlib import Path

import pytest
from papermill import PapermillExecutionError

from mgr_paper.batch import run_notebook
from mgr_paper.core import MgrError, root
from mgr_paper.evidence.experiments import runs

BENCHMARKS = Path(__file__).resolve().parent.parent/'nbs'/'benchmarks'
TINY = dict(tiers={'small': 'smoke', 'full': 'smoke'}, clips={'small': 3, 'full': 2}, views={'small': 2, 'full': 1},
            alone={'small': True, 'full': False}, rounds={'small': 2, 'full': 1}, threads=1)


def run(name, folder, **given):
    "Run a benchmark with its rows in a folder: what lies there then, by ending."
    run_notebook(BENCHMARKS/f'b_{name}.ipynb', folder/'log'/f'{name}.ipynb', timeout=900, rows_file=str(folder/f'{name}.csv'), **given)
    return {p.suffix: p.read_bytes() for p in folder.glob(f'{name}.*')}


def read(path):
    with open(path, newline='', encoding='utf-8') as f: return list(csv.DictReader(f))


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='', encoding='utf-8') as f:
        table = csv.DictWriter(f, rows[0])
        table.writeheader()
        table.writerows(rows)


@pytest.fixture(scope='module')
def growth(tmp_path_factory):
    folder = tmp_path_factory.mktemp('growth')
    return folder, run('growth', folder, measure=True, videos=[2, 4, 8], frames=60, clips=20., batch=4)


def test_growth_at_a_tiny_size(growth):
    folder, made = growth
    rows = read(folder/'growth.csv')
    assert set(made) == {'.csv', '.md', '.svg', '.png'} and [r['stage'] for r in rows] == ['prepare']*3 + ['train']*3
    assert [int(r['clips']) for r in rows] == [40, 80, 160, 20, 60, 140]  # one recording of each tree is in val
    for r in rows: assert float(r['seconds']) > 0 and 20 < float(r['own_mb']) <= float(r['resident_mb']) < 4000, r
    assert '| `prepare`, skeletons | 8 | 160 |' in made['.md'].decode()


def test_growth_is_drawn_from_its_rows_alone(growth, tmp_path):
    folder, made = growth
    (tmp_path/'growth.csv').write_bytes(made['.csv'])
    assert run('growth', tmp_path) == made


def test_memory_that_grows_is_found(growth, tmp_path):
    rows = read(growth[0]/'growth.csv')
    for r in rows:
        if r['stage'] == 'train': r['resident_mb'] = str(float(r['resident_mb']) + 3*int(r['clips']))
    write(tmp_path/'growth.csv', rows)
    with pytest.raises(PapermillExecutionError, match='AssertionError'): run('growth', tmp_path)
    assert 'Memory at most 1.25 times that of the smallest tree: NOT as asked for' in (tmp_path/'growth.md').read_text()


@pytest.fixture(scope='module')
def inference(tmp_path_factory):
    folder = tmp_path_factory.mktemp('inference')
    return folder, run('inference', folder, measure=True, onnx=False, **TINY)


def test_inference_at_a_tiny_size(inference):
    folder, made = inference
    rows = read(folder/'inference.csv')
    assert set(made) == {'.csv', '.md', '.svg', '.png'} and len(rows) == (5*2 + 4 + 1)*2 + 5 + 4 + 1  # torch together and alone, reading, video; two rounds
    assert '| torch | vote of four | 3 |' in made['.md'].decode() and '| torch | sum of its branches | 1 |' in made['.md'].decode()
    assert {r['at_once'] for r in rows if r['networks'] == 'full'} == {'2'} and 'frames; 1 round; threads' in made['.md'].decode()


def test_rows_of_a_size_that_is_left_out_stay(inference, tmp_path):
    shutil.copy(inference[0]/'inference.csv', tmp_path)
    run('inference', tmp_path, measure=True, onnx=False, **TINY | dict(tiers={'full': 'smoke'}))
    before, after = read(inference[0]/'inference.csv'), read(tmp_path/'inference.csv')
    assert len(before) == len(after) and [r for r in before if r['networks'] == 'small'] == [r for r in after if r['networks'] == 'small'] != []


@pytest.mark.parametrize('changes, said', [
    (dict(alone={'small': False, 'full': False}), 'small networks average several views'),
    (dict(rounds={'small': 2}), 'rounds says nothing of the full networks')])
def test_inference_refuses_what_it_could_not_compare(tmp_path, changes, said):
    with pytest.raises(MgrError, match=said): run('inference', tmp_path, measure=True, **TINY | changes)
    assert not list(tmp_path.glob('inference.*'))


def test_files_that_say_something_else_are_found(inference, tmp_path):
    rows = read(inference[0]/'inference.csv')
    files = [r | dict(engine='onnxruntime', difference='0.0002', spread='0.5') for r in rows if r['engine'] == 'torch']
    write(tmp_path/'inference.csv', rows + files)
    with pytest.raises(PapermillExecutionError, match='AssertionError'): run('inference', tmp_path)
    assert 'Largest difference of a logit or probability between torch and the files, or between clips alone and together: 0.0002' in (tmp_path/'inference.md').read_text()


@pytest.mark.slow
def test_inference_with_files(tmp_path):
    run('inference', tmp_path, measure=True, **TINY)
    rows = read(tmp_path/'inference.csv')
    assert len([r for r in rows if r['engine'] == 'onnxruntime']) == 5*2*2 + 5 and all(float(r['difference']) < 1e-4 for r in rows if r['engine'] == 'onnxruntime')


def test_a_benchmark_that_was_never_run_says_so(tmp_path):
    with pytest.raises(MgrError, match='nothing has been measured: no .*growth.csv. set measure = True'): run('growth', tmp_path)


def test_the_plan_of_the_kills_is_one(tmp_path, monkeypatch):
    "What scripts/kill.py gives `reproduce` to do can be read, and is something."
    (tmp_path/"settings.ini").write_text(runpy.run_path(str(root()/"scripts"/"kill.py"))["SETTINGS"])
    monkeypatch.setenv("MGR_ROOT", str(tmp_path))
    assert len(runs("smoke", "utd-mhad")) > 3
