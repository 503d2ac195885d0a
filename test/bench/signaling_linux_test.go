package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/p2pagent/p2pagent/internal/cli"
)

// What a signal server keeps for listeners that wait, and how long messages of
// others take beside them.
const (
	idleListeners   = 5000
	talkingPairs    = 200
	messagesPerSec  = 10000
	messageBody     = 300 // bytes, about what a sealed list of candidates has
	talkFor         = 10 * time.Second
	talkWarmup      = 2 * time.Second
	settleFor       = 5 * time.Second
	perAddress      = 900 // connections of one source; the server allows 1024
	signalingServer = "P2PAGENT_BENCH_HUB"
)

func TestMain(m *testing.M) {
	if os.Getenv(signalingServer) != "" {
		naiveHub()
	}
	os.Exit(m.Run())
}

// BenchmarkSignaling measures signal, and beside it a hub as one writes it with
// gorilla/websocket: two goroutines and a channel for each connection.
//
//	go test -run '^$' -bench Signaling -benchtime 1x ./test/bench
//
// It opens 5,000 connections with one mailbox each, waits a while, and reads how
// much the server's resident memory has grown. Beside these, 200 pairs then send
// 10,000 messages a second, evenly spaced, for ten seconds. The times are from the
// write of a message to its arrival at the other end, both in this process, which
// shares the machine with the server; late is how far behind its plan the sender
// was, and is part of no other figure. Where other programs want the processors, the
// times are theirs: compare the two servers, or look at late.
func BenchmarkSignaling(b *testing.B) {
	var files syscall.Rlimit
	const wanted = idleListeners + 2*talkingPairs + 100
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur < wanted {
		b.Skipf("a process may open %d files here, and %d connections are wanted (%v)", files.Cur, wanted, err)
	}
	for _, server := range []string{"signal", "naive hub"} {
		b.Run(strings.ReplaceAll(server, " ", "-"), func(b *testing.B) {
			for b.Loop() {
				measureSignaling(b, server)
			}
		})
	}
}

func measureSignaling(b *testing.B, server string) {
	p, addr, token := startHub(b, server)
	defer p.stop()
	pid := p.cmd.Process.Pid
	resident := func() int64 {
		n, err := memoryOf(pid, residentNow)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	g := &crowd{b: b, addr: addr, token: token}
	defer g.leave()
	time.Sleep(time.Second) // what it has done for its start
	before := resident()
	for i := range idleListeners {
		g.join(fmt.Sprintf("idle-%038d", i), "host", i)
	}
	time.Sleep(settleFor)
	idle := resident()

	cpu, err := cpuOf(pid)
	if err != nil {
		b.Fatal(err)
	}
	t := g.talk()
	after, err := cpuOf(pid)
	if err != nil {
		b.Fatal(err)
	}
	busy := resident()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(before)/1e6, "MB_before")
	b.ReportMetric(float64(idle-before)/idleListeners/1e3, "KB/idle")
	b.ReportMetric(float64(busy-before)/(idleListeners+2*talkingPairs)/1e3, "KB/conn_under_load")
	b.ReportMetric(float64(len(t.took))/t.length.Seconds(), "messages/s")
	b.ReportMetric(quantile(t.took, 0.50), "ms_p50")
	b.ReportMetric(quantile(t.took, 0.99), "ms_p99")
	b.ReportMetric(quantile(t.took, 1), "ms_max")
	b.ReportMetric(quantile(t.late, 0.99), "ms_late_p99")
	b.ReportMetric((after-cpu).Seconds()/(talkWarmup+talkFor).Seconds(), "server_cores")
}

// quantile is in milliseconds. It sorts.
func quantile(ds []time.Duration, q float64) float64 {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[min(len(ds)-1, int(q*float64(len(ds))))].Seconds() * 1e3
}

// startHub starts a server on loopback, with as many processors as signal takes.
func startHub(b *testing.B, server string) (p *process, addr, token string) {
	b.Helper()
	dir := b.TempDir()
	var cmd *exec.Cmd
	if server == "signal" {
		bin := filepath.Join(dir, "signal")
		if out, err := exec.Command("go", "build", "-o", bin, "../../cmd/signal").CombinedOutput(); err != nil {
			b.Fatalf("go build: %v\n%s", err, out)
		}
		cmd = exec.Command(bin, "--public-ip", "127.0.0.1", "--listen", "127.0.0.1:0", "--turn-listen", ":0", "--grace", "0s")
	} else {
		self, err := os.Executable()
		if err != nil {
			b.Fatal(err)
		}
		cmd = exec.Command(self)
	}
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+dir, signalingServer+"=1")
	p, err := start(server, false, cmd)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	m, err := p.awaitText(ctx, p.stdout, `P2PAGENT_SIGNAL=ws://([^#\s]+)#?(\S*)\n`)
	if err != nil {
		b.Fatal(err)
	}
	return p, m[1], m[2]
}

// A crowd is all clients of one server.
type crowd struct {
	b           *testing.B
	addr, token string
	readers     sync.WaitGroup
	talkers     []*talker

	mu     sync.Mutex
	took   []time.Duration
	epoch  time.Time
	counts atomic.Bool // messages that arrive now
}

// A talker is one connection: what it has to say is written by one goroutine,
// and pongs by its reader, so each write has the lock.
type talker struct {
	mu  sync.Mutex
	c   net.Conn
	out []byte

	r  *bufio.Reader
	in []byte
}

func (t *talker) write(op byte, payload []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := append(t.out[:0], 0x80|op)
	if n := len(payload); n < 126 {
		b = append(b, 0x80|byte(n))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	}
	t.out = append(append(b, 0, 0, 0, 0), payload...)
	_, err := t.c.Write(t.out)
	return err
}

// read returns the next frame, whose payload is good until the next call.
func (t *talker) read() (op byte, payload []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(t.r, head[:2]); err != nil {
		return 0, nil, err
	}
	n := int(head[1])
	if n == 126 {
		if _, err := io.ReadFull(t.r, head[2:4]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(head[2:4]))
	}
	t.in = slices.Grow(t.in[:0], n)[:n]
	_, err = io.ReadFull(t.r, t.in)
	return head[0] & 15, t.in, err
}

// join opens a connection, the i-th, takes a seat and starts to read.
func (g *crowd) join(mailbox, role string, i int) *talker {
	g.b.Helper()
	from := net.IPv4(127, 0, 0, byte(2+i/perAddress))
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).Dial("tcp", g.addr)
	if err != nil {
		g.b.Fatal(err)
	}
	t := &talker{c: c, r: bufio.NewReaderSize(c, 1024)}
	g.talkers = append(g.talkers, t)
	fmt.Fprintf(c, "GET /v1 HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", g.addr)
	resp, err := http.ReadResponse(t.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		g.b.Fatalf("handshake: %v %v", resp, err)
	}
	random := func() string {
		b := make([]byte, 16)
		rand.Read(b)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	for _, m := range []map[string]any{
		{"type": "hello", "version": 1, "token": g.token, "software": "bench"},
		{"type": "run", "run": random()},
		{"type": "join", "mailbox": mailbox, "role": role, "seat": random()},
	} {
		text, err := json.Marshal(m)
		if err == nil {
			err = t.write(websocket.TextMessage, text)
		}
		if err != nil {
			g.b.Fatal(err)
		}
	}
	for joined := false; !joined; {
		_, payload, err := t.read()
		if err != nil {
			g.b.Fatal(err)
		}
		joined = strings.Contains(string(payload), `"joined"`)
	}
	g.readers.Go(func() { g.listen(t) })
	return t
}

// listen takes the time of the messages that arrive.
func (g *crowd) listen(t *talker) {
	for {
		op, payload, err := t.read()
		if err != nil {
			return // the benchmark is over, or says itself how much is missing
		}
		now := time.Since(g.epoch)
		if op == websocket.PingMessage {
			t.write(websocket.PongMessage, payload)
			continue
		}
		_, body, ok := bytes.Cut(payload, []byte(`"body":"`))
		if !ok || !g.counts.Load() {
			continue
		}
		var sent [9]byte
		if _, err := base64.StdEncoding.Decode(sent[:], body[:12]); err != nil {
			g.b.Errorf("body %.20s: %v", body, err)
			return
		}
		g.mu.Lock()
		g.took = append(g.took, now-time.Duration(binary.BigEndian.Uint64(sent[:])))
		g.mu.Unlock()
	}
}

// talked is what talk has measured.
type talked struct {
	took, late []time.Duration
	length     time.Duration
}

// talk has the pairs send at the given rate.
func (g *crowd) talk() talked {
	type side struct {
		*talker
		before, after string // of a message, around the body
	}
	var sides []side
	for i := range talkingPairs {
		name := fmt.Sprintf("pair-%038d", i)
		host := g.join(name, "host", idleListeners+2*i)
		guest := g.join(name, "guest", idleListeners+2*i+1)
		sides = append(sides,
			side{host, `{"type":"send","mailbox":"` + name + `","to":1,"body":"`, `"}`},
			side{guest, `{"type":"send","mailbox":"` + name + `","body":"`, `"}`})
	}
	g.epoch = time.Now()
	const all = int((talkWarmup + talkFor) / time.Second * messagesPerSec)
	g.took = make([]time.Duration, 0, all)
	late := make([]time.Duration, 0, all)
	body := make([]byte, messageBody)
	var text []byte
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // its pauses are not the server's
	for n := range all {
		due := time.Duration(n) * time.Second / messagesPerSec
		if wait := due - time.Since(g.epoch); wait > 0 {
			time.Sleep(wait)
		}
		if due >= talkWarmup {
			g.counts.Store(true)
			late = append(late, time.Since(g.epoch)-due)
		}
		s := sides[n%len(sides)]
		binary.BigEndian.PutUint64(body, uint64(time.Since(g.epoch)))
		text = base64.StdEncoding.AppendEncode(append(text[:0], s.before...), body)
		text = append(text, s.after...)
		if err := s.write(websocket.TextMessage, text); err != nil {
			g.b.Fatalf("message %d: %v", n, err)
		}
	}
	length := time.Since(g.epoch) - talkWarmup
	time.Sleep(time.Second) // for what is on its way
	g.counts.Store(false)
	g.mu.Lock()
	defer g.mu.Unlock()
	if missing := len(late) - len(g.took); missing > len(late)/100 {
		g.b.Errorf("%d of %d messages are missing", missing, len(late))
	}
	return talked{g.took, late, length}
}

func (g *crowd) leave() {
	for _, t := range g.talkers {
		t.c.Close()
	}
	g.readers.Wait()
}

// naiveHub is a signal server without limits, checks and a token: what anybody
// would write first.
func naiveHub() {
	cli.LimitProcs()
	type member struct {
		role string
		out  chan []byte
	}
	var mu sync.Mutex
	boxes := make(map[string]map[string]*member)
	upgrader := websocket.Upgrader{}
	serve := func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		m := &member{out: make(chan []byte, 256)}
		done := make(chan struct{})
		go func() {
			ping := time.NewTicker(25 * time.Second)
			defer ping.Stop()
			for {
				select {
				case b := <-m.out:
					ws.WriteMessage(websocket.TextMessage, b)
				case <-ping.C:
					ws.WriteMessage(websocket.PingMessage, nil)
				case <-done:
					return
				}
			}
		}()
		defer close(done)
		for {
			_, b, err := ws.ReadMessage()
			if err != nil {
				return
			}
			var in struct{ Type, Mailbox, Role, Body string }
			if json.Unmarshal(b, &in) != nil {
				return
			}
			mu.Lock()
			switch in.Type {
			case "join":
				m.role = in.Role
				if boxes[in.Mailbox] == nil {
					boxes[in.Mailbox] = make(map[string]*member)
				}
				boxes[in.Mailbox][in.Role] = m
				m.out <- []byte(`{"type":"joined"}`)
			case "send":
				for role, to := range boxes[in.Mailbox] {
					if role != m.role {
						out, _ := json.Marshal(map[string]string{"type": "message", "mailbox": in.Mailbox, "body": in.Body})
						to.out <- out
					}
				}
			}
			mu.Unlock()
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("P2PAGENT_SIGNAL=ws://%s\n", ln.Addr())
	http.Serve(ln, http.HandlerFunc(serve))
}
