package e2e

import (
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"
)

// needIPv6 skips a test where ::1 is not there.
func needIPv6(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6 on loopback: ", err)
	}
	ln.Close()
}

// echoes tells at which of the two loopbacks a port leads to an echo.
func echoes(t *testing.T, port string) (hosts []string) {
	t.Helper()
	for _, host := range []string{"127.0.0.1", "::1"} {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(host, port), patience)
		if err != nil {
			continue
		}
		c.SetDeadline(time.Now().Add(patience))
		want := randomText(100)
		got := make([]byte, len(want))
		if _, err = io.WriteString(c, want); err == nil {
			_, err = io.ReadFull(c, got)
		}
		c.Close()
		if err != nil || string(got) != want {
			t.Errorf("%s port %s: %q came back of %q: %v", host, port, got, want, err)
		}
		hosts = append(hosts, host)
	}
	return hosts
}

// TestBinds: a client of localhost reaches a forward over both families, one of
// 0.0.0.0 over IPv4 alone, on both sides of the link.
func TestBinds(t *testing.T) {
	t.Parallel()
	needIPv6(t)
	w := newWorld(t)
	alice, bob := newHome(t, w.url), newHome(t, w.url)
	listener := bob.start(t, "listen", "--name", "bob", "--allow", w.echo, "--allow", "listen:1024-65535", "--allow", "listen:0.0.0.0:1024-65535")
	pair(t, alice, listener, "alice", "bob")
	both, four := []string{"127.0.0.1", "::1"}, []string{"127.0.0.1"}

	link := alice.start(t, "connect", "bob",
		"-L", "0:"+w.echo, "-L", "localhost:0:"+w.echo, "-L", "*:0:"+w.echo, "-L", "0.0.0.0:0:"+w.echo, "-L", "127.0.0.1:0:"+w.echo)
	link.await(t, link.stderr, "bob: session up")
	lines := regexp.MustCompile(`listening on \S+:(\d+) .*for `).FindAllStringSubmatch(link.stderr.String(), -1)
	want := [][]string{both, both, both, four, four}
	if len(lines) != len(want) {
		t.Fatalf("%d lines of ports, want %d:\n%s", len(lines), len(want), link.stderr)
	}
	for i, m := range lines {
		if got := echoes(t, m[1]); !slices.Equal(got, want[i]) {
			t.Errorf("%q: answers at %v, want %v", m[0], got, want[i])
		}
	}
	link.interrupt(t)

	for bind, want := range map[string][]string{"": both, "localhost:": both, "0.0.0.0:": four} {
		port := strconv.Itoa(freePorts(t))
		link := alice.start(t, "connect", "bob", "-R", bind+port+":"+w.echo)
		awaitListening(t, net.JoinHostPort(want[len(want)-1], port))
		if got := echoes(t, port); !slices.Equal(got, want) {
			t.Errorf("-R %s%s: answers at %v, want %v", bind, port, got, want)
		}
		link.interrupt(t)
	}
}

// awaitListening waits until somebody listens there.
func awaitListening(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens there within %v: %v", patience, err)
		}
	}
}
