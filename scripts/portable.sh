#!/usr/bin/env bash
# Tests the agent's packages with the UDP code of the systems that are not Linux:
# an overlay takes the Linux files out of the build and puts the others in.
#
#   scripts/portable.sh [go test flags]
#
# Left out is what asserts that Linux's offloads are in use, and what takes long and
# does not depend on the system.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
packages=(internal/udpsock internal/path candidates punch relay internal/session internal/forward internal/agent)
skip='^TestDataPathDoesNotAllocate$/^platform|^TestQUICOverSockets$/^portable=false$|^TestNoLeakOverManyAllocations$|^TestWindowsFillAFarLink$'

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
replace=()
for package in internal/udpsock internal/path; do
	for file in "$package"/*_linux.go "$package"/*_linux_test.go; do
		replace+=("\"$PWD/$file\": \"\"")
	done
	for file in "$package"/*_other.go "$package"/*_none.go; do
		[ -e "$file" ] || continue
		copy=$dir/${file//\//_}
		sed '/^\/\/go:build /d' "$file" >"$copy"
		replace+=("\"$PWD/$file\": \"$copy\"")
	done
done
{
	echo '{"Replace": {'
	(IFS=,; echo "${replace[*]}")
	echo '}}'
} >"$dir/overlay.json"

"$go" test -vet=off -overlay "$dir/overlay.json" -skip "$skip" "$@" "${packages[@]/#/./}"
