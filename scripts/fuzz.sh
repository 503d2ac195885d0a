#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other.
#
#   scripts/fuzz.sh [SECONDS]   for each; default 20
#
# A finding ends it; go test has then put the input into testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
seconds=${1:-20}

count=0
for package in $("$go" list ./...); do
	for target in $("$go" test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "== $package $target"
		# Without a bound, making one finding small can take the whole time.
		"$go" test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" -fuzzminimizetime 20x "$package"
		count=$((count + 1))
	done
done
echo "fuzzed $count targets for $seconds s each"
[ "$count" -gt 0 ]
