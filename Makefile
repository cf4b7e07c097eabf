# make run [DATA=folder]   the main job: store, direct fusion and Prism, scores, figures
# make test                every check of the project; ends with "N passed, N failed"
# make notebooks           execute every notebook in place (minutes to an hour)
# make notebooks SIZE=smoke   as JupyterLab would, in a copy: nothing stored is changed (minutes)
# make lab [SIZE=smoke]    JupyterLab on the notebooks; cells that need data or a GPU are skipped
# make site                the book as pages for a browser: _docs/html/index.html
# make site-test           look at each page in a browser of this machine, if there is one
# make faults             break it on purpose, some 1,700 times; stop at any time, go on later (51_faults)
# make evidence [STUDY=42] [HOURS=2]   train what is missing of the experiments; stop at any time, go on later
# make wheels              download what a machine with a GPU and no network lacks
# make gpu-data DATA=...   compact, verified copy of the real data for it
# make gpu [GPU='...']     there: check the kernels, train what is missing, time, collect; again to go on
# make gpu-take FROM=...   add what it collected to the results
PYTHON ?= python3
BIN := .venv/bin
BROWSER := $(shell which chromium chromium-browser google-chrome google-chrome-stable 2>/dev/null)
export OMP_NUM_THREADS ?= 2

run: .venv/ready
	$(BIN)/gxprism run $(if $(DATA),--data $(DATA)) --work .gxprism

test: .venv/ready $(if $(BROWSER),.venv/site)
	$(BIN)/python .ci/check.py

notebooks: .venv/ready
ifeq ($(SIZE),smoke)
	$(BIN)/python .ci/notebooks.py
else
	for nb in nbs/[0-9]*.ipynb nbs/index.ipynb; do (cd nbs && ../$(BIN)/jupyter execute --inplace $$(basename $$nb)) || exit 1; done
	$(BIN)/nbdev_clean
endif

lab: .venv/ready
	mkdir -p .gxprism/ipython/profile_default/startup
	cp .ci/flags.py .gxprism/ipython/profile_default/startup
	IPYTHONDIR=$(CURDIR)/.gxprism/ipython GXPRISM_SIZE=$(or $(SIZE),smoke) $(BIN)/jupyter lab nbs

site: .venv/site
	$(BIN)/python .ci/site/build.py

site-test: site
	$(BIN)/python .ci/site/test.py

.venv/site: .venv/ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[site]'
	touch $@

.venv/ready: setup.py settings.ini constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

evidence: .venv/ready
	$(BIN)/python -c 'import gxprism.study as s; s.main()' $(STUDY) $(if $(HOURS),--hours $(HOURS))

faults: .venv/ready
	cd nbs && GXPRISM_FAULTS=all nice ../$(BIN)/jupyter execute --inplace 51_faults.ipynb
	$(BIN)/nbdev_clean

wheels: .venv/ready
	$(BIN)/python .ci/gpu.py --wheels

gpu-data: .venv/ready
	$(BIN)/python .ci/gpu.py --data $(DATA)

gpu:
	$(PYTHON) .ci/gpu.py $(GPU)

gpu-take: .venv/ready
	$(BIN)/python .ci/gpu.py --take $(FROM)

.PHONY: run test notebooks lab site site-test faults evidence wheels gpu-data gpu gpu-take
