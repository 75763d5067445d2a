#!/usr/bin/env bash
# Real servers that wire tests talk to, from Debian's packages, into the folder named by $1 (such as .venv/servers).
# Packages are unpacked there and not installed: nothing starts, nothing on the machine changes, and it works without
# being root. Where that cannot be done, it says so in one line and succeeds; the tests that need the server say so too.
set -uo pipefail
root=$1
# package:program, one a line; the program's path within the package may hold a *. Where the machine has a command of
# that name already, nothing is fetched.
servers='
prometheus:usr/bin/prometheus
prometheus-alertmanager:usr/bin/prometheus-alertmanager
'

cannot() {
  echo "overspill: test server $1 cannot be had ($2): the tests that need it will be skipped" >&2
}

fetch() {
  local package=$1 folder=$2
  (cd "$folder" && timeout 300 apt-get download -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o APT::Sandbox::User=root "$package") >/dev/null 2>&1
}

has() {
  compgen -G "$root/$1/$2" >/dev/null
}

unpack() {
  local package=$1 program=$2 folder deb
  folder=$(mktemp -d) || return 1
  if ! fetch "$package" "$folder" && [ "$(id -u)" = 0 ]; then
    # The lists of packages may be missing or old.
    timeout 300 apt-get update -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 >/dev/null 2>&1
    fetch "$package" "$folder"
  fi
  deb=$(find "$folder" -name "$package*.deb" | head -n 1)
  if [ -z "$deb" ]; then
    cannot "$package" "apt-get cannot download it"
  elif dpkg -x "$deb" "$root/$package" && has "$package" "$program"; then
    echo "overspill: test server $package is in $root" >&2
  else
    rm -rf "${root:?}/$package"
    cannot "$package" "its package has no $program"
  fi
  rm -rf "$folder"
}

for entry in $servers; do
  package=${entry%%:*} program=${entry##*:}
  has "$package" "$program" && continue
  command -v "${program##*/}" >/dev/null 2>&1 && continue
  if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg >/dev/null 2>&1; then
    cannot "$package" "no apt-get here; install $package by hand"
    continue
  fi
  mkdir -p "$root" && unpack "$package" "$program"
done
exit 0
