package signaling

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The rules are tested as scripts. A line beginning with ">" is what is sent,
// everything else is done: "c1 join box host s1", "c1 claim s1 ref 7",
// "c1 send box to 2 hello", "c1 leave box", "c1 credentials box", "c1 gone",
// "c1 from 192.0.2.1", "c1 runs r1", "10m passes". Names of opaque mailboxes and seats are padded to their length.
func TestState(t *testing.T) {
	tests := []struct {
		name, script string
		limits       Limits
	}{
		{name: "host first, then guest: both hear of each other and get credentials", script: `
			c1 join box host s1
			> c1 joined box
			c2 join box guest s2
			> c2 joined box present
			> c2 peer 0 here
			> c1 peer 1 here
			> c1 credentials for s1
			> c2 credentials for s2`},
		{name: "guest first waits without credentials", script: `
			c2 join box guest s2
			> c2 joined box
			c2 credentials box
			> c2 error absent box
			c1 join box host s1
			> c1 joined box present
			> c1 peer 1 here
			> c2 peer 0 here
			> c2 credentials for s2
			> c1 credentials for s1
			c2 credentials box
			> c2 credentials for s2`},
		{name: "bodies go between the host and one guest, never between guests", script: `
			c1 join box host s1
			c2 join box guest s2
			c3 join box guest s3
			>...
			c1 send box to 2 x
			> c3 message from 0: x
			c2 send box to 0 y
			> c1 message from 1: y
			c2 send box to 2 z
			> c2 peer 2 gone
			c1 send box to 0 self
			> c1 peer 0 gone
			c4 send box to 0 outsider
			> c4 error not_joined box`},
		{name: "sending to somebody who left", script: `
			c1 join box host s1
			c2 join box guest s2
			c2 leave box
			>...
			c1 send box to 1 x
			> c1 peer 1 gone
			c2 send box to 0 x
			> c2 error not_joined box
			c2 leave box
			> c2 error not_joined box
			c2 credentials box
			> c2 error not_joined box`},
		{name: "a connection ends: peers hear it, in every mailbox", script: `
			c1 join a host s1
			c1 join b host s1
			c2 join a guest s2
			c3 join b guest s3
			>...
			c1 gone
			> c2 peer 0 gone
			> c3 peer 0 gone
			c2 gone
			c3 gone
			mailboxes none`},
		{name: "guests get new numbers when they come again", script: `
			c1 join box host s1
			c2 join box guest s2
			c2 gone
			>...
			c3 join box guest s2
			> c3 joined box present
			> c3 peer 0 here
			> c1 peer 2 here
			> c1 credentials for s1
			> c3 credentials for s2`},
		{name: "a run comes back to its own seat as often as it likes", script: `
			c1 runs r1
			c1 join box host s1
			> c1 joined box
			c2 runs r1
			c2 join box host s1
			> c1 error replaced box
			> c2 joined box
			c3 runs r1
			c3 join box host s1
			> c2 error replaced box
			> c3 joined box`},
		{name: "a run whose predecessor has left takes nothing over", script: `
			c1 runs r1
			c1 join box host s1
			c9 join box guest s9
			c1 gone
			>...
			c2 runs r2
			c2 join box host s1
			> c2 joined box present
			> c2 peer 1 here
			> c9 peer 0 here
			> c9 credentials for s9
			> c2 credentials for s1
			c2 gone
			>...
			c3 runs r3
			c3 join box host s1
			> c3 joined box present
			> c3 peer 1 here
			> c9 peer 0 here
			> c9 credentials for s9
			> c3 credentials for s1`},
		{name: "two runs take the seat from each other, each time after a longer pause", script: `
			c1 runs r1
			c1 join box host s1
			c2 runs r2
			>...
			c2 join box host s1
			> c1 error replaced box
			> c2 joined box replaced
			c3 runs r3
			1s passes
			c3 join box host s1
			> c3 error rate box for 4 s
			4s passes
			c3 join box host s1
			> c2 error replaced box
			> c3 joined box replaced
			c4 runs r4
			5s passes
			c4 join box host s1
			> c4 error rate box for 5 s
			c3 gone
			c4 join box host s1
			> c4 joined box
			c5 runs r5
			20s passes
			c5 join box host s1
			> c4 error replaced box
			> c5 joined box replaced
			c6 runs r6
			10m passes
			c6 join box host s1
			> c5 error replaced box
			> c6 joined box replaced
			c7 runs r7
			c7 join box host s1
			> c7 error rate box for 5 s`},
		{name: "the host's seat is taken over", script: `
			c1 join box host s1
			c2 join box guest s2
			>...
			c3 join box host s1
			> c1 error replaced box
			> c2 peer 0 gone
			> c3 joined box present
			> c3 peer 1 here
			> c2 peer 0 here
			> c2 credentials for s2
			> c3 credentials for s1
			c1 send box to 1 x
			> c1 error not_joined box
			c1 gone
			c2 send box to 0 y
			> c3 message from 1: y`},
		{name: "a seat alone in its mailbox is taken over", script: `
			c1 join box host s1
			>...
			c2 join box host s1
			> c1 error replaced box
			> c2 joined box
			c1 gone
			mailboxes box`},
		{name: "a guest's seat is taken over and keeps its number", script: `
			c1 join box host s1
			c2 join box guest s2
			>...
			c3 join box guest s2
			> c2 error replaced box
			> c1 peer 1 gone
			> c3 joined box present
			> c3 peer 0 here
			> c1 peer 1 here
			> c1 credentials for s1
			> c3 credentials for s2`},
		{name: "another host is refused while one is there", script: `
			c1 join box host s1
			>...
			c2 join box host s2
			> c2 error occupied box
			c1 gone
			c2 join box host s2
			> c2 joined box`},
		{name: "refusal leaves no mailbox behind", limits: Limits{Mailboxes: 1}, script: `
			c1 join a host s1
			>...
			c1 join b host s1
			> c1 error limit b
			c1 claim s1 ref 1
			> c1 error limit ref 1
			mailboxes a`},
		{name: "joining twice", script: `
			c1 join box host s1
			>...
			c1 join box guest s1
			> c1 error already_joined box
			c1 join box host s1
			> c1 error already_joined box`},
		{name: "guests are bounded", limits: Limits{Guests: 2}, script: `
			c1 join box guest s1
			c2 join box guest s2
			>...
			c3 join box guest s3
			> c3 error full box
			c4 join box guest s2
			> c2 error replaced box
			> c4 joined box
			c1 leave box
			c3 join box guest s3
			> c3 joined box`},
		{name: "pairing: one guest at a time", script: `
			c1 claim s1 ref 7
			> c1 claimed 1000 ref 7
			c2 join 1000 guest s2
			> c2 joined 1000 present
			> c2 peer 0 here
			> c1 peer 1 here
			> c1 credentials for s1
			> c2 credentials for s2
			c3 join 1000 guest s3
			> c3 error taken 1000
			c4 join 1000 guest s2
			> c2 error replaced 1000
			> c1 peer 1 gone
			> c4 joined 1000 present
			> c4 peer 0 here
			> c1 peer 1 here
			> c1 credentials for s1
			> c4 credentials for s2
			c4 leave 1000
			> c1 peer 1 gone
			c3 join 1000 guest s3
			> c3 joined 1000 present
			> c3 peer 0 here
			> c1 peer 1 here
			> c1 credentials for s1
			> c3 credentials for s3`},
		{name: "unknown, ended and not yours are one answer", script: `
			c1 claim s1 ref 1
			c1 leave 1000
			c2 claim s2 ref 1
			>...
			c3 join 9999 guest s3
			> c3 error unknown 9999
			c3 join 1000 guest s3
			> c3 error unknown 1000
			c3 join 1001 host s3
			> c3 error unknown 1001
			c3 join 1001 host s2
			> c3 error unknown 1001`},
		{name: "the host of a nameplate comes back by its seat", script: `
			c1 claim s1 ref 1
			c2 join 1000 guest s2
			>...
			c1 gone
			> c2 peer 0 gone
			c3 claim s1 ref 4 of 1000
			> c3 claimed 1000 ref 4 present
			> c3 peer 1 here
			> c2 peer 0 here
			> c2 credentials for s2
			> c3 credentials for s1
			c4 claim s4 ref 1 of 1000
			> c4 error taken 1000 ref 1`},
		{name: "a nameplate comes back after a restart of the server", script: `
			c1 claim s1 ref 3 of 4321
			> c1 claimed 4321 ref 3
			c2 claim s2 ref 3 of 4321
			> c2 error taken 4321 ref 3
			c2 claim s2 ref 3 of opaque
			> c2 error unknown opaque ref 3`},
		{name: "the host leaves a nameplate: the end for both, the number rests", script: `
			c1 claim s1 ref 1
			c2 join 1000 guest s2
			>...
			c1 leave 1000
			> c2 peer 0 gone
			> c2 error expired 1000
			c2 send 1000 to 0 x
			> c2 error not_joined 1000
			c2 join 1000 guest s2
			> c2 error unknown 1000
			c1 claim s1 ref 2 of 1000
			> c1 error taken 1000 ref 2
			c1 claim s1 ref 3
			> c1 claimed 1001 ref 3
			10m passes
			> c1 error expired 1001
			mailboxes none`},
		{name: "a nameplate expires unjoined", script: `
			c1 claim s1 ref 1
			>...
			9m59s passes
			c1 send 1000 to 1 x
			> c1 peer 1 gone
			1s passes
			> c1 error expired 1000
			mailboxes none
			c1 claim s1 ref 2
			> c1 claimed 1000 ref 2`},
		{name: "a guest gives a nameplate its full time again, once", script: `
			c1 claim s1 ref 1
			9m passes
			c2 join 1000 guest s2
			>...
			9m passes
			c2 gone
			> c1 peer 1 gone
			c3 join 1000 guest s3
			>...
			1m passes
			> c1 error expired 1000
			> c3 error expired 1000
			mailboxes none`},
		{name: "each nameplate has its own time", script: `
			c1 claim s1 ref 1
			4m passes
			c2 claim s2 ref 1
			>...
			6m passes
			> c1 error expired 1000
			mailboxes 1001
			4m passes
			> c2 error expired 1001`},
		{name: "opaque mailboxes are bounded", limits: Limits{OpaqueMailboxes: 1}, script: `
			c1 join a host s1
			c1 claim s1 ref 1
			>...
			c2 join b guest s2
			> c2 error full b
			c2 join a guest s2
			c3 join a host s1
			>...
			c1 gone
			c2 gone
			c3 gone
			>...
			c2 join b guest s2
			> c2 joined b`},
		{name: "seats of one address are bounded, one that resumes is none more", limits: Limits{SeatsPerAddress: 2}, script: `
			c1 from 192.0.2.1
			c2 from 192.0.2.1
			c3 from 192.0.2.3
			c1 join a host s1
			c1 join b host s1
			>...
			c2 join c host s1
			> c2 error full c
			c2 join a guest s2
			> c2 error full a
			c2 join a host s1
			> c1 error replaced a
			> c2 joined a
			c3 join c host s1
			> c3 joined c
			c1 gone
			c2 join a2 guest s2
			> c2 joined a2`},
		{name: "nameplates are bounded", limits: Limits{Nameplates: 1}, script: `
			c1 claim s1 ref 1
			>...
			c2 claim s2 ref 1
			> c2 error full ref 1
			c2 claim s2 ref 1 of 1234
			> c2 error full 1234 ref 1
			c1 leave 1000
			c2 claim s2 ref 1
			> c2 error full ref 1
			10m passes
			c2 claim s2 ref 2
			> c2 claimed 1000 ref 2`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { runScript(t, tt.limits, tt.script) })
	}
}

func runScript(t *testing.T, limits Limits, script string) {
	t.Helper()
	tries := 0
	// The smallest number that is free: every fourth try would be another.
	s := newState(limits.withDefaults(), func(int) int { tries++; return tries - 1 })
	now := time.Unix(1e9, 0)
	var sent []string
	anything := false
	for n, line := range strings.Split(script, "\n") {
		line = strings.TrimSpace(line)
		w := strings.Fields(line)
		switch {
		case line == "":
			continue
		case line == ">...":
			sent = nil
			continue
		case w[0] == ">":
			want := strings.TrimPrefix(line, "> ")
			if len(sent) == 0 || sent[0] != want {
				t.Fatalf("line %d: want %q next, sent is %q", n, want, sent)
			}
			sent = sent[1:]
			anything = true
			continue
		case w[0] == "mailboxes":
			got := strings.Join(slices.Sorted(maps.Keys(s.boxes)), " ")
			if want := pad(w[1]); got != want && (w[1] != "none" || got != "") {
				t.Fatalf("line %d: mailboxes %q, want %q", n, got, want)
			}
			continue
		}
		if anything && len(sent) > 0 {
			t.Fatalf("line %d: sent %q, which is not expected", n, sent)
		}
		anything = false
		if w[len(w)-1] == "passes" {
			d, err := time.ParseDuration(w[0])
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(d)
		}
		tries = 0
		sent = append(sent, render(s.expire(now))...)
		if w[0][0] == 'c' {
			sent = append(sent, render(do(t, s, now, w))...)
		}
		checkState(t, s)
	}
	if anything && len(sent) > 0 {
		t.Fatalf("at the end: sent %q, which is not expected", sent)
	}
}

func do(t *testing.T, s *state, now time.Time, w []string) []effect {
	t.Helper()
	id, err := strconv.Atoi(w[0][1:])
	if err != nil {
		t.Fatal(err)
	}
	conn := connID(id)
	if s.clients[conn] == nil {
		s.connect(conn, client{})
	}
	switch w[1] {
	case "join":
		return s.join(now, conn, message{Mailbox: pad(w[2]), Role: Role(w[3]), Seat: pad(w[4])})
	case "claim":
		ref, err := strconv.Atoi(w[4])
		if err != nil {
			t.Fatal(err)
		}
		m := message{Seat: pad(w[2]), Ref: ref}
		if len(w) > 5 {
			m.Mailbox = pad(w[6])
		}
		return s.claim(now, conn, m)
	case "send":
		to, err := strconv.Atoi(w[4])
		if err != nil {
			t.Fatal(err)
		}
		return s.send(conn, message{Mailbox: pad(w[2]), To: Seat(to), Body: []byte(w[5])})
	case "leave":
		return s.leave(conn, message{Mailbox: pad(w[2])})
	case "credentials":
		return s.credentials(conn, message{Mailbox: pad(w[2])})
	case "runs":
		s.runs(conn, pad(w[2]))
		return nil
	case "from":
		s.connect(conn, client{source: netip.MustParseAddr(w[2])})
		return nil
	case "gone":
		return s.disconnect(conn)
	}
	t.Fatalf("no such verb: %q", w)
	return nil
}

// pad makes a valid token of a short word; nameplates stay as they are.
func pad(word string) string {
	if IsNameplate(word) {
		return word
	}
	return word + strings.Repeat("_", max(0, 22-len(word)))
}

func render(effects []effect) []string {
	var lines []string
	for _, e := range effects {
		m := e.msg
		line := fmt.Sprintf("c%d %s", e.to, m.Type)
		switch m.Type {
		case typeError:
			line += " " + string(m.Code)
		case typePeer:
			line += fmt.Sprintf(" %d %s", m.From, map[bool]string{true: "here", false: "gone"}[m.Present])
		case typeMessage:
			line += fmt.Sprintf(" from %d: %s", m.From, m.Body)
		case typeCredentials:
			line += " for " + strings.TrimRight(e.seat, "_")
		}
		if m.Mailbox != "" && (m.Type == typeError || m.Type == typeJoined || m.Type == typeClaimed) {
			line += " " + strings.TrimRight(m.Mailbox, "_")
		}
		if m.Ref != 0 {
			line += fmt.Sprintf(" ref %d", m.Ref)
		}
		if m.Present && m.Type != typePeer {
			line += " present"
		}
		if m.Replaced {
			line += " replaced"
		}
		if m.Code == CodeRate {
			line += fmt.Sprintf(" for %d s", m.RetryAfterMS/1000)
		}
		lines = append(lines, line)
	}
	return lines
}

// checkState holds what must be true after every step.
func checkState(t *testing.T, s *state) {
	t.Helper()
	members, seats := 0, make(map[netip.Addr]int)
	for name, b := range s.boxes {
		if name != b.name || b.nameplate != IsNameplate(name) || b.nameplate != (s.nameplates[name] == b) {
			t.Fatalf("mailbox %q is not what its name says: %+v", name, b)
		}
		if !b.nameplate && len(b.members) == 0 {
			t.Fatalf("empty mailbox %q", name)
		}
		if b.nameplate && (s.nextExpiry.IsZero() || b.deadline.Before(s.nextExpiry)) {
			t.Fatalf("nameplate %q would not expire in time", name)
		}
		for i, m := range b.members {
			members++
			seats[s.clients[m.conn].source]++
			if !slices.Contains(s.clients[m.conn].boxes, b) {
				t.Fatalf("mailbox %q has c%d on seat %d, the connection does not know", name, m.conn, m.number)
			}
			if i > 0 && b.members[i-1].number >= m.number {
				t.Fatalf("mailbox %q has its members out of order: %+v", name, b.members)
			}
		}
	}
	for _, c := range s.clients {
		members -= len(c.boxes)
	}
	if members != 0 {
		t.Fatalf("%d more seats in mailboxes than in connections", members)
	}
	if !maps.Equal(seats, s.seats) {
		t.Fatalf("%v seats are taken, %v counted", seats, s.seats)
	}
}

// TestStateRandomly does whatever comes, and checks the invariants.
func TestStateRandomly(t *testing.T) {
	rng := newRand(t)
	s := newState(Limits{Mailboxes: 3, Guests: 2, Nameplates: 4}.withDefaults(), func(n int) int { return rng.IntN(min(n, 6)) })
	now := time.Unix(1e9, 0)
	names := []string{pad("a"), pad("b"), "1000", "1001", "1002", ""}
	for range 20000 {
		conn := connID(1 + rng.IntN(6))
		if _, here := s.clients[conn]; !here {
			s.connect(conn, client{source: netip.AddrFrom4([4]byte{192, 0, 2, byte(conn % 2)})})
			s.runs(conn, fmt.Sprint(rng.IntN(3)))
		}
		m := message{
			Mailbox: names[rng.IntN(len(names))], Role: []Role{RoleHost, RoleGuest}[rng.IntN(2)],
			Seat: pad(fmt.Sprint("s", rng.IntN(4))), Ref: 1, To: Seat(rng.IntN(3)),
		}
		var effects []effect
		switch rng.IntN(12) {
		case 0, 1, 2, 3:
			if m.Mailbox != "" {
				effects = s.join(now, conn, m)
			}
		case 4, 5:
			effects = s.claim(now, conn, m)
		case 6, 7:
			effects = s.send(conn, m)
		case 8:
			effects = s.leave(conn, m)
		case 9:
			effects = s.credentials(conn, m)
		case 10:
			s.disconnect(conn)
			continue
		case 11:
			now = now.Add(time.Duration(rng.IntN(300)) * time.Second)
			s.expire(now)
			continue
		}
		if m.Mailbox != "" && len(effects) == 0 && !hasLeft(s, conn, m.Mailbox) {
			t.Fatalf("no answer to c%d %+v", conn, m)
		}
		checkState(t, s)
	}
	for conn := connID(1); conn <= 6; conn++ {
		s.disconnect(conn)
	}
	s.expire(now.Add(time.Hour))
	if len(s.boxes)+len(s.nameplates)+len(s.clients)+len(s.seats) != 0 {
		t.Fatalf("left behind: %v, %v, %v, %v", s.boxes, s.nameplates, s.clients, s.seats)
	}
}

// hasLeft excuses a leave that nobody else has to hear of.
func hasLeft(s *state, conn connID, name string) bool {
	_, _, in := s.seatOf(conn, name)
	return !in
}
