"Sphinx settings of the site, formulas as MathML, and what is done to a finished page."
import html, json, re
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

project, html_title, author = 'gxprism', 'gxprism', 'The gxprism authors'
copyright = author
extensions = ['myst_nb']
nb_execution_mode = 'off'
nb_render_markdown_format = 'gfm'
nb_merge_streams = True
myst_enable_extensions = ['dollarmath', 'fieldlist', 'attrs_block', 'attrs_inline']
myst_heading_anchors = 4
suppress_warnings = ['myst.header', 'ref.python', 'mystnb.unknown_mime_type']
exclude_patterns = ['downloads']
html_theme, html_static_path = 'furo', ['_static']
html_css_files, html_js_files = ['book.css'], ['book.js']
html_theme_options = dict(navigation_with_keys=True)
html_copy_source = html_show_sphinx = html_domain_indices = False
html_extra_path = ['downloads']
html_math_renderer = 'mathml'
pygments_style, pygments_dark_style = 'a11y-high-contrast-light', 'a11y-high-contrast-dark'
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = 'hide'
add_module_names = False

TWELVE = 12                                                   # rows of a table before the fold
SYMBOLS = json.loads((Path(__file__).parent/'symbols.json').read_text())

def mathml(latex, display):
    "MathML, which browsers lay out themselves; the formula's source stays as its annotation."
    latex = latex.strip()
    out = convert(re.sub(r'(begin|end)\{aligned\}', r'\1{align*}', latex), display=display)
    out = re.sub(r'columnalign="(left|right)"', r'data-\1=""', out)
    note = f'<annotation encoding="application/x-tex">{html.escape(latex)}</annotation>'
    return re.sub(r'(<math[^>]*>)(.*)(</math>)$', lambda m: f'{m[1]}<semantics>{m[2]}{note}'
                  f'</semantics>{m[3]}', out, flags=re.S)

def inline_math(self, node):
    self.body.append(mathml(node.astext(), 'inline'))
    raise nodes.SkipNode

def block_math(self, node):
    self.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode

def scrolling(m):
    "A table in a box of its own, its rows from the thirteenth on behind a fold."
    head, _, body = m[0].partition('<tbody')
    rows = body.split('<tr')
    if len(rows) - 1 <= TWELVE + 2: return f'<div class="scroll">{m[0]}</div>'
    late = ''.join('<tr data-more' + r for r in rows[TWELVE + 1:])
    table = f'{head}<tbody{"<tr".join(rows[:TWELVE + 1])}{late}'
    more = len(rows) - 1 - TWELVE
    return (f'<div class="folded"><details><summary>{more} more rows</summary></details>'
            f'<div class="scroll">{table}</div></div>')

def finish(app, page, template, context, doctree):
    "Scrolling tables, and names of the package that lead to their entries."
    body = context.get('body')
    if not body: return
    body = re.sub(r'<summary aria-label="Toggle hidden content">\s*<p class="collapsed[^>]*>(.*?)'
                  r'</p>.*?</summary>', r'<summary>\1</summary>', body, flags=re.S)
    body = re.sub(r'<table.*?</table>', scrolling, body, flags=re.S)
    up = '../'*page.count('/')
    def entry(m):
        where = SYMBOLS.get(html.unescape(m[2]).removesuffix('()'))
        if not where or page == where.partition('.html')[0]: return m[0]
        return f'<a class="name" href="{up}{where}">{m[0]}</a>'
    parts = re.split(r'(<a\b.*?</a>|<h\d.*?</h\d>|<summary.*?</summary>|<dt.*?</dt>)', body,
                     flags=re.S)
    code = (r'(<code class="docutils literal notranslate"><span class="pre">)([\w.()]+)'
            r'(</span></code>)')
    parts[::2] = [re.sub(code, entry, p) for p in parts[::2]]
    context['body'] = ''.join(parts)

def setup(app):
    app.add_html_math_renderer('mathml', (inline_math, None), (block_math, None))
    app.connect('html-page-context', finish)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
