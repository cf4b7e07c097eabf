"""Every notebook from top to bottom in a kernel of its own, as JupyterLab runs it, at smoke size.

`python .ci/notebooks.py [NAME ...]`; words choose notebooks by name. It works on a copy of the
project without anything that git ignores, and fails if a run changes a file of the copy: what is
stored stays. Cells flagged `#| data` or `#| gpu` are left out, with a line, where those lack.
"""
import hashlib, os, re, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from check import BOOK, ROOT, copy_of_project

def lacking():
    "Flags whose cells cannot run here, and what they need."
    import torch
    out = {'notest': 'to be run by hand'}
    if not os.environ.get('GXPRISM_DATA'): out['data'] = 'needs the data (GXPRISM_DATA)'
    if not torch.cuda.is_available(): out['gpu'] = 'needs a GPU'
    return out

def digests(folder):
    "Digest of every file of the project."
    made = ('__pycache__', '.gxprism', '.ipynb_checkpoints', '.hypothesis')
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted(folder.rglob('*')) if f.is_file() and not {*f.parts} & {*made}}

def execute(path, lacks):
    "Run one notebook; what went wrong, and why how many cells were left out."
    nb, left = nbformat.read(path, 4), {}
    for c in nb.cells:
        flags = set(re.findall(r'^#\|\s*(\w+)', c.source, re.M)) if c.cell_type == 'code' else ()
        for why in [lacks[f] for f in flags if f in lacks][:1]:
            left[why], c.source = left.get(why, 0) + 1, f'print("skipped: {why}")'
    kernel = nb.metadata.kernelspec.name
    client = NotebookClient(nb, timeout=900, kernel_name=kernel,
                            resources=dict(metadata=dict(path=str(path.parent))))
    try: client.execute(stderr=subprocess.DEVNULL)
    except CellExecutionError as e: return str(e)[-3000:], left
    return '', left

def main(words):
    chosen = [nb for nb in BOOK if not words or any(w in nb.name for w in words)]
    lacks, failed = lacking(), []
    with tempfile.TemporaryDirectory() as t:
        copy = copy_of_project(t)
        os.environ |= dict(GXPRISM_SIZE='smoke', PYTHONPATH=str(copy), MPLBACKEND='module://'
                           'matplotlib_inline.backend_inline', OMP_NUM_THREADS='1')
        before = digests(copy)
        def one(nb):
            start = time.time()
            wrong, left = execute(copy/'nbs'/nb.name, lacks)
            skipped = ''.join(f'; {n} cells skipped: {why}' for why, n in left.items())
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
