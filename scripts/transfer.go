//go:build ignore

// Transfer is the demonstration's load: an endless stream of bytes that the
// receiving side knows beforehand, so a byte lost, doubled or out of place is
// noticed.
//
//	transfer serve ADDR   send to whoever connects
//	transfer get ADDR     receive, print the count every 100 ms; when asked
//	                      to end (SIGTERM), print "whole"
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/p2pagent/p2pagent/internal/trouble"
)

// stream is the bytes that both sides know.
func stream() io.Reader { return rand.NewChaCha8([32]byte{'p', '2', 'p'}) }

func main() {
	log.SetFlags(0)
	log.SetPrefix("transfer: ")
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "serve":
		err = serve(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "get":
		err = get(os.Args[2])
	default:
		err = errors.New("want: serve ADDR, or get ADDR")
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	ln = trouble.Listener(ln, func(why string) { log.Printf("accept: %s", cmp.Or(why, "works again")) })
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			io.Copy(c, struct{ io.Reader }{stream()}) // until the receiver has enough
		}()
	}
}

func get(addr string) error {
	enough, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	context.AfterFunc(enough, func() { c.SetReadDeadline(time.Now()) })
	want := stream()
	got, known := make([]byte, 256<<10), make([]byte, 256<<10)
	var total int64
	var printed time.Time
	for {
		n, err := c.Read(got)
		io.ReadFull(want, known[:n])
		if !bytes.Equal(got[:n], known[:n]) {
			return fmt.Errorf("other bytes came than were sent, within %d of byte %d", n, total)
		}
		total += int64(n)
		if now := time.Now(); err != nil || now.Sub(printed) >= 100*time.Millisecond {
			fmt.Println(total)
			printed = now
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			fmt.Println("whole")
			return nil
		case err != nil:
			return fmt.Errorf("after %d bytes: %w", total, err)
		}
	}
}
