"""The studies on a machine with a GPU and no network: what `gxprism.study` does not do by itself.

At home:  python .ci/gpu.py --wheels        download what that machine lacks
          python .ci/gpu.py --data FOLDER   compact, verified copy of the real data
There:    python .ci/gpu.py                 install, check, train, collect; again to continue
At home:  python .ci/gpu.py --take FOLDER   add what was collected to the results
          python .ci/gpu.py --read NN       execute only the reading cells of a notebook
"""
import argparse, json, lzma, os, re, shutil, signal, subprocess, sys, tarfile, tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE, NBS, SPEED = ROOT/'.gxprism'/'gpu', ROOT/'nbs', ROOT/'data'/'results'/'speed.json'
FOLDERS = 'k562_hg38', 'yeast_r64', 'gene_text', 'geuvadis', 'sei_names'
LEFT_OUT = r'h3k27ac_ENCFF\w+\.bw'                            # replicates
IMPORTANCE = '42', '48', '41', '40', '43', '44', '50'
PIP = sys.executable, '-m', 'pip', '-qq', '--disable-pip-version-check'

def notebook(number): return next(NBS.glob(f'{number}_*.ipynb'))
def files_in(folder): return sorted(p for p in Path(folder).rglob('*') if p.is_file())
def flags(source): return set(re.findall(r'^#\|\s*(\w+)', source, re.M))

def tell(folder):
    found = files_in(folder)
    print(f'{len(found)} files, {sum(f.stat().st_size for f in found)/1e6:.1f} MB, in {folder}')

def table(rows):
    wide = [max(len(str(c)) for c in column) for column in zip(*rows)]
    return '\n'.join('  '.join(str(c).ljust(w) for c, w in zip(r, wide)).rstrip() for r in rows)

# ---------------------------------------------------------------- at home, before

def wheels():
    "Download the wheels of .ci/gpu-wheels.txt for Python 3.12 on 64-bit Linux."
    shutil.rmtree(HERE/'wheels', ignore_errors=True)
    tags = [f'manylinux{k}_x86_64' for k in ('2014', *(f'_2_{i}' for i in range(5, 36)))]
    subprocess.run([*PIP, 'download', '--only-binary=:all:', '--no-deps', '--implementation', 'cp',
                    '--python-version', '3.12', *(a for t in tags for a in ('--platform', t)),
                    '-d', HERE/'wheels', '-c', ROOT/'constraints.txt',
                    '-r', ROOT/'.ci'/'gpu-wheels.txt'], check=True)
    tell(HERE/'wheels')

def data(source):
    "Copy what the studies read, verify it against the published checksums, write down our own."
    from gxprism.sequence import digest, publish
    names = [f.relative_to(source) for k in FOLDERS for f in files_in(source/k)
             if not re.fullmatch(LEFT_OUT, f.name)]
    known = {f.parent.name: json.loads(f.read_text()) for f in source.glob('*/manifest.json')}
    with publish(HERE/'data', folder=True) as to:
        for n in names:
            (to/n).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source/n, to/n)
        sums = {str(n): digest(to/n) for n in names}
        told = lambda n: known.get(n.parts[0], {}).get('/'.join(n.parts[1:]), {}).get('sha256')
        bad = [str(n) for n in names if sums[str(n)] != (told(n) or digest(source/n))]
        bad += [k for k in FOLDERS if not (to/k).exists()]
        if bad: raise ValueError(f'{", ".join(bad)}: missing, or not as published')
        (to/'sha256.json').write_text(json.dumps(sums, indent=1))
    git = ['git', '-C', ROOT, 'rev-parse', '--short=12', 'HEAD']
    (HERE/'commit').write_text(subprocess.run(git, text=True, capture_output=True).stdout)
    tell(HERE/'data')

# ---------------------------------------------------------------- there: install and check

def packages():
    "Install the carried wheels, once, for this process and all that it starts."
    found, site = sorted((HERE/'wheels').glob('*.whl')), Path(tempfile.gettempdir())/'gxprism-site'
    names, done = ' '.join(w.name for w in found), site/'done'
    if found and not (done.exists() and done.read_text() == names):
        subprocess.run([*PIP, 'install', '--no-index', '--no-deps', '--no-compile', '--upgrade',
                        '--no-cache-dir', '--target', site, *found], check=True)
        done.write_text(names)
    sys.path.insert(1, str(site))
    os.environ['PYTHONPATH'] += f'{os.pathsep}{site}'
    os.environ.update(PYTHONUNBUFFERED='1', PYTHONWARNINGS='ignore', TRANSFORMERS_OFFLINE='1')

def prepare(size, allow_cpu):
    "Packages, device, data and commit; exits with one line where something is wrong."
    packages()
    try: import torch, gxprism.study; from gxprism.sequence import digest
    except ImportError as e: sys.exit(f'packages: {e}; run `make wheels` where there is a network')
    gpu, at = torch.cuda.is_available(), HERE/'data'
    if not gpu and not allow_cpu: sys.exit('device: expected a GPU, found none')
    print('device:', torch.cuda.get_device_name() if gpu else 'CPU', 'torch', torch.__version__)
    os.environ['GXPRISM_SIZE'] = size
    if (HERE/'commit').exists(): os.environ['GXPRISM_COMMIT'] = (HERE/'commit').read_text().strip()
    if not (at/'sha256.json').exists(): return
    sums = json.loads((at/'sha256.json').read_text())
    bad = [k for k, v in sums.items() if not (at/k).is_file() or digest(at/k) != v]
    if bad: sys.exit(f'data: checksum differs: {", ".join(bad)}')
    os.environ['GXPRISM_DATA'] = str(at)

def prism_step(where, precision, genes=3, **settings):
    "Loss and gradient of one step of Prism, and its parameters afterwards."
    import torch
    from gxprism.model import build
    from gxprism.store import Batch
    torch.manual_seed(0)
    model, g = build('prism', settings), torch.Generator().manual_seed(3)
    rand = lambda *s: torch.randn(*s, generator=g)
    l, (s, r) = model.cfg.center_len, (model.cfg.n_tracks, model.cfg.n_features)
    batch = Batch(torch.randint(0, 5, (genes, l), generator=g, dtype=torch.uint8),
                  rand(genes, l, s).abs(), rand(genes, r), rand(genes), tuple('g'*genes))
    model, batch = model.to(where), batch.to(where)
    with torch.autocast(where, torch.bfloat16, enabled=precision == 'bf16'):
        loss = model.loss(model(batch), batch)['loss']
    loss.backward()
    flat = lambda ts: torch.cat([t.detach().float().flatten().cpu() for t in ts])
    gradient = flat(p.grad for p in model.parameters())
    torch.optim.AdamW(model.parameters(), lr=5e-4).step()
    return flat([loss]), gradient, flat(model.parameters())

def check():
    "Compare scans and a training step with the reference; exit status 1 where something differs."
    import torch
    from gxprism.scan import BACKENDS, available_backends, scan_fault, scan_ways
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    where, rows = 'cuda' if torch.cuda.is_available() else 'cpu', [('what', 'verdict')]
    asked = os.environ.get('GXPRISM_SCAN')
    for b in [asked] if asked else [b for b in available_backends(where) if b != 'reference']:
        ways = scan_ways if b == 'triton' else lambda xs: [BACKENDS[b](**x) for x in xs]
        for d in ('float32', 'bfloat16'):
            rows.append((f'scan {b}, {d}', scan_fault(ways, where, getattr(torch, d)) or 'fine'))
    how = {} if where == 'cuda' else dict(center_len=128, d_model=16, n_layers=1)   # {}: published
    want = prism_step('cpu', 'float32', **how)
    for precision, most in (('float32', 2e-3), ('bf16', 1e-1)):
        try:
            *got, after = prism_step(where, precision, **how)
            error = max(float((g - w).norm()/w.norm()) for g, w in zip(got, want))
            fine = error <= most and after.isfinite().all()
            said = 'fine' if fine else f'relative error {error:.0e}, expected at most {most:.0e}'
        except Exception as e: said = f'{type(e).__name__}: {e}'[:200]
        rows.append((f'step of Prism, {precision}', said))
    print(table(rows))
    return int(any(r[1] != 'fine' for r in rows[1:]))

# ---------------------------------------------------------------- there: train and collect

def limited(argv, seconds, log):
    "Run Python with a time limit, its output in a log; exit status, 124 where its time was over."
    with open(log, 'ab') as f:
        p = subprocess.Popen([sys.executable, *map(str, argv)], cwd=NBS, stdout=f,
                             stderr=subprocess.STDOUT, start_new_session=True)
        try: return p.wait(max(seconds, 1))
        except subprocess.TimeoutExpired: return 124
        finally:
            if p.poll() is None: os.killpg(p.pid, signal.SIGKILL)
            p.wait()

def timing():
    "The code of 50_speed up to its last run cell, as a file: what prints and draws stays at home."
    cells = json.loads(notebook('50').read_text())['cells']
    code = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    last = max(i for i, s in enumerate(code) if 'run' in flags(s))
    HERE.mkdir(parents=True, exist_ok=True)
    (HERE/'speed.py').write_text('\n\n'.join(code[:last + 1]))
    return HERE/'speed.py'

def train(a):
    "Check, train what is missing until the time is over, and collect, whatever happens."
    until, rows = time.time() + 60*a.minutes - 20, [('what', 'status', 'seconds', 'last words')]
    a.out.mkdir(parents=True, exist_ok=True)
    log, left = a.out/'log.txt', lambda: until - time.time()
    log.unlink(missing_ok=True)
    def do(what, argv):
        start, before = time.time(), log.stat().st_size if log.exists() else 0
        status = limited(argv, left() + 10, log)
        said = log.read_bytes()[before:].decode(errors='replace').strip()
        print(f'-- {what}\n{said}', flush=True)
        words = {0: 'done', 124: 'out of time'}.get(status, f'failed ({status})')
        rows.append((what, words, round(time.time() - start), said.split('\n')[-1][:100]))
        return status
    prepare(a.size, a.allow_cpu)
    try:
        if not a.no_check and do('kernels', [__file__, '--check']):
            os.environ['GXPRISM_SCAN'] = 'torch'
            if do('torch instead', [__file__, '--check']): return 1
        for n in a.only or IMPORTANCE:
            evidence = ['-c', 'import gxprism.study as s; s.main()', n, '--hours', left()/3600,
                        '--processes', a.processes]
            if left() < 20: rows.append((n, 'no time left', 0, ''))
            elif not do(n, [timing()] if n == '50' else evidence) and n == '50':
                shutil.copy(SPEED, a.out)
    finally: collect(a.out, table(rows))
    return int(any(r[1].startswith('failed') for r in rows[1:]))

def collect(out, text):
    "One file per study with its finished trainings and failures, beside the table and the log."
    from gxprism.sequence import publish
    for study in (ROOT/'.gxprism'/'study').glob('*'):
        found = files_in(study/'done') + sorted((study/'jobs').glob('*.failed'))
        with publish(out/f'{study.name}.tar.xz') as new, tarfile.open(new, 'w:xz') as t:
            for f in found: t.add(f, f.relative_to(study.parent))
    (out/'table.txt').write_text(text + '\n')
    print(text)
    tell(out)

# ---------------------------------------------------------------- at home, after

def unpack(f, folder):
    "Plain files of an archive into a folder; anything else, or a place outside, is refused."
    with tarfile.open(f) as t:
        for m in t:                                    # the filters of tarfile want Python 3.11.4
            to = (folder/m.name).resolve()
            if not m.isreg() or not to.is_relative_to(folder):
                raise tarfile.TarError(f'{m.name}: expected a plain file within')
            to.parent.mkdir(parents=True, exist_ok=True)
            with t.extractfile(m) as a, open(to, 'wb') as b: shutil.copyfileobj(a, b)

def take(folder):
    "Add what was collected to the results; nothing where a file is damaged, never less than ours."
    with tempfile.TemporaryDirectory() as tmp:
        for f in sorted(folder.glob('*.tar.xz')):
            try:
                unpack(f, Path(tmp).resolve())
            except (tarfile.TarError, EOFError, lzma.LZMAError, OSError) as e:
                sys.exit(f'{f.name}: damaged ({e}); nothing taken')
        for d in sorted(Path(tmp).iterdir()): print(f'{d.name}: {merge(d)}')
    if (folder/'speed.json').exists(): print('speed:', timings(folder/'speed.json'))

def merge(work):
    "Let the frame gather the trainings of a study that the cells we have have made."
    from gxprism.record import find_notebook, source_fingerprint
    from gxprism.study import gather, study_of
    nb, rows = find_notebook(work.name), list(work.glob('done/*/row.json'))
    now, failed = source_fingerprint(nb), len(list(work.glob('jobs/*.failed')))
    other = [r.parent for r in rows if json.loads(r.read_text())['source'] != now]
    for d in other: shutil.rmtree(d)
    added = gather(study_of(nb), work, notebook=nb.name, source=now)
    return (f'{added} of {len(rows)} trainings added, '
            f'{len(other)} made by other cells; {failed} failed')

def timings(new):
    "Take timings unless ours are worth more, or other cells made them."
    from gxprism.record import SIZES, source_fingerprint
    from gxprism.sequence import publish
    theirs, ours = (json.loads(f.read_text())['provenance'] if f.exists() else {}
                    for f in (new, SPEED))
    if theirs['source'] != source_fingerprint(notebook('50')): return 'refused, made by other cells'
    if ours and (SIZES.index(theirs['size']) < SIZES.index(ours['size'])
                 or theirs['kind'] < ours['kind']):                       # 'CPU' < 'GPU'
        return f'refused, ours are {ours["size"]} on {ours["kind"]}'
    with publish(SPEED) as to: shutil.copyfile(new, to)
    return 'taken; --read 50 prints them'

def read_only(number, seconds=600):
    "Execute the reading cells of a notebook in place; the run cells keep what they have."
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    nb, until, status = notebook(number), time.time() + seconds, 0
    book = nbformat.read(nb, 4)
    code = [c for c in book.cells if c.cell_type == 'code']
    last = max((i for i, c in enumerate(code) if 'run' in flags(c.source)), default=len(code))
    skip = {'run', *(['data'] if not os.environ.get('GXPRISM_DATA') else [])}
    if any('gpu' in flags(c.source) for c in code):
        import torch
        if not torch.cuda.is_available(): skip.add('gpu')
    for i, c in enumerate(code):
        c.metadata['tags'] = ['skip-execution']*bool(flags(c.source) & skip) + [
            'raises-exception']*(i > last)
    client = NotebookClient(book, timeout_func=lambda cell: max(1, until - time.time()),
                            kernel_name='python3', resources={'metadata': {'path': str(NBS)}},
                            store_widget_state=False)
    try: client.execute(stderr=subprocess.DEVNULL)
    except CellTimeoutError: status = 124
    except (CellExecutionError, DeadKernelError) as e: status = 3; print(str(e)[-3000:])
    errors = [o for c in code for o in c.outputs if o.output_type == 'error']
    if errors and not status:
        status = 4
        for o in errors: print(f'{o.ename}: {o.evalue[:300]}')
    if not status: save(book, nb)
    print(f'{nb.name}: '
          + (f'left as it was, exit status {status}' if status else 'reading cells executed'))
    return status

def save(book, nb):
    "Write an executed notebook as `nbdev_clean` leaves it: without what the execution noted."
    import nbformat
    from nbdev.clean import nbdev_clean
    from gxprism.sequence import publish
    with publish(nb) as to:
        nbformat.write(book, to)
        nbdev_clean(str(to))

def main(words=None):
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    say = lambda name, text=None, **kw: p.add_argument(f'--{name}', help=text, **kw)
    for k in ('wheels', 'check', 'no-check', 'allow-cpu'): say(k, action='store_true')
    for k in ('data', 'take'): say(k, metavar='FOLDER', type=Path)
    say('read', metavar='NN')
    say('only', 'numbers of the notebooks, in order', nargs='+', metavar='NN')
    say('minutes', 'of the whole call', type=float, default=9.5)
    say('processes', 'trainings that share the GPU', type=int, default=4)
    say('size', 'as GXPRISM_SIZE', default=os.environ.get('GXPRISM_SIZE') or 'laptop')
    say('out', 'what is collected', type=Path, default=os.environ.get('OUT') or HERE/'out')
    a = p.parse_args(words)
    for k in ('data', 'take', 'out'): setattr(a, k, getattr(a, k) and getattr(a, k).resolve())
    os.chdir(ROOT)                                              # where the results are
    sys.path.insert(0, str(ROOT))
    os.environ['PYTHONPATH'] = f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'
    if a.wheels: return wheels()
    if a.data: return data(a.data)
    if a.take: return take(a.take)
    if a.read: return read_only(a.read)
    return check() if a.check else train(a)

if __name__ == '__main__': sys.exit(main())
