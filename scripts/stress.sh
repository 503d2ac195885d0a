#!/usr/bin/env bash
# The unit, race and end-to-end tests, N times, beside a busy loop on each core: what
# fails once in a while fails here. Prints how long each round took, and at the end
# which test failed how often; ends with 1 if any did.
#
#   scripts/stress.sh [N]      10 by default; each round is 10 to 20 minutes on two cores
#
# Nothing is taken from the test cache. What the rounds printed stays in out/stress.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1-10}
case $rounds in
'' | *[!0-9]* | 0)
	echo "usage: $0 [N]" >&2
	exit 2
	;;
esac
scripts/setup.sh test
go=$(command -v go || echo /usr/local/go/bin/go)
export GOFLAGS="${GOFLAGS-} -trimpath" CGO_ENABLED=0
packages=$("$go" list ./... | grep -v '/test/e2e$')
logs=out/stress
rm -rf "$logs"
mkdir -p "$logs"

busy=()
for _ in $(seq "$(nproc)"); do
	bash -c 'while :; do :; done' &
	busy+=($!)
done
trap 'kill "${busy[@]}" 2>/dev/null' EXIT

run() { # NAME COMMAND...: one part of a round
	local log=$logs/$round-$1.log
	shift
	"$@" >"$log" 2>&1 || failed=yes
}
bad=0
for round in $(seq "$rounds"); do
	began=$SECONDS failed=no
	# shellcheck disable=SC2086 # a list
	run unit "$go" test -vet=off -count=1 $packages
	# shellcheck disable=SC2086
	CGO_ENABLED=1 run race "$go" test -vet=off -count=1 -race $packages
	run e2e "$go" test -vet=off -v -count=1 -timeout 60m ./test/e2e
	[ $failed = no ] || bad=$((bad + 1))
	echo "round $round of $rounds: $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s, $([ $failed = no ] && echo passed || echo failed)"
done
echo "$((rounds - bad)) rounds passed, $bad failed"
if [ $bad -gt 0 ]; then
	echo "failures, how often each:"
	grep -Eho '^ *--- FAIL: [^ ]+|^FAIL[[:space:]][^[:space:]]+' "$logs"/*.log | sed 's/^ *//' | sort | uniq -c | sort -rn
	exit 1
fi
