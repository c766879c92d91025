"Every setting, one by one: it can be changed by name, is checked, says its source, and survives storage."
import dataclasses
import json

import pytest
from hypothesis import given, strategies as st

from mgr_paper.config import (BRANCHES, DATA, SOURCES, TIERS, RunConfig, data_root, from_dict, names, override,
                              settings, sources, tier_config, to_dict)
from mgr_paper.core import MgrError
from mgr_paper.setting import read

CFG = RunConfig()
LEAVES = {n: v for n, v, *_ in sources(CFG)}


@pytest.mark.parametrize('tier', TIERS)
@pytest.mark.parametrize('data', DATA)
def test_tier_is_whole_and_comes_back(tier, data):
    cfg = tier_config(tier, data)
    assert (cfg.tier, cfg.data) == (tier, data) and set(cfg.branches) <= set(BRANCHES)
    assert from_dict(json.loads(json.dumps(to_dict(cfg))), RunConfig) == cfg
    assert len(cfg.joint.widths) == len(cfg.joint.strides) and len(cfg.swin.depths) == len(cfg.swin.heads)
    assert len(cfg.heatmap.blocks) == len(cfg.heatmap.inflate) == len(cfg.heatmap.temporal_strides)


@pytest.mark.parametrize('name', LEAVES)
def test_setting(name):
    value = LEAVES[name]
    assert name in names(CFG) and override(CFG, {name: value}) == CFG
    assert read(to_dict(CFG), name) == [list(value) if isinstance(value, tuple) else value]
    with pytest.raises(MgrError, match=name.split('.')[-1]): override(CFG, {name: object()})
    with pytest.raises(MgrError, match='unknown setting'): override(CFG, {name+'x': value})


def test_every_setting_has_a_source_and_a_reason():
    for name, _, source, why in sources(CFG): assert source in SOURCES and why, name


def test_an_overridden_value_is_never_called_the_papers():
    for name, value, source, why in sources(tier_config('quick', 'synth')):
        if value != LEAVES[name]: assert source == 'ours' and why.startswith('instead of'), name


@given(st.dictionaries(st.sampled_from(['train.epochs', 'train.swin.epochs', 'heatmap.frames', 'swin.frames']),
                       st.integers(1, 9)))
def test_later_names_win_and_nothing_else_moves(changes):
    after = dict((n, v) for n, v, *_ in sources(override(CFG, changes)))
    expect = dict(LEAVES)
    for key, value in changes.items():
        hit = [n for n in expect if n == key]
        if key == 'train.epochs': hit = [n for n in expect if n.startswith('train.') and n.endswith('.epochs')]
        expect |= dict.fromkeys(hit, value)
    assert after == expect


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError): CFG.train.joint.epochs = 1


def test_repository_settings(monkeypatch, tmp_path):
    s = settings()
    assert s.threads == 1 and s.tier in TIERS and s.data in DATA
    assert ('smoke', 'synth') in s.plans and ('quick', 'synth') in s.plans
    monkeypatch.setenv('MGR_UTD_ROOT', str(tmp_path)); assert data_root('utd-mhad') == tmp_path.resolve()
    monkeypatch.setenv('MGR_UTD_ROOT', str(tmp_path/'none'))
    with pytest.raises(MgrError, match='MGR_UTD_ROOT'): data_root('utd-mhad')
    with pytest.raises(MgrError, match='did you mean'): data_root('utd-mhd')
