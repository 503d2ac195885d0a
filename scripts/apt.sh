#!/usr/bin/env bash
# Installs Debian packages, as root: waits for another apt to end, and tries again
# when a mirror does not answer.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

again() {
	local try
	for try in 1 2 3 4 5; do
		"$@" >&2 && return
		echo "trying again in $((5 * try)) s: $*" >&2
		sleep $((5 * try))
	done
	"$@" >&2
}

again apt-get update -q -o APT::Update::Error-Mode=any
if [ $# -gt 0 ]; then
	again apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=600 "$@"
fi
