#!/usr/bin/env bash
# Real servers that wire tests talk to, from Debian's packages, into the folder named by $1 (such as .venv/servers).
# Packages are unpacked there and not installed: nothing starts, nothing on the machine changes, and it works without
# being root. Where that cannot be done, it says so in one line and succeeds; the tests that need the server say so too.
set -uo pipefail
root=$1
# package:program, one a line; the program's path within the package may hold a *. Where the machine has a command of
# that name already, nothing is fetched. With a + before it, the packages that it needs and the machine lacks are unpacked
# beside it.
servers='
prometheus:usr/bin/prometheus
prometheus-alertmanager:usr/bin/prometheus-alertmanager
+postgresql-15:usr/lib/postgresql/15/bin/postgres
+chromium-headless-shell:usr/lib/chromium/chromium-headless-shell
'

cannot() {
  echo "overspill: test server $1 cannot be had ($2): the tests that need it will be skipped" >&2
}

# fetch FOLDER PACKAGE...
fetch() {
  local folder=$1
  shift
  (cd "$folder" && timeout 300 apt-get download -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o APT::Sandbox::User=root "$@") >/dev/null 2>&1
}

# What apt-get would install for it, itself left out.
needs() {
  apt-get install -s -q --no-install-recommends "$1" 2>/dev/null | awk -v itself="$1" '$1 == "Inst" && $2 != itself { print $2 }'
}

has() {
  compgen -G "$root/$1/$2" >/dev/null
}

unpack() {
  local package=$1 program=$2 companions=$3 folder deb wanted
  wanted=$package
  [ -z "$companions" ] || wanted="$package $(needs "$package")"
  folder=$(mktemp -d) || return 1
  # shellcheck disable=SC2086  (names of packages, to be split)
  if ! fetch "$folder" $wanted && [ "$(id -u)" = 0 ]; then
    # The lists of packages may be missing or old.
    timeout 300 apt-get update -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 >/dev/null 2>&1
    [ -z "$companions" ] || wanted="$package $(needs "$package")"
    # shellcheck disable=SC2086
    fetch "$folder" $wanted
  fi
  deb=$(find "$folder" -name "${package}_*.deb" | head -n 1)
  for one in "$folder"/*.deb; do
    [ -f "$one" ] && [ "$one" != "$deb" ] && dpkg -x "$one" "$root/$package"
  done
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
  companions=
  [ "${entry#+}" = "$entry" ] || companions=yes
  entry=${entry#+}
  package=${entry%%:*} program=${entry##*:}
  has "$package" "$program" && continue
  command -v "${program##*/}" >/dev/null 2>&1 && continue
  if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg >/dev/null 2>&1; then
    cannot "$package" "no apt-get here; install $package by hand"
    continue
  fi
  mkdir -p "$root" && unpack "$package" "$program" "$companions"
done

# axe-core, which looks for what people with a screen reader or weak eyes stumble over, from the npm registry.
if ! [ -f "$root/axe-core/axe.min.js" ]; then
  folder=$(mktemp -d)
  if (cd "$folder" && timeout 120 npm pack --silent axe-core@4 && tar -xzf axe-core-*.tgz package/axe.min.js) >/dev/null 2>&1; then
    mkdir -p "$root/axe-core" && mv "$folder/package/axe.min.js" "$root/axe-core/"
    echo "overspill: test server axe-core is in $root" >&2
  else
    cannot axe-core "npm cannot download it"
  fi
  rm -rf "$folder"
fi
exit 0
