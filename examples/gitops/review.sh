#!/usr/bin/env bash
# What CI runs on a pull request, in the repository of policies: ./review.sh origin/main
# Every mistake in a policy file is told with its line; then a log of jobs is replayed under the policies of before and
# of after, and the difference in cost and wait is printed. Nothing is contacted.
set -euo pipefail
base=${1:?say against what: review.sh origin/main}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The federation is that of the installation: what the chart's values say.
python3 - values.yaml >"$work/federation.yaml" <<'PYTHON'
import sys, yaml
installed = yaml.safe_load(open(sys.argv[1]))["federation"]
head = {"apiVersion": "overspill.dev/v1alpha1", "kind": "Federation", "metadata": {"name": installed["name"]}}
yaml.safe_dump({**head, "spec": installed["spec"]}, sys.stdout)
PYTHON

overspill policy check --config "$work/federation.yaml" policies

mkdir "$work/before"
git archive "$base" policies | tar -x -C "$work/before" --strip-components=1
cp -r policies "$work/after"
if diff -r "$work/before" "$work/after" >/dev/null; then
  echo "The policies are those of $base."
  exit 0
fi
overspill simulate --federation "$work/federation.yaml" --trace jobs.csv --seed 0 --seed 1 \
  --policies "$work/before" --policies "$work/after"
