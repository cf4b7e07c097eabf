"""The site in a real browser: `python .ci/site/test.py` after `build.py`; ends with what was seen.

Chromium is taken where it is found (or from GXPRISM_BROWSER), never downloaded. Every page is
opened at 1,280 and at 390 pixels, in light and in dark; then the search, the keyboard, the order of
reading and the entries of the package are tried. First of all a page that is broken on purpose is
looked at, and every fault of it has to be found.
"""
import ast, functools, importlib.util, os, re, shutil, sys, tempfile, threading, time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = ROOT/'_docs'/'html'
NAMES = 'chromium chromium-browser google-chrome google-chrome-stable'.split()
FLAGS = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync').split()
LARGEST = 1_500_000                                            # bytes of a page with all it loads

def browser_path():
    "A browser of this machine, or None."
    own = os.environ.get('GXPRISM_BROWSER')
    return own or next((p for n in NAMES if (p := shutil.which(n))), None)

LOOK = r'''() => {
  const bad = [], article = document.querySelector('article') || document.body;
  const levels = [...article.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1]);
  if (levels.filter(l => l == 1).length != 1) bad.push('headings: not exactly one h1');
  levels.forEach((l, i) => { if (i && l > levels[i-1] + 1)
    bad.push(`headings: h${levels[i-1]} is followed by h${l}`) });
  for (const i of document.images) {
    if (!i.complete || !i.naturalWidth) bad.push('image: not loaded: ' + i.getAttribute('src'));
    if (article.contains(i) && (i.alt || '').trim().length < 12)
      bad.push(`image: no words for it: "${i.alt}" ${i.getAttribute('src')}`); }
  const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  for (let n; n = walk.nextNode();) {
    if (n.parentElement.closest('pre,code,script,style,annotation,.search')) continue;
    if (/\|\s?[-—–]+\s?\|/.test(n.data)) bad.push('table: raw: ' + n.data.slice(0, 40));
    if (n.data.includes('%%')) bad.push('a mark of nbdev is shown: ' + n.data.slice(0, 40));
    if (n.data.includes('$')) bad.push('formula: raw $: ' + n.data.trim().slice(0, 60)); }
  for (const m of article.querySelectorAll('math')) {
    const rows = m.querySelector('semantics > :first-child') || m;
    if (/[&\\]/.test(rows.textContent)) bad.push('formula: raw LaTeX: ' + rows.textContent);
    if (m.checkVisibility() && !m.getBoundingClientRect().width) bad.push('formula: no width'); }
  for (const p of article.querySelectorAll('pre'))
    if (/^#\|/m.test(p.textContent) && !p.closest('.source')) bad.push('a directive is shown');
  for (const p of article.querySelectorAll('pre'))
    if (!p.textContent.trim()) bad.push('an empty box');
  for (const t of article.querySelectorAll('table')) {
    const shown = [...t.querySelectorAll('tbody > tr')].filter(r => r.checkVisibility()).length;
    if (shown > 14) bad.push(`table: ${shown} rows before the fold`); }
  const size = performance.getEntriesByType('resource').concat(
    performance.getEntriesByType('navigation')).reduce((s, e) => s + e.decodedBodySize, 0);
  return {bad, size, ids: [...document.querySelectorAll('[id]')].map(e => e.id),
          maths: article.querySelectorAll('math').length,
          links: [...document.links].map(a => a.getAttribute('href'))};
}'''

CONTRAST = r'''() => {
  const rgba = c => { const m = c.match(/[\d.]+/g).map(Number);
    const k = c.startsWith('color(') ? 255 : 1;
    return [m[0]*k, m[1]*k, m[2]*k, m.length > 3 ? m[3] : 1] };
  const light = c => { const [r, g, b] = c.map(v => { v /= 255;
    return v <= .04045 ? v/12.92 : ((v + .055)/1.055)**2.4 }); return .2126*r + .7152*g + .0722*b };
  const over = (a, b) => [0, 1, 2].map(i => a[i]*a[3] + b[i]*(1 - a[3]));
  const ground = new Map(), behind = e => {
    if (!e) return [255, 255, 255];
    if (!ground.has(e)) ground.set(e, over(rgba(getComputedStyle(e).backgroundColor),
                                           behind(e.parentElement)));
    return ground.get(e) };
  const seen = new Map();
  for (const e of document.body.querySelectorAll('*')) {
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())) continue;
    if (e.closest('script,style,noscript,annotation,svg') || !e.checkVisibility()) continue;
    const s = getComputedStyle(e), b = behind(e), f = over(rgba(s.color), b);
    const [x, y] = [light(f), light(b)].sort((p, q) => q - p), ratio = (x + .05)/(y + .05);
    const px = parseFloat(s.fontSize), large = px >= 24 || px >= 18.6 && s.fontWeight >= 700;
    const which = `<${e.tagName} class="${e.className}">: ${e.textContent.trim().slice(0, 30)}`;
    if (ratio < (large ? 3 : 4.5) - .01)
      seen.set(s.color + b, `contrast: ${ratio.toFixed(1)} of ${which}`); }
  return [...seen.values()] }'''

WIDTH = '''() => { const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide <= 0) return null;
  const out = [...document.querySelectorAll('body *')].filter(e =>
    e.getBoundingClientRect().right > innerWidth + 1).pop();
  return `${wide} px too wide: ` + (out ? `<${out.tagName} class="${out.className}">` : '') }'''

BROKEN = '''<!doctype html><title>x</title><body><article><h1>a</h1><h3>b</h3>
<img src="none.png" alt=""><p>raw $x$ |---| and %%
<math><mi>\\sum</mi></math></p><pre>#| hide</pre><pre> </pre>
<div style="width: 1400px">wide</div><p style="color: #bbb">pale</p><a href="none.html">n</a>
<a href="#none">n</a><script>console.error('x')</script><script src="https://cdn.example/x.js">
</script><table><tbody>''' + '<tr><td>1</td></tr>'*20 + '</tbody></table></article>'
FOUND = ('headings:', 'image: not loaded', 'image: no words', 'raw $', 'raw LaTeX', 'a directive',
         'px too wide', 'contrast:', 'none.html', '#none', 'console:', 'from elsewhere',
         'before the fold', 'table: raw', 'empty box', 'mark of nbdev')

class Visit:
    "A served folder and a browser page that remembers what went wrong."
    def __init__(self, browser, folder):
        quiet = type('Quiet', (SimpleHTTPRequestHandler,), dict(log_message=lambda *a: None))
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(quiet,
                                                                            directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.root, self.bad = f'http://127.0.0.1:{self.server.server_port}/', []
        self.context = browser.new_context(viewport=dict(width=1280, height=900))
        self.page = self.context.new_page()
        heard = lambda text: self.bad.append(f'console: {text}')
        self.page.on('console', lambda m: m.type == 'error' and heard(m.text))
        self.page.on('pageerror', heard)
        self.page.route('**/*', self.local_only)
        self.ids, self.links, self.largest, self.maths = {}, {}, (0, ''), 0

    def local_only(self, route):
        if route.request.url.startswith(self.root): return route.continue_()
        self.bad.append(f'asked for from elsewhere: {route.request.url}')
        route.abort()

    def look(self, name):
        "Every fault that one page shows by itself."
        self.bad, page = [], self.page
        page.set_viewport_size(dict(width=1280, height=900))
        page.goto(self.root + name, wait_until='load')
        seen = page.evaluate(LOOK)
        self.ids[name], self.links[name] = set(seen['ids']), seen['links']
        self.maths += seen['maths']
        self.largest = max(self.largest, (seen['size'], name))
        bad = seen['bad'] + ([f'{seen["size"]:,} bytes'] if seen['size'] > LARGEST else [])
        for width in (1280, 390):
            page.set_viewport_size(dict(width=width, height=900))
            if wide := page.evaluate(WIDTH): bad.append(f'{width}: {wide}')
            for theme in ('light', 'dark'):
                if width == 390 and len(self.ids) % 10 != 1: continue         # the same header
                page.evaluate(f'document.body.dataset.theme = "{theme}"')
                bad += [f'{theme} {x}' for x in page.evaluate(CONTRAST)]
        return bad + self.bad

    def dead(self, folder):
        "Links that lead nowhere: no such file, or no such place on its page."
        bad = []
        for name, links in self.links.items():
            for link in set(links):
                to = urlparse(urljoin(self.root + name, link or ''))
                if not to.geturl().startswith(self.root): continue
                path, at = unquote(to.path).lstrip('/') or 'index.html', unquote(to.fragment)
                if not (folder/path).is_file(): bad.append(f'{name}: no page {link}')
                elif at and at not in self.ids.get(path, [at]):
                    bad.append(f'{name}: no place {link}')
        return bad

def can_fail(browser):
    "The page that is broken on purpose: each of its faults is found."
    with tempfile.TemporaryDirectory() as t:
        (Path(t)/'index.html').write_text(BROKEN)
        v = Visit(browser, t)
        found = '\n'.join(v.look('index.html') + v.dead(Path(t)))
        v.context.close()
        return [f'the test does not see: {f}' for f in FOUND if f not in found]

def search(v):
    "What the search finds."
    bad = []
    for word, want in (('backdoor', 'nbs/10_causal.html'),
                       ('saturation_mutagenesis', 'api/attribution.html')):
        v.page.goto(f'{v.root}search.html?q={word}')
        try: v.page.wait_for_selector(f'#search-results a[href*="{want}"]', timeout=8000)
        except Exception: bad.append(f'search: {word!r} does not find {want}')
    v.page.goto(f'{v.root}search.html?q=zzyzx')
    v.page.wait_for_timeout(500)
    if v.page.query_selector('#search-results li'): bad.append('search: finds what is nowhere')
    return bad

def keyboard(v):
    "Tab leads past the sidebar, arrows to the next page, and the switch makes it dark."
    bad, page = [], v.page
    page.set_viewport_size(dict(width=1280, height=900))
    page.goto(v.root + 'nbs/00_question.html')
    page.keyboard.press('Tab')
    first = page.evaluate('document.activeElement.textContent + document.activeElement.href')
    if 'content' not in first: bad.append(f'keyboard: the first stop is {first!r}')
    page.evaluate('document.activeElement.blur()')
    fold = page.locator('details.hide > summary').first
    fold.focus(); page.keyboard.press('Enter')
    if not fold.evaluate('e => e.parentElement.open'): bad.append('keyboard: Enter opens no fold')
    before = page.evaluate('getComputedStyle(document.body).backgroundColor')
    for _ in range(3):
        page.locator('.theme-toggle:visible').first.click()
        if page.evaluate('getComputedStyle(document.body).backgroundColor') != before: break
    else: bad.append('the switch between light and dark does nothing')
    page.evaluate('document.activeElement.blur()')
    with page.expect_navigation(timeout=8000): page.keyboard.press('ArrowRight')
    if '10_causal' not in page.url: bad.append(f'keyboard: the arrow leads to {page.url}')
    return bad

def order(v):
    "From the front page, `next` passes through every notebook."
    page, want = 'index.html', {f'nbs/{p.stem}.html' for p in (ROOT/'nbs').glob('[0-9]*.ipynb')}
    for _ in range(500):
        want.discard(page)
        text = (SITE/page).read_text()
        m = re.search(r'<a class="next-page" href="([^"#]+)', text)
        if not m: break
        page = urlparse(urljoin(v.root + page, m[1])).path.lstrip('/')
    return [f'next does not lead to {w}' for w in sorted(want)]

def entries(v):
    "Every public name of the package has its entry, with a source and a notebook."
    bad = []
    for p in sorted((ROOT/'gxprism').glob('*.py')):
        if p.stem.startswith('_'): continue
        public = [k for n in ast.parse(p.read_text()).body if isinstance(n, ast.Assign)
                  and getattr(n.targets[0], 'id', '') == '__all__'
                  for k in ast.literal_eval(n.value)]
        there = v.ids.get(f'api/{p.stem}.html', set())
        bad += [f'no entry: gxprism.{p.stem}.{k}' for k in public
                if f'gxprism.{p.stem}.{k}' not in there]
    sys.path.insert(0, str(ROOT))
    from gxprism.cli import parser
    text = re.sub(r'<[^>]+>', '', (SITE/'cli.html').read_text())
    commands = next(a for a in parser()._actions if a.choices).choices
    bad += [f'cli.html: nothing about {c}' for c in commands if f'usage: gxprism {c} ' not in text]
    return bad

def why_not():
    "Why pages cannot be looked at here, or nothing."
    if not browser_path(): return f'skipped: no browser among {", ".join(NAMES)}'
    lacks = [m for m in ('playwright', 'sphinx', 'myst_nb', 'furo', 'latex2mathml')
             if not importlib.util.find_spec(m)]
    return f"skipped: {lacks[0]} is missing; pip install '.[site]'" if lacks else ''

def main(words):
    if words == ['--why-not'] or why_not(): return print(why_not()) or 0
    from playwright.sync_api import sync_playwright
    start, bad = time.time(), []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=browser_path(), args=FLAGS)
        bad += can_fail(browser)
        v = Visit(browser, SITE)
        pages = sorted(str(f.relative_to(SITE)) for f in SITE.rglob('*.html'))
        special = {'search.html', 'genindex.html', 'py-modindex.html'}
        for name in pages:
            found = v.look(name)
            bad += [f'{name}: {x}' for x in found
                    if not (name in special and x.startswith('headings'))]
        bad += v.dead(SITE) + order(v) + entries(v)
        v.bad = []
        bad += search(v) + keyboard(v) + v.bad
        browser.close()
    if not v.maths: bad.append('no formula on any page')
    print('\n'.join(dict.fromkeys(bad)))
    size, name = v.largest
    print(f'{len(pages)} pages at two widths in {time.time() - start:.0f} s, {v.maths} formulas, '
          f'largest {size/1e6:.2f} MB ({name}); {len(set(bad))} faults')
    return bool(bad)

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
