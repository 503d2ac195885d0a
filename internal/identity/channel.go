package identity

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/flynn/noise"
)

// A Channel seals and opens what two peers say to each other after a meeting.
// Its methods may be called at the same time. Since the other side refuses what
// comes out of order, whoever seals in several goroutines has to hold a lock of
// its own from Seal until the message is queued.
type Channel struct {
	binding []byte // handshake hash, the same on both sides
	secret  []byte // what Export derives from

	sendMu  sync.Mutex
	sender  noise.Cipher
	nextOut uint64

	recvMu    sync.Mutex
	receiver  noise.Cipher
	nextIn    uint64
	confirmed bool
}

const (
	counterSize = 8
	// maxCounter is the last counter that is used. Noise keeps 2^64-1 for itself.
	maxCounter = math.MaxUint64 - 1
)

// newChannel takes over the two cipher states of a finished handshake: Noise
// puts the one that the initiator, the connector, sends with first.
func newChannel(role Role, connector, listener *noise.CipherState, binding []byte) *Channel {
	kc, kl := connector.UnsafeKey(), listener.UnsafeKey()
	c := &Channel{
		binding:   binding,
		secret:    append(kc[:], kl[:]...),
		sender:    connector.Cipher(),
		receiver:  listener.Cipher(),
		confirmed: true,
	}
	if role == Listener {
		c.sender, c.receiver = c.receiver, c.sender
		c.confirmed = false
	}
	return c
}

// Seal encrypts plaintext and binds it to aad, which is not sent: the other side
// has to give Open the same, for example the kind of message.
func (c *Channel) Seal(aad, plaintext []byte) ([]byte, error) {
	if len(plaintext) > MaxMeetingPayload {
		return nil, fmt.Errorf("seal: %d bytes, at most %d are possible", len(plaintext), MaxMeetingPayload)
	}
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	n := c.nextOut
	if n > maxCounter {
		return nil, errors.New("seal: the counter has run out")
	}
	c.nextOut++
	msg := binary.BigEndian.AppendUint64([]byte{typeSealed, meetingByte}, n)
	return c.sender.Encrypt(msg, n, aad, plaintext), nil
}

// Open decrypts a message of the other side. It takes messages in the order they
// were sealed; some may be missing, none may come twice or late. After an error
// the Channel is as it was.
func (c *Channel) Open(aad, sealed []byte) ([]byte, error) {
	plaintext, err := c.open(aad, sealed)
	if err != nil {
		return nil, fmt.Errorf("sealed channel: %w", err)
	}
	return plaintext, nil
}

func (c *Channel) open(aad, sealed []byte) ([]byte, error) {
	body, err := meetingBody(sealed, typeSealed)
	if err != nil {
		return nil, err
	}
	if len(body) < counterSize {
		return nil, badMessage("%w", errTruncated)
	}
	n, ciphertext := binary.BigEndian.Uint64(body), body[counterSize:]

	c.recvMu.Lock()
	defer c.recvMu.Unlock()
	switch {
	case n > maxCounter:
		return nil, badMessage("counter %d is reserved", n)
	case n < c.nextIn:
		return nil, badMessage("counter %d came late or twice, the next is at least %d", n, c.nextIn)
	}
	plaintext, err := c.receiver.Decrypt(nil, n, aad, ciphertext)
	if err != nil {
		return nil, badMessage("counter %d: %w", n, err)
	}
	c.nextIn = n + 1
	c.confirmed = true
	return plaintext, nil
}

// Confirmed reports whether the peer has proved that it is there now. For the
// connector that is so from the beginning; for the listener from the first Open
// that succeeded, and before that message 1 may be an old one sent again.
func (c *Channel) Confirmed() bool {
	c.recvMu.Lock()
	defer c.recvMu.Unlock()
	return c.confirmed
}

// Export derives a key for another use, the same on both sides of this channel
// and on no other, and independent of every other label's.
func (c *Channel) Export(label string) Secret {
	info := lv([]byte(MeetingVersion+" export"), []byte(label), c.binding)
	return Secret(derive(c.secret, string(info), len(Secret{})))
}
