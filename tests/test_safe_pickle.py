"Pickles are read as data: what honest files hold comes back, what dishonest ones ask for does not happen."
import collections, os, pickle, pickletools, struct, subprocess, sys, zlib
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.safe_pickle import dump_pickle, load_pickle

CLIP = dict(frame_dir='0001_0', label=3, img_shape=(720, 1280), score=None, ok=True, keypoint=np.arange(24, dtype='f4').reshape(1, 2, 6, 2))

class Call:
    "Pickles as a call of any function."
    def __init__(self, f, *args): self.f, self.args = f, args
    def __reduce__(self): return self.f, self.args

class Stated(Call):
    "The same, with a state set afterwards."
    def __init__(self, f, args, state): self.f, self.args, self.state = f, args, state
    def __reduce__(self): return self.f, self.args, self.state

class Plain: pass

def same(a, b):
    if isinstance(b, np.ndarray): return isinstance(a, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(b, dict): return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    if isinstance(b, (list, tuple)): return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b

def raw(tmp_path, data, name='x.pkl'):
    (tmp_path/name).write_bytes(data)
    return tmp_path/name

@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('x', [
    CLIP, [CLIP, CLIP], {'a', 'b'}, frozenset({1}), b'\x00\xff', bytearray(b'ab'), 2.5, 1 << 200, (), ([], {}), 1+2j, collections.OrderedDict(a=1, b=[2]),
    np.zeros((0, 3), 'f2'), np.array(['ab', 'c']), np.array([b'x']), np.arange(6, dtype='>i4').reshape(2, 3), np.asfortranarray(np.eye(3)[:2]),
    np.float32(.5), np.array(7), (['0001_0'], [3])], ids=lambda x: type(x).__name__)
def test_what_honest_files_hold_comes_back(tmp_path, protocol, x):
    assert same(load_pickle(raw(tmp_path, pickle.dumps(x, protocol))), x)

@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_arrays_of_old_and_new_numpy(tmp_path, protocol):
    "NumPy 1 names its module numpy.core, NumPy 2 numpy._core: the bytes are changed by hand to the other name."
    for x in (CLIP['keypoint'], np.float16(2)):
        data = pickle.dumps(x, protocol)
        old, new = data.replace(b'numpy._core', b'numpy.core'), data.replace(b'numpy.core', b'numpy._core')
        if protocol >= 4:                                   # the names carry their length, and the frame its own
            old = pickled_by_name(x, protocol, 'numpy.core'); new = pickled_by_name(x, protocol, 'numpy._core')
        assert b'numpy.core' in old and b'numpy._core' in new
        for d in (old, new): assert same(load_pickle(raw(tmp_path, d)), x)

def pickled_by_name(x, protocol, package):
    "Pickle `x`, with NumPy's inner package under the name given."
    out = bytearray()
    data = pickle.dumps(x, protocol); ops = list(pickletools.genops(data)); ends = [at for _, _, at in ops[1:]]+[len(data)]
    for (op, arg, at), end in zip(ops, ends):
        if op.name == 'FRAME': continue                     # frames are optional
        if isinstance(arg, str) and op.name == 'SHORT_BINUNICODE' and arg.startswith(('numpy._core', 'numpy.core')):
            name = (package+'.'+arg.split('.', 2)[2]).encode(); out += b'\x8c'+bytes([len(name)])+name
        else: out += data[at:end]
    return bytes(out)

def test_a_file_of_python_2(tmp_path):
    "Its strings are bytes; arrays are read through latin-1."
    data = (b'\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R'
            b'(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08'+np.array([1.5, -2], '<f4').tobytes()+b'tb.')
    assert same(load_pickle(raw(tmp_path, data)), np.array([1.5, -2], 'f4'))

def test_shared_and_circular_containers(tmp_path):
    a = [CLIP['keypoint']]; a.append(a); x = dict(one=a, two=a, t=(a, a))
    y = load_pickle(raw(tmp_path, pickle.dumps(x)))
    assert y['one'] is y['two'] is y['t'][0] is y['one'][1] and same(y['one'][0], CLIP['keypoint'])

# ------------------------------------------------------------------ what is refused

def traps(target):
    write = f'open({str(target)!r}, "w").write("x")'
    return {
        'os.system': (Call(os.system, f'touch {target}'), 'asks for posix.system'),
        'eval': (Call(eval, write), 'asks for builtins.eval'), 'exec': (Call(exec, write), 'asks for builtins.exec'),
        'open': (Call(open, str(target), 'w'), 'asks for io.open'), 'getattr': (Call(getattr, 'x', 'upper'), 'asks for builtins.getattr'),
        'subprocess': (Call(subprocess.run, ['touch', str(target)]), 'asks for'),
        'numpy.load': (Call(np.load, str(target), None, True), 'asks for numpy.load'),
        'numpy.save': (Call(np.save, str(target), 1), 'asks for numpy.save'),
        'memmap': (Call(np.memmap, str(target), 'f4', 'w+', 0, (1,)), 'asks for numpy.memmap'),
        'import': (Call(__import__, 'os'), 'asks for builtins.__import__'), 'class': (Plain(), 'asks for'),
        'inside': ([CLIP, {'x': (1, Call(os.system, f'touch {target}'))}], 'asks for posix.system'),
        'argument': (Call(dict, [Call(os.system, f'touch {target}')]), 'asks for posix.system'),
        'zlib': (Call(zlib.decompress, zlib.compress(b'0'*10**6)), 'asks for zlib.decompress')}

@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('name', sorted(traps('x')))
def test_code_is_refused_and_not_run(tmp_path, name, protocol):
    target = tmp_path/'trapped'; x, said = traps(target)[name]
    path = raw(tmp_path, pickle.dumps(x, protocol), 'trap.pkl')
    if name == 'os.system':
        pickle.loads(path.read_bytes()); assert target.exists(); target.unlink()   # the trap does work
    with pytest.raises(MgrError, match='trap.pkl') as e: load_pickle(path)
    assert said in str(e.value).replace('__builtin__', 'builtins') and not target.exists()   # old protocols have old names

HAND = {
    'inst': (b'(S"touch {t}"\nios\nsystem\n.', 'asks for os.system'), 'obj': (b'(cos\nsystem\nS"touch {t}"\no.', 'asks for os.system'),
    'global alone': (b'cos\nsystem\n.', 'asks for os.system'),
    'dotted': (b'\x80\x04\x8c\x05numpy\x8c\x10testing.IgnoreExceptio\x93.', 'x.pkl'),
    'known but not called': (b'cbuiltins\nset\n.', 'holds the function builtins.set'),
    'state of a known one': (b'cbuiltins\nset\n}S"a"\nK\x01sb.', 'changes builtins.set'),
    'persistent id': (b'\x80\x04K\x01Q.', 'persistent'), 'persistent text': (b'Pname\n.', 'persistent'),
    'extension': (b'\x80\x02\x82\x01.', 'extension'), 'buffer': (b'\x80\x05\x97.', 'buffer'),
    'new object': (b'\x80\x02cbuiltins\nset\n)\x81.', 'x.pkl'), 'text': (b'frame,label\n1,2\n', 'x.pkl'), 'zip': (b'PK\x03\x04'+b'\0'*40, 'x.pkl')}

@pytest.mark.parametrize('name', HAND)
def test_hand_made_files_are_refused(tmp_path, name):
    data, said = HAND[name]
    with pytest.raises(MgrError) as e: load_pickle(raw(tmp_path, data.replace(b'{t}', str(tmp_path/'trapped').encode())))
    assert said in str(e.value) and 'x.pkl' in str(e.value) and not (tmp_path/'trapped').exists()

def test_objects_in_arrays_are_refused(tmp_path):
    for protocol in range(6):
        with pytest.raises(MgrError, match='array of objects'): load_pickle(raw(tmp_path, pickle.dumps(np.array([None, 'a'], object), protocol)))
    with pytest.raises(MgrError, match='array of (kind|records)'):
        load_pickle(raw(tmp_path, pickle.dumps(np.zeros(2, [('a', 'f4'), ('b', 'O')]))))
    with pytest.raises(MgrError, match='array of kind'): load_pickle(raw(tmp_path, pickle.dumps(np.array(['2020-01-01'], 'M8[D]'))))

def test_flags_of_a_dtype_cannot_be_forged(tmp_path):
    "NumPy would take 'counts references' from the file and follow the numbers as addresses."
    state = (3, '<', None, None, None, -1, -1, 0x3f)
    forged = Stated(np._core.multiarray._reconstruct, (np.ndarray, (0,), b'b'), (1, (1,), Stated(np.dtype, ('i8', False, True), state), False, b'\1'*8))
    x = load_pickle(raw(tmp_path, pickle.dumps(forged)))
    assert x.dtype == np.dtype('<i8') and not x.dtype.hasobject and np.dtype('i8').flags == 0

class Limits:
    "Peak memory of reading one file in a process of its own, MB."
    def __call__(self, path):
        code = f'''import resource, sys
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.safe_pickle import load_pickle
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try: load_pickle({str(path)!r}); print('read', end=' ')
except MgrError as e: print(e, end=' ')
print('|', (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)//1024)'''
        out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
        assert out.returncode == 0, out.stderr
        said, _, mb = out.stdout.rpartition('|')
        return said, int(mb)

BOMBS = {
    'bytes8': (b'\x80\x04\x8e'+struct.pack('<Q', 1 << 40)+b'x.', 'but only'), 'binbytes': (b'\x80\x03B'+struct.pack('<I', 0xfffffff0)+b'x.', 'but only'),
    'bytearray8': (b'\x80\x05\x96'+struct.pack('<Q', 1 << 40)+b'x.', 'but only'), 'unicode8': (b'\x80\x04\x8d'+struct.pack('<Q', 1 << 40)+b'x.', 'but only'),
    'long4': (b'\x80\x02\x8b'+struct.pack('<i', (1 << 31)-1)+b'x.', 'not enough'), 'frame': (b'\x80\x04\x95'+struct.pack('<Q', 1 << 40)+b'N.', 'frame of'),
    'memo': (b'\x80\x04Nr'+struct.pack('<I', 0x7fffffff)+b'.', 'asks for 2147483647 places'), 'text memo': (b'Np2000000000\n.', 'asks for 2000000000 places'),
    'ndarray': (pickle.dumps(Call(np.ndarray, (1 << 40,), 'f4', b'0000')), 'array of shape'),
    'ndarray without bytes': (pickle.dumps(Call(np.ndarray, (1 << 34,), 'i1')), 'x.pkl'),
    'reconstruct': (pickle.dumps(Call(np._core.multiarray._reconstruct, np.ndarray, (1 << 34,), b'b')), 'read'),
    'bytearray': (pickle.dumps(Call(bytearray, 1 << 36)), 'bytearray'), 'bytes': (pickle.dumps(Call(bytes, 1 << 36)), 'bytes'),
    'text elements': (pickle.dumps(Call(np.dtype, 'U2000000000')), 'read'),
    'copies': (b'\x80\x04('+b'K\x01'*20000+b'l\x94cbuiltins\nlist\n\x940('+b'h\x01h\x00\x85R'*20000+b'l.', 'builds more than it holds'),
    'str of nested': (b'\x80\x04K\x01'+b''.join(b'q'+bytes([i])+b'h'+bytes([i])+b'\x86' for i in range(40))+b'\x94cbuiltins\nstr\nh\x28\x85R.', 'x.pkl')}

@pytest.mark.parametrize('name', BOMBS)
def test_bombs_stay_small(tmp_path, name):
    data, said = BOMBS[name]
    told, mb = Limits()(raw(tmp_path, data))
    assert said in told and mb < 60, (told, mb)

@given(cut=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_a_cut_file_is_named(tmp_path_factory, cut):
    data = pickle.dumps([CLIP, CLIP['keypoint']+1]); path = raw(tmp_path_factory.mktemp('cut'), data[:-min(cut, len(data)-1)], 'cut.pkl')
    with pytest.raises(MgrError, match='cut.pkl'): load_pickle(path)

def test_a_step_over_the_end_of_its_frame(tmp_path):
    data = bytearray(pickle.dumps([bytearray(b'0123456789'), 'abc'], 5)); assert data[2] == 0x95
    assert load_pickle(raw(tmp_path, data)) == [bytearray(b'0123456789'), 'abc']
    data[3] = data.index(b'0123')-11+4                                       # the frame now ends among the ten bytes
    with pytest.raises(MgrError, match='x.pkl .* runs over the end of its frame'): load_pickle(raw(tmp_path, data))
    big = [b'0'*200_000, 'abc', b'1'*70_000]                                   # written outside of frames
    assert load_pickle(raw(tmp_path, pickle.dumps(big, 4))) == big

@given(at=st.integers(0, 10_000), to=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_damaged_byte_never_escapes(tmp_path_factory, at, to):
    data = bytearray(pickle.dumps([CLIP, {'a': 1.5}])); data[at % len(data)] = to
    path = tmp_path_factory.getbasetemp()/'damaged.pkl'; path.write_bytes(data)
    try: load_pickle(path)
    except MgrError as e: assert 'damaged.pkl' in str(e)

def test_other_refusals(tmp_path):
    path = raw(tmp_path, pickle.dumps([1, 2, 3]))
    with pytest.raises(MgrError, match=f'has {path.stat().st_size} bytes, more than 10'): load_pickle(path, 10)
    with pytest.raises(MgrError, match='x.pkl is empty'): load_pickle(raw(tmp_path, b''))
    with pytest.raises(MgrError, match='no file'): load_pickle(tmp_path)
    with pytest.raises(MgrError, match='No such file'): load_pickle(tmp_path/'none.pkl')
    with pytest.raises(MgrError, match='4 bytes follow its end'): load_pickle(raw(tmp_path, pickle.dumps([1])+b'more'))
    with pytest.raises(MgrError, match='x.pkl'): load_pickle(raw(tmp_path, b'('*200_000+b'l'*100_000+b'.'))

# ------------------------------------------------------------------ writing

@given(arrays(st.sampled_from(['f2', 'f4', 'f8', 'i4', 'u1', '?']), st.tuples(*[st.integers(0, 4)]*3)))
@settings(max_examples=40, deadline=None)
def test_written_arrays_come_back(tmp_path_factory, x):
    path = tmp_path_factory.getbasetemp()/'array.pkl'; dump_pickle({'x': [x]}, path)
    for y in (load_pickle(path), pickle.loads(path.read_bytes())):
        np.testing.assert_array_equal(y['x'][0], x)
        assert y['x'][0].dtype == x.dtype and y['x'][0].shape == x.shape and (not x.size or y['x'][0].flags.writeable)

def test_written_files_use_names_that_every_numpy_has(tmp_path):
    dump_pickle([CLIP, np.float32(.5), np.array(['a']), {1}, np.asfortranarray(np.eye(3))], tmp_path/'a.pkl')
    data = (tmp_path/'a.pkl').read_bytes(); ops = list(pickletools.genops(data))
    assert ops[0][1] == 4 and not [a for _, a, _ in ops if isinstance(a, str) and ('_core' in a or 'multiarray' in a)]
    y = load_pickle(tmp_path/'a.pkl'); assert same(y[:1], [CLIP]) and y[1] == .5 and type(y[1]) is float and same(y[4], np.eye(3))

@pytest.mark.parametrize('x', [np.array([None]), Plain(), os.system, [Plain], np.zeros(1, 'M8[s]')])
def test_what_cannot_be_read_is_not_written(tmp_path, x):
    (tmp_path/'a.pkl').write_bytes(b'before')
    with pytest.raises(MgrError, match='cannot write'): dump_pickle(x, tmp_path/'a.pkl')
    assert (tmp_path/'a.pkl').read_bytes() == b'before' and len(list(tmp_path.iterdir())) == 1
