#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what the build and the tests need, and nothing twice: the distribution's packages that are
# missing (with sudo unless root), then .venv with the Python package and the tests' tools, then what
# the Node tests need, then grpcurl. Each step leaves a stamp that names its inputs in build/stamps;
# a second run with the same inputs does nothing.
#
#   deploy/deps.sh            all of it: make test
#   deploy/deps.sh build      the packages to build and run the daemon and the command line
#   deploy/deps.sh demo       that, and the Python package
#   deploy/deps.sh dashboard  what building the dashboard needs: Node and its packages
#   deploy/deps.sh torch2     that of `build`, and the libtorch of `pip install torch`
#   deploy/deps.sh lens       what researchers have beside the client: torch, TransformerLens, tracr
set -euo pipefail
cd "$(dirname "$0")/.."
what="${1:-all}"
stamps=build/stamps
mkdir -p "$stamps"

packages_build=(build-essential cmake ninja-build pkg-config ccache protobuf-compiler
    protobuf-c-compiler libprotobuf-c-dev libgrpc-dev libuv1-dev libmicrohttpd-dev libgnutls28-dev libjansson-dev
    libpcre2-dev libutf8proc-dev libssl-dev libsqlite3-dev libcmocka-dev ca-certificates)
packages_torch=(libtorch-dev libopenblas0-pthread)
packages_demo=(python3 python3-venv)
packages_test=(clang libclang-rt-dev clang-format-16 git chromium openssl curl)

say() { printf '%s\n' "deps: $*"; }
fail() { printf '%s\n' "deps: $*" >&2; exit 1; }

# stamp NAME INPUT...: the path of the stamp for these inputs; those of other inputs are removed.
stamp() {
    local name="$1" digest
    shift
    digest="$(cat "$@" 2>/dev/null | sha256sum | cut -c1-16)"
    find "$stamps" -name "$name-*" ! -name "$name-$digest" -delete
    printf '%s' "$stamps/$name-$digest"
}

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'; }

sudo=()
as_root() {
    [ "$(id -u)" -eq 0 ] && return 0
    command -v sudo >/dev/null || fail "run as root, or install: $1"
    sudo=(sudo)
}

apt_updated=no
apt_update() {
    [ "$apt_updated" = no ] || return 0
    "${sudo[@]}" apt-get update -q >build/apt.log 2>&1 ||
        { tail -5 build/apt.log >&2; fail "apt-get update failed"; }
    apt_updated=yes
}

apt_install() {
    local missing=() package
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        fail "this is not Debian or Ubuntu; install what corresponds to: ${missing[*]}"
    as_root "${missing[*]}"
    say "installing ${missing[*]}"
    apt_update
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        "${missing[@]}" >>build/apt.log 2>&1 || { tail -15 build/apt.log >&2; fail "apt-get install failed"; }
}

# The distribution's libtorch, or, where it has none, that of pip, whose place build/torch-root keeps
# for the Makefile.
libtorch() {
    if ! installed libtorch-dev && command -v apt-get >/dev/null; then
        as_root libtorch-dev
        apt_update # a machine whose lists are empty knows no package
    fi
    if installed libtorch-dev || apt-cache show libtorch-dev >/dev/null 2>&1; then
        apt_install "${packages_torch[@]}"
        rm -f build/torch-root
    else
        say "this distribution has no libtorch-dev"
        torch2
        cp build/torch2-root build/torch-root
    fi
}

# pip's libtorch with its CUDA build, and of the CUDA libraries those two that it needs to load at
# all: everything here runs on the CPU. On a machine with a GPU install torch itself and point
# ABLATE_TORCH_ROOT at it.
torch2() {
    local done_stamp
    apt_install "${packages_demo[@]}"
    done_stamp="$(stamp torch2 deploy/torch2-requirements.txt)"
    [ -e "$done_stamp" ] && [ -d build/torch2-venv ] && return 0
    say "fetching libtorch from PyPI into build/torch2-venv"
    python3 -m venv --clear build/torch2-venv
    build/torch2-venv/bin/pip install -q --disable-pip-version-check --no-deps \
        -r deploy/torch2-requirements.txt
    (cd build/torch2-venv/lib/python3*/site-packages/torch && pwd) >build/torch2-root
    touch "$done_stamp"
}

# python_env demo: the client and what fetches the model. python_env test: what the tests need, too.
python_env() {
    local what="$1" inputs test_stamp done_stamp packages=('clients/python[fetch]')
    inputs=(deploy/deps.sh clients/python/pyproject.toml clients/python/setup.py
        $(find proto -name '*.proto' | sort))
    test_stamp="$(stamp python-test "${inputs[@]}")"
    done_stamp="$test_stamp"
    if [ "$what" = demo ] && [ ! -e "$test_stamp" ]; then
        done_stamp="$(stamp python-demo "${inputs[@]}")"
    elif [ "$what" = test ]; then
        packages=('clients/python[fetch,test,lint]' 'tokenizers==0.20.3')
    fi
    [ -e "$done_stamp" ] && [ -x .venv/bin/python ] && return 0
    say "installing the Python package into .venv"
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/pip install -q --disable-pip-version-check -e "${packages[@]}"
    touch "$done_stamp"
}

# TransformerLens 4, and 2 and 3 in folders of their own: their dependencies are the same.
lens() {
    local done_stamp version venv=build/lens-venv
    apt_install "${packages_demo[@]}"
    done_stamp="$(stamp lens deploy/deps.sh deploy/lens-requirements.txt)"
    [ -e "$done_stamp" ] && [ -d "$venv" ] && return 0
    say "installing torch, TransformerLens and tracr into $venv"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r deploy/lens-requirements.txt
    for version in 2.18.0 3.9.0; do
        "$venv/bin/pip" install -q --disable-pip-version-check --no-deps \
            --target "$venv/transformer-lens-$version" "transformer-lens==$version"
    done
    touch "$done_stamp"
}

# npm writes the lock file's packages and nothing else; node_modules is ignored by git.
node_env() {
    local folder done_stamp
    command -v node >/dev/null && command -v npm >/dev/null || apt_install nodejs npm
    for folder in "$@"; do
        [ -e "$folder/package-lock.json" ] || continue
        done_stamp="$(stamp "npm-${folder//\//.}" "$folder/package.json" "$folder/package-lock.json")"
        [ -e "$done_stamp" ] && [ -d "$folder/node_modules" ] && continue
        say "installing the packages of $folder"
        (cd "$folder" && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --no-audit --no-fund --loglevel=error >/dev/null)
        touch "$done_stamp"
    done
}

# The last grpcurl that the Go of Debian 12 (1.19) builds.
grpcurl() {
    [ -x build/tools/grpcurl ] && return 0
    command -v go >/dev/null || apt_install golang-go
    say "building grpcurl into build/tools"
    GOBIN="$PWD/build/tools" go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.8.9 \
        >build/grpcurl.log 2>&1 || { tail -5 build/grpcurl.log >&2; fail "grpcurl did not build"; }
}

apt_install "${packages_build[@]}"
libtorch
case "$what" in
build) ;;
demo)
    apt_install "${packages_demo[@]}"
    python_env demo
    ;;
dashboard) node_env clients/web ;;
torch2) torch2 ;;
lens) lens ;;
all)
    apt_install "${packages_demo[@]}" "${packages_test[@]}"
    python_env test
    node_env tests/e2e/web clients/web
    grpcurl
    ;;
*) fail "unknown part '$what': all, build, demo, dashboard, torch2 or lens" ;;
esac
