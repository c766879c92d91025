"""Tables that are run by forks of a process that has loaded what they load."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from mgr_paper.core import root
from mgr_paper.evidence import warm as module
from mgr_paper.evidence.warm import LIBRARY, warm

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not find_spec("execnb"), reason="elsewhere every table loads its own")
ASK = [sys.executable, "-I", "-S", str(LIBRARY/"evidence"/"ask.py")]


def notebook(path, *code):
    "A notebook with one parameter and these cells."
    cells = [dict(cell_type="code", metadata={"tags": ["parameters"]}, source="x: int = 0", outputs=[], execution_count=None)]
    cells += [dict(cell_type="code", metadata={}, source=s, outputs=[], execution_count=None) for s in code]
    path.write_text(json.dumps(dict(cells=cells, nbformat=4, nbformat_minor=4, metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")))))
    return str(path)


def until(said, what):
    "Wait for something, but not for ever."
    for _ in range(1200):
        with suppress(OSError):  # of a process that has just ended
            if found := said(): return found
        time.sleep(.05)
    pytest.fail(what)


@pytest.fixture(scope="module")
def env():
    with warm(os.environ | {"MGR_ROOT": str(root())}) as env:
        until(Path(env["MGR_WARM"]).exists, "it does not listen")
        yield env


def ask(env, *words, **more): return subprocess.run([*ASK, *words], env=env, capture_output=True, text=True, **more)


def test_each_has_a_process_of_its_own(env, tmp_path):
    "A name, a setting and an environment that one notebook leaves are not there for the next."
    leave = "import os, sys, matplotlib\nassert 'left' not in globals() and 'LEFT' not in os.environ and matplotlib.rcParams['figure.dpi'] != 7\n"
    leave += "left, os.environ['LEFT'], matplotlib.rcParams['figure.dpi'] = 1, '1', 7\nopen('pids', 'a').write(f'{os.getpid()} {os.getppid()}\\n')"
    nb = notebook(tmp_path/"leaves.ipynb", f"import os\nos.chdir({str(tmp_path)!r})", leave)
    for i in range(2):
        done = ask(env, "notebook", nb, str(tmp_path/f"{i}.ipynb"))
        assert done.returncode == 0, done.stdout + done.stderr
    pids, parents = zip(*(line.split() for line in (tmp_path/"pids").read_text().splitlines()))
    assert len(set(pids)) == 2 and len(set(parents)) == 1  # two children of the one that is warm


def test_a_failure_is_told_as_ever(env, tmp_path):
    nb = notebook(tmp_path/"fails.ipynb", "1/0", "never")
    done, alone = (ask(e, "notebook", nb, str(tmp_path/f"{i}.ipynb")) for i, e in enumerate((env, env | {"MGR_WARM": "/nowhere"})))
    assert done.returncode == alone.returncode == 2 and "fails.ipynb, cell 2: ZeroDivisionError: division by zero" in done.stderr
    told = [[line for line in d.stderr.splitlines() if line.startswith("error: ")] for d in (done, alone)]  # a kernel may say more as it ends
    assert [line.replace("0.ipynb", "1.ipynb") for line in told[0]] == told[1] and len(told[1]) == len(done.stderr.splitlines()) == 1 and "ZeroDivisionError" in (tmp_path/"0.ipynb").read_text()


def test_it_ends_with_the_one_that_asked(env, tmp_path):
    nb = notebook(tmp_path/"long.ipynb", f"import os, time\nopen({str(tmp_path/'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    asking = subprocess.Popen([*ASK, "notebook", nb, str(tmp_path/"out.ipynb")], env=env)
    pid = until((tmp_path/"pid").read_text, "the notebook does not begin")
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    until(lambda: gone(pid), f"process {pid} works on for nobody")


def gone(pid):
    "Ended, and perhaps not yet collected."
    with suppress(FileNotFoundError): return "Z" in Path("/proc", pid, "stat").read_text().split()[2]
    return True


def test_one_that_hangs_up_leaves_nobody(env):
    "Some words and no more, as of an asker that is killed while it speaks."
    def children(): return {p.parent.name for p in Path("/proc").glob("[0-9]*/cmdline") if env["MGR_WARM"].encode() in read(p)}
    def read(path):
        with suppress(OSError): return path.read_bytes()
        return b""
    before = children()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(env["MGR_WARM"])
        socket.send_fds(line, [b'{"words": '], [1, 2])
    time.sleep(1)
    until(lambda: children() <= before, "a child reads for ever")


def test_another_command_is_run_as_it_is(env):
    done = ask(env, "doctor", "--nonsense")
    assert done.returncode == 2 and "--nonsense" in done.stderr and "--here" not in done.stderr


def test_a_library_that_has_changed_is_loaded_anew(monkeypatch):
    "No answer, so that the asker loads what is there now."
    server, asked = module.Server.__new__(module.Server), []
    server.loaded = module.written()
    monkeypatch.setattr(module.socketserver.ForkingMixIn, "process_request", lambda *_: asked.append("forked"))
    monkeypatch.setattr(module.Server, "shutdown_request", lambda *_: asked.append("refused"))
    server.process_request(None, None)
    server.loaded = {p: t - 1 for p, t in server.loaded.items()}
    server.process_request(None, None)
    assert asked == ["forked", "refused"]


def test_it_ends_with_its_parent(tmp_path):
    code = ("import os, sys, time\nfrom mgr_paper.evidence.warm import warm\n"
            "with warm(dict(os.environ)) as env:\n    print(env['MGR_WARM'], flush=True)\n    time.sleep(600)")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    path = parent.stdout.readline().strip()
    def servers(): return [p for p in Path("/proc").glob("[0-9]*/cmdline") if not gone(p.parent.name) and path.encode() in p.read_bytes()]
    until(servers, "it does not begin")
    parent.kill()
    parent.wait()
    until(lambda: not servers(), "it waits for nobody")
    assert not Path(path).parent.exists()
