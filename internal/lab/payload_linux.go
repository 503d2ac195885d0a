package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/trouble"
)

// payloadBytes go through the link each way to prove its path.
const payloadBytes = 1 << 20

// echoServer sends back what it gets.
type echoServer struct {
	listener net.Listener
	wait     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil after close
}

func startEcho(ctx context.Context, n *Node, address string) (*echoServer, error) {
	l, err := n.Listen(ctx, address)
	if err != nil {
		return nil, err
	}
	l = trouble.Listener(l, func(string) {})
	e := &echoServer{listener: l, conns: map[net.Conn]bool{}}
	e.wait.Go(e.accept)
	return e, nil
}

func (e *echoServer) accept() {
	for {
		c, err := e.listener.Accept()
		if err != nil {
			return
		}
		if !e.add(c) {
			c.Close()
			return
		}
		e.wait.Go(func() {
			defer e.drop(c)
			if _, err := io.Copy(c, c); err == nil {
				c.(*net.TCPConn).CloseWrite()
			}
		})
	}
}

func (e *echoServer) add(c net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conns == nil {
		return false
	}
	e.conns[c] = true
	return true
}

func (e *echoServer) drop(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
	c.Close()
}

func (e *echoServer) close() {
	e.listener.Close()
	e.mu.Lock()
	for c := range e.conns {
		c.Close()
	}
	e.conns = nil
	e.mu.Unlock()
	e.wait.Wait()
}

// firstByte sends a byte to the address as soon as something accepts it there, and
// returns when it has come back.
func firstByte(ctx context.Context, n *Node, address string) error {
	for {
		err := echoed(ctx, n, address, []byte{'x'})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("first byte: %w (%w)", context.Cause(ctx), err)
		case <-time.After(time.Millisecond):
		}
	}
}

// sendPayload sends payloadBytes there and back.
func sendPayload(ctx context.Context, n *Node, address string) error {
	b := make([]byte, payloadBytes)
	rand.Read(b)
	if err := echoed(ctx, n, address, b); err != nil {
		return fmt.Errorf("send %d bytes through the link: %w", len(b), err)
	}
	return nil
}

// echoed sends b on a connection of its own and checks that it comes back.
func echoed(ctx context.Context, n *Node, address string, b []byte) error {
	conn, err := n.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(b)
		sent <- err
	}()
	back := make([]byte, len(b))
	_, err = io.ReadFull(conn, back)
	if err != nil {
		conn.Close() // the writer may wait for a reader that is gone
	}
	err = errors.Join(err, <-sent)
	if err == nil && !bytes.Equal(back, b) {
		err = errors.New("other bytes came back than were sent")
	}
	return err
}
