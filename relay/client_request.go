package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
)

var (
	// ErrNoAnswer is a request that the server did not answer in time.
	ErrNoAnswer = errors.New("no answer")
	// ErrCredentials is a refusal for wrong or expired credentials.
	ErrCredentials = errors.New("credentials refused")
	// ErrDenied is a peer that the server's policy does not let us reach.
	ErrDenied = errors.New("peer denied by the relay")
	// ErrQuota is a refusal because somebody has too much already.
	ErrQuota = errors.New("quota reached")
	// ErrGone is an allocation that the server does not have any more.
	ErrGone = errors.New("allocation gone")

	errUnsigned = errors.New("answer not signed with our credentials")
)

// RequestError is a TURN request that failed.
type RequestError struct {
	What   string // allocate, permission, channel or refresh
	Peer   string // whom a permission or channel was for
	Server string // "turn 203.0.113.7:3478"
	Code   int    // the server's error code; 0 when it gave none
	Reason string // the server's words, not to be trusted
	Err    error  // what it means: one of the errors above, or the cause
}

// Error reads "allocate on turn 203.0.113.7:3478: 401 "Unauthorized": credentials refused".
func (e *RequestError) Error() string {
	var s strings.Builder
	s.WriteString(e.What)
	if e.Peer != "" {
		fmt.Fprintf(&s, " for %s", e.Peer)
	}
	fmt.Fprintf(&s, " on %s: ", e.Server)
	if e.Code != 0 {
		fmt.Fprintf(&s, "%d ", e.Code)
	}
	if e.Reason != "" {
		fmt.Fprintf(&s, "%.80q: ", e.Reason)
	}
	s.WriteString(e.Err.Error())
	return s.String()
}

// Unwrap returns what it means.
func (e *RequestError) Unwrap() error { return e.Err }

// Final reports that the server has refused for good: asking again, or over
// another transport, is of no use as long as nothing changes.
func (e *RequestError) Final() bool { return e.Code != 0 && !passing(e.Code) }

// meaning says what an error code of RFC 8489 or RFC 8656 means in the answer to
// a request of ours, signed or not. Code 0 is an error response without a code.
func meaning(what string, code int, signed bool) error {
	forPeer := what == "permission" || what == "channel"
	switch code {
	case 0:
		if forPeer { // pion's server, about a peer that it does not allow
			return ErrDenied
		}
		return errors.New("refused without a reason")
	case 300:
		return errors.New("the server wants another one to be used")
	case 400:
		if what == "allocate" && signed { // pion's server, about a wrong user or password
			return fmt.Errorf("bad request, which some servers answer to wrong credentials: %w", ErrCredentials)
		}
		return errors.New("the server calls the request malformed")
	case 401:
		if forPeer { // pion's server again; the allocation was signed the same way
			return ErrDenied
		}
		return ErrCredentials
	case 403:
		if forPeer {
			return ErrDenied
		}
		return errors.New("forbidden by the server")
	case 420:
		return errors.New("the server does not know an attribute")
	case 437:
		return ErrGone
	case 438:
		return errors.New("the server keeps calling its own nonces stale")
	case 440, 443:
		return errors.New("address family not served")
	case 441:
		return fmt.Errorf("the allocation belongs to other credentials: %w", ErrCredentials)
	case 442:
		return errors.New("the server does not relay UDP")
	case 486:
		return ErrQuota
	case 500:
		return errors.New("the server has an error of its own")
	case 508:
		return fmt.Errorf("the server has no more addresses or ports: %w", ErrQuota)
	}
	return errors.New("refused")
}

// passing reports a refusal that another try may not meet.
func passing(code int) bool { return code >= 500 && code < 600 }

// verdict is what to do after an answer.
type verdict int

const (
	accept verdict = iota
	retry          // with what the challenge taught
	reject
)

// judge decides on an answer. A 401 to an unsigned request is the invitation to
// sign; to a signed one it is final. A stale nonce is replaced, as long as tries
// are left.
func judge(m *stunmsg.Message, signed bool, tries int) verdict {
	code, _, _ := m.ErrorCode()
	challenge := m.Nonce() != ""
	switch {
	case m.Class == stunmsg.ClassSuccess:
		return accept
	case tries > 0 && challenge && (code == 401 && !signed || code == 438):
		return retry
	}
	return reject
}

// maxChallenges is how many challenges one request may meet: the first 401, a
// nonce that expired meanwhile, and one more of a server that restarts.
const maxChallenges = 3

// request sends a request with attrs and the credentials until the server accepts
// or refuses it. Failures are traced.
func (a *Allocation) request(ctx context.Context, what, peer string, method stunmsg.Method, attrs func(*stunmsg.Builder)) (*stunmsg.Message, error) {
	m, err := a.tryRequest(ctx, what, method, attrs)
	if err == nil {
		return m, nil
	}
	e := &RequestError{What: what, Peer: peer, Server: a.cfg.name(), Err: err}
	var bare *RequestError
	if errors.As(err, &bare) {
		bare.Peer = peer
		e = bare
	}
	if errors.Is(err, net.ErrClosed) || errors.Is(ctx.Err(), context.Canceled) {
		return nil, e // nobody failed
	}
	a.cfg.refused(what, peer, e)
	if peer != "" && (errors.Is(err, ErrNoAnswer) || errors.Is(err, ErrGone)) {
		a.Nudge() // it may be that the server has lost more than this
	}
	return nil, e
}

func (a *Allocation) tryRequest(ctx context.Context, what string, method stunmsg.Method, attrs func(*stunmsg.Builder)) (*stunmsg.Message, error) {
	for tries := maxChallenges; ; tries-- {
		b := stunmsg.NewRequest(method)
		attrs(b)
		key := a.auth.sign(b)
		if b.Err() != nil {
			return nil, b.Err()
		}
		m, err := a.tx.roundTrip(ctx, b.Bytes())
		if err != nil {
			return nil, err
		}
		switch judge(m, key != nil, tries) {
		case accept:
			if key != nil && m.Verify(key) != nil {
				return nil, errUnsigned
			}
			return m, nil
		case retry:
			if a.auth.learn(m) {
				continue
			}
		}
		code, reason, _ := m.ErrorCode()
		return nil, &RequestError{What: what, Server: a.cfg.name(), Code: code, Reason: reason, Err: meaning(what, code, key != nil)}
	}
}

// refused records a failed request.
func (c ClientConfig) refused(what, peer string, err error) {
	e := trace.RelayRefused{Server: c.Server.String(), What: what, Peer: peer, Why: err.Error()}
	var re *RequestError
	if errors.As(err, &re) {
		e.Code, e.Why = re.Code, re.Err.Error()
	}
	c.Trace.Emit(e)
}
