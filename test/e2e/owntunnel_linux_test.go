package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
	"golang.org/x/sys/unix"
)

// The tunnel programs run inside of a lab's nodes: this very test binary, with
// these variables set.
const (
	envTunnel = "P2P_E2E_TUNNEL" // listen or connect: an end of a VPN over TCP; ask: an echo, again and again
	envInside = "P2P_E2E_INSIDE" // address of the VPN's end, with the length of its subnet
)

// TestTunnelProgram is no test but the programs' entry.
func TestTunnelProgram(t *testing.T) {
	at := os.Getenv(envAddress)
	var err error
	switch os.Getenv(envTunnel) {
	case "":
		t.Skip("is run by other tests, inside of a lab's node")
	case "ask":
		err = askAgain(at)
	case "listen":
		var ln net.Listener
		if ln, err = net.Listen("tcp", at); err == nil {
			fmt.Println("listening")
			err = carry(ln.Accept())
		}
	case "connect":
		err = carry(net.Dial("tcp", at))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// carry is one end of a VPN: what enters its TUN interface goes through the
// connection, each packet behind its length, as OpenVPN does over TCP.
func carry(conn net.Conn, err error) error {
	if err != nil {
		return err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	req, err := unix.NewIfreq("zt0")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return err
	}
	for _, args := range [][]string{{"addr", "add", os.Getenv(envInside), "dev", "zt0"}, {"link", "set", "zt0", "up", "mtu", "1400"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	tun := os.NewFile(uintptr(fd), "/dev/net/tun")
	fmt.Println("carrying")
	failed := make(chan error, 2)
	go func() {
		b := make([]byte, 2000)
		for {
			n, err := tun.Read(b[2:])
			if err == nil {
				binary.BigEndian.PutUint16(b, uint16(n))
				_, err = conn.Write(b[:2+n])
			}
			if err != nil {
				failed <- err
				return
			}
		}
	}()
	go func() {
		r, b := bufio.NewReader(conn), make([]byte, 2000)
		for {
			var head [2]byte
			if _, err := io.ReadFull(r, head[:]); err != nil {
				failed <- err
				return
			}
			n := binary.BigEndian.Uint16(head[:])
			if _, err := io.ReadFull(r, b[:n]); err != nil {
				failed <- err
				return
			}
			tun.Write(b[:n]) // a packet that the kernel does not take is lost
		}
	}()
	return <-failed
}

// askAgain asks an echo for one word over a connection of its own, ten times a
// second, and prints how long each answer took.
func askAgain(at string) error {
	ask := func() error {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte("word")); err != nil {
			return err
		}
		_, err = io.ReadFull(conn, make([]byte, 4))
		return err
	}
	for {
		asked := time.Now()
		if err := ask(); err != nil {
			return err
		}
		fmt.Printf("answered at %d after %d ms\n", time.Now().UnixMilli(), time.Since(asked).Milliseconds())
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *standing) tunnelProgram(node, role, address, inside string) *process {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	return s.exec(node, "env", envTunnel+"="+role, envAddress+"="+address, envInside+"="+inside,
		self, "-test.run=^TestTunnelProgram$", "-test.timeout=30m")
}

// A VPN runs through the link's own -L. Between the two machines it looks like a
// direct path, and a fast one; payload moved there would carry itself. Both sides
// find out, say so, and nothing else on the link waits, not even when the relay
// is silent for a while.
func TestOwnTunnelIsNotUsed(t *testing.T) {
	needLab(t)
	needProgram(t, "socat", "socat")
	s := stand(t, "symmetric", "port-restricted")
	s.exec("peer-b", "socat", "TCP-LISTEN:9001,bind=127.0.0.1,fork,reuseaddr", "EXEC:cat")
	end := s.tunnelProgram("peer-b", "listen", "127.0.0.1:9000", vpnB+"/24")
	end.await(t, end.stdout, "listening")
	a, b := s.agents([]int{9000, 9001})
	onPath(t, a, "relayed")
	asking := s.tunnelProgram("peer-a", "ask", "127.0.0.1:9001", "")
	asking.await(t, asking.stdout, "answered")
	other := s.tunnelProgram("peer-a", "connect", "127.0.0.1:9000", vpnA+"/24")
	other.await(t, other.stdout, "carrying")

	barred := func(e trace.Event) bool {
		p, ok := e.(trace.PathBarred)
		return ok && p.Barred && p.Path.Tunnel == "zt0"
	}
	awaitEvent(t, a, "path that is barred", barred)
	awaitEvent(t, b, "path that is barred", barred)
	const why = "not used: it carries this link's own packets"
	for _, node := range []string{"peer-a", "peer-b"} {
		if text := s.must(node, "p2pagent", "status"); !strings.Contains(text, "inside the tunnel zt0") || !strings.Contains(text, why) {
			t.Errorf("status of %s:\n%s", node, text)
		}
	}
	longest := 0
	for _, m := range regexp.MustCompile(`after (\d+) ms`).FindAllStringSubmatch(asking.stdout.String(), -1) {
		ms, _ := strconv.Atoi(m[1])
		longest = max(longest, ms)
	}
	t.Logf("longest wait for an answer %d ms", longest)
	if longest > 5000 { // it was minutes, or for ever
		t.Errorf("a connection waited %d ms for its answer", longest)
	}

	silent := []string{"OUTPUT", "-p", "udp", "-d", ourRelay, "-j", "DROP"}
	s.must("peer-a", append([]string{"iptables", "-I"}, silent...)...)
	awaitEvent(t, a, "silent path", func(e trace.Event) bool {
		p, ok := e.(trace.PathSuspected)
		return ok && p.Active
	})
	s.must("peer-a", append([]string{"iptables", "-D"}, silent...)...)
	before := strings.Count(asking.stdout.String(), "answered")
	for deadline := time.Now().Add(patience); strings.Count(asking.stdout.String(), "answered") < before+20; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no more answers after a silence of the relay\npeer-a:\n%s\npeer-b:\n%s", a.stderr, b.stderr)
		}
	}
	for _, node := range []string{"peer-a", "peer-b"} {
		var all []struct {
			Links []struct {
				Paths []struct {
					Kind string
					Out  struct{ Payload, Fragments, Replays int }
				}
			}
		}
		if err := json.Unmarshal([]byte(s.must(node, "p2pagent", "status", "--json")), &all); err != nil {
			t.Fatal(err)
		}
		for _, l := range all[0].Links {
			for _, p := range l.Paths {
				if p.Kind == "direct" && p.Out.Payload+p.Out.Fragments+p.Out.Replays > 0 {
					t.Errorf("%s sent payload into the tunnel: %+v", node, p)
				}
			}
		}
	}
}
