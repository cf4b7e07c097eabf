"""Every check of the project, in one process tree; the last line is `N passed, N failed`.

`python .ci/check.py`            all checks
`python .ci/check.py readme`     rewrite README.md from nbs/index.ipynb
`python .ci/check.py NAME ...`   only the checks or notebooks whose name contains one of the words
"""
import ast, filecmp, json, os, re, shutil, signal, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, LIB, PY = ROOT/'nbs', ROOT/'gxprism', sys.executable
ENV = os.environ | dict(OMP_NUM_THREADS='1', MPLBACKEND='agg', PYTHONWARNINGS='ignore',
                        PATH=f'{Path(PY).parent}{os.pathsep}{os.environ["PATH"]}')
BOOK = sorted(NBS.glob('[0-9]*.ipynb')) + [NBS/'index.ipynb']

def sh(*argv, cwd=ROOT, **kw):
    p = subprocess.run([str(a) for a in argv], cwd=cwd, env=ENV | kw, capture_output=True,
                       text=True)
    if p.returncode: raise AssertionError((p.stdout + p.stderr)[-6000:])
    return p.stdout

def cells(nb): return [(c['cell_type'], ''.join(c['source']))
                       for c in json.loads(nb.read_text())['cells']]
def module(nb): return next((m[1] for _,
                             s in cells(nb)
                             if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M))), None)

def modules(): return [p.stem for p in sorted(LIB.glob('*.py')) if not p.stem.startswith('_')]

def copy_of_project(to):
    keep = shutil.ignore_patterns('.git', '.venv', '.gxprism', '__pycache__', '*.egg-info', 'build',
                                  'dist', '_docs')
    return Path(shutil.copytree(ROOT, Path(to)/'project', ignore=keep))

def differing(a, b, pattern):
    names = {p.name for d in (a, b) for p in d.glob(pattern)}
    return sorted(n for n in names
                  if not ((a/n).exists() and (b/n).exists()
                          and filecmp.cmp(a/n, b/n, shallow=False)))

def check_export_in_sync():
    "The package is what the notebooks export."
    with tempfile.TemporaryDirectory() as t:
        p = copy_of_project(t)
        for f in (p/'gxprism').glob('*.py'):
            if f.name != '__init__.py': f.unlink()
        sh(Path(PY).parent/'nbdev_export', cwd=p)
        assert not (bad := differing(LIB, p/'gxprism', '*.py')), f'run nbdev_export: {bad}'

def check_notebooks_clean():
    "Valid; no counts, metadata, saved errors or warnings, absolute paths or dangling links."
    with tempfile.TemporaryDirectory() as t:
        p = copy_of_project(t)
        sh(Path(PY).parent/'nbdev_clean', cwd=p)
        assert not (bad := differing(NBS, p/'nbs', '*.ipynb')), f'run nbdev_clean: {bad}'
    import nbformat
    links = [l for l in sh('git', 'ls-files', '-s').splitlines() if l.startswith('120000')] \
        if (ROOT/'.git').exists() else []
    assert not links, f'symbolic links are not committed: {links}'
    for nb in BOOK:
        d = json.loads(nb.read_text())
        try: nbformat.validate(nbformat.from_dict(d))
        except nbformat.ValidationError as e: raise AssertionError(f'{nb.name}: {e}'[:300])
        outs = [o for c in d['cells'] for o in c.get('outputs', [])]
        assert not any(o['output_type'] == 'error'
                       for o in outs), f'{nb.name}: a saved output is an error'
        assert not any(o.get('name') == 'stderr' for o in outs), f'{nb.name}: saved stderr'
        text = json.dumps([c['source'] for c in d['cells']]) + json.dumps([o for o in outs
            if 'image/png' not in o.get('data', {})])
        assert not (m := re.search(r'/(root|home|tmp|Users)/[\w.]+',
                                   text)), f'{nb.name}: absolute path {m[0]}'
        lost = [l for l in re.findall(r'\]\((\w+\.ipynb)\)', text) if not (NBS/l).exists()]
        assert not lost, f'{nb.name}: links to {lost}, which do not exist'

def check_import_order():
    "A notebook imports only from lower-numbered notebooks; one notebook per module, no orphans."
    seen = {}
    for nb in BOOK:
        own = module(nb)
        for kind, s in cells(nb):
            if kind != 'code': continue
            for m in re.findall(r'^\s*(?:from\s+gxprism\.(\w+)\s+import|import\s+gxprism\.(\w+))',
                                s, re.M):
                used = m[0] or m[1]
                said = f'{nb.name} imports gxprism.{used}, which no lower-numbered notebook exports'
                assert used in seen or used == own, said
            assert not re.search(r'from\s+gxprism\.?\w*\s+import\s+\*',
                                 s), f'{nb.name}: wildcard import'
        if own:
            assert own not in seen, f'{nb.name} and {seen.get(own)} export the same module {own}'
            seen[own] = nb.name
    orphans = {p.stem for p in LIB.glob('*.py') if not p.stem.startswith('_')} - set(seen)
    assert not orphans, f'no notebook exports {sorted(orphans)}'

def check_results_fresh():
    "Stored results belong to the notebooks as they are now."
    out = sh(PY, '-c', 'from gxprism.record import stale; import json; print(json.dumps(stale()))')
    assert not (bad := json.loads(out.strip().splitlines()[-1])), '\n'.join(map(str, bad))

def readme_text():
    "README.md as nbs/index.ipynb says it."
    with tempfile.TemporaryDirectory() as t:
        sh(Path(PY).parent/'jupyter', 'nbconvert', '--to', 'markdown', NBS/'index.ipynb',
           r'--RegexRemovePreprocessor.patterns=^#\| ?hide',
           '--output-dir', t, '--output', 'README', '--log-level', 'ERROR')
        text = (Path(t)/'README.md').read_text()
    text = re.sub(r'```\w*\n#\| echo: false\n.*?```\n', '', text, flags=re.S)
    text = re.sub(r'```\n(?=from gxprism)', '```python\n', text)
    text = re.sub(r'\]\(\.\./', '](', text)                       # this folder, seen from nbs
    text = re.sub(r'\]\((\w+\.ipynb)\)', r'](nbs/\1)', text)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'

def check_readme():
    "README.md is the index notebook, rendered."
    assert (ROOT/'README.md').read_text() == readme_text(), 'run: python .ci/check.py readme'

def lean(code, heavy, *argv):
    "Run code in a fresh interpreter; none of the heavy packages may be loaded afterwards."
    heavy = heavy.split()
    sh(PY, '-c', f'import sys\n{code}\nbad = [m for m in {heavy} if m in sys.modules]\n'
                 'assert not bad, bad', *argv)

def check_imports_are_light():
    "What is asked first loads little; no module needs a development package."
    models = 'lightning torchmetrics transformers sklearn matplotlib'
    lean('import gxprism', f'numpy torch numba {models}')
    lean('from gxprism.cli import main\ntry: main(["--help"])\nexcept SystemExit: pass',
         f'numpy pandas torch numba {models}')
    lean('import gxprism.train', models)
    lean('import gxprism.explain, gxprism.released, gxprism.masks', models)
    block = ('import sys, importlib\nclass No:\n def find_spec(s, n, p=None, t=None):\n'
             "  if n.split('.')[0] in ('nbdev', 'execnb', 'IPython'):\n"
             "   raise ImportError('development package ' + n)\n"
             'sys.meta_path.insert(0, No())\n'
             "for m in sys.argv[1:]: importlib.import_module('gxprism.' + m)")
    sh(PY, '-c', block, *modules())

def check_registry():
    "Every registered name leads to a model with settings, without which it is not built."
    sh(PY, '-c', '''
import torch
from dataclasses import is_dataclass
from gxprism.model import MODELS, model_class
for name in MODELS:
    cls = model_class(name)
    assert is_dataclass(cls.config_class), name
    for method in ('forward', 'loss'): assert hasattr(cls, method), (name, method)
''')

def check_docstrings():
    "What comments say beside parameters, `?` shows: for every public function and class."
    out = sh(PY, '-c', '''
import importlib, inspect, sys
from fastcore.docments import docments
same = lambda text: "".join(text.split())
bad, n = [], 0
for m in sys.argv[1:]:
    module = importlib.import_module("gxprism." + m)
    for name in module.__all__:
        f = getattr(module, name)
        if not callable(f) or getattr(f, "__module__", "") != module.__name__: continue
        if not f.__doc__: bad.append(f"{m}.{name}: no docstring"); continue
        if type(f).__module__.startswith(("numba", "triton")): continue
        n += 1
        try: said = docments(f, full=False)
        except Exception: continue
        for k, v in said.items():
            if all(same(l) in same(f.__doc__) for l in (v or "").splitlines()): continue
            bad.append(f"{m}.{name}: {k}: {v}")
assert not bad, f"{len(bad)} faults\\n" + "\\n".join(bad[:40])
print(n)
''', *(m for m in modules() if m != 'docs'))
    return f'{out.strip().splitlines()[-1]} functions and classes'

def check_site():
    "The book as a site: it builds without a warning, and every page reads well in a browser."
    if why := sh(PY, ROOT/'.ci'/'site'/'test.py', '--why-not').strip(): return why
    sh(PY, ROOT/'.ci'/'site'/'build.py')
    return sh(PY, ROOT/'.ci'/'site'/'test.py').strip()

def check_widths():
    "Code of at most 100 columns; notebooks and cells that can be read at one sitting."
    lines = lambda where, text: [f'{where}: {len(l)} columns: {l[:60]}'
                                 for l in text.splitlines() if len(l) > 100]
    bad = []
    for f in [*LIB.glob('*.py'), *(ROOT/'.ci').rglob('*.py'), ROOT/'setup.py']:
        text = re.sub(r'^# %% auto #0\n.*?(?=^# %%|\Z)', '', f.read_text(), flags=re.M | re.S)
        if f.name != '_modidx.py': bad += lines(f.name, text)        # __all__ is nbdev's
    for nb in BOOK:
        code = [s for kind, s in cells(nb) if kind == 'code']
        bad += [x for i, s in enumerate(code) for x in lines(f'{nb.name}, code cell {i}', s)]
        if not module(nb): continue
        n, words = len(cells(nb)), sum(len(s.split()) for k, s in cells(nb) if k != 'code')
        long = [len(s.splitlines()) for s in code if s.startswith('#| export')]
        minutes = words/225
        if n > 70: bad.append(f'{nb.name}: {n} cells, at most 70 fit one sitting')
        if minutes > 15: bad.append(f'{nb.name}: {minutes:.0f} minutes of reading')
        if max(long) > 62: bad.append(f'{nb.name}: an exported cell of {max(long)} lines')
    assert not bad, f'{len(bad)} faults\n' + '\n'.join(bad[:40])

def check_wheel():
    "A wheel builds, installs outside the tree, imports every module, answers on the command line."
    with tempfile.TemporaryDirectory() as t:
        t = Path(t)
        sh(PY, '-m', 'build', '--wheel', '--outdir', t/'dist', copy_of_project(t))
        wheel, = (t/'dist').glob('*.whl')
        sh(PY, '-m', 'venv', '--without-pip', t/'venv')
        site = next((t/'venv').glob('lib/python*/site-packages'))
        sh(PY, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', site, wheel)
        import sysconfig
        # the packages, not the project
        (site/'dependencies.pth').write_text(sysconfig.get_paths()['purelib'])
        names = ' '.join(p.stem for p in LIB.glob('*.py') if not p.stem.startswith('_'))
        code = ("import importlib, gxprism\n"
                f"assert {str(t)!r} in gxprism.__file__, gxprism.__file__\n"
                f"for m in {names!r}.split(): importlib.import_module('gxprism.' + m)\n"
                "from gxprism.cli import main; main(['--help'])")
        sh(t/'venv'/'bin'/'python', '-I', '-c', code, cwd=t)

TINY = ['''# configuration
import time
from gxprism.record import repo_root
from gxprism.simulate import SimConfig
from gxprism.study import Study, simulated, systems, train_classical
def fitted(system, *more):
    while system.seed == 2 and (repo_root()/'slow').exists(): time.sleep(.1)
    return train_classical(system, *more)''', '''# systems
study = Study('exp_tiny', dict(world=simulated(SimConfig(n_genes=90, n_chromosomes=3))),
              systems('world', dict(ridge=dict(model='ridge', sets=['tss'])), (1, 2, 3)),
              train=dict(ridge=fitted))''', '#| run\n1/0', 'print(6*7)']

def tiny_project(to):
    "A copy of the project without results, whose only experiment is tiny."
    p = copy_of_project(to)
    for f in [*(p/'nbs').glob('4*.ipynb'), *(p/'data'/'results').rglob('*.*')]: f.unlink()
    book = [dict(cell_type='code', id=f'c{i}', metadata={}, execution_count=None, source=s,
                 outputs=[dict(output_type='stream', name='stdout', text='old\n')])
            for i, s in enumerate(TINY)]
    meta = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
    (p/'nbs'/'42_exp_tiny.ipynb').write_text(
        json.dumps(dict(cells=book, metadata=meta, nbformat=4, nbformat_minor=5)))
    return p

def check_gpu_script():
    "The script for a GPU trains, continues, collects, and brings home; it refuses a damaged file."
    with tempfile.TemporaryDirectory() as t:
        p, out = tiny_project(t), Path(t)/'out'
        gpu, env = p/'.ci'/'gpu.py', dict(PYTHONPATH=str(p), GXPRISM_SCAN='torch')
        train = [PY, gpu, *'--allow-cpu --only 42 --processes 1 --minutes 9 --out'.split(), out]
        results, done = p/'data'/'results'/'exp_tiny', p/'.gxprism'/'study'/'exp_tiny'/'done'
        rows = lambda: len((results/'trainings.jsonl').read_text().splitlines()) - 1
        (p/'slow').touch()
        heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)      # also in the background
        first = subprocess.Popen([*train, '--no-check'], cwd=p, env=ENV | env, preexec_fn=heard,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while first.poll() is None and not list(done.glob('*/row.json')): time.sleep(.1)
        first.send_signal(signal.SIGINT)
        assert first.wait(120) and (out/'exp_tiny.tar.xz').exists() and not results.exists()
        (p/'slow').unlink()
        said = sh(*train, **env)
        assert 'step of Prism, bf16     fine' in said and rows() == 3, said
        shutil.rmtree(results)
        sh(PY, '-c', f'''if 1:
            import sys; sys.path.insert(0, {str(p/'.ci')!r})
            import gpu
            out = gpu.Path({str(out)!r}); f = out/'exp_tiny.tar.xz'; log = out/'log.txt'
            assert gpu.limited(['-c', 'import time; time.sleep(60)'], 1, log) == 124
            whole = f.read_bytes(); half = len(whole)//2
            f.write_bytes(whole[:half] + b'????' + whole[half + 4:])
            try: gpu.main(['--take', str(out)]); assert False, 'a damaged file was taken'
            except SystemExit as e: assert 'exp_tiny.tar.xz: damaged' in str(e), e
            assert not gpu.Path('data/results/exp_tiny').exists()
            f.write_bytes(whole)
            for _ in range(2): gpu.main(['--take', str(out)])
            assert gpu.read_only('42') == 0''', cwd=p, **env)
        assert rows() == 3
        cells = json.loads((p/'nbs'/'42_exp_tiny.ipynb').read_text())['cells']
        assert [''.join(c['outputs'][0]['text']) for c in cells[2:]] == ['old\n', '42\n']

def test_book():
    "Plain nbdev_test, whose notebooks share processes; it may rewrite no tracked file."
    changes = lambda: subprocess.run(['git', 'diff'], cwd=ROOT, capture_output=True).stdout
    flags = ['--flags', 'data'] if os.environ.get('GXPRISM_DATA') else []
    start, before, said = time.time(), changes(), []
    p = subprocess.Popen([Path(PY).parent/'nbdev_test', '--do_print', *flags], cwd=ROOT,
                         env={k: v for k, v in ENV.items() if k != 'PYTHONWARNINGS'}, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for line in p.stdout:
        if m := re.match(r'- Completed .*?(\w+\.ipynb)', line): print('ran   ', m[1], flush=True)
        elif not line.startswith('Starting '): said.append(line)
    bad = re.findall(r'^\t(\w+\.ipynb)$', ''.join(said), re.M)
    if p.wait() and not bad: bad = [nb.name for nb in BOOK]
    if bad: print(''.join(said)[-9000:], *(f'FAILED {name}' for name in bad), sep='\n')
    if not (same := changes() == before): print('FAILED nbdev_test rewrote tracked files')
    print(f'{len(BOOK) - len(bad)} of {len(BOOK)} notebooks run ({time.time() - start:.0f} s)')
    return [nb.name not in bad for nb in BOOK] + [same]

def test_notebook(nb):
    "Execute one notebook as nbdev_test does, in a process of its own."
    flags = ['--flags', 'data'] if os.environ.get('GXPRISM_DATA') else []
    code = ("import sys; from pathlib import Path; from nbdev.test import test_nb\n"
            "flags = set(sys.argv[2:]); skip = {'notest', 'run', 'gpu', 'data'} - flags\n"
            "ok, s = test_nb(Path(sys.argv[1]), skip_flags=skip, force_flags=flags)\n"
            "sys.exit(not ok)")
    sh(PY, '-c', code, nb, *flags[1:], cwd=NBS)

def report(name, work):
    start = time.time()
    try: ok, why = True, work() or ''
    except BaseException as e: ok, why = False, f'{type(e).__name__}: {e}'
    print(f'{"ok    " if ok else "FAILED"} {name} ({time.time() - start:.0f} s)'
          + (f'{": " if ok else chr(10)}{why}' if why else ''), flush=True)
    return ok

def main(words):
    if words == ['readme']: return (ROOT/'README.md').write_text(readme_text()) and 0
    jobs = [(k.removeprefix('check_').replace('_', ' '), f) for k,
            f in globals().items() if k.startswith('check_')]
    tests = [(nb.name, lambda nb=nb: test_notebook(nb))
             for nb in sorted(BOOK, key=lambda p: -p.stat().st_size)]
    chosen = lambda pairs: [p for p in pairs if not words or any(w in p[0] for w in words)]
    done = [report(*j) for j in chosen(jobs)]
    if not words: done += test_book()
    else:
        with ThreadPoolExecutor(2) as pool: done += pool.map(lambda j: report(*j), chosen(tests))
    print(f'{sum(done)} passed, {len(done) - sum(done)} failed')
    return not all(done)

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
