package signaling

import (
	"sync"
	"testing"

	"github.com/gorilla/websocket"
)

// BenchmarkPairs: two hundred pairs whose bodies of 1 KiB go back and forth,
// everything in this process.
func BenchmarkPairs(b *testing.B) {
	const pairs = 200
	ts := serve(b, ServerConfig{Limits: Limits{Messages: 1e9, Bytes: 1 << 40}})
	var ps []pair
	for i := range pairs {
		ps = append(ps, newPair(b, ts, nameOf(i)))
	}
	body := make([]byte, 1<<10)
	there := func(i int) []byte {
		return encode(message{Type: typeSend, Mailbox: pad(nameOf(i)), To: 1, Body: body})
	}
	back := func(i int) []byte { return encode(message{Type: typeSend, Mailbox: pad(nameOf(i)), Body: body}) }

	rounds := b.N/(2*pairs) + 1
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, p := range ps {
		host, guest := there(i), back(i)
		wg.Go(func() { bounce(b, p.host, host, rounds, true) })
		wg.Go(func() { bounce(b, p.guest, guest, rounds, false) })
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(2*pairs*rounds)/b.Elapsed().Seconds(), "messages/s")
}

// bounce sends and receives rounds frames in turn.
func bounce(b *testing.B, r *raw, frame []byte, rounds int, first bool) {
	send := func() bool {
		err := r.WriteMessage(websocket.TextMessage, frame)
		if err != nil {
			b.Errorf("write: %v", err)
		}
		return err == nil
	}
	receive := func() bool {
		_, _, err := r.ReadMessage()
		if err != nil {
			b.Errorf("read: %v", err)
		}
		return err == nil
	}
	for range rounds {
		if first && !send() || !receive() || !first && !send() {
			return
		}
	}
}

func nameOf(i int) string { return "bench" + string(rune('a'+i/26)) + string(rune('a'+i%26)) }

// BenchmarkDecode is the cost of one message before the rules see it.
func BenchmarkDecode(b *testing.B) {
	frame := encode(message{Type: typeSend, Mailbox: pad("box"), To: 1, Body: make([]byte, 1<<10)})
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(frame, fromClient); err != nil {
			b.Fatal(err)
		}
	}
}
