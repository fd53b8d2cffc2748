#!/usr/bin/env bash
# The runtime's tests on every Python that it promises and this machine has, on both event loops. Each has a venv of its own, .venv-3.x.
set -euo pipefail
cd "$(dirname "$0")/.."

ran=() missing=() failed=()
for version in 3.11 3.12 3.13 3.14; do
  if ! "python$version" -c '' 2>/dev/null; then
    missing+=("$version")
    continue
  fi
  echo "== Python $version"
  venv=.venv-$version
  if [[ requirements-dev.txt -nt $venv/groundwork ]]; then
    "python$version" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
    touch "$venv/groundwork"
  fi
  ran+=("$version")
  LOOPS=asyncio,uvloop "$venv/bin/python" -m pytest tests/app "$@" || failed+=("$version")
done
((${#missing[@]})) && echo "SKIPPED: no Python ${missing[*]} on this machine"
echo "ran on Python ${ran[*]:-none}; failed on ${failed[*]:-none}"
((${#ran[@]} && !${#failed[@]}))
