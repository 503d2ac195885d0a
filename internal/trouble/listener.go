package trouble

import (
	"net"
	"sync"
	"time"
)

// Listener makes ln one whose Accept waits out the errors that pass, and returns
// an error only when it was closed. tell is as for NewEpisode. The result is the
// one to close: that ends a rest too.
//
// It belongs below TLS, as it is the kernel's errors that pass.
func Listener(ln net.Listener, tell func(reason string)) net.Listener {
	return &listener{Listener: ln, episode: NewEpisode(tell), closed: make(chan struct{})}
}

type listener struct {
	net.Listener
	episode *Episode
	once    sync.Once
	closed  chan struct{}
}

// Accept returns the next connection.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err == nil {
			l.episode.Worked()
			return conn, nil
		}
		if !Passes(err) {
			return nil, err
		}
		pause := time.NewTimer(l.episode.Failed(err))
		select {
		case <-pause.C:
		case <-l.closed:
			pause.Stop()
			return nil, net.ErrClosed
		}
	}
}

// Close closes the listener and ends Accept.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.episode.Stop()
	})
	return l.Listener.Close()
}
