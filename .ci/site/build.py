"""The book as a site: `python .ci/site/build.py [NAME ...]`, from notebooks with saved outputs.

Nothing is executed but `gxprism --help`. Pages are assembled in `_docs/src`, where a rule says
of each cell whether it is shown, folded or left out, and built by Sphinx into `_docs/html`.
Words choose notebooks and modules by name, for a quick look while writing.
"""
import ast, html, io, json, os, re, shutil, subprocess, sys, textwrap, time, tokenize
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DOCS = ROOT/'_docs'
SRC, OUT = DOCS/'src', DOCS/'html'
PARTS = {'The argument': ('00', '10', '14', '16'), 'From files to tensors': '01', 'Models': '15',
         'Experiments': '40', 'Evidence': '50'}
ABOUT = dict(CONTRIBUTING='Changing it', CHANGELOG='What moved', SECURITY='Security',
             LICENSE='Licence')
LONG = dict(exported=22, figure=6, checks=8, other=16)    # lines that a reader is not stopped by

# --- notebooks

def text(cell): return ''.join(cell['source'])

class Book:
    "One notebook: its name, title, promise, module, and cells."
    def __init__(self, path):
        self.path, self.name = path, path.stem
        self.nb = json.loads(path.read_text())
        self.cells = self.nb['cells']
        first = text(self.cells[0])
        self.title = re.search(r'^# (.+)', first)[1].strip()
        promise = re.search(r'^> (.+?)(?:\n\n|\Z)', first, re.M | re.S)
        promise = re.sub(r'\n>? ?', ' ', promise[1]).strip() if promise else ''
        self.promise = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', promise)
        self.number, _, self.short = self.name.partition('_')
        self.short = self.short.removeprefix('exp_').replace('_', ' ')
        said = (re.search(r'^#\|\s*default_exp\s+(\S+)', text(c), re.M) for c in self.cells)
        self.module = next((m[1] for m in said if m), None)
        words = sum(len(text(c).split()) for c in self.cells if c['cell_type'] == 'markdown')
        self.minutes = max(1, round(words/225))

    @property
    def part(self):
        if self.number in PARTS['The argument']: return 'The argument'
        later = [p for p, start in list(PARTS.items())[1:] if self.number >= start]
        return later[-1]

def directives(source): return set(re.findall(r'^#\|\s*([\w-]+(?:: \w+)?)', source, re.M))

def said_by(source):
    "What a directive `#| fig-alt: ...` says, or None."
    m = re.search(r'^#\|\s*fig-(?:alt|cap):\s*(.+)$', source, re.M)
    return m and m[1].strip().strip('"\'')

def defined(source):
    "Names and first sentences of what a cell defines at its top."
    try: tree = ast.parse(source)
    except SyntaxError: return []
    return [(n.name, (ast.get_docstring(n) or '').split('\n')[0]) for n in tree.body
            if isinstance(n, (ast.FunctionDef, ast.ClassDef))]

def only(source, kinds, calls=None):
    "Does a cell consist of statements of these kinds (and calls of these names) only?"
    try: body = ast.parse(source).body
    except SyntaxError: return False
    name = lambda n: getattr(getattr(getattr(n, 'value', None), 'func', None), 'id', '')
    return bool(body) and all(isinstance(n, kinds) or calls and re.match(calls, name(n))
                              for n in body)

def fold(source, said, outputs):
    "Label of the fold that a cell's code goes behind, or None where the story needs to see it."
    lines = [l for l in source.splitlines() if l.strip()]
    if only(source, (ast.Import, ast.ImportFrom)): return 'Imports'
    names, n = defined(source), len(lines)
    figure = any('image/png' in o.get('data', {}) for o in outputs)
    if figure and n > LONG['figure']: return f'Code of the figure, {n} lines'
    kind = 'exported' if 'export' in said else 'checks' if not outputs and not names else 'other'
    if n <= LONG[kind]: return None
    if names:
        told = '; '.join(f'{k}: {d.rstrip(".")}' if d else k for k, d in names[:3])
        return f'{told} ({n} lines)'
    if kind == 'checks' and re.search(r'\btest_|^assert', source, re.M): return f'Checks, {n} lines'
    first = re.match(r'# (.+)', source)
    return f'{first[1][:1].upper() + first[1][1:] if first else "Code"}, {n} lines'

def spoken(markdown):
    "Markdown as a sentence for those who do not see it."
    s = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', markdown)
    s = re.sub(r'[`*_$>#|]|\\(?:mathrm|text)?', '', s)
    return re.sub(r'\s+', ' ', s).strip()

def alternative(source, above, heading, outputs=()):
    "What a figure shows: its own words, the titles that it is drawn with, or the text above it."
    if own := said_by(source): return own
    drawn = [''.join(o['data'].get('text/plain', '')) for o in outputs
             if 'image/png' in o.get('data', {})]
    if drawn and not any(re.match(r'<Figure|<Axes|A figure\.', d) for d in drawn):
        return '. '.join([spoken(heading), *map(spoken, drawn)])
    try: tree = ast.parse(source)
    except SyntaxError: return spoken(heading)
    titles = []
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        named = [k.value for k in call.keywords if k.arg in ('title', 'suptitle')]
        if getattr(call.func, 'attr', '') in ('set_title', 'suptitle'): named += call.args[:1]
        for v in named:
            if isinstance(v, ast.Constant) and isinstance(v.value, str) and len(v.value) > 3:
                titles.append(' '.join(v.value.split()))
    sentences = re.split(r'(?<=[.:?])\s+', spoken(above))
    drawn = r'\b(figure|panel|dot|bar|line|curve|map)s?\b'
    told = [s for s in sentences if re.search(drawn, s, re.I)]
    said = [s.strip(' .:;,') for s in (spoken(heading), *titles, *(told or sentences)[:2])]
    out = '. '.join(dict.fromkeys(s for s in said if s)) + '.'
    return out if len(out) < 420 else out[:400].rsplit(' ', 1)[0] + ' …'

def where(b):
    "One line under the title: time, module, download, how to open it."
    module = (f'<a href="../api/{b.module}.html">gxprism.{b.module}</a>' if b.module else '')
    take = f'<a href="../notebooks/{b.path.name}" download>download the notebook</a>'
    lab = f'open it: <code>jupyter lab nbs/{b.path.name}</code>'
    items = ''.join(f'<li>{x}</li>' for x in (f'{b.minutes} min', module, take, lab) if x)
    return f'\n\n<ul class="where">{items}</ul>\n\n'

def local(markdown, up):
    "Links of a notebook or of the README, seen from their page."
    for f in ABOUT:
        markdown = re.sub(rf'\]\((?:\.\./)?{f}(?:\.md)?(#[^)]*)?\)',
                          rf']({up}about/{f.lower()}.md\1)', markdown)
    markdown = re.sub(r'\]\((?:\.\./)?README\.md(#[^)]*)?\)', rf']({up}index.md\1)', markdown)
    markdown = re.sub(r'\]\((?:\.\./)?CITATION\.cff\)', rf']({up}about/citation.md)', markdown)
    if up == '': markdown = re.sub(r'\]\(index\.ipynb\)', '](index.md)', markdown)
    return markdown.replace('](index.ipynb)', f']({up}index.md)')

def linked(output):
    "A saved output whose links to notebooks lead to their pages."
    data = {k: re.sub(r'(\]\(|href=")(\w+)\.ipynb', r'\1\2.html', ''.join(v))
            if k in ('text/markdown', 'text/html') else v
            for k, v in output.get('data', {}).items()}
    return output | (dict(data=data) if data else {})

def page(b):
    "A notebook as it is read: directives gone, cells hidden or folded, figures described."
    cells, heading, above, symbols = [], b.title, '', set()
    for i, c in enumerate(b.cells):
        source = text(c)
        if c['cell_type'] == 'markdown':
            source = re.sub(r'^(\$\$.+?\$\$)$', r'\n\1\n', source, flags=re.M | re.S)
            if i == 0: source = source.rstrip() + where(b)
            for h in re.findall(r'^#{2,} (.+)', source, re.M): heading = h
            above = re.sub(r'^#+ .*$', '', source, flags=re.M) or above
            cells.append(dict(cell_type='markdown', id=c['id'], metadata={},
                              source=local(source, '../')))
            continue
        said = directives(source)
        if 'hide' in said: continue
        shown = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip('\n')
        outputs = [linked(o) for o in c['outputs'] if o.get('name') != 'stderr']
        if 'default_exp' in {s.split(':')[0].split()[0] for s in said} and not shown: continue
        if not shown.strip() and not outputs: continue
        meta = dict(tags=[], mystnb={})
        if 'echo: false' in said: meta['tags'].append('remove-input')
        elif label := fold(shown, said, outputs):
            label = label.replace('{', '{{').replace('}', '}}')
            meta['tags'].append('hide-input')
            meta['mystnb'] |= dict(code_prompt_show=label, code_prompt_hide=label)
        if any('image/png' in o.get('data', {}) for o in outputs):
            alt = alternative(source, above, heading, outputs)
            meta['mystnb']['image'] = dict(alt=alt)
        names = [n for n, _ in defined(shown) if not n.startswith('_') and n not in symbols]
        if 'export' in said and names:
            symbols |= set(names)
            spans = ''.join(f'<span id="def-{n}"></span>' for n in names)
            cells.append(dict(cell_type='markdown', id=f'{c["id"]}-at', metadata={}, source=spans))
        cells.append(dict(c, source=shown, outputs=outputs, metadata=meta))
    meta = dict(kernelspec=dict(name='python3', display_name='python3', language='python'),
                language_info=dict(name='python', pygments_lexer='python'))
    return dict(b.nb, cells=cells, metadata=meta)

# --- modules

def comments(source):
    "Comments by line; those that have a line to themselves are marked."
    lines = source.splitlines()
    alone = lambda t: not lines[t.start[0] - 1][:t.start[1]].strip()
    return {t.start[0]: (t.string.lstrip('# ').strip(), alone(t))
            for t in tokenize.generate_tokens(io.StringIO(source).readline)
            if t.type == tokenize.COMMENT and not t.string.startswith('# %%')}

def comment_of(first, last, said, floor):
    "The docment of something on lines first to last: behind it, or on lines of its own above."
    above, line = [], first - 1
    while line > floor and line in said and said[line][1]:
        above.insert(0, said[line][0]); line -= 1
    behind = [said[l][0] for l in range(first, last + 1) if l in said and not said[l][1]]
    return ' '.join(above + behind)

def escaped(s):
    "A comment as Markdown: what stands in backticks stays, the rest means itself."
    parts = re.split(r'(`[^`]*`)', s)
    parts[::2] = [re.sub(r'([*\[\]<>|_])', r'\\\1', p) for p in parts[::2]]
    return ''.join(parts)

def message(node):
    "The text of an error, its values named in braces."
    if isinstance(node, ast.Constant): return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return ''.join(v.value if isinstance(v, ast.Constant) else f'{{{ast.unparse(v.value)}}}'
                       for v in node.values)
    if isinstance(node, ast.BinOp): return message(node.left) + message(node.right)
    return '…'

def raised(node):
    "Errors that a function raises itself: kind and message."
    out = {}
    for n in ast.walk(node):
        error = n.exc if isinstance(n, ast.Raise) else None
        if isinstance(error, ast.Call) and isinstance(error.func, ast.Name):
            said = message(error.args[0]) if error.args else ''
            out[error.func.id, ' '.join(said.split())] = None
    return list(out)

def code(s): return f'`` {s} ``' if '`' in s else f'`{s}`'

def fields(node, said, skip=0):
    "Parameters and result of a function as a list of Sphinx fields."
    a, out = node.args, []
    every = [*a.posonlyargs, *a.args]
    defaults = [None]*(len(every) - len(a.defaults)) + list(a.defaults)
    every = list(zip(every, defaults))[skip:]
    every += [(a.vararg, None)]*bool(a.vararg) + list(zip(a.kwonlyargs, a.kw_defaults))
    every += [(a.kwarg, None)]*bool(a.kwarg)
    floor = node.lineno
    for p, default in every:
        last = max(p.end_lineno, default.end_lineno if default is not None else 0)
        note = comment_of(p.lineno, last, said, floor)
        floor = last
        if note: out.append(f':param {p.arg}: {escaped(note)}')
    end = node.body[0].lineno
    if node.returns is not None:
        first, last = node.returns.lineno, node.returns.end_lineno
    else:
        first = last = max(floor, end - 1)
    note = comment_of(first, last, said, floor) if last > floor else ''
    if note: out.append(f':returns: {escaped(note)}')
    return out

def signature(node, skip=0):
    args = ast.parse('def f(): 0').body[0].args
    a = node.args
    left = [*a.posonlyargs, *a.args][skip:]
    args = ast.arguments(posonlyargs=[], args=left, vararg=a.vararg, kwonlyargs=a.kwonlyargs,
                         kw_defaults=a.kw_defaults, kwarg=a.kwarg,
                         defaults=a.defaults[max(0, len(a.defaults) - len(left)):])
    back = f' -> {ast.unparse(node.returns)}' if node.returns is not None else ''
    return f'({ast.unparse(args)}){back}'.replace('\n', ' ')

def decorated(node, *names):
    return any(ast.unparse(d).split('(')[0].split('.')[-1] in names for d in node.decorator_list)

def block(kind, head, body, depth, options=()):
    fence = '`'*depth
    opts = ''.join(f':{o}\n' for o in options)
    return f'{fence}{{py:{kind}}} {head}\n{opts}\n{body}\n{fence}\n'

def function(node, said, source, kind='function', skip=0, depth=5, link=''):
    body = [ast.get_docstring(node) or '', '\n'.join(fields(node, said, skip)
            + [f':raises {k}: {code(m) if m else ""}' for k, m in raised(node)])]
    body += [link, source_of(node, source)]
    options = ['classmethod:'] if decorated(node, 'classmethod') else []
    options += ['staticmethod:'] if decorated(node, 'staticmethod') else []
    if decorated(node, 'property', 'cached_property'):
        return block('property', node.name, '\n\n'.join(body), depth)
    return block(kind, node.name + signature(node, skip), '\n\n'.join(body), depth, options)

def source_of(node, source):
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    lines = source.splitlines()[first - 1:node.end_lineno]
    return ('```{raw} html\n<details class="source"><summary>Source</summary>\n```\n\n'
            f'````python\n{textwrap.dedent(chr(10).join(lines))}\n````\n\n'
            '```{raw} html\n</details>\n```\n')

def klass(node, said, source, patched, link):
    body, init = [ast.get_docstring(node) or ''], None
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    init = next((m for m in methods if m.name == '__init__'), None)
    floor, out = node.lineno, []
    for n in node.body:
        if isinstance(n, ast.AnnAssign) and not n.target.id.startswith('_'):
            note = comment_of(n.lineno, n.end_lineno, said, floor)
            floor = n.end_lineno
            kind = ast.unparse(n.annotation)
            given = f' = {ast.unparse(n.value)}' if n.value is not None else ''
            out.append(f':param {n.target.id}: {code(kind + given)} {escaped(note)}')
    if init: out += fields(init, said, 1)
    out += [f':raises {k}: {code(m) if m else ""}'
            for m in methods if m.name in ('__init__', '__post_init__') for k, m in raised(m)]
    body += ['\n'.join(out), link]
    for m in [*methods, *patched]:
        if not m.name.startswith('_'):
            static = decorated(m, 'staticmethod')
            body.append(function(m, said, source, 'method', 0 if static else 1))
    body.append(source_of(node, source))
    head = node.name + (signature(init, 1).partition(' -> ')[0] if init else '')
    return block('class', head, '\n\n'.join(body), 6)

def module_page(path, book):
    "Every public name of a module, as Markdown, and the names."
    source = path.read_text()
    tree, said = ast.parse(source), comments(source)
    public = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)
                   and getattr(n.targets[0], 'id', '') == '__all__'), [])
    patched = {}
    for n in tree.body:
        if isinstance(n, ast.FunctionDef) and decorated(n, 'patch'):
            patched.setdefault(ast.unparse(n.args.args[0].annotation), []).append(n)
    lines = [f'# gxprism.{path.stem}', ast.get_docstring(tree) or '',
             f'Explained in [{book.number} {book.title}](../nbs/{book.path.name}).',
             f'```{{py:module}} gxprism.{path.stem}\n```']
    entries, seen = [], []
    for n in tree.body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in public:
            if isinstance(n, ast.FunctionDef) and decorated(n, 'patch'): continue
            link = (f'<a class="told" href="../nbs/{book.name}.html#def-{n.name}">'
                    f'Explained in {book.number} {html.escape(book.short)}</a>')
            first, made = (ast.get_docstring(n) or '').split('\n')[0], [n.name]
            entries.append(function(n, said, source, link=link)
                           if isinstance(n, ast.FunctionDef)
                           else klass(n, said, source, patched.get(n.name, []), link))
        elif isinstance(n, (ast.Assign, ast.AnnAssign)):
            targets = n.targets if isinstance(n, ast.Assign) else [n.target]
            made = [t.id for s in targets for t in getattr(s, 'elts', [s])
                    if isinstance(t, ast.Name) and t.id in public]
            first = comment_of(n.lineno, n.end_lineno, said, n.lineno - 3)
            shown = '\n'.join(source.splitlines()[n.lineno - 1:n.end_lineno][:14])
            body = f'{escaped(first)}\n\n````python\n{shown}\n````'
            entries += [block('data', k, body, 5) for k in made]
        else: continue
        for k in made:
            if k in seen: continue
            seen.append(k)
            lines.append(f'- [`{k}`](#gxprism.{path.stem}.{k}) {escaped(first)}')
    listed = [l for l in lines if l.startswith('- [')]
    lines = [l for l in lines if not l.startswith('- [')]
    return '\n\n'.join([*lines, '\n'.join(listed), *entries]) + '\n', seen

# --- the other pages

def command_line():
    "`--help` of the program and of each of its commands, as they are printed."
    env = os.environ | dict(COLUMNS='80', PYTHONPATH=str(ROOT), NO_COLOR='1')
    def ask(*argv):
        ask = 'import sys; from gxprism.cli import main; main(sys.argv[1:])'
        ask = [sys.executable, '-c', ask, *argv, '--help']
        p = subprocess.run(ask, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        return p.stdout
    top = ask()
    commands = re.findall(r'^    ([a-z][\w-]*)\s', top, re.M)
    out = ['# The command line', 'What `gxprism --help` prints, and what each command says of '
           'itself. The same from Python stands in [39 cli](nbs/39_cli.ipynb).',
           f'```text\n{top}```']
    for c in commands: out.append(f'## gxprism {c}\n\n```text\n{ask(c)}```')
    return '\n\n'.join(out) + '\n'

def contents(books):
    "The reading order, with the promise of every notebook."
    out = []
    for part in PARTS:
        out.append(f'### {part}\n')
        out += [f'- [{b.number} {b.title}](nbs/{b.path.name}): {b.promise}'
                for b in books if b.part == part]
        out.append('')
    return '\n'.join(out)

def trees(books, modules):
    "The sidebar: parts of the book, modules, the rest."
    out = []
    def tree(caption, entries):
        if entries: out.append('```{toctree}\n:hidden:\n:caption: ' + caption + '\n\n'
                               + '\n'.join(entries) + '\n```')
    for part in PARTS:
        tree(part, [f'{b.number} {b.short} <nbs/{b.name}>' for b in books if b.part == part])
    tree('Reference', ['cli', *(f'{m} <api/{m}>' for m in modules)])
    tree('The project', ['reproduce', *(f'{t} <about/{f.lower()}>' for f, t in ABOUT.items()),
                         'How to cite <about/citation>'])
    return '\n\n'.join(out)

def front(books, modules):
    "The README as the front page: its doors as cards, its list of notebooks with their promises."
    s = (ROOT/'README.md').read_text()
    cards = [('Read the argument', 'nbs/00_question.ipynb', 'Genes, chromatin, and the puzzle.'),
             ('Use it on your data', 'nbs/38_your_data.ipynb',
              "From a laboratory's files to a report."),
             ('Reproduce the paper', 'reproduce.md', 'Every claim, and the command that tests it.'),
             ('Add your own', 'nbs/37_add_your_own.ipynb',
              'A model, a track, a metric, in fifteen lines.')]
    doors = '{.doors}\n' + '\n'.join(f'- [{t}]({to})\\\n  {d}' for t, to, d in cards)
    s, n = re.subn(r'^\[Read the argument\].*$', lambda m: doors, s, count=1, flags=re.M)
    assert n, 'README.md: expected its line of doors, which begins with [Read the argument]'
    listed = r'(?:^- \*\*[^*]+\*\*: \[\d\w* .*\n)+'
    s, n = re.subn(listed, lambda m: contents(books), s, count=1, flags=re.M)
    assert n, 'README.md: expected its list of notebooks'
    return local(s, '') + '\n\n' + trees(books, modules)

def reproduce(books):
    "The section of the README, the commands of the Makefile, and the claims."
    s = (ROOT/'README.md').read_text()
    told = re.search(r'^## Reproduce\n+(.+?)\n\n', s, re.M | re.S)[1]
    make = [l[2:] for l in (ROOT/'Makefile').read_text().splitlines() if l.startswith('# make')]
    claims = [f'- [{b.number} {b.title}](nbs/{b.path.name}): {b.promise}' for b in books
              if b.part in ('Experiments', 'Evidence')]
    return local('\n\n'.join(['# Reproduce the paper', told, '## Commands',
                              '```text\n' + '\n'.join(make) + '\n```', '## Claim by claim',
                              '\n'.join(claims)]), '') + '\n'

def assemble(words):
    chosen = lambda name: not words or any(w in name for w in words)
    books = [Book(p) for p in sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))]
    books = [b for b in books if b.part == 'The argument'] + [b for b in books
                                                             if b.part != 'The argument']
    by_module = {b.module: b for b in books if b.module}
    modules = [b.module for b in sorted(books, key=lambda b: b.name) if b.module]
    new, symbols = {}, {}
    for m in modules:
        new[f'api/{m}.md'], names = module_page(ROOT/'gxprism'/f'{m}.py', by_module[m])
        symbols |= {f'gxprism.{m}': f'api/{m}.html'}
        for k in names:                                # a name of two modules leads nowhere
            symbols[k] = '' if k in symbols else f'api/{m}.html#gxprism.{m}.{k}'
    for b in books: new[f'nbs/{b.path.name}'] = json.dumps(page(b), ensure_ascii=False, indent=1)
    if words:
        new = {k: v for k, v in new.items() if chosen(Path(k).stem)}
        books = [b for b in books if f'nbs/{b.path.name}' in new]
        modules = [m for m in modules if f'api/{m}.md' in new]
    new |= {'index.md': front(books, modules), 'cli.md': command_line(),
            'reproduce.md': reproduce(books)}
    for f in ABOUT:
        p = next(p for p in (ROOT/f, ROOT/f'{f}.md') if p.exists())
        s = p.read_text()
        new[f'about/{f.lower()}.md'] = (f'# Licence\n\n```text\n{s}```\n' if f == 'LICENSE'
                                        else local(re.sub(r'\]\(nbs/', '](../nbs/', s), '../'))
    cite = (ROOT/'CITATION.cff').read_text()
    new['about/citation.md'] = f'# How to cite\n\n```yaml\n{cite}```\n'
    new['symbols.json'] = json.dumps(symbols, sort_keys=True)
    new['conf.py'] = (HERE/'conf.py').read_text()
    for f in ('book.css', 'book.js'): new[f'_static/{f}'] = (HERE/f).read_text()
    for name, s in new.items():                       # a page that is as it was is not built again
        p = SRC/name
        p.parent.mkdir(parents=True, exist_ok=True)
        if not p.exists() or p.read_text() != s: p.write_text(s)
    for p in [*SRC.rglob('*.md'), *SRC.rglob('*.ipynb')]:
        if 'downloads' not in p.parts and str(p.relative_to(SRC)) not in new: p.unlink()
    for p in (ROOT/'nbs').glob('*.ipynb'):
        to = SRC/'downloads'/'notebooks'/p.name
        to.parent.mkdir(parents=True, exist_ok=True); shutil.copy2(p, to)
    shutil.copytree(ROOT/'figures', SRC/'figures', dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns('*.pdf'))

def math_font(to):
    "The part of matplotlib's STIX that formulas need, for machines without a font of their own."
    from fontTools import subset
    import matplotlib
    font = Path(matplotlib.get_data_path())/'fonts'/'ttf'/'STIXGeneral.ttf'
    wanted = 'U+20-7E,U+A0-FF,U+300-33F,U+370-3FF,U+2000-206F,U+2100-22FF,U+2308-230B,U+27E8-27E9,'
    subset.main([str(font), f'--unicodes={wanted}U+1D400-1D7FF', '--flavor=woff',
                 f'--output-file={to}'])

def main(words):
    start = time.time()
    assemble(words)
    font = SRC/'_static'/'math.woff'
    if not font.exists(): math_font(font)
    from sphinx.cmd.build import main as sphinx
    shutil.rmtree(OUT, ignore_errors=True)
    strict = [] if words else ['-W']                          # a part of the book lacks the rest
    folders = map(str, (DOCS/'cache', SRC, OUT))
    rc = sphinx([*strict, *'-q -a -E -b html -j auto -d'.split(), *folders])
    pages = len(list(OUT.rglob('*.html')))
    print(f'{pages} pages in {time.time() - start:.0f} s: {OUT.relative_to(ROOT)}/index.html')
    return rc

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
