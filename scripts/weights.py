"""Put the shipped weights together from the graph's own networks and records: `make weights`.

The networks are made by `mgr-paper reproduce --tier bench` (records in figures/bench/records, networks in runs/bench)."""
import argparse
import json
import shutil
import sys
from pathlib import Path

from mgr_paper.core import MgrError, atomic_path, root
from mgr_paper.evidence.experiments import Run
from mgr_paper.evidence.metrics import measured
from mgr_paper.evidence.stages import evaluate_run, fuse_runs
from mgr_paper.evidence.weights import CARD, WEIGHTS
from mgr_paper.fusion.calibrate import softmax
from mgr_paper.records import load_scores, read_record, write_record
from mgr_paper.training.checkpoints import load_tensors, save_tensors

CREDIT = {
    'synth': 'made by the simulator of this package from a seed; nobody was recorded. The names of the classes are those of iMiGUE '
             '(Liu et al., CVPR 2021).',
    'utd-mhad': 'UTD-MHAD: Chen, Jafari and Kehtarnavaz, ICIP 2015. Its authors call it a public domain dataset and freely available; '
                'there is no formal licence text. Cite their paper. No recording is part of this package.'}
LICENCE = 'Apache-2.0, as the code; what the training data ask for stands under data'
SETS = {  # name -> split, seed, branches, and what nobody can read from the records
    'synth': dict(split='subjects', seed=2, branches=('joint', 'heatmap', 'r2plus1d'),
        what='joint, heatmap and R(2+1)D networks and their vote on 32 micro-gestures of drawn people',
        trained_on='the simulated benchmark: {clips} clips of {people} drawn people, long-tailed; {tested} others tested',
        limits=['Learned from drawings alone: what these networks say of real people means nothing.',
                'They show how the method runs, not how well it works.',
                'Small networks of the bench tier, far from the size of the paper\'s.']),
    'utd-mhad': dict(split='odd-even', seed=3, branches=('joint', 'heatmap', 'depth'),
        what='joint, heatmap and depth networks and their vote on 27 actions of real people',
        trained_on='UTD-MHAD, a Kinect\'s skeletons and depth pictures: {clips} clips of {people} adults; {tested} others tested',
        limits=['27 large deliberate actions, such as a tennis serve, and no micro-gestures.',
                'Eight adults in one room before one sensor, each action a trimmed clip.',
                'The third network reads depth, not RGB, so that on a plain video joint and heatmap vote alone.',
                'Joints of a pose estimator are turned into those of a Kinect first; the scores are for a Kinect\'s own.',
                'Small networks of the bench tier, far from the size of the paper\'s.']),
}


def run_folder(data: str, branch: str, of: dict, records: Path, work: Path, to: Path) -> dict:
    "One network as a run's folder."
    run = Run('source', data, of['split'], False, of['seed'], branch)
    here = {'record': records/run.outputs()[0]}
    held = records/Run('heldout', data, of['split'], False, 0, branch).outputs()[0]
    if held.is_file(): here['heldout'] = held
    network = work/run.folder/'source'/f'{branch}.safetensors'
    for file in (network, here['record']):
        if not file.is_file():
            raise MgrError(f'no {file}', f'make it: mgr-paper reproduce --tier bench --data {data}, or point --records and --runs at it')
    record = read_record(here['record'])
    s = load_scores(here['record'].with_suffix('.npz'))
    test = s['part'] == 'test'  # counted again from the scores that ship, which are in half precision
    record |= measured(softmax(s['logits'][test]), s['y'][test], record['extra']['counts'], record['extra']['classes'])
    tensors, config = load_tensors(network)
    if config['branch'] != branch: raise MgrError(f"{network} is a network of {config['branch']}", 'train again')
    if config['config'] != record['config']: raise MgrError(f'{network} and {here["record"]} have different settings', 'train again')
    if record['tier'] != 'bench' or record['parameters_requested']:
        raise MgrError(f'{here["record"]} is not of the plain bench tier', 'make it with mgr-paper reproduce')
    to.mkdir(parents=True)
    for name, path in here.items():
        for suffix in ('.json', '.npz'): shutil.copyfile(path.with_suffix(suffix), to/f'{name}{suffix}')
    write_record(to/'record.json', **record)
    save_tensors(to/'network.safetensors', tensors, config)
    return record


def score(folder: Path) -> dict:
    "Top-1 and macro-F1 on unseen people, with its interval."
    record, intervals = evaluate_run(folder)
    f1 = intervals['f1_macro']
    return dict(top1=record['metrics']['top1'], f1_macro=f1.value, low=f1.low, high=f1.high)


def people(folder: Path) -> tuple[int, int]:
    "How many people were tested, how many clips."
    from mgr_paper.evidence.stages import scores_of
    s = scores_of(folder, 'test')
    return len(set(s['subject_id'])), len(s['y'])


TAUGHT = {'synth': 16, 'utd-mhad': 4}  # people of the source side


def make(data: str, records: Path, work: Path, out: Path):
    "One set: its networks, their vote, its card."
    of = SETS[data]
    with atomic_path(out/data) as tmp:
        read = {b: run_folder(data, b, of, records, work, tmp/b) for b in of['branches']}
        fuse_runs([tmp/b for b in of['branches']], tmp/'vote')
        vote = read_record(tmp/'vote'/'record.json')
        vote['extra']['folders'] = [dict(path=f'../{b}', beside=f'../{b}') for b in of['branches']]  # no folder of this machine
        write_record(tmp/'vote'/'record.json', **vote)
        tested, n = people(tmp/'vote')
        first = next(iter(read.values()))
        clips = int(sum(first['extra']['counts']))
        precision = {b: r['extra']['precision'] for b, r in read.items()}
        card = dict(
            name=data, what=of['what'], trained_on=of['trained_on'].format(clips=clips, people=TAUGHT[data], tested=tested),
            settings=f"tier bench, split {of['split']}, seed {of['seed']}, precision "
                     + (precision[of['branches'][0]] if len(set(precision.values())) == 1 else json.dumps(precision))
                     + '; all of them in the record of each run',
            n=n, people=tested, scores={name: score(tmp/name) for name in ('vote', *of['branches'])},
            interval='95 %, bootstrap over people and their recordings',
            vote={b: dict(weight=w, temperature=t) for b, w, t in zip(of['branches'], vote['extra']['weights'], vote['extra']['temperature'])},
            parameters={b: r['extra']['parameters'] for b, r in read.items()},
            limits=of['limits'], credit=CREDIT[data], licence=LICENCE)
        (tmp/CARD).write_text(json.dumps(card, indent=1)+'\n', encoding='utf-8')
    size = sum(f.stat().st_size for f in (out/data).rglob('*') if f.is_file())
    print(f'{out/data}: {size/1e6:.1f} MB')


if __name__ == '__main__':
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument('sets', nargs='*', help=f"of {', '.join(SETS)}; default: all")
    ask.add_argument('--records', type=Path, default=root()/'figures'/'bench'/'records')
    ask.add_argument('--runs', type=Path, default=root()/'runs'/'bench')
    ask.add_argument('--out', type=Path, default=WEIGHTS)
    given = ask.parse_args()
    try:
        for name in given.sets or SETS:
            if name not in SETS: raise MgrError(f'unknown weights {name!r}', f"known: {', '.join(SETS)}")
            make(name, given.records, given.runs, given.out)
    except MgrError as e: sys.exit(f'error: {e}')
