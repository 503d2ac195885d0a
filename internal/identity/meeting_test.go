package identity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
)

// acquaintances are two machines that know each other.
type acquaintances struct {
	listener, connector         Peer // as the other side knows them
	mailbox                     string
	listenerSelf, connectorSelf Fingerprint
}

func acquainted() acquaintances {
	l, c := testSelf("desk"), testSelf("laptop")
	secret := Secret(bytes.Repeat([]byte{42}, 32))
	return acquaintances{
		listener:      Peer{Name: "desk", Fingerprint: l.Fingerprint, Secret: secret},
		connector:     Peer{Name: "laptop", Fingerprint: c.Fingerprint, Secret: secret},
		mailbox:       MailboxID(secret, l.Fingerprint),
		listenerSelf:  l.Fingerprint,
		connectorSelf: c.Fingerprint,
	}
}

func (a acquaintances) meetings(t testing.TB) (listener, connector *Meeting) {
	t.Helper()
	l, err := NewMeeting(Listener, a.listenerSelf, a.connector, a.mailbox)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewMeeting(Connector, a.connectorSelf, a.listener, a.mailbox)
	if err != nil {
		t.Fatal(err)
	}
	return l, c
}

// channels returns the two ends of a channel after a meeting without trouble.
func channels(t testing.TB) (listener, connector *Channel) {
	t.Helper()
	l, c := acquainted().meetings(t)
	hello, err := c.Write([]byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Read(hello); err != nil {
		t.Fatal(err)
	}
	answer, err := l.Write([]byte("two"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(answer); err != nil {
		t.Fatal(err)
	}
	return l.Channel(), c.Channel()
}

func seal(t testing.TB, c *Channel, aad, text string) []byte {
	t.Helper()
	b, err := c.Seal([]byte(aad), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantOpen(t *testing.T, c *Channel, aad string, sealed []byte, want string) {
	t.Helper()
	got, err := c.Open([]byte(aad), sealed)
	if err != nil || string(got) != want {
		t.Fatalf("open = %q, %v; want %q", got, err, want)
	}
}

func wantRefused(t *testing.T, c *Channel, aad string, sealed []byte) {
	t.Helper()
	if got, err := c.Open([]byte(aad), sealed); !errors.Is(err, ErrBadMessage) {
		t.Fatalf("open = %q, %v; want it refused", got, err)
	}
}

func TestMeeting(t *testing.T) {
	l, c := acquainted().meetings(t)
	if _, err := l.Write(nil); err == nil {
		t.Error("the listener wrote first")
	}
	if _, err := c.Read([]byte{typeMeetAnswer, meetingByte}); err == nil {
		t.Error("the connector read first")
	}
	hello, err := c.Write([]byte("from the connector"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(nil); err == nil {
		t.Error("the connector wrote twice")
	}
	got, err := l.Read(hello)
	if err != nil || string(got) != "from the connector" {
		t.Fatalf("payload 1 = %q, %v", got, err)
	}
	if l.Channel() != nil {
		t.Error("the listener has a channel before it answered")
	}
	answer, err := l.Write([]byte("from the listener"))
	if err != nil {
		t.Fatal(err)
	}
	if l.Channel().Confirmed() {
		t.Error("the listener takes message 1 for fresh")
	}
	got, err = c.Read(answer)
	if err != nil || string(got) != "from the listener" {
		t.Fatalf("payload 2 = %q, %v", got, err)
	}
	if !c.Channel().Confirmed() {
		t.Error("the connector does not take message 2 for fresh")
	}
	for _, msg := range [][]byte{hello, answer} {
		if bytes.Contains(msg, []byte("from the")) {
			t.Errorf("a payload in the clear: %q", msg)
		}
	}
	for _, m := range []*Meeting{l, c} {
		if _, err := m.Read(answer); !errors.Is(err, ErrFinished) {
			t.Errorf("read after the end: %v", err)
		}
	}

	wantOpen(t, l.Channel(), "kind", seal(t, c.Channel(), "kind", "ping"), "ping")
	if !l.Channel().Confirmed() {
		t.Error("the listener is not sure after the first message")
	}
	wantOpen(t, c.Channel(), "", seal(t, l.Channel(), "", ""), "")
	if l.Channel().Export("probe") != c.Channel().Export("probe") {
		t.Error("the two sides export different keys")
	}
	if l.Channel().Export("probe") == l.Channel().Export("other") {
		t.Error("two labels export the same key")
	}
}

// The bytes of p2pagent-meet/1 are frozen. The values were computed from the
// package comment and the Noise specification by another program, with other
// libraries, for fixed ephemeral keys.
func TestMeetingIsFrozen(t *testing.T) {
	_, c := acquainted().meetings(t)
	c.seed = bytes.Repeat([]byte{1}, 32)
	hello, err := c.Write([]byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	wantHex(t, "message 1", hello, "0101a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a20911fbf5730169e56e1e17d7e6caefe18beac890")
	payload, err := c.Read(unhex(t, "0201ce8d3ad1ccb633ec7b70c17814a5c76ecd029685050d344745ba05870e587d594b0ca5aec64732150b9688104b8705febbbb5b"))
	if err != nil || string(payload) != "two" {
		t.Fatalf("message 2: %q, %v", payload, err)
	}
	wantHex(t, "sealed", seal(t, c.Channel(), "kind", "three"), "030100000000000000000e471ec93115d885ce7c68e236eb228fc0a6df16f7")
	wantOpen(t, c.Channel(), "kind", unhex(t, "030100000000000000076d10720a90f7751fb748dbcc01d0b688fb455eae"), "four")
}

func TestMeetingNeedsEverythingEqual(t *testing.T) {
	tests := map[string]func(a *acquaintances){
		"secret":                func(a *acquaintances) { a.listener.Secret[0] ^= 1 },
		"listener fingerprint":  func(a *acquaintances) { a.listener.Fingerprint[0] ^= 1 },
		"connector fingerprint": func(a *acquaintances) { a.connector.Fingerprint[0] ^= 1 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			a := acquainted()
			change(&a)
			l, c := a.meetings(t)
			hello, err := c.Write(nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.Read(hello); !errors.Is(err, ErrBadMessage) {
				t.Errorf("read: %v", err)
			}
		})
	}
	t.Run("mailbox", func(t *testing.T) {
		a, b := acquainted(), acquainted()
		b.mailbox = "elsewhere"
		_, c := a.meetings(t)
		l, _ := b.meetings(t)
		hello, err := c.Write(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Read(hello); !errors.Is(err, ErrBadMessage) {
			t.Errorf("read: %v", err)
		}
	})
	t.Run("swapped roles", func(t *testing.T) {
		a := acquainted()
		_, c := a.meetings(t)
		l, err := NewMeeting(Listener, a.connectorSelf, a.listener, a.mailbox)
		if err != nil {
			t.Fatal(err)
		}
		hello, err := c.Write(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Read(hello); !errors.Is(err, ErrBadMessage) {
			t.Errorf("a reflected hello: %v", err)
		}
	})
}

// An old message 1 reads well, since nothing in it is fresh; but who sent it again
// cannot go on, and the listener never becomes sure.
func TestReplayedHello(t *testing.T) {
	a := acquainted()
	l1, c1 := a.meetings(t)
	hello, err := c1.Write([]byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l1.Read(hello); err != nil {
		t.Fatal(err)
	}
	answer, err := l1.Write(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c1.Read(answer); err != nil {
		t.Fatal(err)
	}
	oldSealed := seal(t, c1.Channel(), "", "old")

	l2, _ := a.meetings(t)
	if got, err := l2.Read(hello); err != nil || string(got) != "old" {
		t.Fatalf("read = %q, %v", got, err)
	}
	if _, err := l2.Write(nil); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, l2.Channel(), "", oldSealed)
	if l2.Channel().Confirmed() {
		t.Error("a replay confirmed the channel")
	}
}

// A bad answer does not end the connector's meeting: not a wrong one, not one with
// a point of low order, not one meant for another connector.
func TestMeetingSurvivesJunk(t *testing.T) {
	a := acquainted()
	l, c := a.meetings(t)
	otherL, otherC := a.meetings(t)
	hello, err := c.Write([]byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	otherHello, err := otherC.Write(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := otherL.Read(otherHello); err != nil {
		t.Fatal(err)
	}
	otherAnswer, err := otherL.Write(nil)
	if err != nil {
		t.Fatal(err)
	}
	low := append([]byte{typeMeetAnswer, meetingByte}, make([]byte, 48)...)
	junk := [][]byte{nil, {1}, hello, otherAnswer, low, low[:20], make([]byte, 1<<20), {typeMeetAnswer, meetingByte}}
	for _, j := range junk {
		if _, err := c.Read(j); err == nil {
			t.Fatalf("the connector took %x", j)
		}
		if j == nil || j[0] != typeMeetHello {
			if _, err := l.Read(j); err == nil {
				t.Fatalf("the listener took %x", j)
			}
		}
	}
	var version ErrVersion
	if _, err := l.Read([]byte{typeMeetHello, 2}); !errors.As(err, &version) || version.Theirs != "p2pagent-meet/2" {
		t.Errorf("another version: %v", err)
	}
	if _, err := l.Read(hello); err != nil {
		t.Fatal(err)
	}
	answer, err := l.Write([]byte("answer"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Read(answer); err != nil || string(got) != "answer" {
		t.Fatalf("the right answer after junk: %q, %v", got, err)
	}
	wantOpen(t, l.Channel(), "", seal(t, c.Channel(), "", "hi"), "hi")
	wantOpen(t, c.Channel(), "", seal(t, l.Channel(), "", "ho"), "ho")
}

func TestMeetingSizes(t *testing.T) {
	l, c := acquainted().meetings(t)
	if _, err := c.Write(make([]byte, MaxMeetingPayload+1)); err == nil {
		t.Error("a payload that is too long was taken")
	}
	hello, err := c.Write(make([]byte, MaxMeetingPayload))
	if err != nil || len(hello) > MaxMeetingMessage {
		t.Fatalf("%d bytes, %v", len(hello), err)
	}
	if _, err := l.Read(hello); err != nil {
		t.Fatal(err)
	}
	lc, cc := channels(t)
	if _, err := cc.Seal(nil, make([]byte, MaxMeetingPayload+1)); err == nil {
		t.Error("a message that is too long was sealed")
	}
	sealed, err := cc.Seal(nil, make([]byte, MaxMeetingPayload))
	if err != nil || len(sealed) > MaxMeetingMessage {
		t.Fatalf("%d bytes, %v", len(sealed), err)
	}
	if _, err := lc.Open(nil, sealed); err != nil {
		t.Error(err)
	}
}

func TestNewMeetingRefuses(t *testing.T) {
	a := acquainted()
	if _, err := NewMeeting(0, a.listenerSelf, a.connector, a.mailbox); err == nil {
		t.Error("no role was taken")
	}
	a.connector.Secret = Secret{}
	if _, err := NewMeeting(Listener, a.listenerSelf, a.connector, a.mailbox); err == nil {
		t.Error("an empty secret was taken")
	}
}

func TestChannelOrder(t *testing.T) {
	l, c := channels(t)
	var msgs [][]byte
	for i := range 6 {
		msgs = append(msgs, seal(t, c, "k", fmt.Sprint(i)))
	}
	wantOpen(t, l, "k", msgs[0], "0")
	wantRefused(t, l, "k", msgs[0]) // twice
	wantOpen(t, l, "k", msgs[3], "3")
	wantRefused(t, l, "k", msgs[1]) // late
	wantRefused(t, l, "k", msgs[3])
	wantRefused(t, l, "other", msgs[4])  // other associated data
	wantRefused(t, c, "k", msgs[4])      // reflected
	wantRefused(t, l, "k", msgs[4][:10]) // no ciphertext
	wantRefused(t, l, "k", msgs[4][:5])  // half a counter
	wantRefused(t, l, "k", tamperWith(t, msgs[4], 12))
	// A counter that was changed on the way neither opens nor moves the window.
	forged := bytes.Clone(msgs[4])
	binary.BigEndian.PutUint64(forged[meetingHeader:], 1000)
	wantRefused(t, l, "k", forged)
	binary.BigEndian.PutUint64(forged[meetingHeader:], math.MaxUint64)
	wantRefused(t, l, "k", forged)
	wantOpen(t, l, "k", msgs[4], "4")
	wantOpen(t, l, "k", msgs[5], "5")
}

func tamperWith(t *testing.T, msg []byte, i int) []byte {
	t.Helper()
	out := bytes.Clone(msg)
	out[i] ^= 0x80
	return out
}

func TestChannelCounterRunsOut(t *testing.T) {
	l, c := channels(t)
	c.nextOut = maxCounter
	wantOpen(t, l, "", seal(t, c, "", "last"), "last")
	if _, err := c.Seal(nil, nil); err == nil {
		t.Error("a reserved counter was used")
	}
}

// Concurrent Seals never share a counter, so everything opens in counter order.
func TestConcurrentSeal(t *testing.T) {
	l, c := channels(t)
	const senders, each = 8, 50
	sealed := make([][]byte, senders*each)
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				b, err := c.Seal(nil, []byte("x"))
				if err != nil {
					t.Error(err)
					return
				}
				sealed[s*each+i] = b
			}
		})
	}
	wg.Wait()
	ordered := make([][]byte, len(sealed))
	for _, b := range sealed {
		n := binary.BigEndian.Uint64(b[meetingHeader:])
		if n >= uint64(len(ordered)) || ordered[n] != nil {
			t.Fatalf("counter %d came twice or is too high", n)
		}
		ordered[n] = b
	}
	for _, b := range ordered {
		wantOpen(t, l, "", b, "x")
	}
}

// meetingSide adapts a Meeting and then its Channel: it answers a hello, and once
// there is a channel it says each thing it has to say, one after each message.
type meetingSide struct {
	*Meeting
	payload string   // what the other side's handshake message carried
	heard   []string // what the channel delivered
	said    int
	err     error
}

func (s *meetingSide) take(msg []byte) []byte {
	if ch := s.Channel(); ch != nil {
		text, err := ch.Open([]byte("say"), msg)
		if err != nil {
			s.note(err)
			return nil
		}
		s.heard = append(s.heard, string(text))
		return s.say()
	}
	payload, err := s.Read(msg)
	if err != nil {
		s.note(err)
		return nil
	}
	s.payload = string(payload)
	if s.role == Connector {
		return s.say()
	}
	answer, err := s.Write([]byte("payload of listener"))
	if err != nil {
		s.err = err
	}
	return answer
}

func (s *meetingSide) say() []byte {
	if s.said == 4 {
		return nil
	}
	s.said++
	b, err := s.Channel().Seal([]byte("say"), fmt.Appendf(nil, "%s %d", s.role, s.said))
	if err != nil {
		s.err = err
	}
	return b
}

func (s *meetingSide) note(err error) {
	var version ErrVersion
	if !errors.Is(err, ErrBadMessage) && !errors.Is(err, ErrFinished) && !errors.As(err, &version) {
		s.err = err
	}
}

// forgeMeeting makes messages as somebody would who knows all but the secret.
func forgeMeeting(m *middle, msg []byte) []byte {
	a := acquainted()
	stranger := Secret(m.bytes(32))
	a.listener.Secret, a.connector.Secret = stranger, stranger
	switch m.rng.IntN(5) {
	case 0: // a hello of its own
		if c, err := NewMeeting(Connector, a.connectorSelf, a.listener, a.mailbox); err == nil {
			if hello, err := c.Write([]byte("mallory")); err == nil {
				return hello
			}
		}
	case 1: // low order where a key is
		if len(msg) >= meetingHeader+pointSize {
			clear(msg[meetingHeader : meetingHeader+pointSize])
		}
	case 2: // another type
		if len(msg) > 0 {
			msg[0] = byte(m.rng.IntN(5))
		}
	case 3: // another version
		if len(msg) > 1 {
			msg[1]++
		}
	case 4: // another counter
		if len(msg) >= meetingHeader+counterSize {
			binary.BigEndian.PutUint64(msg[meetingHeader:], m.rng.Uint64N(8))
		}
	}
	return msg
}

func TestMeetingMiddle(t *testing.T) {
	a := acquainted()
	var mu sync.Mutex
	outcomes := map[string]int{}
	eachSeed(t, func(seed uint64, old [][]byte) ([][]byte, error) {
		m := &middle{rng: rand.New(rand.NewPCG(seed, 2)), seen: append([][]byte(nil), old...), forge: forgeMeeting}
		ml, mc := a.meetings(t)
		l, c := &meetingSide{Meeting: ml}, &meetingSide{Meeting: mc}
		hello, err := c.Write([]byte("payload of connector"))
		if err != nil {
			return nil, err
		}
		m.talk(c, l, hello)
		outcome, err := judgeMeeting(l, c)
		mu.Lock()
		outcomes[outcome]++
		mu.Unlock()
		return m.seen[len(old):], err
	})
	t.Log(outcomes)
	for _, o := range []string{"confirmed", "unconfirmed", "replayed or forged hello", "nothing"} {
		if outcomes[o] == 0 {
			t.Errorf("the middle never led to %q: the test does not try what it should", o)
		}
	}
}

// judgeMeeting holds what must be true whatever the middle did: what was heard is
// what was said, in order, none twice; and nobody is confirmed without the other.
func judgeMeeting(l, c *meetingSide) (string, error) {
	if err := errors.Join(l.err, c.err); err != nil {
		return "", err
	}
	for _, p := range []struct{ hearer, speaker *meetingSide }{{l, c}, {c, l}} {
		last := 0
		for _, text := range p.hearer.heard {
			var role string
			var n int
			if _, err := fmt.Sscanf(text, "%s %d", &role, &n); err != nil || role != p.speaker.role.String() || n <= last || n > p.speaker.said {
				return "", fmt.Errorf("%s heard %q after %d", p.hearer.role, text, last)
			}
			last = n
		}
		if got := p.hearer.payload; got != "" && got != "payload of "+p.speaker.role.String() {
			return "", fmt.Errorf("%s read payload %q", p.hearer.role, got)
		}
	}
	lc, cc := l.Channel(), c.Channel()
	same := lc != nil && cc != nil && lc.Export("") == cc.Export("")
	switch {
	case lc != nil && lc.Confirmed() && !same:
		return "", errors.New("the listener is sure of a channel that the connector does not have")
	case cc != nil && !same:
		return "", errors.New("the connector has a channel that the listener does not have")
	case lc != nil && lc.Confirmed() != (len(l.heard) > 0):
		return "", errors.New("confirmed without a word, or a word without being confirmed")
	case lc != nil && lc.Confirmed():
		return "confirmed", nil
	case same:
		return "unconfirmed", nil
	case lc != nil:
		return "replayed or forged hello", nil
	}
	return "nothing", nil
}
