package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Both sides of a router show the same packets, with the addresses before and after
// translation.
func TestCapture(t *testing.T) {
	l := build(t, Topology{A: kind(t, "port-restricted"), B: kind(t, "none")}, nil)
	dir := t.TempDir()
	c, err := l.startCapture(dir)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	server, err := l.Node(Server).ListenUDP(t.Context(), "192.0.2.130:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	peer, err := l.Node(PeerA).ListenUDP(t.Context(), "0.0.0.0:20001")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	server.SetDeadline(time.Now().Add(time.Minute))
	const packets = 20
	for i := range packets {
		if _, err := peer.WriteTo(fmt.Appendf(nil, "packet %d", i), server.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	end := time.Now()

	for dev, src := range map[string]string{lanInterface: "10.1.0.2", wanInterface: "198.51.100.2"} {
		b, err := os.ReadFile(filepath.Join(dir, "nat-a-"+dev+".pcap"))
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, f := range readPcap(t, b) {
			if f.at.Before(start.Add(-time.Second)) || f.at.After(end.Add(time.Second)) {
				t.Errorf("%s: a packet of %v", dev, f.at)
			}
			if want := fmt.Appendf(nil, "packet %d", seen); !bytes.HasSuffix(f.frame, want) {
				continue // ARP
			}
			if got, _ := netip.AddrFromSlice(f.frame[14+12 : 14+16]); got.String() != src {
				t.Errorf("%s: from %v, want %s", dev, got, src)
			}
			seen++
		}
		if seen != packets {
			t.Errorf("%s: %d packets in order, want %d", dev, seen, packets)
		}
	}
}

type capturedFrame struct {
	at    time.Time
	frame []byte
}

func readPcap(t *testing.T, b []byte) (frames []capturedFrame) {
	t.Helper()
	u32 := binary.LittleEndian.Uint32
	if len(b) < 24 || u32(b) != pcapMagic || u32(b[20:]) != pcapEthernet {
		t.Fatalf("pcap header % x", b[:min(24, len(b))])
	}
	for b = b[24:]; len(b) >= 16; {
		n := u32(b[8:])
		if n != u32(b[12:]) || int(n) > len(b)-16 {
			t.Fatalf("pcap record of %d bytes, %d left", n, len(b))
		}
		frames = append(frames, capturedFrame{time.Unix(int64(u32(b)), int64(u32(b[4:]))), b[16 : 16+n]})
		b = b[16+n:]
	}
	if len(b) != 0 {
		t.Errorf("%d bytes after the last record", len(b))
	}
	return frames
}
