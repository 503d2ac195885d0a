package forward

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/p2pagent/p2pagent/internal/cli"
)

func listen(t *testing.T, bind string) Listeners {
	t.Helper()
	ls, err := Listen(t.Context(), bind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ls.Close)
	return ls
}

// needIPv6 skips a test where ::1 is not there.
func needIPv6(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6 on loopback: ", err)
	}
	ln.Close()
}

// answers tells at which of the two loopbacks somebody has the port.
func answers(port uint16) (out []netip.Addr) {
	for _, a := range loopbacks {
		if c, err := net.DialTimeout("tcp", netip.AddrPortFrom(a, port).String(), patience); err == nil {
			c.Close()
			out = append(out, a)
		}
	}
	return out
}

// Who listens where, as clients of either family find it.
func TestListenFamilies(t *testing.T) {
	needIPv6(t)
	for bind, want := range map[string][]netip.Addr{
		"localhost:0": loopbacks,
		"LOCALHOST:0": loopbacks,
		":0":          loopbacks,
		"0.0.0.0:0":   loopbacks[:1],
		"[::]:0":      loopbacks[1:],
		"127.0.0.1:0": loopbacks[:1],
		"[::1]:0":     loopbacks[1:],
	} {
		ls := listen(t, bind)
		if got := answers(ls.Addr().Port()); !slices.Equal(got, want) {
			t.Errorf("%s (%s): answers at %v, want %v", bind, ls, got, want)
		}
	}
}

// A port that is in use at one of the two loopbacks is in use: a client of
// localhost would reach whoever has it there.
func TestListenOnUsedPort(t *testing.T) {
	binds := []string{"127.0.0.1:0"}
	if c, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		c.Close()
		binds = append(binds, "[::1]:0")
	}
	for _, bind := range binds {
		taken := listen(t, bind).Addr()
		other := loopbacks[0]
		if taken.Addr() == other {
			other = loopbacks[1]
		}
		port := strconv.Itoa(int(taken.Port()))
		_, err := Listen(t.Context(), "localhost:"+port)
		advice := "choose another port, or end the program that has it, or name the one address that is meant, for example " + netip.AddrPortFrom(other, taken.Port()).String()
		if !cli.InUse(err) || !strings.Contains(err.Error(), "listen on "+taken.String()) || !strings.Contains(err.Error(), advice) {
			t.Errorf("%s is taken: %v", taken, err)
		}
		if got := answers(taken.Port()); len(got) != 1 || got[0] != taken.Addr() {
			t.Errorf("after the refusal it answers at %v, want %v alone", got, taken.Addr())
		}
	}
}

// A family that is not there is left out, and is an error where it was all.
func TestListenWithoutAFamily(t *testing.T) {
	here, absent := netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("[2001:db8::1]:0")
	for _, addrs := range [][]netip.AddrPort{{here, absent}, {absent, here}} {
		ls, err := ListenOn(t.Context(), addrs)
		if err != nil || len(ls) != 1 || ls.Addr().Addr() != here.Addr() {
			t.Errorf("%v: %v %v", addrs, ls, err)
		}
		ls.Close()
	}
	for _, addrs := range [][]netip.AddrPort{{absent}, {absent, absent}} {
		if ls, err := ListenOn(t.Context(), addrs); err == nil || !strings.Contains(err.Error(), "no such address") && !cli.NoAddress(err) {
			t.Errorf("%v: %v %v", addrs, ls, err)
		}
	}
}

func TestBindErrors(t *testing.T) {
	web := netip.MustParseAddrPort("127.0.0.1:80")
	high := netip.MustParseAddrPort("127.0.0.1:8080")
	for _, tt := range []struct {
		err        *bindError
		says, hush string
	}{
		{&bindError{web, nil, syscall.EACCES}, "CAP_NET_BIND_SERVICE: choose one from 1024 up", "program"},
		{&bindError{high, nil, syscall.EACCES}, "permission denied", "1024"},
		{&bindError{web, nil, syscall.EADDRINUSE}, "end the program that has it", "for example"},
		{&bindError{web, loopbacks[1:], syscall.EADDRINUSE}, "for example [::1]:80", "CAP_NET"},
		{&bindError{web, nil, syscall.EADDRNOTAVAIL}, "this machine has no such address", "program"},
		{&bindError{web, nil, syscall.EMFILE}, "too many open files", ";"},
	} {
		if text := tt.err.Error(); !strings.Contains(text, tt.says) || strings.Contains(text, tt.hush) || !strings.Contains(text, tt.err.addr.String()) {
			t.Errorf("got %q, want %q in it, not %q", text, tt.says, tt.hush)
		}
	}
}

func TestClash(t *testing.T) {
	ls := listen(t, "127.0.0.1:0")
	port := ls.Addr().Port()
	for a, want := range map[string]bool{"127.0.0.1": true, "0.0.0.0": true, "127.0.0.2": false, "::1": false, "::": false} {
		addr := netip.MustParseAddr(a)
		if got := ls.Clash([]netip.AddrPort{netip.AddrPortFrom(addr, port)}); got != want {
			t.Errorf("%s: %v", addr, got)
		}
		if ls.Clash([]netip.AddrPort{netip.AddrPortFrom(addr, port+1)}) {
			t.Errorf("%s: another port", addr)
		}
	}
}
