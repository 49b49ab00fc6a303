#!/usr/bin/env bash
# Make a virtual environment and install Orchard with extras, at exactly the versions of requirements.lock.
# uv when it is there, pip otherwise. Where packages come from is your pip or uv configuration's business.
set -euo pipefail
python=$1 venv=$2 extras=$3

if command -v uv >/dev/null 2>&1; then
  echo "installing with $(uv --version)"
  [ -x "$venv/bin/python" ] || uv venv --quiet --python "$python" "$venv"
  # uv does not read pip's settings: hand over the folder with local wheels, if there is one
  UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}" \
    uv pip install --quiet --python "$venv/bin/python" --constraint requirements.lock --editable ".[$extras]"
else
  echo "installing with pip (uv would be faster)"
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  # modules are compiled when they are first imported: compiling all of them takes a minute more
  "$venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    --constraint requirements.lock --editable ".[$extras]"
fi
