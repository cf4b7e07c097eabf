__version__ = "0.1.0"

from gxprism.docs import install
install()

def __getattr__(name):
    "`gxprism.load` opens a trained model; it is found when it is asked for."
    if name != 'load': raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from gxprism.weights import load
    return load

def __dir__(): return sorted([*globals(), 'load'])
