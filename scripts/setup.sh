#!/usr/bin/env bash
# Sees to it that the programs are there which the project runs beside Go.
#
#   scripts/setup.sh demo   what a lab needs
#   scripts/setup.sh test   that, and what the tests call
#
# Prints nothing and changes nothing where all of them are there. As root on
# Debian or Ubuntu it installs what is missing; elsewhere it names the command
# and ends with 1. Servers that it installs are neither started nor enabled: the
# tests start their own.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

# program:package
lab=(ip:iproute2 tc:iproute2 iptables:iptables nft:nftables conntrack:conntrack nsenter:util-linux)
tests=(gcc:gcc tcpdump:tcpdump turnserver:coturn turnutils_uclient:coturn iperf3:iperf3
	sshd:openssh-server ssh:openssh-client curl:curl socat:socat)

case ${1-} in
demo) wanted=("${lab[@]}") ;;
test) wanted=("${lab[@]}" "${tests[@]}") ;;
*)
	echo "usage: $0 demo|test" >&2
	exit 2
	;;
esac

if [ "$(uname -s)" != Linux ]; then
	echo "The lab is made of Linux network namespaces; this is $(uname -s). Use a Linux machine or virtual machine." >&2
	exit 1
fi

programs=() packages=()
for pair in "${wanted[@]}"; do
	if ! command -v "${pair%%:*}" >/dev/null; then
		programs+=("${pair%%:*}")
		packages+=("${pair#*:}")
	fi
done
# The race detector links against the C library.
if [ "$1" = test ] && [ ! -e /usr/include/stdlib.h ]; then
	programs+=(stdlib.h)
	packages+=(libc6-dev)
fi
if [ ${#programs[@]} -eq 0 ]; then
	exit 0
fi
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)

if ! command -v apt-get >/dev/null; then
	echo "Missing: ${programs[*]}. Install them (Debian calls the packages: ${packages[*]}) and try again." >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "Missing: ${programs[*]}. Install them with" >&2
	echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages[*]}" >&2
	exit 1
fi

echo "installing ${packages[*]}" >&2
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then # Debian asks it whether to start a service
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
"$(dirname "$0")/apt.sh" "${packages[@]}"
for service in openssh-server:ssh coturn:coturn; do
	if [[ " ${packages[*]} " == *" ${service%%:*} "* ]] && command -v systemctl >/dev/null; then
		systemctl disable "${service#*:}" >/dev/null 2>&1 || true # no systemd is running: nothing starts it
	fi
done
