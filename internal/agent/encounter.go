package agent

import (
	"context"
	"sync"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/signaling"
)

// An encounter is one sealed conversation with one counterpart in a mailbox.
type encounter struct {
	box  *signaling.Mailbox
	seat signaling.Seat

	mu sync.Mutex // from sealing to queueing: the other side refuses what is late
	ch *identity.Channel
}

// send seals a message and queues it at the server, within sendTimeout.
func (e *encounter) send(ctx context.Context, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	e.mu.Lock()
	defer e.mu.Unlock()
	sealed, err := e.ch.Seal(nil, b)
	if err != nil {
		return err
	}
	return e.box.Send(ctx, e.seat, sealed)
}

// say sends a message of the meeting itself, which no link numbers.
func (e *encounter) say(ctx context.Context, m *message) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	return e.send(ctx, b)
}

// open reads a sealed body.
func (e *encounter) open(body []byte) ([]byte, error) { return e.ch.Open(nil, body) }
