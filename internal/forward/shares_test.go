package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

func TestWhoMayOpen(t *testing.T) {
	for _, tt := range []struct {
		name string
		claim
		want string // empty: it may
	}{
		{"the first", claim{most: 512}, ""},
		{"the last", claim{most: 512, own: usage{open: 511}}, ""},
		{"one too many", claim{most: 512, own: usage{open: 512}}, "512 connections are open, no more at once"},
		{"all of one that wait", claim{most: 512, own: usage{511, 511}}, ""},
		{"one too many of these", claim{most: 512, own: usage{512, 512}}, "512 connections are open, no more at once"},
		{"the last but what is kept for another", claim{most: 512, own: usage{open: 495}, others: []usage{{}}}, ""},
		{"into what is kept for another", claim{most: 512, own: usage{open: 496}, others: []usage{{}}}, "512 connections are open or kept for other forwards, no more at once"},
		{"beside another that has what is kept for it", claim{most: 512, own: usage{open: 495}, others: []usage{{open: 16}}}, ""},
		{"beside another that has more", claim{most: 512, own: usage{open: 300}, others: []usage{{open: 211}}}, ""},
		{"when two have all", claim{most: 512, own: usage{open: 300}, others: []usage{{open: 212}}}, "512 connections are open, no more at once"},
		{"the first of one beside a full one", claim{most: 512, others: []usage{{open: 496}}}, ""},
		{"the sixteenth", claim{most: 512, own: usage{open: 15}, others: []usage{{open: 496}}}, ""},
		{"a burst into what nobody needs", claim{most: 512, own: usage{271, 271}, others: make([]usage, 15)}, ""},
		{"a burst into what the others need", claim{most: 512, own: usage{272, 272}, others: make([]usage, 15)}, "512 connections are open or kept for other forwards, no more at once"},
		{"room, though another waits for more than its share", claim{most: 512, own: usage{open: 15}, others: []usage{{495, 495}}}, ""},
		{"no room, for another waits for more than its share", claim{most: 512, own: usage{open: 16}, others: []usage{{open: 5}, {491, 300}}}, "1 yields"},
		{"of two that wait for more, the one with most", claim{most: 512, own: usage{open: 16}, others: []usage{{200, 200}, {296, 296}}}, "1 yields"},
		{"another that waits for its share", claim{most: 512, own: usage{open: 16}, others: []usage{{496, 256}}}, "512 connections are open, no more at once"},
		{"one with its share waiting beside one with more", claim{most: 512, own: usage{256, 256}, others: []usage{{257, 257}}}, "512 connections are open, no more at once"},
		{"many forwards keep less for each", claim{most: 512, own: usage{open: 1}, others: make([]usage, 511)}, "512 connections are open or kept for other forwards, no more at once"},
		{"and each has one", claim{most: 512, others: slices.Repeat([]usage{{open: 1}}, 511)}, ""},
		{"a target beside one that nobody has asked for yet", claim{most: 544, own: usage{open: 527}, newcomer: true}, ""},
		{"into what is kept for that one", claim{most: 544, own: usage{open: 528}, newcomer: true}, "544 connections are open or kept for other forwards, no more at once"},
		{"that one", claim{most: 544, others: []usage{{open: 528}}, newcomer: true}, ""},
		{"that one, when the first waits", claim{most: 544, own: usage{open: 16}, others: []usage{{512, 512}}, newcomer: true}, "0 yields"},
	} {
		got := ""
		yields, err := tt.judge()
		switch {
		case yields >= 0:
			got = fmt.Sprintf("%d yields", yields)
		case err != nil:
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A burst to a target that takes its time has all the room that others do not need,
// also where the side that dials counts; and what a silent one holds beyond its
// share makes way for others, the oldest first.
func TestBursts(t *testing.T) {
	known, targets := NewShares(512), NewTargetShares(544)
	var forwards []*Share
	for range 16 {
		forwards = append(forwards, known.Add())
	}
	for name, tt := range map[string]struct {
		take        func(of int, revoke context.CancelCauseFunc) (*Slot, error)
		room, share int
	}{
		"forwards": {func(of int, revoke context.CancelCauseFunc) (*Slot, error) { return forwards[of].takeNow(revoke) }, 512 - 15*16, 32},
		"targets": {func(of int, revoke context.CancelCauseFunc) (*Slot, error) {
			return targets.takeNow(fmt.Sprint(of), revoke)
		}, 544 - 16, 544 / 2},
	} {
		var revoked []int
		for i := range tt.room {
			if _, err := tt.take(0, func(why error) {
				var full *FullError
				if !errors.As(why, &full) || !full.Waiting || full.Most != tt.share {
					t.Errorf("%s: revoked for %v", name, why)
				}
				revoked = append(revoked, i)
			}); err != nil {
				t.Fatalf("%s: connection %d of a burst of %d: %v", name, i+1, tt.room, err)
			}
		}
		if _, err := tt.take(0, nil); err == nil {
			t.Errorf("%s: a burst has what is kept for others", name)
		}
		others := 0
		for range tt.room {
			if slot, err := tt.take(1, nil); err == nil {
				slot.Answered()
				others++
			}
		}
		if len(revoked) != tt.room-tt.share || !slices.IsSorted(revoked) || revoked[0] != 0 {
			t.Errorf("%s: revoked %d, from %v, want the first %d", name, len(revoked), revoked[:min(len(revoked), 5)], tt.room-tt.share)
		}
		if others < tt.room-tt.share {
			t.Errorf("%s: another has %d, want %d or more", name, others, tt.room-tt.share)
		}
	}
}

func (h *Share) takeNow(revoke context.CancelCauseFunc) (*Slot, error) {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	return h.takeLocked(revoke)
}

func (s *Shares) takeNow(target string, revoke context.CancelCauseFunc) (*Slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeForLocked(target, revoke)
}

// What was revoked is given back once, and an answer comes too late for it.
func TestRevokedSlot(t *testing.T) {
	shares := NewShares(4)
	silent, other := shares.Add(), shares.Add()
	var slots []*Slot
	revocations := 0
	for range 3 {
		slot, err := silent.takeNow(func(error) { revocations++ })
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, slot)
	}
	for range 2 {
		if _, err := other.takeNow(nil); err != nil {
			t.Fatal(err)
		}
	}
	if revocations != 1 || slots[0].Answered() || !slots[1].Answered() || !slots[2].Answered() {
		t.Errorf("%d were revoked, want one, the first", revocations)
	}
	for _, s := range slots {
		s.Free()
	}
	if silent.open != 0 || len(silent.waiting) != 0 || other.open != 2 {
		t.Errorf("after all: %d and %d are counted", silent.open, other.open)
	}
}

// What is counted is given back, whatever became of it.
func TestSlotsAreGivenBack(t *testing.T) { synctest.Test(t, testSlotsAreGivenBack) }

func testSlotsAreGivenBack(t *testing.T) {
	known := NewShares(4)
	a, b := known.Add(), known.Add()
	targets := NewTargetShares(4)
	for range 3 {
		for name, take := range map[string]func() (*Slot, error){
			"a forward": func() (*Slot, error) { return a.Take(t.Context(), nil) }, "another": func() (*Slot, error) { return b.Take(t.Context(), nil) },
			"a target": func() (*Slot, error) { return targets.TakeFor(t.Context(), "x:1", nil) },
		} {
			var slots []*Slot
			for {
				slot, err := take()
				if err != nil {
					break
				}
				if slots = append(slots, slot); len(slots) == 2 {
					slot.Answered()
					slot.Answered()
				}
			}
			if len(slots) != 3 { // one is kept for another
				t.Errorf("%s has %d of 4", name, len(slots))
			}
			for _, s := range slots {
				s.Free()
			}
		}
	}
	if len(targets.targets) != 0 || len(targets.forwards) != 0 {
		t.Errorf("targets that nobody uses are kept: %v", targets.targets)
	}
	b.Remove()
	for range 4 {
		if _, err := a.Take(t.Context(), nil); err != nil {
			t.Errorf("a forward that is alone: %v", err)
		}
	}
}

// A claim waits a moment for what is about to be given back.
func TestAClaimWaitsAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		share := NewShares(1).Add()
		slot, err := share.Take(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := share.Take(t.Context(), nil); err == nil || time.Since(begin) != freeWithin {
			t.Errorf("%v after %v, want it refused after %v", err, time.Since(begin), freeWithin)
		}
		time.AfterFunc(freeWithin-time.Millisecond, slot.Free)
		if _, err := share.Take(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if share.of.queued != 0 {
			t.Errorf("%d claims wait", share.of.queued)
		}
	})
}

// crowdRig is two forwards of one session, which carries four connections.
func crowdRig(t *testing.T, open Opener) (addrs [2]string, events chan trace.Event) {
	t.Helper()
	events = make(chan trace.Event, 1000)
	rec := trace.New("a", trace.SinkFunc(func(e trace.Record) { events <- e.Event }))
	shares := NewShares(4)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	share := [2]*Share{shares.Add(), shares.Add()}
	for i := range addrs {
		ls := listen(t, "127.0.0.1:0")
		addrs[i] = ls.Addr().String()
		running.Go(func() {
			ls.Serve(ctx, session.Header{Kind: session.KindDial, Target: fmt.Sprintf("target:%d", i)}, open, share[i], rec)
		})
	}
	t.Cleanup(func() { cancel(); running.Wait() })
	return addrs, events
}

// One connection too many is reset at once and told of, and the other forward
// goes on.
func TestACrowdedForward(t *testing.T) {
	var peers sync.WaitGroup
	addrs, events := crowdRig(t, func(context.Context, session.Header) (Opened, error) {
		local, remote := newStream()
		peers.Go(func() {
			remote.Accept()
			io.Copy(remote, remote)
			remote.CloseWrite()
		})
		return local, nil
	})
	t.Cleanup(peers.Wait)
	talk := func(address string) (*net.TCPConn, error) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		if _, err = c.Write([]byte("x")); err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		return c.(*net.TCPConn), err
	}
	var open []*net.TCPConn
	for range 3 {
		c, err := talk(addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	for range 3 {
		if _, err := talk(addrs[0]); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("one too many: %v, want a connection reset", err)
		}
	}
	c, err := talk(addrs[1])
	if err != nil {
		t.Errorf("the other forward: %v", err)
	}
	for _, c := range append(open, c) {
		c.CloseWrite()
		io.ReadAll(c)
	}
	for told := false; !told; {
		select {
		case event := <-events: // it is told of a little after the reset
			var e trace.StreamsLimited
			if e, told = event.(trace.StreamsLimited); told && (e.Local != addrs[0] || !strings.Contains(e.Why, "4 connections are open or kept for other forwards")) {
				t.Errorf("%+v", e)
			}
		case <-time.After(patience):
			t.Fatal("nothing is told of the connections that were too many")
		}
	}
	for len(events) > 0 {
		if e, again := (<-events).(trace.StreamsLimited); again {
			t.Errorf("told again: %+v", e)
		}
	}
}

// A target that does not answer makes way for another that needs the room, until
// it has no more than its share.
func TestASilentTarget(t *testing.T) {
	ended, asked := make(chan struct{}), make(chan struct{}, 10)
	var silent sync.WaitGroup
	addrs, events := crowdRig(t, func(_ context.Context, h session.Header) (Opened, error) {
		local, remote := newStream()
		if h.Target == "target:0" {
			asked <- struct{}{}
			silent.Go(func() { <-ended; remote.Refuse(session.CodeUnreachable, "silent") })
		} else {
			silent.Go(func() { remote.Accept(); io.Copy(remote, remote); remote.CloseWrite() })
		}
		return local, nil
	})
	var talking sync.WaitGroup
	t.Cleanup(silent.Wait)
	t.Cleanup(talking.Wait)
	t.Cleanup(func() { close(ended) })
	talk := func(address string) error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		if _, err = c.Write([]byte("x")); err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		return err
	}
	first := make(chan error, 3)
	for range cap(first) {
		talking.Go(func() { first <- talk(addrs[0]) })
		<-asked // all three wait: nobody else needs the room
	}
	for range 2 {
		if err := talk(addrs[1]); err != nil {
			t.Errorf("the other forward: %v", err)
		}
	}
	if err := <-first; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("one of three, of which two may wait: %v", err)
	}
	for {
		select {
		case event := <-events:
			switch e := event.(type) {
			case trace.StreamRefused:
				t.Errorf("told of each by itself: %+v", e)
			case trace.StreamsLimited:
				if e.Local != addrs[0] || !strings.Contains(e.Why, "2 connections wait for the target's answer") {
					t.Errorf("%+v", e)
				}
				return
			}
		case <-time.After(patience):
			t.Fatal("nothing is told of the connection that was reset")
		}
	}
}

// silentTarget is an address on loopback that answers no SYN, as its backlog is
// full.
func silentTarget(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "silent")
	t.Cleanup(func() { f.Close() })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 10 {
		c, err := net.DialTimeout("tcp4", address, 500*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("this system's backlogs do not fill up")
	return ""
}

// The side that dials refuses what is one too many in words for the peer, and
// gives up a dial that nobody wants any more.
func TestDialsOfOnePeer(t *testing.T) {
	silent := silentTarget(t)
	list, err := ParseAllow(net.DefaultResolver, []string{silent})
	if err != nil {
		t.Fatal(err)
	}
	shares := NewTargetShares(2)
	waiting, waits := newStream()
	var dialing sync.WaitGroup
	dialing.Go(func() { Dial(t.Context(), list, silent, waits, shares, nil) })
	for dials := 0; dials == 0; time.Sleep(time.Millisecond) {
		shares.mu.Lock()
		dials = len(shares.targets)
		shares.mu.Unlock()
	}
	local, remote := newStream()
	Dial(t.Context(), list, silent, remote, shares, nil)
	var refused *session.RefusedError
	if err := local.Accepted(); !errors.As(err, &refused) || refused.Code != session.CodeLimit || !strings.Contains(err.Error(), "2 connections are open or kept for other forwards") {
		t.Errorf("got %v", err)
	}
	begin := time.Now()
	waiting.Reset(session.CodeReset)
	dialing.Wait()
	if took := time.Since(begin); took > dialTimeout/2 {
		t.Errorf("the dial of a stream that was reset went on for %v", took)
	}
	if _, err := shares.TakeFor(t.Context(), silent, nil); err != nil {
		t.Errorf("it still counts: %v", err)
	}
}

// The side that dials tells the peer of a dial that made way for another target.
func TestRevokedDial(t *testing.T) {
	silent := silentTarget(t)
	list, err := ParseAllow(net.DefaultResolver, []string{silent})
	if err != nil {
		t.Fatal(err)
	}
	shares := NewTargetShares(6)
	ctx, cancel := context.WithCancel(t.Context())
	var dialing sync.WaitGroup
	defer dialing.Wait()
	defer cancel()
	answers := make(chan error, 5)
	for range cap(answers) {
		local, remote := newStream()
		dialing.Go(func() { Dial(ctx, list, silent, remote, shares, nil) })
		dialing.Go(func() { answers <- local.Accepted() })
	}
	for dials := 0; dials < cap(answers); time.Sleep(time.Millisecond) {
		shares.mu.Lock()
		if h := shares.targets[silent]; h != nil {
			dials = h.open
		}
		shares.mu.Unlock()
	}
	begin := time.Now()
	for range 2 {
		if _, err := shares.TakeFor(t.Context(), "other:1", nil); err != nil {
			t.Error(err)
		}
	}
	var refused *session.RefusedError
	if err := <-answers; !errors.As(err, &refused) || refused.Code != session.CodeLimit || !strings.Contains(err.Error(), "3 connections wait for the target's answer") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begin); took > dialTimeout/2 {
		t.Errorf("it went on for %v", took)
	}
}

// A program is not kept waiting: neither for a peer that is away nor for one that
// does not answer.
func TestTheWaitForAnAnswerIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name string
		open Opener
		want time.Duration // until the program is let go; 0: it is carried
	}{
		{"no session", func(ctx context.Context, _ session.Header) (Opened, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}, answerWithin},
		{"no answer", func(context.Context, session.Header) (Opened, error) {
			local, _ := newStream()
			return local, nil
		}, answerWithin},
		{"a late answer", func(context.Context, session.Header) (Opened, error) {
			local, remote := newStream()
			time.AfterFunc(answerWithin-time.Second, func() { remote.Accept() })
			time.AfterFunc(time.Hour, func() { remote.CloseWrite() })
			return local, nil
		}, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, program := net.Pipe()
				var refusals []string
				rec := trace.New("a", trace.SinkFunc(func(r trace.Record) {
					if e, ok := r.Event.(trace.StreamRefused); ok {
						refusals = append(refusals, e.Why)
					}
				}))
				begin := time.Now()
				over := make(chan struct{})
				go func() {
					defer close(over)
					serveConn(t.Context(), closesWrite{near}, "127.0.0.1:1", session.Header{Kind: session.KindDial, Target: "x:1"}, tt.open, NewShares(1).Add(), rec)
				}()
				program.Read(make([]byte, 1))
				took := time.Since(begin)
				program.Close()
				<-over
				late := tt.want == answerWithin
				if took != tt.want || late != slices.Equal(refusals, []string{ErrNoAnswer.Error()}) || !late != (refusals == nil) {
					t.Errorf("took %v, want %v; refusals %q", took, tt.want, refusals)
				}
			})
		})
	}
}

// closesWrite is a Near whose half-close is its end.
type closesWrite struct{ net.Conn }

func (c closesWrite) CloseWrite() error { return c.Close() }
