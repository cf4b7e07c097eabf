"Package metadata, read from `settings.ini` so that it is written once."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
cfg = ConfigParser(delimiters=['='], interpolation=None)
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
extras = {name.strip(): needs.split() for name, needs in
          (part.split(':', 1) for part in cfg['extras'].split('|'))}
extras['dev'] = cfg['dev_requirements'].split()

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'],
    license=cfg['license'].upper(), keywords=cfg['keywords'],
    packages=find_packages(include=['gxprism', 'gxprism.*']), include_package_data=True,
    python_requires=f">={cfg['min_python']}", install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': ['gxprism=gxprism.cli:main']}, zip_safe=False,
)
