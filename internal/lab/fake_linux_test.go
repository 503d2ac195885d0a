package lab

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// Stand-ins for the two programs, over plain TCP: they speak the command line that
// the lab relies on, and know two paths: straight to peer-b's address, where a
// router without NAT lets them, and through the server. What the lab says of them
// is so known beforehand. The test binary is all of them, told apart by its name.

// fakePrograms makes a directory with both programs.
func fakePrograms(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{signalBinary, agentBinary} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fakeMain runs the program that the test binary was started as, if it is one.
func fakeMain() (exit int, ok bool) {
	var run func([]string) error
	switch filepath.Base(os.Args[0]) {
	case signalBinary:
		run = fakeSignal
	case agentBinary:
		run = fakeAgent
	default:
		return 0, false
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

func flagValue(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

const (
	fakeDirectPort = "9000" // where the fake listener takes direct connections
	fakeCode       = "7-fake-pairing-code"
)

func fakeSignal(args []string) error {
	if err := fakeResponder(flagValue(args, "--public-ip"), flagValue(args, "--alt-ip")); err != nil {
		return err
	}
	var out, back atomic.Int64
	go http.ListenAndServe(flagValue(args, "--admin"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var s relayStats
		s.Relay.ClientToPeer, s.Relay.PeerToClient = out.Load(), back.Load()
		json.NewEncoder(w).Encode(s)
	}))
	hub, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	fmt.Printf("export P2PAGENT_SIGNAL=ws://%s:8080#token\n", flagValue(args, "--public-ip"))
	waiting := make(chan net.Conn, 100)
	for {
		c, err := hub.Accept()
		if err != nil {
			return err
		}
		go func() {
			role := make([]byte, 1)
			if _, err := io.ReadFull(c, role); err != nil {
				return
			}
			if role[0] == 'L' {
				waiting <- c
				return
			}
			splice(c, <-waiting, &out, &back)
		}()
	}
}

func fakeResponder(ips ...string) error {
	var socks [2][2]*net.UDPConn
	for a, ip := range ips {
		for p, port := range []uint16{3478, 3479} {
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				return err
			}
			if socks[a][p], err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port))); err != nil {
				return err
			}
		}
	}
	for a := range socks {
		for p := range socks[a] {
			go respond(socks, a, p)
		}
	}
	return nil
}

func splice(a, b net.Conn, ab, ba *atomic.Int64) {
	defer a.Close()
	defer b.Close()
	done := make(chan struct{}, 2)
	pump := func(dst, src net.Conn, n *atomic.Int64) {
		io.Copy(io.MultiWriter(dst, counter{n}), src)
		done <- struct{}{}
	}
	go pump(b, a, ab)
	go pump(a, b, ba)
	<-done
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) { c.n.Add(int64(len(b))); return len(b), nil }

func fakeAgent(args []string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT)
	url := strings.TrimPrefix(os.Getenv("P2PAGENT_SIGNAL"), "ws://")
	server, token, _ := strings.Cut(url, "#")
	if token != "token" {
		return fmt.Errorf("P2PAGENT_SIGNAL=%q", os.Getenv("P2PAGENT_SIGNAL"))
	}
	rec := trace.New("fake", trace.SinkFunc(func(r trace.Record) {
		b, _ := json.Marshal(r)
		fmt.Println(string(b))
	}))
	var err error
	switch {
	case args[0] == "listen":
		err = fakeListen(rec, server, flagValue(args, "--allow"))
	case os.Getenv("P2PAGENT_CODE") != "":
		if os.Getenv("P2PAGENT_CODE") != fakeCode {
			return fmt.Errorf("wrong code %q", os.Getenv("P2PAGENT_CODE"))
		}
		rec.Emit(trace.Paired{Name: "peer-b"})
	default:
		err = fakeConnect(rec, server, flagValue(args, "-L"))
	}
	if err != nil {
		return err
	}
	<-stop
	return nil
}

func fakeListen(rec *trace.Recorder, server, target string) error {
	rec.Emit(trace.Unknown{Name: "pairing.code", Data: json.RawMessage(`{"code":"` + fakeCode + `"}`)})
	rec.Emit(trace.Paired{Name: "peer-a"})
	direct, err := net.Listen("tcp", ":"+fakeDirectPort)
	if err != nil {
		return err
	}
	serve := func(c net.Conn) {
		t, err := net.Dial("tcp", target)
		if err != nil {
			c.Close()
			return
		}
		var ignored atomic.Int64
		splice(c, t, &ignored, &ignored)
	}
	go func() {
		for {
			c, err := direct.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	go func() {
		for {
			c, err := net.Dial("tcp", server)
			if err != nil {
				return
			}
			c.Write([]byte("L"))
			r := bufio.NewReader(c)
			if _, err := r.Peek(1); err != nil {
				return
			}
			go serve(bufferedConn{c, r})
		}
	}()
	return nil
}

type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c bufferedConn) Read(b []byte) (int, error) { return c.r.Read(b) }

// fakeConnect goes straight to peer-b where it has a public address that answers,
// and else through the server.
func fakeConnect(rec *trace.Recorder, server, forward string) error {
	entry, _, ok := strings.Cut(forward, ":127.0.0.1:7001")
	if !ok {
		return fmt.Errorf("-L %q", forward)
	}
	reached := make(chan string, 2)
	for _, addr := range []string{"203.0.113.130:" + fakeDirectPort, "198.51.100.131:" + fakeDirectPort} {
		go func() {
			c, err := net.DialTimeout("tcp", addr, 2*time.Second)
			if err != nil {
				reached <- ""
				return
			}
			c.Close()
			reached <- addr
		}()
	}
	to, kind := server, Relayed
	for range cap(reached) {
		if addr := <-reached; addr != "" {
			to, kind = addr, Direct
			break
		}
	}
	l, err := net.Listen("tcp", entry)
	if err != nil {
		return err
	}
	rec.Emit(trace.PathChanged{To: &trace.Path{Kind: string(kind)}})
	if kind != Direct {
		rec.Emit(trace.AttemptEnded{Why: "a fake cannot punch"})
	}
	rec.Emit(trace.Verdict{Path: string(kind), Text: "fake and " + string(kind)})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				r, err := net.Dial("tcp", to)
				if err != nil {
					c.Close()
					return
				}
				if kind == Relayed {
					r.Write([]byte("C"))
				}
				var ignored atomic.Int64
				splice(c, r, &ignored, &ignored)
			}()
		}
	}()
	return nil
}
