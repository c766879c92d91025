"A record is whole or refused; scores hold nothing that could run."
import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from mgr_paper.config import names, override, sources, tier_config, to_dict
from mgr_paper.core import MgrError
from mgr_paper.records import (DATA_FIELDS, FIELDS, check_parameters, load_scores, now, read_record, read_records,
                               save_scores, write_record)

CFG = tier_config('smoke', 'synth')
GOOD = dict(experiment='t0', row='joint', tier='smoke', seed=1, split='subjects', branch='joint', method='source',
            round=0, data=dict(name='synth', fingerprint='f'*16, simulated=True, video_kind='rgb'), config=to_dict(CFG),
            metrics={'top1': 0.5}, per_class=[], extra={}, n=4, started=now(), seconds=1.5, schema=1,
            parameters_requested={'seed': 1}, git={'commit': '', 'dirty': False},
            versions={'python': '3'}, device='cpu')


def test_round_trip(tmp_path):
    assert set(GOOD) == set(FIELDS)
    assert write_record(tmp_path/'a.json', **GOOD) == read_record(tmp_path/'a.json') == GOOD
    assert [p.name for p in tmp_path.iterdir()] == ['a.json']


@pytest.mark.parametrize('field', FIELDS)
def test_a_stored_record_without_a_field_is_refused(tmp_path, field):
    (tmp_path/'a.json').write_text(json.dumps({k: v for k, v in GOOD.items() if k != field}))
    said = 'not a record' if field == 'schema' else f'lacks {field}'
    with pytest.raises(MgrError, match=said): read_record(tmp_path/'a.json')
    with pytest.raises(MgrError, match='a.json'): read_records(tmp_path)


@pytest.mark.parametrize('field', FIELDS)
def test_a_wrong_type_is_refused_and_leaves_no_file(tmp_path, field):
    wrong = {'seconds': ['x']}.get(field, 3 if FIELDS[field] is str else 'x')
    with pytest.raises(MgrError): write_record(tmp_path/'a.json', **{**GOOD, field: wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('field', DATA_FIELDS)
def test_data_is_complete(tmp_path, field):
    data = {k: v for k, v in GOOD['data'].items() if k != field}
    with pytest.raises(MgrError, match=f'lacks {field}'): write_record(tmp_path/'a.json', **{**GOOD, 'data': data})


@pytest.mark.parametrize('name', names(CFG))
def test_a_request_is_compared_with_the_config(name):
    "For each setting: a request that arrived passes, one that did not is refused."
    other = {**GOOD, 'parameters_requested': {name: 'other'}}
    with pytest.raises(MgrError, match='was requested as'): check_parameters(other)
    fits = (v for n, v, *_ in sources(CFG) if set(name.split('.')) <= set(n.split('.')))
    value = next(fits)  # of a family: one member's value
    record = {**GOOD, 'config': to_dict(override(CFG, {name: value})), 'split': CFG.split}
    check_parameters({**record, 'parameters_requested': {name: json.loads(json.dumps(value))}})


def test_a_request_no_setting_knows_is_refused():
    record = {**GOOD, 'parameters_requested': {'leraning_rate': 1}}
    with pytest.raises(MgrError, match='no setting has that name'): check_parameters(record)


def test_scores_with_pickles_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self): return (open, (str(tmp_path/'ran'), 'w'))
    good = tmp_path/'good.npz'
    save_scores(good, np.zeros((2, 3)), [0, 1], list('ab'), list('ab'), list('ab'), 'test')
    names_ = {n: zipfile.ZipFile(good).read(n) for n in zipfile.ZipFile(good).namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, dict(descr='|O', fortran_order=False, shape=(1,)))
    with zipfile.ZipFile(tmp_path/'bad.npz', 'w') as z:
        for n, b in (names_ | {'logits.npy': header.getvalue()+pickle.dumps(Bomb())}).items(): z.writestr(n, b)
    with pytest.raises(MgrError, match='missing or damaged'): load_scores(tmp_path/'bad.npz')
    assert not (tmp_path/'ran').exists()


def test_scores_survive_any_cut(tmp_path):
    path = tmp_path/'s.npz'
    logits = np.random.default_rng(0).normal(size=(5, 4))
    save_scores(path, logits, np.arange(5) % 4, list('abcde'), list('ssttt'), list('vvvvv'), 'val')
    whole = path.read_bytes()
    for n in range(0, len(whole), 97):
        path.write_bytes(whole[:n])
        with pytest.raises(MgrError): load_scores(path)
