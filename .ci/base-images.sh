#!/usr/bin/env bash
# Makes the base images that the Dockerfile names from what this machine has, for
# places that cannot pull images: Dockerfile and docker-compose.yml stay what users
# get. An image that is there already, pulled or made, is left alone.
#
#   debian:bookworm-slim   debootstrap --variant=minbase
#   golang:1.26-bookworm   that, with this machine's Go
#
# Both carry how this machine gets its packages: its Debian mirror, apt's own
# settings for downloads, and its certificate authorities.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=bookworm
debian=debian:$suite-slim
golang=golang:1.26-$suite

missing() { ! docker image inspect "$1" >/dev/null 2>&1; }
say() { echo "base-images: $*" >&2; }

docker version --format 'base-images: engine {{.Server.Version}}' >&2
if ! missing "$debian" && ! missing "$golang"; then
	say "$debian and $golang are there"
	exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
	say "to make base images takes root: debootstrap makes a system's root directory"
	exit 1
fi

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT

if missing "$debian"; then
	if ! command -v debootstrap >/dev/null; then
		say "installing debootstrap"
		scripts/apt.sh debootstrap
	fi
	mirrors() { apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' "Codename: $suite" 'Created-By: Packages' | sed -n 1p; }
	mirror=${DEBIAN_MIRROR:-$(mirrors)}
	if [ -z "$mirror" ]; then # apt knows what its mirrors hold once it has asked them
		scripts/apt.sh
		mirror=$(mirrors)
	fi
	if [ -z "$mirror" ]; then
		say "this machine has no mirror of Debian $suite set up; name one with DEBIAN_MIRROR=URL"
		exit 1
	fi
	say "making $debian from $mirror"
	root=$work/debian
	debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" "$mirror" >"$work/log" 2>&1 || {
		tail -n 20 "$work/log" >&2
		exit 1
	}
	apt-config dump | grep -E '^Acquire::(http|https|ftp|Check|Max-|Min-|Retries)' >"$root/etc/apt/apt.conf.d/90machine" || true
	if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
		cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
	fi
	rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
	tar -C "$root" --numeric-owner --one-file-system -c . |
		docker import --change 'CMD ["bash"]' - "$debian" >/dev/null
fi

if missing "$golang"; then
	GO=$(command -v go || echo /usr/local/go/bin/go)
	GO=$GO scripts/need-go.sh
	goroot=$("$GO" env GOROOT)
	say "making $golang from $goroot"
	docker build -q -t "$golang" -f - "$goroot" >/dev/null <<-IMAGE
		FROM $debian
		COPY . /usr/local/go
		ENV GOPATH=/go GOTOOLCHAIN=local PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
		WORKDIR /go
	IMAGE
fi
say "made; docker image ls has them"
