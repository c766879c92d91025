"""Nothing that a file holds or is called is ever run: looked for in the code, and tried."""
import ast
import html.parser
import io
import json
import os
import re
import stat
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import mgr_paper
from mgr_paper.core import MgrError
from mgr_paper.preprocessing import imigue, pose, utd_mhad, videos
from mgr_paper.preprocessing.frames import frames, probe, write_video
from mgr_paper.preprocessing.layouts import layout, rest_pose
from mgr_paper.preprocessing.store import ClipStore
from test_pose import fake_python, PRETEND

PACKAGE, ROOT = Path(mgr_paper.__file__).parent, Path(__file__).resolve().parent.parent

# ---------------------------------------------------------------- in the code

CALLS = {  # what must not be called -> where it may be, and why it does no harm there
    "eval": {}, "exec": {}, "compile": {}, "__import__": {},
    "os.system": {}, "os.popen": {}, "os.execv": {"evidence/ask.py": "this command itself, with the words that it was given, in a list"}, "os.execvp": {}, "os.spawnl": {}, "os.spawnv": {}, "os.startfile": {}, "pty.spawn": {},
    "subprocess.getoutput": {}, "subprocess.getstatusoutput": {}, "asyncio.create_subprocess_shell": {}, "commands.getoutput": {},
    "pickle.load": {}, "pickle.loads": {}, "cPickle.load": {}, "dill.load": {}, "dill.loads": {}, "joblib.load": {}, "cloudpickle.load": {},
    "cloudpickle.loads": {}, "marshal.load": {}, "marshal.loads": {}, "shelve.open": {}, "pd.read_pickle": {}, "pandas.read_pickle": {},
    "torch.load": {}, "torch.jit.load": {}, "torch.hub.load": {},
    "pickle.Unpickler": {"preprocessing/safe_pickle.py": "the restricted one is made of it"},
    "np.load": {"losses/semantic.py": "a table of this package", "preprocessing/pose_worker.py": "stands alone, and reads what it wrote a moment ago"},
    "np.fromfile": {}, "np.memmap": {"preprocessing/packed.py": "bytes, whose length is compared"},
    "yaml.load": {}, "yaml.full_load": {}, "yaml.unsafe_load": {}, "yaml.load_all": {}, "yaml.Loader": {}, "yaml.UnsafeLoader": {},
    "shutil.unpack_archive": {}, "tarfile.open": {}, "tarfile.TarFile": {}, "tar.extractall": {},
    "ElementTree.parse": {}, "ET.parse": {}, "ET.fromstring": {}, "minidom.parse": {}, "minidom.parseString": {}, "etree.parse": {},
    "configparser.RawConfigParser": {}, "configparser.SafeConfigParser": {}, "pd.read_html": {}, "pd.read_xml": {}, "pd.eval": {},
    "loadmat": {"preprocessing/utd_mhad.py": "after unpacked_mat, which compares the lengths"},
    "av.open": {"preprocessing/frames.py": "by opened, which reads no playlists; and to write"}}
METHODS = {"extractall", "extract_all", "unpack_archive", "read_pickle", "to_pickle"}  # of whatever object
MODULES = {"cloudpickle", "dill", "joblib", "marshal", "shelve", "tarfile", "yaml", "xml", "telnetlib", "ftplib", "commands"}


def sources():
    files = {p.relative_to(PACKAGE).as_posix(): p.read_text(encoding="utf-8") for p in sorted(PACKAGE.rglob("*.py")) if p.name != "_modidx.py"}
    assert len(files) > 60
    return files


def dotted(node) -> str:
    if isinstance(node, ast.Name): return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def forbidden(file: str, text: str) -> list[str]:
    "What a module has that it must not have."
    found, says = [], lambda node, what: found.append(f"{file}:{node.lineno} {what}")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]*(not node.level)
            for n in names:
                if n.split(".")[0] in MODULES: says(node, f"imports {n}")
            if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "os", "subprocess", "torch") and {a.name for a in node.names} & {
                    "load", "loads", "Unpickler", "system", "popen", "getoutput"}: says(node, f"takes a forbidden name from {node.module}")
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = dotted(node)
            if name in CALLS and file not in CALLS[name] and not isinstance(getattr(node, "ctx", None), ast.Store): says(node, name)
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name.split(".")[-1] in METHODS: says(node, name)
            for k in node.keywords:
                if k.arg == "shell" and not (isinstance(k.value, ast.Call) or isinstance(k.value, ast.Constant) and k.value.value is False): says(node, "shell=")
                if k.arg == "allow_pickle" and getattr(k.value, "value", None) is not False: says(node, "allow_pickle")
                if k.arg == "weights_only" and getattr(k.value, "value", None) is not True: says(node, "weights_only")
            if name.startswith("subprocess.") and name.split(".")[1] in ("run", "Popen", "call", "check_call", "check_output") and node.args and isinstance(
                    node.args[0], (ast.JoinedStr, ast.Constant, ast.BinOp)): says(node, "a command that is one string")
            if name.endswith(("get_state_dict", "load_state_dict_from_url")) and "weights_only" not in {k.arg for k in node.keywords}: says(node, name)
            if name.endswith("ConfigParser") and not any(k.arg == "interpolation" for k in node.keywords): says(node, "interpolation in an ini file")
            if name == "Image.open" and "formats" not in {k.arg for k in node.keywords} and file not in (
                    "evidence/page.py", "evidence/figures.py"): says(node, "Image.open of any format")  # figures of this project
    return found


def test_the_package_calls_nothing_that_runs_what_it_reads():
    assert sum((forbidden(f, t) for f, t in sources().items()), []) == []


@pytest.mark.parametrize("line", [
    "eval(text)", "import os\nos.system(f'ffmpeg {path}')", "import subprocess\nsubprocess.run(f'ls {x}', shell=True)", "import subprocess\nsubprocess.run('ls ' + x)",
    "import pickle\npickle.load(f)", "from pickle import loads", "import torch\ntorch.load(p)", "import numpy as np\nnp.load(p)", "np.lib.format.read_array(f, allow_pickle=True)",
    "import yaml", "import tarfile", "z.extractall(folder)", "weights.get_state_dict(progress=False)", "torch.hub.load_state_dict_from_url(u, weights_only=False)",
    "configparser.ConfigParser()", "from PIL import Image\nImage.open(path)", "from xml.etree import ElementTree", "f = os.popen", "loadmat(path)"])
def test_the_look_finds(line): assert forbidden("some.py", line)


def test_what_is_allowed_is_still_there():
    "An exception that nothing needs any more goes."
    texts = sources()
    for name, files in CALLS.items():
        for file in files: assert re.search(rf"\b{re.escape(name)}\b", texts[file]), (name, file)


def test_rules_of_the_graph_quote_every_file():
    "Shell lines exist in the Snakefile only: what stands in them is a quoted file, a quoted list, or a word that the graph makes itself."
    lines = re.findall(r'shell: "(.*)"', (ROOT/"Snakefile").read_text())
    assert len(lines) == 3
    names = {n for line in lines for n in re.findall(r"\{([^}]*)\}", line)}
    assert {n for n in names if not n.endswith(":q")} == {"MGR", "ASK", "DATA", "params.store", "STORE_OPTIONS", "params.given", "params.work", "params.config"}


# ---------------------------------------------------------------- in action

N, SIZE = 24, (120, 160)
NAMES = ["a; touch x.mp4", "$(touch x).mp4", "`touch x`.mp4", "x & touch x &.mp4", "|touch x.mp4", "a' || touch x #.mp4", '"; touch x; ".mp4', "-o x.mp4",
         "--help.mp4", "new\nline.mp4", "concat:a.mp4", "http:a.mp4", "pipe:0.mp4", "%03d.mp4", "{title} $\\frac{$.mp4", "<img src=x onerror=alert(1)>.mp4",
         "</title><script>alert(1)<", os.fsdecode(b"b\xff.mp4")]
NAMES = [n if n.endswith(".mp4") else f"{n}.mp4" for n in NAMES]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    "A small film and the joints of somebody who moves in it."
    folder = tmp_path_factory.mktemp("film")
    joints = np.tile(rest_pose(layout("openpose137"))*(20, 20, 1) + (80, 50, 0), (N, 1, 1)).astype(np.float32)
    joints[:, 95:, 0] += 10*np.sin(np.arange(N))[:, None]
    joints[..., :2] *= joints[..., 2:]
    write_video(folder/"v.mp4", (np.full((*SIZE, 3), 5*k, np.uint8) for k in range(N)), 20.)
    info = dict(fps=20., height=SIZE[0], width=SIZE[1], frames=N, sha256=pose.file_sha(folder/"v.mp4"), estimator="none", settings={})
    np.savez(folder/"v.npz", joints=joints, info=json.dumps(info))
    return folder


def named(film, folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder/name.replace("/", "\u2215")
    path.write_bytes((film/"v.mp4").read_bytes())
    path.with_suffix(".npz").write_bytes((film/"v.npz").read_bytes())
    return path


def written(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("name", NAMES)
def test_names_of_videos_are_names(film, tmp_path, monkeypatch, name):
    "Read from the folder itself, by the bare name, so that nothing stands before what it begins with."
    path = named(film, tmp_path, name)
    monkeypatch.chdir(tmp_path)
    before = written(tmp_path)
    assert probe(path.name)[:2] == SIZE and len(list(frames(path.name))) == N and written(tmp_path) == before


def test_prepare_takes_videos_of_any_name(film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(NAMES): named(film, tmp_path/"mine"/("nod" if k % 2 else "a; touch x"), name)
    before = written(tmp_path)
    report = videos.prepare_videos(Path("mine"), Path("store"), crop="full", size=16)
    assert report["clips"] == len(NAMES) - 1 and [r["file"] for r in report["skipped"]] == [f"nod/{NAMES[-1]}"] and "no text" in report["skipped"][0]["why"]
    store = ClipStore("store")
    assert {v.split("/", 1)[1] for v in store.videos} == {n.replace("/", "\u2215") for n in NAMES[:-1]}
    assert [p for p in written(tmp_path) if not p.startswith("store")] == before


def test_extract_takes_videos_of_any_name(film, tmp_path, monkeypatch):
    "The other program gets the name as a word of its own, and a name that is no text not at all."
    fake_python(tmp_path, monkeypatch, PRETEND)
    monkeypatch.chdir(tmp_path)
    for name in NAMES: (named(film, tmp_path/"mine", name)).with_suffix(".npz").unlink()
    report = pose.extract(Path("mine"), Path("out"))
    made = {Path(p).name for p in report["written"]}
    assert made == {f"{Path(n.replace('/', chr(0x2215))).stem}.npz" for n in NAMES[:-1]} and "no text" in report["skipped"][0]["why"]
    assert set(os.listdir(tmp_path)) == {"mine", "out", "fake-python"} and set(os.listdir("out")) == made and len(os.listdir("mine")) == len(NAMES)


@pytest.mark.parametrize("name", ["a; touch x.mp4", "<img src=x onerror=alert(1)> {body} $\\frac{$.mp4", os.fsdecode(b"b\xff.mp4")])
def test_predict_takes_videos_of_any_name(film, tmp_path, monkeypatch, name):
    from mgr_paper.evidence.predict import predict_video
    from mgr_paper.evidence.weights import WEIGHTS
    path = named(film, tmp_path, name)
    monkeypatch.chdir(tmp_path)
    before = written(tmp_path)
    predict_video(path.name, WEIGHTS/"synth"/"joint", "out", path.with_suffix(".npz").name)
    assert sorted(os.listdir("out")) == ["overlay.mp4", "predictions.csv", "report.html", "timeline.png"]
    assert [p for p in written(tmp_path) if not p.startswith("out")] == before
    page = Tags((tmp_path/"out"/"report.html").read_text(encoding="utf-8"))
    assert page.tags <= Tags.OURS and path.stem.encode("utf-8", "backslashreplace").decode() in page.text


class Tags(html.parser.HTMLParser):
    "The elements of a page, and its text."
    OURS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "tr", "th", "td", "img", "figure", "br", "a", "details", "summary", "ul", "li"}
    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.attributes = set(), "", set()
        self.feed(page)
    def handle_starttag(self, tag, attrs): self.tags.add(tag); self.attributes |= {k for k, _ in attrs}
    def handle_data(self, data): self.text += data


def test_the_report_escapes_every_name():
    "Classes, networks, reasons and videos can be called anything."
    import pandas as pd
    from mgr_paper.evidence.predict import report_page
    from mgr_paper.evidence.windows import Panel, Voter
    evil = '"><script>alert(1)</script>{body}\'&<img src=x onerror=y>'
    voter = Voter(evil, Path("x"), dict(row=evil), 1., 1.)
    panel = Panel([voter], [dict(name=evil, why=evil)], (evil,), 1., 0., (np.ones((1, 1)), np.zeros(1, int)))
    table = pd.DataFrame({"start": [0.], "end": [1.], "from": [0.], "to": [1.], "call": [evil], "class": [evil], "confidence": [.5], evil: [evil]})
    page = Tags(report_page(evil, [evil], panel, table, b"png", [(evil, np.zeros((8, 8, 3), np.uint8))]))
    assert page.tags <= Tags.OURS and page.attributes <= {"lang", "charset", "name", "content", "http-equiv", "class", "alt", "src", "href"}
    assert page.text.count(evil) >= 8


# ---------------------------------------------------------------- archives

def test_a_sheet_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(imigue, "MOST", 1 << 20)
    imigue.write_sheet(tmp_path/"a.xlsx", np.full((1, 411), .5))
    for n, what in ((0, None), (2 << 20, "unpacks to"), ):
        with zipfile.ZipFile(tmp_path/"a.xlsx") as old, zipfile.ZipFile(tmp_path/"b.xlsx", "w", zipfile.ZIP_DEFLATED) as z:
            for name in old.namelist(): z.writestr(name, old.read(name) + (bytes(n) if name.endswith("sheet1.xml") else b""))
        if what is None: assert imigue.read_sheet(tmp_path/"b.xlsx").shape == (1, 137, 3)
        else:
            with pytest.raises(MgrError, match=what): imigue.read_sheet(tmp_path/"b.xlsx")


def test_recordings_that_unpack_to_too_much(tmp_path, monkeypatch):
    from scipy.io import savemat
    monkeypatch.setattr(utd_mhad, "MOST", 1 << 20)
    savemat(tmp_path/"a.mat", dict(d_depth=np.zeros((120, 160, 200), np.uint16)), do_compression=True)
    assert (tmp_path/"a.mat").stat().st_size < 20_000
    with pytest.raises(MgrError, match="cannot read a.mat: ValueError"): utd_mhad.read_mat(tmp_path/"a.mat", "d_depth", lambda s: True)
    with pytest.raises(ValueError, match="unpacks to more than 1048576 bytes"): utd_mhad.unpacked_mat(tmp_path/"a.mat")


@pytest.mark.parametrize("how", ["link", "outside", "absolute", "twice", "bomb", "lie", "password", "method"])
def test_archives_of_answers_and_arrays(tmp_path, how):
    "What no honest archive has is refused, and nothing is written anywhere."
    from mgr_paper.evidence import submission
    from mgr_paper.reading import read_npz
    answers = b"Id,Target\n0001_0,1\n"
    array = io.BytesIO()
    np.save(array, np.arange(3.))
    for path, inner, data in ((tmp_path/"prediction.zip", "prediction.csv", answers), (tmp_path/"a.npz", "a.npy", array.getvalue())):
        info = zipfile.ZipInfo(dict(outside=f"../{inner}", absolute=f"/tmp/{inner}").get(how, inner))
        if how == "link": info.external_attr = (stat.S_IFLNK | 0o777) << 16
        info.compress_type = zipfile.ZIP_BZIP2 if how == "method" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w") as z, pytest.warns() if how == "twice" else open(os.devnull):
            z.writestr(info, data + bytes(submission.LARGEST + 1) if how == "bomb" else data)
            if how == "twice": z.writestr(info, data)
        raw = bytearray(path.read_bytes())
        end = raw.index(b"PK\1\2")
        if how == "lie": raw[end+24:end+28] = (1 << 31).to_bytes(4, "little")  # the length it says to unpack to
        if how == "password": raw[end+8] |= 1; raw[6] |= 1
        path.write_bytes(raw)
    before = written(tmp_path)
    with pytest.raises(MgrError, match="prediction.zip"): submission.check_submission(tmp_path/"prediction.zip", ["0001_0"])
    if how in ("outside", "absolute"): assert len(read_npz(tmp_path/"a.npz")) == 1  # its names are keys and lead nowhere
    else:
        with pytest.raises(MgrError, match="a.npz"): read_npz(tmp_path/"a.npz")
    assert written(tmp_path) == before


def test_a_playlist_does_not_lead_elsewhere(film, tmp_path):
    "FFmpeg would follow a list of files whatever it is called; the film beside it is sound."
    (tmp_path/"outside.mp4").write_bytes((film/"v.mp4").read_bytes())
    (tmp_path/"list.mp4").write_text("ffconcat version 1.0\nfile outside.mp4\n")
    import av
    with av.open(str(tmp_path/"list.mp4")) as box: assert sum(1 for _ in box.decode(video=0)) == N  # so it would
    with pytest.raises(MgrError, match="list.mp4 is no video"): probe(tmp_path/"list.mp4")
    with pytest.raises(MgrError, match="list.mp4 is no video"): list(frames(tmp_path/"list.mp4"))


def test_the_other_program_is_told_to_read_no_playlists(film, tmp_path, monkeypatch):
    fake_python(tmp_path, monkeypatch, "import os, pathlib, sys; pathlib.Path(sys.argv[-2]).with_name('said').write_text(os.environ['OPENCV_FFMPEG_CAPTURE_OPTIONS'])")
    pose.run_worker(film/"v.mp4", tmp_path/"x.npz")
    said = dict(w.split(";") for w in (tmp_path/"said").read_text().split("|"))
    assert said["protocol_whitelist"] == "file" and "mov" in said["format_whitelist"] and not {"concat", "hls"} & set(said["format_whitelist"].split(","))


def test_a_type_of_a_notebook_is_looked_up(tmp_path):
    import nbformat
    from mgr_paper.batch import parameters
    def ask(line):
        cell = nbformat.v4.new_code_cell(line, metadata=dict(tags=["parameters"]))
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path/"a.ipynb")
        return parameters(tmp_path/"a.ipynb")
    assert ask("a: tuple[int, ...] = (1, 2)\nb: int|None = None\nc: list = []") == dict(a=(tuple[int, ...], (1, 2)), b=(int | None, None), c=(list, []))
    code = f"[].append(1) or __import__('pathlib').Path({str(tmp_path/'made')!r}).write_text('x')"
    for line in (f"a: ({code}) = 1", f"a: int[{code}] = 1", f"a: 'int' = {code}", "a: int[1] = 1", "a: os = 1"):
        with pytest.raises(MgrError, match="is no parameter"): ask(line)
    assert not (tmp_path/"made").exists()
