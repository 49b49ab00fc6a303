#!/usr/bin/env bash
# Make a virtual environment and install Orchard with extras, at exactly the versions of requirements.lock.
# uv does it, pip where uv cannot. Where packages come from is your pip or uv configuration's business.
set -euo pipefail
python=$1 venv=$2 extras=$3
uv_version=0.13.9

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
setting() { pip config get "global.$1" 2>/dev/null || true; }

uv=$(command -v uv || true)
if [ -z "$uv" ] && pip install --quiet "uv==$uv_version"; then
  uv="$venv/bin/uv"
fi

with_uv() {
  echo "installing with $("$uv" --version): a minute sooner than with pip"
  # uv does not read pip's settings: hand over indexes, local wheels and the certificate
  local find_links="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$(setting find-links)}}"
  local index="${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(setting index-url)}}"
  local more="${UV_INDEX:-${PIP_EXTRA_INDEX_URL:-$(setting extra-index-url)}}"
  local certificate="${SSL_CERT_FILE:-${PIP_CERT:-$(setting cert)}}"
  [ -z "$find_links" ] || export UV_FIND_LINKS="$find_links"
  [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
  [ -z "$more" ] || export UV_INDEX="$more"
  [ -z "$certificate" ] || export SSL_CERT_FILE="$certificate"
  # pip takes all indexes as equals, and the lock says which version is meant
  "$uv" pip install --quiet --index-strategy unsafe-best-match --python "$venv/bin/python" --constraint requirements.lock --editable ".[$extras]"
}

with_pip() {
  # modules are compiled when they are first imported: compiling all of them takes a minute more
  pip install --quiet --no-compile --constraint requirements.lock --editable ".[$extras]"
}

if [ -z "$uv" ]; then
  echo "installing with pip: uv cannot be installed here"
  with_pip
elif ! with_uv; then
  echo "uv failed (see above); installing with pip"
  with_pip
fi
