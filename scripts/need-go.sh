#!/usr/bin/env bash
# Ends with 0 where GO (default: go) can build this module, else says in a
# sentence what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
if ! command -v "$go" >/dev/null; then
	echo "Go 1.26 or newer is needed, and there is no $go here: get it from https://go.dev/dl/ and put its bin directory into PATH." >&2
	exit 1
fi
# Go 1.21 and newer fetch the version that go.mod asks for by themselves.
if ! why=$("$go" list -m 2>&1); then
	echo "Go 1.26 or newer is needed; this is $(GOTOOLCHAIN=local "$go" env GOVERSION 2>/dev/null || "$go" version). Get it from https://go.dev/dl/." >&2
	echo "  ($why)" >&2
	exit 1
fi
