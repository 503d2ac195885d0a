package main

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
)

func ips(texts ...string) (out []netip.Addr) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

func TestLine(t *testing.T) {
	at := netip.MustParseAddrPort
	direct := trace.Path{Kind: "direct", Local: at("192.0.2.1:1000"), Remote: at("198.51.100.2:2000")}
	inTunnel, peersTunnel := direct, direct
	inTunnel.Remote, inTunnel.Tunnel, inTunnel.InTunnel = at("10.99.0.2:2000"), "wg0", true
	peersTunnel.InTunnel = true
	relayed := trace.Path{Kind: "relayed", Local: at("192.0.2.1:1000"), Remote: at("203.0.113.5:50000"), Hops: 1}
	twice := relayed
	twice.Hops = 2
	overTCP := relayed
	overTCP.Stream = true
	const evil = "\x1b[31mred\x07\r\u202e\x00"
	for _, tt := range []struct {
		name string
		e    trace.Event
		want string // empty: no line
		tone string
	}{
		{"connected", trace.SignalState{URL: "ws://h:1", State: "connected"}, "signaling: connected to ws://h:1", ""},
		{"connecting", trace.SignalState{URL: "ws://h:1", State: "connecting"}, "", ""},
		{"held", trace.SignalState{URL: "ws://h:1", State: "held", Why: "too many"}, "signaling: the server makes us wait: too many; trying again", yellow},
		{"lost", trace.SignalState{URL: "ws://h:1", State: "lost", Why: "refused."}, "signaling: no connection to ws://h:1: refused; trying again", yellow},
		{"there", trace.PeerState{Present: true}, "bob: there", ""},
		{"there again", trace.PeerState{Present: true, Why: "restarted, linking anew"}, "bob: restarted, linking anew", ""},
		{"absent", trace.PeerState{}, "bob: absent; waiting", yellow},
		{"left", trace.PeerState{Why: "left the signaling server"}, "bob: absent: left the signaling server; waiting", yellow},
		{"there, beside a link", trace.PeerState{Present: true, Linked: true}, "", ""},
		{"left, beside a link", trace.PeerState{Why: "left the signaling server", Linked: true}, "", ""},
		{"paired", trace.Paired{Name: "bob", Fingerprint: "abcd-efgh"}, "paired with bob, key abcd-efgh", green},
		{"paired under another name", trace.Paired{Name: "bob-2", Fingerprint: "abcd", Calls: "bob"},
			"paired with bob-2, key abcd; it calls itself bob, which is another peer's name here", green},
		{"paired again", trace.Paired{Name: "bob", Fingerprint: "abcd", Again: true}, "paired again with bob, key abcd", green},
		{"paired again, name kept", trace.Paired{Name: "bob", Fingerprint: "abcd", Again: true, Calls: "desk"},
			"paired again with bob, key abcd; it calls itself desk, and keeps its name here", green},
		{"paired again, renamed", trace.Paired{Name: "desk", Fingerprint: "abcd", Again: true, Was: "bob"},
			"paired again with desk, key abcd; until now it was called bob", green},
		{"relay", trace.RelayAllocated{Server: "203.0.113.5:3478", Transport: "udp", Relayed: at("203.0.113.5:50000")}, "relay: 203.0.113.5:50000 on 203.0.113.5:3478 over udp", ""},
		{"no relay", trace.RelayMissing{Why: "203.0.113.5:3478: no answer over UDP", Remedy: "is it running?"}, "bob: no relay: 203.0.113.5:3478: no answer over UDP; try: is it running?", yellow},
		{"a relay of several that refused", trace.RelayRefused{Server: "203.0.113.5:3478", What: "allocate", Code: 486, Why: "quota"}, "", ""},
		{"no permission", trace.RelayRefused{Server: "203.0.113.5:3478", What: "permission", Code: 403}, "", ""},
		{"up", trace.SessionState{State: "up"}, "bob: session up, encrypted end to end", green},
		{"dialing", trace.SessionState{State: "dialing"}, "", ""},
		{"closed", trace.SessionState{State: "closed", Why: "done"}, "bob: link ended: done", yellow},
		{"barred", trace.PathBarred{Path: inTunnel, Barred: true, Why: "it carries this link's own packets"}, "bob: direct path 192.0.2.1:1000 <-> 10.99.0.2:2000 inside the tunnel wg0 is not used: it carries this link's own packets", yellow},
		{"cleared", trace.PathBarred{Path: inTunnel, Why: "it does not"}, "bob: direct path 192.0.2.1:1000 <-> 10.99.0.2:2000 inside the tunnel wg0 may be used: it does not", ""},
		{"in a tunnel", trace.PathChanged{To: &inTunnel, RTT: 30, Why: "first path"}, "bob: direct path 192.0.2.1:1000 <-> 10.99.0.2:2000 inside the tunnel wg0, rtt 30 ms: first path", yellow},
		{"in the peer's", trace.PathChanged{To: &peersTunnel, RTT: 30, Why: "first path"}, "bob: direct path 192.0.2.1:1000 <-> 198.51.100.2:2000 inside a tunnel of the peer's, rtt 30 ms: first path", yellow},
		{"suspected, not in use", trace.PathSuspected{Path: direct, Silent: 2100}, "", ""},
		{"suspected, alone", trace.PathSuspected{Path: direct, Silent: 2100, Active: true}, "bob: direct path 192.0.2.1:1000 <-> 198.51.100.2:2000 silent for 2.1 s; there is no second path", yellow},
		{"suspected", trace.PathSuspected{Path: direct, Silent: 2100, Active: true, Second: &relayed}, "bob: direct path 192.0.2.1:1000 <-> 198.51.100.2:2000 silent for 2.1 s; sending over a second path too", yellow},
		{"direct", trace.PathChanged{From: &relayed, To: &direct, RTT: 12.3456, Why: "direct path"}, "bob: direct path 192.0.2.1:1000 <-> 198.51.100.2:2000, rtt 12 ms: direct path", green},
		{"relayed", trace.PathChanged{To: &relayed, RTT: 30, Why: "first path"}, "bob: relayed path 192.0.2.1:1000 <-> 203.0.113.5:50000 over one relay, rtt 30 ms: first path", yellow},
		{"relayed over TCP", trace.PathChanged{To: &overTCP}, "bob: relayed path 192.0.2.1:1000 <-> 203.0.113.5:50000 over one relay (TCP), rtt 0 s", yellow},
		{"relayed twice", trace.PathChanged{To: &twice}, "bob: relayed path 192.0.2.1:1000 <-> 203.0.113.5:50000 over two relays, rtt 0 s", yellow},
		{"the last path of a link", trace.PathChanged{From: &direct, Why: path.WhyClosed}, "", ""},
		{"no path", trace.PathChanged{From: &direct, Why: "silent"}, "bob: no path: silent", red},
		{"verdict of a direct path", trace.Verdict{Path: "direct", Text: "direct: fine"}, "", ""},
		{"verdict", trace.Verdict{Path: "relayed", Text: "relayed: no UDP", Remedy: "allow UDP"}, "bob: relayed: no UDP; try: allow UDP", ""},
		{"-L, not allowed", trace.StreamRefused{Kind: "dial", Target: "localhost:22", Port: "127.0.0.1:2222", Code: "not allowed", Why: "not on this side's list"}, `-L localhost:22: bob does not allow it: "not on this side's list"`, yellow},
		{"-L, unreachable", trace.StreamRefused{Kind: "dial", Target: "localhost:22", Port: "127.0.0.1:2222", Code: "unreachable", Why: "connection refused"}, `-L localhost:22: bob does not reach it: "connection refused"`, yellow},
		{"-L, one too many there", trace.StreamRefused{Kind: "dial", Target: "localhost:22", Port: "127.0.0.1:2222", Code: "too many streams", Why: "no more at once"}, `-L localhost:22: refused by bob: "no more at once"`, yellow},
		{"-L, no answer", trace.StreamRefused{Kind: "dial", Target: "localhost:22", Port: "127.0.0.1:2222", Why: "no answer within 30 s"}, "-L localhost:22: no answer within 30 s", yellow},
		{"pipe, not allowed", trace.StreamRefused{Kind: "dial", Target: "localhost:22", Code: "not allowed", Why: "no"}, `localhost:22: bob does not allow it: "no"`, yellow},
		{"-R, on the side of the port", trace.StreamRefused{Kind: "reverse", Target: "r0-b368c9e1", Port: "127.0.0.1:8001", Code: "unreachable", Why: "connection refused"}, `-R 127.0.0.1:8001: bob does not reach it: "connection refused"`, yellow},
		{"-R, on the side of the target", trace.StreamRefused{Kind: "reverse", Target: "localhost:1", Remote: true, Why: "connection refused"}, "-R to localhost:1: connection refused", yellow},
		{"-R whose port is not opened", trace.StreamRefused{Kind: "reverse", Target: "localhost:1", Port: "localhost:8001", Code: "refused", Why: "address in use"}, `-R localhost:8001: refused by bob: "address in use"`, yellow},
		{"port that is not opened", trace.StreamRefused{Kind: "reverse", Target: "localhost:8001", Port: "localhost:8001", Remote: true, Why: "address in use"}, "port localhost:8001 is not opened for bob: address in use", yellow},
		{"target that the peer asks for and that is down", trace.StreamRefused{Kind: "dial", Target: "localhost:22", Remote: true, Why: "connection refused"}, "bob asks for localhost:22: connection refused", yellow},
		{"newcomer", trace.KeyShared{Side: "newcomer"}, "took the place of another `p2pagent listen` with this machine's key; run one only, and give a copied machine a key of its own", yellow},
		{"replaced", trace.KeyShared{Side: "replaced"}, "another `p2pagent listen` with this machine's key took this one's place; its links go on, and it ends with them", yellow},
		{"peer on two machines", trace.KeyShared{Side: "peer", From: "nas", To: "laptop"}, "bob: laptop took over from nas: two machines have its key", yellow},
		{"peer on two machines, link kept", trace.KeyShared{Side: "peer", From: "nas", To: "laptop", Kept: true}, "bob: laptop took over from nas: two machines have its key; the link with the first goes on", yellow},
		{"peer twice on one", trace.KeyShared{Side: "peer", From: "nas", To: "nas", Pause: 4}, "bob: a second `p2pagent listen` with its key took over; linking again in 4 s", yellow},
		{"trouble", trace.Trouble{Where: "accept on 127.0.0.1:80", Why: "too many open files"}, "accept on 127.0.0.1:80: too many open files; trying again", yellow},
		{"trouble over", trace.Trouble{Where: "accept on 127.0.0.1:80"}, "accept on 127.0.0.1:80: works again", ""},
		{"target that is not allowed", trace.TargetDenied{Target: "localhost:23"}, "bob does not allow localhost:23; it needs --allow localhost:23 there", yellow},
		{"target that is never allowed", trace.TargetDenied{Target: "169.254.169.254:80", Never: true}, "bob does not allow 169.254.169.254:80, and nothing could make it", yellow},
		{"target that the peer asks for", trace.TargetDenied{Target: "localhost:23", Remote: true}, "bob asks for localhost:23, which is not on the --allow list", yellow},
		{"name that resolves", trace.TargetResolved{Name: "nas", Addrs: ips("10.0.0.1")}, "", ""},
		{"name without an address", trace.TargetResolved{Name: "nas", Err: "does not resolve: no such host"}, "--allow nas does not resolve: no such host; it is looked up again", yellow},
		{"name that resolves at last", trace.TargetResolved{Name: "nas", Addrs: ips("10.0.0.1", "10.0.0.2"), Failed: 3}, "--allow nas is 10.0.0.1, 10.0.0.2", ""},
		{"name that moved", trace.TargetResolved{Name: "nas", Addrs: ips("10.0.0.2"), Before: ips("10.0.0.1")}, "--allow nas has moved to 10.0.0.2 from 10.0.0.1", ""},
		{"name that does not resolve any more", trace.TargetResolved{Name: "nas", Addrs: ips("10.0.0.1"), Err: "does not resolve: i/o timeout"}, "--allow nas does not resolve: i/o timeout; staying with 10.0.0.1", yellow},
		{"name that leads inside", trace.TargetResolved{Name: "nas", Addrs: ips("192.0.2.1"), Err: "has no address that may be dialed", Refused: []trace.AddrRefused{{Addr: ips("10.0.0.1")[0], Why: "private"}}},
			"--allow nas has no address that may be dialed; 10.0.0.1 is not used, as it is private; staying with 192.0.2.1", yellow},
		{"what only the trace tells", trace.PathSize{Path: direct, From: 1200, To: 1452}, "", ""},
		{"control characters in a name", trace.Paired{Name: evil, Fingerprint: "abcd"}, "paired with �[31mred����, key abcd", green},
		{"control characters in a reason", trace.SessionState{State: "closed", Why: evil}, "bob: link ended: �[31mred����", yellow},
		{"a second line in a reason", trace.SessionState{State: "closed", Why: "done\n    0.001 s  bob: direct path"}, "bob: link ended: done     0.001 s  bob: direct path", yellow},
		{"control characters in a target", trace.StreamRefused{Kind: "dial", Target: evil, Why: "no"}, "�[31mred����: no", yellow},
	} {
		if got, tone := line(trace.Record{Peer: "bob", Event: tt.e}, false); got != tt.want || tone != tt.tone {
			t.Errorf("%s: %q in %q, want %q in %q", tt.name, got, tone, tt.want, tt.tone)
		}
		if got, _ := line(trace.Record{Peer: evil, Event: tt.e}, true); strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("%s of an evil peer, with -v: %q", tt.name, got)
		}
	}
}

func TestTeller(t *testing.T) {
	up := trace.Record{Peer: "bob", Since: 1500 * time.Millisecond, Event: trace.SessionState{State: "up"}}
	down := trace.Record{Peer: "bob", Since: 2 * time.Second, Event: trace.SessionState{State: "closed"}}
	for _, tt := range []struct{ color, want string }{
		{"never", "    1.500 s  bob: session up, encrypted end to end\n    2.000 s  bob: link ended\n"},
		{"auto", "    1.500 s  bob: session up, encrypted end to end\n    2.000 s  bob: link ended\n"}, // no terminal
		{"always", "    1.500 s  " + green + "bob: session up, encrypted end to end\x1b[0m\n    2.000 s  " + yellow + "bob: link ended\x1b[0m\n"},
	} {
		var out bytes.Buffer
		teller, err := newTeller(&out, false, tt.color)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []trace.Record{up, up, down} { // one line per change
			teller.Record(r)
		}
		if out.String() != tt.want {
			t.Errorf("%s: %q, want %q", tt.color, &out, tt.want)
		}
	}
}

// What is tried again and again is told anew only when a try has gone well between.
func TestTellerTries(t *testing.T) {
	lost := trace.SignalState{URL: "ws://h:1", State: "lost", Why: "network is unreachable"}
	connecting := trace.SignalState{URL: "ws://h:1", State: "connecting"}
	udp := trace.RelayRefused{Server: "h:3478", What: "allocate", Why: "dial udp4: network is unreachable"}
	tcp := trace.RelayRefused{Server: "h:3478", What: "allocate", Why: "dial tcp: network is unreachable"}
	round := []trace.Event{connecting, lost, udp, tcp}
	for _, tt := range []struct {
		name    string
		verbose bool
		events  []trace.Event
		want    int // lines
	}{
		{"each second", true, slices.Concat(round, round, round), 4},
		{"each second, without -v", false, slices.Concat(round, round, round), 1},
		{"after a connection", true, slices.Concat(round, []trace.Event{trace.SignalState{URL: "ws://h:1", State: "connected"}}, round), 4 + 1 + 2},
		{"after a relay", true, slices.Concat(round, []trace.Event{trace.RelayAllocated{Server: "h:3478"}}, round), 4 + 1 + 2},
	} {
		var out bytes.Buffer
		teller, err := newTeller(&out, tt.verbose, "never")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range tt.events {
			teller.Record(trace.Record{Peer: "bob", Event: e})
		}
		if got := strings.Count(out.String(), "\n"); got != tt.want {
			t.Errorf("%s: %d lines, want %d:\n%s", tt.name, got, tt.want, &out)
		}
	}
	teller, _ := newTeller(io.Discard, true, "never")
	for i := range 10 * maxTries {
		teller.Record(trace.Record{Event: trace.RelayRefused{Why: fmt.Sprint(i)}})
	}
	if len(teller.tries) > maxTries {
		t.Errorf("%d lines are kept", len(teller.tries))
	}
}

// fill gives every member of an event a value.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Interface().(type) {
	case netip.AddrPort:
		v.Set(reflect.ValueOf(netip.MustParseAddrPort("192.0.2.1:1000")))
		return
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.MustParseAddr("192.0.2.1")))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(t, v.Index(i))
		}
	case reflect.String:
		v.SetString("word")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1234)
	case reflect.Float64:
		v.SetFloat(1234.5678)
	default:
		t.Fatalf("no value for %v", v.Type())
	}
}

// With -v every event has a line for people: no pointers, no braces of Go, and no
// figures that nobody reads.
func TestDetail(t *testing.T) {
	for _, e := range trace.Events() {
		v := reflect.New(reflect.TypeOf(e)).Elem()
		fill(t, v)
		full := trace.Record{Peer: "bob", Event: v.Interface().(trace.Event)}
		told, _ := line(full, true)
		for _, text := range []string{told, detail(full), detail(trace.Record{Event: e})} {
			if m := regexp.MustCompile(`0x|[{}&]|%!|invalid|map\[|<nil>|\d\.\d{3,}`).FindString(text); m != "" {
				t.Errorf("%s: %q in %q", e.EventName(), m, text)
			}
		}
	}
	yes, no, mapping := true, false, "endpoint-independent"
	at := netip.MustParseAddrPort
	for _, tt := range []struct {
		e    trace.Event
		want string
	}{
		{trace.NATMeasured{UDP: &yes, Mapping: &mapping, Mapped: []netip.AddrPort{at("198.51.100.2:5000"), at("198.51.100.2:5001")}},
			"bob: nat measured: udp, mapping endpoint-independent, mapped 198.51.100.2:5000 198.51.100.2:5001"},
		{trace.NATMeasured{UDP: &no, Remote: true}, "bob: nat measured: no udp, remote"},
		{trace.NATMeasured{}, "bob: nat measured"},
		{trace.AttemptEnded{ID: "x", Sent: 120, MS: 5012, Why: "nothing arrived"}, "bob: attempt ended: id x, checks sent 120, 5 s, why nothing arrived"},
		{trace.PathAdded{Path: trace.Path{Kind: "direct", Local: at("192.0.2.1:1"), Remote: at("192.0.2.2:2")}, RTT: 0.1346, Size: 1200},
			"bob: path added: direct path 192.0.2.1:1 <-> 192.0.2.2:2, rtt 130 µs, size 1200"},
		{trace.StreamClosed{ID: 4, BytesIn: 1132000000, BytesOut: 512}, "bob: stream closed: id 4, in 1.13 GB, out 512 B"},
		{trace.SessionState{State: "dialing"}, "bob: session state: state dialing"},
		{trace.Unknown{Name: "of.tomorrow"}, "bob: of tomorrow"},
	} {
		if got := detail(trace.Record{Peer: "bob", Event: tt.e}); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
