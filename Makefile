# `make demo` and `make test` set everything up by themselves and can be run again at any time.
#
#   make test TORCH=system   uses the torch of the Python that makes the environment (PYTHON=…), instead of
#                            installing the pinned one.
#   make test JOBS=4         runs so many processes of tests beside each other; the usual 2 are right for two cores.
#   make test CHROMIUM=yes   installs Chromium on the system, which the browser tests need; CHROMIUM=no does not ask.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= 2.13.0
CHROMIUM ?=
JOBS ?= 2
VENV := .venv
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: demo ui test test-live lint bench clean

demo: $(VENV)/.run-ready
	$(VENV)/bin/vae-manager demo

# The page by itself, with a Gradio of its own: make ui ARGS="--vae-dir … --checkpoint-dir …"
ui: .venv-ui/.ready
	.venv-ui/bin/python -m vae_manager ui $(ARGS)

test: $(VENV)/.dev-ready .venv-gradio3/.ready .venv-gradio4/.ready .venv-ui/.ready chromium
	$(MAKE) --no-print-directory lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile

test-live: $(VENV)/.dev-ready
	$(VENV)/bin/python -m pytest -m live tests/live

lint: $(VENV)/.dev-ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

$(VENV)/.run-ready: requirements/run.lock pyproject.toml
ifeq ($(TORCH),system)
	$(PYTHON) -m venv --system-site-packages $(VENV)
else
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) -c requirements/run.lock torch==$(TORCH)
endif
	$(VENV)/bin/python $(PIP) -r requirements/run.lock
	$(VENV)/bin/python $(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev-ready: $(VENV)/.run-ready requirements/dev.lock
	$(VENV)/bin/python $(PIP) -c requirements/run.lock -r requirements/dev.lock
	touch $@

# The panel is tested in the two Gradios that the hosts ship, each in an environment of its own
.venv-gradio%/.ready: requirements/gradio%.lock $(VENV)/.dev-ready
	$(PYTHON) -m venv .venv-gradio$*
	.venv-gradio$*/bin/python $(PIP) --no-deps -r requirements/gradio$*.lock
	$(VENV)/bin/python tools/share_packages.py .venv-gradio$*
	touch $@

.venv-ui/.ready: requirements/ui.lock $(VENV)/.run-ready
	$(PYTHON) -m venv .venv-ui
	.venv-ui/bin/python $(PIP) --no-deps -r requirements/ui.lock
	$(VENV)/bin/python tools/share_packages.py .venv-ui
	touch $@

# Browser tests are skipped, with a message, where there is no Chromium. It is a package of the system's, so it is
# installed only with CHROMIUM=yes, in CI (CI=true), or after a yes in the terminal.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null && exit 0; \
	answer="$(CHROMIUM)"; \
	if [ -z "$$answer" ] && [ "$$CI" = true ]; then answer=yes; fi; \
	if [ -z "$$answer" ] && [ -t 0 ] && [ -t 1 ]; then \
		printf 'The browser tests need Chromium. Install it on this system (apt-get install chromium)? [y/N] '; \
		read -r answer || answer=no; \
	fi; \
	case "$$answer" in \
		[yY]*) echo "Chromium is being installed: apt-get install chromium"; \
			{ apt-get update -qq && apt-get install -qq -y chromium; } >/dev/null 2>&1 \
				|| echo "Chromium could not be installed: the browser tests will be skipped." ;; \
		*) echo "No Chromium: the browser tests will be skipped (make test CHROMIUM=yes installs it)." ;; \
	esac

clean:
	rm -rf .venv .venv-gradio3 .venv-gradio4 .venv-ui demo-output
