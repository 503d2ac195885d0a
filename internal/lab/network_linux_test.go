package lab

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A private address has no way through the core, and the core says nothing.
func TestCoreDropsWhatItCannotRoute(t *testing.T) {
	l := build(t, Topology{A: kind(t, "none"), B: kind(t, "port-restricted")}, nil)
	out, err := l.Node(Core).Run(t.Context(), "ip", "route", "get", "10.2.0.2")
	if err == nil {
		t.Errorf("core routes a private address: %s", out)
	}
	c, err := l.Node(Signal).ListenUDP(t.Context(), "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := l.Node(Signal).Dial(t.Context(), "udp4", "10.2.0.2:9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatalf("send to a private address: %v, want silence", err)
	}
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 10)); errors.Is(err, syscall.ECONNREFUSED) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("answer from nowhere: %v", err)
	}
}

// The line has the MTU, the rate and the loss that were asked for, both ways.
func TestLinks(t *testing.T) {
	needSandbox(t)
	none := kind(t, "none")
	send := func(t *testing.T, l *Lab, from, to, addr string) time.Duration {
		t.Helper()
		e, err := startEcho(t.Context(), l.Node(to), addr)
		if err != nil {
			t.Fatal(err)
		}
		defer e.close()
		start := time.Now()
		if err := echoed(t.Context(), l.Node(from), addr, bytes.Repeat([]byte("x"), 200_000)); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	t.Run("rate", func(t *testing.T) {
		t.Parallel()
		l := build(t, Topology{A: none, B: none, LinkA: Link{BitsPerSecond: 8e6}}, nil)
		// 200 kB each way at 1 MB/s, of which the burst and the two ways overlap.
		if d := send(t, l, PeerA, Server, "192.0.2.130:7"); d < 100*time.Millisecond {
			t.Errorf("200 kB took %v at 8 Mbit/s", d)
		}
		// This machine may be busy, though not all the time.
		fastest := time.Hour
		for end := time.Now().Add(time.Minute); fastest >= 100*time.Millisecond && time.Now().Before(end); {
			fastest = min(fastest, send(t, l, PeerB, Server, "192.0.2.130:7"))
		}
		if fastest >= 100*time.Millisecond {
			t.Errorf("200 kB took %v on the line that was not asked to be slow", fastest)
		}
	})
	t.Run("mtu", func(t *testing.T) {
		t.Parallel()
		l := build(t, Topology{A: none, B: none, LinkB: Link{MTU: 1300}}, nil)
		for node, dev := range map[string]string{NatB: wanInterface, Core: "to-" + NatB} {
			if out, err := l.Node(node).Run(t.Context(), "ip", "link", "show", "dev", dev); err != nil || !strings.Contains(out, "mtu 1300") {
				t.Errorf("%s: %s, %v", node, out, err)
			}
		}
		send(t, l, PeerA, PeerB, "203.0.113.130:7")
	})
	t.Run("loss", func(t *testing.T) {
		t.Parallel()
		l := build(t, Topology{A: none, B: none, LinkA: Link{Loss: 1}}, nil)
		server, err := l.Node(Server).ListenUDP(t.Context(), "192.0.2.130:5000")
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		for from, want := range map[string]bool{PeerA: false, PeerB: true} {
			conn, err := l.Node(from).Dial(t.Context(), "udp4", "192.0.2.130:5000")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(from)); err != nil {
				t.Fatal(err)
			}
			wait := 200 * time.Millisecond
			if want {
				wait = time.Minute
			}
			server.SetReadDeadline(time.Now().Add(wait))
			if _, err := server.Read(make([]byte, 10)); (err == nil) != want {
				t.Errorf("a packet from %s: %v", from, err)
			}
		}
	})
}

func TestLabEnvKeepsNodesApart(t *testing.T) {
	got := labEnv([]string{"PATH=/bin", "HTTPS_PROXY=http://proxy", "no_proxy=x", "P2PAGENT_SIGNAL=ws://x", "XDG_CONFIG_HOME=/c", "HOME=/h", "TERM=vt"})
	if strings.Join(got, " ") != "PATH=/bin TERM=vt" {
		t.Errorf("environment %q", got)
	}
}

// Each node has a home of its own, however many variables of the environment are left
// out: what is dropped from a slice leaves room behind it.
func TestNodesHaveHomesOfTheirOwn(t *testing.T) {
	needSandbox(t)
	for i := range 16 {
		t.Setenv("P2PAGENT_LEFT_OUT_"+strconv.Itoa(i), "x")
	}
	l := build(t, Topology{A: kind(t, "none"), B: kind(t, "none")}, nil)
	homes := map[string]string{}
	for name, n := range l.nodes {
		out, err := n.Run(t.Context(), "sh", "-c", "echo $HOME $XDG_CONFIG_HOME")
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := homes[string(out)]; taken {
			t.Errorf("%s and %s both live in %s", name, other, out)
		}
		homes[string(out)] = name
	}
}
