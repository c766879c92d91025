"""The challenge's file: what is written is accepted, and every kind of wrong file is refused with row and reason."""
import zipfile

import numpy as np
import pytest

from mgr_paper.core import MgrError
from mgr_paper.evidence.submission import STYLES, check_submission, clip_order, submit_run, test_clips as asked_clips, write_submission
from mgr_paper.preprocessing.store import Clip, StoreMeta, StoreWriter
from mgr_paper.preprocessing.synth import CLASSES
from mgr_paper.records import now, save_scores, write_record

IDS = ["0007_0", "0054_0", "0054_1", "0054_2", "0054_10"]
GOOD = ["Id,Target", "0007_0,3", "0054_0,31", "0054_1,0", "0054_2,25", "0054_10,31"]


def changed(*rows, drop=(), at=None):
    "The good file with rows replaced from line `at`, or lines left out."
    lines = list(GOOD)
    if at is not None: lines[at:at + len(rows)] = rows
    else: lines += rows
    return "".join(f"{line}\n" for i, line in enumerate(lines) if i not in drop).encode()


@pytest.fixture
def listed(tmp_path):
    (tmp_path/"list.txt").write_text("\n".join(IDS))
    return tmp_path/"list.txt"


@pytest.mark.parametrize("style, name", [("2023", "Submission.zip"), ("2025", "prediction.csv"), ("2025", "prediction.zip")])
def test_what_is_written_is_accepted(tmp_path, listed, style, name):
    y = np.array([5, 0, 31, 2, 7])
    report = write_submission(IDS[::-1], y, tmp_path/name, style, listed)
    assert report["rows"] == 5 and report["counts"][31] == 1 and sum(report["counts"]) == 5
    text = (tmp_path/name).read_text() if name.endswith("csv") else None
    if text is None:
        with zipfile.ZipFile(tmp_path/name) as z:
            assert z.namelist() == [STYLES[style].name]
            text = z.read(STYLES[style].name).decode()
    rows = [f"{c},{k}" for c, k in zip(IDS, y[::-1])]
    assert text.splitlines() == (["Id,Target"] if style == "2025" else []) + rows
    assert check_submission(tmp_path/name, listed) | {"path": str(tmp_path/name)} == report
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["list.txt", name])


@pytest.mark.parametrize("content, named", [
    (changed("0054_1,4"), ["row 7", "'0054_1'", "row 4 already"]),
    (changed(drop=(3,)), ["1 of 5 clips are missing", "'0054_1'"]),
    (changed("9999_0,4"), ["row 7", "'9999_0' is not in the test list"]),
    (changed("0054_0,32", at=2), ["row 3", "class 32", "0..31"]),
    (changed("0054_0,x", at=2), ["row 3", "class 'x'"]),
    (changed("0054_0,-1", at=2), ["row 3", "class '-1'"]),
    (changed("0054_0,3.0", at=2), ["row 3", "class '3.0'"]),
    (changed("0054_0," + "9"*5000, at=2), ["row 3", "whole number"]),
    (changed("0054_0", at=2), ["row 3", "1 words"]),
    (changed("", at=2), ["row 3", "0 words"]),
    (changed("id,target", at=0), ["row 1", "'id,target'", "'Id,Target'"]),
    (changed(drop=(0,)), ["row 1", "'0007_0,3'"]),
    (changed("0054_1,0", "0054_0,31", at=2), ["row 3", "'0054_1' where '0054_0' is due"]),
    (b"", ["row 1", "Id,Target"]),
    (b"\xef\xbb\xbf" + changed(), ["row 1", "ufeff"]),
    (changed().decode().encode("utf-16"), ["UTF-16"]),
    (changed("0054_\xe9,3".encode("latin-1").decode("latin-1"), at=2).decode().encode("latin-1"), ["row 3", "0xe9"]),
    (changed().replace(b"\n", b"\r"), ["csv"]),
], ids=["twice", "missing", "extra", "class 32", "class x", "class -1", "class 3.0", "endless class", "no class", "blank line",
        "heading", "no heading", "order", "empty", "byte order mark", "utf-16", "latin-1", "old line ends"])
def test_wrong_files_are_refused(tmp_path, listed, content, named):
    (tmp_path/"prediction.csv").write_bytes(content)
    with pytest.raises(MgrError) as e: check_submission(tmp_path/"prediction.csv", listed)
    for word in ["prediction.csv", *named]: assert word in str(e.value), str(e.value)


@pytest.mark.parametrize("inside, named", [
    (["prediction.csv", "more.csv"], "more.csv"), (["../prediction.csv"], "leaves its folder"), (["/etc/prediction.csv"], "leaves its folder"),
    (["a/../../prediction.csv"], "leaves its folder"), (["out/prediction.csv"], "without a folder"), (["answers.csv"], "answers.csv"), ([], "nothing"),
    (["prediction.csv", "prediction.csv"], "alone")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_wrong_archives_are_refused(tmp_path, listed, inside, named):
    with zipfile.ZipFile(tmp_path/"a.zip", "w") as z:
        for name in inside: z.writestr(name, changed())
    with pytest.raises(MgrError, match=named): check_submission(tmp_path/"a.zip", listed, "2025")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "list.txt"]  # nothing unpacked


def test_archives_that_are_none(tmp_path, listed):
    (tmp_path/"a.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(MgrError, match="not a readable zip"): check_submission(tmp_path/"a.zip", listed, "2025")
    with zipfile.ZipFile(tmp_path/"b.zip", "w", zipfile.ZIP_DEFLATED) as z: z.writestr("prediction.csv", bytes(1 << 25))
    with pytest.raises(MgrError, match="unpacks to 33554432 bytes"): check_submission(tmp_path/"b.zip", listed, "2025")
    (tmp_path/"Submission.csv").write_bytes(changed(drop=(0,)))
    with pytest.raises(MgrError, match="not zipped"): check_submission(tmp_path/"Submission.csv", listed)
    with pytest.raises(MgrError, match="say which style"): check_submission(tmp_path/"b.csv", listed)
    with pytest.raises(MgrError, match="no submission"): check_submission(tmp_path/"prediction.csv", listed)


def test_a_style_is_told_by_the_file_inside(tmp_path, listed):
    write_submission(IDS, [0]*5, tmp_path/"mine.zip", "2023", listed)
    assert check_submission(tmp_path/"mine.zip", listed)["style"] == "2023"
    with pytest.raises(MgrError, match="holds Submission.csv"): check_submission(tmp_path/"mine.zip", listed, "2025")


def test_the_writer_leaves_nothing_behind(tmp_path, listed):
    for clips, y, named in [(IDS[:4], [0]*4, "0054_10"), (IDS + ["x_0"], [0]*6, "'x_0'"), (IDS[:4] + IDS[:1], [0]*5, "already"),
                            (IDS, [0, 1, 2, 3, 32], "class 32"), (IDS, [0]*4, "5 clips"), (IDS, [0., 1, 2, 3, 4], "float64")]:
        with pytest.raises(MgrError, match=named) as e: write_submission(clips, y, tmp_path/"p.csv", "2025", listed)
        assert ".tmp" not in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == ["list.txt"]
    write_submission(IDS, [1]*5, tmp_path/"p.csv", "2025", listed)
    before = (tmp_path/"p.csv").read_bytes()
    with pytest.raises(MgrError): write_submission(IDS, [99]*5, tmp_path/"p.csv", "2025", listed)
    assert (tmp_path/"p.csv").read_bytes() == before  # the older file stays


def test_lists(tmp_path):
    for name, text in {"a.csv": "Id,Target\n0007_0,0\n0054_2,0\n", "b.txt": "0007_0.mp4 0\r\n0054_2.mp4 0\r\n", "c.txt": "\ufeff0007_0\n\n0054_2"}.items():
        (tmp_path/name).write_bytes(text.encode())
        assert asked_clips(tmp_path/name) == ["0007_0", "0054_2"], name
    (tmp_path/"d.csv").write_text("Id,Target\n")
    with pytest.raises(MgrError, match="names no test clip"): asked_clips(tmp_path/"d.csv")
    (tmp_path/"e.txt").write_bytes("caf\xe9_0".encode("latin-1"))
    with pytest.raises(MgrError, match="row 1.*0xe9"): asked_clips(tmp_path/"e.txt")
    assert clip_order(["b_1", "a_10", "a_9", "odd"]) == ["a_9", "a_10", "b_1", "odd"]


def test_a_store_names_its_test_clips(tmp_path):
    meta = StoreMeta("synth", "openpose137", CLASSES, 25., 72, 128, True, "none", "made up")
    with StoreWriter(tmp_path/"store", meta) as out:
        for clip, split in (("b_10", "test"), ("b_2", "test"), ("a_0", "train"), ("a_1", "test")):
            out.add(Clip(clip, clip[0], "p", 0, np.ones((3, 137, 3), np.float32), split=split))
    assert asked_clips(tmp_path/"store") == ["a_1", "b_2", "b_10"]


def test_the_challenge_folder_names_its_test_clips(tmp_path):
    test = tmp_path/"imigue_data_phase2"/"datasets"/"imigue_skeleton_test"
    for video, text in (("0054", "0,1,5\n0,7,9\n"), ("0007", "0,0,3\n")):  # classes are placeholders
        (test/video).mkdir(parents=True)
        (test/video/f"{video}_label.csv").write_text(text)
    train = tmp_path/"imigue_data_phase1"/"datasets"/"imigue_skeleton_train"/"0001"
    train.mkdir(parents=True)
    (train/"0001_label.csv").write_text("3,0,3\n")
    assert asked_clips(tmp_path) == ["0007_0", "0054_0", "0054_1"]
    (test/"0054"/"0054_label.csv").unlink()
    (test/"0054"/"0054_light_hand.csv").write_text("")
    with pytest.raises(MgrError, match="test video 0054 in .* has no label file"): asked_clips(tmp_path)


@pytest.fixture
def run(tmp_path):
    logits = np.random.default_rng(0).normal(size=(6, 32))
    (tmp_path/"run").mkdir()
    save_scores(tmp_path/"run"/"record.npz", logits, [0]*6, IDS[::-1] + ["0001_0"], ["p"]*6, ["v"]*6, ["test"]*5 + ["val"])
    record = dict(experiment="source", row="joint/source/0", tier="smoke", seed=0, split="subjects", config={}, metrics={}, per_class=[], n=5,
                  data=dict(name="imigue", fingerprint="0", simulated=False, video_kind="rgb"), seconds=0., started=now(), parameters_requested={},
                  branch="joint", method="source", extra={"classes": list(CLASSES)})
    write_record(tmp_path/"run"/"record.json", **record)
    return tmp_path/"run", logits, record


def test_a_run_is_submitted(tmp_path, run, listed):
    folder, logits, record = run
    report = submit_run(folder, tmp_path/"prediction.csv", "2025", listed)
    told = dict(line.split(",") for line in (tmp_path/"prediction.csv").read_text().splitlines()[1:])
    best = logits.astype(np.float16).argmax(1)
    assert told == {c: str(k) for c, k in zip(IDS[::-1], best)} and list(told) == IDS  # the val clip is left out
    assert report["run"] == "joint/source/0" and "list" in report["checked"]
    assert "own clips only" in submit_run(folder, tmp_path/"Submission.zip", "2023")["checked"]
    (tmp_path/"more.txt").write_text("\n".join(IDS + ["0099_0"]))
    with pytest.raises(MgrError, match=r"more.txt asks for 1 clips that .*run has not scored, the first is '0099_0'"): submit_run(folder, tmp_path/"x.csv", test_list=tmp_path/"more.txt")
    with pytest.raises(MgrError, match="more.txt is the test list itself"): submit_run(folder, tmp_path/"more.txt", test_list=tmp_path/"more.txt", fill=0)
    assert (tmp_path/"more.txt").read_text().endswith("0099_0")
    write_record(folder/"record.json", **record | {"extra": {"classes": ["wave", "clap"]}})
    with pytest.raises(MgrError, match="2 classes"): submit_run(folder, tmp_path/"x.csv")
    with pytest.raises(MgrError, match="no run folder"): submit_run(tmp_path/"none", tmp_path/"x.csv")
    assert not (tmp_path/"x.csv").exists()
