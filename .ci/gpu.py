"""The experiments at full size on a machine with a GPU and no network.

At home:    python .ci/gpu.py --wheels         download what that machine lacks
            python .ci/gpu.py --data FOLDER    compact, verified copy of the real data
            python .ci/gpu.py --plan           what runs, in which order, for how long
There:      python .ci/gpu.py                  install, check, execute, collect; again to continue
At home:    python .ci/gpu.py --take FOLDER    bring home what it collected
            python .ci/gpu.py --read NN        execute only the reading cells of a notebook
Rehearsal:  python .ci/gpu.py --allow-cpu --size smoke --only 50 --scratch FOLDER
"""
import argparse, hashlib, importlib.util, json, os, re, shutil, signal, subprocess, sys, tarfile
import tempfile, threading, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE, NBS = ROOT/'.gxprism'/'gpu', ROOT/'nbs'
RESULTS, FIGURES = ROOT/'data'/'results', ROOT/'figures'
# bytes one trip may carry; of these, data
PAYLOAD, DATA_LIMIT = 64*2**20, 45_000_000
# replicates are not used
FOLDERS, DROPPED = ('k562_hg38', 'gene_text', 'geuvadis', 'sei_names'), r'h3k27ac_ENCFF\w+\.bw'
NEEDED = ('nbclient ipykernel IPython nbdev fastcore pyfaidx Bio pyBigWig cooler pooch torch '
          'lightning torchmetrics numba').split()
# order of importance; allowed at full size
MINUTES = {'42': 8.5, '41': 4, '40': 4.5, '43': 3.5, '44': 2, '50': 2}
SIZES = ('smoke', 'laptop', 'full')
# seconds per step of 8 genes, best and worst expected
STEP = .001, .003
FINE = 'done', 'already done', 'out of time', 'no time left', 'not there'

# ------------------------------------------------ words and small things

def say(*words, log=[]):
    "Print a line with the time, and keep it for the log."
    line = f'{time.strftime("%H:%M:%S")}  {" ".join(map(str, words))}'
    log.append(line)
    print(line, flush=True)
    return log

def table(rows, heads):
    "Rows as a Markdown table with aligned columns."
    rows = [list(heads), *([str(c) for c in r] for r in rows)]
    wide = [max(len(r[i]) for r in rows) for i in range(len(heads))]
    lines = ['| ' + ' | '.join(c.ljust(w) for c, w in zip(r, wide)) + ' |' for r in rows]
    return '\n'.join([lines[0], '|' + '|'.join('-'*(w + 2) for w in wide) + '|', *lines[1:]])

def sha256(path): return hashlib.sha256(Path(path).read_bytes()).hexdigest()
def megabytes(*paths): return sum(Path(p).stat().st_size for p in paths)/1e6
def files_in(folder): return sorted(p for p in Path(folder).rglob('*')
                                    if p.is_file()) if Path(folder).exists() else []
def notebook(number): return next(iter(sorted(NBS.glob(f'{number}_*.ipynb'))), None)
def code_cells(nb): return [c for c in json.loads(Path(nb).read_text())['cells']
                            if c['cell_type'] == 'code']
def flags(source): return {l[2:].split()[0] for l in source.splitlines() if l.startswith('#|')
                           and l[2:].split()}

def write(path, text):
    "Write a file under a temporary name and rename it."
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f'.{path.name}.{os.getpid()}')
    tmp.write_text(text)
    os.replace(tmp, path)

def record():
    "The module that reads provenance, from this tree."
    if str(ROOT) not in sys.path: sys.path.insert(0, str(ROOT))
    import gxprism.record as r
    return r

# ------------------------------------------------ at home: wheels and data

def pins(text):
    "Name -> version of the pinned lines of a list of requirements."
    found = [re.match(r'([\w.-]+)==([\w.]+)', l) for l in text.splitlines()]
    return {re.sub(r'[-_.]+', '-', m[1]).lower(): m[2] for m in found if m}

def disagreements(wheels, constraints):
    "Packages that two lists pin to different versions, as text."
    a, b = pins(wheels), pins(constraints)
    return [f'{k}: {a[k]} in .ci/gpu-wheels.txt, {b[k]} in constraints.txt'
            for k in sorted(a.keys() & b.keys()) if a[k] != b[k]]

def get_wheels():
    "Download the wheels of .ci/gpu-wheels.txt for Python 3.12 on 64-bit Linux."
    wanted, to = ROOT/'.ci'/'gpu-wheels.txt', HERE/'wheels'
    if bad := disagreements(wanted.read_text(),
                            (ROOT/'constraints.txt').read_text()): sys.exit('; '.join(bad))
    shutil.rmtree(to, ignore_errors=True)
    tags = [f'manylinux_2_{i}_x86_64' for i in range(5, 36)] + [f'manylinux{k}_x86_64'
        for k in ('1', '2010', '2014')]
    subprocess.run([sys.executable, '-m', 'pip', 'download', '-qq', '--disable-pip-version-check',
                    '--only-binary=:all:', '--no-deps',
                    '--python-version', '3.12', '--implementation', 'cp', *(a for t in tags
                        for a in ('--platform', t)),
                    '-d', to, '-r', wanted], check=True)
    size, most = megabytes(*files_in(to)), (PAYLOAD - DATA_LIMIT)/1e6
    print(f'{len(files_in(to))} wheels, {size:.1f} MB, in {to.relative_to(ROOT)} '
          f'(at most {most:.1f} MB beside {DATA_LIMIT/1e6:.0f} MB of data)')
    if size > most: sys.exit('too large: shorten .ci/gpu-wheels.txt')

def get_data(source, to=None, limit=DATA_LIMIT):
    "Copy what the experiments read, verify it against the published checksums, write down our own."
    source, to = Path(source).resolve(), Path(to or HERE/'data')
    shutil.rmtree(to, ignore_errors=True)
    sums = {}
    for folder in FOLDERS:
        if not (source/folder).is_dir():
            there = sorted(p.name for p in source.iterdir())
            sys.exit(f'{folder}: expected this folder in the data, found {there}')
        manifest = source/folder/'manifest.json'
        known = json.loads(manifest.read_text()) if manifest.exists() else {}
        for f in files_in(source/folder):
            if re.fullmatch(DROPPED, f.name): continue
            name = f.relative_to(source)
            (to/name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(f, to/name)
            sums[str(name)] = sha256(to/name)
            published = known.get(str(f.relative_to(source/folder)), {}).get('sha256', sha256(f))
            if sums[str(name)] != published:
                sys.exit(f'{name}: expected sha256 {published}, found {sums[str(name)]}')
        mb, n = megabytes(*files_in(to/folder)), len(files_in(to/folder))
        print(f'{folder:12}{mb:6.1f} MB, {n} files')
    write(to/'sha256.json', json.dumps(sums, indent=1))
    size, most = megabytes(*files_in(to)), limit/1e6
    print(f'{"together":12}{size:6.1f} MB (at most {most:.0f} MB)')
    if size > most: sys.exit('too large: drop files in .ci/gpu.py')
    return to

def verify_data(folder):
    "Names of copied files whose checksum is not the one written down."
    sums = json.loads((folder/'sha256.json').read_text())
    return [k for k, v in sums.items() if not (folder/k).is_file() or sha256(folder/k) != v]

# ------------------------------------------------ the plan

def cost(nb, before):
    "Seconds at best and at worst, and what is computed: a study's steps, else as long as before."
    record()                                       # this tree on the path
    from gxprism.study import study_of
    try: steps = [x.budget for x in study_of(nb).here() if x.budget]
    except ValueError: return [before*.5, before*1.5], 'as long as before'
    return [sum(steps)*s for s in STEP], f'{len(steps)} trainings, {sum(steps):,} steps in all'

def laptop_seconds(nb):
    "Wall time of the stored result of a notebook at laptop size, else None."
    found = [p for p in provenance(nb).values() if p['size'] == 'laptop']
    return found[0]['seconds'] if found else None

def calls(allowed, most):
    "Distribute notebooks over calls of at most `most` minutes, in order."
    out, left = [], 0
    for k, m in allowed.items():
        if m > left: out.append([]); left = most
        out[-1].append(k)
        left -= m
    return out

def plan(minutes, only, budget):
    "One row per notebook: allowed minutes, estimated minutes, what is computed, does it fit."
    rows, numbers = [], {k: m for k, m in minutes.items() if not only or k in only}
    in_call = {k: i + 1 for i, ks in enumerate(calls(numbers, budget)) for k in ks}
    for k, m in numbers.items():
        nb = notebook(k)
        row = [in_call[k], nb.stem if nb else f'{k}: not there yet', m]
        try: (low, high), what = cost(nb, laptop_seconds(nb))
        except Exception as e: rows.append([*row, '?', 'not estimated', '?']); continue
        fits = 'yes' if high < 60*m else 'no' if low > 60*m else 'perhaps'
        rows.append([*row, f'{low/60:.1f} to {high/60:.1f}', what, fits])
    return rows

def print_plan(a):
    rows = plan(a.minutes, a.only, a.budget)
    print(table(rows, ('call', 'notebook', 'allowed min', 'estimated min', 'full size', 'fits')))
    n = max((r[0] for r in rows), default=0)
    print(f'{sum(r[2] for r in rows):.1f} minutes in {n} calls of at most {a.budget:g} minutes; '
          f'estimates: {STEP[0]*1e3:g} to {STEP[1]*1e3:g} ms per step')

# ------------------------------------------------ what is there, what may be replaced

def provenance(nb):
    "Experiment -> provenance of the stored results of a notebook."
    found = {f.stem: json.loads(f.read_text())['provenance']
             for f in sorted(RESULTS.glob('*.json'))}
    return {k: p for k, p in found.items() if nb and p['notebook'] == nb.name}

def worse(size, kind, than):
    "Whether a run of this size and kind of device is worth less than a stored one."
    a, b = SIZES.index(size), SIZES.index(than['size'])
    return a < b or kind == 'CPU' and than['kind'] == 'GPU'

def finished(nb, size, kind, done):
    "Whether the results of a notebook are fresh, large enough and from this kind of device."
    mine = provenance(nb)
    stale = [s for s in record().stale() if s.split('.json')[0] in mine]
    # a notebook that measures the processor says so itself; that it ran here is on record
    good = lambda e, p: SIZES.index(p['size']) >= SIZES.index(size) and (p['kind'] == kind
        or kind == 'CPU' or done.get(e) == p['run'])
    return bool(mine) and not stale and all(good(e, p) for e, p in mine.items())

def configurations():
    "Finished configurations of all sweeps: files named by a hash."
    return {f for f in files_in(ROOT/'.gxprism') if re.fullmatch(r'[0-9a-f]{20}\.json', f.name)
            and HERE not in f.parents}

# ------------------------------------------------ on the machine: install, device, checks

def install(wheels):
    "Folder of packages for PYTHONPATH, filled from the carried wheels where something is missing."
    missing = [m for m in NEEDED if importlib.util.find_spec(m) is None]
    found = sorted(wheels.glob('*.whl'))
    if not missing: say('packages: everything needed is installed'); return None
    if not found:
        sys.exit(f'packages: {" ".join(missing)} missing, and no wheels in '
                 f'{wheels.relative_to(ROOT)}: run `make wheels` where there is a network')
    names = hashlib.sha256(' '.join(w.name for w in found).encode()).hexdigest()[:12]
    site = Path(tempfile.gettempdir())/f'gxprism-packages-{names}'
    if not (site/'ready').exists():
        subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-index',
                        '--no-deps', '--no-compile', '--no-cache-dir',
                        '--disable-pip-version-check', '--root-user-action=ignore', '--upgrade',
                        '--target', site, *found], check=True)
        (site/'ready').touch()
    code = ('import importlib.util, sys; '
            'print(*[m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])')
    still = subprocess.run([sys.executable, '-c', code, *NEEDED],
                           env=os.environ | {'PYTHONPATH': str(site)}, capture_output=True,
                           text=True)
    if still.stdout.strip():
        sys.exit(f'packages: {still.stdout.strip()} neither installed nor among the wheels')
    sys.path.insert(0, str(site))
    say(f'packages: {len(found)} wheels installed for {" ".join(missing)}')
    return site

def environment(a, site, gpu):
    "Environment of everything that runs below."
    path = [str(ROOT), *([str(site)] if site else []),
            *filter(None, [os.environ.get('PYTHONPATH')])]
    env = os.environ | dict(PYTHONPATH=os.pathsep.join(path), GXPRISM_SIZE=a.size,
                            PYTHONWARNINGS='ignore', PYTHONUNBUFFERED='1',
                            IPYTHONDIR=str(Path(tempfile.gettempdir())/'gxprism-ipython'),
                            TRANSFORMERS_OFFLINE='1')
    if site: env['JUPYTER_PATH'] = str(site/'share'/'jupyter')
    if a.data_at: env['GXPRISM_DATA'] = str(a.data_at)
    if a.processes: env['GXPRISM_PROCESSES'] = str(a.processes)
    if gpu: env['OMP_NUM_THREADS'] = str(len(os.sched_getaffinity(0)))
    if (HERE/'commit').exists(): env['GXPRISM_COMMIT'] = (HERE/'commit').read_text().strip()
    return env

DEVICE = '''
import json, sys
try: import torch
except ImportError as e: sys.exit(f'device: torch cannot be imported ({e})')
gpu = torch.cuda.is_available()
d = dict(gpu=gpu, torch=torch.__version__, cuda=torch.version.cuda)
if gpu:
    p = torch.cuda.get_device_properties(0)
    torch.ones(8, device='cuda').sum().item()
    d |= dict(name=p.name, gib=round(p.total_memory/2**30), capability=f'{p.major}.{p.minor}',
              count=torch.cuda.device_count())
print(json.dumps(d))
'''

def device(allow_cpu, env=None):
    "Whether there is a GPU; says which."
    p = subprocess.run([sys.executable, '-c', DEVICE], env=env, capture_output=True, text=True)
    if p.returncode: sys.exit('device: ' + (p.stderr.strip().splitlines() or ['unknown error'])[-1])
    d = json.loads(p.stdout.strip().splitlines()[-1])
    if not d['gpu'] and not allow_cpu:
        sys.exit(f'device: expected a GPU, found none (torch {d["torch"]}, CUDA {d["cuda"]}); '
                 '--allow-cpu for a rehearsal')
    say('device:',
        f'{d["name"]}, {d["gib"]} GiB, capability {d["capability"]}, {d["count"]} of them'
        if d['gpu'] else 'CPU (rehearsal)',
        f'torch {d["torch"]}, CUDA {d["cuda"]}, python {sys.version.split()[0]}')
    return d['gpu']

def scan_errors(name, dtype, where, thin):
    "Relative errors of value and gradients of one scan backend against the loop in float64."
    import torch
    from gxprism.scan import scan_inputs, scan_reference, selective_scan
    x = scan_inputs(2, 133, 32, 16)
    if thin: x |= dict(dt=x['dt'][..., :4].contiguous(),
                       dt_weight=torch.randn(32, 4, generator=torch.Generator().manual_seed(1))/2)
    # as under autocast
    x = {k: v.to(dtype) if k in ('u', 'dt', 'B', 'C', 'z') else v for k, v in x.items()}
    w, out, worst = torch.randn(2, 133, 32, generator=torch.Generator().manual_seed(2)), [], 0
    for reverse in (False, True):
        def both(run, to, cast):
            y = {k: v.to(to, cast(v)).requires_grad_() for k, v in x.items()}
            r = run(**y, reverse=reverse)
            return [r.detach(), *torch.autograd.grad((r.float()*w.to(to)).sum(), list(y.values()))]
        true = both(scan_reference, 'cpu', lambda v: torch.float64)
        got = both(lambda **k: selective_scan(**k, backend=name), where, lambda v: v.dtype)
        out += [((g.cpu().double() - t).norm()/t.norm().clamp_min(1e-12)).item() for g,
                t in zip(got, true)]
    return max(e if e == e else float('inf') for e in out)

def prism_step(where, precision, genes, state=None):
    "Loss and gradients of one step of Prism, paper preset, and its parameters after AdamW."
    import torch
    from gxprism.store import Batch
    import gxprism.prism
    from gxprism.backbone import build
    torch.manual_seed(0)
    model, g = build('prism', {}), torch.Generator().manual_seed(3)
    rand = lambda *s: torch.randn(*s, generator=g)
    l, (s, r) = model.cfg.center_len, (model.cfg.n_tracks, model.cfg.n_features)
    batch = Batch(torch.randint(0, 5, (genes, l), generator=g, dtype=torch.uint8),
                  rand(genes, l, s).abs(), rand(genes, r), rand(genes), tuple('g'*genes))
    model, batch = model.to(where), batch.to(where)
    with torch.autocast(where, torch.bfloat16,
                        enabled=precision == 'bf16'): parts = model.loss(model(batch), batch)
    parts['loss'].backward()
    grads = torch.cat([p.grad.float().flatten().cpu() for p in model.parameters()])
    torch.optim.AdamW(model.parameters(), lr=5e-4).step()
    return parts['loss'].item(), grads, torch.cat([p.detach().float().flatten().cpu()
                                                   for p in model.parameters()])

def run_checks():
    "Compare kernels and one training step with the reference; exit status 1 where they differ."
    import torch
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    from gxprism.scan import available_backends
    where, failed = 'cuda' if torch.cuda.is_available() else 'cpu', 0
    def tell(what, error, most):
        nonlocal failed
        ok = error <= most
        failed += not ok
        print(f'{"ok    " if ok else "FAILED"} {what}: error {error:.1e}, at most {most:.0e}',
              flush=True)
    chosen = os.environ.get('GXPRISM_SCAN')
    for name in [chosen] if chosen else [b for b in available_backends(where) if b != 'reference']:
        for dtype, most in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
            for thin in (False, True):
                kind = str(dtype).split('.')[1] + ', thin dt'*thin
                what = f'scan {name}, {kind}, both directions, with gradients'
                try: tell(what, scan_errors(name, dtype, where, thin), most)
                except Exception as e:
                    failed += 1
                    print(f'FAILED {what}: {type(e).__name__}: {str(e)[:300]}', flush=True)
    loss, grads, _ = prism_step('cpu', 'float32', 2)
    for precision, most in (('float32', 2e-3), ('bf16', 1e-1)):
        l, g, p = prism_step(where, precision, 2)
        tell(f'Prism, paper preset, {precision} on {where}: loss',
             abs(l - loss)/abs(loss) if l == l else float('inf'), most)
        tell(f'Prism, paper preset, {precision} on {where}: gradient',
             ((g - grads).norm()/grads.norm()).item(), most)
        tell(f'Prism, paper preset, {precision} on {where}: share of parameters not finite '
             'after a step', 1 - p.isfinite().float().mean().item(), 0)
    sys.exit(bool(failed))

# ------------------------------------------------ one notebook

def execute(nb, copy, reading):
    "Execute a notebook into `copy`; exit status 0 done, 3 a run cell failed, 4 a reading cell."
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    book = nbformat.read(nb, 4)
    meta, kept, sources = dict(book.metadata), {}, [''.join(c.source) for c in book.cells]
    runs = [i for i,
            s in enumerate(sources) if book.cells[i].cell_type == 'code' and 'run' in flags(s)]
    cuda = json.loads(subprocess.run([sys.executable, '-c', DEVICE], capture_output=True,
                                     text=True).stdout or '{}').get('gpu')
    skip = {f for f,
            lacks in dict(run=reading, gpu=not cuda,
                          data=not os.environ.get('GXPRISM_DATA')).items() if lacks}
    for i, c in enumerate(book.cells):
        if c.cell_type != 'code': continue
        kept[i] = dict(c.metadata)
        tags = (['skip-execution'] if flags(sources[i]) & skip else []) + (['raises-exception']
            if runs and i > runs[-1] else [])
        if tags: c.metadata['tags'] = tags
    start = [time.time()]
    def before(cell, cell_index): start[0] = time.time()
    def after(cell, cell_index, execute_reply=None):
        if (s := time.time()
            - start[0]) > 5: print(f'cell {cell_index} of {len(book.cells)}: {s:.0f} s', flush=True)
    client = NotebookClient(book, timeout=None, kernel_name='python3',
                            resources={'metadata': {'path': str(NBS)}}, store_widget_state=False,
                            on_cell_execute=before, on_cell_executed=after)
    # the kernel and whatever it has started share a group
    def stop(*_):
        try: os.killpg(os.getpgid(client.km.provisioner.pid), signal.SIGKILL)
        except Exception: pass
        os._exit(124)
    signal.signal(signal.SIGUSR1, stop)                       # nbclient takes SIGTERM for itself
    try: client.execute()
    except (CellExecutionError, DeadKernelError) as e: print(str(e)[-3000:], flush=True); status = 3
    else: status = 0
    broken = [i for i,
              c in enumerate(book.cells)
              if any(o.output_type == 'error' for o in c.get('outputs', []))]
    for i, m in kept.items(): book.cells[i].metadata = nbformat.from_dict(m)
    book.metadata = nbformat.from_dict(meta)
    nbformat.write(book, copy)
    if not status and broken:
        for i in broken:
            o = next(o for o in book.cells[i].outputs if o.output_type == 'error')
            print(f'cell {i} fails: {o.ename}: {o.evalue[:300]}', flush=True)
        status = 4
    os.chdir(ROOT)
    from nbdev.clean import nbdev_clean
    nbdev_clean(str(copy))
    sys.stdout.flush()
    os._exit(status)

def descendants(pid):
    "Process ids of all children of a process and their children."
    parents = {}
    for f in Path('/proc').glob('[0-9]*/stat'):
        try: parents.setdefault(int(f.read_text().rsplit(')', 1)[1].split()[1]),
                                []).append(int(f.parent.name))
        except OSError: pass
    out = [pid]
    for p in out: out += parents.get(p, [])      # grows while we walk
    return out[1:]

def watched(argv, env, seconds):
    "Run a command with a time limit, its output in the log; exit status, 124 if out of time."
    p = subprocess.Popen([str(x) for x in argv], cwd=ROOT, env=env, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, errors='replace')
    echo = threading.Thread(target=lambda: [say('   ', l.rstrip()) for l in p.stdout
                                            if 'running over TCP' not in l], daemon=True)
    echo.start()
    try: status = p.wait(seconds)
    except subprocess.TimeoutExpired:
        family = [p.pid, *descendants(p.pid)]
        p.send_signal(signal.SIGUSR1)
        try: p.wait(15)
        except subprocess.TimeoutExpired: pass
        for q in family:
            try: os.kill(q, signal.SIGKILL)
            except ProcessLookupError: pass
        p.wait()
        status = 124
    echo.join(5)
    return status

class Kept:
    "Results and figures as they were, to be put back where a notebook does not finish."
    def __init__(self):
        self.files = {f: f.read_bytes() for d in (RESULTS, FIGURES) for f in files_in(d)}
    def changed(self): return [f for d in (RESULTS, FIGURES) for f in files_in(d)
                               if self.files.get(f) != f.read_bytes()]
    def put_back(self):
        for f in self.changed():
            if f in self.files: f.write_bytes(self.files[f])
            else: f.unlink()

def one(nb, size, kind, seconds, env):
    "Execute one notebook; (status, remark). Nothing in the tree changes unless it succeeds."
    if bad := [f'{e} is {p["size"]} on {p["kind"]}' for e,
               p in provenance(nb).items() if worse(size, kind, p)]:
        return 'refused', f'{", ".join(bad)}: not replaced by {size} on {kind}'
    (HERE/'executing').mkdir(parents=True, exist_ok=True)
    copy, kept, had = HERE/'executing'/nb.name, Kept(), configurations()
    say(f'{nb.stem}: at {size} size, at most {seconds/60:.1f} minutes')
    status = watched([sys.executable, __file__, '--execute', nb.name, copy], env, seconds)
    swept = f'{len(configurations() - had)} configurations finished, {len(configurations())} stored'
    if status == 0:
        os.replace(copy, nb)
        if bad := [s for s in record().stale()
                   if s.split('.json')[0] in provenance(nb)]: return 'failed', '; '.join(bad)
        return 'done', swept
    aside = HERE/'aside'/nb.stem
    shutil.rmtree(aside, ignore_errors=True)
    # the numbers are not lost: they go home beside the tree
    if status in (3, 4) and copy.exists():
        aside.mkdir(parents=True)
        os.replace(copy, aside/nb.name)
        for f in kept.changed(): shutil.copy(f, aside/f.name)
    kept.put_back()
    if status == 124: return 'out of time', f'{swept}; run again to continue'
    if status == 4: return 'claims fail', f'{swept}; numbers in aside/{nb.stem}, tree unchanged'
    return 'failed', f'exit status {status}; {swept}; see the log'

# ------------------------------------------------ what goes home

def keepsakes(root, limit):
    "Files below .gxprism by which a later call continues: small ones first, whole runs or none."
    groups, runs = [], {f.parent for f in files_in(root) if f.name == 'config.json'}
    for f in files_in(root):
        if {'gpu', 'store',
            'cells'} & set(f.relative_to(root).parts[:-1]) or runs & set(f.parents): continue
        if f.stat().st_size < 1e6: groups.append((0, [f]))
    lost = []     # a cell line drawn anew is another data set: what was trained on it stays with it
    for d in [d for d in sorted(root.rglob('cells')) if (d/'genes.tsv').exists()]:
        if sum(f.stat().st_size
               for f in files_in(d)) < limit/2: groups.append((1, files_in(d))); continue
        lost += [m.parent.parent for m in d.parent.glob('*/store/manifest.json')
                 if sha256(d/'genes.tsv') in m.read_text()]
    inside = lambda f: any(d in f.parents for d in lost)
    groups, runs = [g for g in groups if not inside(g[1][0])], {r for r in runs if not inside(r)}
    for r in sorted(runs):
        if {'gpu', 'store'} & set(r.relative_to(root).parts): continue
        whole = files_in(r)
        weights = [f for f in whole if f.suffix == '.safetensors']
        done = (r/'done.json').exists() and (r/'predictions.parquet').exists()
        groups += [(1, [f for f in whole if f not in weights]),
                   (3, weights)] if done else [(2, whole)]
    taken, left, total = [], 0, 0
    for _, g in sorted(groups,
                       key=lambda g: (g[0], sum(f.stat().st_size for f in g[1]), str(g[1]))):
        size = sum(f.stat().st_size for f in g)
        if total + size > limit: left += len(g); continue
        taken, total = taken + g, total + size
    return taken, left

def pack(path, files, base, gz=False):
    "Write a tar file under a temporary name and rename it."
    tmp = path.with_name('.' + path.name)
    with tarfile.open(tmp, 'w:gz' if gz else 'w') as t:
        for f in files: t.add(f, str(f.relative_to(base)))
    os.replace(tmp, path)

def collect(out, rows, a, good):
    "Fill the output folder: summary, log, results, and the state by which a later call continues."
    out.mkdir(parents=True, exist_ok=True)
    for f in out.glob('state-*.tar'): f.unlink()
    text = table(rows, ('notebook', 'status', 'seconds', 'remark'))
    write(out/'summary.md', text + '\n')
    mine = {e for nb in good for e in provenance(nb)}
    results = [*good, *(RESULTS/f'{e}.json' for e in mine), *(files_in(FIGURES) if good else [])]
    pack(out/'results.tar.gz', results + files_in(HERE/'aside'), ROOT, gz=True)
    files, left = keepsakes(ROOT/'.gxprism', int(a.state_mb*1e6))
    files += [HERE/'done.json'] if (HERE/'done.json').exists() else []
    part, size, n = [], 0, 0
    for f in [*files, None]:
        if part and (f is None or size + f.stat().st_size > a.part_mb*1e6):
            n += 1
            pack(out/f'state-{n}.tar', part, ROOT)
            part, size = [], 0
        if f: part.append(f); size += f.stat().st_size
    say(f'collected: {len(good)} notebooks, {len(mine)} results, {len(files)} files of state '
        f'({megabytes(*files):.1f} MB, {left} files left out)')
    lines = say(f'output: {len(files_in(out))} files, {megabytes(*files_in(out)):.1f} MB')
    write(out/'log.txt', '\n'.join(lines) + '\n')
    return text

def members(t):
    "The plain files of an archive, with names that stay below the folder they are unpacked in."
    for m in t.getmembers():
        if not m.isfile() or m.name.startswith('/') or '..' in Path(m.name).parts:
            raise ValueError(f'{m.name}: expected a plain file below the tree')
        yield m

def restore(folder):
    "Unpack the state that an earlier call left, where nothing newer is there."
    n = 0
    for f in sorted(folder.glob('state-*.tar')):
        with tarfile.open(f) as t:
            for m in members(t):
                if m.name.startswith('.gxprism/') and not (ROOT/m.name).exists():
                    (ROOT/m.name).parent.mkdir(parents=True, exist_ok=True)
                    (ROOT/m.name).write_bytes(t.extractfile(m).read())
                    n += 1
    if n: say(f'state: {n} files of earlier calls restored')

def take(folder):
    "Bring home what came back: results and notebooks that are worth more than ours, and the state."
    folder, new = Path(folder), {}
    with tarfile.open(folder/'results.tar.gz') as t: new = {m.name: t.extractfile(m).read()
        for m in members(t)}
    heads, refused = {k: json.loads(v)['provenance'] for k,
                      v in new.items() if k.startswith('data/results/')}, set()
    for k, p in heads.items():
        nb, why = NBS/p['notebook'], None
        old = json.loads((ROOT/k).read_text())['provenance'] if (ROOT/k).exists() else None
        theirs = json.loads(new['nbs/' + nb.name])
        if old and worse(p['size'], p['kind'], old):
            why = f'ours is {old["size"]} on {old["kind"]}, this one {p["size"]} on {p["kind"]}'
        elif record().source_fingerprint(nb) != p['source']:
            why = 'its run and configuration cells have changed here'
        if why: refused.add(nb.name); print(f'not taken: {k}: {why}'); continue
        write(ROOT/k, new[k].decode())
        ours = json.loads(nb.read_text())
        same = [''.join(c['source']) for c in ours['cells']] == [''.join(c['source'])
            for c in theirs['cells']]
        if same: write(nb, new['nbs/' + nb.name].decode())
        print(f'taken: {k}'
              + ('' if same
                 else f'; {nb.name} has been edited here: python .ci/gpu.py --read {nb.name[:2]}'))
    for k, v in new.items():
        if (k.startswith('figures/') and not refused) or '/aside/' in k:
            (ROOT/k).parent.mkdir(parents=True, exist_ok=True)
            (ROOT/k).write_bytes(v)
    state = HERE/'state'
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    for f in folder.glob('state-*.tar'): shutil.copy(f, state/f.name)
    print(f'{len(files_in(state))} parts of state in {state.relative_to(ROOT)}: '
          'carry them along to continue')
    restore(state)
    record()
    from gxprism.study import gather, study_of, work_folder
    for nb in sorted(NBS.glob('4[0-9]_exp_*.ipynb')):       # trainings are added, none is replaced
        try: study = study_of(nb)
        except ValueError: continue
        n = gather(study, work_folder(study.name), notebook=nb.name,
                   source=record().source_fingerprint(nb))
        print(f'{study.name}: {n} trainings added')

def read_only(number):
    "Execute the reading cells of a notebook in place; the run cells keep what they have."
    nb, copy = notebook(number), HERE/'executing'/f'{number}.ipynb'
    copy.parent.mkdir(parents=True, exist_ok=True)
    env = os.environ | {'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'}
    status = watched([sys.executable, __file__, '--execute', nb.name, copy, '--reading'], env, 600)
    if status == 0: os.replace(copy, nb)
    print(f'{nb.name}: '
          + ('reading cells executed' if status == 0 else f'left as it was, exit status {status}'))
    return status

# ------------------------------------------------ all of it

def scratch(to):
    "A copy of the tree without results, for rehearsals; the one that is there is continued."
    to = Path(to).resolve()
    if not (to/'settings.ini').exists():
        no = shutil.ignore_patterns('.git', '.venv', '.gxprism', '__pycache__', '*.egg-info',
                                    'build', 'dist')
        shutil.copytree(ROOT, to, ignore=no, dirs_exist_ok=True)
        for f in files_in(to/'data'/'results'): f.unlink()
    return to

def all_of_it(a):
    "Install, check, execute, collect; exit status 0 if nothing failed."
    start, rows, good = time.monotonic(), [], []
    left = lambda: 60*a.budget - 20 - (time.monotonic() - start)              # 20 s to collect
    gpu = device(a.allow_cpu)
    env = environment(a, install(HERE/'wheels'), gpu)
    kind = 'GPU' if gpu else 'CPU'
    if a.data_at and (a.data_at/'sha256.json').exists():
        if bad := verify_data(a.data_at): sys.exit(f'data: checksum differs: {", ".join(bad)}')
        say('data: checksums verified')
    elif not a.data_at: say('data: none, cells that need them use what is simulated')
    restore(HERE/'state')
    if not a.no_checks:
        say('checks, before anything is timed')
        if status := watched([sys.executable, __file__, '--checks'], env, max(30, left())):
            say(f'checks failed (exit status {status}): nothing is executed')
            collect(a.out,
                    [('checks', 'failed', round(time.monotonic() - start), 'nothing executed')], a,
                    [])
            return 1
    print(table(plan(a.minutes, a.only, a.budget),
                ('call', 'notebook', 'allowed min', 'estimated min', 'full size', 'fits')))
    done = json.loads((HERE/'done.json').read_text()) if (HERE/'done.json').exists() else {}
    for k in a.minutes:
        if a.only and k not in a.only: continue
        nb, t = notebook(k), time.monotonic()
        if nb is None: rows.append((k, 'not there', 0, '')); continue
        if finished(nb, a.size, kind, done): status, remark = 'already done', ''
        elif left() < min(30,
                          60*a.minutes[k]): status, remark = 'no time left', 'run again to continue'
        else: status, remark = one(nb, a.size, kind, min(60*a.minutes[k], left()), env)
        if status == 'done':
            done |= {e: p['run'] for e, p in provenance(nb).items()}
            write(HERE/'done.json', json.dumps(done))
        if status in ('done', 'already done'): good.append(nb)
        rows.append((nb.stem, status, round(time.monotonic() - t), remark))
        say(f'{nb.stem}: {status}, {rows[-1][2]} s. {remark}')
        if status not in ('already done', 'no time left'): collect(a.out, rows, a, good)
    print('\n' + collect(a.out, rows, a, good))
    return any(r[1] not in FINE for r in rows)

def arguments(words):
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--wheels', action='store_true',
                   help='download the wheels that the machine lacks')
    p.add_argument('--data', metavar='FOLDER', help='copy the real data')
    p.add_argument('--plan', action='store_true', help='print what will run')
    p.add_argument('--take', metavar='FOLDER', help='bring home an output folder')
    p.add_argument('--read', metavar='NN', help='execute the reading cells of a notebook')
    p.add_argument('--only', nargs='+', default=[], metavar='NN',
                   help='numbers of the notebooks to execute')
    p.add_argument('--minutes', nargs='+', default=[], metavar='NN=M',
                   help='minutes a notebook may take')
    p.add_argument('--budget', type=float, default=9.5,
                   help='minutes of the whole call (default 9.5)')
    p.add_argument('--size', choices=SIZES, default='full',
                   help='size of the experiments (default full)')
    p.add_argument('--processes', type=int, help='trainings that share the GPU (GXPRISM_PROCESSES)')
    p.add_argument('--out', type=Path, default=Path(os.environ.get('OUT') or HERE/'out'),
                   help='output folder')
    p.add_argument('--part-mb', type=float, default=15,
                   help='largest part of the state (default 15 MB)')
    p.add_argument('--state-mb', type=float, default=12, help='most state to keep (default 12 MB)')
    p.add_argument('--allow-cpu', action='store_true', help='rehearse where there is no GPU')
    p.add_argument('--no-checks', action='store_true', help='leave out the correctness checks')
    p.add_argument('--scratch', metavar='FOLDER', help='work on a copy of the tree without results')
    p.add_argument('--checks', action='store_true', help=argparse.SUPPRESS)
    p.add_argument('--execute', nargs=2, help=argparse.SUPPRESS)
    p.add_argument('--reading', action='store_true', help=argparse.SUPPRESS)
    a = p.parse_args(words)
    a.minutes = MINUTES | {k: float(m) for k, _, m in (w.partition('=') for w in a.minutes)}
    given = os.environ.get('GXPRISM_DATA')
    a.data_at = HERE/'data' if (HERE/'data').exists() else Path(given) if given else None
    a.out = a.out.resolve()
    return a

def main(words):
    a = arguments(words)
    if a.wheels: return get_wheels()
    if a.data:
        get_data(a.data)
        head = subprocess.run(['git', 'rev-parse', '--short=12', 'HEAD'], cwd=ROOT,
                              capture_output=True, text=True)
        if not head.returncode: write(HERE/'commit', head.stdout)
        return
    if a.plan: return print_plan(a)
    if a.take: return take(a.take)
    if a.read: return read_only(a.read)
    if a.checks: return run_checks()
    if a.execute: return execute(NBS/a.execute[0], a.execute[1], a.reading)
    if a.scratch:
        to, i = scratch(a.scratch), words.index('--scratch')
        return subprocess.run([sys.executable, to/'.ci'/'gpu.py', *words[:i], *words[i + 2:]],
                              cwd=to).returncode
    return all_of_it(a)

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
