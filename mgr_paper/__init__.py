__version__ = "0.1.0"

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adaptation import cmpl as cmpl
    from .evidence import stats as stats
    from .fusion import calibrate as calibrate, vote as vote
    from .losses import class_weights as class_weights, semantic as semantic

_PIECES = {"cmpl": "adaptation", "calibrate": "fusion", "vote": "fusion", "class_weights": "losses", "semantic": "losses",
           "stats": "evidence"}  # what works on plain arrays or tensors: `from mgr_paper import cmpl`

def __getattr__(name: str):
    "A piece of the method, loaded when it is asked for."
    if name not in _PIECES: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    return import_module(f"{__name__}.{_PIECES[name]}.{name}")

def __dir__() -> list[str]: return sorted({*globals(), *_PIECES})
