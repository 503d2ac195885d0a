package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// relays are the servers and transports that data has to get through.
func relays(t *testing.T) map[string]ClientConfig {
	p := startPion(t, 0)
	cfg := labConfig()
	cert, roots := certAndRoots(t)
	cfg.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	ours := startServer(t, cfg)
	user, password := Mint(testSecret, "someone", time.Hour, time.Now())
	our := func(transport string, addr netip.AddrPort) ClientConfig {
		return ClientConfig{Server: addr, Transport: transport, RootCAs: roots, Username: user, Password: password, times: impatient}
	}
	return map[string]ClientConfig{
		"pion/udp": p.config("udp"), "pion/tcp": p.config("tcp"), "pion/tls": p.config("tls"),
		"ours/udp": our("udp", ours.UDPAddr()), "ours/tcp": our("tcp", ours.StreamAddr("tcp")), "ours/tls": our("tls", ours.StreamAddr("tls")),
	}
}

// TestBetweenAllocations moves 1 MiB each way between two allocations on one server,
// first by indications and then over channels.
func TestBetweenAllocations(t *testing.T) {
	for name, c := range relays(t) {
		t.Run(name, func(t *testing.T) {
			a, atA := allocateAnd(t, c)
			b, atB := allocateAnd(t, c)
			for _, e := range []error{a.Permit(t.Context(), b.LocalAddr().Addr()), b.Permit(t.Context(), a.LocalAddr().Addr())} {
				if e != nil {
					t.Fatal(e)
				}
			}
			transfer(t, a, b, atB, 64<<10)
			transfer(t, b, a, atA, 64<<10)
			for _, e := range []error{a.Bind(t.Context(), b.LocalAddr()), b.Bind(t.Context(), a.LocalAddr())} {
				if e != nil {
					t.Fatal(e)
				}
			}
			transfer(t, a, b, atB, 1<<20)
			transfer(t, b, a, atA, 1<<20)
		})
	}
}

// transfer sends total bytes in batches of 1200-byte datagrams, each batch after
// the last one has arrived, and compares. What is lost is sent again.
func transfer(t *testing.T, from, to *Allocation, inbox *inbox, total int) {
	t.Helper()
	const seg, batch = 1200, 16
	data := make([]byte, total)
	for i := 0; i < total; i += seg { // a number, so that pieces can be told apart
		data[i] = 0x40 // not STUN
		copy(data[i+1:], fmt.Sprintf("%08d", i))
	}
	for at := 0; at < total; at += seg * batch {
		part := data[at:min(at+seg*batch, total)]
		want := slices.Collect(udpsock.Cut(part, seg))
		deadline := time.Now().Add(patience)
		for left := len(want); left > 0; {
			if err := from.Send(part, seg, to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			quiet := time.After(500 * time.Millisecond)
		batch:
			for left > 0 {
				select {
				case p := <-inbox.data:
					if p.Src != from.LocalAddr() {
						t.Fatalf("source %v, want %v", p.Src, from.LocalAddr())
					}
					for d := range p.Datagrams() {
						if i := slices.IndexFunc(want, func(w []byte) bool { return w != nil && bytes.Equal(w, d) }); i >= 0 {
							want[i] = nil
							left--
						}
					}
					p.Release()
				case <-quiet:
					break batch
				}
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d datagrams at %d never came", left, len(want), at)
			}
		}
	}
}

// TestPeer talks with a plain socket, STUN and data, sizes mixed.
func TestPeer(t *testing.T) {
	for name, c := range relays(t) {
		t.Run(name, func(t *testing.T) {
			a, in := allocateAnd(t, c)
			peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			addr := peer.LocalAddr().(*net.UDPAddr).AddrPort()
			if err := a.Permit(t.Context(), addr.Addr()); err != nil {
				t.Fatal(err)
			}
			relayed := net.UDPAddrFromAddrPort(a.LocalAddr())
			say := func(b []byte) {
				t.Helper()
				if _, err := peer.WriteTo(b, relayed); err != nil {
					t.Fatal(err)
				}
			}
			hear := func(want string) {
				t.Helper()
				buf := make([]byte, 2048)
				peer.SetReadDeadline(time.Now().Add(patience))
				n, src, err := peer.ReadFromUDPAddrPort(buf)
				if err != nil || string(buf[:n]) != want || src != a.LocalAddr() {
					t.Fatalf("peer got %q from %v, %v; want %q from %v", buf[:n], src, err, want, a.LocalAddr())
				}
			}
			for _, bound := range []bool{false, true} {
				if bound {
					if err := a.Bind(t.Context(), addr); err != nil {
						t.Fatal(err)
					}
				}
				for n := 4; n <= 12; n++ { // every kind of padding; pion leaves shorter ones in a stream
					msg := "\x40" + strings.Repeat("x", n)
					if err := a.Send([]byte(msg), 0, addr); err != nil {
						t.Fatal(err)
					}
					hear(msg)
					say([]byte(msg))
					p := in.packet(t)
					if string(p.Data) != msg || p.Src != addr {
						t.Fatalf("got %q from %v, want %q from %v", p.Data, p.Src, msg, addr)
					}
					p.Release()
				}
				check := stunmsg.NewRequest(stunmsg.MethodBinding).Username("a:b").Sign([]byte("key")).Bytes()
				say([]byte("\x01 neither"))
				say(check)
				select {
				case got := <-in.stun:
					if got.b != string(check) || got.src != addr {
						t.Fatalf("got %x from %v", got.b, got.src)
					}
				case <-time.After(patience):
					t.Fatal("STUN did not come")
				}
			}
			if err := a.SendTTL([]byte("\x40with a time-to-live"), addr, 2); err != nil {
				t.Fatal(err)
			}
			hear("\x40with a time-to-live")
		})
	}
}

// TestPermitDenied asks for a peer that the server's policy forbids, together
// with one that it does not.
func TestPermitDenied(t *testing.T) {
	p := startPion(t, 0)
	cfg := labConfig()
	cfg.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	ours := startServer(t, cfg)
	user, password := Mint(testSecret, "someone", time.Hour, time.Now())
	for name, c := range map[string]ClientConfig{
		"pion": p.config("udp"), "ours": {Server: ours.UDPAddr(), Username: user, Password: password, times: impatient},
	} {
		t.Run(name, func(t *testing.T) {
			var seen collector
			c.Trace = seen.recorder()
			a, _ := allocateAnd(t, c)
			bad := netip.MustParseAddr("127.0.0.66")
			err := a.Permit(t.Context(), loopback, bad, loopback)
			var re *RequestError
			if !errors.Is(err, ErrDenied) || !errors.As(err, &re) || re.Peer != bad.String() || !strings.Contains(err.Error(), "permission for 127.0.0.66 on turn ") {
				t.Fatalf("error %v", err)
			}
			if strings.Contains(err.Error(), "127.0.0.1 on") {
				t.Errorf("the other address was denied as well: %v", err)
			}
			if err := a.Bind(t.Context(), netip.AddrPortFrom(bad, 5000)); !errors.Is(err, ErrDenied) {
				t.Errorf("bind: %v", err)
			}
			ev := events[trace.RelayRefused](&seen)
			if len(ev) != 2 || ev[0].What != "permission" || ev[0].Peer != bad.String() || ev[1].What != "channel" {
				t.Errorf("traced %+v", ev)
			}
			if a.Err() != nil {
				t.Errorf("a denied peer ended the allocation: %v", a.Err())
			}
			if name == "ours" && re.Code != 403 {
				t.Errorf("code %d, want 403", re.Code)
			}
		})
	}
}

// TestStaleNonce changes the nonce under a living allocation: permission, channel
// and refresh have to recover from it, each by itself.
func TestStaleNonce(t *testing.T) {
	s := scripted(t)
	c := s.config()
	c.times.refresh, c.times.renew = 10*time.Millisecond, 10*time.Millisecond
	a, _ := allocateAnd(t, c)
	peer := netip.MustParseAddrPort("192.0.2.9:5000")
	s.set(func() { s.nonce = "second" })
	if err := a.Permit(t.Context(), peer.Addr()); err != nil {
		t.Fatal(err)
	}
	s.set(func() { s.nonce = "third" })
	if err := a.Bind(t.Context(), peer); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		s.set(func() { s.nonce = fmt.Sprint("nonce ", i); clear(s.requests) })
		for _, m := range []stunmsg.Method{stunmsg.MethodRefresh, stunmsg.MethodCreatePermission, stunmsg.MethodChannelBind} {
			waitFor(t, "a renewed "+m.String(), func() bool { return s.count(m) > 0 })
		}
	}
	if a.Err() != nil {
		t.Fatal(a.Err())
	}
}

// TestAllocationLost ends an allocation on the server's side in several ways; the
// client has to notice by itself.
func TestAllocationLost(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(*stunmsg.Message) reply
		want   error
		text   string
	}{
		{"refused", func(m *stunmsg.Message) reply {
			return reply{raw: stunmsg.Error(m.Header, 437, "").Bytes()}
		}, ErrGone, "437"},
		{"credentials revoked", func(m *stunmsg.Message) reply {
			return reply{raw: stunmsg.Error(m.Header, 441, "").Bytes()}
		}, ErrCredentials, "441"},
		{"no answer, as from pion", func(*stunmsg.Message) reply { return reply{} }, ErrGone, "not to this"},
		{"lifetime over", func(m *stunmsg.Message) reply {
			key := stunmsg.LongTermKey(testUser, testRealm, testPassword)
			return reply{raw: stunmsg.Success(m.Header).Lifetime(0).Sign(key).Bytes()}
		}, ErrGone, "no more time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := scripted(t)
			s.instead(func(m *stunmsg.Message) reply {
				if m.Method != stunmsg.MethodRefresh {
					return reply{usual: true}
				}
				return tt.answer(m)
			})
			c := s.config()
			c.times.refresh = 10 * time.Millisecond
			a, err := Allocate(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			err = a.Serve(t.Context(), newInbox())
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("Serve: %v, want %v", err, tt.want)
			}
			<-a.Done()
			if !errors.Is(a.Err(), tt.want) {
				t.Errorf("Err: %v", a.Err())
			}
			if err := a.Send([]byte("x"), 0, s.addr()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Send: %v", err)
			}
		})
	}
}

// TestServerRestart is the same with a real server that was restarted.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	p := startPion(t, 0)
	a, _ := allocateAnd(t, p.config("udp"))
	p.stop()
	again := startPion(t, int(p.udp.Port()))
	a.Nudge()
	select {
	case <-a.Done():
	case <-time.After(patience):
		t.Fatal("the client does not notice")
	}
	if !errors.Is(a.Err(), ErrGone) && !errors.Is(a.Err(), ErrCredentials) {
		t.Errorf("error %v", a.Err())
	}
	if again.server.AllocationCount() != 0 {
		t.Error("there is an allocation again")
	}
}

// TestOutage has the server silent for a while: that is no reason to give up an
// allocation that still has time.
func TestOutage(t *testing.T) {
	t.Parallel()
	s := scripted(t)
	asked := 0
	c := s.config()
	c.times.refresh = 10 * time.Millisecond
	a, _ := allocateAnd(t, c)
	s.set(func() {
		s.override = func(*stunmsg.Message) reply { asked++; return reply{} }
	})
	waitFor(t, "two failed refreshes", func() bool { // of seven requests each
		s.mu.Lock()
		defer s.mu.Unlock()
		return asked > 14
	})
	s.set(func() { s.override = nil; clear(s.requests) })
	waitFor(t, "a refresh", func() bool { return s.count(stunmsg.MethodRefresh) > 0 })
	if a.Err() != nil {
		t.Fatal(a.Err())
	}
}

// TestChannelRefusedLater goes back to indications when the server does not renew
// a channel.
func TestChannelRefusedLater(t *testing.T) {
	s := scripted(t)
	c := s.config()
	c.times.renew = 10 * time.Millisecond
	a, _ := allocateAnd(t, c)
	peer := netip.MustParseAddrPort("192.0.2.9:5000")
	if err := a.Bind(t.Context(), peer); err != nil {
		t.Fatal(err)
	}
	bound := func() bool { _, ok := a.channels.table.Load().bound[peer]; return ok }
	if !bound() {
		t.Fatal("not bound")
	}
	s.set(func() {
		s.override = func(m *stunmsg.Message) reply {
			if m.Method != stunmsg.MethodChannelBind {
				return reply{usual: true}
			}
			return reply{raw: stunmsg.Error(m.Header, 403, "").Bytes()}
		}
	})
	waitFor(t, "the channel to be given up", func() bool { return !bound() })
	if a.Err() != nil {
		t.Fatal(a.Err())
	}
}

// TestStrays throws at the client's socket what is known to have ended others,
// from the server's address and from elsewhere, and then asks for service.
func TestStrays(t *testing.T) {
	s := scripted(t)
	a, in := allocateAnd(t, s.config())
	peer := netip.MustParseAddrPort("192.0.2.9:5000")
	if err := a.Bind(t.Context(), peer); err != nil {
		t.Fatal(err)
	}
	stranger, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, a.conn.local().Port())))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()

	good := stunmsg.AppendChannelData(nil, minChannel, []byte("\x40good"), false)
	data := stunmsg.NewIndication(stunmsg.MethodData).XORPeerAddress(peer).Data([]byte("\x40good")).Bytes()
	emptyPeer := append(stunmsg.NewIndication(stunmsg.MethodData).Bytes(), 0, 0x12, 0, 0)
	emptyPeer[3] = 4 // the datagram of 24 bytes that ends pion
	bad := [][]byte{
		{}, {0}, {0x40}, {0x40, 0, 0, 9, 1}, {0x7F, 0xFF, 0, 0}, {0xFF}, []byte("GET / HTTP/1.1\r\n\r\n"),
		emptyPeer, emptyPeer[:22], data[:len(data)-4],
		stunmsg.AppendChannelData(nil, minChannel, nil, false),
		stunmsg.AppendChannelData(nil, 0x4FFF, []byte("unknown channel"), false),
		stunmsg.AppendChannelData(nil, minChannel, []byte{1, 2, 3}, false),
		stunmsg.NewRequest(stunmsg.MethodBinding).Bytes(),
		stunmsg.NewIndication(stunmsg.MethodData).Bytes(),
		stunmsg.NewIndication(stunmsg.MethodData).XORPeerAddress(peer).Bytes(),
		stunmsg.NewIndication(stunmsg.MethodBinding).Bytes(),
		stunmsg.NewIndication(stunmsg.Method(0x00c)).XORPeerAddress(peer).Bytes(), // ConnectionAttempt
		stunmsg.Success(stunmsg.Header{Method: stunmsg.MethodAllocate}).Bytes(),
		stunmsg.Error(stunmsg.Header{Method: stunmsg.MethodRefresh}, 437, "").Bytes(),
		bytes.Repeat([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, 50),
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 { // the good ones, damaged
		b := bytes.Clone([][]byte{good, data}[rng.IntN(2)])
		b[rng.IntN(min(len(b), 24))] ^= byte(1 + rng.IntN(255))
		if !bytes.HasPrefix(b, good[:2]) {
			bad = append(bad, b)
		}
	}
	for _, b := range bad {
		s.send(b)
		if _, err := stranger.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range [][]byte{good, data} { // right in form, from a stranger
		if _, err := stranger.Write(bytes.Replace(b, []byte("good"), []byte("evil"), 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Permit(t.Context(), peer.Addr()); err != nil {
		t.Fatalf("after strays: %v", err)
	}
	s.send(good)
	s.send(data)
	for good := 0; good < 2; {
		p := in.packet(t)
		if bytes.Contains(p.Data, []byte("evil")) {
			t.Fatalf("took %q from a stranger", p.Data)
		}
		if p.Src == peer && string(p.Data) == "\x40good" {
			good++
		}
		p.Release()
	}
	if a.Err() != nil {
		t.Fatal(a.Err())
	}
}

// TestPermitUnanswered asks a server that has lost the allocation and says nothing,
// as pion's does: the client looks after the allocation at once.
func TestPermitUnanswered(t *testing.T) {
	t.Parallel()
	s := scripted(t)
	a, _ := allocateAnd(t, s.config()) // the next Refresh is an hour away
	s.instead(func(m *stunmsg.Message) reply { return reply{usual: m.Method == stunmsg.MethodBinding} })
	if err := a.Permit(t.Context(), loopback); !errors.Is(err, ErrNoAnswer) {
		t.Fatalf("Permit: %v", err)
	}
	select {
	case <-a.Done():
	case <-time.After(patience):
		t.Fatal("the client does not notice")
	}
	if !errors.Is(a.Err(), ErrGone) {
		t.Errorf("error %v", a.Err())
	}
}

func TestServeTwice(t *testing.T) {
	s := scripted(t)
	a, _ := allocateAnd(t, s.config())
	waitFor(t, "Serve", func() bool { a.deliver.Lock(); defer a.deliver.Unlock(); return a.in.h != nil })
	if err := a.Serve(t.Context(), newInbox()); !errors.Is(err, errServing) {
		t.Fatalf("second Serve: %v", err)
	}
}

// TestServeAgain ends Serve by its context and starts it anew, with another
// handler: what comes in between goes nowhere, the allocation stays.
func TestServeAgain(t *testing.T) {
	s := scripted(t)
	a, err := Allocate(t.Context(), s.config())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	peer := netip.MustParseAddrPort("192.0.2.9:5000")
	if err := a.Bind(t.Context(), peer); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		in := newInbox()
		done := make(chan error, 1)
		go func() { done <- a.Serve(ctx, in) }()
		waitFor(t, "Serve", func() bool { a.deliver.Lock(); defer a.deliver.Unlock(); return a.in.h != nil })
		want := fmt.Sprint("\x40round ", i)
		s.send(stunmsg.AppendChannelData(nil, minChannel, []byte(want), false))
		if p := in.packet(t); string(p.Data) != want {
			t.Fatalf("got %q, want %q", p.Data, want)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatalf("Serve: %v", err)
		}
		s.send(stunmsg.AppendChannelData(nil, minChannel, []byte("\x40nobody"), false))
		if err := a.Permit(t.Context(), netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})); err != nil { // after it
			t.Fatal(err)
		}
		if len(in.data) != 0 {
			t.Fatal("a handler was called after Serve")
		}
	}
}

func TestAfterFailure(t *testing.T) {
	now := time.Now()
	ahead := deadline{expires: now.Add(time.Minute)}
	refusal := func(what string, code int) error { return &RequestError{Code: code, Err: meaning(what, code, true)} }
	over := deadline{expires: now}
	for _, tt := range []struct {
		name string
		kind dutyKind
		err  error
		at   deadline
		want nextStep
	}{
		{"silence", keepAllocation, &RequestError{Err: ErrNoAnswer}, ahead, tryAgain},
		{"silence for too long", keepAllocation, &RequestError{Err: ErrNoAnswer}, over, giveUp},
		{"silence about a permission", keepPermission, &RequestError{Err: ErrNoAnswer}, ahead, tryAgain},
		{"the same for long", keepPermission, &RequestError{Err: ErrNoAnswer}, over, tryAgain},
		{"silence about a channel for long", keepChannel, &RequestError{Err: ErrNoAnswer}, over, tryAgain},
		{"gone", keepAllocation, &RequestError{Err: ErrGone}, ahead, giveUp},
		{"437", keepAllocation, refusal("refresh", 437), ahead, giveUp},
		{"403", keepPermission, refusal("permission", 403), ahead, giveUp},
		{"bare refusal", keepPermission, refusal("permission", 0), ahead, giveUp},
		{"500", keepAllocation, refusal("refresh", 500), ahead, tryAgain},
		{"508", keepChannel, refusal("channel", 508), ahead, tryAgain},
		{"unsigned", keepAllocation, &RequestError{Err: errUnsigned}, ahead, giveUp},
	} {
		if got := afterFailure(tt.kind, tt.err, now, tt.at); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestDuties(t *testing.T) {
	d := duties{wake: make(chan struct{}, 1)}
	now := time.Now()
	allocation, perm := duty{kind: keepAllocation}, permission(loopback)
	d.add(allocation, now, 25*time.Second, 10*time.Minute)
	d.add(perm, now, time.Hour, 5*time.Minute) // due while there is time left
	for _, tt := range []struct {
		after time.Duration
		due   []duty
		wait  time.Duration
	}{
		{0, nil, 25 * time.Second},
		{20 * time.Second, nil, 5 * time.Second},
		{25 * time.Second, []duty{allocation}, 0},
		{240 * time.Second, []duty{allocation, perm}, -215 * time.Second},
	} {
		due, wait := d.next(now.Add(tt.after))
		slices.SortFunc(due, func(a, b duty) int { return int(a.kind) - int(b.kind) })
		if !slices.Equal(due, tt.due) || wait != tt.wait {
			t.Errorf("after %v: %v due, wait %v; want %v, %v", tt.after, due, wait, tt.due, tt.wait)
		}
	}
	if d.current(perm, now.Add(4*time.Minute)) || !d.current(perm, now.Add(time.Minute)) || d.current(duty{kind: keepChannel}, now) {
		t.Error("current is wrong")
	}
}
