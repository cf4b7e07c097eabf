"""Every notebook from top to bottom in a kernel of its own, as JupyterLab runs it, at smoke size.

`python .ci/notebooks.py [NAME ...]`; words choose notebooks by name. It works on a copy of the
project without anything that git ignores, and fails if a run changes a file of the copy: what is
stored stays. Cells flagged `#| data` or `#| gpu` are left out where those lack (`flags.py`).
"""
import hashlib, os, re, shutil, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from check import BOOK, ROOT, copy_of_project

def digests(folder):
    "Digest of every file of the project."
    made = ('__pycache__', '.gxprism', '.ipynb_checkpoints', '.hypothesis')
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted(folder.rglob('*')) if f.is_file() and not {*f.parts} & {*made}}

def execute(path):
    "Run one notebook; what went wrong, and the lines of cells that were left out."
    nb = nbformat.read(path, 4)
    kernel = nb.metadata.kernelspec.name
    client = NotebookClient(nb, timeout=900, kernel_name=kernel,
                            resources=dict(metadata=dict(path=str(path.parent))))
    try: client.execute(stderr=subprocess.DEVNULL)
    except CellExecutionError as e: return str(e)[-3000:], []
    return '', re.findall(r'^skipped: .+', '\n'.join(o.get('text', '') for c in nb.cells
                                                     for o in c.get('outputs', [])), re.M)

def main(words):
    chosen = [nb for nb in BOOK if not words or any(w in nb.name for w in words)]
    failed = []
    with tempfile.TemporaryDirectory() as t:
        copy = copy_of_project(t)
        os.environ |= dict(GXPRISM_SIZE='smoke', PYTHONPATH=str(copy), MPLBACKEND='module://'
                           'matplotlib_inline.backend_inline', OMP_NUM_THREADS='1')
        startup = Path(t)/'ipython'/'profile_default'/'startup'
        startup.mkdir(parents=True)
        shutil.copy(ROOT/'.ci'/'flags.py', startup)
        os.environ['IPYTHONDIR'] = str(Path(t)/'ipython')
        before = digests(copy)
        def one(nb):
            start = time.time()
            wrong, left = execute(copy/'nbs'/nb.name)
            skipped = ''.join(f'; {left.count(why)} x {why}' for why in dict.fromkeys(left))
            print(f'{"FAILED" if wrong else "ok    "} {nb.name} ({time.time() - start:.0f} s)'
                  f'{skipped}' + (f'\n{wrong}' if wrong else ''), flush=True)
            if wrong: failed.append(nb.name)
        largest = sorted(chosen, key=lambda p: -p.stat().st_size)
        with ThreadPoolExecutor(2) as pool: list(pool.map(one, largest))
        after = digests(copy)
        changed = sorted(k for k in before.keys() | after if before.get(k) != after.get(k))
    if changed: print('FAILED: these files of the project were changed:\n' + '\n'.join(changed))
    print(f'{len(chosen) - len(failed)} passed, {len(failed) + bool(changed)} failed')
    return bool(failed or changed)

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
