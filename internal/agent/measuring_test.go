package agent

import (
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// A peer that asks for the end of a long round, and leaves, does not keep the
// link until then.
func TestPeerLeavesAmidARound(t *testing.T) {
	_, a, b, _ := twoMachines(t)
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	c, stopA := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	await(t, a.events, 0, movedTo("direct"))
	var s *session.Session
	for s == nil { // the test has a deadline
		time.Sleep(time.Millisecond)
		s = c.env.live()[0].session.Load()
	}
	st, err := s.Open(t.Context(), session.Header{Kind: session.KindMeasure, Target: "control"})
	if err != nil {
		t.Fatal(err)
	}
	st.SetDeadline(time.Now().Add(patience))
	ask := func(request string) {
		if _, err := st.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)); err != nil {
			t.Fatal(err)
		}
	}
	ask(`{"start":{"id":"round","path":"direct","seconds":60,"skip_s":1,"streams":1,"send":false,"receive":true,"udp_mbps":0.1}}`)
	if _, err := io.ReadFull(st, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	ask(`{"finish":"round"}`)
	time.Sleep(100 * time.Millisecond) // until it waits for the round
	left := time.Now()
	if err := stopA(); err != nil {
		t.Error(err)
	}
	await(t, b.events, 0, func(e trace.SessionState) bool { return e.State == "closed" })
	if took := time.Since(left); took > 30*time.Second { // half of the round
		t.Errorf("the link ended %v after its peer", took)
	}
}
