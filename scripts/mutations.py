"""Damaged copies of a file, by seed: bits, bytes and runs of any file, and the parts of the formats that would hide them.

A checksum or a compressed stream stops most damage before the reader that lies behind it is reached. So archives are taken apart, a
member is changed and packed again with its right checksum; the same for pickles, tables, headers and the boxes of a film."""
import copy
import io
import json
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random

import numpy as np

LIMIT = 1 << 20  # bytes of a damaged file: a long one is no harder to read than a short one, and slower
NUMBERS = (b"", b"-1", b"0", b"1e308", b"1e39", b"-0", b"nan", b"-inf", b"Infinity", b"0x10", b"1_0", b"2147483648", b"4294967296",
           b"9223372036854775808", b"-9223372036854775809", b"1" + b"0"*40, b"9"*5000, b"1.5", b".", b"1e", "\u00b2".encode(),
           "\u0661".encode(), b"true", b"null", b"'", b'"', b"999999", b"1000000", b"100000000")
WORDS = (b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"'", b"\r", b"\n", b"\n\n", b",", b";", b"\t", b" ", b"[", b"]", b"[ ]", b"{", b"}",
         b"=", b"#", b"%", b"\\", b"../", b"/etc/passwd", b"~", b"~nobody-of-that-name/x", b"${HOME}", b"%(x)s", b"<", b"&", b"&lt;", b"&x;",
         b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>", b"x"*300, b"x"*5000, b"y,"*2000, b"["*3000, b'{"a":'*3000,
         "\u2028".encode(), "\ud7ff\u202e".encode(), b"http://127.0.0.1:9/x", b"file:///etc/passwd", b"$(touch x)", b"; touch x;", b"a b")


def at(data: bytes, rng: Random) -> int:
    "A place; the ends of a file, where its headers are, come more often."
    n = len(data)
    return rng.choice((rng.randrange(n + 1), rng.randrange(n + 1), rng.randrange(min(n, 64) + 1), n - rng.randrange(min(n, 64) + 1)))


def flip(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if out: out[min(at(data, rng), len(out) - 1)] ^= 1 << rng.randrange(8)
    return bytes(out)


def replace_byte(data: bytes, rng: Random) -> bytes:
    i = at(data, rng)
    return data[:i] + bytes([rng.choice((0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)))]) + data[i+1:]


def truncate(data: bytes, rng: Random) -> bytes: return data[:at(data, rng)]


def cut_run(data: bytes, rng: Random) -> bytes:
    i, n = at(data, rng), rng.choice((1, 2, 4, 8, 64, rng.randrange(len(data) + 1)))
    return data[:i] + data[i+n:]


def fill_run(data: bytes, rng: Random) -> bytes:
    i, n = at(data, rng), rng.choice((1, 2, 4, 8, 64, 1000))
    return data[:i] + rng.choice((b"\0", b"\xff", b"A", rng.randbytes(1)))*n + data[i + n*rng.randrange(2):]


def splice(data: bytes, rng: Random) -> bytes:
    "A piece of the file, put elsewhere in it."
    i, j, k = at(data, rng), at(data, rng), at(data, rng)
    return data[:i] + data[min(j, k):max(j, k)] + data[rng.choice((i, j, k)):]


def integer(data: bytes, rng: Random) -> bytes:
    "The extremes of a whole number of 1 to 8 bytes, in both orders."
    n, i = rng.choice((1, 2, 4, 8)), at(data, rng)
    value = rng.choice((0, 1, 2**(8*n - 1) - 1, 2**(8*n - 1), 2**(8*n) - 1, rng.randrange(2**(8*n)), 2**(4*n), len(data), len(data) + 1))
    return data[:i] + (value % 2**(8*n)).to_bytes(n, rng.choice(("little", "big"))) + data[i+n:]


BYTES = (flip, replace_byte, truncate, cut_run, fill_run, splice, integer, integer)


def text(data: bytes, rng: Random) -> bytes:
    "A number, a word or a line of a text."
    kind = rng.randrange(6)
    if kind < 2 and (found := list(re.finditer(rb"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", data))):
        m = rng.choice(found)
        return data[:m.start()] + rng.choice(NUMBERS) + data[m.end():]
    if kind == 2 and (found := list(re.finditer(rb"\w+", data))):
        m, other = rng.choice(found), rng.choice(found)
        return data[:m.start()] + rng.choice((other[0], b"", m[0]*2, *WORDS[:8])) + data[m.end():]
    if kind == 3:
        lines = data.split(b"\n")
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[i:i+1] = rng.choice(([], [lines[i]]*2, [lines[j]], [lines[i], b""], [lines[i] + lines[j]], [lines[i]]*50))
        return b"\n".join(lines)
    if kind == 4:
        signs = (b",", b";", b"\t", b" ", b"\n", b":", b"=", b'"', b"\r\n")
        return data.replace(rng.choice(signs), rng.choice(signs), rng.choice((1, 2, -1)))
    i = at(data, rng)
    return data[:i] + rng.choice(WORDS) + data[i:]


# ---- what a file holds, as Python sees it

ODD = (None, True, False, 0, -1, 1, 2**31, 2**63, -2**63 - 1, 10**40, 10**400, 1.5, -0.0, float("nan"), float("inf"), -1e308, "", "x", "\0", "x"*300,
       "../x", "/etc/passwd", "~nobody-of-that-name", "\u00b2", "9"*5000, [], [[]], {}, {"a": 1}, [1, [1, 2]], [None], {"": None}, [{}], "nan",
       999999, 10**9, [10**400], ["a", 1, None], b"\0\xff", (), ((),), (1, 2), {1, 2})
KINDS = ("f2", "f4", "f8", "i1", "i8", "u1", "u8", "?", "c8", "U3", "S2", ">f4", "O", "M8[s]")


def odd_array(x: np.ndarray, rng: Random):
    "An array with another kind, shape or value than it should have."
    how = rng.randrange(6)
    if how == 0: return x.astype(rng.choice(KINDS[:-1]))
    if how == 1: return x.reshape(-1)
    if how == 2: return x[..., None] if rng.randrange(2) else x[None]
    if how == 3: return np.take(x, [], rng.randrange(x.ndim)) if x.ndim else np.empty(0)
    if how == 4: return np.delete(x, 0, rng.randrange(x.ndim)) if x.ndim and x.shape[0] else np.array("x")
    x = np.array(x, copy=True)
    if x.size: x.flat[rng.randrange(x.size)] = rng.choice((np.nan, np.inf, -1, 1e30, 2, 0)) if x.dtype.kind == "f" else rng.choice((-1, 0, 100))
    return x


def odd_value(x, rng: Random):
    if isinstance(x, np.ndarray) and rng.randrange(4):
        with np.errstate(all="ignore"):
            try: return odd_array(x, rng)
            except (ValueError, TypeError, OverflowError): return None
    if isinstance(x, str) and rng.randrange(3) == 0: return text(x.encode(), rng).decode("utf-8", "replace")
    if isinstance(x, (int, float)) and not isinstance(x, bool) and rng.randrange(3) == 0:
        return rng.choice((-x, x + 1, x*1000 if abs(x) < 1e300 else x, str(x), [x]))
    if isinstance(x, (list, tuple)) and rng.randrange(2): return type(x)(rng.choice(([*x, *x], x[:-1], x[1:], [*x, *ODD[:1]], [x])))
    return rng.choice(ODD)


def places(x, out: list) -> list:
    "Everything that stands in a container, as (container, key)."
    pairs = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()
    for k, v in pairs: out.append((x, k)); places(v, out)
    return out


def tree(x, rng: Random):
    "A copy of nested dicts and lists with one thing changed."
    x = copy.deepcopy(x)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = places(x, [])
        if not found: return odd_value(x, rng)
        box, key = rng.choice(found[:40] if rng.randrange(3) == 0 else found)  # the first ones are the outer ones
        how = rng.randrange(8)
        if how == 0: del box[key]
        elif how == 1 and isinstance(box, dict): box[rng.choice(("", "x", "../x", str(key)*2, "\0"))] = box.pop(key)
        elif how == 2 and isinstance(box, list): box.insert(key, copy.deepcopy(box[key]))
        elif how == 3: other, k = rng.choice(found); box[key] = copy.deepcopy(other.get(k) if isinstance(other, dict) else (other or [None])[k % max(len(other), 1)])
        else: box[key] = odd_value(box[key], rng)
    return x


def as_json(data: bytes, rng: Random) -> bytes:
    return json.dumps(tree(json.loads(data), rng), default=str, indent=rng.choice((None, 1))).encode("utf-8", "replace")


class Bare:
    "Stands for a function that a damaged pickle asks for; it is written by name and never called here."
    def __init__(self, path): self.path = path
    def __reduce__(self):
        import os
        return os.system, (f"touch {self.path}",)


def as_pickle(data: bytes, rng: Random) -> bytes:
    "Another object; or the same with the steps of its making changed."
    if rng.randrange(2):
        x = tree(pickle.loads(data), rng)  # ours: the seed is never foreign
        if rng.randrange(12) == 0: x = {"a": x, "b": Bare("called")}
        return pickle.dumps(x, rng.randrange(6))
    ops = list(pickletools.genops(data))
    ends = [p for *_, p in ops[1:]] + [len(data)]
    steps = [data[p:e] for (*_, p), e in zip(ops, ends)]
    for _ in range(rng.choice((1, 1, 2, 5))):
        i, j = rng.randrange(len(steps)), rng.randrange(len(steps))
        how = rng.randrange(5)
        if how == 0: del steps[i]
        elif how == 1: steps[i] = steps[j]
        elif how == 2: steps.insert(i, steps[j])
        elif how == 3: steps[i] = steps[i][:1] + rng.choice((b"", b"\xff"*8, b"\0"*8, struct.pack("<Q", 1 << rng.randrange(64)))) + steps[i][1:]
        else: steps.insert(i, rng.choice((b"(", b"0", b"1", b"2", b"t", b"l", b"d", b"e", b"u", b"s", b"a", b"b", b"R", b"\x81", b"\x85", b"N", b"}", b"]",
                                          b"\x94", b"\x93", b"cos\nsystem\n", b"Vx\n", b"K\x01", b"\x8a\xff" + b"\x7f"*255, b"h\0")))
        if len(steps) < 2: break
    return b"".join(steps)


def as_zip(data: bytes, rng: Random) -> bytes:
    "A member changed, renamed, doubled or left out, and everything packed again as it should be."
    with zipfile.ZipFile(io.BytesIO(data)) as z: inside = [(i.filename, z.read(i)) for i in z.infolist()]
    k = rng.randrange(len(inside))
    name, content = inside[k]
    how = rng.randrange(12)
    if how == 0: del inside[k]
    elif how == 1: inside[k] = (rng.choice(("../" + name, "/" + name, "..\\" + name, "C:\\" + name, name.upper(), name + "\0x", "x"*70, "", name + "/")), content)
    elif how == 2: inside.append((name, rng.choice((content, b"", inside[0][1]))))
    elif how == 3: inside.append((rng.choice(("x", "../outside", "a/b", "xl/../../x")), content[:100]))
    elif how == 4: inside[k] = (name, content*rng.choice((0, 2, 30)))
    else: inside[k] = (name, mutate(content, name, rng))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))) as z:
        for name, content in inside:
            info = zipfile.ZipInfo(name)
            info.compress_type = z.compression
            if rng.randrange(30) == 0: info.external_attr = 0o120777 << 16  # a link
            with_warning_off(z.writestr, info, content)
    return out.getvalue()


def with_warning_off(f, *args):
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args)


def as_npz(data: bytes, rng: Random) -> bytes:
    "Other arrays under the same names, or the archive itself changed."
    if rng.randrange(2): return as_zip(data, rng)
    with np.load(io.BytesIO(data)) as z: held = {k: z[k] for k in z.files}
    out = io.BytesIO()
    try: with_warning_off(lambda: np.savez(out, **{f"{k}" or "empty": v for k, v in tree(held, rng).items()}))
    except (ValueError, TypeError, OSError): return as_zip(data, rng)
    return out.getvalue()


def as_npy(data: bytes, rng: Random) -> bytes:
    "The header of an array file, and its length with it."
    n = struct.unpack("<H", data[8:10])[0]
    head = data[10:10+n].rstrip()
    head = rng.choice((text(head, rng), text(head, rng), head.replace(b"f4", rng.choice(KINDS).encode()), head.replace(b"False", b"True"),
                       re.sub(rb"\d{2,}", rng.choice((b"99999999999", b"-3", b"65536", b"0")), head)))[:60000] + b" \n"
    return data[:8] + struct.pack("<H", len(head)) + head + data[10+n:]


def as_safetensors(data: bytes, rng: Random) -> bytes:
    "The header, as JSON and as text."
    n = struct.unpack("<Q", data[:8])[0]
    head = rng.choice((as_json, as_json, text))(data[8:8+n], rng)
    if rng.randrange(3) == 0 and b"__metadata__" in data:  # the settings are JSON in a string of JSON
        whole = json.loads(data[8:8+n])
        whole["__metadata__"]["config"] = rng.choice((as_json, as_json, text))(whole["__metadata__"]["config"].encode(), rng).decode("utf-8", "replace")
        head = json.dumps(whole).encode("utf-8", "replace")
    return struct.pack("<Q", len(head)) + head + data[8+n:]


def as_parquet(data: bytes, rng: Random) -> bytes:
    "Another table."
    import pandas as pd
    table = pd.read_parquet(io.BytesIO(data))
    column, how = rng.choice(list(table.columns)), rng.randrange(6)
    if how == 0: table = table.drop(columns=column)
    elif how == 1: table = table.rename(columns={column: rng.choice(("x", "", "y", "../x"))})
    elif how == 2: table = table.iloc[:rng.randrange(len(table) + 1)]
    elif how == 3: table[column] = [rng.choice((None, -1, 0, 2**31, 2**62, -2**63, 1)) for _ in range(len(table))]
    elif how == 4: table[column] = [rng.choice(("", "x", "\0", "../x", None)) for _ in range(len(table))]
    else: table[column] = [rng.choice(([], [1], None)) if rng.randrange(2) else [1.5] for _ in range(len(table))]
    out = io.BytesIO()
    table.to_parquet(out)
    return out.getvalue()


def as_mat(data: bytes, rng: Random) -> bytes:
    "Another variable of the same name, or what is compressed in the file changed and compressed again."
    from scipy.io import loadmat, savemat
    if rng.randrange(2):
        held = {k: v for k, v in loadmat(io.BytesIO(data)).items() if not k.startswith("__")}
        out = io.BytesIO()
        try: savemat(out, {str(k)[:31] or "x": v for k, v in tree(held, rng).items()}, do_compression=bool(rng.randrange(2)))
        except Exception: return flip(data, rng)  # what cannot be written
        return out.getvalue()
    if len(data) > 136 and data[128] == 15:
        inner = zlib.compress(rng.choice(BYTES)(zlib.decompress(data[136:]), rng))
        return data[:132] + struct.pack("<I", len(inner)) + inner
    return data[:128] + rng.choice(BYTES)(data[128:], rng)


INSIDE = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"dinf", b"stsd"}


def boxes(data: bytes, start: int, end: int, out: list) -> list:
    "The boxes of an mp4 file, as (start, end, kind), inner ones too."
    while start + 8 <= end:
        n = int.from_bytes(data[start:start+4], "big")
        if n < 8 or start + n > end: break
        out.append((start, start + n, data[start+4:start+8]))
        if data[start+4:start+8] in INSIDE: boxes(data, start + (16 if data[start+4:start+8] == b"stsd" else 8), start + n, out)
        start += n
    return out


def as_film(data: bytes, rng: Random) -> bytes:
    "A box of an mp4 file changed; in files of other kinds a block of them."
    found = [b for b in boxes(data, 0, len(data), []) if b[2] not in (b"mdat", b"free")]
    if not found: return rng.choice(BYTES)(data[:2000], rng) + data[2000:]
    a, b, kind = rng.choice(found)
    how, body = rng.randrange(8), data[a+8:b]
    if how == 0: return data[:a] + data[b:]
    if how == 1: return data[:b] + data[a:b] + data[b:]
    if how == 2: return data[:a+4] + rng.choice(found)[2] + data[a+8:]
    if how == 3: return data[:a] + struct.pack(">I", rng.choice((0, 1, 7, 8, 2**31, 2**32 - 1, b - a + 1))) + data[a+4:]
    if how < 6: return data[:a+8] + integer(body, rng)[:len(body)] + data[b:]
    return data[:a+8] + flip(body, rng) + data[b:]


PLAYLISTS = (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\noutside.mp4\n#EXT-X-ENDLIST\n", b"ffconcat version 1.0\nfile ../outside.mp4\n",
             b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n", b"[playlist]\nFile1=../outside.mp4\n",
             b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 9 RTP/AVP 96\n", b"<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>")


def any_film(data: bytes, rng: Random) -> bytes: return rng.choice(PLAYLISTS) if rng.randrange(40) == 0 else as_film(data, rng)


STRUCTURED: dict[str, tuple[Callable, ...]] = {
    ".json": (as_json, as_json, text), ".ipynb": (as_json, as_json, text), ".csv": (text,), ".txt": (text,), ".ini": (text,), ".xml": (text,),
    ".rels": (text,), ".xlsx": (as_zip,), ".zip": (as_zip,), ".npz": (as_npz,), ".npy": (as_npy,), ".pkl": (as_pickle,), ".mp4": (any_film,),
    ".avi": (any_film,), ".mkv": (any_film,), ".parquet": (as_parquet,), ".mat": (as_mat,), ".safetensors": (as_safetensors,)}


def mutate(
    data: bytes, # a sound file
    name: str, # its ending says which parts it has
    rng: Random, # what is done is a function of its state
) -> bytes: # at most `LIMIT`
    "One damaged copy."
    ways = STRUCTURED.get(name[name.rfind("."):], ()) if "." in name else ()
    for k in range(rng.choice((1, 1, 1, 2))):  # only the sound file is taken apart: a damaged pickle must not be loaded here either
        way = rng.choice(ways) if ways and not k and rng.randrange(5) < 3 else rng.choice(BYTES)
        try: data = way(data, rng)
        except Exception: data = rng.choice(BYTES)(data, rng)  # the changed object cannot be written in this format
    return data[:LIMIT]
