#!/usr/bin/env bash
# Makes the virtual environment named by $1 from requirements.lock. Every package is checked against its hash.
# uv does the work: stock pip needs more than 20 minutes to resolve a set like this, uv a few seconds.
set -euo pipefail
venv=$1
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "overspill: needs Python 3.11 or later; $python is $("$python" --version 2>&1). Set PYTHON=/path/to/python3.11" >&2
  exit 2
}
echo "Setting up $venv ..." >&2
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
uv_pin=$(grep -m1 '^uv==' requirements.lock | sed 's/[ \\;].*//')
[ "$("$venv/bin/uv" --version 2>/dev/null | cut -d' ' -f2)" = "${uv_pin#uv==}" ] ||
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$uv_pin"
VIRTUAL_ENV=$venv "$venv/bin/uv" pip sync --quiet --require-hashes requirements.lock
VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation --editable .
