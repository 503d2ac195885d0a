#!/usr/bin/env bash
# The lab in containers, once: two peers behind NAT_A and NAT_B (default:
# port-restricted) tell how they find each other. Ends with a summary, the exit code
# of peer-a, and nothing left but the images.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! engine=$(docker version --format '{{.Server.Version}}' 2>&1); then
	echo "compose-demo: no Docker engine: $engine" >&2
	exit 1
fi
if docker compose version >/dev/null 2>&1; then
	compose=(docker compose)
elif command -v docker-compose >/dev/null; then
	compose=(docker-compose)
else
	echo "compose-demo: neither docker compose nor docker-compose is here: apt-get install docker-compose" >&2
	exit 1
fi

leave() {
	local code=$?
	trap - EXIT INT TERM
	"${compose[@]}" down -v --remove-orphans >/dev/null 2>&1 || code=1
	exit "$code"
}
trap leave EXIT INT TERM

"${compose[@]}" down -v --remove-orphans >/dev/null 2>&1 # what another run left
"${compose[@]}" build
code=0
"${compose[@]}" up --abort-on-container-exit --exit-code-from peer-a || code=$?

story=$("${compose[@]}" logs --no-color peer-a 2>/dev/null | sed -n 's/^[^|]*| *//p')
said() { printf '  %-10s %s\n' "$1" "$(sed -n "s/$2//p" <<<"$story" | head -n 1)"; }
echo
echo "summary: ${NAT_A:-port-restricted} and ${NAT_B:-port-restricted}"
said "relay up" '.*  relay: '
said direct '.*: direct path '
said transfer ' came over the -L.*'
said verdict '^verdict: '
echo "  exit code  $code"
exit "$code"
