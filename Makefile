# make            a virtual environment in .venv, and Nix where there is none
# make demo       run examples/quickstart        (make clean-demo removes it)
# make demo-incremental   run examples/incremental: a second build that takes a fraction of the first
# make test       all tests                      (ARGS="-k scheduler" for some)
# make test-long  what takes minutes: a thousand builds into caches over bad lines, killed ten times
# make test-nixos NIXPKGS=DIR   the module on a whole system; DIR has nixpkgs' lib and nixos
# make test-systemd   the unit under a real systemd, in a container (as root, on Debian)
# make check      style, types, architecture     (make format mends style)
# make bench      measure; bench-quick: in a few minutes
# make lock       choose newer dependencies
# make clean      remove what make made in this folder
#
# Root on Debian gets what is missing installed: Debian packages, and Nix in a prefix of its own. A Nix of
# 2.24 or later on PATH is used as it is.

PYTHON ?= python3
JOBS ?= 2
ARGS ?=

ROOT := $(filter 0,$(shell id -u))
SHARE := $(HOME)/.local/share
NIX_PREFIX ?= $(if $(ROOT),/opt/nix-reconciler/nix,$(SHARE)/nix-reconciler/nix)
DEMO ?= $(if $(ROOT),/var/lib/nix-reconciler-demo,$(SHARE)/nix-reconciler-demo)
# Tests speak to two versions of Nix; this is the older one.
OLD_NIX_BIN ?= $(NIX_PREFIX)-2.26/bin

# The Debian with systemd that tests run in; made when it is first needed.
SYSTEMD_ROOT ?= /var/cache/nix-reconciler-systemd

# Expanded when a recipe runs, that is after Nix was installed.
NIX_BIN = $(shell scripts/find-nix.sh '$(NIX_PREFIX)')
RUN = PATH="$(CURDIR)/.venv/bin:$(NIX_BIN):$$PATH"
TEST = $(RUN) RECONCILER_NIX_BIN='$(NIX_BIN)' RECONCILER_TEST_NIX_OLD='$(OLD_NIX_BIN)'

# Two installations at once would wait for, or fail on, apt's lock.
.NOTPARALLEL:
.PHONY: all venv nix old-nix tools demo demo-incremental clean-demo test test-long test-nixos test-systemd check format bench bench-quick lock clean

all: venv nix

venv: .venv/.installed

.venv/.installed: requirements.lock pyproject.toml scripts/make-venv.sh
	scripts/make-venv.sh '$(PYTHON)'
	@touch $@

nix:
	@scripts/find-nix.sh '$(NIX_PREFIX)' >/dev/null || scripts/install-nix.sh '$(NIX_PREFIX)'

old-nix:
	@[ -x '$(OLD_NIX_BIN)/nix' ] || scripts/install-nix.sh '$(NIX_PREFIX)-2.26' trixie

# What the examples and tests use besides: a compiler for the C of the examples and what drives it, git for git
# sources, ssh and its server for builders, ip for their networks, nginx for caches.
tools:
	@scripts/need.sh git 'git --version' gcc 'gcc --version' libc6-dev 'test -e /usr/include/stdio.h' \
		make 'make --version' ninja-build 'ninja --version' ccache 'ccache --version' sccache 'sccache --version' \
		patch 'patch --version' cmake 'test -x /usr/bin/cmake' meson 'test -x /usr/bin/meson' \
		openssh-client 'ssh -V' openssh-server 'PATH=$$PATH:/usr/sbin command -v sshd' iproute2 'ip -V' \
		nginx 'PATH=$$PATH:/usr/sbin command -v nginx' \
		libnginx-mod-http-dav-ext 'test -e /usr/lib/nginx/modules/ngx_http_dav_ext_module.so'

demo: venv nix tools
	@$(RUN) scripts/demo.sh '$(DEMO)'

demo-incremental: venv nix tools
	@$(RUN) examples/incremental/try.sh '$(DEMO)-incremental'

clean-demo:
	scripts/clean-demo.sh '$(DEMO)'
	scripts/clean-demo.sh '$(DEMO)-incremental'

test: venv nix old-nix tools
	$(TEST) pytest -n $(JOBS) --dist worksteal $(ARGS)

test-long: venv nix old-nix tools
	$(TEST) pytest -s tests/system/long_siege.py $(ARGS)

test-nixos: venv nix
	@[ -d '$(NIXPKGS)/nixos' ] || { echo "name a tree with nixpkgs' lib and nixos: make test-nixos NIXPKGS=DIR" >&2; exit 2; }
	$(TEST) RECONCILER_TEST_NIXPKGS='$(abspath $(NIXPKGS))' pytest -n $(JOBS) tests/nixos/whole_system.py $(ARGS)

# Nix in a prefix of its own, which can be shown to the container, whatever PATH has.
test-systemd: venv
	@scripts/need.sh debootstrap 'command -v debootstrap'
	@scripts/install-nix.sh '$(NIX_PREFIX)' >/dev/null
	$(RUN) RECONCILER_NIX_BIN='$(NIX_PREFIX)/bin' RECONCILER_TEST_SYSTEMD_ROOT='$(SYSTEMD_ROOT)' pytest tests/nixos/systemd.py $(ARGS)

check: venv nix tools
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy -p reconciler -p tests
	for script in scripts/*.sh examples/*/*.sh; do sh -n "$$script" || exit 1; done
	bash -n .ci/run
	$(TEST) pytest -q tests/test_architecture.py tests/test_repository.py

format: venv
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# The source of git is built too, which needs zlib.
bench bench-quick: venv nix tools
	@scripts/need.sh zlib1g-dev 'test -e /usr/include/zlib.h'
	$(TEST) python -m bench $(if $(filter bench-quick,$@),--quick) $(ARGS)

# One lock for every platform and Python that the project supports, with the hash of every file.
lock: venv
	$(RUN) uv pip compile --quiet --upgrade --generate-hashes --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --universal --python-version 3.11 \
		--extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .coverage build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
