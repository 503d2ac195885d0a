package identity

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzPairing hands any message to both sides in each state they can be in. It
// knows no code, so nobody may ever be done, and before the proof nothing may be
// spent but by what is well-formed.
func FuzzPairing(f *testing.F) {
	l, c := pairOf(f)
	hello := c.Start()
	share, _, err := l.Step(hello)
	if err != nil {
		f.Fatal(err)
	}
	proof, _, err := c.Step(share)
	if err != nil {
		f.Fatal(err)
	}
	accept, _, err := l.Step(proof)
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := c.Step(accept); err != nil {
		f.Fatal(err)
	}
	stored, _ := c.Stored(nil)
	for _, m := range [][]byte{hello, share, proof, accept, stored, rejectMsg(reasonCode), rejectMsg(reasonVersion)} {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, p := range inEachState(t) {
			before := p.state
			out, next, err := p.Step(in)
			if next != NextWait || p.state == pairDone {
				t.Fatalf("done by a message from nowhere, from state %d", before)
			}
			if err != nil && out != nil {
				if kind := out[0]; kind != typeReject {
					t.Fatalf("an error and a message of type %d", kind)
				}
			}
			if errors.Is(err, ErrBadMessage) && p.state != before {
				t.Fatalf("a bad message moved state %d to %d", before, p.state)
			}
			if len(out) > MaxPairingMessage {
				t.Fatalf("%d bytes", len(out))
			}
		}
	})
}

// inEachState returns pairings in every state in which they take messages.
func inEachState(t *testing.T) []*Pairing {
	l0, c0 := pairOf(t) // awaitHello, notStarted
	l1, c1 := pairOf(t)
	share, _ := step(t, l1, c1.Start()) // l1: awaitProof
	_, c2 := pairOf(t)
	c2.Start() // awaitShare
	step(t, c1, share)
	l3, c3 := pairOf(t)
	toMustStore(t, l3, c3) // l3: awaitStored
	l4, c4 := pairOf(t)
	toMustStore(t, l4, c4)
	c4.Stored(nil) // c4: awaitStored
	return []*Pairing{l0, c0, l1, c1, c2, l3, c4}
}

// FuzzMeeting does the same to a meeting and its channel.
func FuzzMeeting(f *testing.F) {
	l, c := acquainted().meetings(f)
	hello, err := c.Write([]byte("payload"))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := l.Read(hello); err != nil {
		f.Fatal(err)
	}
	answer, err := l.Write(nil)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := c.Read(answer); err != nil {
		f.Fatal(err)
	}
	f.Add(answer)
	f.Add(seal(f, c.Channel(), "", "text"))
	f.Add(append(bytes.Clone(hello), 0))
	f.Fuzz(func(t *testing.T, in []byte) {
		a := acquainted()
		a.listener.Secret[31] ^= 1 // so that not even the seeds are authentic
		a.connector.Secret[31] ^= 1
		l, c := a.meetings(t)
		good, err := c.Write(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []*Meeting{l, c} {
			if _, err := m.Read(in); err == nil {
				t.Fatalf("the %s took a message from nowhere", m.role)
			}
		}
		if _, err := l.Read(good); err != nil {
			t.Fatal(err)
		}
		answer, err := l.Write(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(answer); err != nil {
			t.Fatal(err)
		}
		for _, ch := range []*Channel{l.Channel(), c.Channel()} {
			if _, err := ch.Open(nil, in); err == nil {
				t.Fatal("the channel took a message from nowhere")
			}
		}
	})
}

// FuzzParseCode: what parses is a code that parses to itself.
func FuzzParseCode(f *testing.F) {
	for _, s := range []string{"7-acorn-window-zigzag", " 7 ACOR wind–zigz ", "", "7", "7-a-b-c", "acorn", "7-acron-window-zigzag"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCode(s)
		if err != nil {
			if !errors.Is(err, ErrBadCode) || (c != Code{}) {
				t.Fatalf("ParseCode(%q) = %v, %v", s, c, err)
			}
			return
		}
		if back, err := ParseCode(c.String()); err != nil || back != c {
			t.Fatalf("ParseCode(%q) = %v, which parses to %v, %v", s, c, back, err)
		}
		if !LooksLikeCode(s) || ValidateName(s) == nil {
			t.Fatalf("%q is a code and a name", s)
		}
	})
}

// FuzzPeersFile: what decodes is sound, and survives being written and read.
func FuzzPeersFile(f *testing.F) {
	good, err := encodePeers([]Peer{testPeer("desk"), testPeer("laptop")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"peers":[]}`))
	f.Add([]byte(`{"version":1,"peers":null}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		peers, err := decodePeers(b)
		if err != nil {
			return
		}
		for i, p := range peers {
			if err := checkPeer(p); err != nil {
				t.Fatal(err)
			}
			if indexName(peers, p.Name) != i || indexFingerprint(peers, p.Fingerprint) != i {
				t.Fatalf("peer %d is there twice", i)
			}
		}
		once, err := encodePeers(peers)
		if err != nil {
			t.Skip("a time that JSON cannot say")
		}
		again, err := decodePeers(once)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := encodePeers(again)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s became %s, %v", once, twice, err)
		}
	})
}
