package signaling

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"time"

	"github.com/gorilla/websocket"
)

// What connections do to the state, and what the state sends to connections:
// all of it with the server's mu held.

// mint completes a credentials message.
func (s *Server) mint(m *message, seat string, now time.Time) {
	var c Credentials
	if s.cfg.Mint != nil {
		mac := hmac.New(sha256.New, s.userKey)
		mac.Write([]byte(seat))
		c = s.cfg.Mint(hex.EncodeToString(mac.Sum(nil)[:8]), now)
	}
	m.Username, m.Password = c.Username, c.Password
	m.TTL = int(c.TTL / time.Second)
	m.URIs, m.STUN = c.URIs, c.STUN
	if len(m.URIs) == 0 {
		m.URIs = s.cfg.TURN
	}
	if len(m.STUN) == 0 {
		m.STUN = s.cfg.STUN
	}
}

// handle applies one message of c to the state and delivers what follows.
func (s *Server) handle(c *serverConn, m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	s.deliver(now, s.state.expire(now))
	if s.conns[c.id] != c { // taken out, while this message came
		return
	}
	s.deliver(now, s.apply(now, c, m))
}

// apply is the dispatcher: limits first, then the rules.
func (s *Server) apply(now time.Time, c *serverConn, m message) []effect {
	switch m.Type {
	case typeJoin:
		if !IsNameplate(m.Mailbox) {
			return s.state.join(now, c.id, m)
		}
		if wait := s.joins.take(now, c.source); wait > 0 {
			return s.slowDown(c, m, wait)
		}
		effects := s.state.join(now, c.id, m)
		if code := effects[0].msg.Code; code == CodeUnknown || code == CodeTaken {
			s.failedJoin(now)
		}
		return effects
	case typeClaim:
		if wait := s.claims.take(now, c.source); wait > 0 {
			return s.slowDown(c, m, wait)
		}
		return s.state.claim(now, c.id, m)
	case typeSend:
		effects := s.state.send(c.id, m)
		if effects[0].msg.Type == typeMessage {
			s.stats.Relayed++
			s.stats.RelayedBytes += int64(len(m.Body))
		}
		return effects
	case typeCredentials:
		return s.state.credentials(c.id, m)
	case typeLeave:
		return s.state.leave(c.id, m)
	case typeRun:
		s.state.runs(c.id, m.Run)
		return nil
	}
	return refuse(c.id, message{}, CodeUnknownType)
}

func (s *Server) slowDown(c *serverConn, m message, wait time.Duration) []effect {
	s.stats.RateLimited++
	effects := refuse(c.id, m, CodeRate)
	effects[0].msg.RetryAfterMS = int(wait.Milliseconds()) + 1
	return effects
}

func (s *Server) failedJoin(now time.Time) {
	s.stats.FailedJoins++
	if s.failures.add(now) {
		s.log.Warn("many wrong nameplates: somebody may be guessing pairing codes", "per_minute", s.failures.threshold)
	}
}

// tick lets nameplates expire when nothing else happens.
func (s *Server) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	s.deliver(now, s.state.expire(now))
}

// deliver queues effects with mu held, which is what keeps the messages of one
// sender in order. It never waits: a connection whose queue is full is taken
// out of its mailboxes, and what that causes is delivered as well. Others in
// its mailboxes cannot bring that about alone, see state.readable.
func (s *Server) deliver(now time.Time, effects []effect) {
	for len(effects) > 0 {
		e := effects[0]
		effects = effects[1:]
		c := s.conns[e.to]
		if c == nil {
			continue
		}
		if e.msg.Type == typeCredentials {
			s.mint(&e.msg, e.seat, now)
		}
		if !c.queue(frame{encode(e.msg), e.waiting}) {
			s.stats.Overflows++
			delete(s.conns, c.id)
			c.shutdown(websocket.CloseTryAgainLater, "too many messages waiting, read faster")
			effects = append(effects, s.state.disconnect(c.id)...)
		}
	}
}

// enroll gives a connection its id.
func (s *Server) enroll(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	c.id = s.lastID
	s.conns[c.id] = c
	s.state.connect(c.id, client{source: c.source, waiting: &c.waiting})
	if s.draining { // between admit and here
		c.shutdown(websocket.CloseServiceRestart, "the server restarts, come back")
	}
}

// expel forgets a connection and tells its peers.
func (s *Server) expel(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c.id)
	s.deliver(s.cfg.Now(), s.state.disconnect(c.id))
}

// welcome is the answer to hello.
func (s *Server) welcome() message {
	return message{
		Type: typeWelcome, Version: Version, Software: s.cfg.Software,
		Rate: s.cfg.Limits.Messages, ByteRate: s.cfg.Limits.Bytes, STUN: s.cfg.STUN,
	}
}

// hello judges the first message of a connection.
func (s *Server) hello(m message) error {
	switch {
	case m.Type != typeHello:
		return malformed("the first message must be hello")
	case s.tokenMatches(m.Token):
		return nil
	}
	text := "wrong access token"
	if m.Token == "" {
		text = "this server wants an access token"
	}
	return &breach{CodeUnauthorized, text, websocket.ClosePolicyViolation}
}

// tokenMatches compares in constant time whatever the lengths.
func (s *Server) tokenMatches(token string) bool {
	sum := sha256.Sum256([]byte(token))
	return s.cfg.Token == "" || subtle.ConstantTimeCompare(sum[:], s.token[:]) == 1
}
