#!/usr/bin/env bash
# The demonstration: two peers behind two NATs, linked, moved and moved back, on
# this machine. Run it with `make demo`. Every line that begins with $ is a
# command that can be typed while `bin/p2pagent lab up --a port-restricted --b
# port-restricted` stands.
#
# Nothing outside the lab is touched, and nothing is left: the lab ends with this
# script, however that ends. Traces of both sides stay in out/demo.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
cd "$(dirname "$0")/.."
bin=$PWD/bin
out=$PWD/out/demo
name=demo-$$

public_b=203.0.113.2     # nat-b outside
target=127.0.0.1:7001    # at peer-b: what is downloaded
entry=127.0.0.1:7000     # at peer-a: the -L that leads there
admin=127.0.0.1:8081     # at signal: its counters

patience=50              # seconds that the transfer may take at most

bold='' dim='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then
	bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
fi

now() { echo "${EPOCHREALTIME/./}"; } # microseconds
seconds() { printf '%d.%d' $(($1 / 1000000)) $(($1 % 1000000 / 100000)); }
began=$(now)
step() { printf '\n%s[%5s s] %s%s\n' "$bold" "$(seconds $(($(now) - began)))" "$*" "$plain"; }
note() { printf '          %s\n' "$@"; }
shown() { printf '%s        $ %s%s\n' "$dim" "$*" "$plain"; }

on() { # NODE COMMAND...: runs a command in a node of the lab
	"$bin/p2pagent" lab exec --name "$name" "$@"
}

# The programs that run in the background, each the leader of a process group.
groups=()
background() { # LOG OUTPUT NODE COMMAND...
	local log=$1 output=$2
	shift 2
	setsid "$bin/p2pagent" lab exec --name "$name" "$@" >"$output" 2>"$log" </dev/null &
	groups+=($!)
}
stop() { # PID: asks a background program to end, and waits
	kill -TERM -- "-$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
}

up=no
whole=no
leave() { # ends the programs, then the lab
	local pid
	for pid in "${groups[@]}"; do
		stop "$pid"
	done
	groups=()
	if [ "$up" = yes ]; then
		up=no
		"$bin/p2pagent" lab down --name "$name"
	fi
}
finish() {
	local code=$?
	trap - EXIT INT TERM HUP
	leave || true
	if [ "$whole" = no ]; then
		echo "demo: ended early; the lab is gone, logs are in ${out#"$PWD"/}" >&2
	fi
	exit "$code"
}
trap finish EXIT # after an interrupt as well
trap 'exit 143' TERM HUP

await() { # SECONDS WHAT COMMAND...: until the command succeeds
	local what=$2 until=$(($(now) + $1 * 1000000))
	shift 2
	until "$@"; do
		if [ "$(now)" -gt "$until" ]; then
			echo "demo: no $what; the last lines:" >&2
			tail -n 3 "$out"/*.log >&2
			exit 1
		fi
		sleep 0.05
	done
}

# --- counters, read from outside of the agents ------------------------------

relay_bytes() { # payload that the relay moved, both ways
	on signal bash -c 'exec 3<>/dev/tcp/127.0.0.1/8081 && printf "GET /stats HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n" >&3 && cat <&3' |
		sum '_to_[a-z]*_bytes":[0-9]*'
}
direct_bytes() { # what nat-a forwarded between the two public addresses, both ways
	on nat-a conntrack -L -p udp -o extended 2>/dev/null | grep -F "=$public_b " | sum 'bytes=[0-9]*'
}
sum() { # PATTERN: adds up the numbers at the end of what matches on stdin
	local total=0 match
	while read -r match; do
		total=$((total + ${match##*[!0-9]}))
	done < <(grep -o "$1" || true)
	echo "$total"
}

judge() { # RECEIVED RELAYED DIRECT: the path that these bytes took
	if [ "$1" -le 0 ]; then
		echo "-"
	elif [ $(($2 * 20)) -lt "$3" ]; then
		echo direct
	elif [ $(($3 * 20)) -lt "$2" ]; then
		echo relayed
	else
		echo both
	fi
}

# ---------------------------------------------------------------------------

rm -rf "$out"
mkdir -p "$out"

step "A lab: two homes, each behind a port-restricted NAT, and a public side between them"
shown "p2pagent lab up --a port-restricted --b port-restricted"
"$bin/p2pagent" lab up --name "$name" --a port-restricted --b port-restricted >"$out/lab.txt"
up=yes
grep '^  [a-z]' "$out/lab.txt" | grep -v p2pagent | sed 's/^/        /'
note "Each node is a network namespace. signal (rendezvous, STUN, relay) runs on 192.0.2.2."

step "The NATs, as the prober measures them from behind (RFC 5780)"
for peer in peer-a peer-b; do
	shown "p2pagent lab exec $peer -- p2pagent nat"
	on "$peer" "$bin/p2pagent" nat | grep -E '^(NAT|mapping|filtering|mapped)' | sed 's/^/          /'
done

step "Pairing: peer-b listens and shows a code, peer-a types it"
shown "p2pagent lab exec peer-b -- p2pagent listen --pair --allow $target"
background "$out/peer-b.log" "$out/code" peer-b "$bin/p2pagent" listen --name peer-b --pair --allow "$target" --trace "$out/peer-b.jsonl"
background "$out/transfer.log" /dev/null peer-b "$bin/transfer" serve "$target"
await 10 "pairing code" test -s "$out/code"
code=$(cat "$out/code")
shown "p2pagent lab exec peer-a -- p2pagent connect $code --as peer-b"
background "$out/peer-a-1.log" /dev/null peer-a "$bin/p2pagent" connect "$code" --name peer-a --as peer-b --trace "$out/peer-a-1.jsonl"
first=$!
await 20 "direct path" grep -q 'direct path' "$out/peer-a-1.log"
await 10 "session" grep -q 'session up' "$out/peer-a-1.log"
sed 's/^/  peer-a  /' "$out/peer-a-1.log"
note "The lab has no delay: relay, punch and move are milliseconds apart. (Times since connect.)"
stop "$first"

step "The same again, slowly: a rule in nat-a stops packets between the two homes"
drop() { # -I or -D
	on nat-a iptables -w "$1" FORWARD -p udp -s "$public_b" -j DROP
	on nat-a iptables -w "$1" FORWARD -p udp -d "$public_b" -j DROP
}
shown "p2pagent lab exec nat-a -- iptables -I FORWARD -p udp -d $public_b -j DROP    (and -s)"
drop -I
shown "p2pagent lab exec peer-a -- p2pagent connect peer-b -L $entry:$target"
background "$out/peer-a-2.log" /dev/null peer-a "$bin/p2pagent" connect peer-b --name peer-a -L "$entry:$target" --trace "$out/peer-a-2.jsonl"
start=$(now)
await 20 "session" grep -q 'session up' "$out/peer-a-2.log"
base_relay=$(relay_bytes) base_direct=$(direct_bytes)
background "$out/get.log" "$out/received" peer-a "$bin/transfer" get "$entry"
getter=$!
note "" "A download over that -L. Received: counted at peer-a. Relay: payload counted by the relay." \
	"Direct: counted by nat-a's connections with $public_b. MB a second; times since connect." ""
printf '%10s  %9s  %9s  %9s  %s\n' time received relay direct path

told=0
tell() { # the lines that peer-a said since the last call
	local lines
	lines=$(wc -l <"$out/peer-a-2.log")
	sed -n "$((told + 1)),${lines}p" "$out/peer-a-2.log" | sed 's/^/  peer-a  /'
	told=$lines
}
received() {
	local n
	n=$(grep -E '^[0-9]+$' "$out/received" | tail -n 1 || true)
	echo "${n:-0}"
}

last_time=$(now) last_got=0 last_relay=$base_relay last_direct=$base_direct
paths=''
row() { # one second: what arrived, and which way it came
	sleep 0.9
	local got relay direct time span path
	got=$(received) relay=$(relay_bytes) direct=$(direct_bytes) time=$(now)
	span=$((time - last_time))
	path=$(judge $((got - last_got)) $((relay - last_relay)) $((direct - last_direct)))
	tell
	printf '%10s  %9d  %9d  %9d  %s\n' "$(seconds $((time - start))) s" $(((got - last_got) / span)) \
		$(((relay - last_relay) / span)) $(((direct - last_direct) / span)) "$path"
	paths+=" $path"
	last_time=$time last_got=$got last_relay=$relay last_direct=$direct
}
rows_until() { # PATHS: until the last rows are these
	until [[ $paths == *" $1" ]]; do
		if [ $(($(now) - start)) -gt $((patience * 1000000)) ]; then
			note "no \"$1\" within $patience s"
			return
		fi
		row
	done
}
nat_a() { # TEXT -I|-D
	printf '%10s  nat-a %s\n' "$(seconds $(($(now) - start))) s" "$1"
	drop "$2"
}

rows_until "relayed relayed relayed"
nat_a "takes the rule out" -D
rows_until "direct direct direct direct"
nat_a "puts it back: the direct path is cut" -I
rows_until "relayed relayed"
nat_a "takes it out again" -D
rows_until "direct direct direct"
stop "$getter"
await 5 "end of the transfer" grep -qx whole "$out/received"
last_got=$(received)

step "The verdict of peer-a"
shown "p2pagent lab exec peer-a -- p2pagent status; ... p2pagent explain"
on peer-a "$bin/p2pagent" status | sed 's/^/          /'
verdict=$(on peer-a "$bin/p2pagent" explain)
note "$verdict"

step "Summary"
failures=0
holds() { # WHAT CONDITION...
	if "${@:2}"; then
		note "ok      $1"
	else
		note "NOT ok  $1"
		failures=$((failures + 1))
	fi
}
matches() { [[ $1 =~ $2 ]]; }
holds "$((last_got / 1000000)) MB arrived, each byte the right one" grep -qx whole "$out/received"
holds "the transfer began on the relay and moved to the direct path" matches "$paths" 'relayed.* direct'
holds "it survived the cut of that path, over the relay" matches "$paths" 'relayed.* direct.* relayed'
holds "it went back to the direct path" matches "$paths" 'relayed.* direct.* relayed.* direct'
holds "the agent's verdict is direct" matches "$verdict" 'direct:'
note "what both sides recorded: ${out#"$PWD"/}/*.jsonl"
leave
whole=yes
if [ "$failures" -ne 0 ]; then
	exit 1
fi
step "Done, exit code 0"
