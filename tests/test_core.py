"Contracts of core that only show across processes."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mgr_paper.core import MgrError, atomic_path, choose, fingerprint, rng, root

ROOT = Path(__file__).resolve().parent.parent


def python(code, **env):
    env = {**os.environ, **env}
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, env=env, check=True)


def test_streams_and_fingerprints_do_not_depend_on_the_process():
    code = ("from mgr_paper.core import rng, fingerprint; import numpy as np; "
            "print(rng(3, 'camera', 1).random(3).tolist(), fingerprint({'b': {'x', }.__len__(), 'a': np.arange(4.)}))")
    assert len({python(code, PYTHONHASHSEED=str(s)).stdout for s in range(3)}) == 1


def test_streams_with_other_names_or_seeds_differ():
    names = ((0, 'a'), (1, 'a'), (0, 'b'), (0, 'a', 1), (0, 'a', '1', 2), (0,), (0, 'a1'))
    streams = [rng(*a).integers(0, 2**62) for a in names]
    assert len(set(streams)) == len(streams)


def test_a_killed_writer_leaves_nothing_under_the_final_name(tmp_path):
    final = tmp_path/'out.bin'
    code = f'''
import time
from mgr_paper.core import atomic_path
with atomic_path({str(final)!r}) as tmp:
    f = open(tmp, 'wb')
    print('open', flush=True)
    while True: f.write(b'x'*1000); f.flush()
'''
    p = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == 'open\n'
    time.sleep(0.05); p.send_signal(signal.SIGKILL); p.wait(); p.stdout.close()
    assert not final.exists() and len(list(tmp_path.iterdir())) == 1
    with atomic_path(final) as tmp: tmp.write_bytes(b'whole')
    assert final.read_bytes() == b'whole'


def test_two_writers_at_once_leave_one_whole_file(tmp_path):
    final = tmp_path/'a.txt'
    with atomic_path(final) as one, atomic_path(final) as two:
        one.write_text('one'*100); two.write_text('two'*100)
    assert final.read_text() in ('one'*100, 'two'*100) and [p.name for p in tmp_path.iterdir()] == ['a.txt']


@pytest.mark.parametrize('env,quiet', [({'MGR_BATCH': '1'}, True), ({'IN_TEST': '1'}, True), ({}, False)])
def test_progress_is_silent_only_in_batches_and_tests(env, quiet):
    base = {'MGR_BATCH': '', 'IN_TEST': '', **env}
    code = "from mgr_paper.core import progress; assert list(progress(range(3), 'counting')) == [0, 1, 2]"
    done = python(code, **base)
    assert (done.stderr == '') is quiet and ('counting' in done.stderr) is not quiet


def test_root(tmp_path, monkeypatch):
    monkeypatch.delenv('MGR_ROOT', raising=False)
    monkeypatch.chdir(ROOT/'nbs'/'1_preprocessing'); assert root() == ROOT
    monkeypatch.chdir(tmp_path); assert root() == tmp_path.resolve()
    monkeypatch.setenv('MGR_ROOT', str(ROOT)); assert root() == ROOT


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=10), min_size=1, max_size=5))
def test_choose_accepts_exactly_what_is_known(value, known):
    if value in known: assert choose(value, known, 'thing') == value
    else:
        with pytest.raises(MgrError) as e: choose(value, known, 'thing')
        assert '\n' not in str(e.value) and 'unknown thing' in str(e.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3), max_leaves=8))
def test_fingerprint_sees_content_not_order(x):
    y = {'k': x, 'z': 1}
    assert fingerprint(y) == fingerprint(dict(reversed(y.items()))) != fingerprint({'k': [x, x], 'z': 1})


def test_fingerprint_sees_every_byte_of_an_array():
    x = np.arange(12, dtype=np.int16).reshape(3, 4)
    names = {fingerprint(x)}
    for i in range(12):
        z = x.copy(); z.flat[i] += 1; names.add(fingerprint(z))
    assert len(names) == 13
