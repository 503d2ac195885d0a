package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// The stream programs run inside of a lab's nodes: this very test binary, with
// these variables set.
const (
	envStream  = "P2P_E2E_STREAM"  // send or receive
	envAddress = "P2P_E2E_ADDRESS" // to dial, or to listen on
	envRate    = "P2P_E2E_RATE"    // bytes per second, of send
	envLasts   = "P2P_E2E_LASTS"   // how long send sends
)

// A gap is a pause in what a receiver got.
type gap struct {
	At time.Time     `json:"at"` // its end
	NS time.Duration `json:"ns"`
}

// A streamReport is the last line that a stream program prints.
type streamReport struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	Gaps   []gap  `json:"gaps,omitempty"`
	Err    string `json:"error,omitempty"`
}

// worthAGap is the shortest pause that a receiver reports.
const worthAGap = 500 * time.Millisecond

// TestStreamProgram is no test but the programs' entry.
func TestStreamProgram(t *testing.T) {
	var report streamReport
	var err error
	switch os.Getenv(envStream) {
	case "":
		t.Skip("is run by other tests, inside of a lab's node")
	case "send":
		report, err = sendStream()
	case "receive":
		report, err = receiveStream()
	}
	if err != nil {
		report.Err = err.Error()
	}
	b, _ := json.Marshal(report)
	fmt.Printf("\nreport %s\n", b)
}

func sendStream() (r streamReport, err error) {
	rate, err := strconv.Atoi(os.Getenv(envRate))
	if err != nil {
		return r, err
	}
	lasts, err := time.ParseDuration(os.Getenv(envLasts))
	if err != nil {
		return r, err
	}
	conn, err := net.Dial("tcp", os.Getenv(envAddress))
	if err != nil {
		return r, err
	}
	defer conn.Close()
	fmt.Println("sending")
	const tick = 20 * time.Millisecond
	random := rand.NewChaCha8([32]byte{1})
	sum := sha256.New()
	block := make([]byte, rate/int(time.Second/tick))
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for end := time.Now().Add(lasts); time.Now().Before(end); <-ticker.C {
		random.Read(block)
		n, err := conn.Write(block)
		sum.Write(block[:n])
		r.Bytes += int64(n)
		if err != nil {
			return r, err
		}
	}
	r.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return r, err
	}
	if _, err := io.ReadAll(conn); err != nil { // the receiver's own end
		return r, fmt.Errorf("wait for the end: %w", err)
	}
	return r, nil
}

func receiveStream() (r streamReport, err error) {
	ln, err := net.Listen("tcp", os.Getenv(envAddress))
	if err != nil {
		return r, err
	}
	defer ln.Close()
	fmt.Println("receiving")
	conn, err := ln.Accept()
	if err != nil {
		return r, err
	}
	defer conn.Close()
	sum := sha256.New()
	buf := make([]byte, 64<<10)
	last := time.Now()
	for {
		n, err := conn.Read(buf)
		now := time.Now()
		if pause := now.Sub(last); pause >= worthAGap {
			r.Gaps = append(r.Gaps, gap{now, pause})
		}
		last = now
		sum.Write(buf[:n])
		r.Bytes += int64(n)
		if errors.Is(err, io.EOF) {
			r.SHA256 = hex.EncodeToString(sum.Sum(nil))
			return r, nil
		}
		if err != nil {
			return r, err
		}
	}
}
