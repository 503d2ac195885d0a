package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestParseIperf(t *testing.T) {
	mbps, err := parseIperf(`{"end":{"sum_sent":{"bits_per_second":3e9},"sum_received":{"bytes":1,"bits_per_second":2.5e9}}}`)
	if err != nil || mbps != 2500 {
		t.Errorf("%v, %v, want 2500", mbps, err)
	}
	for out, want := range map[string]string{
		`{"end":{},"error":"unable to connect to server"}`: "unable to connect",
		`{"end":{}}`: "nothing arrived",
		`iperf3: no`: "its report",
	} {
		if _, err := parseIperf(out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", out, err, want)
		}
	}
}

func TestLastReport(t *testing.T) {
	r, err := lastReport(`{"event":"path.changed","data":{}}
{"direct":{"goodput_mbps":4000},"rounds":[],"sender":{"cpu_s_per_gb_direct":1.5},"verdict":{"path":"direct","text":"direct: well"}}
`)
	if err != nil || r.Direct == nil || r.Direct.Goodput != 4000 || *r.Sender.CPUDirect != 1.5 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := on(r.Direct, "direct", r); err != nil {
		t.Error(err)
	}
	if _, err := on(r.Relayed, "relayed", r); err == nil || !strings.Contains(err.Error(), "direct: well") {
		t.Errorf("no relayed path: %v, want the verdict", err)
	}
	if _, err := lastReport(`{"event":"verdict"}`); err == nil {
		t.Error("a report out of events")
	}
}

func TestLastWords(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		"starting\np2pagent: no peer\n  try: this\n": "p2pagent: no peer",
		"  indented\n": "indented",
	} {
		if got := lastWords(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestChoose(t *testing.T) {
	all, err := choose("")
	if err != nil || len(all) != len(parts()) {
		t.Errorf("%d parts, %v", len(all), err)
	}
	some, err := choose("turn,raw")
	if err != nil || strings.Join(names(some), " ") != "raw turn" {
		t.Errorf("%v, %v, want raw and turn in the order of a round", names(some), err)
	}
	if _, err := choose("raw,speed"); err == nil || !strings.Contains(err.Error(), `"speed"`) {
		t.Errorf("an unknown part: %v", err)
	}
}

func TestReadNumbers(t *testing.T) {
	const head = 4
	var b []byte
	for number := range uint64(3) {
		packet := make([]byte, head+loadPayload)
		binary.BigEndian.PutUint64(packet[head:], number)
		b = append(b, packet...)
	}
	var got []uint64
	readNumbers(b, head+loadPayload, head, func(n uint64) { got = append(got, n) })
	readNumbers(make([]byte, 100), 100, head, func(uint64) { t.Error("a packet out of something shorter") })
	if len(got) != 3 || got[2] != 2 {
		t.Errorf("%v, want 0 to 2", got)
	}
}

func TestDrainQUIC(t *testing.T) {
	r, err := drainQUIC(bytes.NewReader(make([]byte, 3*quicBuffer)), 0)
	if err != nil || r.Bytes != 3*quicBuffer || r.Mbps <= 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := drainQUIC(bytes.NewReader(make([]byte, 100)), time.Hour); err == nil {
		t.Error("a rate out of what is not counted")
	}
}

// A program that ends too early, and one that says nothing, are errors with what
// was waited for and what was said.
func TestProcess(t *testing.T) {
	p, err := start("talker", false, exec.Command("sh", "-c", "echo ready; echo 'no such thing' >&2; exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	if _, err := p.awaitText(t.Context(), p.stdout, "rea(dy)"); err != nil {
		t.Error(err)
	}
	_, err = p.awaitText(t.Context(), p.stdout, "never")
	if !errors.Is(err, errEnded) || !strings.Contains(err.Error(), "never") || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("%v", err)
	}
	if err := p.wait(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("%v", err)
	}

	silent, err := start("silent", false, exec.Command("sleep", "60"))
	if err != nil {
		t.Fatal(err)
	}
	late := errors.New("too late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, late)
	defer cancel()
	if _, err := silent.awaitText(ctx, silent.stdout, "anything"); !errors.Is(err, late) {
		t.Errorf("%v", err)
	}
	if u, err := usageOf(t.Context(), silent); err != nil || u.peak <= 0 {
		t.Errorf("%+v, %v", u, err)
	}
	silent.stop()
	silent.stop()
	if silent.err == nil {
		t.Error("it has ended by itself")
	}
}

// Each load goes through a TURN server on loopback, and what it says adds up.
func TestLoad(t *testing.T) {
	const secret = "a secret of this test"
	loopback := net.IPv4(127, 0, 0, 1)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback})
	if err != nil {
		t.Fatal(err)
	}
	server, err := newPionTURN(conn, loopback, secret)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for _, load := range turnLoads() {
		t.Run(load.String(), func(t *testing.T) {
			if !load.flatOut() {
				load.mbps = 20
			}
			plan := loadPlan{
				server: conn.LocalAddr().(*net.UDPAddr).AddrPort(), serverPID: os.Getpid(), secret: secret,
				load: load, clients: 2, length: 300 * time.Millisecond,
			}
			r, err := plan.run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if r.Delivered == 0 || r.Delivered > r.Sent || r.Bytes != int64(r.Delivered)*loadPayload || r.Loss < 0 || r.Loss > 1 {
				t.Errorf("%+v", r)
			}
			if !load.flatOut() && r.Sent > 2*uint64(load.mbps*1e6/8/loadPayload*r.Seconds)+2*gsoBurst {
				t.Errorf("%d packets in %v s are more than %v Mbit/s", r.Sent, r.Seconds, load.mbps)
			}
		})
	}
}

func TestLoadRefused(t *testing.T) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	server, err := newPionTURN(conn, net.IPv4(127, 0, 0, 1), "one secret")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	plan := loadPlan{server: conn.LocalAddr().(*net.UDPAddr).AddrPort(), secret: "another", clients: 1}
	if _, err := plan.run(t.Context()); err == nil || !strings.Contains(err.Error(), "allocate on 127.0.0.1") {
		t.Errorf("%v, want a refusal", err)
	}
}
