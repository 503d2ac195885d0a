package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
)

func TestAllocate(t *testing.T) {
	p := startPion(t, 0)
	for _, transport := range []string{"udp", "tcp", "tls"} {
		t.Run(transport, func(t *testing.T) {
			var seen collector
			c := p.config(transport)
			c.Trace = seen.recorder()
			before := p.server.AllocationCount()
			a, err := Allocate(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if a.LocalAddr().Addr() != loopback || a.Mapped().Addr() != loopback || a.Server() != c.Server || a.Transport() != transport || a.Network() != "relay" {
				t.Errorf("relayed %v, mapped %v, server %v over %s on %s", a.LocalAddr(), a.Mapped(), a.Server(), a.Transport(), a.Network())
			}
			if a.Err() != nil {
				t.Errorf("fresh allocation has the error %v", a.Err())
			}
			if ev := events[trace.RelayAllocated](&seen); len(ev) != 1 || ev[0].Relayed != a.LocalAddr() || ev[0].Transport != transport || ev[0].Lifetime != 600 {
				t.Errorf("traced %+v", ev)
			}
			if ev := events[trace.SocketOpened](&seen); len(ev) != 1 {
				t.Errorf("traced sockets %+v", ev)
			}
			if n := p.server.AllocationCount(); n != before+1 {
				t.Errorf("server has %d allocations, want %d", n, before+1)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			if n := p.server.AllocationCount(); n != before {
				t.Errorf("server has %d allocations after Close, want %d", n, before)
			}
			if !errors.Is(a.Err(), net.ErrClosed) {
				t.Errorf("after Close the error is %v", a.Err())
			}
			if err := a.Send([]byte("late"), 0, netip.MustParseAddrPort("127.0.0.1:5000")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Send after Close: %v", err)
			}
			if err := a.Permit(t.Context(), loopback); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Permit after Close: %v", err)
			}
			if ev := events[trace.RelayRefused](&seen); len(ev) != 0 {
				t.Errorf("traced refusals %+v", ev)
			}
		})
	}
}

func TestAllocateConfig(t *testing.T) {
	good := ClientConfig{Server: netip.MustParseAddrPort("127.0.0.1:9"), Username: "u", Password: "p"}
	for _, tt := range []struct {
		name   string
		change func(*ClientConfig)
		want   string
	}{
		{"transport", func(c *ClientConfig) { c.Transport = "dtls" }, `transport "dtls"`},
		{"server", func(c *ClientConfig) { c.Server = netip.AddrPort{} }, "no server address"},
		{"credentials", func(c *ClientConfig) { c.Password = "" }, "no credentials"},
	} {
		c := good
		tt.change(&c)
		if _, err := Allocate(t.Context(), c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestAllocateRefused looks at what a user reads when the server says no.
func TestAllocateRefused(t *testing.T) {
	for _, tt := range []struct {
		code   int
		reason string
		want   string
		is     error
	}{
		{300, "Try Alternate", `300 "Try Alternate": the server wants another one to be used`, nil},
		{400, "", "400 bad request, which some servers answer to wrong credentials: credentials refused", ErrCredentials},
		{403, "Forbidden", `403 "Forbidden": forbidden by the server`, nil},
		{437, "", "437 allocation gone", ErrGone},
		{441, "", "441 the allocation belongs to other credentials: credentials refused", ErrCredentials},
		{442, "", "442 the server does not relay UDP", nil},
		{486, "Allocation Quota Reached", `486 "Allocation Quota Reached": quota reached`, ErrQuota},
		{508, "", "508 the server has no more addresses or ports: quota reached", ErrQuota},
		{599, "\x1b[31mred", `599 "\x1b[31mred": refused`, nil},
	} {
		t.Run(tt.want, func(t *testing.T) {
			s := scripted(t)
			s.instead(func(m *stunmsg.Message) reply {
				if m.Nonce() == "" {
					return reply{usual: true}
				}
				return reply{raw: stunmsg.Error(m.Header, tt.code, tt.reason).Bytes()}
			})
			var seen collector
			c := s.config()
			c.Trace = seen.recorder()
			_, err := Allocate(t.Context(), c)
			if err == nil || err.Error() != "allocate on turn "+s.addr().String()+": "+tt.want {
				t.Fatalf("error %q, want %q at the end", err, tt.want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
			if ev := events[trace.RelayRefused](&seen); len(ev) != 1 || ev[0].What != "allocate" || ev[0].Code != tt.code || ev[0].Server != s.addr().String() {
				t.Errorf("traced %+v", ev)
			}
		})
	}
}

// TestAllocateWrongPassword is for servers of three tempers.
func TestAllocateWrongPassword(t *testing.T) {
	ours := startServer(t, labConfig())
	user, _ := Mint(testSecret, "someone", time.Hour, time.Now())
	for _, tt := range []struct {
		name   string
		config ClientConfig
		want   string
	}{
		{"by the RFC", scripted(t).config(), "401 "},
		{"pion", startPion(t, 0).config("udp"), "400 "},
		{"ours", ClientConfig{Server: ours.UDPAddr(), Username: user, times: impatient}, "401 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.config
			c.Password = "wrong"
			_, err := Allocate(t.Context(), c)
			if !errors.Is(err, ErrCredentials) || !strings.HasPrefix(err.Error(), "allocate on turn "+c.Server.String()+": "+tt.want) ||
				!strings.HasSuffix(err.Error(), "credentials refused") {
				t.Fatalf("error %v", err)
			}
			if strings.Contains(err.Error(), "wrong\"") {
				t.Errorf("error repeats the password: %v", err)
			}
		})
	}
}

func TestAllocateStaleNonceEachTime(t *testing.T) {
	s := scripted(t)
	s.instead(func(m *stunmsg.Message) reply { return reply{raw: s.challenge(m, 438)} })
	_, err := Allocate(t.Context(), s.config())
	var re *RequestError
	if !errors.As(err, &re) || re.Code != 438 {
		t.Fatalf("error %v, want 438 after a few tries", err)
	}
}

func TestAllocateSilence(t *testing.T) {
	s := scripted(t)
	s.instead(func(*stunmsg.Message) reply { return reply{} })
	t.Run("until the client gives up", func(t *testing.T) {
		c := s.config()
		c.times.retry = time.Millisecond
		if _, err := Allocate(t.Context(), c); !errors.Is(err, ErrNoAnswer) || err.Error() != "allocate on turn "+s.addr().String()+": no answer" {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("until the caller gives up", func(t *testing.T) {
		cause := errors.New("lost interest")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Millisecond, cause)
		defer cancel()
		if _, err := Allocate(ctx, s.config()); !errors.Is(err, ErrNoAnswer) || !errors.Is(err, cause) {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("nobody listens on tcp", func(t *testing.T) {
		c := s.config()
		c.Transport = "tcp" // the port is taken for UDP only
		if _, err := Allocate(t.Context(), c); err == nil || !strings.Contains(err.Error(), "over tcp: dial tcp") {
			t.Fatalf("error %v", err)
		}
	})
}

// TestAllocateLostAnswers drops what a network drops.
func TestAllocateLostAnswers(t *testing.T) {
	s := scripted(t)
	n := 0
	s.instead(func(*stunmsg.Message) reply {
		n++
		return reply{usual: n%3 == 0}
	})
	a, _ := allocateAnd(t, s.config())
	if err := a.Permit(t.Context(), loopback); err != nil {
		t.Fatal(err)
	}
}

// TestAllocateIPv6 reaches the server over IPv6, and peers of both families.
func TestAllocateIPv6(t *testing.T) {
	probe, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	probe.Close()
	a, in := allocateAnd(t, scriptedAt(t, net.IPv6loopback).config())
	if a.Mapped().Addr() != netip.IPv6Loopback() {
		t.Errorf("mapped %v", a.Mapped())
	}
	for _, peer := range []string{"192.0.2.9:5000", "[2001:db8::9]:5000"} {
		if err := a.Bind(t.Context(), netip.MustParseAddrPort(peer)); err != nil {
			t.Fatal(err)
		}
	}
	if len(in.data) != 0 {
		t.Error("data from nowhere")
	}
}

// TestAllocateUnusable has the server grant nonsense.
func TestAllocateUnusable(t *testing.T) {
	key := stunmsg.LongTermKey(testUser, testRealm, testPassword)
	for _, tt := range []struct {
		name string
		give func(*stunmsg.Builder) []byte
		want string
	}{
		{"unsigned", func(b *stunmsg.Builder) []byte {
			return b.XORRelayedAddress(netip.MustParseAddrPort("192.0.2.7:5000")).Bytes()
		}, "not signed"},
		{"signed by another", func(b *stunmsg.Builder) []byte {
			return b.XORRelayedAddress(netip.MustParseAddrPort("192.0.2.7:5000")).Sign([]byte("other")).Bytes()
		}, "not signed"},
		{"no relayed address", func(b *stunmsg.Builder) []byte { return b.Sign(key).Bytes() }, "unusable"},
		{"relayed address of nobody", func(b *stunmsg.Builder) []byte {
			return b.XORRelayedAddress(netip.MustParseAddrPort("0.0.0.0:5000")).Sign(key).Bytes()
		}, "unusable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := scripted(t)
			s.instead(func(m *stunmsg.Message) reply {
				if m.Nonce() == "" || m.Method != stunmsg.MethodAllocate {
					return reply{usual: true}
				}
				return reply{raw: tt.give(stunmsg.Success(m.Header))}
			})
			if _, err := Allocate(t.Context(), s.config()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// TestAllocateAbandoned gives up while the server grants: it has to be told.
func TestAllocateAbandoned(t *testing.T) {
	s := scripted(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.instead(func(m *stunmsg.Message) reply {
		if m.Method == stunmsg.MethodAllocate && m.Nonce() != "" {
			cancel()
			return reply{}
		}
		return reply{usual: true}
	})
	if _, err := Allocate(ctx, s.config()); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	waitFor(t, "the allocation to be given back", func() bool { return s.count(stunmsg.MethodRefresh) > 0 }) // repeated when the answer is slow
}

func TestJudge(t *testing.T) {
	to := stunmsg.Header{Class: stunmsg.ClassRequest, Method: stunmsg.MethodRefresh}
	refusal := func(code int, nonce string) *stunmsg.Builder {
		b := stunmsg.Error(to, code, "")
		if nonce != "" {
			b.Nonce(nonce)
		}
		return b
	}
	for _, tt := range []struct {
		name   string
		answer *stunmsg.Builder
		signed bool
		tries  int
		want   verdict
	}{
		{"success", stunmsg.Success(to), true, 3, accept},
		{"success with the last try", stunmsg.Success(to), true, 0, accept},
		{"invited to sign", refusal(401, "n"), false, 3, retry},
		{"401 without an invitation", refusal(401, ""), false, 3, reject},
		{"signed and refused", refusal(401, "n"), true, 3, reject},
		{"stale", refusal(438, "n"), true, 3, retry},
		{"stale for ever", refusal(438, "n"), true, 0, reject},
		{"stale without a fresh one", refusal(438, ""), true, 3, reject},
		{"forbidden", refusal(403, "n"), true, 3, reject},
	} {
		m, err := stunmsg.Decode(tt.answer.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if got := judge(m, tt.signed, tt.tries); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
