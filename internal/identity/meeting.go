package identity

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/flynn/noise"
)

// MeetingVersion is the version of the meeting protocol; meetingByte says the
// same on the wire, where a difference has to be seen before anything decrypts.
const (
	MeetingVersion = "p2pagent-meet/1"

	meetingByte = 1
)

// MaxMeetingMessage is the size of the longest message of a meeting or its
// channel. MaxMeetingPayload is how much of it is the caller's in each kind.
const (
	MaxMeetingMessage = 12 << 10
	MaxMeetingPayload = MaxMeetingMessage - 64
)

const (
	typeMeetHello  = 0x01
	typeMeetAnswer = 0x02
	typeSealed     = 0x03

	meetingHeader = 2 // type, version
)

// A Meeting is the handshake of two known peers. The connector calls Write, Read,
// Channel, and the listener Read, Write, Channel. The payloads ride along; the
// package comment says how each is protected. A Meeting is used by one goroutine
// at a time.
type Meeting struct {
	role     Role
	psk      Secret
	prologue []byte
	state    meetState

	seed  []byte // connector: its ephemeral key
	hello []byte // connector: the payload of its message 1
	noise *noise.HandshakeState
	ch    *Channel
}

type meetState uint8

const (
	meetBegin    meetState = iota // connector writes, listener reads
	meetHalf                      // message 1 is through
	meetFinished                  // there is a channel
)

// NewMeeting returns one side of a meeting with a known peer, in the mailbox that
// [MailboxID] gives. The listener makes one for each guest that knocks.
func NewMeeting(role Role, self Fingerprint, peer Peer, mailbox string) (*Meeting, error) {
	if err := checkPeer(peer); err != nil {
		return nil, fmt.Errorf("meeting: %w", err)
	}
	if !peer.Confirmed() {
		return nil, fmt.Errorf("meeting: peer %s has no secret to meet with", peer.Name)
	}
	m := &Meeting{role: role, psk: peer.Secret}
	switch role {
	case Connector:
		m.prologue = meetingPrologue(mailbox, self, peer.Fingerprint)
		m.seed = make([]byte, 32)
		_, _ = rand.Read(m.seed) // never fails
	case Listener:
		m.prologue = meetingPrologue(mailbox, peer.Fingerprint, self)
	default:
		return nil, fmt.Errorf("meeting: no such role: %s", role)
	}
	return m, nil
}

func meetingPrologue(mailbox string, connector, listener Fingerprint) []byte {
	return lv([]byte(MeetingVersion), []byte(mailbox), connector[:], listener[:])
}

// Write returns this side's handshake message with payload in it.
func (m *Meeting) Write(payload []byte) ([]byte, error) {
	msg, err := m.write(payload)
	if err != nil {
		return nil, fmt.Errorf("meeting as %s: write: %w", m.role, err)
	}
	return msg, nil
}

func (m *Meeting) write(payload []byte) ([]byte, error) {
	if len(payload) > MaxMeetingPayload {
		return nil, fmt.Errorf("payload of %d bytes, at most %d are possible", len(payload), MaxMeetingPayload)
	}
	switch {
	case m.role == Connector && m.state == meetBegin:
		hs, msg, err := m.initiate(payload)
		if err != nil {
			return nil, err
		}
		m.noise, m.hello, m.state = hs, bytes.Clone(payload), meetHalf
		return msg, nil
	case m.role == Listener && m.state == meetHalf:
		msg, connector, listener, err := m.noise.WriteMessage([]byte{typeMeetAnswer, meetingByte}, payload)
		if err != nil {
			return nil, err
		}
		m.finish(connector, listener)
		return msg, nil
	}
	return nil, errors.New("it is not this side's turn")
}

// Read takes the other side's handshake message and returns the payload in it.
// After an error the Meeting is as it was, and waits for a better message.
func (m *Meeting) Read(msg []byte) ([]byte, error) {
	payload, err := m.read(msg)
	if err != nil {
		return nil, fmt.Errorf("meeting as %s: %w", m.role, err)
	}
	return payload, nil
}

func (m *Meeting) read(msg []byte) ([]byte, error) {
	switch {
	case m.state == meetFinished:
		return nil, ErrFinished
	case m.role == Listener && m.state == meetBegin:
		return m.readHello(msg)
	case m.role == Connector && m.state == meetHalf:
		return m.readAnswer(msg)
	}
	return nil, badMessage("it is not the peer's turn")
}

func (m *Meeting) readHello(msg []byte) ([]byte, error) {
	body, err := meetingBody(msg, typeMeetHello)
	if err != nil {
		return nil, err
	}
	hs, err := m.handshake(nil)
	if err != nil {
		return nil, err
	}
	payload, _, _, err := hs.ReadMessage(nil, body)
	if err != nil {
		return nil, badMessage("hello: %w", err)
	}
	m.noise, m.state = hs, meetHalf
	return payload, nil
}

func (m *Meeting) readAnswer(msg []byte) ([]byte, error) {
	body, err := meetingBody(msg, typeMeetAnswer)
	if err != nil {
		return nil, err
	}
	payload, connector, listener, err := m.noise.ReadMessage(nil, body)
	if err != nil {
		// The handshake state is no longer good for another message, so the same
		// first message is made once more: same key, same payload, same bytes.
		hs, _, again := m.initiate(m.hello)
		if again != nil {
			return nil, again
		}
		m.noise = hs
		return nil, badMessage("answer: %w", err)
	}
	m.finish(connector, listener)
	return payload, nil
}

// Channel returns the sealed channel, or nil before the handshake is through:
// for the connector that is after Read, for the listener after Write.
func (m *Meeting) Channel() *Channel { return m.ch }

func (m *Meeting) finish(connector, listener *noise.CipherState) {
	m.ch = newChannel(m.role, connector, listener, m.noise.ChannelBinding())
	m.state = meetFinished
	m.noise, m.seed, m.hello, m.psk = nil, nil, nil, Secret{}
}

// initiate makes message 1. It depends on nothing but the Meeting and the payload.
func (m *Meeting) initiate(payload []byte) (*noise.HandshakeState, []byte, error) {
	hs, err := m.handshake(bytes.NewReader(m.seed))
	if err != nil {
		return nil, nil, err
	}
	msg, _, _, err := hs.WriteMessage([]byte{typeMeetHello, meetingByte}, payload)
	if err != nil {
		return nil, nil, err
	}
	return hs, msg, nil
}

// handshake returns a Noise handshake that has seen no message. A nil random is
// crypto/rand.
func (m *Meeting) handshake(random io.Reader) (*noise.HandshakeState, error) {
	return noise.NewHandshakeState(noise.Config{
		CipherSuite:  noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashSHA256),
		Random:       random,
		Pattern:      noise.HandshakeNN,
		Initiator:    m.role == Connector,
		Prologue:     m.prologue,
		PresharedKey: m.psk[:], // placed before message 1: psk0
	})
}

// meetingBody checks the size and header of a message and returns the rest.
func meetingBody(msg []byte, kind byte) ([]byte, error) {
	switch {
	case len(msg) < meetingHeader:
		return nil, badMessage("%w", errTruncated)
	case len(msg) > MaxMeetingMessage:
		return nil, badMessage("%d bytes, at most %d are possible", len(msg), MaxMeetingMessage)
	case msg[1] != meetingByte:
		return nil, ErrVersion{Ours: MeetingVersion, Theirs: fmt.Sprintf("p2pagent-meet/%d", msg[1])}
	case msg[0] != kind:
		return nil, badMessage("type %#02x, want %#02x", msg[0], kind)
	}
	return msg[meetingHeader:], nil
}
