#!/usr/bin/env bash
# Resolve all extras in a fresh environment and write name==version lines, no addresses.
set -euo pipefail
python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[faces,gen,ray,cluster,insightface,dev]"
{
  echo "# Every package of every extra, written by \`make lock\`. Used as pip constraints: see tools/install.sh."
  # a local build tag such as +cpu belongs to one machine's wheel, not to the version
  "$work/venv/bin/python" -m pip freeze --exclude-editable | sed -E 's/\+[a-z0-9.]+$//' | grep -vE '^(nvidia-|triton==|orchard-faces==)'
} >"$work/lock"
mv "$work/lock" requirements.lock
